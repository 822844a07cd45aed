//! The definition as plain loops: one query and head after the other, one key after the other.

use half::bf16;

use super::{AttentionSpec, Cache, KvRef, Segment};
use crate::runtime::Runtime;

pub(super) fn attention(rt: &Runtime, spec: &AttentionSpec, segments: &mut [Segment]) {
    for Segment { q, start, kv, out } in segments {
        let (q, start, kv, out) = (*q, *start, *kv, out.shared());
        rt.pool().for_each(q.rows() * spec.n_head, |_, task| {
            let (token, head) = (task / spec.n_head, task % spec.n_head);
            let column = head * spec.head_dim;
            let query = &q.row(token)[column..][..spec.head_dim];
            // SAFETY: each task writes the columns of its own head in the row of its own token.
            let out = unsafe { out.tile(token, column, spec.head_dim) };
            let mut rounded = rt.scratch().take::<f32>(spec.head_dim);
            rounded.copy_from_slice(query);
            let position = start + token;
            match kv {
                KvRef::F32(cache) => {
                    one(spec, position, head, query, cache, |x| x, |x| x, out);
                }
                KvRef::Bf16(cache) => {
                    let round = |x: f32| bf16::from_f32(x).to_f32();
                    rounded.iter_mut().for_each(|x| *x = round(*x));
                    one(
                        spec,
                        position,
                        head,
                        &rounded,
                        cache,
                        round,
                        bf16::to_f32,
                        out,
                    );
                }
            }
        });
    }
}

/// One query of one head; `round` is what befalls the probabilities, `widen` reads the cache.
#[expect(clippy::too_many_arguments, reason = "the definition's own variables")]
fn one<T: Copy>(
    spec: &AttentionSpec,
    position: usize,
    head: usize,
    q: &[f32],
    cache: Cache<T>,
    round: impl Fn(f32) -> f32,
    widen: impl Fn(T) -> f32,
    out: &mut [f32],
) {
    let factor = spec.scale * std::f32::consts::LOG2_E;
    let kv_head = head / (spec.n_head / spec.n_kv_head);
    let (keys, values) = (cache.keys(kv_head), cache.values(kv_head));
    out.fill(0.0);
    let mut sum = 0.0_f32;
    let mut max = f32::NEG_INFINITY;
    for j in spec.first_key(position)..=position {
        let at = j * spec.head_dim;
        let mut dot = 0.0_f32;
        for d in 0..spec.head_dim {
            dot += q[d] * widen(keys[at + d]);
        }
        let x = dot * factor;
        if x > max {
            let raised = x.ceil();
            let shrink = (max - raised).exp2();
            sum *= shrink;
            for o in out.iter_mut() {
                *o *= shrink;
            }
            max = raised;
        }
        let p = round((x - max).exp2());
        sum += p;
        for d in 0..spec.head_dim {
            out[d] += p * widen(values[at + d]);
        }
    }
    for o in out.iter_mut() {
        *o /= sum;
    }
}
