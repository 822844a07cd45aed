//! Sixteen floats at a time; the definitions are those of [`scalar`](super::scalar).

use std::arch::x86_64::*;

use crate::simd::avx512::*;

#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn squares(x: &[f32]) -> f64 {
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    let mut sum_f64x8 = [_mm512_setzero_pd(); 4];
    for pair in pairs {
        let (halves, _) = pair.as_chunks::<LANES>();
        let (a, b) = sum_f64x8.split_at_mut(2);
        add_squares_to(a, load(&halves[0]));
        add_squares_to(b, load(&halves[1]));
    }
    for part in rest.chunks(LANES) {
        add_squares_to(&mut sum_f64x8[..2], load_part(part));
    }
    total(sum_f64x8)
}

#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn add_squares(x: &mut [f32], y: &[f32]) -> f64 {
    let (x_pairs, x_rest) = x.as_chunks_mut::<{ 2 * LANES }>();
    let (y_pairs, y_rest) = y.as_chunks::<{ 2 * LANES }>();
    let mut sum_f64x8 = [_mm512_setzero_pd(); 4];
    for (x, y) in x_pairs.iter_mut().zip(y_pairs) {
        let (x, _) = x.as_chunks_mut::<LANES>();
        let (y, _) = y.as_chunks::<LANES>();
        let first = _mm512_add_ps(load(&x[0]), load(&y[0]));
        let second = _mm512_add_ps(load(&x[1]), load(&y[1]));
        store(&mut x[0], first);
        store(&mut x[1], second);
        let (a, b) = sum_f64x8.split_at_mut(2);
        add_squares_to(a, first);
        add_squares_to(b, second);
    }
    for (x, y) in x_rest.chunks_mut(LANES).zip(y_rest.chunks(LANES)) {
        let sum = _mm512_add_ps(load_part(x), load_part(y));
        store_part(x, sum);
        add_squares_to(&mut sum_f64x8[..2], sum);
    }
    total(sum_f64x8)
}

#[target_feature(enable = "avx512f")]
pub(super) fn scale(x: &[f32], scale: f32, weight: &[f32], y: &mut [f32]) {
    let s = _mm512_set1_ps(scale);
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (w, w_rest) = weight.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    for ((x, w), y) in x.iter().zip(w).zip(y) {
        store(y, _mm512_mul_ps(_mm512_mul_ps(load(x), s), load(w)));
    }
    let rest = _mm512_mul_ps(_mm512_mul_ps(load_part(x_rest), s), load_part(w_rest));
    store_part(y_rest, rest);
}

#[target_feature(enable = "avx512f")]
pub(super) fn scale_in_place(x: &mut [f32], scale: f32, weight: &[f32]) {
    let s = _mm512_set1_ps(scale);
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (w, w_rest) = weight.as_chunks::<LANES>();
    for (x, w) in x.iter_mut().zip(w) {
        store(x, _mm512_mul_ps(_mm512_mul_ps(load(x), s), load(w)));
    }
    let rest = _mm512_mul_ps(_mm512_mul_ps(load_part(x_rest), s), load_part(w_rest));
    store_part(x_rest, rest);
}

#[target_feature(enable = "avx512f")]
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        store(x, _mm512_add_ps(load(x), load(y)));
    }
    store_part(x_rest, _mm512_add_ps(load_part(x_rest), load_part(y_rest)));
}

#[target_feature(enable = "avx512f")]
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    let s = _mm512_set1_ps(scale);
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        store(x, _mm512_fmadd_ps(load(y), s, load(x)));
    }
    let rest = _mm512_fmadd_ps(load_part(y_rest), s, load_part(x_rest));
    store_part(x_rest, rest);
}

#[target_feature(enable = "avx512f")]
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    let (gate, gate_rest) = gate.as_chunks_mut::<LANES>();
    let (up, up_rest) = up.as_chunks::<LANES>();
    for (gate, up) in gate.iter_mut().zip(up) {
        store(gate, silu_times(load(gate), load(up)));
    }
    store_part(
        gate_rest,
        silu_times(load_part(gate_rest), load_part(up_rest)),
    );
}

#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn softmax(x: &mut [f32]) {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let mut max_f32x16 = lowest;
    // The row comes first: max returns its second operand where either is NaN.
    for chunk in chunks.iter() {
        max_f32x16 = _mm512_max_ps(load(chunk), max_f32x16);
    }
    let last = _mm512_mask_mov_ps(lowest, part(rest.len()), load_part(rest));
    max_f32x16 = _mm512_max_ps(last, max_f32x16);
    let max = _mm512_reduce_max_ps(max_f32x16);
    if max == f32::NEG_INFINITY {
        super::no_maximum(x);
        return;
    }

    let max = _mm512_set1_ps(max);
    let mut sum_f64x8 = [_mm512_setzero_pd(); 2];
    for chunk in chunks.iter_mut() {
        let e = exp(_mm512_sub_ps(load(chunk), max));
        store(chunk, e);
        let (low, high) = widen(e);
        sum_f64x8 = [
            _mm512_add_pd(sum_f64x8[0], low),
            _mm512_add_pd(sum_f64x8[1], high),
        ];
    }
    let e = _mm512_maskz_mov_ps(part(rest.len()), exp(_mm512_sub_ps(load_part(rest), max)));
    store_part(rest, e);
    let (low, high) = widen(e);
    let sum = _mm512_add_pd(
        _mm512_add_pd(sum_f64x8[0], low),
        _mm512_add_pd(sum_f64x8[1], high),
    );
    let s = _mm512_set1_ps((1.0 / _mm512_reduce_add_pd(sum)) as f32);
    for chunk in chunks {
        store(chunk, _mm512_mul_ps(load(chunk), s));
    }
    store_part(rest, _mm512_mul_ps(e, s));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn silu_times(gate: __m512, up: __m512) -> __m512 {
    let e = exp(_mm512_sub_ps(_mm512_setzero_ps(), gate));
    let silu = _mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0), e));
    _mm512_mul_ps(silu, up)
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn widen(v: __m512) -> (__m512d, __m512d) {
    (
        _mm512_cvtps_pd(_mm512_castps512_ps256(v)),
        _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v)),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn add_squares_to(sum_f64x8: &mut [__m512d], v: __m512) {
    let (low, high) = widen(v);
    sum_f64x8[0] = _mm512_fmadd_pd(low, low, sum_f64x8[0]);
    sum_f64x8[1] = _mm512_fmadd_pd(high, high, sum_f64x8[1]);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn total(sum_f64x8: [__m512d; 4]) -> f64 {
    let [a, b, c, d] = sum_f64x8;
    _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(a, b), _mm512_add_pd(c, d)))
}
