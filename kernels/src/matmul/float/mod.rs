//! The variants with f32, f16 and bf16 weights.
//!
//! DEFINITION. As in [`super`], in one of two forms, by the number of tokens:
//! - DOT, for few tokens: weight rows are read as they lie, four at a time, lanes along k, each element once for a
//!   group of tokens.
//! - TILE, for many: a panel of 16 or 32 weight rows is interleaved, lanes along n, one block of k at a time, and
//!   multiplied with all tokens, whose values are broadcast from tiles that were interleaved once per call.
//!
//! NUMERICS. Lanes are partial sums over k in DOT, and blocks of k are summed one after the other in TILE, so that the
//! order depends on the number of tokens. With the bf16 instructions, subnormal inputs and products count as zero.
//!
//! WHY DOT. It is bound by memory: a row's elements are used once for each token. The rows that come next are
//! prefetched as one sequential stream, although four are read side by side; that reads a quarter faster than leaving
//! it to the hardware (14.8 against 11.8 GB/s, one thread, 400 MB of bf16), and eight rows or a greater distance read no
//! faster. Into L1 rather than L2: on Zen 5, one thread, a lone token of bf16 1.04 to 1.11 × from memory and 1.2 × from L2
//! with AVX-512, 1.07 to 1.17 and 1.36 with AVX2, f32 1.02 to 1.06; few tokens 1.0 to 1.09, but for six with rows of 1024,
//! 0.93 with AVX-512. With more tokens than registers the groups share the prefetching, and rows are cut so that a group's
//! activations stay in L1. Reached on 2 vCPU of an Emerald Rapids Xeon: one and two threads read f32 at the rate of a
//! plain sum over the same bytes up to m = 8, and bf16 up to m = 4.
//!
//! WHY TILE. It is bound by the multipliers: packing a panel costs as much as one tile of tokens, or two, so that it
//! needs some tokens to pay. A panel and a tile's activations stay in L1 or close to it while the tokens stream past;
//! [`TOKENS`] tokens of a block of k take half a megabyte and the partial sums of [`COLUMNS`] outputs a quarter, which
//! stay in L2. Of the next panel's weights each tile prefetches one row. Widened weights are kept as f32 in the panel,
//! for widening them in the inner loop would take slots from the FMA. Blocks of twice the depth are slower. Reached on
//! the same machine at m = 512, both 4096 → 11008 and 1024 → 3072, one and two threads: 86–92 % of the FMA peak for all
//! three types with AVX-512 (the `gemm` crate's f32: 75–80 %), 84–86 % with AVX2, and 98 % of the `vdpbf16ps` peak. What
//! is missing is half packing and half writing the outputs.

mod avx2;
mod avx512;
mod avx512bf16;

use std::ops::Range;

use half::{bf16, f16};

use super::Rows;
use super::kernel::{Kernel, Product, Stream, Tokens};
use crate::dtype::DType;
use crate::level::Tier;
use crate::pool::share;
use crate::runtime::Runtime;
use crate::scratch::Plain;
use crate::view::{MatRef, Weights};

/// Weight rows that one call of a [`DotFn`] multiplies, at most.
const DOT_ROWS: usize = 4;
/// Bytes of a group's prepared activations that stay in L1 with the weights that stream past.
const DOT_X_BYTES: usize = 16 << 10;
/// Weight rows that a block of k is finished for before the next block, so that they stay in L2 for all groups.
const DOT_STRIP: usize = 16;
/// Bytes of weights of a DOT task, at most.
const DOT_BYTES: usize = 1 << 20;
/// Tokens that a panel is packed for, about: more would not stay in L2.
const TOKENS: usize = 528;
/// Outputs of a TILE task, at most.
const COLUMNS: usize = 128;
/// Tokens of a tile, at most, in any variant.
const MAX_TILE: usize = 12;
/// Weight rows of a panel, at most, in any variant.
const MAX_PANEL: usize = 32;

