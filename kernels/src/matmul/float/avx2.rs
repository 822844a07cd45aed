//! AVX2 with FMA and F16C: every element is widened to f32, and multiplied and added there.
//!
//! WHY 16 × 6: of 16 registers 12 accumulate, which covers the latency of two FMA a cycle, two hold the panel's step and
//! one the broadcast activation; a step loads 2 + 6 registers for 12 FMA.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Dot, DotFn, Tile, TileFn, Variant};

pub(super) static F32: Variant<f32, f32> = variant();
pub(super) static F16: Variant<f16, f32> = variant();
pub(super) static BF16: Variant<bf16, f32> = variant();

/// Elements of a step of [`dot`].
const BLOCK: usize = 16;
/// Weight rows of a panel: two registers.
const PANEL: usize = 16;

const fn variant<W: Wide>() -> Variant<W, f32> {
    Variant {
        dot_tokens: 16,
        block: BLOCK,
        prepare: prepare::<W>,
        dots: const {
            let all: &[[DotFn<W, f32>; 2]] = &[
                [dot::<W, 1, 1>, dot::<W, 4, 1>],
                [dot::<W, 1, 2>, dot::<W, 4, 2>],
                [dot::<W, 1, 3>, dot::<W, 4, 3>],
            ];
            // With three tokens the halves of bf16 are more than there are registers for.
            if W::BF16 { all.split_at(2).0 } else { all }
        },
        alike: &[[dot::<W, 1, 1>, dot::<W, 4, 1>]],
        panel: PANEL,
        depth: 256,
        pair: 1,
        pack_x: pack_x::<W>,
        pack_w: pack_w::<W>,
        tiles: TILES,
    }
}

const TILES: &[TileFn<f32>] = &[
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>,
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

    /// The 16 elements at `p` as f32.
    ///
    /// # Safety
    /// AVX2 and F16C; 16 elements can be read at `p`.
    unsafe fn block(p: *const Self) -> [__m256; 2];

    /// The `8 · COLUMNS` elements at `p`.
    ///
    /// # Safety
    /// AVX2 and F16C; as many elements can be read at `p`.
    unsafe fn lanes(p: *const Self) -> __m256;

    /// The columns of transposed lanes.
    ///
    /// # Safety
    /// AVX2.
    unsafe fn columns(lanes: __m256) -> [__m256; 2];
}

impl Wide for f32 {
    const ZERO: Self = 0.0;
    const BF16: bool = false;
    const COLUMNS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block(p: *const Self) -> [__m256; 2] {
        // SAFETY: the caller allows reading 16 elements.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn lanes(p: *const Self) -> __m256 {
        // SAFETY: the caller allows reading 8 elements.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(lanes: __m256) -> [__m256; 2] {
        [lanes; 2]
    }
}

