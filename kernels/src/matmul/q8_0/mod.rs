//! Q8_0 weights: the walk over the operands that all variants share.

mod avx2;
mod avx512;

pub(super) use avx2::AVX2;
pub(super) use avx512::AVX512;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

use super::Rows;
use super::kernel::{Kernel, Product, Tokens};
use crate::pool::share;
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::runtime::Runtime;
use crate::view::{MatRef, Weights};

/// Blocks of 32 that a panel is deep.
const DEPTH: usize = 16;

/// Panels that are multiplied with a stretch of activations while that is in the cache.
const GROUP: usize = 4;

/// Tokens that go through a group together, about.
const TOKENS: usize = 640;

/// Bytes of activations that may be walked again for each panel.
const NEAR: usize = 512 << 10;

/// Bytes of weights of a task where they are read once, for one token.
const STREAM: usize = 1 << 20;

/// Blocks from those at hand to those asked for from memory.
const AHEAD: usize = 256;

/// 1.5 · 2²³ as f32: the integers within 2²² of its bit pattern are the floats within 2²² of it.
const MAGIC: f32 = 12_582_912.0;

/// A block without a larger element than 2⁻¹⁰⁰ counts as zeros.
const NOTHING: f32 = 1.0 / (1_u128 << 100) as f32;

/// What a variant has of its own.
pub(super) struct Variant {
    /// Rows of a panel.
    panel: usize,
    /// Bytes of a panel for each block of 32.
    panel_block: usize,
    /// Bytes of a token's block, scale and all.
    token_block: usize,
    /// The same where there is one token only.
    one_block: usize,
    /// Rounds and interleaves the tokens of a granule.
    quantize: unsafe fn(&Tokens, Range<usize>, &mut [u8]),
    /// Rounds a token for `dots`.
    quantize_one: unsafe fn(&[f32], &mut [u8]),
    /// Interleaves rows `rows`, blocks `blocks` of the weights into a panel; rows past the end are the last one again.
    pack: unsafe fn(&MatRef<BlockQ8_0>, Rows, Range<usize>, &mut [u8]),
    /// Tiles of 1, 2, 3 … tokens.
    tiles: &'static [TileFn],
    /// Products of one token with rows of the weights.
    dots: unsafe fn(&[u8], &MatRef<BlockQ8_0>, Rows, &mut [f32]),
}

/// Multiplies a panel with as many tokens as the function is for.
///
/// # Safety
/// The CPU has the variant's instructions; the tile's pointers are valid as it says.
type TileFn = unsafe fn(tile: &Tile);

/// A panel, some tokens, and where their products go.
struct Tile<'a> {
    panel: &'a [u8],
    tokens: &'a [u8],
    /// What the products are added to, valid for reads of `[tokens, panel]`; null: zeros.
    from: *const f32,
    /// Valid for writes of a panel's rows at each multiple of `stride`, once for each token. May be `from`.
    to: *mut f32,
    stride: usize,
}

impl Kernel for Variant {
    fn prepared_layout(&self, m: usize, k: usize) -> (usize, usize) {
        // Tiles as equal as may be: 8 tokens are 4 + 4, not 6 + 2.
        let granule = m.div_ceil(m.div_ceil(self.tiles.len()));
        let block = if m == 1 {
            self.one_block
        } else {
            self.token_block
        };
        (k / BLOCK_LEN * block, granule)
    }

    fn prepare(&self, tokens: &Tokens, range: Range<usize>, out: &mut [u8]) {
        if tokens.len() == 1 {
            // SAFETY: a variant is handed out only where the CPU has its instructions.
            unsafe { (self.quantize_one)(tokens.row(0), out) };
            return;
        }
        let (token_bytes, granule) = self.prepared_layout(tokens.len(), tokens.cols());
        let starts = range.clone().step_by(granule);
        for (start, out) in starts.zip(out.chunks_mut(granule * token_bytes)) {
            // SAFETY: as above.
            unsafe { (self.quantize)(tokens, start..range.end.min(start + granule), out) };
        }
    }

    fn task_rows(&self, m: usize, k: usize) -> (usize, usize) {
        if m == 1 {
            let rows = STREAM / (k / BLOCK_LEN * size_of::<BlockQ8_0>());
            (8, rows.next_multiple_of(8).max(8))
        } else {
            (self.panel, self.panel * GROUP)
        }
    }

    fn multiply(&self, rt: &Runtime, product: &Product, rows: Rows) {
        let Weights::Q8_0(w) = product.w else {
            unreachable!("a kernel for Q8_0 weights");
        };
        if product.tokens.len() == 1 {
            // SAFETY: tasks have columns of `y` of their own.
            let y = unsafe { product.y.tile(0, rows.start, rows.len()) };
            // SAFETY: a variant is handed out only where the CPU has its instructions.
            unsafe { (self.dots)(product.prepared, &w, rows, y) };
            return;
        }
        let (token_bytes, granule) = self.prepared_layout(product.tokens.len(), product.w.cols());
        let walk = Walk {
            variant: self,
            product,
            w,
            token_bytes,
            granule,
        };
        walk.rows(rt, rows);
    }
}