/// The variant for float weights at a level's tier above scalar.
pub(super) fn select(dtype: DType, tier: Tier) -> &'static dyn Kernel {
    match (dtype, tier) {
        (DType::F32, Tier::Scalar | Tier::Avx2) => &avx2::F32,
        (DType::F32, Tier::Avx512Vnni | Tier::Avx512Bf16) => &avx512::F32,
        (DType::F16, Tier::Scalar | Tier::Avx2) => &avx2::F16,
        (DType::F16, Tier::Avx512Vnni | Tier::Avx512Bf16) => &avx512::F16,
        (DType::Bf16, Tier::Scalar | Tier::Avx2) => &avx2::BF16,
        (DType::Bf16, Tier::Avx512Vnni) => &avx512::BF16,
        (DType::Bf16, Tier::Avx512Bf16) => &avx512bf16::BF16,
        (DType::Q8_0, _) => unreachable!("no float weights"),
    }
}

/// The machine code of a variant: `W` is the type of weights, `X` that of prepared activations and of panels.
///
/// All functions need the instructions of the variant's tier.
struct Variant<W: 'static, X: 'static> {
    /// Up to so many tokens take the DOT form: where both forms were measured to be equally fast.
    dot_tokens: usize,
    /// Elements of a DOT step: prepared rows are padded with zeros to whole ones.
    block: usize,
    /// Prepares a row of activations for the DOT form.
    prepare: unsafe fn(row: &[f32], out: &mut [X]),
    /// By tokens − 1; the first of each is for one weight row, the second for [`DOT_ROWS`].
    dots: &'static [[DotFn<W, X>; 2]],
    /// As `dots`, with the sums of each token added up as those of one.
    alike: &'static [[DotFn<W, X>; 2]],
    /// Weight rows of a panel.
    panel: usize,
    /// Elements along k of a panel, at most; a multiple of 32.
    depth: usize,
    /// Neighbours along k that stay neighbours in panels and tiles: 2 where pairs are multiplied.
    pair: usize,
    /// Interleaves the activations of a tile: `[k / pair][tokens][pair]`, padded with zeros.
    pack_x: unsafe fn(rows: &[&[f32]], out: &mut [X]),
    /// Interleaves weight rows, as many as a panel has: `[k / pair][panel][pair]`, padded with zeros.
    pack_w: unsafe fn(rows: &[&[W]], out: &mut [X]),
    /// By tokens − 1.
    tiles: &'static [TileFn<X>],
}

/// What a [`DotFn`] works on.
struct Dot<'a, W, X> {
    /// Elements of a row.
    k: usize,
    /// The first weight row, and elements from one to the next.
    w: *const W,
    w_stride: usize,
    /// The prepared activations of each token.
    x: &'a [*const X],
    /// The first output of the first token, and elements from one token to the next.
    y: *mut f32,
    y_stride: usize,
    /// Whether to add to the outputs instead of overwriting them.
    add: bool,
    /// Where the weights begin that will be read next, and elements from the line to prefetch for one block and weight
    /// row to that of the next block, and of the next row.
    next: *const W,
    next_block: usize,
    next_row: usize,
    /// All that the task reads, and what comes after it.
    stream: Stream,
}

/// Writes the dot products of R weight rows with M tokens.
///
/// Needs, besides the instructions: R rows of `k` weights to read, M rows of whole blocks of activations, and R outputs
/// of M tokens to write. `next` may be any address.
type DotFn<W, X> = unsafe fn(&Dot<W, X>);

/// What a [`TileFn`] works on.
struct Tile<X> {
    /// Steps: elements along k divided by those of a pair, rounded up.
    steps: usize,
    /// The panel and the tile's activations.
    w: *const X,
    x: *const X,
    /// Sums over earlier blocks of k, `[tokens][panel]`: read unless this block is the first, written unless it is the
    /// last.
    partial: *mut f32,
    first: bool,
    last: bool,
    /// The first output of the first token, elements from one token to the next, and outputs of a token.
    y: *mut f32,
    y_stride: usize,
    cols: usize,
    /// What will be packed next, and how many bytes of it to prefetch for every 16 steps.
    next: *const u8,
    next_step: usize,
}

