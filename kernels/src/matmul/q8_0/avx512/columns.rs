//! COLUMNS: some tokens with 16 rows side by side, straight from the rows as they lie.
//!
//! As in a panel, a register has a dword of each row; but each is multiplied with all tokens as soon as it is there, and
//! is not stored. Two blocks of a row are 17 dwords: the first block's scale and its first two elements, 7 dwords of its
//! elements, its last two and the second block's scale, and 8 dwords of the second one's elements.
//!
//! NUMERICS. As TILES: blocks in order, and one sum for each output.
//!
//! WHY. With few tokens DOTS spend a conversion, a permutation and a multiplication on each 64 products, and TILES store
//! and load a panel for a tile or two. Here 64 products are one instruction, and a block of 16 rows adds three for each
//! token; what it costs to have rows side by side, about 90 instructions for two blocks, all tokens share. On Zen 5, one
//! thread, cycles for 64 weights of 2048 → 192 in L2: 4 tokens 6.2 (DOTS 9.5), 6 tokens 7.5 (13), 8 tokens 10.1 (TILES
//! 12.0); from memory, which gives 64 weights in 7 cycles to who only reads, 2048 → 768: 8.4 (10.0), 9.0 (13.2), 10.5
//! (13.8); 768 → 2048: 7.9 (10.8), 9.1 (15.0), 10.7 (13.8), and 3 tokens 7.7 (9.0).
//!
//! WHY what comes next is asked for in the order in which it lies, though 16 rows are read at a time: memory is fastest
//! as one stream. A loop that only reads so has 0.98 of the speed of one that reads in order with 16 rows of 1088
//! bytes, which fit L1 twice, 0.87 to 0.89 with 2176 and 4352; asking for the next bytes of each of the rows in turn,
//! it has 0.65 to 0.70. Hence [`from`]: beside DOTS, which read in order, rows that do not fit pay off from one token
//! later on. Where two cores share what one could read, 4 tokens are no faster than by DOTS (0.92 to 1.0), 6 are 1.05 ×
//! and 8 1.25 × as fast.
//!
//! WHY so little code: weights that stream through L2 throw out of it what is not asked for there, and with it what L1
//! had of it, for L2 includes it: instructions too. 8 blocks at a time took 17 loads instead of 24 for a block of 16
//! rows, and had 12 to 20 KiB of code: 6.0 cycles instead of 6.4 as long as all was in L2, and 9.0 instead of 7.4 where
//! the weights came from L3 (4 tokens).
//!
//! WHY [`pin`]: the compiler would ask for all lines of a loop's turn at once, where they hold each other up (0.6 times as
//! fast), and load tokens so early that registers overflow (6 tokens 12.3 instead of 9.1 cycles).

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::few_bytes;
use super::{Columns, DotsFn, Few, MAGIC, Rows, Stream};
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::view::{MatRef, SharedMat};

/// Rows that are read side by side: the lanes of a register.
pub(super) const SIDE: usize = 16;

/// Tokens, at least and at most.
pub(super) const LEAST: usize = 3;
pub(super) const MOST: usize = 8;

/// For [`LEAST`] tokens and more.
pub(super) static COLUMNS: [DotsFn; MOST + 1 - LEAST] = [
    columns_of::<3>,
    columns_of::<4>,
    columns_of::<5>,
    columns_of::<6>,
    columns_of::<7>,
    columns_of::<8>,
];

/// Bytes of [`SIDE`] rows that L1 holds twice, beside tokens: those at hand, and those asked for.
const NEAR: usize = 20 << 10;

/// Bytes of a block.
const BLOCK: usize = size_of::<BlockQ8_0>();

