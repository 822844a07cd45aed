//! AVX-512 with VNNI: `vpdpbusd` on rows as they lie, on 16 of them side by side, and on panels of 32.

mod columns;

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::Rows;
use super::super::kernel::{Product, Stream, Tokens};
use super::avx2::eight_scales;
use super::{MAGIC, Part, Tile, TileFn, Variant};
use crate::pool::share;
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::view::{MatRef, SharedMat};

pub(in super::super) static AVX512: Variant = Variant {
    panel: PANEL,
    panel_block: PANEL_BLOCK,
    token_block: TOKEN_BLOCK,
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
    few: columns::MOST,
    alike: DOTS.len(),
    look: 2,
    pack_tokens: 5,
    dots,
};

/// Rows of a panel: two registers of 16.
const PANEL: usize = 32;
/// For each of 8 dwords of a block the dword of each row, then the rows' scales, then their offsets.
const PANEL_BLOCK: usize = PANEL * BLOCK_LEN + 2 * PANEL * 4;
/// A token's 32 elements, its scale, its start value.
const TOKEN_BLOCK: usize = BLOCK_LEN + 4 + 4;

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

/// All elements, plus 128, then all scales.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn quantize_one(x: &[f32], out: &mut [u8]) {
    let (x, _) = x.as_chunks::<BLOCK_LEN>();
    let (elements, scales) = out.split_at_mut(x.len() * BLOCK_LEN);
    for (b, x) in x.iter().enumerate() {
        let (d, qs) = quantize_block(x);
        let flipped = _mm256_xor_si256(qs, _mm256_set1_epi8(-128));
        store(&mut elements[b * BLOCK_LEN..], flipped);
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

/// Blocks that are packed together: of a row 272 bytes, the least that are blocks and a multiple of 16 bytes.
const TOGETHER: usize = 8;

/// Where each of 16 rows is read from.
type Sixteen = [*const u8; 16];
/// The dwords of 16 rows at 8 places, those of a place in one register.
type Columns = [__m512i; 8];

/// Interleaves a part, see [`super::Variant`].
///
/// WHY dwords regardless of blocks: packing costs what its loads cost. A row's blocks are read 32 bytes after 32 bytes,
/// scales and all: 17 loads for 16 blocks, which begin at multiples of 16 bytes where a file's rows do, so that few
/// straddle cache lines. Elements and scales block by block are 32 loads, half of the former astride: 35 cycles for 16
/// rows of a block, in L2, on Zen 5, where this takes 23.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
fn pack(part: &Part, next: &Part, panel: &mut [u8]) {
    let count = part.depth.len();
    assert!(panel.len() == count * PANEL_BLOCK);
    let sources = part.sources::<PANEL>();
    let mut asked = [std::ptr::null(); PANEL];
    let asked = next.asked(&mut asked);
    for half in 0..2 {
        let asked = asked.share(2, half);
        let ask = |b: usize| (b..b + 2).for_each(|line| asked.ask(line));
        let rows = |b: usize| -> Sixteen {
            std::array::from_fn(|r| sources[half * 16 + r].wrapping_add(b).cast())
        };
        let out = panel[half * 64..].as_mut_ptr();
        let out = |b: usize| out.wrapping_add(b * PANEL_BLOCK);
        let whole = count - count % TOGETHER;
        for b in (0..whole).step_by(TOGETHER) {
            let rows = rows(b);
            // SAFETY: each source has `count` blocks, and so has the panel.
            unsafe {
                let columns = columns(|r| rows[r]);
                ask(b);
                let columns = pack_two::<0>(&rows, columns, out(b));
                ask(b + 2);
                let columns = pack_two::<1>(&rows, columns, out(b + 2));
                ask(b + 4);
                let columns = pack_two::<2>(&rows, columns, out(b + 4));
                ask(b + 6);
                pack_two::<3>(&rows, columns, out(b + 6));
            }
        }
        for b in whole..count {
            asked.ask(b);
            let rows = rows(b);
            // SAFETY: as above; a block is its scale, then its elements.
            unsafe {
                let d = rows.map(|row| row.cast::<u16>().read());
                store_scales(_mm256_loadu_si256(d.as_ptr().cast()), out(b));
                let columns = columns(|r| rows[r].add(size_of::<u16>()));
                for (j, column) in columns.into_iter().enumerate() {
                    store_column(column, j, out(b));
                }
            }
        }
    }
}

/// Packs the two blocks `2 · PAIR` and on, of [`TOGETHER`]: the 17 dwords from `17 · PAIR` on, which are among the 24 from
/// `16 · PAIR` on. Takes the first 8 of these, and returns the last 8, which are the next pair's first.
///
/// # Safety
/// Each row has [`TOGETHER`] blocks; `out` is where 16 rows of a block begin in a panel that has another block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn pack_two<const PAIR: usize>(rows: &Sixteen, first: Columns, out: *mut u8) -> Columns {
    // SAFETY: the caller's promise.
    unsafe {
        let columns = |at: usize| columns(|r| rows[r].add(at));
        let second = columns((2 * PAIR + 1) * 32);
        let third = if PAIR < 3 {
            columns((2 * PAIR + 2) * 32)
        } else {
            // Only four dwords are left, which are the last ones of the last eight.
            let mut last = columns(TOGETHER * size_of::<BlockQ8_0>() - 32);
            last.rotate_left(4);
            last
        };
        let dwords = [first, second, third];
        let dwords = &dwords.as_flattened()[PAIR..PAIR + 17];
        // The first block's elements begin in the middle of its first dword, the second one's with a dword.
        store_scales(_mm512_cvtepi32_epi16(dwords[0]), out);
        for j in 0..8 {
            let low = _mm512_srli_epi32::<16>(dwords[j]);
            let high = _mm512_slli_epi32::<16>(dwords[j + 1]);
            store_column(_mm512_or_si512(low, high), j, out);
        }
        let out = out.add(PANEL_BLOCK);
        let scales = _mm512_srli_epi32::<16>(dwords[8]);
        store_scales(_mm512_cvtepi32_epi16(scales), out);
        for j in 0..8 {
            store_column(dwords[9 + j], j, out);
        }
        third
    }
}

