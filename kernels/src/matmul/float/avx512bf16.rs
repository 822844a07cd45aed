//! AVX-512 with its bf16 instructions: `vdpbf16ps` adds the products of pairs.
//!
//! WHY 32 × 12: as in `avx512.rs`, with twice the MACs a register where the CPU starts one `vdpbf16ps` a cycle, as Zen 4
//! does. On Intel's cores it takes the slots of four FMA, and [`crate::Level::preferred`] avoids it.
//!
//! WHY dot products up to 48 tokens: a panel's 32 rows side by side are slow to read from memory. On Zen 5, two threads,
//! from memory, dot products are 1.15 × as fast as tiles at 32 and 48 tokens, and no slower at 64; experts of a prompt
//! of 512 tokens 1.5 ×.
//!
//! WHY a lone token takes one row after the other: read side by side, four rows are fetched in an order that no
//! prefetcher of the CPU follows. On Zen 5, 4096 → 11008 from memory, in turn: 1.2 × with two threads, 1.48 × with one;
//! 1.5 × from the cache. The variants that widen to f32 stay with four rows: their activations, four bytes for each
//! weight's two, come from L2 where rows are long, and four rows share them (one row: 0.77 × at 11008, one thread).
//!
//! WHY at most five tokens in its order: four accumulators for each, and six tokens do not fit the registers (0.6 × from the
//! cache). Two rows at a time for three tokens do, and are slower by a third from the cache.

use std::arch::x86_64::*;

use half::bf16;

use super::avx512::{store, store_dots, transpose16};
use super::{Dot, Tile, Variant};

pub(super) static BF16: Variant<bf16, bf16> = Variant {
    dot_tokens: 48,
    block: BLOCK,
    prepare,
    dots: &[
        [beside::<1, 1>, beside::<4, 1>],
        [dot::<1, 2, 2>, dot::<4, 2, 2>],
        [dot::<1, 3, 2>, dot::<4, 3, 1>],
        [dot::<1, 4, 2>, dot::<4, 4, 1>],
        [dot::<1, 5, 2>, dot::<4, 5, 1>],
        [dot::<1, 6, 2>, dot::<4, 6, 1>],
    ],
    alike: &[
        [beside::<1, 1>, beside::<4, 1>],
        [beside::<1, 2>, beside::<4, 2>],
        [beside::<1, 3>, beside::<4, 3>],
        [beside::<1, 4>, beside::<4, 4>],
        [beside::<1, 5>, beside::<4, 5>],
    ],
    panel: PANEL,
    depth: 512,
    pair: 2,
    pack_x,
    pack_w,
    tiles: &[
        tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>,
        tile::<9>, tile::<10>, tile::<11>, tile::<12>,
    ],
};

/// Elements of a step of [`dot`]: a register.
const BLOCK: usize = 32;
/// Weight rows of a panel: two registers.
const PANEL: usize = 32;

/// Bytes from the weights at hand to those that [`beside`] asks for from memory. On Zen 5, where memory gives a core all
/// that it can take, 2 KiB are 11 % slower at rows of 1024 and 2 to 4 % at 4096; where two cores share what one could take,
/// 4 KiB are up to 4 % slower than 2 at rows of 1024, and 16 KiB 7 %.
const AHEAD: usize = 4 << 10;

/// The 32 elements at `p`.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load(p: *const bf16) -> __m512bh {
    // SAFETY: the caller allows reading them; any 64 bytes are a value of either type.
    unsafe { std::mem::transmute(_mm512_loadu_si512(p.cast())) }
}

/// Dot products of `R` weight rows with `M` tokens, see [`super::DotFn`]; `SUMS` accumulators for each cover the latency
/// where there are few.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn dot<const R: usize, const M: usize, const SUMS: usize>(a: &Dot<bf16, bf16>) {
    let x: [*const bf16; M] = *a.x.first_chunk().expect("a row for each token");
    let mut acc_f32x16 = [[[_mm512_setzero_ps(); M]; R]; SUMS];
    let (blocks, rest) = (a.k / BLOCK, a.k % BLOCK);
    let whole = blocks - blocks % SUMS;
    // SAFETY: weight rows hold `k` elements, prepared rows whole blocks; a prefetch may name any address.
    unsafe {
        for first in (0..whole).step_by(SUMS) {
            for (i, acc) in acc_f32x16.iter_mut().enumerate() {
                add_block::<R, M>(acc, a, &x, first + i);
            }
        }
        for b in whole..blocks {
            add_block::<R, M>(&mut acc_f32x16[0], a, &x, b);
        }
        if rest > 0 {
            for (r, acc) in acc_f32x16[0].iter_mut().enumerate() {
                let mut padded = [bf16::ZERO; BLOCK];
                let tail = a.w.add(r * a.w_stride + blocks * BLOCK);
                tail.copy_to_nonoverlapping(padded.as_mut_ptr(), rest);
                let w = load(padded.as_ptr());
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = _mm512_dpbf16_ps(*acc, w, load(x.add(blocks * BLOCK)));
                }
            }
        }
        let mut sums = [[[_mm512_setzero_ps(); 2]; M]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (m, sums) in sums.iter_mut().enumerate() {
                for (i, acc) in acc_f32x16.iter().enumerate() {
                    sums[i] = acc[r][m];
                }
            }
        }
        store_dots(&sums, a);
    }
}

