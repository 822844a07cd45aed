//! The router, sixteen logits at a time; its definition is that of [`scalar`](super::scalar).

use std::arch::x86_64::*;

use crate::simd::avx512::*;

#[target_feature(enable = "avx512f")]
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
    let largest = _mm512_set1_ps(largest);
    let summed: &[f32] = if renormalise { weights } else { logits };
    let mut sum_f32x16 = _mm512_setzero_ps();
    for part in summed.chunks(LANES) {
        let e = exp(_mm512_sub_ps(load_part(part), largest));
        sum_f32x16 = _mm512_mask_add_ps(sum_f32x16, self::part(part.len()), sum_f32x16, e);
    }
    let sum = _mm512_set1_ps(_mm512_reduce_add_ps(sum_f32x16));
    for part in weights.chunks_mut(LANES) {
        let e = exp(_mm512_sub_ps(load_part(part), largest));
        store_part(part, _mm512_div_ps(e, sum));
    }
}

/// Integers in the order of the logits, NaN as −∞, followed by [`i32::MIN`]; whether there was a NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn sort_keys(logits: &[f32], keys: &mut [[i32; LANES]]) -> bool {
    let mut nan = 0;
    for (part, keys) in logits.chunks(LANES).zip(keys) {
        // −0 + 0 is 0: the two zeros are a tie.
        let v = _mm512_add_ps(load_part(part), _mm512_setzero_ps());
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        nan |= is_nan;
        let v = _mm512_mask_mov_ps(v, is_nan, _mm512_set1_ps(f32::NEG_INFINITY));
        let bits = _mm512_castps_si512(v);
        // The more negative a float, the larger its lower bits: they are turned around.
        let flip = _mm512_srli_epi32::<1>(_mm512_srai_epi32::<31>(bits));
        let key = _mm512_xor_si512(bits, flip);
        let key = _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::MIN), self::part(part.len()), key);
        // SAFETY: the array holds a register's worth.
        unsafe { _mm512_storeu_si512(keys.as_mut_ptr().cast(), key) };
    }
    nan != 0
}

/// The index of the largest key, the first one of equals, which is then taken out by setting it to [`i32::MIN`].
#[inline]
#[target_feature(enable = "avx512f")]
fn take_largest(keys: &mut [[i32; LANES]]) -> u32 {
    let mut best_i32x16 = _mm512_set1_epi32(i32::MIN);
    let mut at_u32x16 = _mm512_setzero_si512();
    let mut index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for keys in keys.iter() {
        // SAFETY: the array holds a register's worth.
        let keys = unsafe { _mm512_loadu_si512(keys.as_ptr().cast()) };
        let larger = _mm512_cmpgt_epi32_mask(keys, best_i32x16);
        best_i32x16 = _mm512_max_epi32(keys, best_i32x16);
        at_u32x16 = _mm512_mask_mov_epi32(at_u32x16, larger, index);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(LANES as i32));
    }
    let largest = _mm512_set1_epi32(_mm512_reduce_max_epi32(best_i32x16));
    let equal = _mm512_cmpeq_epi32_mask(best_i32x16, largest);
    let first = _mm512_mask_reduce_min_epu32(equal, at_u32x16);
    keys.as_flattened_mut()[first as usize] = i32::MIN;
    first
}
