//! How the SIMD variants cut attention into tasks, and what a task does: blocks of keys outside, tiles of rows inside.
//!
//! A task is (segment, KV head, tokens, keys). Many rows: up to [`TASK_ROWS`] of them share each staged block of keys,
//! and see all of their keys in one task. Few rows, as in decoding: the keys are cut at multiples of [`PART`], so that
//! there is work for all threads, and the parts' sums are merged at the end, in order. Where the cuts are depends on
//! the segment's own shapes alone: neither threads nor other segments change a result.

use std::ops::Range;

use half::bf16;

use super::tile::{Ahead, Block, LOWEST, Rows, Simd, Tile, pow2, scores_len};
use super::{AttentionSpec, Cache, KvRef, Segment};
use crate::runtime::Runtime;
use crate::scratch::Scratch;
use crate::view::{MatMut, MatRef, SharedMat};

/// Keys of a block: keys and values of a block, widened to f32 at 128 elements, and a tile's scores stay in L2 and L1.
const BLOCK: usize = 64;

/// Keys of a block where few rows use it: what is staged stays in L1.
const FEW_BLOCK: usize = 16;

/// Rows of a task with many rows: enough to make staging a block cheap, few enough that a prompt makes many tasks.
const TASK_ROWS: usize = 256;

/// Rows of the largest tile of any variant; up to this many, keys are cut into parts.
const TILE_ROWS: usize = 32;

/// Lanes of the largest tile: eight rows of sixteen lanes.
const LARGEST_LANES: usize = 128;

/// Keys of a part: some 10 µs of work.
const PART: usize = 512;

/// Elements of a cache.
pub(super) trait Element: Copy + Sync {
    /// Whether queries and probabilities are rounded to bf16.
    const ROUND: bool;

    /// The segment's cache, if it is made of these elements.
    fn cache<'a>(kv: &KvRef<'a>) -> Option<Cache<'a, Self>>;

    /// Whether the elements are words, which can be spread one by one.
    const WORDS: bool;

    /// `LANES` elements as words.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn read<S: Simd>(simd: S, from: *const Self) -> S::V;

    /// A block's keys and values as words; in `buffer` where they are not so yet.
    fn stage<S: Simd>(
        simd: S,
        k: &[Self],
        v: &[Self],
        head_dim: usize,
        buffer: &mut [f32],
    ) -> [Rows<f32>; 2];
}

/// Added to the stride of staged rows, lest rows a power of two apart share few cache sets.
const STAGE_PAD: usize = 16;

const fn stage_len(keys: usize, head_dim: usize) -> usize {
    2 * keys * (head_dim + STAGE_PAD)
}

impl Element for f32 {
    const ROUND: bool = false;

    fn cache<'a>(kv: &KvRef<'a>) -> Option<Cache<'a, Self>> {
        match kv {
            KvRef::F32(cache) => Some(*cache),
            KvRef::Bf16(_) => None,
        }
    }

    const WORDS: bool = true;

    #[inline(always)]
    unsafe fn read<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from) }
    }

    fn stage<S: Simd>(
        _: S,
        k: &[f32],
        v: &[f32],
        head_dim: usize,
        _: &mut [f32],
    ) -> [Rows<f32>; 2] {
        assert!(!S::PAIRS, "f32 make no pairs of bf16");
        [k, v].map(|rows| Rows::new(rows.as_ptr(), head_dim))
    }
}

impl Element for bf16 {
    const ROUND: bool = true;

    fn cache<'a>(kv: &KvRef<'a>) -> Option<Cache<'a, Self>> {
        match kv {
            KvRef::F32(_) => None,
            KvRef::Bf16(cache) => Some(*cache),
        }
    }

    const WORDS: bool = false;

    #[inline(always)]
    unsafe fn read<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.widen(from) }
    }

    fn stage<S: Simd>(
        simd: S,
        k: &[bf16],
        v: &[bf16],
        head_dim: usize,
        buffer: &mut [f32],
    ) -> [Rows<f32>; 2] {
        let stride = head_dim + STAGE_PAD;
        let (first, second) = buffer.split_at_mut(buffer.len() / 2);
        let k = if S::PAIRS {
            simd.zip_rows(v, head_dim, second, stride);
            Rows::new(k.as_ptr().cast(), head_dim / 2)
        } else {
            simd.widen_rows(k, head_dim, first, stride);
            simd.widen_rows(v, head_dim, second, stride);
            Rows::new(first.as_ptr(), stride)
        };
        [k, Rows::new(second.as_ptr(), stride)]
    }
}