/// Adds the products of block `b` of the rows and tokens.
///
/// # Safety
/// AVX-512 with bf16; the rows and tokens have that block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_block<const R: usize, const M: usize>(
    acc_f32x16: &mut [[__m512; M]; R],
    a: &Dot<bf16, bf16>,
    x: &[*const bf16; M],
    b: usize,
) {
    for (r, acc) in acc_f32x16.iter_mut().enumerate() {
        let line = a.next.wrapping_add(b * a.next_block + r * a.next_row);
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
        // SAFETY: the caller's promise.
        unsafe {
            let w = load(a.w.add(r * a.w_stride + b * BLOCK));
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = _mm512_dpbf16_ps(*acc, w, load(x.add(b * BLOCK)));
            }
        }
    }
}

/// As [`dot`], a row after the other, which reads memory fastest; the order of additions is the same for any `M`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn beside<const R: usize, const M: usize>(a: &Dot<bf16, bf16>) {
    let x: [*const bf16; M] = *a.x.first_chunk().expect("a row for each token");
    let mut sums_f32x16 = [[[_mm512_setzero_ps(); 2]; M]; R];
    let (blocks, rest) = (a.k / BLOCK, a.k % BLOCK);
    for (r, sums) in sums_f32x16.iter_mut().enumerate() {
        let mut acc_f32x16 = [[_mm512_setzero_ps(); M]; 4];
        // SAFETY: weight rows hold `k` elements, the prepared row whole blocks; a prefetch may name any address.
        unsafe {
            let w = a.w.add(r * a.w_stride);
            let ahead = a.stream.ahead(w, AHEAD);
            let whole = blocks - blocks % 4;
            for first in (0..whole).step_by(4) {
                for (i, acc) in acc_f32x16.iter_mut().enumerate() {
                    let at = (first + i) * BLOCK;
                    let line = ahead.wrapping_add(at * size_of::<bf16>());
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                    let w = load(w.add(at));
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = _mm512_dpbf16_ps(*acc, w, load(x.add(at)));
                    }
                }
            }
            for (acc, b) in acc_f32x16.iter_mut().zip(whole..blocks) {
                let w = load(w.add(b * BLOCK));
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = _mm512_dpbf16_ps(*acc, w, load(x.add(b * BLOCK)));
                }
            }
            if rest > 0 {
                let mut padded = [bf16::ZERO; BLOCK];
                w.add(blocks * BLOCK)
                    .copy_to_nonoverlapping(padded.as_mut_ptr(), rest);
                let w = load(padded.as_ptr());
                for (acc, x) in acc_f32x16[0].iter_mut().zip(x) {
                    *acc = _mm512_dpbf16_ps(*acc, w, load(x.add(blocks * BLOCK)));
                }
            }
        }
        let [a, b, c, d] = acc_f32x16;
        for (m, sums) in sums.iter_mut().enumerate() {
            *sums = [_mm512_add_ps(a[m], b[m]), _mm512_add_ps(c[m], d[m])];
        }
    }
    // SAFETY: the caller allows writing the outputs.
    unsafe { store_dots(&sums_f32x16, a) };
}

