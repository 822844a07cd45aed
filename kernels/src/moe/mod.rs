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
//!           y = Σ_j w[j] · (down_e[j] · h[j])       in ascending order of the experts e[j]
//! ```
//! A NaN logit loses against any other, so that experts are distinct and in bounds whatever comes in, and makes the
//! token's weights NaN, so that the fault shows. A token whose logits are all −∞ has weights of 0.
//!
//! NUMERICS. Products round their inputs as [`matmul()`](crate::matmul()) does for the experts' element type. The sum
//! over a token's experts is in f32, in an order that depends on nothing but the token's experts: results are the same
//! for any number of threads, and for a token alone or among others.
//!
//! WHY. Tokens are counting-sorted by expert, so that each expert's weights are read once, for all of its tokens; gate
//! and up of all experts go to the threads as one list of products, so that many small ones keep all threads busy. A
//! long prompt is cut between experts into groups: intermediate rows then take a few MiB, which stay in the cache,
//! where 2,048 tokens of Qwen3-30B-A3B would take 235 MB. Each token gathers its own rows in the end, so that nobody
//! writes where others do. All of that costs 1 to 3 % of the time of the products themselves.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::ops::Range;

use crate::elementwise::{add_scaled_kernel, in_rows, swiglu};
use crate::level::Tier;
use crate::matmul::{Job, matmul_all};
use crate::op::Op;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef, Weights};

/// Variants of the router.
pub const VARIANTS_ROUTE: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];

/// Floats that a group's intermediate rows may take, 8 MiB: a quarter of the last-level cache of a Zen 4. Measured on
/// Emerald Rapids with 512 tokens: 2 MiB is 5 % slower, from 4 MiB to no bound there is no difference.
const GROUP: usize = 2 << 20;

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
    let kernel = route_kernel(rt);
    in_rows(rt, tokens, n_expert * top_k, |range| {
        let mut keys = rt.scratch().take(n_expert.next_multiple_of(16));
        for t in range {
            // SAFETY: each row belongs to one range, and each range to one worker.
            let experts = unsafe { experts.tile(t, 0, top_k) };
            // SAFETY: as above.
            let weights = unsafe { weights.tile(t, 0, top_k) };
            // SAFETY: the runtime's level proves the kernel's instructions.
            unsafe { kernel(logits.row(t), spec.renormalise, &mut keys, experts, weights) };
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
    y: MatMut<f32>,
) {
    moe_ffn_part(rt, spec, x, routing, 0..spec.n_expert, experts, y);
}

/// [`moe_ffn`] of some experts, `part`, whose weights alone are in `experts`: each token's sum over those of its experts
/// that are among them, 0 where none is. What others compute of the rest is to be added.
///
/// # Panics
/// See there; and if `part` is no range of the experts.
pub fn moe_ffn_part(
    rt: &Runtime,
    spec: &MoeSpec,
    x: MatRef<f32>,
    routing: &Routing,
    part: Range<usize>,
    experts: &Experts,
    mut y: MatMut<f32>,
) {
    let (d, top_k) = (x.cols(), spec.top_k);
    let n_ff = check(spec, x, routing, &part, experts, &y);
    if part.len() < spec.n_expert {
        // A token may have no expert here, and then nobody would write its row.
        (0..y.rows()).for_each(|t| y.row_mut(t).fill(0.0));
    }
    let pairs = routing.experts.len();
    let mut tokens = rt.scratch().take::<u32>(pairs);
    let mut places = rt.scratch().take::<u32>(pairs);
    let mut weights = rt.scratch().take::<f32>(pairs);
    let mut ends = rt.scratch().take::<u32>(spec.n_expert);
    sort_by_expert(
        routing,
        top_k,
        &mut ends,
        &mut tokens,
        &mut places,
        &mut weights,
    );

    let mut first = part.start;
    while first < part.end {
        let group = group(first, &ends[..part.end], 2 * n_ff + d);
        let start = start_of(first, &ends);
        let here = start..ends[group.end - 1] as usize;
        first = group.end;
        if here.is_empty() {
            continue;
        }
        let mut gate = rt.scratch().take::<f32>(here.len() * n_ff);
        let mut up = rt.scratch().take::<f32>(here.len() * n_ff);
        let mut out = rt.scratch().take::<f32>(here.len() * d);

        let mut jobs = Vec::with_capacity(2 * group.len());
        let (mut gate_rest, mut up_rest) = (&mut gate[..], &mut up[..]);
        for e in group.clone() {
            let rows = &tokens[start_of(e, &ends)..ends[e] as usize];
            if rows.is_empty() {
                continue;
            }
            // Side by side, so that both find the same tokens in the cache. A lone token is the same for all experts,
            // and is rounded once if it does not go by different lists.
            for (w, rest) in [(&experts.gate, &mut gate_rest), (&experts.up, &mut up_rest)] {
                jobs.push(Job {
                    x,
                    rows: (x.rows() > 1).then_some(rows),
                    w: w.row_range((e - part.start) * n_ff, (e + 1 - part.start) * n_ff),
                    y: next_rows(rest, rows.len(), n_ff),
                });
            }
        }
        matmul_all(rt, &mut jobs);
        drop(jobs);

        let mut h = MatMut::new(&mut gate, here.len(), n_ff).expect("taken in this size");
        let up = MatRef::new(&up, here.len(), n_ff).expect("taken in this size");
        swiglu(rt, h.reborrow(), up);

        let mut jobs = Vec::with_capacity(group.len());
        let mut out_rest = &mut out[..];
        for e in group {
            let rows = start_of(e, &ends)..ends[e] as usize;
            if !rows.is_empty() {
                jobs.push(Job {
                    x: h.as_ref().row_range(rows.start - start, rows.end - start),
                    rows: None,
                    w: experts
                        .down
                        .row_range((e - part.start) * d, (e + 1 - part.start) * d),
                    y: next_rows(&mut out_rest, rows.len(), d),
                });
            }
        }
        matmul_all(rt, &mut jobs);
        drop(jobs);

        let out = MatRef::new(&out, here.len(), d).expect("taken in this size");
        gather(rt, top_k, here, &places, &weights, out, &mut y);
    }
}

/// Cuts `rows` rows off the front of `rest`.
fn next_rows<'a>(rest: &mut &'a mut [f32], rows: usize, cols: usize) -> MatMut<'a, f32> {
    let (first, others) = std::mem::take(rest).split_at_mut(rows * cols);
    *rest = others;
    MatMut::new(first, rows, cols).expect("cut to size")
}