/// Tokens from which on COLUMNS are faster than DOTS, for rows of so many blocks.
pub(super) fn from(blocks: usize) -> usize {
    if SIDE * blocks * BLOCK <= NEAR {
        LEAST
    } else {
        LEAST + 1
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn columns_of<const T: usize>(
    few: &Few,
    w: &MatRef<BlockQ8_0>,
    rows: Rows,
    y: &SharedMat<f32>,
    stream: Stream,
) {
    assert!(SIDE <= w.rows() && rows.end <= w.rows() && rows.end <= y.cols());
    assert!(y.rows() == T && few.token_bytes == few_bytes(w.cols()));
    assert!(few.prepared.len() == T * few.token_bytes);
    for start in rows.clone().step_by(SIDE) {
        // The last ones begin earlier, where there are fewer, and what they have of others is left out.
        let first = start.min(w.rows() - SIDE);
        let at = w.row(first).as_ptr();
        let ahead = stream.ahead(at, SIDE * w.stride() * BLOCK);
        let lanes = start - first..SIDE.min(rows.end - first);
        let mask = (1_u32 << lanes.end) - (1 << lanes.start);
        // SAFETY: there are so many rows, and the tokens have as many blocks.
        let sums = unsafe { side::<T>(few, at, w.stride(), w.cols(), ahead.cast()) };
        for (t, sum) in sums.into_iter().enumerate() {
            // SAFETY: row `t` and column `first` are within `y`; the mask keeps to the columns of `rows`, which are this
            // task's alone.
            unsafe {
                let y = y.as_mut_ptr().add(t * y.stride() + first);
                _mm512_mask_storeu_ps(y, mask as u16, sum);
            }
        }
    }
}

/// Products of rows in the making.
struct Sums<const T: usize> {
    /// Of the block at hand, plus `MAGIC` and `added`.
    acc_i32x16: [__m512i; T],
    /// 128 times the sums of the block's elements: what taking the tokens' as `q + 128` adds to the products.
    added_i32x16: __m512i,
    /// The block's scales.
    d_f32x16: __m512,
    sum_f32x16: [__m512; T],
}

/// Two blocks of the tokens, and what is asked for from memory meanwhile.
struct Pair {
    /// The first token's elements, and bytes to the next one's.
    x: *const u8,
    token_bytes: usize,
    /// The first token's scales.
    scales: *const u8,
    ahead: *const i8,
}

/// The products of `T` tokens with [`SIDE`] rows from `w` on, `stride` blocks apart. What lies at `ahead` is asked for, as
/// much as is read.
///
/// # Safety
/// The rows have `blocks` blocks, as have the tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
unsafe fn side<const T: usize>(
    few: &Few,
    w: *const BlockQ8_0,
    stride: usize,
    blocks: usize,
    ahead: *const i8,
) -> [__m512; T] {
    let mut s = Sums {
        acc_i32x16: [_mm512_setzero_si512(); T],
        added_i32x16: _mm512_setzero_si512(),
        d_f32x16: _mm512_setzero_ps(),
        sum_f32x16: [_mm512_setzero_ps(); T],
    };
    let pitch = stride * BLOCK;
    let elements = few.prepared.as_ptr();
    // SAFETY: a token has its elements, and then as many scales as there are blocks.
    let pair = |b: usize| unsafe {
        Pair {
            x: elements.add(b * BLOCK_LEN),
            token_bytes: few.token_bytes,
            scales: elements.add(blocks * BLOCK_LEN + b * size_of::<f32>()),
            ahead: ahead.wrapping_add(SIDE * b * BLOCK),
        }
    };
    for b in (0..blocks - blocks % 2).step_by(2) {
        let mut pair = pair(b);
        // A loop over them would stay one, for the sake of `pin`.
        macro_rules! dwords {
            ($columns:ident, $($at:literal)*) => { $(
                s.dword::<$at>($columns[$at % 8], &mut pair);
            )* };
        }
        // SAFETY: the rows and the tokens have two blocks more.
        unsafe {
            let rows = w.add(b).cast::<u8>();
            let columns = columns(pin(rows, &mut s.added_i32x16), pitch);
            dwords!(columns, 0 1 2 3 4 5 6 7);
            let rows = pin(rows.add(32), &mut s.added_i32x16);
            let columns = self::columns(rows, pitch);
            dwords!(columns, 8 9 10 11 12 13 14 15);
            let rows = pin(rows.add(2 * BLOCK - 32 - 16), &mut s.added_i32x16);
            s.dword::<16>(last_column(rows, pitch), &mut pair);
        }
    }
    if blocks % 2 == 1 {
        let b = blocks - 1;
        let mut pair = pair(b);
        // SAFETY: rows and tokens have another block, the rows its scale and then its elements.
        unsafe {
            let d: [u16; SIDE] =
                std::array::from_fn(|r| w.add(r * stride + b).cast::<u16>().read());
            s.start(_mm256_loadu_si256(d.as_ptr().cast()));
            let elements = w.add(b).cast::<u8>().add(size_of::<u16>());
            for (j, column) in columns(elements, pitch).into_iter().enumerate() {
                s.add(column, 4 * j, &mut pair);
                _mm_prefetch::<_MM_HINT_T0>(pair.ahead.wrapping_add(64 * j));
            }
            s.finish(0, &pair);
        }
    }
    s.sum_f32x16
}

impl<const T: usize> Sums<T> {
    /// Begins a block, which has these f16 scales.
    #[inline]
    #[target_feature(enable = "avx512f,f16c")]
    fn start(&mut self, d_f16x16: __m256i) {
        self.acc_i32x16 = [_mm512_set1_epi32(MAGIC.to_bits().cast_signed()); T];
        self.added_i32x16 = _mm512_setzero_si512();
        self.d_f32x16 = _mm512_cvtph_ps(d_f16x16);
    }

    /// Adds the products of a dword of elements of each row, with the tokens' elements at `at` of a pair.
    ///
    /// # Safety
    /// The tokens have 4 elements there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn add(&mut self, column: __m512i, at: usize, pair: &mut Pair) {
        self.added_i32x16 = _mm512_dpbusd_epi32(self.added_i32x16, _mm512_set1_epi8(-128), column);
        for (t, acc) in self.acc_i32x16.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let q = unsafe {
                pair.x
                    .add(t * pair.token_bytes + at)
                    .cast::<i32>()
                    .read_unaligned()
            };
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_set1_epi32(q), column);
            pair.x = pin(pair.x, acc);
        }
    }

    /// Ends block 0 or 1 of a pair: scales its products and adds them to those before.
    ///
    /// # Safety
    /// The tokens have its scale.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn finish(&mut self, block: usize, pair: &Pair) {
        let offset = _mm512_mul_ps(self.d_f32x16, _mm512_set1_ps(-MAGIC));
        for (t, (acc, sum)) in self.acc_i32x16.iter().zip(&mut self.sum_f32x16).enumerate() {
            let x = pair
                .scales
                .wrapping_add(t * pair.token_bytes + block * size_of::<f32>());
            // SAFETY: the caller's promise.
            let x = _mm512_set1_ps(unsafe { x.cast::<f32>().read_unaligned() });
            let isum = _mm512_castsi512_ps(_mm512_sub_epi32(*acc, self.added_i32x16));
            let scaled = _mm512_fmadd_ps(isum, self.d_f32x16, offset);
            *sum = _mm512_fmadd_ps(scaled, x, *sum);
        }
    }

    /// Takes dword `AT` of the 17 of a pair, of each row, and asks for a line of what comes next.
    ///
    /// # Safety
    /// The tokens have a pair.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni,f16c")]
    unsafe fn dword<const AT: usize>(&mut self, column: __m512i, pair: &mut Pair) {
        // SAFETY: the caller's promise. Halves of dwords that are no elements are shifted out, and zeros in.
        unsafe {
            match AT {
                0 => {
                    self.start(_mm512_cvtepi32_epi16(column));
                    self.add(_mm512_srli_epi32::<16>(column), 0, pair);
                }
                1..8 => self.add(column, 4 * AT - 2, pair),
                8 => {
                    self.add(_mm512_slli_epi32::<16>(column), BLOCK_LEN - 4, pair);
                    self.finish(0, pair);
                    self.start(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(column)));
                }
                _ => self.add(column, BLOCK_LEN + 4 * (AT - 9), pair),
            }
            if AT == 16 {
                self.finish(1, pair);
            }
        }
        let line = pair.ahead.wrapping_add(64 * AT);
        // SAFETY: a hint, which touches no memory as far as the program can tell.
        #[expect(clippy::pointers_in_nomem_asm_block)]
        unsafe {
            asm!(
                "prefetcht0 [{0}] /* {1} */",
                in(reg) line,
                inout(zmm_reg) self.added_i32x16,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

/// `p`, which is known only after `v` is: whatever is loaded by way of it comes later in the program.
#[inline]
#[target_feature(enable = "avx512f")]
fn pin(mut p: *const u8, v: &mut __m512i) -> *const u8 {
    // SAFETY: there is no instruction in it.
    #[expect(clippy::pointers_in_nomem_asm_block)]
    unsafe {
        asm!(
            "/* {0} {1} */",
            inout(reg) p,
            inout(zmm_reg) *v,
            options(nomem, nostack, preserves_flags),
        );
    }
    p
}

/// The 8 dwords of each of [`SIDE`] rows, `pitch` bytes apart.
///
/// # Safety
/// Each row has 32 bytes there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns(rows: *const u8, pitch: usize) -> Columns {
    let row = |r: usize| {
        rows.wrapping_add(r / 4 * 4 * pitch)
            .wrapping_add(r % 4 * pitch)
    };
    // SAFETY: the caller's promise.
    unsafe { super::columns(row) }
}

/// The last dword of 16 bytes of each of [`SIDE`] rows, `pitch` bytes apart.
///
/// # Safety
/// Each row has 16 bytes there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn last_column(rows: *const u8, pitch: usize) -> __m512i {
    // SAFETY: the caller's promise.
    let row = |r: usize| unsafe {
        let four = rows.wrapping_add(r / 4 * 4 * pitch);
        _mm_loadu_si128(four.wrapping_add(r % 4 * pitch).cast())
    };
    // Row i of each four, for i = 0..4.
    let v: [__m512i; 4] = std::array::from_fn(|i| {
        let v = _mm512_zextsi128_si512(row(i));
        let v = _mm512_inserti32x4::<1>(v, row(i + 4));
        let v = _mm512_inserti32x4::<2>(v, row(i + 8));
        _mm512_inserti32x4::<3>(v, row(i + 12))
    });
    let low = _mm512_unpackhi_epi32(v[0], v[1]);
    _mm512_unpackhi_epi64(low, _mm512_unpackhi_epi32(v[2], v[3]))
}