/// Adds the products of a panel with M tokens.
///
/// Needs, besides the instructions: a panel and a tile of `steps`, `partial` as the flags say, and `cols` outputs of M
/// tokens to write if `last`. `next` may be any address.
type TileFn<X> = unsafe fn(&Tile<X>);

/// Weights that a variant finds in a [`Product`].
trait Weight: Copy + Sync + 'static {
    fn of<'a>(w: &Weights<'a>) -> MatRef<'a, Self>;
}

impl Weight for f32 {
    fn of<'a>(w: &Weights<'a>) -> MatRef<'a, Self> {
        let Weights::F32(w) = w else {
            unreachable!("variants are chosen by the weights' type")
        };
        *w
    }
}

impl Weight for f16 {
    fn of<'a>(w: &Weights<'a>) -> MatRef<'a, Self> {
        let Weights::F16(w) = w else {
            unreachable!("variants are chosen by the weights' type")
        };
        *w
    }
}

impl Weight for bf16 {
    fn of<'a>(w: &Weights<'a>) -> MatRef<'a, Self> {
        let Weights::Bf16(w) = w else {
            unreachable!("variants are chosen by the weights' type")
        };
        *w
    }
}

impl<W: Weight, X: Plain + Sync> Kernel for Variant<W, X> {
    fn prepared_layout(&self, m: usize, k: usize) -> (usize, usize) {
        if m <= self.dot_tokens {
            (self.dot_x_stride(k) * size_of::<X>(), 1)
        } else {
            let bytes = k.next_multiple_of(self.pair) * size_of::<X>();
            (bytes, self.tile_tokens(m))
        }
    }

    fn alike(&self) -> usize {
        self.alike.len()
    }

    fn prepare(&self, tokens: &Tokens, range: Range<usize>, out: &mut [u8]) {
        let (bytes, granule) = self.prepared_layout(tokens.len(), tokens.cols());
        let (out, elements) = (elements_mut::<X>(out), bytes / size_of::<X>());
        for start in range.clone().step_by(granule) {
            let len = granule.min(range.end - start);
            let out = &mut out[(start - range.start) * elements..][..len * elements];
            if tokens.len() <= self.dot_tokens {
                // SAFETY: the variant was chosen by a level that proves its instructions.
                unsafe {
                    let out = &mut out[..tokens.cols().next_multiple_of(self.block)];
                    (self.prepare)(tokens.row(start), out);
                }
            } else {
                let mut rows = [&[][..]; MAX_TILE];
                for (i, row) in rows[..len].iter_mut().enumerate() {
                    *row = tokens.row(start + i);
                }
                // SAFETY: as above.
                unsafe { (self.pack_x)(&rows[..len], out) };
            }
        }
    }

    fn task_rows(&self, m: usize, k: usize) -> (usize, usize) {
        if m <= self.dot_tokens {
            let rows = DOT_BYTES / (k * size_of::<W>());
            (DOT_ROWS, rows.next_multiple_of(DOT_ROWS).max(DOT_ROWS))
        } else {
            (self.panel, COLUMNS)
        }
    }

    fn multiply(&self, rt: &Runtime, product: &Product, rows: Rows) {
        if product.tokens.len() <= self.dot_tokens {
            self.dot(product, rows);
        } else {
            self.tile(rt, product, rows);
        }
    }
}

impl<W: Weight, X: Plain + Sync> Variant<W, X> {
    /// Tokens of each tile but the last one, such that all have about as many.
    fn tile_tokens(&self, m: usize) -> usize {
        m.div_ceil(m.div_ceil(self.tiles.len()))
    }

    /// Elements from one prepared row to the next in the DOT form: an odd number of cache lines, lest the rows of all
    /// tokens compete for the same few places in L1.
    fn dot_x_stride(&self, k: usize) -> usize {
        let line = 64 / size_of::<X>();
        (k.next_multiple_of(self.block).div_ceil(line) | 1) * line
    }

