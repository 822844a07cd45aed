//! AVX-512 without its bf16 instructions: every element is widened to f32, and multiplied and added there.
//!
//! WHY 32 × 12: 24 accumulators cover the latency of two FMA a cycle, and a step loads 2 + 12 registers for 24 FMA, so
//! that neither of the two load ports is the bound. 48 × 8 measures the same, and 32 × 12 wastes less on tails.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Dot, DotFn, Tile, TileFn, Variant};

pub(super) static F32: Variant<f32, f32> = variant();
pub(super) static F16: Variant<f16, f32> = variant();
pub(super) static BF16: Variant<bf16, f32> = variant();

/// Elements of a step of [`dot`].
const BLOCK: usize = 32;
/// Weight rows of a panel: two registers.
const PANEL: usize = 32;

const fn variant<W: Wide>() -> Variant<W, f32> {
    Variant {
        dot_tokens: 24,
        block: BLOCK,
        prepare: prepare::<W>,
        dots: const {
            let all: &[[DotFn<W, f32>; 2]] = &[
                [dot::<W, 1, 1>, dot::<W, 4, 1>],
                [dot::<W, 1, 2>, dot::<W, 4, 2>],
                [dot::<W, 1, 3>, dot::<W, 4, 3>],
                [dot::<W, 1, 4>, dot::<W, 4, 4>],
                [dot::<W, 1, 5>, dot::<W, 4, 5>],
                [dot::<W, 1, 6>, dot::<W, 4, 6>],
            ];
            // With six tokens the halves of bf16 are more than there are registers for.
            if W::BF16 { all.split_at(5).0 } else { all }
        },
        alike: &[
            [dot::<W, 1, 1>, dot::<W, 4, 1>],
            [dot::<W, 1, 2>, dot::<W, 4, 2>],
        ],
        panel: PANEL,
        depth: 256,
        pair: 1,
        pack_x: pack_x::<W>,
        pack_w: pack_w::<W>,
        tiles: TILES,
    }
}

const TILES: &[TileFn<f32>] = &[
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>,
    tile::<9>, tile::<10>, tile::<11>, tile::<12>,
];

/// How the elements of a weight type become f32 lanes.
trait Wide: Copy + 'static {
    /// What pads a row.
    const ZERO: Self;
    /// Whether activations are rounded to bf16; their even and odd elements are then parted within a block, as
    /// [`Wide::block`] parts those of the weights.
    const BF16: bool;
    /// Columns of a lane of [`Wide::lanes`].
    const COLUMNS: usize;

    /// The 32 elements at `p` as f32.
    ///
    /// # Safety
    /// AVX-512 F and BW; 32 elements can be read at `p`.
    unsafe fn block(p: *const Self) -> [__m512; 2];

    /// The `16 · COLUMNS` elements at `p`.
    ///
    /// # Safety
    /// AVX-512 F and BW; as many elements can be read at `p`.
    unsafe fn lanes(p: *const Self) -> __m512;

    /// The columns of transposed lanes.
    ///
    /// # Safety
    /// AVX-512 F and BW.
    unsafe fn columns(lanes: __m512) -> [__m512; 2];
}

impl Wide for f32 {
    const ZERO: Self = 0.0;
    const BF16: bool = false;
    const COLUMNS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn block(p: *const Self) -> [__m512; 2] {
        // SAFETY: the caller allows reading 32 elements.
        unsafe { [_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16))] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn lanes(p: *const Self) -> __m512 {
        // SAFETY: the caller allows reading 16 elements.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn columns(lanes: __m512) -> [__m512; 2] {
        [lanes; 2]
    }
}

