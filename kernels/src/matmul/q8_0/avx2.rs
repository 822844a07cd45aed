//! AVX2: `vpmaddwd` on panels of 16 rows widened to i16; for one token `vpmaddubsw` on the blocks as they are.
//!
//! WHY i16. A product of bytes saturates: two of `(w + 128) · x` reach 64,770. Giving w's sign to x avoids that, but
//! must be done anew for each token, so that 32 products cost four instructions, as they do in two halves of i16, of
//! which the sign's, the product's and the widening's want the same two ports. In i16 half of the four are additions,
//! which have a third.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::Rows;
use super::super::kernel::{Product, Stream, Tokens};
use super::{MAGIC, Part, Tile, TileFn, Variant};
use crate::pool::share;
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::view::MatRef;

pub(in super::super) static AVX2: Variant = Variant {
    panel: PANEL,
    panel_block: PANEL_BLOCK,
    token_block: TOKEN_BLOCK,
    quantize,
    quantize_one,
    pack,
    tiles: &[tile::<1> as TileFn, tile::<2>, tile::<3>, tile::<4>],
    few: 6,
    alike: 1,
    look: 1,
    pack_tokens: 16,
    dots,
};

/// Rows of a panel: two registers of 8 dwords.
const PANEL: usize = 16;
/// For each of 16 pairs of a block the pair of each row in i16, then the rows' scales, then their offsets.
const PANEL_BLOCK: usize = 2 * PANEL * BLOCK_LEN + 2 * PANEL * 4;
/// A token's 32 elements in i16, and its scale.
const TOKEN_BLOCK: usize = 2 * BLOCK_LEN + 4;

/// A block's scale, and its elements in i16.
#[inline]
#[target_feature(enable = "avx2")]
fn quantize_block(x: &[f32; BLOCK_LEN]) -> (f32, [__m256i; 2]) {
    let mut x_f32x8 = [_mm256_setzero_ps(); 4];
    let mut bits = _mm256_setzero_si256();
    for (v, x) in x_f32x8.iter_mut().zip(x.as_chunks::<8>().0) {
        // SAFETY: the array holds a register.
        *v = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        // Ordered as integers, so that infinities and then NaNs are the largest.
        let magnitude = _mm256_and_si256(_mm256_castps_si256(*v), _mm256_set1_epi32(i32::MAX));
        bits = _mm256_max_epu32(bits, magnitude);
    }
    let bits = _mm_max_epu32(
        _mm256_castsi256_si128(bits),
        _mm256_extracti128_si256::<1>(bits),
    );
    let bits = _mm_max_epu32(bits, _mm_shuffle_epi32::<0b00_00_11_10>(bits));
    let bits = _mm_max_epu32(bits, _mm_shuffle_epi32::<0b00_00_00_01>(bits));
    let max = f32::from_bits(_mm_cvtsi128_si32(bits).cast_unsigned());
    if !max.is_finite() {
        return (f32::NAN, [_mm256_setzero_si256(); 2]);
    }
    if max < super::NOTHING {
        return (0.0, [_mm256_setzero_si256(); 2]);
    }
    let inverse = _mm256_set1_ps(127.0 / max);
    let mut q_i32x8 = [_mm256_setzero_si256(); 4];
    for (q, x) in q_i32x8.iter_mut().zip(x_f32x8) {
        *q = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
    }
    let [a, b, c, d] = q_i32x8;
    let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
    let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(c, d));
    (max / 127.0, [low, high])
}

/// For each block: the tokens' elements, then their scales.
#[target_feature(enable = "avx2")]
fn quantize(tokens: &Tokens, range: Range<usize>, out: &mut [u8]) {
    let count = range.len();
    for (t, token) in range.enumerate() {
        let (x, _) = tokens.row(token).as_chunks::<BLOCK_LEN>();
        for (x, out) in x.iter().zip(out.chunks_exact_mut(count * TOKEN_BLOCK)) {
            let (d, [low, high]) = quantize_block(x);
            let (elements, scales) = out.split_at_mut(count * BLOCK_LEN * 2);
            store(&mut elements[t * 64..], low);
            store(&mut elements[t * 64 + 32..], high);
            scales[t * 4..][..4].copy_from_slice(&d.to_ne_bytes());
        }
    }
}

