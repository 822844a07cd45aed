//! Sixteen floats at a time; the definitions are those of [`scalar`](super::scalar).

use std::arch::x86_64::*;

use crate::simd::avx512::*;

/// Pairs of a register of neighbours.
const PAIRS: usize = LANES / 2;

#[target_feature(enable = "avx512f")]
pub(super) fn normal(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(head_dim) {
        let (chunks, rest) = head[..2 * cos.len()].as_chunks_mut::<LANES>();
        let (cos, cos_rest) = cos.as_chunks::<PAIRS>();
        let (sin, sin_rest) = sin.as_chunks::<PAIRS>();
        for ((x, cos), sin) in chunks.iter_mut().zip(cos).zip(sin) {
            store(x, turn_neighbours(load(x), load_part(cos), load_part(sin)));
        }
        let turned = turn_neighbours(load_part(rest), load_part(cos_rest), load_part(sin_rest));
        store_part(rest, turned);
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn neox(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (cos, cos_rest) = cos.as_chunks::<LANES>();
    let (sin, sin_rest) = sin.as_chunks::<LANES>();
    for head in x.chunks_exact_mut(head_dim) {
        let (a, b) = head[..2 * half].split_at_mut(half);
        let (a, a_rest) = a.as_chunks_mut::<LANES>();
        let (b, b_rest) = b.as_chunks_mut::<LANES>();
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let (first, second) = turn(load(a), load(b), load(cos), load(sin));
            store(a, first);
            store(b, second);
        }
        let (first, second) = turn(
            load_part(a_rest),
            load_part(b_rest),
            load_part(cos_rest),
            load_part(sin_rest),
        );
        store_part(a_rest, first);
        store_part(b_rest, second);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn turn(a: __m512, b: __m512, cos: __m512, sin: __m512) -> (__m512, __m512) {
    (
        _mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)),
        _mm512_fmadd_ps(a, sin, _mm512_mul_ps(b, cos)),
    )
}

/// Turns eight pairs; `cos` and `sin` hold theirs in the lower half.
#[inline]
#[target_feature(enable = "avx512f")]
fn turn_neighbours(x: __m512, cos: __m512, sin: __m512) -> __m512 {
    let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    let cos = _mm512_permutexvar_ps(twice, cos);
    let sin = _mm512_permutexvar_ps(twice, sin);
    let swapped = _mm512_permute_ps::<0b10_11_00_01>(x);
    _mm512_fmaddsub_ps(x, cos, _mm512_mul_ps(swapped, sin))
}
