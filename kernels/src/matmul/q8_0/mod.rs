//! Q8_0 weights: what a product is, and the walk over the operands that all variants share.
//!
//! SHAPES. `x: [m, k]` f32, `w: [n, k / 32]` blocks as a GGUF file has them (34 bytes: an f16 scale, 32 signed bytes),
//! `y: [m, n]` f32; `k` is a multiple of 32.
//!
//! DEFINITION. For each token and block b of 32 activations:
//! ```text
//! a[b]    = max |x[32 b ..][..32]|        d[b] = a[b] / 127        q[b][i] = round(x[32 b + i] · (127 / a[b]))
//! y[m][n] = Σ_b d_w[n][b] · d[m][b] · Σ_i q_w[n][b][i] · q[m][b][i]
//! ```
//! rounded to the nearest, ties to even; all zeros where a[b] < 2⁻¹⁰⁰, d[b] = NaN where a block holds a NaN or an
//! infinity. It takes one of three forms, by the number of tokens:
//! - DOTS, for few: rows are read as they lie, lanes along k.
//! - COLUMNS, for some more, with AVX-512: rows are read side by side as they lie, lanes along n ([`avx512::columns`]).
//! - TILES, for many: a panel of rows, some blocks deep, is interleaved and met by all tokens, lanes along n.
//!
//! NUMERICS. What is lost to the definition is the activations' rounding: half of d[b] for each element, at most 1/254
//! of its block's largest. All else is small beside it. The inner sum is exact: |q_w · q| ≤ 128 · 127, so that 32 of
//! them stay below 2¹⁹. A variant that starts its sums elsewhere (AVX-512 takes weights as `q_w + 128` in TILES and
//! tokens as `q + 128` in the other forms, TILES and COLUMNS start at [`MAGIC`]) subtracts what it added, to the bit.
//! `MAGIC` makes floats of sums without an instruction: its bit pattern plus an integer within 2²² *is* the float MAGIC
//! plus that integer, and `(MAGIC + sum) · d_w − MAGIC · d_w` rounds once, by a fused multiply-add, for `MAGIC · d_w`
//! is exact: the one has 2 significant bits, the other 11. The sum over blocks is in f32: TILES and COLUMNS take k in
//! order, DOTS in as many partial sums as the variant has lanes and accumulators. All depend on the shape alone, not on
//! the number of threads.
//!
//! WHY not TILES alone. Packing a panel costs about as much as multiplying it with a few tokens, and 32 rows side by side
//! are slower to read from memory than one after the other. Up to [`Variant::few`] tokens it is cheaper to meet the
//! weights as they lie: with AVX2 on Zen 3, two threads, 1.7 × as fast at 2 tokens, 1.6 at 4, 1.15 at 6, and no faster at
//! 8; with AVX-512 on Zen 5, one thread, from memory, 1.7 × at 2, 1.6 at 6 and 1.3 at 8.
//!
//! WHY a panel's rows are asked for from memory while others are packed and multiplied, in proportion to the time that
//! each takes, a line of some rows with each block: a core waits for a few dozen lines at a time, and what is asked for
//! beyond these holds up whatever comes after it. With some rows all at once before each tile, the experts of a prompt
//! took 1.11 × as long (AVX-512, Zen 5, one thread), as did 16 tokens from memory; all in the tiles and none
//! in packing is as good for 32 tokens, and takes 1.12 × as long for 8. One panel ahead is too late there; with AVX2 two
//! are 7 % slower than one for the experts of a prompt (Zen 3).
//!
//! WHY the rows of the next task too: tasks are a few panels of an expert, of which the first ones would otherwise be
//! waited for, an eighth to a quarter of all. The next one is a guess, for whoever is free first takes tasks from others;
//! a wrong one brings to the shared cache what another core wants. The experts of a prompt take 1.10 × as long without
//! (one thread); with two, one token's products of 1024 → 1024 1.12 ×, which asked past the task's end before.
//!
//! WHY activations are rounded once, before: a product of m tokens with n rows would otherwise round m · k values for
//! each task. They are interleaved by granules of as many tokens as a tile has, so that a tile reads one stream.
//!
//! WHY panels on the fly, and not repacked weights: a panel is multiplied with m tokens, so that packing it is 1 % of the
//! work at m = 512, and the file's pages stay the only copy: loads are instant, and processes share them.
//!
//! WHY these sizes. A panel of [`DEPTH`] blocks (18 KiB with AVX2, whose weights are widened to i16; 20 KiB with AVX-512)
//! stays in L1 next to a granule of tokens; deeper ones do not, and flatter ones load and store their partial sums more
//! often (8 blocks: 7 to 9 % slower with AVX2 on Zen 3). The tile is what the registers hold: 2 registers of rows times as
//! many tokens as leave room for the panel's step and one broadcast value. [`GROUP`] panels of one depth meet a stretch
//! of [`TOKENS`] tokens before the next depth, so that the tokens' part of it comes from L2.