/// All elements, then all scales.
#[target_feature(enable = "avx2")]
fn quantize_one(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<BLOCK_LEN>();
    let (elements, scales) = out.split_at_mut(x.len() * BLOCK_LEN);
    for (b, x) in x.iter().enumerate() {
        let (d, [low, high]) = quantize_block(x);
        let qs = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
        store(&mut elements[b * BLOCK_LEN..], qs);
        scales[b * 4..][..4].copy_from_slice(&d.to_ne_bytes());
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut [u8], v: __m256i) {
    let out = &mut out[..32];
    // SAFETY: the slice has the register's bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

#[target_feature(enable = "avx2,f16c")]
fn pack(part: &Part, next: &Part, panel: &mut [u8]) {
    assert!(panel.len() == part.depth.len() * PANEL_BLOCK);
    let sources = part.sources::<PANEL>();
    let mut asked = [std::ptr::null(); PANEL];
    let asked = next.asked(&mut asked);
    for (b, out) in panel.chunks_exact_mut(PANEL_BLOCK).enumerate() {
        asked.ask(b);
        let mut bits = [0_u16; PANEL];
        for (eight, sources) in sources.chunks_exact(8).enumerate() {
            for half in 0..2 {
                let mut rows_i16x16 = [_mm256_setzero_si256(); 8];
                for (row, source) in rows_i16x16.iter_mut().zip(sources) {
                    // SAFETY: each source has as many blocks as the panel.
                    let qs = &unsafe { &*source.add(b) }.qs[half * 16..][..16];
                    // SAFETY: the slice holds a register.
                    *row = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(qs.as_ptr().cast()) });
                }
                for (pair, v) in transpose(rows_i16x16).into_iter().enumerate() {
                    store(&mut out[(half * 8 + pair) * PANEL * 4 + eight * 32..], v);
                }
            }
            for (bits, source) in bits[eight * 8..].iter_mut().zip(sources) {
                // SAFETY: as above.
                *bits = unsafe { &*source.add(b) }.d.to_bits();
            }
        }
        let scales = &mut out[PANEL * BLOCK_LEN * 2..];
        for eight in 0..2 {
            let bits = &bits[eight * 8..][..8];
            // SAFETY: the slice holds a register.
            let d = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bits.as_ptr().cast()) });
            let offset = _mm256_mul_ps(d, _mm256_set1_ps(-MAGIC));
            store(&mut scales[eight * 32..], _mm256_castps_si256(d));
            store(
                &mut scales[PANEL * 4 + eight * 32..],
                _mm256_castps_si256(offset),
            );
        }
    }
}

/// Columns of 8 × 8 dwords.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = [_mm256_setzero_si256(); 8];
    for (out, v) in pairs.chunks_exact_mut(2).zip(v.chunks_exact(2)) {
        out[0] = _mm256_unpacklo_epi32(v[0], v[1]);
        out[1] = _mm256_unpackhi_epi32(v[0], v[1]);
    }
    // Columns 0, 1, 2, 3 in the lower and 4, 5, 6, 7 in the upper halves, of rows 0..4 and then 4..8.
    let mut fours = [_mm256_setzero_si256(); 8];
    for (out, v) in fours.chunks_exact_mut(4).zip(pairs.chunks_exact(4)) {
        out[0] = _mm256_unpacklo_epi64(v[0], v[2]);
        out[1] = _mm256_unpackhi_epi64(v[0], v[2]);
        out[2] = _mm256_unpacklo_epi64(v[1], v[3]);
        out[3] = _mm256_unpackhi_epi64(v[1], v[3]);
    }
    let mut out = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        out[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[4 + i]);
        out[4 + i] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[4 + i]);
    }
    out
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const T: usize>(tile: &Tile) {
    let blocks = tile.panel.len() / PANEL_BLOCK;
    assert!(tile.tokens.len() == blocks * T * TOKEN_BLOCK);
    let mut sum_f32x8 = [[_mm256_setzero_ps(); 2]; T];
    if !tile.from.is_null() {
        for (t, sum) in sum_f32x8.iter_mut().enumerate() {
            for (half, sum) in sum.iter_mut().enumerate() {
                // SAFETY: the caller promises a panel's rows for each token.
                *sum = unsafe { _mm256_loadu_ps(tile.from.add(t * PANEL + half * 8)) };
            }
        }
    }
    let (mut panel, mut tokens) = (tile.panel.as_ptr(), tile.tokens.as_ptr());
    for b in 0..blocks {
        tile.asked.ask(b);
        // SAFETY: both have `blocks` blocks, of the sizes by which the pointers move on.
        unsafe {
            let start = _mm256_set1_epi32(MAGIC.to_bits().cast_signed());
            let mut acc_i32x8 = [[start; 2]; T];
            for pair in 0..BLOCK_LEN / 2 {
                let low = _mm256_loadu_si256(panel.add(pair * 64).cast());
                let high = _mm256_loadu_si256(panel.add(pair * 64 + 32).cast());
                for (t, acc) in acc_i32x8.iter_mut().enumerate() {
                    let x = tokens.add(t * 2 * BLOCK_LEN + pair * 4).cast::<i32>();
                    let x = _mm256_set1_epi32(x.read_unaligned());
                    acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(low, x));
                    acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(high, x));
                }
            }
            for half in 0..2 {
                let scales = panel.add(PANEL * BLOCK_LEN * 2 + half * 32);
                let d = _mm256_loadu_ps(scales.cast());
                let offset = _mm256_loadu_ps(scales.add(PANEL * 4).cast());
                for t in 0..T {
                    let x = tokens.add(T * 2 * BLOCK_LEN + t * 4).cast::<f32>();
                    let x = _mm256_set1_ps(x.read_unaligned());
                    let isum = _mm256_castsi256_ps(acc_i32x8[t][half]);
                    let scaled = _mm256_fmadd_ps(isum, d, offset);
                    sum_f32x8[t][half] = _mm256_fmadd_ps(scaled, x, sum_f32x8[t][half]);
                }
            }
            panel = panel.add(PANEL_BLOCK);
            tokens = tokens.add(T * TOKEN_BLOCK);
        }
    }
    for (t, sum) in sum_f32x8.iter().enumerate() {
        for (half, sum) in sum.iter().enumerate() {
            // SAFETY: the caller promises a panel's rows for each token.
            unsafe { _mm256_storeu_ps(tile.to.add(t * tile.stride + half * 8), *sum) };
        }
    }
}

