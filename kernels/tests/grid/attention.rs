//! Attention: the grid of shapes, and the oracle against f64.

use std::num::NonZeroUsize;

use half::bf16;
use tokgate_kernels::{
    AttentionSpec, Cache, CacheMut, KvMut, KvRef, Level, MatMut, MatRef, Op, Runtime, Segment,
    attention, store_kv,
};

use crate::common::{Rng, assert_close, levels, runtime, tolerance};

/// One sequence's inputs, and an f64 answer with its Σ|p·v| / Σp.
struct Case {
    spec: AttentionSpec,
    tokens: usize,
    start: usize,
    capacity: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    /// Positions from `start + tokens` to the capacity, and those before the window, hold NaN.
    fn new(rng: &mut Rng, spec: AttentionSpec, tokens: usize, start: usize) -> Self {
        let capacity = start + tokens + 3;
        let first = spec
            .window
            .map_or(0, |window| (start + 1).saturating_sub(window.get()));
        let len = spec.n_kv_head * capacity * spec.head_dim;
        let fill = |rng: &mut Rng| -> Vec<f32> {
            (0..len)
                .map(|at| {
                    let position = at / spec.head_dim % capacity;
                    if (first..start + tokens).contains(&position) {
                        rng.f32()
                    } else {
                        f32::NAN
                    }
                })
                .collect()
        };
        let (k, v) = (fill(rng), fill(rng));
        Self {
            spec,
            tokens,
            start,
            capacity,
            q: rng.f32s(tokens * spec.n_head * spec.head_dim),
            k,
            v,
        }
    }

    fn name(&self) -> String {
        let AttentionSpec {
            n_head,
            n_kv_head,
            head_dim,
            window,
            ..
        } = self.spec;
        let (tokens, start) = (self.tokens, self.start);
        let window = window.map_or(0, NonZeroUsize::get);
        format!("h{n_head}/{n_kv_head} d{head_dim} t{tokens} s{start} w{window}")
    }

    fn width(&self) -> usize {
        self.spec.n_head * self.spec.head_dim
    }

    /// The textbook's softmax in f64 over the values that the cache holds.
    fn reference(&self, round: impl Fn(f32) -> f32) -> (Vec<f32>, Vec<f64>) {
        let spec = &self.spec;
        let (dim, group) = (spec.head_dim, spec.n_head / spec.n_kv_head);
        let (mut out, mut scale) = (Vec::new(), Vec::new());
        for token in 0..self.tokens {
            let position = self.start + token;
            let first = spec
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window.get()));
            for head in 0..spec.n_head {
                let row = |data: &[f32], j: usize| -> Vec<f64> {
                    let at = ((head / group) * self.capacity + j) * dim;
                    data[at..][..dim]
                        .iter()
                        .map(|x| f64::from(round(*x)))
                        .collect()
                };
                let q = &self.q[token * self.width() + head * dim..][..dim];
                let scores: Vec<f64> = (first..=position)
                    .map(|j| {
                        let k = row(&self.k, j);
                        let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(round(*q)) * k).sum();
                        dot * f64::from(spec.scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let (mut o, mut a) = (vec![0.0; dim], vec![0.0; dim]);
                for (j, score) in (first..).zip(&scores) {
                    let p = (score - max).exp() / sum;
                    for (d, v) in row(&self.v, j).into_iter().enumerate() {
                        o[d] += p * v;
                        a[d] += p * v.abs();
                    }
                }
                out.extend(o.into_iter().map(|o| o as f32));
                scale.extend(a);
            }
        }
        (out, scale)
    }

    /// Σ|p·v| / Σp by the oracle: its own answer, were all values positive.
    fn scale(&self, oracle: &Runtime, op: Op) -> Vec<f64> {
        let positive = Self {
            q: self.q.clone(),
            k: self.k.clone(),
            v: self.v.iter().map(|v| v.abs()).collect(),
            ..*self
        };
        let scale = positive.run(oracle, op);
        scale.into_iter().map(f64::from).collect()
    }