mod avx2;
mod avx512;

pub(super) use avx2::AVX2;
pub(super) use avx512::AVX512;

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

use super::Rows;
use super::kernel::{Kernel, Product, Stream, Tokens};
use crate::pool::share;
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::runtime::Runtime;
use crate::view::{MatRef, Weights};

/// Blocks of 32 that a panel is deep.
const DEPTH: usize = 16;

/// Rows of a panel, at most.
const MAX_PANEL: usize = 32;

/// Panels that are multiplied with a stretch of activations while that is in the cache.
const GROUP: usize = 4;

/// Tokens that go through a group together, about.
const TOKENS: usize = 640;

/// Bytes of activations that may be walked again for each panel.
const NEAR: usize = 512 << 10;

/// Bytes of weights of a task where they are read once, for few tokens.
const STREAM: usize = 1 << 20;

/// Rows of which such a task has a multiple, for those that are read side by side.
const FEW_ROWS: usize = 16;

/// Blocks from those at hand to those asked for from memory, where rows are read as they lie.
const AHEAD: usize = 256;

/// 1.5 · 2²³ as f32: the integers within 2²² of its bit pattern are the floats within 2²² of it.
const MAGIC: f32 = 12_582_912.0;

/// A block without a larger element than 2⁻¹⁰⁰ counts as zeros.
const NOTHING: f32 = 1.0 / (1_u128 << 100) as f32;

/// Bytes of a token where there are few: the elements of all blocks, then their scales, and on to a cache line of its
/// own, so that no load of a register straddles two.
fn few_bytes(blocks: usize) -> usize {
    (blocks * (BLOCK_LEN + size_of::<f32>())).next_multiple_of(64)
}

/// What a variant has of its own.
pub(super) struct Variant {
    /// Rows of a panel.
    panel: usize,
    /// Bytes of a panel for each block of 32.
    panel_block: usize,
    /// Bytes of a token's block, scale and all.
    token_block: usize,
    /// Tokens that are few: the weights are multiplied as they lie, at least 1.
    few: usize,
    /// Tokens, of these few, whose sums are added up as those of one.
    alike: usize,
    /// Panels from the one that is packed to the one that is asked for from memory meanwhile.
    look: usize,
    /// Tokens whose products with a panel take as long as packing it does.
    pack_tokens: usize,
    /// Rounds and interleaves the tokens of a granule.
    quantize: unsafe fn(&Tokens, Range<usize>, &mut [u8]),
    /// Rounds a token for `dots`, see [`few_bytes`].
    quantize_one: unsafe fn(&[f32], &mut [u8]),
    /// Interleaves the first part of the weights into a panel, and asks for the second one from memory meanwhile.
    pack: unsafe fn(&Part, &Part, &mut [u8]),
    /// Tiles of 1, 2, 3 … tokens.
    tiles: &'static [TileFn],
    /// Products of few tokens with rows of the weights; those columns of the outputs are written.
    dots: unsafe fn(&Product, &MatRef<BlockQ8_0>, Rows, Stream),
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
    /// What to ask for from memory meanwhile.
    asked: Asked<'a>,
}

impl Kernel for Variant {
    fn prepared_layout(&self, m: usize, k: usize) -> (usize, usize) {
        if m <= self.few {
            return (few_bytes(k / BLOCK_LEN), 1);
        }
        // Tiles as equal as may be: 8 tokens are 4 + 4, not 6 + 2.
        let granule = m.div_ceil(m.div_ceil(self.tiles.len()));
        (k / BLOCK_LEN * self.token_block, granule)
    }

    fn alike(&self) -> usize {
        self.alike
    }

    fn prepare(&self, tokens: &Tokens, range: Range<usize>, out: &mut [u8]) {
        let (token_bytes, granule) = self.prepared_layout(tokens.len(), tokens.cols());
        if tokens.len() <= self.few {
            for (token, out) in range.zip(out.chunks_exact_mut(token_bytes)) {
                // SAFETY: a variant is handed out only where the CPU has its instructions.
                unsafe { (self.quantize_one)(tokens.row(token), out) };
            }
            return;
        }
        let starts = range.clone().step_by(granule);
        for (start, out) in starts.zip(out.chunks_mut(granule * token_bytes)) {
            // SAFETY: as above.
            unsafe { (self.quantize)(tokens, start..range.end.min(start + granule), out) };
        }
    }

