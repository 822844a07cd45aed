//! `tokgate bench --llama-bench`: somebody's llama-bench in turn with this engine, on the same file, tests and threads.
//!
//! A pair is a block of repetitions here and a call of the program there. Pairs go A B, B A, A B …, so that a machine
//! that becomes faster or slower does so for both; the result is the median over pairs of ours/theirs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokgate_kernels::Runtime;

use super::{BUILD_COMMIT, cases, mean, pages, print};
use crate::cli::{BenchArgs, BenchFormat};
use crate::cmd::model::{self, Loaded};
use crate::cmd::{Outcome, runtime};
use crate::judge::stats::median_and_deviation;
use crate::probe::machine::Machine;
use crate::record::llama_bench::{Theirs, test_name};
use crate::throughput::{Bench, Case};

mod program;

use program::Program;

/// The whole comparison.
#[derive(Serialize)]
struct Report {
    /// Version of this JSON.
    tokgate_versus: u32,
    machine: String,
    machine_key: String,
    cpus: u32,
    program: String,
    program_args: Vec<String>,
    tokgate_commit: &'static str,
    rows: Vec<Row>,
}

/// One test of one model at one thread count.
#[derive(Serialize)]
struct Row {
    model: String,
    model_filename: String,
    test: String,
    threads: usize,
    level: String,
    kv_type: String,
    /// 10⁹ multiply–accumulates a second here, the median over the pairs.
    gmacs: f64,
    /// Tokens a second here, the median over the pairs.
    ts: f64,
    /// Tokens a second there.
    their_ts: f64,
    /// The median over the pairs of ours/theirs.
    ratio: f64,
    /// Its scaled median absolute deviation, in percent of it.
    ratio_spread_pct: f64,
    ratio_min: f64,
    ratio_max: f64,
    their_build: String,
    their_kv_type: String,
    /// Tokens a second, ours and theirs, of each pair.
    pairs: Vec<(f64, f64)>,
}

/// Measures every combination that the arguments name, in turn with `path`.
///
/// # Errors
/// If the program is missing, fails, or measures something else; and whatever keeps a model from being measured.
pub fn run(args: &BenchArgs, path: &Path) -> anyhow::Result<Outcome> {
    if args.dtype.is_some() {
        bail!("both sides run the same file; leave out --dtype");
    }
    if !matches!(args.output, BenchFormat::Md | BenchFormat::Json) {
        bail!("this comparison is printed as md or json");
    }
    let program = Program::new(path, &args.llama_bench_args)?;
    let machine = Machine::detect();
    let mut report = Report {
        tokgate_versus: 1,
        machine: machine.model().to_owned(),
        machine_key: machine.key(),
        cpus: machine.cpus(),
        program: path.display().to_string(),
        program_args: program.extra().to_vec(),
        tokgate_commit: BUILD_COMMIT,
        rows: Vec::new(),
    };
    let mut notes = Vec::new();
    for path in &args.model {
        let model = model::load(path, model::Conversion::default())?;
        for &threads in &super::threads(args) {
            let rt = runtime::new(threads, args.pin, args.level.as_deref())?;
            for case in cases(args) {
                report
                    .rows
                    .push(compare(args, &program, &model, &rt, case)?);
            }
        }
        notes.extend(pages::note(&model.path));
    }
    match args.output {
        BenchFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
        _ => print(&table(&report))?,
    }
    pages::tell(&notes);
    Ok(Outcome::Clean)
}

