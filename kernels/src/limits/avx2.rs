//! Eight floats at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::STREAM_GRANULE;

/// Accumulators of the FMA loop: a latency of up to 5 cycles at two instructions a cycle, and what is left of 16
/// registers beside the factors.
const SUMS_F32: usize = 12;
/// Accumulators of the int8 loop: an addition takes a cycle only; products need registers as well.
const SUMS_I32: usize = 8;

/// `v`, of which the compiler knows nothing any more, so that it can neither fold nor share what is computed from it.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction is executed.
    unsafe { asm!("/* {} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn f32(rounds: u32) -> u64 {
    let one = _mm256_castsi256_ps(opaque(_mm256_castps_si256(_mm256_set1_ps(1.0))));
    let mut sums_f32x8 =
        [(); SUMS_F32].map(|()| _mm256_castsi256_ps(opaque(_mm256_setzero_si256())));
    for _ in 0..rounds {
        for sum in &mut sums_f32x8 {
            *sum = _mm256_fmadd_ps(one, one, *sum);
        }
    }
    let count = |sum: &__m256| {
        let mut lanes = [0.0_f32; 8];
        // SAFETY: the array holds a register.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *sum) };
        lanes.iter().map(|lane| *lane as u64).sum::<u64>()
    };
    sums_f32x8.iter().map(count).sum()
}

#[target_feature(enable = "avx2")]
pub(super) fn int8(rounds: u32) -> u64 {
    let bytes = _mm256_set1_epi8(1);
    let pairs = opaque(_mm256_set1_epi16(1));
    let mut sums_i32x8 = [(); SUMS_I32].map(|()| opaque(_mm256_setzero_si256()));
    for _ in 0..rounds {
        for sum in &mut sums_i32x8 {
            let products_i16x16 = _mm256_maddubs_epi16(opaque(bytes), bytes);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products_i16x16, pairs));
        }
    }
    let count = |sum: &__m256i| {
        let mut lanes = [0_u32; 8];
        // SAFETY: the array holds a register.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), *sum) };
        lanes.into_iter().map(u64::from).sum::<u64>()
    };
    sums_i32x8.iter().map(count).sum()
}

#[target_feature(enable = "avx2")]
pub(super) fn read(data: &[u8]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 8];
    for granule in data.as_chunks::<STREAM_GRANULE>().0 {
        for (sum, part) in sums.iter_mut().zip(granule.as_chunks::<32>().0) {
            // SAFETY: the array holds a register.
            *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(part.as_ptr().cast()) });
        }
    }
    let mut lanes = [0_u64; 4];
    let mut all = 0;
    for sum in sums {
        // SAFETY: the array holds a register.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
        all ^= lanes.iter().fold(0, |sum, lane| sum ^ lane);
    }
    all
}

/// # Safety
/// The CPU has AVX2, and both slices are aligned and of the same length.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn copy(to: &mut [u8], from: &[u8]) {
    let parts = to.as_chunks_mut::<32>().0.iter_mut();
    for (to, from) in parts.zip(from.as_chunks::<32>().0) {
        // SAFETY: both arrays hold a register; `to` is aligned to one, since its slice is.
        unsafe {
            let v = _mm256_loadu_si256(from.as_ptr().cast());
            _mm256_stream_si256(to.as_mut_ptr().cast(), v);
        }
    }
    _mm_sfence();
}

/// # Safety
/// The CPU has AVX2 and FMA, and all slices are aligned and of the same length.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn triad(a: &mut [u8], b: &[u8], c: &[u8]) {
    let three = _mm256_set1_ps(3.0);
    let factors = b.as_chunks::<32>().0.iter().zip(c.as_chunks::<32>().0);
    for (a, (b, c)) in a.as_chunks_mut::<32>().0.iter_mut().zip(factors) {
        // SAFETY: the arrays hold a register each; `a` is aligned to one, since its slice is.
        unsafe {
            let (b, c) = (
                _mm256_loadu_ps(b.as_ptr().cast()),
                _mm256_loadu_ps(c.as_ptr().cast()),
            );
            _mm256_stream_ps(a.as_mut_ptr().cast(), _mm256_fmadd_ps(three, c, b));
        }
    }
    _mm_sfence();
}