/// The loops around the tiles.
struct Walk<'a> {
    variant: &'a Variant,
    product: &'a Product<'a>,
    w: MatRef<'a, BlockQ8_0>,
    token_bytes: usize,
    granule: usize,
}

impl Walk<'_> {
    fn rows(&self, rt: &Runtime, rows: Rows) {
        let all = rows.clone();
        let (m, blocks) = (self.product.tokens.len(), self.w.cols());
        let Variant {
            panel, panel_block, ..
        } = *self.variant;
        let group = if m * self.token_bytes <= NEAR {
            1
        } else {
            GROUP
        };
        let stretch = m
            .div_ceil(m.div_ceil(TOKENS))
            .next_multiple_of(self.granule);
        let mut packed = rt.scratch().take::<u8>(DEPTH * panel_block);
        let mut sums = rt.scratch().take::<f32>(group * panel * stretch.min(m));
        for start in (0..m).step_by(stretch) {
            let tokens = start..m.min(start + stretch);
            for first in rows.clone().step_by(group * panel) {
                let group = first..rows.end.min(first + group * panel);
                for from in (0..blocks).step_by(DEPTH) {
                    let depth = from..blocks.min(from + DEPTH);
                    let packed = &mut packed[..depth.len() * panel_block];
                    let sums = sums.chunks_mut(panel * tokens.len());
                    for (first, sums) in group.clone().step_by(panel).zip(sums) {
                        let rows = first..group.end.min(first + panel);
                        let next = if rows.end < group.end {
                            (rows.end..group.end.min(rows.end + panel), depth.clone())
                        } else if depth.end < blocks {
                            (
                                group.start..group.end.min(group.start + panel),
                                depth.end..blocks.min(depth.end + DEPTH),
                            )
                        } else {
                            (
                                group.end..all.end.min(group.end + panel),
                                0..blocks.min(DEPTH),
                            )
                        };
                        // SAFETY: a variant is handed out only where the CPU has its instructions.
                        unsafe {
                            (self.variant.pack)(&self.w, rows.clone(), depth.clone(), packed);
                        }
                        self.panel(packed, sums, &tokens, &rows, &depth, &next);
                    }
                }
            }
        }
    }

    /// Multiplies a panel with a stretch of tokens.
    fn panel(
        &self,
        packed: &[u8],
        sums: &mut [f32],
        tokens: &Range<usize>,
        rows: &Rows,
        depth: &Range<usize>,
        next: &(Rows, Range<usize>),
    ) {
        let Variant {
            panel, token_block, ..
        } = *self.variant;
        let (first, last) = (depth.start == 0, depth.end == self.w.cols());
        let starts = tokens.clone().step_by(self.granule);
        let tiles = starts.len();
        for (at, (start, sums)) in starts
            .zip(sums.chunks_mut(self.granule * panel))
            .enumerate()
        {
            for row in share(next.0.len(), 1, tiles, at) {
                let source = self.w.row(next.0.start + row)[next.1.clone()].as_ptr();
                ask(source, next.1.len());
            }
            let count = self.granule.min(tokens.end - start);
            let bytes = count * token_block;
            let prepared = &self.product.prepared[start * self.token_bytes..];
            let y = &self.product.y;
            let direct = last && rows.len() == panel;
            let tile = Tile {
                panel: packed,
                tokens: &prepared[depth.start * bytes..depth.end * bytes],
                from: if first {
                    std::ptr::null()
                } else {
                    sums.as_ptr()
                },
                to: if direct {
                    // SAFETY: row `start` and column `rows.start` are within `y`.
                    unsafe { y.as_mut_ptr().add(start * y.stride() + rows.start) }
                } else {
                    sums.as_mut_ptr()
                },
                stride: if direct { y.stride() } else { panel },
            };
            assert!(sums.len() == count * panel && start + count <= y.rows());
            // SAFETY: a variant is handed out only where the CPU has its instructions; `sums` has a panel's rows for
            // each token, as has `y` where the panel has no fewer, and both are this task's alone.
            unsafe { self.variant.tiles[count - 1](&tile) };
            if last && !direct {
                for (i, sums) in sums.chunks(panel).enumerate() {
                    // SAFETY: tasks have columns of `y` of their own.
                    let y = unsafe { y.tile(start + i, rows.start, rows.len()) };
                    y.copy_from_slice(&sums[..rows.len()]);
                }
            }
        }
    }
}

/// Asks for some blocks from memory, which will be wanted soon. Any address will do.
#[inline(always)]
fn ask(start: *const BlockQ8_0, blocks: usize) {
    for line in 0..(blocks * size_of::<BlockQ8_0>()).div_ceil(64) {
        let line = start.cast::<i8>().wrapping_add(line * 64);
        // SAFETY: a hint, which every x86-64 has, and which touches no memory as far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
    }
}
