//! Sixteen floats at a time.

use std::arch::asm;
use std::arch::x86_64::*;

use super::STREAM_GRANULE;

/// Accumulators: a latency of up to 6 cycles at two instructions a cycle.
const SUMS: usize = 12;

/// `v`, of which the compiler knows nothing any more, so that it can neither fold nor share what is computed from it.
#[inline]
#[target_feature(enable = "avx512f")]
fn opaque(mut v: __m512i) -> __m512i {
    // SAFETY: no instruction is executed.
    unsafe { asm!("/* {} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

#[inline]
#[target_feature(enable = "avx512f")]
fn opaque_zeros() -> [__m512; SUMS] {
    [(); SUMS].map(|()| _mm512_castsi512_ps(opaque(_mm512_setzero_si512())))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn count_f32(sums: &[__m512; SUMS]) -> u64 {
    let count = |sum: &__m512| {
        let mut lanes = [0.0_f32; 16];
        // SAFETY: the array holds a register.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), *sum) };
        lanes.iter().map(|lane| *lane as u64).sum::<u64>()
    };
    sums.iter().map(count).sum()
}

#[target_feature(enable = "avx512f")]
pub(super) fn f32(rounds: u32) -> u64 {
    let one = _mm512_castsi512_ps(opaque(_mm512_castps_si512(_mm512_set1_ps(1.0))));
    let mut sums_f32x16 = opaque_zeros();
    for _ in 0..rounds {
        for sum in &mut sums_f32x16 {
            *sum = _mm512_fmadd_ps(one, one, *sum);
        }
    }
    count_f32(&sums_f32x16)
}

#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn bf16(rounds: u32) -> u64 {
    // Two of bfloat16's 1, 0x3f80, in each lane.
    let ones = opaque(_mm512_set1_epi32(0x3f80_3f80));
    // SAFETY: any 512 bits are 32 numbers.
    let ones: __m512bh = unsafe { std::mem::transmute(ones) };
    let mut sums_f32x16 = opaque_zeros();
    for _ in 0..rounds {
        for sum in &mut sums_f32x16 {
            *sum = _mm512_dpbf16_ps(*sum, ones, ones);
        }
    }
    count_f32(&sums_f32x16)
}

#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn int8(rounds: u32) -> u64 {
    let ones = opaque(_mm512_set1_epi8(1));
    let mut sums_i32x16 = [(); SUMS].map(|()| opaque(_mm512_setzero_si512()));
    for _ in 0..rounds {
        for sum in &mut sums_i32x16 {
            *sum = _mm512_dpbusd_epi32(*sum, ones, ones);
        }
    }
    let count = |sum: &__m512i| {
        let mut lanes = [0_u32; 16];
        // SAFETY: the array holds a register.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), *sum) };
        lanes.into_iter().map(u64::from).sum::<u64>()
    };
    sums_i32x16.iter().map(count).sum()
}

#[target_feature(enable = "avx512f")]
pub(super) fn read(data: &[u8]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); STREAM_GRANULE / 64];
    for granule in data.as_chunks::<STREAM_GRANULE>().0 {
        for (sum, part) in sums.iter_mut().zip(granule.as_chunks::<64>().0) {
            // SAFETY: the array holds a register.
            *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(part.as_ptr().cast()) });
        }
    }
    let mut lanes = [0_u64; 8];
    let mut all = 0;
    for sum in sums {
        // SAFETY: the array holds a register.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sum) };
        all ^= lanes.iter().fold(0, |sum, lane| sum ^ lane);
    }
    all
}
