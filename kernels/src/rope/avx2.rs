//! Eight floats at a time; the definitions are those of [`scalar`](super::scalar).

use std::arch::x86_64::*;

use crate::simd::avx2::*;

/// Pairs of a register of neighbours.
const PAIRS: usize = LANES / 2;

#[target_feature(enable = "avx2,fma")]
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

#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
fn turn(a: __m256, b: __m256, cos: __m256, sin: __m256) -> (__m256, __m256) {
    (
        _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin)),
        _mm256_fmadd_ps(a, sin, _mm256_mul_ps(b, cos)),
    )
}

/// Turns four pairs; `cos` and `sin` hold theirs in the lower half.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn turn_neighbours(x: __m256, cos: __m256, sin: __m256) -> __m256 {
    let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let cos = _mm256_permutevar8x32_ps(cos, twice);
    let sin = _mm256_permutevar8x32_ps(sin, twice);
    let swapped = _mm256_permute_ps::<0b10_11_00_01>(x);
    _mm256_fmaddsub_ps(x, cos, _mm256_mul_ps(swapped, sin))
}