    /// Σ|q·k| · scale of the largest score: what the errors of scores are relative to.
    fn largest_score(&self) -> f64 {
        let norm = |data: &[f32], len: usize| -> f64 {
            let rows = data
                .chunks(len)
                .filter(|row| row.iter().all(|x| x.is_finite()));
            let squares = rows.map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>());
            squares.fold(0.0, f64::max).sqrt()
        };
        let dim = self.spec.head_dim;
        norm(&self.q, dim) * norm(&self.k, dim) * f64::from(self.spec.scale)
    }

    fn run(&self, rt: &Runtime, op: Op) -> Vec<f32> {
        attend(rt, &[self], op).remove(0)
    }

    /// As [`Self::run`], some tokens at a time.
    fn in_steps(&self, step: usize, rt: &Runtime, op: Op) -> Vec<f32> {
        let width = self.width();
        let parts = (0..self.tokens).step_by(step).map(|first| {
            let tokens = step.min(self.tokens - first);
            Self {
                tokens,
                start: self.start + first,
                q: self.q[first * width..][..tokens * width].to_vec(),
                k: self.k.clone(),
                v: self.v.clone(),
                ..*self
            }
        });
        parts.flat_map(|part| part.run(rt, op)).collect()
    }
}

/// What a buffer holds where nobody may write.
const UNTOUCHED: u32 = 0x7fc0_1234;

/// Runs all cases, which share a spec, in one call: from unaligned slices into rows with gaps, which stay untouched.
fn attend(rt: &Runtime, cases: &[&Case], op: Op) -> Vec<Vec<f32>> {
    const GAP: usize = 5;
    let shifted = |data: &[f32]| -> Vec<f32> { [&[f32::NAN], data].concat() };
    let half = |data: &[f32]| -> Vec<bf16> { data.iter().map(|x| bf16::from_f32(*x)).collect() };
    struct Owned {
        q: Vec<f32>,
        kv: [Vec<f32>; 2],
        half: [Vec<bf16>; 2],
        out: Vec<f32>,
    }
    let mut owned: Vec<Owned> = cases
        .iter()
        .map(|case| {
            let kv = [shifted(&case.k), shifted(&case.v)];
            Owned {
                q: shifted(&case.q),
                half: [half(&kv[0]), half(&kv[1])],
                kv,
                out: vec![f32::from_bits(UNTOUCHED); 1 + case.tokens * (case.width() + GAP)],
            }
        })
        .collect();
    let mut segments: Vec<Segment> = cases
        .iter()
        .zip(&mut owned)
        .map(|(case, owned)| {
            let (heads, dim) = (case.spec.n_kv_head, case.spec.head_dim);
            let width = case.width();
            Segment {
                q: MatRef::new(&owned.q[1..], case.tokens, width).unwrap(),
                start: case.start,
                kv: match op {
                    Op::AttentionF32 => {
                        let [k, v] = &owned.kv;
                        let cache = Cache::new(&k[1..], &v[1..], heads, case.capacity, dim);
                        KvRef::F32(cache.unwrap())
                    }
                    _ => {
                        let [k, v] = &owned.half;
                        let cache = Cache::new(&k[1..], &v[1..], heads, case.capacity, dim);
                        KvRef::Bf16(cache.unwrap())
                    }
                },
                out: MatMut::with_stride(&mut owned.out[1..], case.tokens, width, width + GAP)
                    .unwrap(),
            }
        })
        .collect();
    attention(rt, &cases[0].spec, &mut segments);
    drop(segments);
    cases
        .iter()
        .zip(&owned)
        .map(|(case, owned)| {
            let mut out = Vec::new();
            assert_eq!(owned.out[0].to_bits(), UNTOUCHED);
            for row in owned.out[1..].chunks(case.width() + GAP) {
                let (row, gap) = row.split_at(case.width());
                assert!(
                    gap.iter().all(|x| x.to_bits() == UNTOUCHED),
                    "a gap was written"
                );
                out.extend_from_slice(row);
            }
            out
        })
        .collect()
}

