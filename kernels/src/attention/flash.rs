//! How the SIMD variants cut attention into tasks, and what a task does: blocks of keys outside, tiles of rows inside.
//!
//! A task is (segment, KV head, tokens, keys). Many rows: up to [`TASK_ROWS`] of them share each staged block of keys,
//! and see all of their keys in one task. Few rows, as in decoding: the keys are cut into parts, so that
//! there is work for all threads, and the parts' sums are merged at the end, in order. Where the cuts are depends on
//! the segment's own shapes alone: neither threads nor other segments change a result.

use std::ops::Range;

use half::bf16;

use super::task::{STAGE_PAD, Task};
use super::tile::{LOWEST, Rows, Simd, pow2};
use super::{AttentionSpec, Cache, KvRef, Segment};
use crate::runtime::Runtime;
use crate::scratch::{Plain, Scratch};
use crate::view::{MatMut, MatRef, SharedMat};

/// Rows of a task with many rows: enough to make staging a block cheap, few enough that a prompt makes many tasks.
const TASK_ROWS: usize = 256;

/// Rows of the largest tile of any variant; up to this many, keys are cut into parts.
pub(super) const TILE_ROWS: usize = 32;

/// Keys of a part: the most, and the fewest. A task starts without what the one before it fetched ahead, so that parts
/// of 2048 keys read memory a tenth faster than parts of 512 on Emerald Rapids, and whole rows of 4096 another 4 to 8 %
/// faster than those on Zen 5.
const PARTS: Range<usize> = 256..8192;

/// Parts, of all KV heads, from which on they are as long as allowed: enough for threads to share evenly.
const ENOUGH_PARTS: usize = 16;

/// Elements of a cache.
pub(super) trait Element: Plain + Sync {
    /// What heads are padded with.
    const ZERO: Self;
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

impl Element for f32 {
    const ZERO: Self = 0.0;
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
    const ZERO: Self = Self::ZERO;
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
    let run = |task: usize| {
        let plan = &plans[plans.partition_point(|plan| plan.first_task <= task) - 1];
        plan.run(simd, spec, rt.scratch(), task - plan.first_task, shared);
    };
    if plans.iter().all(|plan| plan.blocks <= 1) {
        rt.pool().for_each_in_runs(tasks, |_, task| run(task));
    } else {
        // Later tokens see more keys: the long tasks go first, the short ones fill the gaps at the end.
        rt.pool().for_each(tasks, |_, task| run(tasks - 1 - task));
    }
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
    /// Keys of a part; the cuts are at its multiples.
    part: usize,
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
        let (begin, end) = (spec.first_key(segment.start), segment.start + all);
        let mut part = PARTS.end;
        while part > PARTS.start && (end - begin).div_ceil(part) * spec.n_kv_head < ENOUGH_PARTS {
            part /= 2;
        }
        let parts = if few && all > 0 {
            end.div_ceil(part) - begin / part
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
            part,
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
        let (rest, part) = (task / self.parts, task % self.parts);
        let (block, kv_head) = (rest / spec.n_kv_head, rest % spec.n_kv_head);
        let (group, dim) = (spec.group(), spec.head_dim);
        let first = block * self.tokens;
        let end = self.q.rows().min(first + self.tokens);
        let mut keys = spec.first_key(self.start + first)..self.start + end;
        if self.parts > 1 {
            let cut = (keys.start / self.part + part) * self.part;
            keys = keys.start.max(cut)..keys.end.min(cut + self.part);
        }
        // The next task's keys, where a worker takes tasks in order.
        let after = if part + 1 == self.parts && kv_head + 1 < spec.n_kv_head {
            let begin = spec.first_key(self.start) * dim;
            &self.cache.keys(kv_head + 1)[begin..]
        } else {
            &self.cache.keys(kv_head)[keys.end * dim..]
        };
        let task = Task {
            simd,
            spec,
            q: self.q.row_range(first, end),
            position: self.start + first,
            cache: self.cache,
            kv_head,
            keys,
            after,
        };
        task.run(scratch, |row, out, max, sum| {
            if self.parts > 1 {
                let at = self.partial_row(spec, kv_head, part) + row;
                // SAFETY: each task has partial rows of its own.
                let to = unsafe { partials.tile(at, 0, dim + PARTIAL_PAD) };
                to[..dim].copy_from_slice(out);
                (to[dim], to[dim + 1]) = (max, sum);
            } else {
                let column = (kv_head * group + row % group) * dim;
                // SAFETY: each task has tokens and heads of its own.
                let to = unsafe { self.out.tile(first + row / group, column, dim) };
                simd.divide(out, sum, to);
            }
        });
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