    fn task_rows(&self, m: usize, k: usize) -> (usize, usize) {
        if m <= self.few {
            let rows = STREAM / (k / BLOCK_LEN * size_of::<BlockQ8_0>());
            (FEW_ROWS, rows.next_multiple_of(FEW_ROWS).max(FEW_ROWS))
        } else {
            (self.panel, self.panel * GROUP)
        }
    }

    fn multiply(&self, rt: &Runtime, product: &Product, rows: Rows) {
        let Weights::Q8_0(w) = product.w else {
            unreachable!("a kernel for Q8_0 weights");
        };
        if product.tokens.len() <= self.few {
            let next = match &product.next {
                Some((Weights::Q8_0(w), rows)) => Some((w, rows)),
                _ => None,
            };
            let stream = Stream::new(&w, &rows, next);
            // SAFETY: a variant is handed out only where the CPU has its instructions; tasks have columns of `y` of
            // their own.
            unsafe { (self.dots)(product, &w, rows, stream) };
            return;
        }
        let (token_bytes, granule) = self.prepared_layout(product.tokens.len(), product.w.cols());
        let group = if product.tokens.len() * token_bytes <= NEAR {
            1
        } else {
            GROUP
        };
        let parts = |w, rows| Parts {
            w,
            rows,
            panel: self.panel,
            group,
        };
        let next = match &product.next {
            Some((Weights::Q8_0(w), rows)) => parts(*w, rows.clone()),
            _ => parts(w, 0..0),
        };
        let walk = Walk {
            variant: self,
            product,
            parts: parts(w, rows),
            next,
            token_bytes,
            granule,
        };
        walk.run(rt);
    }
}

/// Where a panel comes from: rows of the weights, and blocks of these.
#[derive(Clone)]
struct Part<'a> {
    w: MatRef<'a, BlockQ8_0>,
    rows: Rows,
    depth: Range<usize>,
}

impl Part<'_> {
    /// The first rows, up to `count`, and the others.
    fn split(self, count: usize) -> (Self, Self) {
        let middle = self.rows.end.min(self.rows.start + count);
        let part = |rows| Self {
            rows,
            ..self.clone()
        };
        (part(self.rows.start..middle), part(middle..self.rows.end))
    }

    /// Where a row starts.
    #[inline(always)]
    fn start(&self, row: usize) -> *const BlockQ8_0 {
        self.w.row(row)[self.depth.clone()].as_ptr()
    }

    /// Where each row starts, as many as there are.
    #[inline(always)]
    fn starts<'a>(&self, starts: &'a mut [*const BlockQ8_0]) -> &'a [*const BlockQ8_0] {
        for (start, row) in starts.iter_mut().zip(self.rows.clone()) {
            *start = self.start(row);
        }
        &starts[..self.rows.len()]
    }

    /// What to ask for, to have this part in the cache.
    #[inline(always)]
    fn asked<'a>(&self, starts: &'a mut [*const BlockQ8_0]) -> Asked<'a> {
        Asked {
            starts: self.starts(starts),
            lines: (self.depth.len() * size_of::<BlockQ8_0>()).div_ceil(64),
        }
    }

    /// Where each of a panel's rows starts, of which there is one at least; those past the end are the last one again.
    #[inline(always)]
    fn sources<const PANEL: usize>(&self) -> [*const BlockQ8_0; PANEL] {
        let mut sources = [std::ptr::null(); PANEL];
        let count = self.starts(&mut sources).len();
        let last = sources[count - 1];
        sources[count..].fill(last);
        sources
    }
}

/// The panels of some rows, in the order in which they are met: all of a group's panels at one depth, then at the next.
struct Parts<'a> {
    w: MatRef<'a, BlockQ8_0>,
    rows: Rows,
    panel: usize,
    group: usize,
}

impl<'a> Parts<'a> {
    fn len(&self) -> usize {
        self.rows.len().div_ceil(self.panel) * self.w.cols().div_ceil(DEPTH)
    }