/// Whether the SIMD variants have the head size: whole vectors of 16 elements.
pub(super) fn fits(head_dim: usize) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(16)
}

/// Attends those segments whose cache is made of `T`.
pub(super) fn attention<S: Simd, T: Element>(
    simd: S,
    rt: &Runtime,
    spec: &AttentionSpec,
    segments: &mut [Segment],
) {
    let mut plans = Vec::with_capacity(segments.len());
    let (mut tasks, mut partial_rows) = (0, 0);
    for segment in segments {
        let Some(cache) = T::cache(&segment.kv) else {
            continue;
        };
        let plan = Plan::new(spec, segment, cache, tasks, partial_rows);
        tasks += plan.tasks(spec);
        partial_rows += plan.partial_rows(spec);
        plans.push(plan);
    }
    let width = spec.head_dim + PARTIAL_PAD;
    let mut partials = rt.scratch().take::<f32>(partial_rows * width);
    let mut partials =
        MatMut::new(&mut partials, partial_rows, width).expect("taken for these rows");
    let shared = partials.shared();
    rt.pool().for_each(tasks, |_, task| {
        // Later tokens see more keys: the long tasks go first, the short ones fill the gaps at the end.
        let task = tasks - 1 - task;
        let plan = &plans[plans.partition_point(|plan| plan.first_task <= task) - 1];
        plan.run(simd, spec, rt.scratch(), task - plan.first_task, shared);
    });
    if partial_rows > 0 {
        let split = plans.iter().filter(|plan| plan.parts > 1);
        rt.pool()
            .for_each(split.clone().count() * spec.n_kv_head, |_, task| {
                let plan = split.clone().nth(task / spec.n_kv_head);
                let plan = plan.expect("counted above");
                plan.merge(spec, task % spec.n_kv_head, partials.as_ref());
            });
    }
}

/// A partial row's output is followed by its maximum and its sum.
const PARTIAL_PAD: usize = 16;

/// How one segment is cut.
struct Plan<'a, T> {
    q: MatRef<'a, f32>,
    out: SharedMat<'a, f32>,
    cache: Cache<'a, T>,
    start: usize,
    /// Tokens of a task.
    tokens: usize,
    /// Tasks that share the tokens.
    blocks: usize,
    /// Tasks that share the keys.
    parts: usize,
    first_task: usize,
    first_partial_row: usize,
}

impl<'a, T: Element> Plan<'a, T> {
    fn new(
        spec: &AttentionSpec,
        segment: &'a mut Segment,
        cache: Cache<'a, T>,
        first_task: usize,
        first_partial_row: usize,
    ) -> Self {
        let (all, group) = (segment.q.rows(), spec.group());
        let few = all * group <= TILE_ROWS;
        let tokens = if few { all } else { (TASK_ROWS / group).max(1) };
        let end = segment.start + all;
        let parts = if few && all > 0 {
            end.div_ceil(PART) - spec.first_key(segment.start) / PART
        } else {
            1
        };
        Self {
            q: segment.q,
            out: segment.out.shared(),
            cache,
            start: segment.start,
            tokens,
            blocks: if all == 0 { 0 } else { all.div_ceil(tokens) },
            parts,
            first_task,
            first_partial_row,
        }
    }

    fn tasks(&self, spec: &AttentionSpec) -> usize {
        self.blocks * self.parts * spec.n_kv_head
    }

    fn partial_rows(&self, spec: &AttentionSpec) -> usize {
        if self.parts > 1 {
            self.parts * spec.n_head * self.q.rows()
        } else {
            0
        }
    }

    /// A KV head's rows in the partial results, by part and row.
    fn partial_row(&self, spec: &AttentionSpec, kv_head: usize, part: usize) -> usize {
        let rows = self.q.rows() * spec.group();
        self.first_partial_row + (kv_head * self.parts + part) * rows
    }

    fn run<S: Simd>(
        &self,
        simd: S,
        spec: &AttentionSpec,
        scratch: &Scratch,
        task: usize,
        partials: SharedMat<f32>,
    ) {
        let rows = self.q.rows() * spec.group();
        if rows == 1 && !T::WORDS {
            self.run_at(simd.wide(), true, spec, scratch, task, partials);
        } else {
            let across = rows <= S::ROWS_ACROSS && !T::WORDS;
            self.run_at(simd, across, spec, scratch, task, partials);
        }
    }