fn spec(n_head: usize, n_kv_head: usize, head_dim: usize, window: usize) -> AttentionSpec {
    AttentionSpec {
        n_head,
        n_kv_head,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: NonZeroUsize::new(window),
    }
}

pub fn grid(op: Op) {
    levels(op).into_iter().for_each(storing);
    oracle_against_f64(op);
    let bench = Bench::new(op);
    shapes(&bench);
    heads(&bench);
    batches(&bench);
    cuts(&bench);
    alone(&bench);
    large_scores(&bench);
    exponential(&bench);
}

/// The oracle, and each level at several thread counts.
struct Bench {
    op: Op,
    oracle: Runtime,
    levels: Vec<(Level, [Runtime; 3])>,
}

impl Bench {
    fn new(op: Op) -> Self {
        let all = levels(op).into_iter();
        Self {
            op,
            oracle: runtime(Level::SCALAR, 2),
            levels: all
                .map(|level| (level, [1, 2, 3].map(|threads| runtime(level, threads))))
                .collect(),
        }
    }

    /// Holds every level to the oracle, and to itself at other thread counts.
    fn check(&self, case: &Case) {
        let want = case.run(&self.oracle, self.op);
        let scale = case.scale(&self.oracle, self.op);
        // An exponential's relative error is its exponent's absolute one, which grows with the scores.
        let tolerance = tolerance(self.op) * case.largest_score().max(1.0);
        for (level, runtimes) in &self.levels {
            let what = format!("{} {level} {}", self.op, case.name());
            let [one, two, three] = runtimes.each_ref().map(|rt| case.run(rt, self.op));
            assert_close(&what, &one, &want, &scale, tolerance);
            assert_eq!(bits(&two), bits(&one), "{what}: 2 threads");
            assert_eq!(bits(&three), bits(&one), "{what}: 3 threads");
        }
    }
}

fn round(op: Op) -> impl Fn(f32) -> f32 {
    move |x| match op {
        Op::AttentionF32 => x,
        _ => bf16::from_f32(x).to_f32(),
    }
}