impl Wide for f16 {
    const ZERO: Self = Self::ZERO;
    const BF16: bool = false;
    const COLUMNS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn block(p: *const Self) -> [__m512; 2] {
        // SAFETY: the caller allows reading 32 elements.
        unsafe { [Self::lanes(p), Self::lanes(p.add(16))] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn lanes(p: *const Self) -> __m512 {
        // SAFETY: the caller allows reading 16 elements.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn columns(lanes: __m512) -> [__m512; 2] {
        [lanes; 2]
    }
}

impl Wide for bf16 {
    const ZERO: Self = Self::ZERO;
    const BF16: bool = true;
    const COLUMNS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn block(p: *const Self) -> [__m512; 2] {
        // SAFETY: the caller allows reading 32 elements, and has the instructions.
        unsafe { Self::columns(Self::lanes(p)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn lanes(p: *const Self) -> __m512 {
        // SAFETY: the caller allows reading 32 elements.
        _mm512_castsi512_ps(unsafe { _mm512_loadu_si512(p.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn columns(lanes: __m512) -> [__m512; 2] {
        let pairs = _mm512_castps_si512(lanes);
        let even = _mm512_slli_epi32::<16>(pairs);
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
    }
}

/// Dot products of `R` weight rows with `M` prepared activation rows, see [`DotFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn dot<W: Wide, const R: usize, const M: usize>(a: &Dot<W, f32>) {
    let x: [*const f32; M] = *a.x.first_chunk().expect("a row for each token");
    let mut acc_f32x16 = [[[_mm512_setzero_ps(); 2]; M]; R];
    let blocks = a.k / BLOCK;
    let rest = a.k % BLOCK;
    // SAFETY: weight rows hold `k` elements, prepared rows whole blocks; a prefetch may name any address.
    unsafe {
        for b in 0..blocks {
            for (r, acc) in acc_f32x16.iter_mut().enumerate() {
                let line = a.next.wrapping_add(b * a.next_block + r * a.next_row);
                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                if size_of::<W>() == 4 {
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(16).cast());
                }
                let w = W::block(a.w.add(r * a.w_stride + b * BLOCK));
                add_block::<R, M>(acc, w, &x, b * BLOCK);
            }
        }
        if rest > 0 {
            for (r, acc) in acc_f32x16.iter_mut().enumerate() {
                let mut padded = [W::ZERO; BLOCK];
                let tail = a.w.add(r * a.w_stride + blocks * BLOCK);
                tail.copy_to_nonoverlapping(padded.as_mut_ptr(), rest);
                let w = W::block(padded.as_ptr());
                add_block::<R, M>(acc, w, &x, blocks * BLOCK);
            }
        }
        store_dots(&acc_f32x16, a);
    }
}

/// Adds the products of a block of one weight row with the tokens' blocks that start at `at`.
///
/// # Safety
/// AVX-512; the blocks can be read.
#[inline]
#[target_feature(enable = "avx512f,fma")]
unsafe fn add_block<const R: usize, const M: usize>(
    acc_f32x16: &mut [[__m512; 2]; M],
    w: [__m512; 2],
    x: &[*const f32; M],
    at: usize,
) {
    for (h, w) in w.into_iter().enumerate() {
        for (m, acc) in acc_f32x16.iter_mut().enumerate() {
            // SAFETY: the caller allows reading the block.
            let x = unsafe { _mm512_loadu_ps(x[m].add(at + 16 * h)) };
            // Few products need twice the accumulators to cover the latency of an FMA.
            let half = if R * M <= 8 { h } else { 0 };
            acc[half] = _mm512_fmadd_ps(w, x, acc[half]);
        }
    }
}

/// Stores the sums of a [`dot`].
///
/// # Safety
/// AVX-512; `R` outputs of `M` tokens can be written.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) unsafe fn store_dots<const R: usize, const M: usize, W, X>(
    acc_f32x16: &[[[__m512; 2]; M]; R],
    a: &Dot<W, X>,
) {
    for m in 0..M {
        let mut sums = [_mm512_setzero_ps(); 4];
        for (sum, acc) in sums.iter_mut().zip(acc_f32x16) {
            *sum = _mm512_add_ps(acc[m][0], acc[m][1]);
        }
        let mut sums = reduce4(sums);
        let mask = (1 << R) - 1;
        // SAFETY: the caller allows writing these outputs, and the mask keeps to them.
        unsafe {
            let y = a.y.add(m * a.y_stride);
            if a.add {
                sums = _mm_add_ps(sums, _mm_maskz_loadu_ps(mask, y));
            }
            _mm_mask_storeu_ps(y, mask, sums);
        }
    }
}

/// The sums of four registers' lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn reduce4([a, b, c, d]: [__m512; 4]) -> __m128 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    let abcd = _mm512_add_ps(low, high);
    let half = _mm256_add_ps(
        _mm512_castps512_ps256(abcd),
        _mm512_extractf32x8_ps::<1>(abcd),
    );
    _mm_add_ps(
        _mm256_castps256_ps128(half),
        _mm256_extractf128_ps::<1>(half),
    )
}

/// A panel's products with `M` tokens, see [`TileFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn tile<const M: usize>(a: &Tile<f32>) {
    let mut acc_f32x16 = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: the caller allows reading `steps` of the panel and of the tokens, and `M` rows of partial sums.
    unsafe {
        if !a.first {
            for (m, acc) in acc_f32x16.iter_mut().enumerate() {
                *acc = [
                    _mm512_loadu_ps(a.partial.add(m * PANEL)),
                    _mm512_loadu_ps(a.partial.add(m * PANEL + 16)),
                ];
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
                let (w0, w1) = (_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16)));
                for (m, acc) in acc_f32x16.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x.add(m));
                    acc[0] = _mm512_fmadd_ps(x, w0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(x, w1, acc[1]);
                }
                w = w.add(PANEL);
                x = x.add(M);
            }
        }
        store(&acc_f32x16, a);
    }
}

/// Stores a tile's sums where they belong.
///
/// # Safety
/// As for [`TileFn`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store<const M: usize, X>(acc_f32x16: &[[__m512; 2]; M], a: &Tile<X>) {
    // SAFETY: the caller allows writing `M` rows of partial sums, or `cols` columns of as many rows of the output.
    unsafe {
        if !a.last {
            for (m, acc) in acc_f32x16.iter().enumerate() {
                _mm512_storeu_ps(a.partial.add(m * PANEL), acc[0]);
                _mm512_storeu_ps(a.partial.add(m * PANEL + 16), acc[1]);
            }
        } else if a.cols == PANEL {
            for (m, acc) in acc_f32x16.iter().enumerate() {
                _mm512_storeu_ps(a.y.add(m * a.y_stride), acc[0]);
                _mm512_storeu_ps(a.y.add(m * a.y_stride + 16), acc[1]);
            }
        } else {
            let mask = (1_u32 << a.cols) - 1;
            for (m, acc) in acc_f32x16.iter().enumerate() {
                let y = a.y.add(m * a.y_stride);
                _mm512_mask_storeu_ps(y, mask as u16, acc[0]);
                _mm512_mask_storeu_ps(y.wrapping_add(16), (mask >> 16) as u16, acc[1]);
            }
        }
    }
}

