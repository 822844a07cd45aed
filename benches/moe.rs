//! Mixture of experts: the router, and the feed-forward of the experts that it chose.
//!
//! The block is that of Qwen3-30B-A3B: 128 experts of which 8 serve a token, 768 wide, on 2048. `m` is the number of
//! tokens: 1 decodes, 8 and 32 decode for many users, 512 reads a prompt and meets every expert.

mod common;

use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;

use common::inputs::{self, Rng, Store};
use common::suite::{Context, Routine, Suite, Work};
use common::{check, runtimes};
use tokgate_kernels::{
    DType, Experts, MatMut, MatRef, MoeSpec, Op, Routing, Tier, Weights, moe_ffn, route,
};

/// Outputs of the last token that are looked at.
const SPOTS: usize = 4;

/// Relative to the sum of the absolute products behind an output. Between the two products stands a rounding, which a
/// last bit can tip.
const TOLERANCE: f64 = 2e-3;

/// Relative error of a weight that the router gives.
const ROUTE_TOLERANCE: f64 = 1e-5;

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new()?;
    for op in Op::ALL {
        match part(op) {
            Some(Part::Router) => add_router(&mut suite, op),
            Some(Part::Experts(dtype)) => add_experts(&mut suite, op, dtype),
            None => {}
        }
    }
    Ok(suite.run())
}

enum Part {
    Router,
    Experts(DType),
}

/// What an operation does in a mixture of experts. The others have targets of their own; a new one does not compile
/// before it has its place.
fn part(op: Op) -> Option<Part> {
    match op {
        Op::MoeRoute => Some(Part::Router),
        Op::MoeF32 => Some(Part::Experts(DType::F32)),
        Op::MoeF16 => Some(Part::Experts(DType::F16)),
        Op::MoeBf16 => Some(Part::Experts(DType::Bf16)),
        Op::MoeQ8_0 => Some(Part::Experts(DType::Q8_0)),
        Op::MatmulF32 | Op::MatmulF16 | Op::MatmulBf16 | Op::MatmulQ8_0 => None,
        Op::AttentionF32 | Op::AttentionBf16 => None,
        Op::RmsNorm | Op::Rope | Op::Swiglu | Op::Add | Op::Softmax => None,
    }
}

/// A block of experts.
#[derive(Clone, Copy, Debug)]
struct Block {
    n_expert: usize,
    top_k: usize,
    n_ff: usize,
    d: usize,
}

const QWEN3_30B_A3B: Block = Block {
    n_expert: 128,
    top_k: 8,
    n_ff: 768,
    d: 2048,
};

/// An eighth of the experts, for types that no such model comes in: a block of f32 would fill 2.4 GB.
const FEW_EXPERTS: Block = Block {
    n_expert: 16,
    ..QWEN3_30B_A3B
};

/// For the scalar variants, fifty times slower.
const REDUCED: Block = Block {
    n_expert: 8,
    top_k: 2,
    n_ff: 64,
    d: 256,
};

