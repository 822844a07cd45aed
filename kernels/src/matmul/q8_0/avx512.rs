//! AVX-512 with VNNI: `vpdpbusd` on panels of 32 rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::Rows;
use super::super::kernel::Tokens;
use super::{Tile, TileFn, Variant};
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::view::MatRef;

pub(in super::super) static AVX512: Variant = Variant {
    panel: PANEL,
    panel_block: PANEL_BLOCK,
    token_block: TOKEN_BLOCK,
    one_block: ONE_BLOCK,
    quantize,
    quantize_one,
    pack,
    tiles: &[
        tile::<1> as TileFn,
        tile::<2>,
        tile::<3>,
        tile::<4>,
        tile::<5>,
        tile::<6>,
        tile::<7>,
    ],
    dots,
};

/// Rows of a panel: two registers of 16.
const PANEL: usize = 32;
/// For each of 8 dwords of a block the dword of each row, then the rows' scales, then their offsets.
const PANEL_BLOCK: usize = PANEL * BLOCK_LEN + 2 * PANEL * 4;
/// A token's 32 elements, its scale, its start value.
const TOKEN_BLOCK: usize = BLOCK_LEN + 4 + 4;
/// Where there is one token only: 32 elements, 8 offsets, a scale.
const ONE_BLOCK: usize = BLOCK_LEN + 8 * 4 + 4;
/// 1.5 · 2²³ as f32: the integers within 2²² of its bit pattern are the floats within 2²² of it.
const MAGIC: f32 = 12_582_912.0;

/// A block's scale and elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn quantize_block(x: &[f32; BLOCK_LEN]) -> (f32, __m256i) {
    let (low, high) = x.split_at(16);
    // SAFETY: each half has 16 elements.
    let (low, high) = unsafe {
        (
            _mm512_loadu_ps(low.as_ptr()),
            _mm512_loadu_ps(high.as_ptr()),
        )
    };
    // Ordered as integers, so that infinities and then NaNs are the largest.
    let bits = _mm512_max_epu32(
        _mm512_castps_si512(_mm512_abs_ps(low)),
        _mm512_castps_si512(_mm512_abs_ps(high)),
    );
    let max = f32::from_bits(_mm512_reduce_max_epu32(bits));
    if !max.is_finite() {
        return (f32::NAN, _mm256_setzero_si256());
    }
    if max < 1.0 / (1_u128 << 100) as f32 {
        return (0.0, _mm256_setzero_si256());
    }
    let inverse = _mm512_set1_ps(127.0 / max);
    let low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)));
    let high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
    let qs = _mm256_set_m128i(high, low);
    (max / 127.0, qs)
}

/// For each block: the tokens' elements, then their scales, then their start values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn quantize(tokens: &Tokens, range: Range<usize>, out: &mut [u8]) {
    let count = range.len();
    for (t, token) in range.enumerate() {
        let (x, _) = tokens.row(token).as_chunks::<BLOCK_LEN>();
        for (x, out) in x.iter().zip(out.chunks_exact_mut(count * TOKEN_BLOCK)) {
            let (d, qs) = quantize_block(x);
            let (elements, rest) = out.split_at_mut(count * BLOCK_LEN);
            store(&mut elements[t * BLOCK_LEN..], qs);
            rest[t * 4..][..4].copy_from_slice(&d.to_ne_bytes());
            let start = MAGIC.to_bits().wrapping_add_signed(total(offset(qs)));
            rest[(count + t) * 4..][..4].copy_from_slice(&start.to_ne_bytes());
        }
    }
}

/// All elements, then all offsets, then all scales: a [`Token`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn quantize_one(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<BLOCK_LEN>();
    let (elements, rest) = out.split_at_mut(x.len() * 32);
    let (offsets, scales) = rest.split_at_mut(x.len() * 32);
    for (b, x) in x.iter().enumerate() {
        let (d, qs) = quantize_block(x);
        store(&mut elements[b * 32..], qs);
        store(&mut offsets[b * 32..], offset(qs));
        scales[b * 4..][..4].copy_from_slice(&d.to_ne_bytes());
    }
}