/// Prepares a row of activations, see [`Variant::prepare`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn prepare<W: Wide>(row: &[f32], out: &mut [f32]) {
    debug_assert_eq!(out.len(), row.len().next_multiple_of(BLOCK));
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    for (row, out) in row.chunks(BLOCK).zip(out) {
        // SAFETY: the masks keep to the elements of the chunk; `out` is a whole block.
        unsafe {
            let mask = u32::MAX >> (BLOCK - row.len());
            let mut low = _mm512_maskz_loadu_ps(mask as u16, row.as_ptr());
            let mut high =
                _mm512_maskz_loadu_ps((mask >> 16) as u16, row.as_ptr().wrapping_add(16));
            if W::BF16 {
                let (l, h) = (round_bf16(low), round_bf16(high));
                low = _mm512_permutex2var_ps(l, even, h);
                high = _mm512_permutex2var_ps(l, odd, h);
            }
            _mm512_storeu_ps(out.as_mut_ptr(), low);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), high);
        }
    }
}

/// Rounds to the nearest bf16, ties to even; NaN stay NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn round_bf16(x: __m512) -> __m512 {
    let bits = _mm512_castps_si512(x);
    let lowest = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), lowest);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let quiet = _mm512_set1_epi32(0x0040_0000);
    let chosen = _mm512_mask_or_epi32(rounded, nan, bits, quiet);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    _mm512_castsi512_ps(_mm512_and_si512(chosen, upper))
}