    fn run_at<S: Simd>(
        &self,
        simd: S,
        across: bool,
        spec: &AttentionSpec,
        scratch: &Scratch,
        task: usize,
        partials: SharedMat<f32>,
    ) {
        let (rest, part) = (task / self.parts, task % self.parts);
        let (token_block, kv_head) = (rest / spec.n_kv_head, rest % spec.n_kv_head);
        let first = token_block * self.tokens;
        let count = self.tokens.min(self.q.rows() - first);
        let position = self.start + first;
        let mut keys = spec.first_key(position)..position + count;
        if self.parts > 1 {
            let cut = (keys.start / PART + part) * PART;
            keys = keys.start.max(cut)..keys.end.min(cut + PART);
        }
        let (group, dim) = (spec.group(), spec.head_dim);
        let rows = count * group;
        let block_keys = match (across, S::PAIRS) {
            _ if across || rows > TILE_ROWS => BLOCK,
            (_, true) => 2 * FEW_BLOCK,
            (_, false) => FEW_BLOCK,
        };
        let padded = rows.next_multiple_of(TILE_ROWS);
        let words = dim / if S::PAIRS { 2 } else { 1 };

        let shapes = || Shape::all::<S>(rows, words, across);
        let lanes = shapes().map(|shape| shape.lanes).sum();
        let lens = [
            padded * words,
            padded * dim,
            lanes,
            lanes,
            LARGEST_LANES,
            LARGEST_LANES,
            scores_len(block_keys, TILE_ROWS),
            stage_len(block_keys, dim),
        ];
        let mut memory = scratch.take::<f32>(lens.iter().sum());
        let mut rest = &mut memory[..];
        let [q, out, max, sum, low, high, scores, stage] =
            lens.map(|len| rest.split_off_mut(..len).expect("taken for all of them"));

        let query = |row: usize| {
            let column = (kv_head * group + row % group) * dim;
            &self.q.row(first + row / group)[column..][..dim]
        };
        for shape in shapes() {
            shape.pack::<S, T>(&mut q[shape.at * words..][..shape.rows * words], query);
        }
        out.fill(0.0);
        max.fill(LOWEST);
        sum.fill(0.0);

        let (all_k, all_v) = (self.cache.keys(kv_head), self.cache.values(kv_head));
        let mut from = keys.start;
        while from < keys.end {
            let to = keys.end.min(from + block_keys);
            let (k, v) = (&all_k[from * dim..to * dim], &all_v[from * dim..to * dim]);
            let direct = [k, v].map(|rows| Rows::new(rows.as_ptr(), dim));
            let staged = (!across).then(|| T::stage(simd, k, v, dim, stage));
            let stride = dim * size_of::<T>();
            let ahead = |rows: &[T]| Ahead {
                rows: rows.as_ptr().cast(),
                stride,
            };
            let next = [ahead(&all_k[to * dim..]), ahead(&all_v[to * dim..])];
            for shape in shapes() {
                let earliest = position + shape.first / group;
                let latest = position + (shape.first + shape.used - 1) / group;
                // Values in pairs are paired from the block's first on.
                let skip = spec.first_key(earliest).saturating_sub(from)
                    / if S::PAIRS { 2 } else { 1 }
                    * if S::PAIRS { 2 } else { 1 };
                let end = to.min(latest + 1);
                if from + skip >= end {
                    continue;
                }
                let base = from + skip;
                let count = end - base;
                let masked = spec.first_key(latest) > base
                    || earliest + 1 < end
                    || !count.is_multiple_of(shape.keys_a_vector::<S>());
                if masked {
                    for lane in 0..shape.lanes {
                        let row = shape.row::<S>(lane).min(shape.used - 1);
                        let position = position + (shape.first + row) / group;
                        low[lane] = spec.first_key(position).saturating_sub(base) as f32;
                        high[lane] = (position + 1).min(end).saturating_sub(base) as f32;
                    }
                }
                let mut tile = Tile {
                    head_dim: dim,
                    factor: spec.scale * std::f32::consts::LOG2_E,
                    masked,
                    low,
                    high,
                    q: &q[shape.at * words..],
                    scores,
                    max: &mut max[shape.lane..][..shape.lanes],
                    sum: &mut sum[shape.lane..][..shape.lanes],
                    out: &mut out[shape.at * dim..],
                };
                if let Some([k, v]) = staged {
                    let [during_scores, during_values] =
                        next.map(|next| (shape.first == 0).then_some(next));
                    let block = Block {
                        keys: count,
                        k: k.skip(skip),
                        v: v.skip(skip / if S::PAIRS { 2 } else { 1 }),
                        during_scores,
                        during_values,
                    };
                    shape.meet::<S, T>(simd, &mut tile, &block);
                } else {
                    let [k, v] = direct.map(|rows| rows.skip(skip));
                    let block = Block {
                        keys: count,
                        k,
                        v,
                        during_scores: Some(ahead(&all_v[base * dim..])),
                        during_values: Some(next[0]),
                    };
                    shape.meet_across(simd, &mut tile, &block);
                }
            }
            from = to;
        }

        for shape in shapes() {
            for row in 0..shape.used {
                let lanes = shape.lanes_of::<S>(row);
                let max = max[lanes.start];
                let sum: f32 = sum[lanes].iter().step_by(S::LANES / shape.g).sum();
                let from = &out[(shape.at + row) * dim..][..dim];
                let row_of_task = shape.first + row;
                if self.parts > 1 {
                    let at = self.partial_row(spec, kv_head, part) + row_of_task;
                    // SAFETY: each task has partial rows of its own.
                    let to = unsafe { partials.tile(at, 0, dim + PARTIAL_PAD) };
                    to[..dim].copy_from_slice(from);
                    to[dim] = max;
                    to[dim + 1] = sum;
                } else {
                    let column = (kv_head * group + row_of_task % group) * dim;
                    // SAFETY: each task has tokens and heads of its own.
                    let to = unsafe { self.out.tile(first + row_of_task / group, column, dim) };
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = from / sum;
                    }
                }
            }
        }
    }

    /// Adds up the parts of a KV head's rows.
    fn merge(&self, spec: &AttentionSpec, kv_head: usize, partials: MatRef<f32>) {
        let (group, dim) = (spec.group(), spec.head_dim);
        for row in 0..self.q.rows() * group {
            let column = (kv_head * group + row % group) * dim;
            // SAFETY: each KV head has columns of its own.
            let out = unsafe { self.out.tile(row / group, column, dim) };
            let parts = (0..self.parts)
                .map(|part| partials.row(self.partial_row(spec, kv_head, part) + row));
            let max = parts.clone().fold(LOWEST, |max, part| max.max(part[dim]));
            out.fill(0.0);
            let mut sum = 0.0;
            for part in parts {
                let weight = pow2(part[dim] - max);
                sum += weight * part[dim + 1];
                for (out, part) in out.iter_mut().zip(part) {
                    *out += weight * part;
                }
            }
            for out in out {
                *out /= sum;
            }
        }
    }
}