/// Stores the elements `4 · j` and on of a block of 16 rows, each plus 128.
///
/// # Safety
/// `out` is where 16 rows of a block begin in a panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_column(column: __m512i, j: usize, out: *mut u8) {
    let flipped = _mm512_xor_si512(column, _mm512_set1_epi8(-128));
    // SAFETY: a panel's block begins with 8 times 2 registers.
    unsafe { _mm512_storeu_si512(out.add(j * PANEL * 4).cast(), flipped) }
}

/// Stores the scales of a block of 16 rows, and their offsets.
///
/// # Safety
/// As [`store_column`].
#[inline]
#[target_feature(enable = "avx512f,f16c")]
unsafe fn store_scales(d_f16x16: __m256i, out: *mut u8) {
    let d = _mm512_cvtph_ps(d_f16x16);
    let offset = _mm512_mul_ps(d, _mm512_set1_ps(-MAGIC));
    // SAFETY: a panel's block ends with 4 registers of f32, of which two are these rows'.
    unsafe {
        let out = out.add(PANEL * BLOCK_LEN);
        _mm512_storeu_ps(out.cast(), d);
        _mm512_storeu_ps(out.add(PANEL * 4).cast(), offset);
    }
}

/// The 8 dwords of each of 16 rows, which are where `row` says.
///
/// # Safety
/// There each has 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns(row: impl Fn(usize) -> *const u8) -> Columns {
    // SAFETY: the caller's promise.
    let row = |r: usize| unsafe { _mm256_loadu_si256(row(r).cast()) };
    let mut pairs = [_mm512_setzero_si512(); 8];
    for (i, pair) in pairs.iter_mut().enumerate() {
        // Rows 0..4 beside 4..8, and 8..12 beside 12..16.
        let r = i / 4 * 8 + i % 4;
        *pair = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(row(r)), row(r + 4));
    }
    let low = transpose(&pairs[..4]);
    let high = transpose(&pairs[4..]);
    let mut columns = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        columns[j] = _mm512_shuffle_i32x4::<0x88>(low[j], high[j]);
        columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low[j], high[j]);
    }
    columns
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
    for b in 0..blocks {
        tile.asked.ask(b);
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

/// Products of tokens, of `token_bytes` each, with rows of the weights.
type DotsFn = unsafe fn(&Few, &MatRef<BlockQ8_0>, Rows, &SharedMat<f32>, Stream);

/// For 1, 2, 3 … tokens.
static DOTS: [DotsFn; 6] = [
    dots_of::<1>,
    dots_of::<2>,
    dots_of::<3>,
    dots_of::<4>,
    dots_of::<5>,
    dots_of::<6>,
];

/// What [`quantize_one`] wrote, of each token.
struct Few<'a> {
    prepared: &'a [u8],
    /// From one token to the next.
    token_bytes: usize,
}

