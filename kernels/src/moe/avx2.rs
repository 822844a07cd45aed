//! The router, eight logits at a time; its definition is that of [`scalar`](super::scalar).

use std::arch::x86_64::*;

use crate::simd::avx2::*;

#[target_feature(enable = "avx2,fma")]
pub(super) fn route(
    logits: &[f32],
    renormalise: bool,
    keys: &mut [i32],
    experts: &mut [u32],
    weights: &mut [f32],
) {
    let keys = &mut keys.as_chunks_mut().0[..logits.len().div_ceil(LANES)];
    let nan = sort_keys(logits, keys);
    for (expert, weight) in experts.iter_mut().zip(weights.iter_mut()) {
        let e = take_largest(keys);
        *expert = e;
        *weight = logits[e as usize];
    }

    // The first is the largest, unless there is a NaN.
    let largest = weights[0];
    if nan || largest == f32::NEG_INFINITY {
        weights.fill(if nan { f32::NAN } else { 0.0 });
        return;
    }
    let largest = _mm256_set1_ps(largest);
    let summed: &[f32] = if renormalise { weights } else { logits };
    let mut sum_f32x8 = _mm256_setzero_ps();
    for part in summed.chunks(LANES) {
        let e = exp(_mm256_sub_ps(load_part(part), largest));
        let inside = _mm256_castsi256_ps(self::part(part.len()));
        sum_f32x8 = _mm256_add_ps(sum_f32x8, _mm256_and_ps(inside, e));
    }
    let sum = _mm256_set1_ps(lanes(sum_f32x8).into_iter().sum());
    for part in weights.chunks_mut(LANES) {
        let e = exp(_mm256_sub_ps(load_part(part), largest));
        store_part(part, _mm256_div_ps(e, sum));
    }
}

/// Integers in the order of the logits, NaN as −∞, followed by [`i32::MIN`]; whether there was a NaN.
#[inline]
#[target_feature(enable = "avx2")]
fn sort_keys(logits: &[f32], keys: &mut [[i32; LANES]]) -> bool {
    let mut nan = _mm256_setzero_ps();
    for (part, keys) in logits.chunks(LANES).zip(keys) {
        // −0 + 0 is 0: the two zeros are a tie.
        let v = _mm256_add_ps(load_part(part), _mm256_setzero_ps());
        let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
        nan = _mm256_or_ps(nan, is_nan);
        let v = _mm256_blendv_ps(v, _mm256_set1_ps(f32::NEG_INFINITY), is_nan);
        let bits = _mm256_castps_si256(v);
        // The more negative a float, the larger its lower bits: they are turned around.
        let flip = _mm256_srli_epi32::<1>(_mm256_srai_epi32::<31>(bits));
        let key = _mm256_xor_si256(bits, flip);
        let outside = _mm256_set1_epi32(i32::MIN);
        let key = _mm256_blendv_epi8(outside, key, self::part(part.len()));
        // SAFETY: the array holds a register's worth.
        unsafe { _mm256_storeu_si256(keys.as_mut_ptr().cast(), key) };
    }
    _mm256_movemask_ps(nan) != 0
}

/// The index of the largest key, the first one of equals, which is then taken out by setting it to [`i32::MIN`].
#[inline]
#[target_feature(enable = "avx2")]
fn take_largest(keys: &mut [[i32; LANES]]) -> u32 {
    let mut best_i32x8 = _mm256_set1_epi32(i32::MIN);
    let mut at_u32x8 = _mm256_setzero_si256();
    let mut index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for keys in keys.iter() {
        // SAFETY: the array holds a register's worth.
        let keys = unsafe { _mm256_loadu_si256(keys.as_ptr().cast()) };
        let larger = _mm256_cmpgt_epi32(keys, best_i32x8);
        best_i32x8 = _mm256_max_epi32(keys, best_i32x8);
        at_u32x8 = _mm256_blendv_epi8(at_u32x8, index, larger);
        index = _mm256_add_epi32(index, _mm256_set1_epi32(LANES as i32));
    }
    let (mut best, mut at) = ([0_i32; LANES], [0_u32; LANES]);
    // SAFETY: each array holds a register's worth.
    unsafe {
        _mm256_storeu_si256(best.as_mut_ptr().cast(), best_i32x8);
        _mm256_storeu_si256(at.as_mut_ptr().cast(), at_u32x8);
    }
    let mut first = 0;
    for lane in 1..LANES {
        if (best[lane], at[first]) > (best[first], at[lane]) {
            first = lane;
        }
    }
    keys.as_flattened_mut()[at[first] as usize] = i32::MIN;
    at[first]
}
