//! The definition as plain loops, token by token: the oracle of the grouped dispatch.

use half::bf16;

use super::Experts;
use crate::q8_0::BLOCK_LEN;
use crate::view::Weights;

/// The largest of `logits` and their weights, best first.
pub(super) fn route(logits: &[f32], renormalise: bool, experts: &mut [u32], weights: &mut [f32]) {
    // A NaN counts as −∞ here; an index not yet taken always remains, since there are at least top_k logits.
    let value = |e: usize| {
        if logits[e].is_nan() {
            f32::NEG_INFINITY
        } else {
            logits[e]
        }
    };
    for j in 0..experts.len() {
        let (taken, rest) = experts.split_at_mut(j);
        let mut best = None;
        for e in 0..logits.len() {
            let better = best.is_none_or(|best| value(e) > value(best));
            if better && !taken.contains(&(e as u32)) {
                best = Some(e);
            }
        }
        rest[0] = best.unwrap_or(0) as u32;
    }

    let max = value(experts[0] as usize);
    if logits.iter().any(|v| v.is_nan()) {
        weights.fill(f32::NAN);
        return;
    }
    if max == f32::NEG_INFINITY {
        weights.fill(0.0);
        return;
    }
    let mut sum = 0.0_f64;
    if renormalise {
        for e in experts.iter() {
            sum += f64::from((logits[*e as usize] - max).exp());
        }
    } else {
        for logit in logits {
            sum += f64::from((logit - max).exp());
        }
    }
    for (weight, e) in weights.iter_mut().zip(experts.iter()) {
        *weight = (f64::from((logits[*e as usize] - max).exp()) / sum) as f32;
    }
}

/// One token through its experts.
pub(super) fn ffn(
    x: &[f32],
    n_ff: usize,
    chosen: &[u32],
    weights: &[f32],
    experts: &Experts,
    y: &mut [f32],
) {
    let d = x.len();
    let x_in = Rounded::new(x, &experts.gate);
    let x_up = Rounded::new(x, &experts.up);
    let mut h = vec![0.0; n_ff];
    y.fill(0.0);
    for (e, weight) in chosen.iter().zip(weights) {
        let e = *e as usize;
        for (i, h) in h.iter_mut().enumerate() {
            let gate = x_in.dot(&experts.gate, e * n_ff + i);
            let up = x_up.dot(&experts.up, e * n_ff + i);
            *h = gate / (1.0 + (-gate).exp()) * up;
        }
        let h_in = Rounded::new(&h, &experts.down);
        for (i, y) in y.iter_mut().enumerate() {
            *y += weight * h_in.dot(&experts.down, e * d + i);
        }
    }
}

/// An activation as matmul rounds it for weights of a type.
enum Rounded {
    Floats(Vec<f32>),
    /// int8 values, and a scale per block of 32.
    Blocks(Vec<i8>, Vec<f32>),
}

impl Rounded {
    fn new(x: &[f32], weights: &Weights) -> Self {
        match weights {
            Weights::F32(_) | Weights::F16(_) => Self::Floats(x.to_vec()),
            Weights::Bf16(_) => {
                Self::Floats(x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect())
            }
            Weights::Q8_0(_) => {
                let (mut qs, mut scales) = (Vec::new(), Vec::new());
                for block in x.chunks_exact(BLOCK_LEN) {
                    let max = block.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
                    let inverse = if max == 0.0 { 0.0 } else { 127.0 / max };
                    qs.extend(block.iter().map(|v| (v * inverse).round_ties_even() as i8));
                    scales.push(max / 127.0);
                }
                Self::Blocks(qs, scales)
            }
        }
    }

    /// The product with row `n` of `weights`.
    fn dot(&self, weights: &Weights, n: usize) -> f32 {
        let mut sum = 0.0;
        match (self, weights) {
            (Self::Floats(x), Weights::F32(w)) => {
                for (x, w) in x.iter().zip(w.row(n)) {
                    sum += x * w;
                }
            }
            (Self::Floats(x), Weights::F16(w)) => {
                for (x, w) in x.iter().zip(w.row(n)) {
                    sum += x * w.to_f32();
                }
            }
            (Self::Floats(x), Weights::Bf16(w)) => {
                for (x, w) in x.iter().zip(w.row(n)) {
                    sum += x * w.to_f32();
                }
            }
            (Self::Blocks(qs, scales), Weights::Q8_0(w)) => {
                for (b, block) in w.row(n).iter().enumerate() {
                    let mut dot = 0_i32;
                    for (q, w) in qs[b * BLOCK_LEN..].iter().zip(&block.qs) {
                        dot += i32::from(*q) * i32::from(*w);
                    }
                    sum += dot as f32 * scales[b] * block.d.to_f32();
                }
            }
            _ => unreachable!("rounded for other weights"),
        }
        sum
    }
}