fn compare(
    args: &BenchArgs,
    program: &Program,
    loaded: &Loaded,
    rt: &Runtime,
    case: Case,
) -> anyhow::Result<Row> {
    let threads = rt.pool().threads();
    let test = test_name(case.n_prompt as u64, case.n_gen as u64, case.n_depth as u64);
    let progress = ProgressBar::new(args.pairs as u64).with_style(
        ProgressStyle::with_template("{msg} [{bar:20}] {pos}/{len} pairs ({eta} left)")
            .expect("the template is correct"),
    );
    progress.set_message(format!("{} {test}, {threads} threads", loaded.model_type()));
    progress.tick();
    let mut bench = Bench::new(&loaded.model, rt, case, args.seed)?;
    bench.warm_up()?;
    let mut ours = || -> anyhow::Result<(f64, f64)> {
        let tokens = (case.n_prompt + case.n_gen) as f64;
        let samples = (0..args.repetitions).map(|_| bench.repeat());
        let samples = samples.collect::<Result<Vec<_>, _>>()?;
        let rate = |amount: &dyn Fn(u64) -> f64| {
            let rates = samples
                .iter()
                .map(|sample| amount(sample.work.macs) / sample.ns.max(1) as f64);
            mean(&rates.collect::<Vec<_>>())
        };
        Ok((1e9 * rate(&|_| tokens), rate(&|macs| macs as f64)))
    };
    let theirs = || program.measure(args, &loaded.path, case, threads);
    let (mut pairs, mut gmacs) = (Vec::new(), Vec::new());
    let mut they: Option<Theirs> = None;
    for pair in 0..args.pairs {
        let ((ts, rate), result) = if pair % 2 == 0 {
            let ours = ours()?;
            (ours, theirs()?)
        } else {
            let theirs = theirs()?;
            (ours()?, theirs)
        };
        pairs.push((ts, result.avg_ts));
        gmacs.push(rate);
        they = Some(result);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let they = they.context("there were no pairs")?;
    let median = |values: Vec<f64>| median_and_deviation(&values).unwrap_or_default();
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    let (ratio, deviation) = median(ratios.clone());
    Ok(Row {
        model: loaded.model_type(),
        model_filename: loaded.path.display().to_string(),
        test,
        threads,
        level: rt.level().to_string(),
        kv_type: case.kv.name().to_owned(),
        gmacs: median(gmacs).0,
        ts: median(pairs.iter().map(|pair| pair.0).collect()).0,
        their_ts: median(pairs.iter().map(|pair| pair.1).collect()).0,
        ratio,
        ratio_spread_pct: 100.0 * deviation / ratio,
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        their_build: they.build(),
        their_kv_type: they.type_k,
        pairs,
    })
}

/// The table "efficiency compared with llama.cpp", 80 columns wide, as Markdown.
fn table(report: &Report) -> String {
    let mut out = format!(
        "machine: {} ({} CPUs)\nllama.cpp: {}{}\n",
        report.machine,
        report.cpus,
        report.program,
        report
            .program_args
            .iter()
            .fold(String::new(), |args, arg| args + " " + arg),
    );
    let mut model = "";
    for row in &report.rows {
        if row.model_filename != model {
            model = &row.model_filename;
            let _ = write!(
                out,
                "\n{}: {}\nours: {}, level {}, KV {}; theirs: {}, KV {}\n\n\
                 | test           | threads | GMAC/s |    tok/s | llama.cpp | efficiency        |\n\
                 | -------------- | ------: | -----: | -------: | --------: | ----------------: |\n",
                row.model,
                row.model_filename,
                report.tokgate_commit,
                row.level,
                row.kv_type,
                row.their_build,
                row.their_kv_type
            );
        }
        let efficiency = format!(
            "{:.0} % [{:.0}..{:.0}]",
            100.0 * row.ratio,
            100.0 * row.ratio_min,
            100.0 * row.ratio_max
        );
        let _ = writeln!(
            out,
            "| {:<14} | {:>7} | {:>6.1} | {:>8.2} | {:>9.2} | {efficiency:>17} |",
            row.test, row.threads, row.gmacs, row.ts, row.their_ts
        );
    }
    let pairs = report.rows.first().map_or(0, |row| row.pairs.len());
    let _ = writeln!(
        out,
        "\nefficiency = ours / theirs: the median of {pairs} pairs in turn [least..most]"
    );
    out
}
