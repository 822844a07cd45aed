//! A task: the rows of one KV head's queries for some tokens, over some of the keys. Blocks of keys are the outer loop
//! and tiles of rows the inner one, so that a block is staged, and read from memory, once for all rows.
//!
//! Below this module a head is whole registers of any variant. Where it is not in the cache, queries and each block of
//! keys and values are copied to rows that end in zeros: those add nothing to a score, and what they make of the output
//! is dropped.

use std::ops::Range;

use super::flash::{Element, TILE_ROWS};
use super::tile::{Ahead, Block, LOWEST, Place, Rows, Simd, Tile, scores_len};
use super::{AttentionSpec, Cache};
use crate::scratch::{Plain, Scratch};
use crate::view::MatRef;

/// Added to the stride of staged rows, lest rows a power of two apart share few cache sets.
pub(super) const STAGE_PAD: usize = 16;

/// Elements of which heads are made up to a multiple: a register of the widest variant.
const UNIT: usize = 16;

/// Lanes of the largest tile: eight rows across sixteen lanes.
const LARGEST_LANES: usize = 128;

/// How a task's rows read keys and values, see [`super::tile`].
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// As words that are spread, which a block is staged for where the cache has none.
    Staged,
    /// As they lie in the cache, a key's words being spread.
    Spread,
    /// As they lie in the cache.
    Across,
}

impl Reading {
    fn new<S: Simd, T: Element>(rows: usize, dim: usize) -> Self {
        let words = dim / if S::PAIRS { 2 } else { 1 };
        if T::WORDS {
            Self::Staged
        } else if rows <= S::ROWS_ACROSS && words.is_multiple_of(S::LANES) {
            Self::Across
        } else if S::PAIRS && rows <= S::LANES {
            Self::Spread
        } else {
            Self::Staged
        }
    }

    /// Keys of a block. On Zen 5, with keys and values from memory, one row of pairs was 1 % faster with 64 than
    /// with 32, more rows a few percent faster with 32 than with 64; for many rows neither 32 nor 128 was
    /// faster. What few rows stage is 16 KiB at 128 elements, and leaves half of L1 to what is read.
    fn block_keys<S: Simd>(self, rows: usize) -> usize {
        match self {
            Self::Staged if rows <= TILE_ROWS => {
                if S::PAIRS {
                    32
                } else {
                    16
                }
            }
            Self::Spread | Self::Across if S::PAIRS && rows > 1 => 32,
            _ => 64,
        }
    }
}

/// See the module.
pub(super) struct Task<'a, S, T> {
    pub(super) simd: S,
    pub(super) spec: &'a AttentionSpec,
    /// The tokens' queries, all heads.
    pub(super) q: MatRef<'a, f32>,
    /// Where the first of the tokens stands.
    pub(super) position: usize,
    pub(super) cache: Cache<'a, T>,
    pub(super) kv_head: usize,
    pub(super) keys: Range<usize>,
    /// What will be read after the last of the keys.
    pub(super) after: &'a [T],
}