/// Sorts pairs of a token and an expert by expert, then token: where each expert's pairs end, and each pair's token.
///
/// Each token's places in that order, ascending, and their weights come out too.
fn sort_by_expert(
    routing: &Routing,
    top_k: usize,
    ends: &mut [u32],
    tokens: &mut [u32],
    places: &mut [u32],
    weights: &mut [f32],
) {
    let mut sum = 0;
    for (end, count) in ends.iter_mut().zip(&routing.counts) {
        *end = sum;
        sum += count;
    }
    weights.copy_from_slice(&routing.weights);
    for (t, experts) in routing.experts.chunks(top_k).enumerate() {
        let pairs = t * top_k..(t + 1) * top_k;
        let (places, weights) = (&mut places[pairs.clone()], &mut weights[pairs]);
        for (j, e) in experts.iter().enumerate() {
            // Each expert's end moves from its start to its end as its pairs come in.
            let end = &mut ends[*e as usize];
            tokens[*end as usize] = t as u32;
            places[j] = *end;
            *end += 1;
            let mut at = j;
            while at > 0 && places[at - 1] > places[at] {
                places.swap(at - 1, at);
                weights.swap(at - 1, at);
                at -= 1;
            }
        }
    }
}

/// Where the pairs of an expert start.
fn start_of(expert: usize, ends: &[u32]) -> usize {
    expert
        .checked_sub(1)
        .map_or(0, |before| ends[before] as usize)
}

/// The experts from `first` on whose pairs, at `floats` each, fit a group; at least one.
fn group(first: usize, ends: &[u32], floats: usize) -> Range<usize> {
    let start = start_of(first, ends);
    let fits = |end: u32| (end as usize - start).saturating_mul(floats) <= GROUP;
    let more = ends[first + 1..]
        .iter()
        .take_while(|end| fits(**end))
        .count();
    first..first + 1 + more
}

/// Adds to each token's row of `y` its rows of `out`, which holds the pairs at places `here`.
fn gather(
    rt: &Runtime,
    top_k: usize,
    here: Range<usize>,
    places: &[u32],
    weights: &[f32],
    out: MatRef<f32>,
    y: &mut MatMut<f32>,
) {
    let (n_tokens, d) = (y.rows(), y.cols());
    let kernel = add_scaled_kernel(rt);
    let y = y.shared();
    in_rows(rt, n_tokens, top_k.saturating_mul(d), |range| {
        for t in range {
            let pairs = t * top_k..(t + 1) * top_k;
            let places = &places[pairs.clone()];
            let from = places.partition_point(|place| (*place as usize) < here.start);
            let to = places.partition_point(|place| (*place as usize) < here.end);
            // SAFETY: each row belongs to one range, and each range to one worker.
            let y = unsafe { y.tile(t, 0, d) };
            if from == 0 && to > 0 {
                y.fill(0.0);
            }
            for (place, weight) in places[from..to].iter().zip(&weights[pairs][from..to]) {
                let row = out.row(*place as usize - here.start);
                // SAFETY: the runtime's level proves the kernel's instructions.
                unsafe { kernel(y, row, *weight) };
            }
        }
    });
}

/// Logits, whether to renormalise, working memory of a whole number of registers; experts and weights out.
type RouteKernel = unsafe fn(&[f32], bool, &mut [i32], &mut [u32], &mut [f32]);

fn route_kernel(rt: &Runtime) -> RouteKernel {
    match Op::MoeRoute.variant(rt.level()) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::route,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => avx512::route,
        _ => scalar::route,
    }
}

/// Checks that all belongs together, and returns `n_ff`.
fn check(
    spec: &MoeSpec,
    x: MatRef<f32>,
    routing: &Routing,
    part: &Range<usize>,
    experts: &Experts,
    y: &MatMut<f32>,
) -> usize {
    let (tokens, d) = (x.rows(), x.cols());
    let Experts { gate, up, down } = experts;
    let n_expert = spec.n_expert;
    assert!(
        part.start <= part.end && part.end <= n_expert,
        "moe_ffn: experts {part:?} of {n_expert}"
    );
    let n_ff = gate.rows() / part.len().max(1);
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
            w.rows() == part.len() * rows && (w.cols() == cols || part.is_empty()),
            "moe_ffn: {name} is {} × {}, not {} · {rows} × {cols}",
            w.rows(),
            w.cols(),
            part.len()
        );
    }
    n_ff
}
