//! Attention of one sequence over its cache.

use std::hint::black_box;
use std::rc::Rc;

use half::bf16;
use tokgate_kernels::{
    AttentionSpec, Cache, DType, KvRef, MatMut, MatRef, Runtime, Segment, attention,
};

use super::check;
use super::inputs::{self, Rng, Store};
use super::suite::{Context, Routine, Work};

/// Outputs of a call that are looked at.
const SPOTS: usize = 6;

/// How a model attends.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub n_head: usize,
    /// Heads of the cache.
    pub n_kv_head: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// Query heads, heads of the cache, elements of a head.
pub const fn heads(n_head: usize, n_kv_head: usize, head_dim: usize) -> Heads {
    Heads {
        n_head,
        n_kv_head,
        head_dim,
    }
}

/// Llama-2-7B: each query head has keys of its own.
pub const LLAMA2_7B: Heads = heads(32, 32, 128);
/// Qwen3-0.6B.
pub const QWEN3_0_6B: Heads = heads(16, 8, 128);
/// Qwen3-30B-A3B.
pub const QWEN3_30B_A3B: Heads = heads(32, 4, 128);

/// Queries of one sequence against its cache.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Type of the cache.
    pub dtype: DType,
    /// The model's heads.
    pub heads: Heads,
    /// Queries.
    pub m: usize,
    /// Positions that the last of them sees.
    pub kv: usize,
}

impl Case {
    /// The shape's name in ids.
    pub fn shape(&self) -> String {
        let Heads {
            n_head,
            n_kv_head,
            head_dim,
        } = self.heads;
        format!(
            "m{}_kv{}_h{n_head}_hkv{n_kv_head}_d{head_dim}",
            self.m, self.kv
        )
    }

    fn spec(&self) -> AttentionSpec {
        let Heads {
            n_head,
            n_kv_head,
            head_dim,
        } = self.heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionSpec {
            n_head,
            n_kv_head,
            head_dim,
            scale,
            window: None,
        }
    }

    /// Width of the queries.
    fn width(&self) -> usize {
        self.heads.n_head * self.heads.head_dim
    }

    /// Elements of the keys; of the values as many.
    fn kv_elements(&self) -> usize {
        self.heads.n_kv_head * self.kv * self.heads.head_dim
    }

    /// Bytes of the cache.
    pub fn kv_bytes(&self) -> usize {
        2 * self.kv_elements() * self.dtype.block_bytes()
    }

    /// A product with the keys and one with the values, for each query and position that it sees.
    pub fn work(&self) -> Work {
        let pairs: usize = (self.kv - self.m + 1..=self.kv).sum();
        let queries = 2 * self.m * self.width() * size_of::<f32>();
        Work {
            elements: (2 * pairs * self.width()) as u64,
            bytes: (self.kv_bytes() + queries) as u64,
        }
    }

    /// The `copy`-th cache of `store`.
    fn cache<'a>(&self, store: &'a Store, copy: usize) -> anyhow::Result<KvRef<'a>> {
        let Heads {
            n_kv_head,
            head_dim,
            ..
        } = self.heads;
        let (len, at) = (self.kv_elements(), 2 * copy * self.kv_elements());
        let (k, v) = (at..at + len, at + len..at + 2 * len);
        Ok(match store {
            Store::F32(x) => KvRef::F32(Cache::new(&x[k], &x[v], n_kv_head, self.kv, head_dim)?),
            Store::Bf16(x) => KvRef::Bf16(Cache::new(&x[k], &x[v], n_kv_head, self.kv, head_dim)?),
            Store::F16(_) | Store::Q8_0(_) => anyhow::bail!("no cache is kept in {}", self.dtype),
        })
    }

    /// Caches that the routine goes through.
    pub fn copies(&self, context: &Context) -> usize {
        if self.m > 8 {
            1
        } else {
            context.copies(self.kv_bytes())
        }
    }

    /// The call, checked, over `copies` of the cache in turn.
    ///
    /// # Errors
    /// If an output is wrong.
    pub fn prepare(self, rt: Rc<Runtime>, copies: usize) -> anyhow::Result<Routine> {
        let store = inputs::store(self.dtype, copies * 2 * self.kv_elements());
        let caches = Rc::clone(&store);
        let (m, width, start) = (self.m, self.width(), self.kv - self.m);
        let q = Rng::new(self.kv as u64).f32s(m * width);
        let mut out = vec![f32::NAN; m * width];
        let attend = move |copy: usize, q: &[f32], out: &mut [f32]| -> anyhow::Result<()> {
            let (q, out) = (MatRef::new(q, m, width)?, MatMut::new(out, m, width)?);
            let kv = self.cache(&caches, copy)?;
            attention(&rt, &self.spec(), &mut [Segment { q, start, kv, out }]);
            Ok(())
        };
        attend(0, &q, &mut out)?;
        checked(self, &q, self.cache(&store, 0)?, &out)?;
        let mut turn = 0;
        Ok(Box::new(move || {
            attend(turn, &q, black_box(&mut out)).expect("the shapes of a moment ago");
            turn = (turn + 1) % copies;
        }))
    }
}

/// Holds some outputs to a softmax in f64.
fn checked(case: Case, q: &[f32], kv: KvRef, out: &[f32]) -> anyhow::Result<()> {
    // Over a bf16 cache queries are rounded, which is repeated here, and so are the shares of the keys, which is not:
    // 2⁻⁹ each, at random, so that it adds up as the root of the squares.
    let tolerance = if case.dtype == DType::Bf16 {
        3e-2
    } else {
        1e-3
    };
    let Heads {
        n_head,
        n_kv_head,
        head_dim,
    } = case.heads;
    let (scale, mut rng) = (f64::from(case.spec().scale), Rng::new(2));
    for spot in 0..SPOTS {
        let (token, head) = match spot {
            0 => (0, 0),
            1 => (case.m - 1, n_head - 1),
            _ => (rng.below(case.m), rng.below(n_head)),
        };
        let seen = case.kv - case.m + token + 1;
        let query = &q[(token * n_head + head) * head_dim..][..head_dim];
        let (query, keys, values) = rows(kv, query, head / (n_head / n_kv_head));
        let score = |j: usize| {
            let key = &keys[j * head_dim..][..head_dim];
            query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = shares.iter().sum();
        let column = rng.below(head_dim);
        let terms = shares.iter().enumerate();
        let terms = terms.map(|(j, share)| share / sum * values[j * head_dim + column]);
        let (want, squares) =
            terms.fold((0.0, 0.0), |(sum, sq), term| (sum + term, sq + term * term));
        let got = out[(token * n_head + head) * head_dim + column];
        let what = format!("token {token}, head {head}, element {column}");
        check::close(&what, got, want, squares.sqrt(), tolerance)?;
    }
    Ok(())
}

/// A query and the keys and values of a head, as the kernels see them.
fn rows(kv: KvRef, query: &[f32], head: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect();
    let widened = |x: &[bf16]| x.iter().map(|v| v.to_f64()).collect();
    match kv {
        KvRef::F32(cache) => (
            wide(query),
            wide(cache.keys(head)),
            wide(cache.values(head)),
        ),
        KvRef::Bf16(cache) => {
            let query = query.iter().map(|v| bf16::from_f32(*v).to_f64()).collect();
            (
                query,
                widened(cache.keys(head)),
                widened(cache.values(head)),
            )
        }
    }
}
