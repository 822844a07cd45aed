//! Eight floats at a time; the definitions are those of [`scalar`](super::scalar).

use std::arch::x86_64::*;

use crate::simd::avx2::*;

#[target_feature(enable = "avx2,fma")]
pub(super) fn squares(x: &[f32]) -> f64 {
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    let mut sum_f64x4 = [_mm256_setzero_pd(); 4];
    for pair in pairs {
        let (halves, _) = pair.as_chunks::<LANES>();
        let (a, b) = sum_f64x4.split_at_mut(2);
        add_squares_to(a, load(&halves[0]));
        add_squares_to(b, load(&halves[1]));
    }
    for part in rest.chunks(LANES) {
        add_squares_to(&mut sum_f64x4[..2], load_part(part));
    }
    total(sum_f64x4)
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn add_squares(x: &mut [f32], y: &[f32]) -> f64 {
    let (x_pairs, x_rest) = x.as_chunks_mut::<{ 2 * LANES }>();
    let (y_pairs, y_rest) = y.as_chunks::<{ 2 * LANES }>();
    let mut sum_f64x4 = [_mm256_setzero_pd(); 4];
    for (x, y) in x_pairs.iter_mut().zip(y_pairs) {
        let (x, _) = x.as_chunks_mut::<LANES>();
        let (y, _) = y.as_chunks::<LANES>();
        let first = _mm256_add_ps(load(&x[0]), load(&y[0]));
        let second = _mm256_add_ps(load(&x[1]), load(&y[1]));
        store(&mut x[0], first);
        store(&mut x[1], second);
        let (a, b) = sum_f64x4.split_at_mut(2);
        add_squares_to(a, first);
        add_squares_to(b, second);
    }
    for (x, y) in x_rest.chunks_mut(LANES).zip(y_rest.chunks(LANES)) {
        let sum = _mm256_add_ps(load_part(x), load_part(y));
        store_part(x, sum);
        add_squares_to(&mut sum_f64x4[..2], sum);
    }
    total(sum_f64x4)
}

#[target_feature(enable = "avx2")]
pub(super) fn scale(x: &[f32], scale: f32, weight: &[f32], y: &mut [f32]) {
    let s = _mm256_set1_ps(scale);
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (w, w_rest) = weight.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    for ((x, w), y) in x.iter().zip(w).zip(y) {
        store(y, _mm256_mul_ps(_mm256_mul_ps(load(x), s), load(w)));
    }
    let rest = _mm256_mul_ps(_mm256_mul_ps(load_part(x_rest), s), load_part(w_rest));
    store_part(y_rest, rest);
}

#[target_feature(enable = "avx2")]
pub(super) fn scale_in_place(x: &mut [f32], scale: f32, weight: &[f32]) {
    let s = _mm256_set1_ps(scale);
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (w, w_rest) = weight.as_chunks::<LANES>();
    for (x, w) in x.iter_mut().zip(w) {
        store(x, _mm256_mul_ps(_mm256_mul_ps(load(x), s), load(w)));
    }
    let rest = _mm256_mul_ps(_mm256_mul_ps(load_part(x_rest), s), load_part(w_rest));
    store_part(x_rest, rest);
}

#[target_feature(enable = "avx2")]
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        store(x, _mm256_add_ps(load(x), load(y)));
    }
    store_part(x_rest, _mm256_add_ps(load_part(x_rest), load_part(y_rest)));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    let s = _mm256_set1_ps(scale);
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        store(x, _mm256_fmadd_ps(load(y), s, load(x)));
    }
    let rest = _mm256_fmadd_ps(load_part(y_rest), s, load_part(x_rest));
    store_part(x_rest, rest);
}

#[target_feature(enable = "avx2,fma")]
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

#[target_feature(enable = "avx2,fma")]
pub(super) fn softmax(x: &mut [f32]) {
    let lowest = _mm256_set1_ps(f32::NEG_INFINITY);
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let last = _mm256_castsi256_ps(part(rest.len()));
    // The row comes first: max returns its second operand where either is NaN.
    let mut max_f32x8 = lowest;
    for chunk in chunks.iter() {
        max_f32x8 = _mm256_max_ps(load(chunk), max_f32x8);
    }
    max_f32x8 = _mm256_max_ps(_mm256_blendv_ps(lowest, load_part(rest), last), max_f32x8);
    let max = lanes(max_f32x8)
        .into_iter()
        .fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        super::no_maximum(x);
        return;
    }

    let max = _mm256_set1_ps(max);
    let mut sum_f64x4 = [_mm256_setzero_pd(); 4];
    for chunk in chunks.iter_mut() {
        let e = exp(_mm256_sub_ps(load(chunk), max));
        store(chunk, e);
        let (low, high) = widen(e);
        sum_f64x4[0] = _mm256_add_pd(sum_f64x4[0], low);
        sum_f64x4[1] = _mm256_add_pd(sum_f64x4[1], high);
    }
    let e = _mm256_and_ps(last, exp(_mm256_sub_ps(load_part(rest), max)));
    store_part(rest, e);
    (sum_f64x4[2], sum_f64x4[3]) = widen(e);
    let s = _mm256_set1_ps((1.0 / total(sum_f64x4)) as f32);
    for chunk in chunks {
        store(chunk, _mm256_mul_ps(load(chunk), s));
    }
    store_part(rest, _mm256_mul_ps(e, s));
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn silu_times(gate: __m256, up: __m256) -> __m256 {
    let e = exp(_mm256_sub_ps(_mm256_setzero_ps(), gate));
    let silu = _mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0), e));
    _mm256_mul_ps(silu, up)
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(v: __m256) -> (__m256d, __m256d) {
    (
        _mm256_cvtps_pd(_mm256_castps256_ps128(v)),
        _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v)),
    )
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_squares_to(sum_f64x4: &mut [__m256d], v: __m256) {
    let (low, high) = widen(v);
    sum_f64x4[0] = _mm256_fmadd_pd(low, low, sum_f64x4[0]);
    sum_f64x4[1] = _mm256_fmadd_pd(high, high, sum_f64x4[1]);
}

#[inline]
#[target_feature(enable = "avx2")]
fn total(sum_f64x4: [__m256d; 4]) -> f64 {
    let [a, b, c, d] = sum_f64x4;
    let sum = _mm256_add_pd(_mm256_add_pd(a, b), _mm256_add_pd(c, d));
    let half = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd::<1>(sum));
    _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)))
}
