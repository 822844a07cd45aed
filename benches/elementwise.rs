//! What lies between the matmuls: norms, rotary embedding, gates, residual adds, softmax, at the widths of real models.
//!
//! `m` is the number of tokens. These run from the cache, as they do in a model: what they read was just written.

mod common;

use std::process::ExitCode;

use common::elementwise::Kernel;
use common::kind::{Kind, kind};
use common::runtimes;
use common::suite::Suite;
use tokgate_kernels::Op;

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new("elementwise")?;
    for op in Op::ALL {
        match kind(op) {
            Kind::Elementwise(kernel) => add(&mut suite, op, kernel),
            Kind::Matmul(_) | Kind::Attention(_) | Kind::Router | Kind::Experts(_) => {}
        }
    }
    Ok(suite.run())
}

fn add(suite: &mut Suite, op: Op, kernel: Kernel) {
    for tier in runtimes::variants(op) {
        for (m, n) in kernel.shapes {
            let (shape, work) = (Kernel::shape(m, n), kernel.work(m, n));
            suite.add(op.name(), tier.name(), &shape, work, move |context| {
                kernel.prepare(context.runtimes.get(op, tier)?, m, n)
            });
        }
    }
}
