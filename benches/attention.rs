//! Attention: reading a prompt and decoding, with the heads of real models, over both types of cache.
//!
//! `m` is the number of queries, `kv` the positions that the last of them sees: `m512_kv512` starts a prompt of 512
//! tokens, `m512_kv4096` ends one of 4096, `m1` decodes. A decoding query finds its keys in memory, for each layer has a
//! cache of its own: the routine goes through several caches.

mod common;

use std::process::ExitCode;

use common::attention::{Case, Heads, LLAMA2_7B, QWEN3_0_6B, QWEN3_30B_A3B, heads};
use common::kind::{Kind, kind};
use common::runtimes;
use common::suite::Suite;
use tokgate_kernels::{DType, Op, Tier};

/// For the scalar variants, hundreds of times slower.
const REDUCED: Heads = heads(4, 2, 64);

/// Queries, and positions that the last of them sees.
const PASSES: [(usize, usize); 4] = [(1, 512), (1, 4096), (512, 512), (512, 4096)];

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new("attention")?;
    for op in Op::ALL {
        match kind(op) {
            Kind::Attention(dtype) => add(&mut suite, op, dtype),
            Kind::Matmul(_) | Kind::Router | Kind::Experts(_) | Kind::Elementwise(_) => {}
        }
    }
    Ok(suite.run())
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

fn bench(suite: &mut Suite, op: Op, tier: Tier, case: Case) {
    suite.add(
        op.name(),
        tier.name(),
        &case.shape(),
        case.work(),
        move |context| case.prepare(context.runtimes.get(op, tier)?, case.copies(context)),
    );
}