/// Blocks of a row that [`strip`] takes at a time: their scales fill a register.
const RUN: usize = 8;
/// Bytes from the weights at hand to those asked for from memory, at least.
const AHEAD: usize = 8 << 10;
/// Tokens of a strip, at most.
const STRIP: usize = 4;

/// Some rows of the weights as they lie, some tokens, and where their products go.
struct Strip {
    /// The first row, and blocks from one to the next.
    w: *const BlockQ8_0,
    w_stride: usize,
    /// Blocks of a row.
    blocks: usize,
    /// The first token as [`quantize_one`] wrote it; the next one follows.
    x: *const u8,
    /// The first output of the first token, and elements from one token to the next.
    y: *mut f32,
    y_stride: usize,
    /// What to ask for from memory, for each run of each row; any address will do.
    next: *const u8,
    next_run: usize,
}

/// Writes the products of as many rows and tokens as the function is for.
///
/// # Safety
/// The CPU has the variant's instructions; the strip's pointers are valid for its rows, tokens and outputs.
type StripFn = unsafe fn(&Strip);

/// Rows of a strip, where there are as many: their weights' signs and sums fit the registers.
const STRIP_ROWS: usize = 2;

/// By tokens − 2: of one row, and of [`STRIP_ROWS`].
const STRIPS: [[StripFn; 2]; STRIP - 1] = [
    [strip::<1, 2>, strip::<STRIP_ROWS, 2>],
    [strip::<1, 3>, strip::<STRIP_ROWS, 3>],
    [strip::<1, 4>, strip::<STRIP_ROWS, 4>],
];

/// Products of some tokens with rows of the weights as they lie.
#[target_feature(enable = "avx2,fma,f16c")]
fn dots(product: &Product, w: &MatRef<BlockQ8_0>, rows: Rows, stream: Stream) {
    let Product { prepared, y, .. } = product;
    let (m, blocks) = (y.rows(), w.cols());
    if m == 1 {
        // SAFETY: tasks have columns of `y` of their own.
        let y = unsafe { y.tile(0, rows.start, rows.len()) };
        return dots_one(prepared, w, rows, y, stream);
    }
    let token_bytes = super::few_bytes(blocks);
    assert!(rows.end <= w.rows() && rows.end <= y.cols() && prepared.len() == m * token_bytes);
    let groups = m.div_ceil(STRIP);
    let row_bytes = w.stride() * size_of::<BlockQ8_0>();
    let mut n = rows.start;
    while n < rows.end {
        let several = n + STRIP_ROWS <= rows.end;
        let count = if several { STRIP_ROWS } else { 1 };
        for group in 0..groups {
            let tokens = share(m, 1, groups, group);
            let ahead = (count * row_bytes).max(AHEAD);
            let strip = Strip {
                w: w.row(n).as_ptr(),
                w_stride: w.stride(),
                blocks,
                x: prepared[tokens.start * token_bytes..].as_ptr(),
                // SAFETY: token and output lie within `y`.
                y: unsafe { y.as_mut_ptr().add(tokens.start * y.stride() + n) },
                y_stride: y.stride(),
                // Rows follow each other: one stream, though several are read side by side.
                next: stream.ahead(w.row(n).as_ptr(), ahead),
                next_run: if group == 0 {
                    RUN * size_of::<BlockQ8_0>()
                } else {
                    0
                },
            };
            // SAFETY: the rows, the tokens and the outputs were checked above. There are two tokens at least.
            unsafe { STRIPS[tokens.len() - 2][usize::from(several)](&strip) };
        }
        n += count;
    }
}