impl Block {
    fn shape(&self, m: usize) -> String {
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

    /// Experts that `m` tokens meet, for the bytes that they read.
    fn hit(&self, m: usize) -> usize {
        let logits = self.logits(m);
        let mut hit = vec![false; self.n_expert];
        for token in logits.chunks(self.n_expert) {
            let mut order: Vec<usize> = (0..self.n_expert).collect();
            order.sort_by(|a, b| token[*b].total_cmp(&token[*a]));
            order[..self.top_k]
                .iter()
                .for_each(|expert| hit[*expert] = true);
        }
        hit.into_iter().filter(|hit| *hit).count()
    }
}

fn add_router(suite: &mut Suite, op: Op) {
    for tier in runtimes::variants(op) {
        for m in [1, 512] {
            router(suite, op, tier, QWEN3_30B_A3B, m);
        }
    }
}

fn router(suite: &mut Suite, op: Op, tier: Tier, block: Block, m: usize) {
    let (n_expert, top_k) = (block.n_expert, block.top_k);
    let work = Work {
        elements: (m * n_expert) as u64,
        bytes: (4 * m * (n_expert + 2 * top_k)) as u64,
    };
    let shape = format!("m{m}_e{n_expert}_top{top_k}");
    suite.add(op.name(), tier.name(), &shape, work, move |context| {
        let (rt, spec) = (context.runtimes.get(op, tier)?, block.spec()?);
        let logits = block.logits(m);
        let mut routing = Routing::default();
        route(&rt, &spec, MatRef::new(&logits, m, n_expert)?, &mut routing);
        for (token, logits) in logits.chunks(n_expert).enumerate() {
            let mut order: Vec<usize> = (0..n_expert).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let share = |expert: usize| f64::from(logits[expert]).exp();
            let sum: f64 = order[..top_k].iter().map(|expert| share(*expert)).sum();
            for (rank, expert) in order[..top_k].iter().enumerate() {
                let at = token * top_k + rank;
                anyhow::ensure!(
                    routing.experts()[at] as usize == *expert,
                    "wrong answer: token {token} goes to expert {}, not to {expert}",
                    routing.experts()[at]
                );
                let (got, want) = (routing.weights()[at], share(*expert) / sum);
                check::close(&format!("weight {at}"), got, want, want, ROUTE_TOLERANCE)?;
            }
        }
        Ok(Box::new(move || {
            let logits = MatRef::new(black_box(&logits), m, n_expert);
            let logits = logits.expect("the shape of a moment ago");
            route(&rt, &spec, logits, &mut routing);
        }) as Routine)
    });
}

fn add_experts(suite: &mut Suite, op: Op, dtype: DType) {
    let common = matches!(dtype, DType::Q8_0 | DType::Bf16);
    let block = if common { QWEN3_30B_A3B } else { FEW_EXPERTS };
    let sizes: &[usize] = if common { &[1, 8, 32, 512] } else { &[32] };
    let tiers = runtimes::variants(op);
    for m in sizes {
        for (at, tier) in tiers.iter().enumerate() {
            // Lower variants where a call is short.
            if *tier != Tier::Scalar && (at == 0 || matches!(m, 1 | 32)) {
                experts(suite, op, *tier, dtype, block, *m);
            }
        }
    }
    experts(suite, op, Tier::Scalar, dtype, REDUCED, 8);
}

fn experts(suite: &mut Suite, op: Op, tier: Tier, dtype: DType, block: Block, m: usize) {
    let Block {
        n_expert,
        top_k,
        n_ff,
        d,
    } = block;
    let row_bytes = |elements| dtype.row_bytes(elements).expect("whole blocks");
    let expert_bytes = 2 * n_ff * row_bytes(d) + d * row_bytes(n_ff);
    let work = Work {
        elements: (m * top_k * 3 * block.expert()) as u64,
        bytes: (block.hit(m) * expert_bytes + 2 * m * d * size_of::<f32>()) as u64,
    };
    suite.add(
        op.name(),
        tier.name(),
        &block.shape(m),
        work,
        move |context: &Context| {
            let (rt, spec) = (context.runtimes.get(op, tier)?, block.spec()?);
            let store = inputs::store(dtype, 3 * n_expert * block.expert());
            let weights = Rc::clone(&store);
            let mut routing = Routing::default();
            let logits = block.logits(m);
            route(&rt, &spec, MatRef::new(&logits, m, n_expert)?, &mut routing);
            let x = Rng::new(5).f32s(m * d);
            let mut y = vec![f32::NAN; m * d];
            let apply = move |routing: &Routing, x: &[f32], y: &mut [f32]| -> anyhow::Result<()> {
                let (x, y) = (MatRef::new(x, m, d)?, MatMut::new(y, m, d)?);
                moe_ffn(&rt, &spec, x, routing, &block.experts(&weights), y);
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
                block,
                &block.experts(&store),
                &chosen,
                &x[last * d..],
                &y[last * d..],
            )?;
            Ok(Box::new(move || {
                apply(&routing, &x, black_box(&mut y)).expect("the shapes of a moment ago");
            }) as Routine)
        },
    );
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
        row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum()
    };
    let hidden = chosen.iter().map(|(expert, _)| {
        let rows = expert * n_ff..(expert + 1) * n_ff;
        let gated = rows.map(|at| {
            let (gate, up) = (product(&experts.gate, at), product(&experts.up, at));
            (gate / (1.0 + (-gate).exp()) * up) as f32
        });
        check::as_seen(&gated.collect::<Vec<f32>>(), dtype)
    });
    let hidden: Vec<Vec<f64>> = hidden.collect();
    let mut rng = Rng::new(6);
    let mut row = vec![0.0; n_ff];
    for _ in 0..SPOTS {
        let column = rng.below(d);
        let (mut want, mut scale) = (0.0, 0.0);
        for ((expert, weight), hidden) in chosen.iter().zip(&hidden) {
            experts.down.widen_row(expert * d + column, &mut row);
            for (w, h) in row.iter().zip(hidden) {
                let term = weight * f64::from(*w) * h;
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
