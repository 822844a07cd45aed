//! Mixture of experts: the router, and the feed-forward of the experts that it chose.
//!
//! The block is that of Qwen3-30B-A3B: 128 experts of which 8 serve a token, 768 wide, on 2048. `m` is the number of
//! tokens: 1 decodes, 8 and 32 decode for many users, 512 reads a prompt and meets every expert.

mod common;

use std::process::ExitCode;

use common::kind::{Kind, kind};
use common::moe::{Block, QWEN3_30B_A3B};
use common::runtimes;
use common::suite::Suite;
use tokgate_kernels::{DType, Op, Tier};

/// An eighth of the experts, for types that no such model comes in: a block of f32 would fill 2.4 GB.
const FEW_EXPERTS: Block = Block {
    n_expert: 16,
    ..QWEN3_30B_A3B
};

/// For the scalar variants, fifty times slower.
const REDUCED: Block = Block {
    n_expert: 8,
    top_k: 2,
    n_ff: 64,
    d: 256,
};

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new("moe")?;
    for op in Op::ALL {
        match kind(op) {
            Kind::Router => add_router(&mut suite, op, QWEN3_30B_A3B),
            Kind::Experts(dtype) => add_experts(&mut suite, op, dtype),
            Kind::Matmul(_) | Kind::Attention(_) | Kind::Elementwise(_) => {}
        }
    }
    Ok(suite.run())
}

fn add_router(suite: &mut Suite, op: Op, block: Block) {
    for tier in runtimes::variants(op) {
        for m in [1, 512] {
            let (shape, work) = (block.router_shape(m), block.router_work(m));
            suite.add(op.name(), tier.name(), &shape, work, move |context| {
                block.prepare_router(context.runtimes.get(op, tier)?, m)
            });
        }
    }
}

fn add_experts(suite: &mut Suite, op: Op, dtype: DType) {
    let common = matches!(dtype, DType::Q8_0 | DType::Bf16);
    let block = if common { QWEN3_30B_A3B } else { FEW_EXPERTS };
    let sizes: &[usize] = if common { &[1, 8, 32, 512] } else { &[32] };
    let tiers = runtimes::variants(op);
    for m in sizes {
        for (at, tier) in tiers.iter().enumerate() {
            // Lower variants where a call is short.
            if *tier != Tier::Scalar && (at == 0 || matches!(m, 1 | 32)) {
                experts(suite, op, *tier, dtype, block, *m);
            }
        }
    }
    experts(suite, op, Tier::Scalar, dtype, REDUCED, 8);
}

fn experts(suite: &mut Suite, op: Op, tier: Tier, dtype: DType, block: Block, m: usize) {
    let (shape, work) = (block.shape(m), block.work(dtype, m));
    suite.add(op.name(), tier.name(), &shape, work, move |context| {
        block.prepare(context.runtimes.get(op, tier)?, dtype, m)
    });
}