fn oracle_against_f64(op: Op) {
    let mut rng = Rng::new(1);
    let rt = runtime(Level::SCALAR, 2);
    // The textbook does not round its probabilities: 2⁻⁹ above the line and below.
    let tolerance = match op {
        Op::AttentionF32 => tolerance(op),
        _ => 2.0_f64.powi(-8),
    };
    for (head_dim, group) in [(8, 1), (17, 3), (64, 4), (128, 2)] {
        for (tokens, start) in [(0, 0), (1, 0), (9, 0), (3, 17), (2, 300)] {
            for window in [0, 1, 5, 64] {
                let spec = spec(2 * group, 2, head_dim, window);
                let case = Case::new(&mut rng, spec, tokens, start);
                let (want, scale) = case.reference(round(op));
                let got = case.run(&rt, op);
                let what = format!("{op} oracle {}", case.name());
                assert_close(&what, &got, &want, &scale, tolerance);
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Tokens, positions and windows at one head size.
fn shapes(bench: &Bench) {
    let mut rng = Rng::new(3);
    for tokens in [0, 1, 2, 7, 8, 9, 17, 64, 65] {
        for start in [0, 1, 15, 16, 17, 63, 100, 1000] {
            for window in [0, 1, 5, 64] {
                let spec = spec(4, 2, 16, window);
                bench.check(&Case::new(&mut rng, spec, tokens, start));
            }
        }
    }
}

/// Head sizes and groups, at tokens that make each size of tile.
fn heads(bench: &Bench) {
    let mut rng = Rng::new(4);
    for head_dim in [1, 8, 16, 17, 24, 32, 48, 64, 80, 96, 100, 112, 128, 256] {
        for group in [1, 2, 3, 4, 5, 7, 8] {
            for (tokens, start, window) in [(1, 70, 0), (3, 530, 0), (11, 7, 9), (1, 1100, 600)] {
                let spec = spec(group, 1, head_dim, window);
                bench.check(&Case::new(&mut rng, spec, tokens, start));
            }
        }
    }
    for (n_head, n_kv_head) in [(6, 3), (32, 4)] {
        let spec = spec(n_head, n_kv_head, 64, 0);
        bench.check(&Case::new(&mut rng, spec, 40, 90));
    }
}

/// Sequences of different lengths at once answer as each alone.
fn batches(bench: &Bench) {
    let mut rng = Rng::new(5);
    let spec = spec(6, 2, 32, 0);
    let shapes = [
        (1, 0),
        (1, 700),
        (0, 3),
        (70, 10),
        (1, 63),
        (5, 1100),
        (33, 0),
    ];
    let cases = shapes.map(|(tokens, start)| Case::new(&mut rng, spec, tokens, start));
    for (level, runtimes) in &bench.levels {
        for rt in runtimes {
            let got = attend(rt, &cases.each_ref(), bench.op);
            for (got, case) in got.iter().zip(&cases) {
                let alone = case.run(&runtimes[0], bench.op);
                assert_eq!(
                    bits(got),
                    bits(&alone),
                    "{} {level} {}",
                    bench.op,
                    case.name()
                );
            }
        }
    }
}

/// A prompt at once, cut anywhere, and token by token.
fn cuts(bench: &Bench) {
    let mut rng = Rng::new(6);
    for window in [0, 20] {
        let spec = spec(4, 1, 64, window);
        let whole = Case::new(&mut rng, spec, 90, 0);
        let scale = whole.scale(&bench.oracle, bench.op);
        for (level, [_, rt, _]) in &bench.levels {
            let want = whole.run(rt, bench.op);
            for step in [1, 7, 41] {
                let got = whole.in_steps(step, rt, bench.op);
                let what = format!("{} {level} w{window} in steps of {step}", bench.op);
                assert_close(&what, &got, &want, &scale, tolerance(bench.op));
            }
        }
    }
}

/// In a batch-invariant runtime each token gets the bits that it gets alone in any.
fn alone(bench: &Bench) {
    let mut rng = Rng::new(8);
    for (heads, tokens, start, window) in [
        ((4, 4), 5, 0, 0),
        ((8, 2), 25, 600, 0),
        ((6, 3), 9, 30, 20),
        ((32, 4), 3, 2100, 0),
    ] {
        let spec = spec(heads.0, heads.1, 64, window);
        let case = Case::new(&mut rng, spec, tokens, start);
        for (level, [one, _, three]) in &bench.levels {
            let want = case.in_steps(1, one, bench.op);
            let got = case.run(&three.batch_invariant(), bench.op);
            assert_eq!(
                bits(&got),
                bits(&want),
                "{} {level} {}",
                bench.op,
                case.name()
            );
        }
    }
}

/// Scores whose exponentials overflow by themselves, rising and falling along the keys, steeply and by so little that a
/// lazy maximum might not follow.
fn large_scores(bench: &Bench) {
    let mut rng = Rng::new(7);
    for slope in [0.25, -0.25, 0.008, 0.005, 0.003, -0.005] {
        let spec = AttentionSpec {
            scale: 1.0,
            ..spec(8, 1, 64, 0)
        };
        let mut case = Case::new(&mut rng, spec, 9, 300);
        for (at, k) in case.k.iter_mut().enumerate() {
            let position = at / spec.head_dim % case.capacity;
            *k = (*k + 1.0) * slope * position as f32;
        }
        for q in &mut case.q {
            *q = q.abs() * 4.0;
        }
        assert!(case.largest_score() > 150.0);
        bench.check(&case);
    }
}

/// Two keys of scores 0 and x, and values 0 and 1, make 2ˣ / (1 + 2ˣ): the exponential itself, over its range.
fn exponential(bench: &Bench) {
    let dim = 16;
    let steps = 40_001;
    let spec = AttentionSpec {
        n_head: steps,
        n_kv_head: 1,
        head_dim: dim,
        scale: std::f32::consts::LN_2,
        window: None,
    };
    let mut q = vec![0.0; steps * dim];
    let exponents: Vec<f32> = (0..steps)
        .map(|i| -(i as f32) / 500.0)
        .map(round(bench.op))
        .collect();
    for (row, x) in q.chunks_mut(dim).zip(&exponents) {
        row[0] = *x;
    }
    let mut k = vec![0.0; 2 * dim];
    k[dim] = 1.0;
    let mut v = vec![0.0; 2 * dim];
    v[dim..].fill(1.0);
    let case = Case {
        spec,
        tokens: 1,
        start: 1,
        capacity: 2,
        q,
        k,
        v,
    };
    // 2⁻⁸ where the probability is rounded to bf16; the scale's own rounding, and the factor's, act on the exponent.
    let tolerance = match bench.op {
        Op::AttentionF32 => 3e-7,
        _ => 2.0_f64.powi(-8),
    };
    for (level, [_, rt, _]) in &bench.levels {
        let got = case.run(rt, bench.op);
        for (row, x) in got.chunks(dim).zip(&exponents) {
            let p = f64::from(*x).exp2();
            let want = p / (1.0 + p);
            let error = (f64::from(row[0]) - want).abs() / want;
            let allowed = tolerance + f64::from(x.abs()) * 2.0_f64.powi(-23);
            assert!(
                error <= allowed,
                "{} {level}: 2^{x} is off by {error:e}",
                bench.op
            );
        }
    }
}

/// At each level: values that rounding could get wrong are among those that are stored.
fn storing(level: Level) {
    let mut rng = Rng::new(2);
    let odd = [
        f32::NAN,
        -f32::NAN,
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0xffff_ffff),
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        f32::from_bits(1),
        -0.0,
        f32::from_bits(0x3f80_8000),
        f32::from_bits(0x3f81_8000),
        f32::from_bits(0x3f80_7fff),
        f32::from_bits(0x3f80_8001),
    ];
    let (heads, dim, capacity) = (3, 42, 40);
    let spec = spec(heads, heads, dim, 0);
    let rt = runtime(level, 2);
    for (start, tokens) in [(0, 0), (0, 1), (39, 1), (7, 33), (40, 0)] {
        let width = heads * dim;
        let (mut k, v) = (rng.f32s(tokens * width), rng.f32s(tokens * width));
        for (k, odd) in k.iter_mut().step_by(5).zip(odd.iter().cycle()) {
            *k = *odd;
        }
        let view = |data| MatRef::new(data, tokens, width).unwrap();
        let untouched = f32::from_bits(0x7fc1_0000);
        let mut f = [
            vec![untouched; heads * capacity * dim],
            vec![untouched; heads * capacity * dim],
        ];
        let mut h = f
            .clone()
            .map(|x| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>());
        {
            let [fk, fv] = &mut f;
            let cache = CacheMut::new(fk, fv, heads, capacity, dim).unwrap();
            store_kv(&rt, &spec, start, view(&k), view(&v), KvMut::F32(cache));
            let [hk, hv] = &mut h;
            let cache = CacheMut::new(hk, hv, heads, capacity, dim).unwrap();
            store_kv(&rt, &spec, start, view(&k), view(&v), KvMut::Bf16(cache));
        }
        for (rows, full, half) in [(&k, &f[0], &h[0]), (&v, &f[1], &h[1])] {
            for at in 0..full.len() {
                let (head, position, d) = (at / dim / capacity, at / dim % capacity, at % dim);
                let want = match position.checked_sub(start).filter(|token| *token < tokens) {
                    Some(token) => rows[token * width + head * dim + d],
                    None => untouched,
                };
                assert_eq!(full[at].to_bits(), want.to_bits());
                assert_eq!(half[at].to_bits(), bf16::from_f32(want).to_bits());
            }
        }
    }
    assert!(Cache::new(&[0.0_f32; 10], &[0.0; 9], 1, 2, 5).is_err());
    assert!(CacheMut::new(&mut [0.0_f32; 10], &mut [0.0; 10], usize::MAX, 2, 5).is_err());
}