/// −128 times the sums of each four elements: what taking weights as `w + 128` adds to their products, negated.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn offset(qs: __m256i) -> __m256i {
    let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), qs);
    _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<7>(sums))
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn total(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_00_01>(v)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [u8], v: __m256i) {
    let out = &mut out[..32];
    // SAFETY: the slice has the register's bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
fn pack(w: &MatRef<BlockQ8_0>, rows: Rows, blocks: Range<usize>, panel: &mut [u8]) {
    let count = blocks.len();
    assert!(!rows.is_empty() && rows.end <= w.rows() && blocks.end <= w.cols());
    assert!(panel.len() == count * PANEL_BLOCK && count <= super::DEPTH);
    let mut scales = [[0_u16; PANEL]; super::DEPTH];
    let mut sources = [std::ptr::null::<BlockQ8_0>(); PANEL];
    for (r, source) in sources.iter_mut().enumerate() {
        let row = w.row((rows.start + r).min(rows.end - 1));
        *source = row[blocks.clone()].as_ptr();
    }
    let flip = _mm512_set1_epi8(-128);
    for half in 0..2 {
        let sources = &sources[half * 16..][..16];
        for b in 0..count {
            let mut pair_i8x64 = [_mm512_setzero_si512(); 8];
            for (i, pair) in pair_i8x64.iter_mut().enumerate() {
                // Rows 0..4 beside 4..8, and 8..12 beside 12..16.
                let row = i / 4 * 8 + i % 4;
                // SAFETY: each source has `count` blocks.
                let (a, b) = unsafe { (&*sources[row].add(b), &*sources[row + 4].add(b)) };
                // SAFETY: a block has 32 elements.
                *pair = unsafe {
                    _mm512_inserti64x4::<1>(
                        _mm512_castsi256_si512(_mm256_loadu_si256(a.qs.as_ptr().cast())),
                        _mm256_loadu_si256(b.qs.as_ptr().cast()),
                    )
                };
            }
            for r in 0..16 {
                // SAFETY: each source has `count` blocks.
                scales[b][half * 16 + r] = unsafe { (*sources[r].add(b)).d.to_bits() };
            }
            let low = transpose(&pair_i8x64[..4]);
            let high = transpose(&pair_i8x64[4..]);
            let out = panel[b * PANEL_BLOCK + half * 64..].as_mut_ptr();
            for j in 0..4 {
                let near = _mm512_shuffle_i32x4::<0x88>(low[j], high[j]);
                let far = _mm512_shuffle_i32x4::<0xdd>(low[j], high[j]);
                // SAFETY: the panel has `count` blocks, each beginning with 8 times 2 registers.
                unsafe {
                    _mm512_storeu_si512(out.add(j * 128).cast(), _mm512_xor_si512(near, flip));
                    _mm512_storeu_si512(out.add((4 + j) * 128).cast(), _mm512_xor_si512(far, flip));
                }
            }
        }
    }
    for (scales, out) in scales.iter().zip(panel.chunks_exact_mut(PANEL_BLOCK)) {
        let out = out[PANEL * BLOCK_LEN..].as_mut_ptr();
        for half in 0..2 {
            // SAFETY: 16 scales are a register; the panel's block ends with 4 of f32.
            unsafe {
                let d = _mm512_cvtph_ps(_mm256_loadu_si256(scales[half * 16..].as_ptr().cast()));
                _mm512_storeu_ps(out.add(half * 64).cast(), d);
                let offset = _mm512_mul_ps(d, _mm512_set1_ps(-MAGIC));
                _mm512_storeu_ps(out.add(128 + half * 64).cast(), offset);
            }
        }
    }
}

/// Of four rows in the lower and four in the upper half: their dwords j and 4 + j, for j = 0..4.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &[__m512i]) -> [__m512i; 4] {
    let a = _mm512_unpacklo_epi32(rows[0], rows[1]);
    let b = _mm512_unpackhi_epi32(rows[0], rows[1]);
    let c = _mm512_unpacklo_epi32(rows[2], rows[3]);
    let d = _mm512_unpackhi_epi32(rows[2], rows[3]);
    [
        _mm512_unpacklo_epi64(a, c),
        _mm512_unpackhi_epi64(a, c),
        _mm512_unpacklo_epi64(b, d),
        _mm512_unpackhi_epi64(b, d),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile<const T: usize>(tile: &Tile) {
    let blocks = tile.panel.len() / PANEL_BLOCK;
    assert!(tile.tokens.len() == blocks * T * TOKEN_BLOCK);
    let mut sum_f32x16 = [[_mm512_setzero_ps(); 2]; T];
    if !tile.from.is_null() {
        for (t, sum) in sum_f32x16.iter_mut().enumerate() {
            for (half, sum) in sum.iter_mut().enumerate() {
                // SAFETY: the caller promises a panel's rows for each token.
                *sum = unsafe { _mm512_loadu_ps(tile.from.add(t * PANEL + half * 16)) };
            }
        }
    }
    let (mut panel, mut tokens) = (tile.panel.as_ptr(), tile.tokens.as_ptr());
    for _ in 0..blocks {
        // SAFETY: both have `blocks` blocks, of the sizes by which the pointers move on.
        unsafe {
            let mut acc_i32x16 = [[_mm512_setzero_si512(); 2]; T];
            for (t, acc) in acc_i32x16.iter_mut().enumerate() {
                let start = tokens.add(T * (BLOCK_LEN + 4) + t * 4).cast();
                *acc = [_mm512_set1_epi32(*start); 2];
            }
            for j in 0..8 {
                let low = _mm512_loadu_si512(panel.add(j * 128).cast());
                let high = _mm512_loadu_si512(panel.add(j * 128 + 64).cast());
                for (t, acc) in acc_i32x16.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*tokens.add(t * BLOCK_LEN + j * 4).cast());
                    acc[0] = _mm512_dpbusd_epi32(acc[0], low, x);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], high, x);
                }
            }
            for half in 0..2 {
                let scales = panel.add(PANEL * BLOCK_LEN + half * 64);
                let d = _mm512_loadu_ps(scales.cast());
                let offset = _mm512_loadu_ps(scales.add(PANEL * 4).cast());
                for t in 0..T {
                    let x = _mm512_set1_ps(*tokens.add(T * BLOCK_LEN + t * 4).cast());
                    let isum = _mm512_castsi512_ps(acc_i32x16[t][half]);
                    let scaled = _mm512_fmadd_ps(isum, d, offset);
                    sum_f32x16[t][half] = _mm512_fmadd_ps(scaled, x, sum_f32x16[t][half]);
                }
            }
            panel = panel.add(PANEL_BLOCK);
            tokens = tokens.add(T * TOKEN_BLOCK);
        }
    }
    for (t, sum) in sum_f32x16.iter().enumerate() {
        for (half, sum) in sum.iter().enumerate() {
            // SAFETY: the caller promises a panel's rows for each token.
            unsafe { _mm512_storeu_ps(tile.to.add(t * tile.stride + half * 16), *sum) };
        }
    }
}