/// Rows whose sums [`dots_one`] reduces at a time.
const ROWS: usize = 4;

/// As [`dots`], of one token: a row after the other, which reads memory fastest.
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_one(prepared: &[u8], w: &MatRef<BlockQ8_0>, rows: Rows, y: &mut [f32], stream: Stream) {
    let blocks = w.cols();
    assert!(rows.end <= w.rows() && y.len() == rows.len());
    assert!(prepared.len() == super::few_bytes(blocks));
    let (elements, scales) = prepared.split_at(blocks * BLOCK_LEN);
    let scales = &scales[..blocks * size_of::<f32>()];
    for (start, y) in rows.step_by(ROWS).zip(y.chunks_mut(ROWS)) {
        let mut sums = [_mm256_setzero_ps(); ROWS];
        for (i, sum) in sums[..y.len()].iter_mut().enumerate() {
            *sum = dot(w.row(start + i), elements, scales, stream);
        }
        let totals = totals(sums);
        y.copy_from_slice(&totals[..y.len()]);
    }
}

/// The product of a row with a token, spread over the lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(w: &[BlockQ8_0], elements: &[u8], scales: &[u8], stream: Stream) -> __m256 {
    let (runs, rest) = w.as_chunks::<RUN>();
    let (elements, elements_rest) = elements.as_chunks::<{ RUN * BLOCK_LEN }>();
    let (scales, scales_rest) = scales.as_chunks::<{ RUN * 4 }>();
    let mut sum_f32x8 = [_mm256_setzero_ps(); 4];
    let ahead = super::AHEAD * size_of::<BlockQ8_0>();
    let mut ahead: *const BlockQ8_0 = stream.ahead(w.as_ptr(), ahead).cast();
    for ((w, elements), scales) in runs.iter().zip(elements).zip(scales) {
        super::ask(ahead, 0..RUN);
        ahead = ahead.wrapping_add(RUN);
        // SAFETY: there are as many blocks as it reads, and the array holds a register.
        let scales = unsafe {
            let d = weight_scales(w.as_ptr());
            _mm256_mul_ps(d, _mm256_loadu_ps(scales.as_ptr().cast()))
        };
        for (b, (w, x)) in w
            .iter()
            .zip(elements.as_chunks::<BLOCK_LEN>().0)
            .enumerate()
        {
            let scale = _mm256_permutevar8x32_ps(scales, _mm256_set1_epi32(b as i32));
            sum_f32x8[b % 4] = _mm256_fmadd_ps(block_dot(&w.qs, x), scale, sum_f32x8[b % 4]);
        }
    }
    let rest_elements = elements_rest.as_chunks::<BLOCK_LEN>().0;
    for ((w, x), scale) in rest
        .iter()
        .zip(rest_elements)
        .zip(scales_rest.as_chunks::<4>().0)
    {
        let d = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(w.d.to_bits()))));
        let scale = _mm256_set1_ps(d * f32::from_ne_bytes(*scale));
        sum_f32x8[0] = _mm256_fmadd_ps(block_dot(&w.qs, x), scale, sum_f32x8[0]);
    }
    _mm256_add_ps(
        _mm256_add_ps(sum_f32x8[0], sum_f32x8[1]),
        _mm256_add_ps(sum_f32x8[2], sum_f32x8[3]),
    )
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "avx2")]
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

