//! Sixteen floats at a time.

use std::arch::x86_64::*;

use super::{EXP, EXP_RANGE, LN_2_HIGH, LN_2_LOW};

/// Floats of a register.
pub(crate) const LANES: usize = 16;

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array holds a register's worth.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store(x: &mut [f32; LANES], v: __m512) {
    // SAFETY: the array holds a register's worth.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
}

/// Up to sixteen floats, followed by zeros.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_part(x: &[f32]) -> __m512 {
    // SAFETY: the mask keeps the load within the slice.
    unsafe { _mm512_maskz_loadu_ps(part(x.len()), x.as_ptr()) }
}

/// The first `x.len()` floats of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_part(x: &mut [f32], v: __m512) {
    // An empty mask may still make the CPU look the page up, the slow way where it is not there.
    if x.is_empty() {
        return;
    }
    // SAFETY: the mask keeps the store within the slice.
    unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), part(x.len()), v) }
}

/// The first `len` lanes.
pub(crate) const fn part(len: usize) -> __mmask16 {
    if len < LANES {
        (1 << len) - 1
    } else {
        __mmask16::MAX
    }
}

/// e^x, see the [module](super).
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp(x: __m512) -> __m512 {
    // The bound comes first: min and max return their second operand where either is NaN.
    let x = _mm512_max_ps(_mm512_set1_ps(EXP_RANGE.0), x);
    let x = _mm512_min_ps(_mm512_set1_ps(EXP_RANGE.1), x);
    let n = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_LOW), r);
    let mut p = _mm512_set1_ps(EXP[4]);
    for c in [EXP[3], EXP[2], EXP[1], EXP[0], 1.0, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}