/// Rows that [`dots`] takes at a time.
const ROWS: usize = 4;
/// Blocks of a row whose scales are at hand at a time.
const RUN: usize = 128;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dots(prepared: &[u8], w: &MatRef<BlockQ8_0>, rows: Rows, y: &mut [f32]) {
    let blocks = w.cols();
    assert!(rows.end <= w.rows() && y.len() == rows.len());
    let token = Token::split(prepared, blocks);
    let mut products = [[0.0; RUN]; ROWS];
    for (start, y) in rows.clone().step_by(ROWS).zip(y.chunks_mut(ROWS)) {
        let mut sums = [_mm256_setzero_ps(); ROWS];
        let mut row = [w.row(start); ROWS];
        for (i, row) in row.iter_mut().enumerate().skip(1) {
            *row = w.row((start + i).min(rows.end - 1));
        }
        // Where these rows end the next ones start, if the view is dense; if not, the hint is idle, not wrong.
        let next = (start + ROWS < rows.end).then(|| row[ROWS - 1].as_ptr_range().end);
        for at in (0..blocks).step_by(RUN) {
            let run = at..blocks.min(at + RUN);
            let row = row.map(|row| &row[run.clone()]);
            let ahead = next.map(|next| next.wrapping_add(at * ROWS));
            scale(&row, &token.scales[run.clone()], ahead, &mut products);
            add_dots(&row, &token, run, &products, &mut sums);
        }
        let totals = totals(sums);
        y.copy_from_slice(&totals[..y.len()]);
    }
}