impl Wide for f16 {
    const ZERO: Self = Self::ZERO;
    const BF16: bool = false;
    const COLUMNS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block(p: *const Self) -> [__m256; 2] {
        // SAFETY: the caller allows reading 16 elements, and has the instructions.
        unsafe { [Self::lanes(p), Self::lanes(p.add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn lanes(p: *const Self) -> __m256 {
        // SAFETY: the caller allows reading 8 elements.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(lanes: __m256) -> [__m256; 2] {
        [lanes; 2]
    }
}

impl Wide for bf16 {
    const ZERO: Self = Self::ZERO;
    const BF16: bool = true;
    const COLUMNS: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block(p: *const Self) -> [__m256; 2] {
        // SAFETY: the caller allows reading 16 elements, and has the instructions.
        unsafe { Self::columns(Self::lanes(p)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn lanes(p: *const Self) -> __m256 {
        // SAFETY: the caller allows reading 16 elements.
        _mm256_castsi256_ps(unsafe { _mm256_loadu_si256(p.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns(lanes: __m256) -> [__m256; 2] {
        let pairs = _mm256_castps_si256(lanes);
        let even = _mm256_slli_epi32::<16>(pairs);
        let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd)]
    }
}

/// Dot products of `R` weight rows with `M` tokens, see [`DotFn`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot<W: Wide, const R: usize, const M: usize>(a: &Dot<W, f32>) {
    let x: [*const f32; M] = *a.x.first_chunk().expect("a row for each token");
    let mut acc_f32x8 = [[[_mm256_setzero_ps(); 2]; M]; R];
    let blocks = a.k / BLOCK;
    let rest = a.k % BLOCK;
    // SAFETY: weight rows hold `k` elements, prepared rows whole blocks; a prefetch may name any address.
    unsafe {
        for b in 0..blocks {
            for (r, acc) in acc_f32x8.iter_mut().enumerate() {
                // A block is a line of f32, but half a line of the others.
                let line = a.next.wrapping_add(b * a.next_block + r * a.next_row);
                if size_of::<W>() == 4 || (b + r).is_multiple_of(2) {
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
                let w = W::block(a.w.add(r * a.w_stride + b * BLOCK));
                add_block::<R, M>(acc, w, &x, b * BLOCK);
            }
        }
        if rest > 0 {
            for (r, acc) in acc_f32x8.iter_mut().enumerate() {
                let mut padded = [W::ZERO; BLOCK];
                let tail = a.w.add(r * a.w_stride + blocks * BLOCK);
                tail.copy_to_nonoverlapping(padded.as_mut_ptr(), rest);
                let w = W::block(padded.as_ptr());
                add_block::<R, M>(acc, w, &x, blocks * BLOCK);
            }
        }
    }
    for m in 0..M {
        for (r, acc) in acc_f32x8.iter().enumerate() {
            let [even, odd] = acc[m];
            // SAFETY: the caller allows writing `R` outputs of `M` tokens.
            unsafe {
                let y = a.y.add(m * a.y_stride + r);
                let sum = reduce(_mm256_add_ps(even, odd));
                *y = if a.add { *y + sum } else { sum };
            }
        }
    }
}

/// Adds the products of a block of one weight row with the tokens' blocks that start at `at`.
///
/// # Safety
/// AVX2 and FMA; the blocks can be read.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_block<const R: usize, const M: usize>(
    acc_f32x8: &mut [[__m256; 2]; M],
    w: [__m256; 2],
    x: &[*const f32; M],
    at: usize,
) {
    for (h, w) in w.into_iter().enumerate() {
        for (m, acc) in acc_f32x8.iter_mut().enumerate() {
            // SAFETY: the caller allows reading the block.
            let x = unsafe { _mm256_loadu_ps(x[m].add(at + 8 * h)) };
            // Few products need twice the accumulators to cover the latency of an FMA.
            let half = if R * M <= 4 { h } else { 0 };
            acc[half] = _mm256_fmadd_ps(w, x, acc[half]);
        }
    }
}

/// The sum of a register's lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// A panel's products with `M` tokens, see [`TileFn`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize>(a: &Tile<f32>) {
    let mut acc_f32x8 = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: the caller allows reading `steps` of the panel and of the tokens, and `M` rows of partial sums, and
    // writing these or the outputs.
    unsafe {
        if !a.first {
            for (m, acc) in acc_f32x8.iter_mut().enumerate() {
                acc[0] = _mm256_loadu_ps(a.partial.add(m * PANEL));
                acc[1] = _mm256_loadu_ps(a.partial.add(m * PANEL + 8));
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
                let (w0, w1) = (_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8)));
                for (m, acc) in acc_f32x8.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*x.add(m));
                    acc[0] = _mm256_fmadd_ps(x, w0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, w1, acc[1]);
                }
                w = w.add(PANEL);
                x = x.add(M);
            }
        }
        for (m, acc) in acc_f32x8.iter().enumerate() {
            if !a.last {
                _mm256_storeu_ps(a.partial.add(m * PANEL), acc[0]);
                _mm256_storeu_ps(a.partial.add(m * PANEL + 8), acc[1]);
            } else if a.cols == PANEL {
                _mm256_storeu_ps(a.y.add(m * a.y_stride), acc[0]);
                _mm256_storeu_ps(a.y.add(m * a.y_stride + 8), acc[1]);
            } else {
                let mut sums = [0.0_f32; PANEL];
                _mm256_storeu_ps(sums.as_mut_ptr(), acc[0]);
                _mm256_storeu_ps(sums.as_mut_ptr().add(8), acc[1]);
                let y = a.y.add(m * a.y_stride);
                sums.as_ptr().copy_to_nonoverlapping(y, a.cols);
            }
        }
    }
}

/// Prepares a row of activations, see [`Variant::prepare`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn prepare<W: Wide>(row: &[f32], out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    assert_eq!(out.len(), row.len().div_ceil(BLOCK));
    for (row, out) in row.chunks(BLOCK).zip(out) {
        let mut padded = [0.0; BLOCK];
        padded[..row.len()].copy_from_slice(row);
        // SAFETY: both are whole blocks.
        unsafe {
            let mut low = _mm256_loadu_ps(padded.as_ptr());
            let mut high = _mm256_loadu_ps(padded.as_ptr().add(8));
            if W::BF16 {
                let (l, h) = (round_bf16(low), round_bf16(high));
                // Within 128-bit parts first; then the middle quarters change places.
                let (even, odd) = (
                    _mm256_shuffle_ps::<0x88>(l, h),
                    _mm256_shuffle_ps::<0xdd>(l, h),
                );
                let (even, odd) = (_mm256_castps_pd(even), _mm256_castps_pd(odd));
                low = _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(even));
                high = _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(odd));
            }
            _mm256_storeu_ps(out.as_mut_ptr(), low);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
        }
    }
}

