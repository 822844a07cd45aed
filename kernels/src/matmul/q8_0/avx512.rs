//! AVX-512 with VNNI: `vpdpbusd` on panels of 32 rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::Rows;
use super::super::kernel::Tokens;
use super::{MAGIC, Tile, TileFn, Variant};
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::view::{MatRef, SharedMat};

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
    few: 1,
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
    if max < super::NOTHING {
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

/// Rows whose sums [`dots`] reduces at a time.
const ROWS: usize = 4;
/// Blocks of a row that [`dots`] takes at a time: their scales fill a register.
const RUN: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
fn dots(prepared: &[u8], w: &MatRef<BlockQ8_0>, rows: Rows, y: &SharedMat<f32>) {
    assert!(rows.end <= w.rows() && y.rows() == 1);
    // SAFETY: tasks have columns of `y` of their own.
    let y = unsafe { y.tile(0, rows.start, rows.len()) };
    let token = Token::split(prepared, w.cols());
    for (start, y) in rows.step_by(ROWS).zip(y.chunks_mut(ROWS)) {
        let mut sums = [_mm512_setzero_ps(); ROWS];
        for (i, sum) in sums[..y.len()].iter_mut().enumerate() {
            *sum = dot(w.row(start + i), &token);
        }
        let totals = totals(sums);
        y.copy_from_slice(&totals[..y.len()]);
    }
}

/// The product of a row with a token, spread over the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot(w: &[BlockQ8_0], token: &Token) -> __m512 {
    let (runs, rest) = w.as_chunks::<RUN>();
    let (elements, elements_rest) = token.elements.as_chunks::<RUN>();
    let (offsets, offsets_rest) = token.offsets.as_chunks::<RUN>();
    let (scales, scales_rest) = token.scales.as_chunks::<RUN>();
    let mut sum_f32x16 = [_mm512_setzero_ps(); 4];
    for (((w, elements), offsets), scales) in runs.iter().zip(elements).zip(offsets).zip(scales) {
        super::ask(w.as_ptr().wrapping_add(super::AHEAD), RUN);
        // SAFETY: the array holds a register.
        let scales = unsafe { _mm512_loadu_ps(scales.as_ptr()) };
        let scales = _mm512_mul_ps(weight_scales(w), scales);
        for i in 0..RUN / 2 {
            // SAFETY: each of these holds two blocks from 2 · i on.
            unsafe {
                let w = pair(&w[2 * i], &w[2 * i + 1]);
                let x = _mm512_loadu_si512(elements[2 * i..].as_ptr().cast());
                let offset = _mm512_loadu_si512(offsets[2 * i..].as_ptr().cast());
                let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(offset, w, x));
                let scale = _mm512_permutexvar_ps(halves(2 * i as i32), scales);
                sum_f32x16[i % 4] = _mm512_fmadd_ps(dot, scale, sum_f32x16[i % 4]);
            }
        }
    }
    for (((w, x), offset), scale) in rest
        .iter()
        .zip(elements_rest)
        .zip(offsets_rest)
        .zip(scales_rest)
    {
        // SAFETY: a block's elements and offsets are a register each.
        unsafe {
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            let offset = _mm256_loadu_si256(offset.as_ptr().cast());
            let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(w.d.to_bits()))));
            let w = _mm256_loadu_si256(w.qs.as_ptr().cast());
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            let dot = _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(offset, w, x));
            let product = _mm256_mul_ps(dot, _mm256_set1_ps(d * scale));
            sum_f32x16[0] = _mm512_add_ps(sum_f32x16[0], _mm512_zextps256_ps512(product));
        }
    }
    _mm512_add_ps(
        _mm512_add_ps(sum_f32x16[0], sum_f32x16[1]),
        _mm512_add_ps(sum_f32x16[2], sum_f32x16[3]),
    )
}

/// Lane indices that spread element `i` over the lower half and `i + 1` over the upper one.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(i: i32) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi32(i), _mm256_set1_epi32(i + 1))
}

/// The elements of two blocks, plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pair(a: &BlockQ8_0, b: &BlockQ8_0) -> __m512i {
    // SAFETY: a block has 32 elements.
    let (a, b) = unsafe {
        (
            _mm256_loadu_si256(a.qs.as_ptr().cast()),
            _mm256_loadu_si256(b.qs.as_ptr().cast()),
        )
    };
    let pair = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
    _mm512_xor_si512(pair, _mm512_set1_epi8(-128))
}

/// The scales of 16 blocks.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn weight_scales(w: &[BlockQ8_0; RUN]) -> __m512 {
    // Put together by integer instructions, whose ports idle here; inserts and gathers want the shuffles' one.
    let mut fours = [0_u64; 4];
    for (i, four) in fours.iter_mut().enumerate() {
        let bits = |b: usize| u64::from(w[i * 4 + b].d.to_bits());
        *four = bits(0) | bits(1) << 16 | bits(2) << 32 | bits(3) << 48;
    }
    let [a, b, c, d] = fours.map(u64::cast_signed);
    _mm512_cvtph_ps(_mm256_set_epi64x(d, c, b, a))
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
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn totals(v: [__m512; ROWS]) -> [f32; ROWS] {
    let mut half = [_mm256_setzero_ps(); ROWS];
    for (half, v) in half.iter_mut().zip(v) {
        *half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    }
    let v = half;
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