/// DOTS, or COLUMNS where these are faster.
fn dots(product: &Product, w: &MatRef<BlockQ8_0>, rows: Rows, stream: Stream) {
    let (m, y) = (product.y.rows(), &product.y);
    let token_bytes = product.prepared.len() / m;
    let side_by_side = !product.alike && m >= columns::from(w.cols()) && w.rows() >= columns::SIDE;
    let (of, least, most): (&[DotsFn], _, _) = if side_by_side {
        (&columns::COLUMNS, columns::LEAST, columns::MOST)
    } else {
        (&DOTS, 1, DOTS.len())
    };
    let groups = m.div_ceil(most);
    for group in 0..groups {
        let tokens = share(m, 1, groups, group);
        let few = Few {
            prepared: &product.prepared[tokens.start * token_bytes..tokens.end * token_bytes],
            token_bytes,
        };
        let y = y.row_range(tokens.start, tokens.end);
        // SAFETY: a variant is handed out only where the CPU has its instructions.
        unsafe { of[tokens.len() - least](&few, w, rows.clone(), &y, stream) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
fn dots_of<const T: usize>(
    few: &Few,
    w: &MatRef<BlockQ8_0>,
    rows: Rows,
    y: &SharedMat<f32>,
    stream: Stream,
) {
    assert!(rows.end <= w.rows() && y.rows() == T);
    assert!(few.token_bytes == super::few_bytes(w.cols()));
    assert!(few.prepared.len() == T * few.token_bytes);
    for start in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - start);
        let mut sums = [[_mm512_setzero_ps(); ROWS]; T];
        for i in 0..count {
            // SAFETY: the tokens have as many blocks as the rows.
            let row = unsafe { dot::<T>(w.row(start + i), few, stream) };
            for (sums, row) in sums.iter_mut().zip(row) {
                sums[i] = row;
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            // SAFETY: tasks have columns of `y` of their own.
            let y = unsafe { y.tile(t, start, count) };
            // SAFETY: the mask keeps to them.
            unsafe { _mm_mask_storeu_ps(y.as_mut_ptr(), (1 << count) - 1, totals(sums)) };
        }
    }
}

/// The products of a row with `T` tokens, each spread over the lanes. The order of additions is the same for any `T`.
///
/// # Safety
/// The tokens have as many blocks as the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
unsafe fn dot<const T: usize>(w: &[BlockQ8_0], few: &Few, stream: Stream) -> [__m512; T] {
    let x = few.prepared.as_ptr();
    let elements = |t: usize, b: usize| x.wrapping_add(t * few.token_bytes + b * BLOCK_LEN);
    let scales = |t: usize, b: usize| {
        let at = t * few.token_bytes + w.len() * BLOCK_LEN + b * 4;
        x.wrapping_add(at).cast::<f32>()
    };
    let mut sum_f32x16 = [[_mm512_setzero_ps(); 2]; T];
    let ahead: *const BlockQ8_0 = stream
        .ahead(w.as_ptr(), super::AHEAD * size_of::<BlockQ8_0>())
        .cast();
    let (runs, rest) = w.as_chunks::<RUN>();
    let (halves, rest) = rest.as_chunks::<{ RUN / 2 }>();
    for (run, w) in runs.iter().enumerate() {
        let (d, first) = (weight_scales(w), run * RUN);
        let ahead = ahead.wrapping_add(first);
        // SAFETY: the tokens have as many blocks as the row.
        unsafe {
            let scales =
                std::array::from_fn(|t| _mm512_mul_ps(d, _mm512_loadu_ps(scales(t, first))));
            add_blocks::<T, RUN>(&mut sum_f32x16, w, &scales, ahead, |t, b| {
                elements(t, first + b)
            });
        }
    }
    // At most one: a loop over it would have the tokens' elements loaded before.
    if let Some(w) = halves.first() {
        let first = runs.len() * RUN;
        let ahead = ahead.wrapping_add(first);
        // SAFETY: as above; the mask keeps to the scales of eight blocks.
        unsafe {
            let d = _mm512_cvtph_ps(_mm256_zextsi128_si256(eight_scales(w.as_ptr())));
            let scales = std::array::from_fn(|t| {
                _mm512_mul_ps(d, _mm512_maskz_loadu_ps(0xff, scales(t, first)))
            });
            add_blocks::<T, { RUN / 2 }>(&mut sum_f32x16, w, &scales, ahead, |t, b| {
                elements(t, first + b)
            });
        }
    }
    if !rest.is_empty() {
        let first = w.len() - rest.len();
        super::ask(ahead, first..w.len());
        let known = (1_u32 << rest.len()) - 1;
        let mut d = [0_u16; RUN];
        for (d, w) in d.iter_mut().zip(rest) {
            *d = w.d.to_bits();
        }
        // SAFETY: as above; masks keep to what there is.
        unsafe {
            let d = _mm512_cvtph_ps(_mm256_loadu_si256(d.as_ptr().cast()));
            let scales: [__m512; T] = std::array::from_fn(|t| {
                _mm512_mul_ps(d, _mm512_maskz_loadu_ps(known as u16, scales(t, first)))
            });
            for i in 0..rest.len().div_ceil(2) {
                let w = pair(&rest[2 * i], rest.get(2 * i + 1));
                let both = if 2 * i + 1 < rest.len() {
                    0xff_ff
                } else {
                    0xff
                };
                for (t, sum) in sum_f32x16.iter_mut().enumerate() {
                    let x = _mm512_maskz_loadu_epi32(both, elements(t, first + 2 * i).cast());
                    sum[i % 2] = add_pair(sum[i % 2], &w, x, scales[t], 2 * i);
                }
            }
        }
    }
    sum_f32x16.map(|[even, odd]| _mm512_add_ps(even, odd))
}

/// Adds the products of some blocks of a row with `T` tokens, whose elements are where `elements(token, block)` says. Each
/// pair of blocks asks for its share of those that are `ahead`.
///
/// # Safety
/// There they are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_blocks<const T: usize, const BLOCKS: usize>(
    sum_f32x16: &mut [[__m512; 2]; T],
    w: &[BlockQ8_0; BLOCKS],
    scales: &[__m512; T],
    ahead: *const BlockQ8_0,
    elements: impl Fn(usize, usize) -> *const u8,
) {
    const { assert!(BLOCKS <= RUN && BLOCKS.is_multiple_of(2)) };
    // A loop over them would stay one, for the sake of `pin`.
    macro_rules! pairs {
        ($($i:literal)*) => { $(
            if 2 * $i < BLOCKS {
                let b = 2 * $i;
                super::ask(ahead, b..b + 2);
                let w = pair(&w[b], Some(&w[b + 1]));
                for (t, sum) in sum_f32x16.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    let x = unsafe { _mm512_loadu_si512(elements(t, b).cast()) };
                    sum[$i % 2] = pin(add_pair(sum[$i % 2], &w, x, scales[t], b));
                }
            }
        )* };
    }
    pairs!(0 1 2 3 4 5 6 7);
}