/// Rounds to the nearest bf16, ties to even; NaN stay NaN.
#[inline]
#[target_feature(enable = "avx2")]
fn round_bf16(x: __m256) -> __m256 {
    let bits = _mm256_castps_si256(x);
    let lowest = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), lowest);
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let chosen = _mm256_blendv_ps(
        _mm256_castsi256_ps(rounded),
        _mm256_castsi256_ps(quiet),
        nan,
    );
    let upper = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
    _mm256_and_ps(chosen, upper)
}

/// Packs the activations of a tile, see [`Variant::pack_x`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_x<W: Wide>(rows: &[&[f32]], out: &mut [f32]) {
    let depth = rows[0].len();
    let tokens = rows.len();
    assert!(
        tokens <= 8 && out.len() == depth * tokens && rows.iter().all(|row| row.len() == depth)
    );
    for at in (0..depth).step_by(8) {
        let columns = (depth - at).min(8);
        let mut lanes = [_mm256_setzero_ps(); 8];
        for (lane, row) in lanes.iter_mut().zip(rows) {
            let mut padded = [0.0_f32; 8];
            padded[..columns].copy_from_slice(&row[at..][..columns]);
            // SAFETY: eight elements are there.
            let x = unsafe { _mm256_loadu_ps(padded.as_ptr()) };
            *lane = if W::BF16 { round_bf16(x) } else { x };
        }
        transpose8(&mut lanes);
        for (column, lane) in lanes.into_iter().enumerate().take(columns) {
            let mut step = [0.0_f32; 8];
            // SAFETY: there is room for eight elements.
            unsafe { _mm256_storeu_ps(step.as_mut_ptr(), lane) };
            out[(at + column) * tokens..][..tokens].copy_from_slice(&step[..tokens]);
        }
    }
}

/// Packs a panel of weights, see [`Variant::pack_w`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_w<W: Wide>(rows: &[&[W]], out: &mut [f32]) {
    let depth = rows[0].len();
    assert!(rows.len() == PANEL && out.len() == depth * PANEL);
    assert!(rows.iter().all(|row| row.len() == depth));
    for half in 0..2 {
        let rows = &rows[half * 8..][..8];
        for at in (0..depth).step_by(8 * W::COLUMNS) {
            let columns = (depth - at).min(8 * W::COLUMNS);
            let mut lanes = [_mm256_setzero_ps(); 8];
            for (lane, row) in lanes.iter_mut().zip(rows) {
                let row = &row[at..];
                // SAFETY: whole lanes are read where the row has them, and else from a copy that is large enough.
                *lane = unsafe {
                    if columns == 8 * W::COLUMNS {
                        W::lanes(row.as_ptr())
                    } else {
                        let mut padded = [W::ZERO; 16];
                        padded[..columns].copy_from_slice(row);
                        W::lanes(padded.as_ptr())
                    }
                };
            }
            transpose8(&mut lanes);
            for (i, lane) in lanes.into_iter().enumerate() {
                // SAFETY: steps below `depth` lie within `out`.
                unsafe {
                    let parts = W::columns(lane);
                    for (c, part) in parts.into_iter().enumerate().take(W::COLUMNS) {
                        let column = i * W::COLUMNS + c;
                        if column < columns {
                            let step = out.as_mut_ptr().add((at + column) * PANEL);
                            _mm256_storeu_ps(step.add(half * 8), part);
                        }
                    }
                }
            }
        }
    }
}

/// Transposes 8 × 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose8(r: &mut [__m256; 8]) {
    let mut t = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..2 {
        r[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(t[4 * i + 1], t[4 * i + 3]);
    }
    // Now 128-bit part p of r[4i + j] holds rows 4i..4i + 4 of column 4p + j.
    for j in 0..4 {
        t[j] = _mm256_permute2f128_ps::<0x20>(r[j], r[4 + j]);
        t[4 + j] = _mm256_permute2f128_ps::<0x31>(r[j], r[4 + j]);
    }
    *r = t;
}