/// A tile of a task's rows.
#[derive(Clone, Copy)]
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
}

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

    /// Keys to which a vector of probabilities belongs.
    fn keys_a_vector<S: Simd>(self) -> usize {
        self.g * if S::PAIRS { 2 } else { 1 }
    }

    fn pack<'a, S: Simd, T: Element>(self, to: &mut [f32], query: impl Fn(usize) -> &'a [f32]) {
        let g = self.g;
        let round = |x: f32| {
            if T::ROUND {
                bf16::from_f32(x).to_f32()
            } else {
                x
            }
        };
        for row in 0..self.rows {
            let groups = to.chunks_exact_mut(g).skip(row).step_by(self.rows);
            if row >= self.used {
                groups.for_each(|group| group.fill(0.0));
            } else if S::PAIRS {
                let (pairs, _) = query(self.first + row).as_chunks::<2>();
                for (group, pairs) in groups.zip(pairs.chunks_exact(g)) {
                    for (word, [even, odd]) in group.iter_mut().zip(pairs) {
                        let odd = round(*odd).to_bits();
                        *word = f32::from_bits(round(*even).to_bits() >> 16 | odd);
                    }
                }
            } else {
                for (group, from) in groups.zip(query(self.first + row).chunks_exact(g)) {
                    for (word, from) in group.iter_mut().zip(from) {
                        *word = round(*from);
                    }
                }
            }
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