/// Packs the activations of a tile, see [`Variant::pack_x`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn pack_x<W: Wide>(rows: &[&[f32]], out: &mut [f32]) {
    let depth = rows[0].len();
    assert!(out.len() == depth * rows.len() && rows.iter().all(|row| row.len() == depth));
    let tokens = (1_u16 << rows.len()) - 1;
    for at in (0..depth).step_by(16) {
        let columns = (depth - at).min(16);
        let mask = u16::MAX >> (16 - columns);
        let mut lanes = [_mm512_setzero_ps(); 16];
        for (lane, row) in lanes.iter_mut().zip(rows) {
            // SAFETY: the mask keeps to the row's elements from `at` on.
            let x = unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr().add(at)) };
            *lane = if W::BF16 { round_bf16(x) } else { x };
        }
        transpose16(&mut lanes);
        for (column, lane) in lanes.into_iter().enumerate().take(columns) {
            // SAFETY: the mask keeps to the tokens of step `at + column`, which `out` holds.
            unsafe {
                let out = out.as_mut_ptr().add((at + column) * rows.len());
                _mm512_mask_storeu_ps(out, tokens, lane);
            }
        }
    }
}

/// Packs a panel of weights, see [`Variant::pack_w`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn pack_w<W: Wide>(rows: &[&[W]], out: &mut [f32]) {
    let depth = rows[0].len();
    assert!(
        rows.len() == PANEL
            && out.len() == depth * PANEL
            && rows.iter().all(|row| row.len() == depth)
    );
    for half in 0..2 {
        let rows = &rows[half * 16..][..16];
        for at in (0..depth).step_by(16 * W::COLUMNS) {
            let columns = (depth - at).min(16 * W::COLUMNS);
            let mut lanes = [_mm512_setzero_ps(); 16];
            for (lane, row) in lanes.iter_mut().zip(rows) {
                let row = &row[at..];
                // SAFETY: whole lanes are read where the row has them, and else from a copy that is large enough.
                *lane = unsafe {
                    if columns == 16 * W::COLUMNS {
                        W::lanes(row.as_ptr())
                    } else {
                        let mut padded = [W::ZERO; 32];
                        padded[..columns].copy_from_slice(row);
                        W::lanes(padded.as_ptr())
                    }
                };
            }
            transpose16(&mut lanes);
            for (i, lane) in lanes.into_iter().enumerate() {
                // SAFETY: steps below `depth` lie within `out`.
                unsafe {
                    let parts = W::columns(lane);
                    for (c, part) in parts.into_iter().enumerate().take(W::COLUMNS) {
                        let column = i * W::COLUMNS + c;
                        if column < columns {
                            let step = out.as_mut_ptr().add((at + column) * PANEL);
                            _mm512_storeu_ps(step.add(half * 16), part);
                        }
                    }
                }
            }
        }
    }
}

/// Transposes 16 × 16 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn transpose16(r: &mut [__m512; 16]) {
    let mut t = [_mm512_setzero_ps(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        let (a, b) = (_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 1]));
        let (c, d) = (
            _mm512_castps_pd(t[4 * i + 2]),
            _mm512_castps_pd(t[4 * i + 3]),
        );
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // Now 128-bit part p of r[4i + j] holds rows 4i..4i + 4 of column 4p + j.
    for j in 0..4 {
        let even01 = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
        let odd01 = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
        let even23 = _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]);
        let odd23 = _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]);
        t[j] = _mm512_shuffle_f32x4::<0x88>(even01, even23);
        t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even01, even23);
        t[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd01, odd23);
        t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd01, odd23);
    }
    *r = t;
}