/// See [`StripFn`].
///
/// # Safety
/// As it says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strip<const R: usize, const T: usize>(s: &Strip) {
    let token_bytes = super::few_bytes(s.blocks);
    let runs = s.blocks / RUN;
    let mut sum_f32x8 = [[_mm256_setzero_ps(); T]; R];
    // SAFETY: rows have `blocks` blocks; tokens have as many times 32 elements, and then as many scales.
    unsafe {
        for run in 0..runs {
            let w = |r: usize| s.w.add(r * s.w_stride + run * RUN);
            let x = |t: usize| s.x.add(t * token_bytes + run * RUN * BLOCK_LEN);
            let mut scales = [[[0.0_f32; RUN]; T]; R];
            for (r, scales) in scales.iter_mut().enumerate() {
                ask(s.next.wrapping_add((run * R + r) * s.next_run), s.next_run);
                let d = weight_scales(w(r));
                for (t, scales) in scales.iter_mut().enumerate() {
                    let at = t * token_bytes + s.blocks * BLOCK_LEN + run * RUN * 4;
                    let d = _mm256_mul_ps(d, _mm256_loadu_ps(s.x.add(at).cast()));
                    _mm256_storeu_ps(scales.as_mut_ptr(), d);
                }
            }
            // From memory a scale is spread by the load; the compiler would rather spread it by two shuffles, which have
            // to wait for the same ports as the products.
            let scales = std::hint::black_box(scales.as_ptr().cast::<f32>());
            for b in 0..RUN {
                for (r, sum) in sum_f32x8.iter_mut().enumerate() {
                    let w = &(*w(r).add(b)).qs;
                    for (t, sum) in sum.iter_mut().enumerate() {
                        let x = &*x(t).add(b * BLOCK_LEN).cast::<[i8; BLOCK_LEN]>();
                        let scale = _mm256_broadcast_ss(&*scales.add((r * T + t) * RUN + b));
                        *sum = _mm256_fmadd_ps(block_dot(w, x), scale, *sum);
                    }
                }
            }
        }
        for b in runs * RUN..s.blocks {
            for (r, sum) in sum_f32x8.iter_mut().enumerate() {
                let block = &*s.w.add(r * s.w_stride + b);
                let d = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(block.d.to_bits())));
                for (t, sum) in sum.iter_mut().enumerate() {
                    let x = s.x.add(t * token_bytes);
                    let scale = x.add(s.blocks * BLOCK_LEN + b * 4).cast::<f32>();
                    let scale = _mm256_set1_ps(_mm_cvtss_f32(d) * scale.read_unaligned());
                    let x = &*x.add(b * BLOCK_LEN).cast::<[i8; BLOCK_LEN]>();
                    *sum = _mm256_fmadd_ps(block_dot(&block.qs, x), scale, *sum);
                }
            }
        }
        for (r, sum) in sum_f32x8.into_iter().enumerate() {
            for (t, sum) in sum.into_iter().enumerate() {
                *s.y.add(t * s.y_stride + r) = total(sum);
            }
        }
    }
}

/// The scales of [`RUN`] blocks.
///
/// # Safety
/// AVX2 and F16C; the blocks can be read.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn weight_scales(w: *const BlockQ8_0) -> __m256 {
    // SAFETY: the caller's promise.
    _mm256_cvtph_ps(unsafe { eight_scales(w) })
}

/// The scales of eight blocks, f16.
///
/// # Safety
/// AVX2; the blocks can be read.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn eight_scales(w: *const BlockQ8_0) -> __m128i {
    const { assert!(size_of::<BlockQ8_0>() == 34 && std::mem::offset_of!(BlockQ8_0, d) == 0) };
    // Scale i is at byte 34 · i: word i of the eight that start at byte 32 · i.
    let words = |i: usize| w.cast::<u8>().wrapping_add(32 * i).cast::<__m128i>();
    // SAFETY: the last of the eight words end before the last block does.
    unsafe {
        let d = _mm_loadu_si128(words(0));
        let d = _mm_blend_epi16::<0b0000_0010>(d, _mm_loadu_si128(words(1)));
        let d = _mm_blend_epi16::<0b0000_0100>(d, _mm_loadu_si128(words(2)));
        let d = _mm_blend_epi16::<0b0000_1000>(d, _mm_loadu_si128(words(3)));
        let d = _mm_blend_epi16::<0b0001_0000>(d, _mm_loadu_si128(words(4)));
        let d = _mm_blend_epi16::<0b0010_0000>(d, _mm_loadu_si128(words(5)));
        let d = _mm_blend_epi16::<0b0100_0000>(d, _mm_loadu_si128(words(6)));
        _mm_blend_epi16::<0b1000_0000>(d, _mm_loadu_si128(words(7)))
    }
}

/// The integer product of two blocks, spread over the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn block_dot<W, X>(w: &[W; BLOCK_LEN], x: &[X; BLOCK_LEN]) -> __m256 {
    const { assert!(size_of::<W>() == 1 && size_of::<X>() == 1) };
    // SAFETY: both have a register's bytes.
    let (w, x) = unsafe {
        (
            _mm256_loadu_si256(w.as_ptr().cast()),
            _mm256_loadu_si256(x.as_ptr().cast()),
        )
    };
    // |w| is at most 128 and |x| at most 127, so that two products stay within i16.
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// Asks for some bytes from memory, which will be wanted soon. Any address will do.
#[inline]
#[target_feature(enable = "avx2")]
fn ask(start: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast());
    }
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
