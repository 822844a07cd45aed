//! What the variants of all element types have in common: the seam between scheduling and arithmetic.

use std::ops::Range;

use super::Rows;
use crate::runtime::Runtime;
use crate::view::{MatRef, SharedMat, Weights};

/// A variant for one element type. It is handed out only at levels that prove its instructions.
///
/// `m`, `n` and `k` are at least 1 in all calls.
pub(super) trait Kernel: Sync {
    /// How prepared activations lie for a product of `m` tokens of `k` elements: bytes for each token, and how many
    /// tokens lie interleaved. Granules follow each other; the last one may have fewer tokens. `(0, 1)` prepares nothing.
    fn prepared_layout(&self, m: usize, k: usize) -> (usize, usize);

    /// Tokens, at most, that a product may have and still give each of them the bits that it gives it alone. Up to as
    /// many, [`Self::prepared_layout`] has the same bytes for a token, and nothing interleaved.
    fn alike(&self) -> usize {
        1
    }

    /// Rounds and interleaves the tokens of `range`, whole granules, into `out`, which has their bytes exactly.
    ///
    /// Every byte that [`Self::multiply`] reads must be written: `out` has arbitrary contents. The operand starts at a
    /// multiple of 64 bytes.
    fn prepare(&self, tokens: &Tokens, range: Range<usize>, out: &mut [u8]);

    /// Rows of `w` that a task must have a multiple of (but for the end of `w`), and that it should have at most.
    fn task_rows(&self, m: usize, k: usize) -> (usize, usize);

    /// Writes columns `rows` of `y`, for all tokens. Tasks that run at one time have disjoint `rows`.
    fn multiply(&self, rt: &Runtime, product: &Product, rows: Rows);
}

/// A product as its kernel sees it.
pub(super) struct Product<'a> {
    pub(super) tokens: &'a Tokens<'a>,
    /// All that [`Kernel::prepare`] wrote for these tokens, aligned to 64 bytes.
    pub(super) prepared: &'a [u8],
    pub(super) w: Weights<'a>,
    pub(super) y: SharedMat<'a, f32>,
    /// Weights, and rows of them, that the worker will probably multiply next: to be asked for from memory meanwhile.
    pub(super) next: Option<(Weights<'a>, Rows)>,
    /// Whether each token is to get the bits that it gets alone; there are at most [`Kernel::alike`] then.
    pub(super) alike: bool,
}

/// Weights that are read as they lie, row after row, and what is read after them.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    /// Where the rows end, and where the next ones begin, if that is known.
    end: *const u8,
    next: Option<*const u8>,
}

impl Stream {
    pub(super) fn new<T: Copy>(
        w: &MatRef<T>,
        rows: &Rows,
        next: Option<(&MatRef<T>, &Rows)>,
    ) -> Self {
        let start = |w: &MatRef<T>, row: usize| w.as_ptr().wrapping_add(row * w.stride()).cast();
        Self {
            end: start(w, rows.end),
            next: next.map(|(w, rows)| start(w, rows.start)),
        }
    }

    /// What will be read `bytes` after what lies at `row`, a row's first byte: to be asked for from memory. Where nothing
    /// is known of what comes after the end, that is the row itself, which is there already.
    #[inline(always)]
    pub(super) fn ahead<T>(&self, row: *const T, bytes: usize) -> *const u8 {
        let row: *const u8 = row.cast();
        let left = (self.end.addr()).wrapping_sub(row.addr());
        match self.next {
            _ if bytes < left => row.wrapping_add(bytes),
            Some(next) => next.wrapping_add(bytes - left),
            None => row,
        }
    }
}

/// The activations of a product: rows of a matrix, all or gathered.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    x: MatRef<'a, f32>,
    rows: Option<&'a [u32]>,
}

impl<'a> Tokens<'a> {
    /// # Panics
    /// If one of `rows` is not a row of `x`.
    pub(super) fn new(x: MatRef<'a, f32>, rows: Option<&'a [u32]>) -> Self {
        if let Some(row) = rows.and_then(|rows| rows.iter().max()) {
            assert!(
                (*row as usize) < x.rows(),
                "matmul: token {row} of {}",
                x.rows()
            );
        }
        Self { x, rows }
    }

    /// Those of `range`.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        match self.rows {
            None => Self {
                x: self.x.row_range(range.start, range.end),
                rows: None,
            },
            Some(rows) => Self {
                x: self.x,
                rows: Some(&rows[range]),
            },
        }
    }

    /// Tokens.
    pub(super) fn len(&self) -> usize {
        self.rows.map_or(self.x.rows(), <[u32]>::len)
    }

    /// Elements of a token.
    pub(super) fn cols(&self) -> usize {
        self.x.cols()
    }

    /// Token `i`.
    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        self.x.row(self.rows.map_or(i, |rows| rows[i] as usize))
    }

    /// Whether both are the same tokens in the same place.
    pub(super) fn same(&self, other: &Self) -> bool {
        let place = |x: &MatRef<f32>| (x.as_ptr(), x.rows(), x.cols(), x.stride());
        let rows = |rows: Option<&[u32]>| rows.map(|rows| (rows.as_ptr(), rows.len()));
        place(&self.x) == place(&other.x) && rows(self.rows) == rows(other.rows)
    }
}
