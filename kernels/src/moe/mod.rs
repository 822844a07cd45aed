//! Mixture of experts: the router, and the feed-forward of the experts that it chose.
//!
//! SHAPES. `logits: [tokens, n_expert]`, `x, y: [tokens, d]` f32. Experts are stacked: `gate, up: [n_expert · n_ff, d]`,
//! `down: [n_expert · d, n_ff]`, expert e at rows `e · n_ff..` and `e · d..`, as GGUF stores them.
//!
//! DEFINITION, for each token:
//! ```text
//! route     p = softmax(logits)                     over all experts
//!           e[0..top_k] = the experts of the largest logits, largest first; of equal ones, the lower index first
//!           w[j] = p[e[j]], divided by Σ_j p[e[j]] where renormalise
//! moe_ffn   h[j] = silu(gate_e[j] · x) ⊙ (up_e[j] · x)
//!           y = Σ_j w[j] · (down_e[j] · h[j])       in the order of j
//! ```
//! A NaN logit loses against any other, so that experts are distinct and in bounds whatever comes in, and makes the
//! token's weights NaN, so that the fault shows. A token whose logits are all −∞ has weights of 0.
//!
//! NUMERICS. Products round their inputs as [`matmul()`](crate::matmul) does for the experts' element type. The sum over
//! a token's experts is in the order of j for any number of threads, so that results do not depend on it.

mod scalar;

use crate::elementwise::in_rows;
use crate::level::Tier;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef, Weights};

/// Variants of the router.
pub const VARIANTS_ROUTE: &[Tier] = &[Tier::Scalar];

/// Why a [`MoeSpec`] makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{top_k} of {n_expert} experts for each token: at least one, and no more than there are, is needed"
)]
pub struct MoeError {
    n_expert: usize,
    top_k: usize,
}

/// How many experts there are, how many serve a token, and whether their weights are made to add up to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeSpec {
    n_expert: usize,
    top_k: usize,
    renormalise: bool,
}

impl MoeSpec {
    /// A router to `top_k` of `n_expert` experts.
    ///
    /// # Errors
    /// [`MoeError`] unless `1 ≤ top_k ≤ n_expert`.
    pub fn new(n_expert: usize, top_k: usize, renormalise: bool) -> Result<Self, MoeError> {
        if (1..=n_expert).contains(&top_k) && u32::try_from(n_expert).is_ok() {
            Ok(Self {
                n_expert,
                top_k,
                renormalise,
            })
        } else {
            Err(MoeError { n_expert, top_k })
        }
    }

    /// Experts of the layer.
    pub const fn n_expert(&self) -> usize {
        self.n_expert
    }

    /// Experts of a token.
    pub const fn top_k(&self) -> usize {
        self.top_k
    }

    /// Whether a token's weights are divided by their sum.
    pub const fn renormalise(&self) -> bool {
        self.renormalise
    }
}

/// Which experts serve which token, and with what weight; made by [`route()`], whose memory it keeps for the next call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    experts: Vec<u32>,
    weights: Vec<f32>,
    counts: Vec<u32>,
}

impl Routing {
    /// Experts of the tokens, `[tokens, top_k]`: distinct within a token, below `n_expert`.
    pub fn experts(&self) -> &[u32] {
        &self.experts
    }

    /// Their weights, `[tokens, top_k]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Tokens of each expert, `[n_expert]`; they add up to `tokens · top_k`.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }
}

/// The stacked weights of a layer's experts.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// `[n_expert · n_ff, d]`.
    pub gate: Weights<'a>,
    /// `[n_expert · n_ff, d]`.
    pub up: Weights<'a>,
    /// `[n_expert · d, n_ff]`.
    pub down: Weights<'a>,
}

/// Chooses the experts of each token.
///
/// # Panics
/// If `logits` has another number of columns than there are experts.
pub fn route(rt: &Runtime, spec: &MoeSpec, logits: MatRef<f32>, routing: &mut Routing) {
    let (tokens, n_expert, top_k) = (logits.rows(), spec.n_expert, spec.top_k);
    assert!(
        logits.cols() == n_expert,
        "route: {} logits a token for {n_expert} experts",
        logits.cols(),
    );
    routing.experts.resize(tokens * top_k, 0);
    routing.weights.resize(tokens * top_k, 0.0);
    let mut experts = MatMut::new(&mut routing.experts, tokens, top_k).expect("just resized");
    let mut weights = MatMut::new(&mut routing.weights, tokens, top_k).expect("just resized");
    let (experts, weights) = (experts.shared(), weights.shared());
    in_rows(rt, tokens, n_expert * top_k, |range| {
        for t in range {
            // SAFETY: each row belongs to one range, and each range to one worker.
            let experts = unsafe { experts.tile(t, 0, top_k) };
            // SAFETY: as above.
            let weights = unsafe { weights.tile(t, 0, top_k) };
            scalar::route(logits.row(t), spec.renormalise, experts, weights);
        }
    });
    routing.counts.clear();
    routing.counts.resize(n_expert, 0);
    for expert in &routing.experts {
        routing.counts[*expert as usize] += 1;
    }
}

/// The feed-forward of the experts that `routing` chose: `y[t] = Σ_j w[j] · down_e(silu(gate_e x[t]) ⊙ up_e x[t])`.
///
/// # Panics
/// If the shapes do not belong together, or `routing` was made for other tokens or by another `spec`.
pub fn moe_ffn(
    rt: &Runtime,
    spec: &MoeSpec,
    x: MatRef<f32>,
    routing: &Routing,
    experts: &Experts,
    mut y: MatMut<f32>,
) {
    let (tokens, d, top_k) = (x.rows(), x.cols(), spec.top_k);
    let n_ff = check(spec, x, routing, experts, &y);
    let y = y.shared();
    rt.pool().for_each(tokens, |_, t| {
        // SAFETY: each token is one task.
        let y = unsafe { y.tile(t, 0, d) };
        let pairs = t * top_k..(t + 1) * top_k;
        let (chosen, weights) = (&routing.experts[pairs.clone()], &routing.weights[pairs]);
        scalar::ffn(x.row(t), n_ff, chosen, weights, experts, y);
    });
}

/// Checks that all belongs together, and returns `n_ff`.
fn check(
    spec: &MoeSpec,
    x: MatRef<f32>,
    routing: &Routing,
    experts: &Experts,
    y: &MatMut<f32>,
) -> usize {
    let (tokens, d) = (x.rows(), x.cols());
    let Experts { gate, up, down } = experts;
    let n_ff = gate.rows() / spec.n_expert;
    assert!(
        y.rows() == tokens && y.cols() == d,
        "moe_ffn: x is {tokens} × {d}, y is {} × {}",
        y.rows(),
        y.cols()
    );
    assert!(
        routing.experts.len() == tokens * spec.top_k && routing.counts.len() == spec.n_expert,
        "moe_ffn: the routing is not for these {tokens} tokens and {} experts",
        spec.n_expert
    );
    for (name, w, rows, cols) in [
        ("gate", gate, n_ff, d),
        ("up", up, n_ff, d),
        ("down", down, d, n_ff),
    ] {
        assert!(
            w.rows() == spec.n_expert * rows && w.cols() == cols,
            "moe_ffn: {name} is {} × {}, not {} · {rows} × {cols}",
            w.rows(),
            w.cols(),
            spec.n_expert
        );
    }
    n_ff
}
