//! `tokgate bench --lockstep`: one test, pass by pass, whenever somebody asks.

use anyhow::{bail, ensure};

use super::{cases, threads};
use crate::cli::BenchArgs;
use crate::cmd::lockstep::take_turns;
use crate::cmd::model::Loaded;
use crate::cmd::{Outcome, model, runtime};
use crate::throughput::{Bench, Case};

/// Loads the model, says so, and answers until standard input ends.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let ([path], threads, cases) = (&args.model[..], threads(args), cases(args)) else {
        bail!("--lockstep takes one model, not {}", args.model.len());
    };
    let (&[threads], [case]) = (&threads[..], &cases[..]) else {
        bail!(
            "--lockstep runs one test at one number of threads, not {} at {}; for example: -p 0 -n 128 -t 2",
            cases.len(),
            threads.len()
        );
    };
    ensure!(
        case.n_prompt == 0 || case.n_gen == 0,
        "--lockstep runs passes of one kind: a prompt's or generated tokens', not both"
    );
    let model = model::load(path, args)?;
    let rt = runtime::new(threads, args.pin, args.level.as_deref())?;
    let mut bench = Bench::new(&model.model, &rt, *case, args.seed)?;
    let id = id(&model, *case, &rt.level().to_string(), threads)?;
    take_turns(id, || Ok(bench.step()?.ns))
}

/// `model/q8_0/avx2/NAME_tg128_t2`, by the grammar of all ids: what the bench target `model` calls the same test.
fn id(
    model: &Loaded,
    case: Case,
    level: &str,
    threads: usize,
) -> anyhow::Result<crate::record::BenchId> {
    let stem = model.path.file_stem().unwrap_or_default().to_string_lossy();
    let test = if case.n_prompt > 0 {
        format!("pp{}", case.n_prompt)
    } else {
        format!("tg{}", case.n_gen)
    };
    let depth = if case.n_depth > 0 {
        format!("_d{}", case.n_depth)
    } else {
        String::new()
    };
    let dtype = model.matrix_type().name();
    Ok(format!("model/{dtype}/{level}/{stem}_{test}{depth}_t{threads}").parse()?)
}