/// A panel's products with `M` tokens, see [`super::TileFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const M: usize>(a: &Tile<bf16>) {
    let mut acc_f32x16 = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: the caller allows reading `steps` of the panel and of the tokens, and `M` rows of partial sums.
    unsafe {
        if !a.first {
            for (m, acc) in acc_f32x16.iter_mut().enumerate() {
                acc[0] = _mm512_loadu_ps(a.partial.add(m * PANEL));
                acc[1] = _mm512_loadu_ps(a.partial.add(m * PANEL + 16));
            }
        }
        let (mut w, mut x, mut next, mut left) = (a.w, a.x, a.next, a.steps);
        while left > 0 {
            // One line of what comes next every 16 steps: in a burst they would fill the buffers that the loads need.
            _mm_prefetch::<_MM_HINT_T1>(next.cast());
            next = next.wrapping_add(a.next_step);
            let steps = left.min(16);
            left -= steps;
            for _ in 0..steps {
                let (w0, w1) = (load(w), load(w.add(32)));
                for (m, acc) in acc_f32x16.iter_mut().enumerate() {
                    let pair = _mm512_set1_epi32(x.add(2 * m).cast::<i32>().read_unaligned());
                    let pair: __m512bh = std::mem::transmute(pair);
                    acc[0] = _mm512_dpbf16_ps(acc[0], w0, pair);
                    acc[1] = _mm512_dpbf16_ps(acc[1], w1, pair);
                }
                w = w.add(2 * PANEL);
                x = x.add(2 * M);
            }
        }
        store(&acc_f32x16, a);
    }
}

/// Prepares a row of activations, see [`Variant::prepare`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn prepare(row: &[f32], out: &mut [bf16]) {
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    assert_eq!(out.len(), row.len().div_ceil(BLOCK));
    for (row, out) in row.chunks(BLOCK).zip(out) {
        let mask = u32::MAX >> (BLOCK - row.len());
        // SAFETY: the masks keep to the elements of the chunk; `out` is a whole block.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, row.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, row.as_ptr().wrapping_add(16));
            let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), rounded);
        }
    }
}

/// Packs the activations of a tile, see [`Variant::pack_x`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn pack_x(rows: &[&[f32]], out: &mut [bf16]) {
    let depth = rows[0].len();
    let tokens = rows.len();
    assert!(tokens <= 16 && out.len() == depth.next_multiple_of(2) * tokens);
    assert!(rows.iter().all(|row| row.len() == depth));
    let of_tokens = ((1_u32 << tokens) - 1) as u16;
    for at in (0..depth).step_by(32) {
        let columns = (depth - at).min(32);
        let mask = u32::MAX >> (32 - columns);
        let mut pairs = [_mm512_setzero_ps(); 16];
        // All 16, of which those without a token are not read: a loop of as many as there are would keep them in memory.
        for (i, pairs) in pairs.iter_mut().enumerate() {
            let mask = if i < tokens { mask } else { 0 };
            // SAFETY: the masks keep to the row's elements from `at` on; any 64 bytes are a value of either type.
            *pairs = unsafe {
                let row = rows[i.min(tokens - 1)].as_ptr().add(at);
                let low = _mm512_maskz_loadu_ps(mask as u16, row);
                let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, row.wrapping_add(16));
                std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
            };
        }
        transpose16(&mut pairs);
        let steps = columns.div_ceil(2);
        for (step, pairs) in pairs.into_iter().enumerate().take(steps) {
            // SAFETY: the mask keeps to the tokens of a step that `out` holds.
            unsafe {
                let out = out.as_mut_ptr().add((at / 2 + step) * 2 * tokens);
                _mm512_mask_storeu_ps(out.cast(), of_tokens, pairs);
            }
        }
    }
}

/// Packs a panel of weights, see [`Variant::pack_w`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn pack_w(rows: &[&[bf16]], out: &mut [bf16]) {
    let depth = rows[0].len();
    assert!(rows.len() == PANEL && out.len() == depth.next_multiple_of(2) * PANEL);
    assert!(rows.iter().all(|row| row.len() == depth));
    for half in 0..2 {
        for at in (0..depth).step_by(32) {
            let columns = (depth - at).min(32);
            let mask = u32::MAX >> (32 - columns);
            let mut pairs = [_mm512_setzero_ps(); 16];
            for (pairs, row) in pairs.iter_mut().zip(&rows[half * 16..]) {
                // SAFETY: the mask keeps to the row's elements from `at` on.
                let loaded = unsafe { _mm512_maskz_loadu_epi16(mask, row.as_ptr().add(at).cast()) };
                *pairs = _mm512_castsi512_ps(loaded);
            }
            transpose16(&mut pairs);
            let steps = columns.div_ceil(2);
            for (step, pairs) in pairs.into_iter().enumerate().take(steps) {
                // SAFETY: `out` holds this step.
                unsafe {
                    let step = out.as_mut_ptr().add((at / 2 + step) * 2 * PANEL);
                    _mm512_storeu_ps(step.add(half * 32).cast(), pairs);
                }
            }
        }
    }
}