    fn dot(&self, product: &Product, rows: Rows) {
        let (m, k) = (product.tokens.len(), product.tokens.cols());
        let w = W::of(&product.w);
        let x = elements::<X>(product.prepared);
        let x_stride = self.dot_x_stride(k);
        let (y, y_stride) = (product.y.as_mut_ptr(), product.y.stride());
        assert!(product.y.rows() == m && rows.end <= product.y.cols() && rows.end <= w.rows());
        assert!(w.cols() == k && x.len() == m * x_stride);

        let dots = if product.alike { self.alike } else { self.dots };
        let groups = m.div_ceil(dots.len());
        let group_bytes = m.div_ceil(groups) * x_stride * size_of::<X>();
        // One or two tokens wait for memory in any case, and would wait longer for pieces of rows, whose sums moreover are
        // not those of whole rows.
        let pieces = if m > 2 && !product.alike {
            group_bytes.div_ceil(DOT_X_BYTES)
        } else {
            1
        };
        let depth = k.div_ceil(pieces).next_multiple_of(self.block);
        let passes = pieces * groups;
        let strip_rows = if passes > 1 { DOT_STRIP } else { rows.len() };
        let next = product.next.as_ref();
        let next = next.filter(|(w, _)| w.dtype() == product.w.dtype());
        let next = next.map(|(w, rows)| (W::of(w), rows));
        let stream = Stream::new(&w, &rows, next.as_ref().map(|(w, rows)| (w, *rows)));

        for strip in rows.clone().step_by(strip_rows) {
            let strip = strip..rows.end.min(strip + strip_rows);
            for start in (0..k).step_by(depth) {
                let ks = start..k.min(start + depth);
                let (next_n, next_k) = if ks.end < k {
                    (strip.start, ks.end)
                } else {
                    (strip.end, 0)
                };
                for group in 0..groups {
                    let tokens = share(m, 1, groups, group);
                    let mut of_token = [std::ptr::null(); MAX_TILE];
                    for (of_token, token) in of_token.iter_mut().zip(tokens.clone()) {
                        *of_token = x[token * x_stride + ks.start..].as_ptr();
                    }
                    let mut n = strip.start;
                    while n < strip.end {
                        let several = n + DOT_ROWS <= strip.end;
                        let after = n + if several { DOT_ROWS } else { 1 };
                        let here = &w.row(n)[ks.clone()];
                        let (next, next_block, next_row) = if passes == 1 {
                            // Whole rows follow each other: one stream, though several are read side by side.
                            let (rows, bytes) = (after - n, size_of::<W>() * w.stride());
                            let next = stream.ahead(here.as_ptr(), rows * bytes).cast();
                            (next, self.block * rows, self.block)
                        } else if passes > 1 && next_n + (n - strip.start) < rows.end {
                            // Each group fetches its share of the next strip or block, so that none just waits.
                            let next = &w.row(next_n + (n - strip.start))[next_k..];
                            let share = &next[depth.min(next.len()) * group / groups..];
                            (share.as_ptr(), self.block / groups, w.stride())
                        } else {
                            (here.as_ptr(), 0, 0)
                        };
                        let args = Dot {
                            k: ks.len(),
                            w: here.as_ptr(),
                            w_stride: w.stride(),
                            x: &of_token[..tokens.len()],
                            // SAFETY: token and output lie within `y`.
                            y: unsafe { y.add(tokens.start * y_stride + n) },
                            y_stride,
                            add: ks.start > 0,
                            next,
                            next_block,
                            next_row,
                            stream,
                        };
                        // SAFETY: the level proves the instructions; rows up to `after`, the tokens and the outputs
                        // were checked above.
                        unsafe { (dots[tokens.len() - 1][usize::from(several)])(&args) };
                        n = after;
                    }
                }
            }
        }
    }

