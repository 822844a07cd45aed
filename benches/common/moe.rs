//! The router, and the feed-forward of the experts that it chose.

use std::hint::black_box;
use std::rc::Rc;

use anyhow::ensure;
use tokgate_kernels::{
    DType, Experts, MatMut, MatRef, MoeSpec, Routing, Runtime, Weights, moe_ffn, route,
};

use super::check;
use super::inputs::{self, Rng, Store};
use super::suite::{Routine, Work};

/// Outputs of the last token that are looked at.
const SPOTS: usize = 4;

/// Relative to the sum of the absolute products behind an output. Between the two products stands a rounding, which a
/// last bit can tip.
const TOLERANCE: f64 = 2e-3;

/// Relative error of a weight that the router gives.
const ROUTE_TOLERANCE: f64 = 1e-5;

/// A block of experts.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Experts.
    pub n_expert: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Width of an expert.
    pub n_ff: usize,
    /// Width of a token.
    pub d: usize,
}

/// Qwen3-30B-A3B.
pub const QWEN3_30B_A3B: Block = Block {
    n_expert: 128,
    top_k: 8,
    n_ff: 768,
    d: 2048,
};

impl Block {
    /// The shape's name in ids.
    pub fn shape(&self, m: usize) -> String {
        let Self {
            n_expert,
            top_k,
            n_ff,
            d,
        } = self;
        format!("m{m}_e{n_expert}_top{top_k}_ff{n_ff}_d{d}")
    }

    fn spec(&self) -> anyhow::Result<MoeSpec> {
        Ok(MoeSpec::new(self.n_expert, self.top_k, true)?)
    }

    /// Elements of one of an expert's three matrices.
    fn expert(&self) -> usize {
        self.n_ff * self.d
    }

    /// Router logits of `m` tokens: every expert is as likely as any other.
    fn logits(&self, m: usize) -> Vec<f32> {
        Rng::new(4).f32s(m * self.n_expert)
    }

