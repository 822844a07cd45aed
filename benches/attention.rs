//! Attention: reading a prompt and decoding, with the heads of real models, over both types of cache.
//!
//! `m` is the number of queries, `kv` the positions that the last of them sees: `m512_kv512` starts a prompt of 512
//! tokens, `m512_kv4096` ends one of 4096, `m1` decodes. A decoding query finds its keys in memory, for each layer has a
//! cache of its own: the routine goes through several caches.

mod common;

use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;

use common::check;
use common::inputs::{self, Rng, Store};
use common::runtimes;
use common::suite::{Context, Routine, Suite, Work};
use half::bf16;
use tokgate_kernels::{
    AttentionSpec, Cache, DType, KvRef, MatMut, MatRef, Op, Segment, Tier, attention,
};

/// Outputs of a call that are looked at.
const SPOTS: usize = 6;

/// How a model attends.
#[derive(Clone, Copy, Debug)]
struct Heads {
    n_head: usize,
    n_kv_head: usize,
    head_dim: usize,
}

const fn heads(n_head: usize, n_kv_head: usize, head_dim: usize) -> Heads {
    Heads {
        n_head,
        n_kv_head,
        head_dim,
    }
}

const LLAMA2_7B: Heads = heads(32, 32, 128);
const QWEN3_0_6B: Heads = heads(16, 8, 128);
const QWEN3_30B_A3B: Heads = heads(32, 4, 128);

/// For the scalar variants, hundreds of times slower.
const REDUCED: Heads = heads(4, 2, 64);

/// Queries, and positions that the last of them sees.
const PASSES: [(usize, usize); 4] = [(1, 512), (1, 4096), (512, 512), (512, 4096)];

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new()?;
    for op in Op::ALL {
        if let Some(dtype) = cache(op) {
            add(&mut suite, op, dtype);
        }
    }
    Ok(suite.run())
}

/// The element type of an attention's cache; the other operations have targets of their own.
fn cache(op: Op) -> Option<DType> {
    match op {
        Op::AttentionF32 => Some(DType::F32),
        Op::AttentionBf16 => Some(DType::Bf16),
        Op::MatmulF32 | Op::MatmulF16 | Op::MatmulBf16 | Op::MatmulQ8_0 => None,
        Op::MoeRoute | Op::MoeF32 | Op::MoeF16 | Op::MoeBf16 | Op::MoeQ8_0 => None,
        Op::RmsNorm | Op::Rope | Op::Swiglu | Op::Add | Op::Softmax => None,
    }
}

fn add(suite: &mut Suite, op: Op, dtype: DType) {
    let tiers = runtimes::variants(op);
    for heads in [QWEN3_30B_A3B, QWEN3_0_6B, LLAMA2_7B] {
        for (m, kv) in PASSES {
            for (at, tier) in tiers.iter().enumerate() {
                // Lower variants on one model, and not where a call takes half a second.
                let representative = heads.n_kv_head == QWEN3_30B_A3B.n_kv_head && m * kv < 1 << 20;
                if *tier != Tier::Scalar && (at == 0 || representative) {
                    bench(
                        suite,
                        op,
                        *tier,
                        Case {
                            dtype,
                            heads,
                            m,
                            kv,
                        },
                    );
                }
            }
        }
    }
    for (m, kv) in [(1, 512), (32, 32)] {
        bench(
            suite,
            op,
            Tier::Scalar,
            Case {
                dtype,
                heads: REDUCED,
                m,
                kv,
            },
        );
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: DType,
    heads: Heads,
    m: usize,
    kv: usize,
}

impl Case {
    fn shape(&self) -> String {
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

    fn kv_bytes(&self) -> usize {
        2 * self.kv_elements() * self.dtype.block_bytes()
    }

    /// A product with the keys and one with the values, for each query and position that it sees.
    fn work(&self) -> Work {
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
}

fn bench(suite: &mut Suite, op: Op, tier: Tier, case: Case) {
    suite.add(
        op.name(),
        tier.name(),
        &case.shape(),
        case.work(),
        move |context: &Context| {
            let rt = context.runtimes.get(op, tier)?;
            let copies = if case.m > 8 {
                1
            } else {
                context.copies(case.kv_bytes())
            };
            let store = inputs::store(case.dtype, copies * 2 * case.kv_elements());
            let caches = Rc::clone(&store);
            let (m, width, start) = (case.m, case.width(), case.kv - case.m);
            let q = Rng::new(case.kv as u64).f32s(m * width);
            let mut out = vec![f32::NAN; m * width];
            let attend = move |copy: usize, q: &[f32], out: &mut [f32]| -> anyhow::Result<()> {
                let (q, out) = (MatRef::new(q, m, width)?, MatMut::new(out, m, width)?);
                let kv = case.cache(&caches, copy)?;
                attention(&rt, &case.spec(), &mut [Segment { q, start, kv, out }]);
                Ok(())
            };
            attend(0, &q, &mut out)?;
            checked(case, &q, case.cache(&store, 0)?, &out)?;
            let mut turn = 0;
            Ok(Box::new(move || {
                attend(turn, &q, black_box(&mut out)).expect("the shapes of a moment ago");
                turn = (turn + 1) % copies;
            }) as Routine)
        },
    );
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