impl<S: Simd, T: Element> Task<'_, S, T> {
    /// Hands each row's weighted values, its maximum and its sum to `finish`; rows are tokens times heads of the group.
    pub(super) fn run(&self, scratch: &Scratch, mut finish: impl FnMut(usize, &[f32], f32, f32)) {
        let (group, len) = (self.spec.group(), self.spec.head_dim);
        let dim = len.next_multiple_of(UNIT);
        let rows = self.q.rows() * group;
        let words = dim / if S::PAIRS { 2 } else { 1 };
        let reading = Reading::new::<S, T>(rows, dim);
        let across = reading == Reading::Across;
        let block_keys = reading.block_keys::<S>(rows);
        let mut shapes = scratch.take::<Shape>(Shape::all::<S>(rows, words, across).count());
        let (mut padded, mut lanes, mut largest) = (0, 0, 0);
        for (to, shape) in shapes.iter_mut().zip(Shape::all::<S>(rows, words, across)) {
            *to = shape;
            to.earliest = self.position + shape.first / group;
            to.latest = self.position + (shape.first + shape.used - 1) / group;
            padded += shape.rows;
            lanes += shape.lanes;
            largest = largest.max(shape.rows);
        }
        let staged = if reading == Reading::Staged {
            2 * block_keys * (dim + STAGE_PAD)
        } else {
            0
        };
        let lens = [
            padded * words,
            padded * dim,
            lanes,
            lanes,
            LARGEST_LANES,
            LARGEST_LANES,
            scores_len(block_keys, largest),
            staged,
        ];
        // Each part on cache lines of its own.
        let lens = lens.map(|len| len.next_multiple_of(16));
        let mut memory = scratch.take::<f32>(lens.iter().sum());
        let mut rest = &mut memory[..];
        let [q, out, max, sum, low, high, scores, stage] =
            lens.map(|len| rest.split_off_mut(..len).expect("taken for all of them"));
        let cached = |row: usize| {
            let column = (self.kv_head * group + row % group) * len;
            &self.q.row(row / group)[column..][..len]
        };
        let (queries, block) = if dim > len {
            (rows * dim, 2 * block_keys * dim)
        } else {
            (0, 0)
        };
        let mut queries = scratch.take::<f32>(queries);
        for (row, query) in queries.chunks_exact_mut(dim).enumerate() {
            query[..len].copy_from_slice(cached(row));
            query[len..].fill(0.0);
        }
        let mut wide = scratch.take::<T>(block);
        wide.fill(T::ZERO);
        for shape in &*shapes {
            let query = |row: usize| {
                if dim > len {
                    &queries[row * dim..][..dim]
                } else {
                    cached(row)
                }
            };
            shape.pack::<S, T>(
                self.simd,
                &mut q[shape.at * words..][..shape.rows * words],
                query,
            );
        }
        out.fill(0.0);
        max.fill(LOWEST);
        sum.fill(0.0);

        let mut from = self.keys.start;
        while from < self.keys.end {
            let to = self.keys.end.min(from + block_keys);
            let keys = Keys::new(self, reading, from..to, &mut wide, stage);
            for shape in &*shapes {
                let Some(seen) = self.seen(shape, from..to) else {
                    continue;
                };
                let masked = self.mask(shape, &seen, group, low, high);
                let mut tile = Tile {
                    head_dim: dim,
                    factor: self.spec.scale * std::f32::consts::LOG2_E,
                    masked,
                    low,
                    high,
                    q: &q[shape.at * words..],
                    scores,
                    max: &mut max[shape.lane..][..shape.lanes],
                    sum: &mut sum[shape.lane..][..shape.lanes],
                    out: &mut out[shape.at * dim..],
                };
                keys.meet(self.simd, shape, &mut tile, seen);
            }
            from = to;
        }

        for shape in &*shapes {
            for row in 0..shape.used {
                let lanes = shape.lanes_of::<S>(row);
                let max = max[lanes.start];
                let sum = sum[lanes].iter().step_by(S::LANES / shape.g).sum();
                let out = &mut out[(shape.at + row) * dim..][..dim];
                if S::PAIRS && reading != Reading::Staged {
                    self.simd.unweave(out);
                }
                finish(shape.first + row, &out[..len], max, sum);
            }
        }
    }

    /// The keys of a block that any row of a tile sees, from an even one of the block on where they make pairs.
    fn seen(&self, shape: &Shape, block: Range<usize>) -> Option<Range<usize>> {
        let mut skip = self
            .spec
            .first_key(shape.earliest)
            .saturating_sub(block.start);
        if S::PAIRS {
            skip -= skip % 2;
        }
        let seen = block.start + skip..block.end.min(shape.latest + 1);
        (!seen.is_empty()).then_some(seen)
    }

    /// Writes each lane's sight of the seen keys, and returns whether there is anything that some lane does not see.
    fn mask(
        &self,
        shape: &Shape,
        seen: &Range<usize>,
        group: usize,
        low: &mut [f32],
        high: &mut [f32],
    ) -> bool {
        let keys_a_vector = shape.g * if S::PAIRS { 2 } else { 1 };
        if self.spec.first_key(shape.latest) <= seen.start
            && seen.end <= shape.earliest + 1
            && seen.len() & (keys_a_vector - 1) == 0
        {
            return false;
        }
        for lane in 0..shape.lanes {
            let row = shape.first + shape.row::<S>(lane).min(shape.used - 1);
            let position = self.position + row / group;
            low[lane] = self.spec.first_key(position).saturating_sub(seen.start) as f32;
            high[lane] = (position + 1).min(seen.end).saturating_sub(seen.start) as f32;
        }
        true
    }
}

