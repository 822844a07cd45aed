//! Attention: the grid of shapes, and the oracle against f64.

use std::num::NonZeroUsize;

use half::bf16;
use tokgate_kernels::{
    AttentionSpec, Cache, CacheMut, KvMut, KvRef, Level, MatMut, MatRef, Op, Segment, attention,
    store_kv,
};

use crate::common::{Rng, assert_close, runtime, tolerance};

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

    fn run(&self, level: Level, threads: usize, op: Op) -> Vec<f32> {
        let rt = runtime(level, threads);
        let mut out = vec![f32::NAN; self.tokens * self.width()];
        let q = MatRef::new(&self.q, self.tokens, self.width()).unwrap();
        let (heads, dim) = (self.spec.n_kv_head, self.spec.head_dim);
        let (k16, v16): (Vec<_>, Vec<_>) = (
            self.k.iter().map(|x| bf16::from_f32(*x)).collect(),
            self.v.iter().map(|x| bf16::from_f32(*x)).collect(),
        );
        let kv = match op {
            Op::AttentionF32 => {
                KvRef::F32(Cache::new(&self.k, &self.v, heads, self.capacity, dim).unwrap())
            }
            _ => KvRef::Bf16(Cache::new(&k16, &v16, heads, self.capacity, dim).unwrap()),
        };
        let mut segments = [Segment {
            q,
            start: self.start,
            kv,
            out: MatMut::new(&mut out, self.tokens, self.width()).unwrap(),
        }];
        attention(&rt, &self.spec, &mut segments);
        out
    }
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
    oracle_against_f64(op);
    storing();
}

fn oracle_against_f64(op: Op) {
    let mut rng = Rng::new(1);
    let round = |x: f32| match op {
        Op::AttentionF32 => x,
        _ => bf16::from_f32(x).to_f32(),
    };
    for (head_dim, group) in [(8, 1), (17, 3), (64, 4), (128, 2)] {
        for (tokens, start) in [(0, 0), (1, 0), (9, 0), (3, 17), (2, 300)] {
            for window in [0, 1, 5, 64] {
                let spec = spec(2 * group, 2, head_dim, window);
                let case = Case::new(&mut rng, spec, tokens, start);
                let (want, scale) = case.reference(round);
                let got = case.run(Level::SCALAR, 2, op);
                let what = format!("{op} d{head_dim} g{group} t{tokens} s{start} w{window}");
                assert_close(&what, &got, &want, &scale, tolerance(op));
            }
        }
    }
}

fn storing() {
    let mut rng = Rng::new(2);
    let (heads, dim, capacity) = (3, 10, 40);
    let spec = spec(heads, heads, dim, 0);
    let rt = runtime(Level::SCALAR, 2);
    for (start, tokens) in [(0, 0), (0, 1), (39, 1), (7, 33), (40, 0)] {
        let width = heads * dim;
        let (k, v) = (rng.f32s(tokens * width), rng.f32s(tokens * width));
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