    /// Part `at`, and which of its group's panels it is.
    fn get(&self, at: usize) -> (Part<'a>, usize) {
        let blocks = self.w.cols();
        let in_group = self.group * blocks.div_ceil(DEPTH);
        let (group, at) = (at / in_group, at % in_group);
        let before = group * self.group;
        let panels = self.rows.len().div_ceil(self.panel) - before;
        let panels = panels.min(self.group);
        let (depth, panel) = (at / panels * DEPTH, at % panels);
        let first = self.rows.start + (before + panel) * self.panel;
        let part = Part {
            w: self.w,
            rows: first..self.rows.end.min(first + self.panel),
            depth: depth..blocks.min(depth + DEPTH),
        };
        (part, panel)
    }
}

/// The loops around the tiles.
struct Walk<'a> {
    variant: &'a Variant,
    product: &'a Product<'a>,
    parts: Parts<'a>,
    /// What will be met after them.
    next: Parts<'a>,
    token_bytes: usize,
    granule: usize,
}

impl Walk<'_> {
    fn run(&self, rt: &Runtime) {
        let m = self.product.tokens.len();
        let Variant {
            panel, panel_block, ..
        } = *self.variant;
        let stretch = m
            .div_ceil(m.div_ceil(TOKENS))
            .next_multiple_of(self.granule);
        let mut packed = rt.scratch().take::<u8>(DEPTH * panel_block);
        let mut sums = rt
            .scratch()
            .take::<f32>(self.parts.group * panel * stretch.min(m));
        for start in (0..m).step_by(stretch) {
            let tokens = start..m.min(start + stretch);
            let early =
                panel * self.variant.pack_tokens / (self.variant.pack_tokens + tokens.len());
            let mut sums: Vec<&mut [f32]> = sums.chunks_mut(panel * tokens.len()).collect();
            for at in 0..self.parts.len() {
                let (part, in_group) = self.parts.get(at);
                let (while_packing, while_multiplying) = self.ahead(at).split(early);
                let packed = &mut packed[..part.depth.len() * panel_block];
                // SAFETY: a variant is handed out only where the CPU has its instructions.
                unsafe { (self.variant.pack)(&part, &while_packing, packed) };
                self.panel(packed, sums[in_group], &tokens, &part, &while_multiplying);
            }
        }
    }

    /// The part to ask for from memory while part `at` is packed and multiplied.
    fn ahead(&self, at: usize) -> Part<'_> {
        let (at, here) = (at + self.variant.look, self.parts.len());
        if at < here {
            self.parts.get(at).0
        } else if at - here < self.next.len() {
            self.next.get(at - here).0
        } else {
            Part {
                w: self.parts.w,
                rows: 0..0,
                depth: 0..0,
            }
        }
    }

    /// Multiplies a panel with a stretch of tokens.
    fn panel(
        &self,
        packed: &[u8],
        sums: &mut [f32],
        tokens: &Range<usize>,
        part: &Part,
        next: &Part,
    ) {
        let Variant {
            panel, token_block, ..
        } = *self.variant;
        let Part { w, rows, depth } = part;
        let (first, last) = (depth.start == 0, depth.end == w.cols());
        let mut asked = [std::ptr::null(); MAX_PANEL];
        let asked = next.asked(&mut asked);
        let starts = tokens.clone().step_by(self.granule);
        let tiles = starts.len();
        let of_tiles = starts.zip(sums.chunks_mut(self.granule * panel));
        for (at, (start, sums)) in of_tiles.enumerate() {
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
                asked: asked.share(tiles, at),
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

/// Asks for some of the blocks from `start` on from memory, which will be wanted soon, and but once: into L1. Any address
/// will do.
#[inline(always)]
fn ask(start: *const BlockQ8_0, blocks: Range<usize>) {
    let line = |block: usize| (block * size_of::<BlockQ8_0>()).div_ceil(64);
    for line in line(blocks.start)..line(blocks.end) {
        let line = start.cast::<i8>().wrapping_add(line * 64);
        // SAFETY: a hint, which every x86-64 has, and which touches no memory as far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
}

/// Rows that will be wanted soon, and are asked for from memory by and by.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// Where each begins.
    starts: &'a [*const BlockQ8_0],
    /// Cache lines of each.
    lines: usize,
}

impl Asked<'_> {
    /// The `part`-th of `parts` shares of the rows.
    #[inline(always)]
    fn share(self, parts: usize, part: usize) -> Self {
        Self {
            starts: &self.starts[share(self.starts.len(), 1, parts, part)],
            ..self
        }
    }

    /// Asks for a line of each row, if it has as many, into L1. Any addresses will do.
    #[inline(always)]
    fn ask(&self, line: usize) {
        if line < self.lines {
            for start in self.starts {
                let line = start.cast::<i8>().wrapping_add(line * 64);
                // SAFETY: as in `ask`.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
            }
        }
    }
}