/// `v`, which is computed before what comes after it in the program touches memory. The compiler would otherwise move a
/// run's requests for memory to its beginning, in a bunch, where they hold each other up: on Zen 5, from memory, a lone
/// token 1.01 to 1.02 × as fast, six tokens, which wait less for their loads, 1.03.
#[inline]
#[target_feature(enable = "avx512f")]
fn pin(mut v: __m512) -> __m512 {
    // SAFETY: there is no instruction in it.
    unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) v, options(nostack, preserves_flags)) };
    v
}

/// The elements of two blocks, and −128 times the sums of each four of them: what taking the tokens' as `q + 128` adds
/// to the products, negated.
struct Pair {
    elements: __m512i,
    start: __m512i,
}

/// Of two blocks, or of one and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn pair(a: &BlockQ8_0, b: Option<&BlockQ8_0>) -> Pair {
    // SAFETY: a block has 32 elements.
    let elements = unsafe {
        let a = _mm512_zextsi256_si512(_mm256_loadu_si256(a.qs.as_ptr().cast()));
        match b {
            Some(b) => _mm512_inserti64x4::<1>(a, _mm256_loadu_si256(b.qs.as_ptr().cast())),
            None => a,
        }
    };
    let zero = _mm512_setzero_si512();
    let added = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(-128), elements);
    Pair {
        elements,
        start: _mm512_sub_epi32(zero, added),
    }
}

/// Adds the products of two blocks with a token's, scaled by the elements `b` and `b + 1` of `scales`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_pair(sum: __m512, w: &Pair, x: __m512i, scales: __m512, b: usize) -> __m512 {
    let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(w.start, x, w.elements));
    _mm512_fmadd_ps(dot, _mm512_permutexvar_ps(halves(b as i32), scales), sum)
}

/// Lane indices that spread element `i` over the lower half and `i + 1` over the upper one.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(i: i32) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi32(i), _mm256_set1_epi32(i + 1))
}

/// The scales of 16 blocks.
#[inline]
#[target_feature(enable = "avx2,avx512f,f16c")]
fn weight_scales(w: &[BlockQ8_0; RUN]) -> __m512 {
    // SAFETY: two times eight blocks.
    let (low, high) = unsafe { (eight_scales(w.as_ptr()), eight_scales(w[8..].as_ptr())) };
    _mm512_cvtph_ps(_mm256_set_m128i(high, low))
}

/// The sum of the lanes of each.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn totals(v: [__m512; ROWS]) -> __m128 {
    let mut half = [_mm256_setzero_ps(); ROWS];
    for (half, v) in half.iter_mut().zip(v) {
        *half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    }
    let v = half;
    let sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_add_ps(
        _mm256_castps256_ps128(sums),
        _mm256_extractf128_ps::<1>(sums),
    )
}