/// A block of keys and values, in the cache or staged, and what comes after it.
struct Keys<T> {
    /// The block's first position.
    from: usize,
    reading: Reading,
    cached: [Rows<T>; 2],
    staged: Option<[Rows<f32>; 2]>,
    this_values: Ahead,
    next: [Ahead; 2],
}

impl<T: Element> Keys<T> {
    /// `wide` has room for both, a head being whole registers, where it is not so in the cache.
    fn new<S: Simd>(
        task: &Task<S, T>,
        reading: Reading,
        block: Range<usize>,
        wide: &mut [T],
        stage: &mut [f32],
    ) -> Self {
        let len = task.spec.head_dim;
        let dim = len.next_multiple_of(UNIT);
        let all = [
            task.cache.keys(task.kv_head),
            task.cache.values(task.kv_head),
        ];
        let rows = all.map(|rows| &rows[block.start * len..block.end * len]);
        let ahead = |rows: &[T]| Ahead(rows.as_ptr().cast());
        let [k, v] = if dim == len {
            rows
        } else {
            let (k, v) = wide.split_at_mut(wide.len() / 2);
            for (to, from) in [(&mut *k, rows[0]), (&mut *v, rows[1])] {
                for (to, from) in to.chunks_exact_mut(dim).zip(from.chunks_exact(len)) {
                    to[..len].copy_from_slice(from);
                }
            }
            [&*k, &*v].map(|rows| &rows[..block.len() * dim])
        };
        Self {
            from: block.start,
            cached: [k, v].map(|rows| Rows::new(rows.as_ptr(), dim)),
            reading,
            staged: (reading == Reading::Staged).then(|| T::stage(task.simd, k, v, dim, stage)),
            this_values: ahead(rows[1]),
            next: [
                if block.end < task.keys.end {
                    ahead(&all[0][block.end * len..])
                } else {
                    ahead(task.after)
                },
                ahead(&all[1][block.end * len..]),
            ],
        }
    }

    fn meet<S: Simd>(&self, simd: S, shape: &Shape, tile: &mut Tile, seen: Range<usize>) {
        let skip = seen.start - self.from;
        let first = shape.first == 0;
        match self.staged {
            Some([k, v]) => {
                let [during_scores, during_values] = self.next.map(|next| first.then_some(next));
                let block = Block {
                    keys: seen.len(),
                    k: k.skip(skip),
                    v: v.skip(skip / if S::PAIRS { 2 } else { 1 }),
                    during_scores,
                    during_values,
                };
                shape.meet::<S, T>(simd, tile, &block);
            }
            None => {
                let [k, v] = self.cached.map(|rows| rows.skip(skip));
                let block = Block {
                    keys: seen.len(),
                    k,
                    v,
                    during_scores: Some(self.this_values),
                    during_values: Some(self.next[0]),
                };
                if self.reading == Reading::Across {
                    shape.meet_across(simd, tile, &block);
                } else {
                    shape.meet_spread(simd, tile, &block);
                }
            }
        }
    }
}

/// A tile of a task's rows.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    /// First of the task's rows.
    first: usize,
    /// The task's rows that are in it.
    used: usize,
    /// Rows, a power of two.
    rows: usize,
    /// Neighbouring words of a row in a vector.
    g: usize,
    /// Rows of the tiles before it.
    at: usize,
    /// Lanes of maxima and sums.
    lanes: usize,
    /// Lanes of the tiles before it.
    lane: usize,
    /// Where its first row's token stands.
    earliest: usize,
    /// Where its last row's token stands.
    latest: usize,
}

// SAFETY: numbers of one type, without padding; any bits are values of them.
unsafe impl Plain for Shape {}