/// The products of the scales of blocks and activations; and a hint to fetch as many blocks of all rows from `ahead` on.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,f16c")]
fn scale(
    rows: &[&[BlockQ8_0]; ROWS],
    scales: &[f32],
    ahead: Option<*const BlockQ8_0>,
    products: &mut [[f32; RUN]; ROWS],
) {
    let (eights, rest) = scales.as_chunks::<8>();
    for (i, x) in eights.iter().enumerate() {
        if let Some(ahead) = ahead {
            // 8 blocks of 4 rows are 17 lines.
            let ahead = ahead.wrapping_add(i * 8 * ROWS).cast::<i8>();
            for line in 0..8 * ROWS * size_of::<BlockQ8_0>() / 64 {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 64));
            }
        }
        // SAFETY: the array holds a register.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        for (row, products) in rows.iter().zip(&mut *products) {
            let w = &row[i * 8..][..8];
            let bits = |b: usize| u64::from(w[b].d.to_bits());
            let low = bits(0) | bits(1) << 16 | bits(2) << 32 | bits(3) << 48;
            let high = bits(4) | bits(5) << 16 | bits(6) << 32 | bits(7) << 48;
            let w = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
            let product = _mm256_mul_ps(_mm256_cvtph_ps(w), x);
            let out = &mut products[i * 8..][..8];
            // SAFETY: the slice holds a register.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), product) };
        }
    }
    let start = eights.len() * 8;
    for (row, products) in rows.iter().zip(products) {
        for ((w, x), product) in row[start..].iter().zip(rest).zip(&mut products[start..]) {
            *product = w.d.to_f32() * x;
        }
    }
}

/// Adds the products of the blocks `run` to `sums`, spread over their lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_dots(
    rows: &[&[BlockQ8_0]; ROWS],
    token: &Token,
    run: Range<usize>,
    products: &[[f32; RUN]; ROWS],
    sums: &mut [__m256; ROWS],
) {
    assert!(rows.iter().all(|row| row.len() == run.len()) && run.len() <= RUN);
    let (elements, offsets) = (&token.elements[run.clone()], &token.offsets[run.clone()]);
    let flip = _mm256_set1_epi8(-128);
    let mut sum_f32x8 = *sums;
    for b in 0..run.len() {
        // SAFETY: all have `run.len()` blocks, of which `products` has room for so many.
        unsafe {
            let x = _mm256_loadu_si256(elements.as_ptr().add(b).cast());
            let offset = _mm256_loadu_si256(offsets.as_ptr().add(b).cast());
            for r in 0..ROWS {
                let w = _mm256_loadu_si256((*rows[r].as_ptr().add(b)).qs.as_ptr().cast());
                let dot = _mm256_dpbusd_epi32(offset, _mm256_xor_si256(w, flip), x);
                let product = _mm256_set1_ps(*products[r].as_ptr().add(b));
                sum_f32x8[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), product, sum_f32x8[r]);
            }
        }
    }
    *sums = sum_f32x8;
}

/// What [`quantize_one`] wrote.
struct Token<'a> {
    elements: &'a [[i8; BLOCK_LEN]],
    /// −128 times the sums of four elements.
    offsets: &'a [[i32; 8]],
    scales: &'a [f32],
}

impl<'a> Token<'a> {
    fn split(prepared: &'a [u8], blocks: usize) -> Self {
        assert!(prepared.len() == blocks * ONE_BLOCK);
        let start = prepared.as_ptr();
        assert!(start.cast::<[i32; 8]>().is_aligned());
        // SAFETY: the three lie one after the other and fill `prepared`; any bits are elements of them, and what lies
        // before each is a multiple of their alignment.
        unsafe {
            Self {
                elements: std::slice::from_raw_parts(start.cast(), blocks),
                offsets: std::slice::from_raw_parts(start.add(blocks * 32).cast(), blocks),
                scales: std::slice::from_raw_parts(start.add(blocks * 64).cast(), blocks),
            }
        }
    }
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn totals(v: [__m256; ROWS]) -> [f32; ROWS] {
    let sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    let sums = _mm_add_ps(
        _mm256_castps256_ps128(sums),
        _mm256_extractf128_ps::<1>(sums),
    );
    let mut out = [0.0; ROWS];
    // SAFETY: the array holds a register.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}
