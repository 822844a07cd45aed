//! Eight floats at a time.

use std::arch::x86_64::*;

use super::{EXP, EXP_RANGE, LN_2_HIGH, LN_2_LOW};

/// Floats of a register.
pub(crate) const LANES: usize = 8;

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(x: &[f32; LANES]) -> __m256 {
    // SAFETY: the array holds a register's worth.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store(x: &mut [f32; LANES], v: __m256) {
    // SAFETY: the array holds a register's worth.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}

/// Up to eight floats, followed by zeros.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_part(x: &[f32]) -> __m256 {
    // SAFETY: the mask keeps the load within the slice.
    unsafe { _mm256_maskload_ps(x.as_ptr(), part(x.len())) }
}

/// The first `x.len()` floats of a register.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_part(x: &mut [f32], v: __m256) {
    // An empty mask may still make the CPU look the page up, the slow way where it is not there.
    if x.is_empty() {
        return;
    }
    // SAFETY: the mask keeps the store within the slice.
    unsafe { _mm256_maskstore_ps(x.as_mut_ptr(), part(x.len()), v) }
}

/// All bits set in the first `len` lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn part(len: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(len.min(LANES) as i32), lanes)
}

/// The lanes, for what is done once a row.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn lanes(v: __m256) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    store(&mut lanes, v);
    lanes
}

/// e^x, see the [module](super).
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn exp(x: __m256) -> __m256 {
    // The bound comes first: min and max return their second operand where either is NaN.
    let x = _mm256_max_ps(_mm256_set1_ps(EXP_RANGE.0), x);
    let x = _mm256_min_ps(_mm256_set1_ps(EXP_RANGE.1), x);
    let n = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN_2_LOW), r);
    let mut p = _mm256_set1_ps(EXP[4]);
    for c in [EXP[3], EXP[2], EXP[1], EXP[0], 1.0, 1.0] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    // In two steps, since 2ⁿ alone overflows at 128 and is subnormal below −126.
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let p = _mm256_mul_ps(p, power_of_two(half));
    _mm256_mul_ps(p, power_of_two(_mm256_sub_epi32(n, half)))
}

/// 2ⁿ for −126 ≤ n ≤ 127.
#[inline]
#[target_feature(enable = "avx2")]
fn power_of_two(n: __m256i) -> __m256 {
    let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}
