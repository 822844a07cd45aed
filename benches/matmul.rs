//! Matrix products: every element type and variant on the layers of real models. The target
//! `peers` holds them against candle and gemm.
//!
//! `m` is the number of rows: 1 decodes a token, 8 decodes for eight users or checks a draft, 512 reads a prompt. Up to
//! 8 rows the weights come from memory, as they do when a model decodes: the routine goes through copies that outweigh
//! the cache. `hot` says that they stay in the cache instead.

mod common;

use std::process::ExitCode;

use common::kind::{Kind, kind};
use common::matmul::Case;
use common::runtimes;
use common::shapes::{HEADS, LAYERS, Layer, REDUCED, REPRESENTATIVE};
use common::suite::Suite;
use tokgate_kernels::{DType, Op, Tier};

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new("matmul")?;
    for op in Op::ALL {
        match kind(op) {
            Kind::Matmul(dtype) => add(&mut suite, op, dtype),
            Kind::Attention(_) | Kind::Router | Kind::Experts(_) | Kind::Elementwise(_) => {}
        }
    }
    Ok(suite.run())
}

/// Adds the benches of one element type: variants side by side, shape after shape.
fn add(suite: &mut Suite, op: Op, dtype: DType) {
    let case = |m, layer: Layer, hot| Case {
        dtype,
        m,
        k: layer.k,
        n: layer.n,
        hot,
    };
    let compared = [
        case(1, REPRESENTATIVE[0], false),
        case(8, REPRESENTATIVE[0], false),
        case(512, REPRESENTATIVE[0], false),
        case(1, REPRESENTATIVE[1], true),
        case(512, REPRESENTATIVE[1], false),
    ];
    let mut cases = Vec::from(compared);
    // Models come in these two types; the others hold a few small tensors.
    if matches!(dtype, DType::Q8_0 | DType::Bf16) {
        let layers = LAYERS
            .into_iter()
            .flat_map(|layer| [1, 512].map(|m| case(m, layer, false)));
        let heads = HEADS.into_iter().map(|head| case(1, head, false));
        cases.extend(layers.chain(heads).filter(|case| !compared.contains(case)));
    }
    let tiers = runtimes::variants(op);
    for case in cases {
        for (at, tier) in tiers.iter().enumerate() {
            let fastest = at == 0;
            if *tier != Tier::Scalar && (fastest || compared.contains(&case)) {
                ours(suite, op, *tier, case);
            }
        }
    }
    for m in [1, 512] {
        ours(suite, op, Tier::Scalar, case(m, REDUCED, false));
    }
}

fn ours(suite: &mut Suite, op: Op, tier: Tier, case: Case) {
    suite.add(
        op.name(),
        tier.name(),
        &case.shape(),
        case.work(),
        move |context| case.prepare(context.runtimes.get(op, tier)?, case.copies(context)),
    );
}