impl Shape {
    /// Cuts a task's rows: as many of the largest tiles as there are, then what wastes few lanes.
    fn all<S: Simd>(rows: usize, words: usize, across: bool) -> impl Iterator<Item = Self> {
        let (mut first, mut at, mut lane) = (0, 0, 0);
        std::iter::from_fn(move || {
            let rest = rows - first;
            if rest == 0 {
                return None;
            }
            let largest = 2 * S::LANES;
            let mut size = if rest > largest * 3 / 4 {
                largest
            } else if rest > S::LANES {
                S::LANES
            } else {
                rest.next_power_of_two()
            };
            // A lane group of words must divide a row.
            while size < S::LANES && !across && !words.is_multiple_of(S::LANES / size) {
                size *= 2;
            }
            let shape = Self {
                first,
                used: rest.min(size),
                rows: size,
                g: if across {
                    S::LANES
                } else {
                    (S::LANES / size).max(1)
                },
                at,
                lanes: if across {
                    size * S::LANES
                } else {
                    size.max(S::LANES)
                },
                lane,
                earliest: 0,
                latest: 0,
            };
            first += shape.used;
            at += shape.rows;
            lane += shape.lanes;
            Some(shape)
        })
    }

    /// The row to which a lane belongs.
    fn row<S: Simd>(self, lane: usize) -> usize {
        let rows = S::LANES / self.g;
        lane / S::LANES * rows + lane % rows
    }

    /// Where a row's lanes start and end, among those of all tiles; they are as far apart as a vector has rows.
    fn lanes_of<S: Simd>(self, row: usize) -> Range<usize> {
        let rows = S::LANES / self.g;
        let vector = self.lane + row / rows * S::LANES;
        vector + row % rows..vector + S::LANES
    }

    fn pack<'a, S: Simd, T: Element>(
        self,
        simd: S,
        to: &mut [f32],
        query: impl Fn(usize) -> &'a [f32],
    ) {
        let place = |row| Place {
            row,
            rows: self.rows,
            g: self.g,
        };
        for row in 0..self.used {
            simd.pack_row::<T>(query(self.first + row), place(row), to);
        }
        for row in self.used..self.rows {
            let groups = to.chunks_exact_mut(self.g).skip(row).step_by(self.rows);
            groups.for_each(|group| group.fill(0.0));
        }
    }

    fn meet<S: Simd, T: Element>(self, simd: S, tile: &mut Tile, block: &Block<f32>) {
        match (self.rows / S::LANES, self.g) {
            (2, _) => simd.meet::<T, f32, 2, 1>(tile, block),
            (_, 1) => simd.meet::<T, f32, 1, 1>(tile, block),
            (_, 2) => simd.meet::<T, f32, 1, 2>(tile, block),
            (_, 4) => simd.meet::<T, f32, 1, 4>(tile, block),
            (_, 8) => simd.meet::<T, f32, 1, 8>(tile, block),
            _ => simd.meet::<T, f32, 1, 16>(tile, block),
        }
    }

    fn meet_spread<S: Simd, T: Element>(self, simd: S, tile: &mut Tile, block: &Block<T>) {
        match self.g {
            1 => simd.meet::<T, T, 1, 1>(tile, block),
            2 => simd.meet::<T, T, 1, 2>(tile, block),
            4 => simd.meet::<T, T, 1, 4>(tile, block),
            // A lone row of whole vectors is read across.
            _ => simd.meet::<T, T, 1, 8>(tile, block),
        }
    }

    fn meet_across<S: Simd, T: Element>(self, simd: S, tile: &mut Tile, block: &Block<T>) {
        match (S::LANES, self.rows) {
            (16, 1) => simd.meet::<T, T, 1, 16>(tile, block),
            (16, 2) => simd.meet::<T, T, 2, 16>(tile, block),
            (16, 4) => simd.meet::<T, T, 4, 16>(tile, block),
            (16, _) => simd.meet::<T, T, 8, 16>(tile, block),
            (_, 1) => simd.meet::<T, T, 1, 8>(tile, block),
            _ => simd.meet::<T, T, 2, 8>(tile, block),
        }
    }
}