    fn tile(&self, rt: &Runtime, product: &Product, rows: Rows) {
        let (m, k) = (product.tokens.len(), product.tokens.cols());
        let w = W::of(&product.w);
        let x = elements::<X>(product.prepared);
        let x_stride = k.next_multiple_of(self.pair);
        let (y, y_stride) = (product.y.as_mut_ptr(), product.y.stride());
        assert!(product.y.rows() == m && rows.end <= product.y.cols());

        let tile_tokens = self.tile_tokens(m);
        let chunk_tokens = m.div_ceil(m.div_ceil(TOKENS)).next_multiple_of(tile_tokens);
        let panels = rows.len().div_ceil(self.panel);
        let blocks = k.div_ceil(self.depth);
        let depth = k.div_ceil(blocks).next_multiple_of(32);
        let mut panel = rt.scratch().take::<X>(depth * self.panel);
        let kept = if blocks > 1 {
            panels * self.panel * chunk_tokens.min(m)
        } else {
            0
        };
        let mut partial = rt.scratch().take::<f32>(kept);

        for chunk in (0..m).step_by(chunk_tokens) {
            let chunk = chunk..m.min(chunk + chunk_tokens);
            for at in (0..k).step_by(depth) {
                let ks = at..k.min(at + depth);
                let padded = ks.len().next_multiple_of(self.pair);
                for p in 0..panels {
                    let first_n = rows.start + p * self.panel;
                    let cols = self.panel.min(rows.end - first_n);
                    let mut of_panel = [&[][..]; MAX_PANEL];
                    for (i, row) in of_panel[..self.panel].iter_mut().enumerate() {
                        // Beyond the end any row will do: those outputs are not written.
                        *row = &w.row(first_n + i.min(cols - 1))[ks.clone()];
                    }
                    let panel = &mut panel[..padded * self.panel];
                    // SAFETY: the level proves the instructions.
                    unsafe { (self.pack_w)(&of_panel[..self.panel], panel) };

                    // What is packed next: the next panel of this block, else the first one of the next block.
                    let (next_n, next_k) = if p + 1 < panels {
                        (first_n + self.panel, ks.start)
                    } else {
                        (rows.start, ks.end)
                    };
                    for (t, start) in chunk.clone().step_by(tile_tokens).enumerate() {
                        let tokens = tile_tokens.min(chunk.end - start);
                        let x = &x[start * x_stride + at * tokens..][..padded * tokens];
                        let fetch = t < self.panel && next_n + t < rows.end && next_k < k;
                        let partial = if kept > 0 {
                            let sums = (p * chunk.len() + start - chunk.start) * self.panel;
                            partial[sums..][..tokens * self.panel].as_mut_ptr()
                        } else {
                            std::ptr::null_mut()
                        };
                        let args = Tile {
                            steps: padded / self.pair,
                            w: panel.as_ptr(),
                            x: x.as_ptr(),
                            partial,
                            first: ks.start == 0,
                            last: ks.end == k,
                            // SAFETY: token and output lie within `y`.
                            y: unsafe { y.add(start * y_stride + first_n) },
                            y_stride,
                            cols,
                            next: if fetch {
                                w.row(next_n + t)[next_k..].as_ptr().cast()
                            } else {
                                panel.as_ptr().cast()
                            },
                            next_step: if fetch {
                                16 * self.pair * size_of::<W>()
                            } else {
                                0
                            },
                        };
                        // SAFETY: the level proves the instructions; the slices above have the sizes it needs.
                        unsafe { (self.tiles[tokens - 1])(&args) };
                    }
                }
            }
        }
    }
}

/// Prepared bytes as what they are.
fn elements<X: Plain>(bytes: &[u8]) -> &[X] {
    // SAFETY: any bytes are elements of a plain type.
    let (head, elements, tail) = unsafe { bytes.align_to::<X>() };
    assert!(
        head.is_empty() && tail.is_empty(),
        "prepared bytes are aligned"
    );
    elements
}

/// As [`elements`], to write.
fn elements_mut<X: Plain>(bytes: &mut [u8]) -> &mut [X] {
    // SAFETY: any bytes are elements of a plain type, and the other way round.
    let (head, elements, tail) = unsafe { bytes.align_to_mut::<X>() };
    assert!(
        head.is_empty() && tail.is_empty(),
        "prepared bytes are aligned"
    );
    elements
}