    /// The matrices of the block, one behind the other.
    fn experts<'a>(&self, store: &'a Store) -> Experts<'a> {
        let Self {
            n_expert, n_ff, d, ..
        } = *self;
        Experts {
            gate: store.matrix(0, n_expert * n_ff, d),
            up: store.matrix(1, n_expert * n_ff, d),
            down: store.matrix(2, n_expert * d, n_ff),
        }
    }

    /// The router's shape in ids.
    pub fn router_shape(&self, m: usize) -> String {
        format!("m{m}_e{}_top{}", self.n_expert, self.top_k)
    }

    /// What routing `m` tokens works through.
    pub fn router_work(&self, m: usize) -> Work {
        Work {
            elements: (m * self.n_expert) as u64,
            bytes: (4 * m * (self.n_expert + 2 * self.top_k)) as u64,
        }
    }

    /// The router on `m` tokens, checked.
    ///
    /// # Errors
    /// If a token goes elsewhere than it should.
    pub fn prepare_router(self, rt: Rc<Runtime>, m: usize) -> anyhow::Result<Routine> {
        let (n_expert, spec) = (self.n_expert, self.spec()?);
        let logits = self.logits(m);
        let mut routing = Routing::default();
        route(&rt, &spec, MatRef::new(&logits, m, n_expert)?, &mut routing);
        self.check_routing(&logits, &routing)?;
        Ok(Box::new(move || {
            let logits = MatRef::new(black_box(&logits), m, n_expert);
            let logits = logits.expect("the shape of a moment ago");
            route(&rt, &spec, logits, &mut routing);
        }))
    }

    fn check_routing(&self, logits: &[f32], routing: &Routing) -> anyhow::Result<()> {
        for (token, logits) in logits.chunks(self.n_expert).enumerate() {
            let best = self.best(logits);
            let share = |expert: usize| f64::from(logits[expert]).exp();
            let sum: f64 = best.iter().map(|expert| share(*expert)).sum();
            for (rank, expert) in best.iter().enumerate() {
                let at = token * self.top_k + rank;
                let got = routing.experts()[at] as usize;
                ensure!(
                    got == *expert,
                    "wrong answer: token {token} goes to expert {got}, not to {expert}"
                );
                let (got, want) = (routing.weights()[at], share(*expert) / sum);
                check::close(&format!("weight {at}"), got, want, want, ROUTE_TOLERANCE)?;
            }
        }
        Ok(())
    }

    /// The experts of the largest logits, largest first.
    fn best(&self, logits: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.n_expert).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(self.top_k);
        order
    }

    /// What the feed-forward of `m` tokens works through: the experts that they meet are read once.
    pub fn work(&self, dtype: DType, m: usize) -> Work {
        let row_bytes = |elements| dtype.row_bytes(elements).expect("whole blocks");
        let expert_bytes = 2 * self.n_ff * row_bytes(self.d) + self.d * row_bytes(self.n_ff);
        let mut hit: Vec<usize> = self
            .logits(m)
            .chunks(self.n_expert)
            .flat_map(|logits| self.best(logits))
            .collect();
        hit.sort_unstable();
        hit.dedup();
        Work {
            elements: (m * self.top_k * 3 * self.expert()) as u64,
            bytes: (hit.len() * expert_bytes + 2 * m * self.d * size_of::<f32>()) as u64,
        }
    }

    /// The feed-forward of `m` tokens through experts of `dtype`, checked.
    ///
    /// # Errors
    /// If an output is wrong.
    pub fn prepare(self, rt: Rc<Runtime>, dtype: DType, m: usize) -> anyhow::Result<Routine> {
        let Self {
            n_expert, top_k, d, ..
        } = self;
        let spec = self.spec()?;
        let store = inputs::store(dtype, 3 * n_expert * self.expert());
        let weights = Rc::clone(&store);
        let mut routing = Routing::default();
        let logits = self.logits(m);
        route(&rt, &spec, MatRef::new(&logits, m, n_expert)?, &mut routing);
        let x = Rng::new(5).f32s(m * d);
        let mut y = vec![f32::NAN; m * d];
        let apply = move |routing: &Routing, x: &[f32], y: &mut [f32]| -> anyhow::Result<()> {
            let (x, y) = (MatRef::new(x, m, d)?, MatMut::new(y, m, d)?);
            moe_ffn(&rt, &spec, x, routing, &self.experts(&weights), y);
            Ok(())
        };
        apply(&routing, &x, &mut y)?;
        let last = m - 1;
        let chosen: Vec<(usize, f64)> = (last * top_k..m * top_k)
            .map(|at| {
                (
                    routing.experts()[at] as usize,
                    f64::from(routing.weights()[at]),
                )
            })
            .collect();
        checked(
            self,
            &self.experts(&store),
            &chosen,
            &x[last * d..],
            &y[last * d..],
        )?;
        Ok(Box::new(move || {
            apply(&routing, &x, black_box(&mut y)).expect("the shapes of a moment ago");
        }))
    }
}

/// Holds some outputs of a token to the same arithmetic in f64.
fn checked(
    block: Block,
    experts: &Experts,
    chosen: &[(usize, f64)],
    x: &[f32],
    y: &[f32],
) -> anyhow::Result<()> {
    let Block { n_ff, d, .. } = block;
    let dtype = experts.gate.dtype();
    let x = check::as_seen(x, dtype);
    let mut row = vec![0.0; d];
    let mut product = |w: &Weights, at: usize| -> f64 {
        w.widen_row(at, &mut row);
        row.iter()
            .zip(&x)
            .map(|(w, x)| f64::from(*w) * x.value)
            .sum()
    };
    let hidden = chosen.iter().map(|(expert, _)| {
        let rows = expert * n_ff..(expert + 1) * n_ff;
        let gated = rows.map(|at| {
            let (gate, up) = (product(&experts.gate, at), product(&experts.up, at));
            (gate / (1.0 + (-gate).exp()) * up) as f32
        });
        check::as_seen(&gated.collect::<Vec<f32>>(), dtype)
    });
    let hidden: Vec<Vec<check::Seen>> = hidden.collect();
    let mut rng = Rng::new(6);
    let mut row = vec![0.0; n_ff];
    for _ in 0..SPOTS {
        let column = rng.below(d);
        let (mut want, mut scale) = (0.0, 0.0);
        for ((expert, weight), hidden) in chosen.iter().zip(&hidden) {
            experts.down.widen_row(expert * d + column, &mut row);
            for (w, h) in row.iter().zip(hidden) {
                let term = weight * f64::from(*w) * h.value;
                want += term;
                scale += term.abs();
            }
        }
        check::close(
            &format!("element {column}"),
            y[column],
            want,
            scale,
            TOLERANCE,
        )?;
    }
    Ok(())
}
