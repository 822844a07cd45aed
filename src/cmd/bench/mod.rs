//! `tokgate bench`: llama-bench's measurement, in llama-bench's formats.

mod limit;
mod lockstep;
mod pages;
mod versus;

use std::io::Write;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokgate_kernels::{DType, Runtime};

use crate::cli::{BenchArgs, BenchFormat, FlashAttn};
use crate::cmd::model::{self, Loaded};
use crate::cmd::{Outcome, runtime};
use crate::probe::limits::Limits;
use crate::probe::machine::Machine;
use crate::record::llama_bench::LlamaBench;
use crate::render::llama_bench::{Columns, Format, Renderer};
use crate::throughput::{Bench, Case, Sample};
use limit::Beside;

const BUILD_COMMIT: &str = env!("TOKGATE_BUILD_COMMIT");
const BUILD_NUMBER: &str = env!("TOKGATE_BUILD_NUMBER");

/// Measures every combination of models, threads and tests.
///
/// # Errors
/// If a model cannot be loaded, an option makes no sense, or a test does not fit the memory.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    if args.flash_attn == FlashAttn::Off {
        bail!(
            "attention is always computed in tiles, without a matrix of scores; leave out --flash-attn 0"
        );
    }
    if args.type_v.is_some_and(|type_v| type_v != args.type_k) {
        bail!("keys and values of the KV cache have one type; leave out --cache-type-v");
    }
    if let Some(program) = &args.llama_bench {
        return versus::run(args, program);
    }
    if args.lockstep {
        return lockstep::run(args);
    }
    let (mut results, mut notes) = (Results::new(args), Vec::new());
    for path in &args.model {
        let model = model::load(path, args)?;
        for &threads in &threads(args) {
            let rt = runtime::new(threads, args.pin, args.level.as_deref())?;
            let limits = limit::of(args, &model, &rt)?;
            for case in cases(args) {
                let result = measure(args, &model, &rt, case, limits.as_ref())
                    .with_context(|| format!("{} at {threads} threads", path.display()))?;
                results.add(&result)?;
            }
        }
        notes.extend(pages::note(path));
    }
    results.end()?;
    pages::tell(&notes);
    Ok(Outcome::Clean)
}

fn threads(args: &BenchArgs) -> Vec<usize> {
    if args.threads.is_empty() {
        vec![runtime::cores()]
    } else {
        args.threads.clone()
    }
}

/// The tests, in llama-bench's order: depths and batch sizes outside, then prompts, generations and pairs of both.
fn cases(args: &BenchArgs) -> Vec<Case> {
    let mut cases = Vec::new();
    for &n_depth in &args.n_depth {
        for &ubatch in &args.ubatch {
            let ubatch = ubatch.min(args.batch_size);
            let prompts = args.n_prompt.iter().map(|&n| (n, 0));
            let generations = args.n_gen.iter().map(|&n| (0, n));
            let tests = prompts
                .chain(generations)
                .chain(args.prompt_gen.iter().copied());
            let kv = model::kv(args.type_k);
            cases.extend(
                tests
                    .filter(|test| *test != (0, 0))
                    .map(|(n_prompt, n_gen)| Case {
                        n_prompt,
                        n_gen,
                        n_depth,
                        ubatch,
                        kv,
                    }),
            );
        }
    }
    cases
}

fn measure(
    args: &BenchArgs,
    loaded: &Loaded,
    rt: &Runtime,
    case: Case,
    limits: Option<&Limits>,
) -> anyhow::Result<LlamaBench> {
    let progress = ProgressBar::new(args.repetitions as u64).with_style(
        ProgressStyle::with_template("{msg} [{bar:20}] {pos}/{len} ({eta} left)")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut result = blank(args, loaded, rt, case);
    progress.set_message(format!("{} {}", result.model_type, result.test()));
    let mut bench = Bench::new(&loaded.model, rt, case, args.seed)?;
    if !args.no_warmup {
        bench.warm_up()?;
    }
    let mut samples = Vec::with_capacity(args.repetitions);
    let mut beside = Beside::new(limits, rt);
    for _ in 0..args.repetitions {
        let sample = bench.repeat()?;
        beside.after(&sample);
        samples.push(sample);
        progress.inc(1);
    }
    progress.finish_and_clear();
    fill(&mut result, &samples);
    beside.fill(&mut result);
    if let Some(warning) = limit::warning(&result) {
        eprintln!("tokgate: warning: {warning}");
    }
    Ok(result)
}

/// A result with everything in it but the figures.
fn blank(args: &BenchArgs, loaded: &Loaded, rt: &Runtime, case: Case) -> LlamaBench {
    let kv = case.kv.name().to_owned();
    LlamaBench {
        build_commit: BUILD_COMMIT.to_owned(),
        build_number: BUILD_NUMBER.parse().unwrap_or(0),
        cpu_info: Machine::detect().model().to_owned(),
        gpu_info: String::new(),
        backends: "CPU".to_owned(),
        model_filename: loaded.path.display().to_string(),
        model_type: loaded.model_type(),
        model_size: loaded.bytes(),
        model_n_params: loaded.params(),
        n_batch: args.batch_size as u64,
        n_ubatch: case.ubatch as u64,
        n_threads: rt.pool().threads() as u64,
        cpu_mask: "0x0".to_owned(),
        cpu_strict: args.pin,
        poll: 50,
        type_k: kv.clone(),
        type_v: kv,
        n_gpu_layers: 0,
        n_cpu_moe: 0,
        split_mode: "layer".to_owned(),
        main_gpu: 0,
        no_kv_offload: false,
        flash_attn: 1,
        devices: "auto".to_owned(),
        tensor_split: "0.00".to_owned(),
        tensor_buft_overrides: "none".to_owned(),
        use_mmap: true,
        load_mode: "mmap".to_owned(),
        embeddings: false,
        no_op_offload: 0,
        no_host: false,
        fit_target: 0,
        fit_min_ctx: 0,
        n_prompt: case.n_prompt as u64,
        n_gen: case.n_gen as u64,
        n_depth: case.n_depth as u64,
        test_time: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        avg_ns: 0,
        stddev_ns: 0,
        avg_ts: 0.0,
        stddev_ts: 0.0,
        level: rt.level().to_string(),
        macs: 0,
        bytes: 0,
        avg_gmacs: 0.0,
        avg_gbs: 0.0,
        samples_ns: Vec::new(),
        samples_ts: Vec::new(),
        limit_resource: None,
        limit_gbs: None,
        limit_gmacs: None,
        limit_pct: None,
    }
}

/// llama-bench's figures: t/s = 10⁹ · tokens / ns, means and sample standard deviations (n − 1) over the repetitions.
fn fill(result: &mut LlamaBench, samples: &[Sample]) {
    let tokens = (result.n_prompt + result.n_gen) as f64;
    // A clock that did not move would make a rate infinite, which JSON cannot say.
    let ns: Vec<f64> = samples
        .iter()
        .map(|sample| sample.ns.max(1) as f64)
        .collect();
    let ts: Vec<f64> = ns.iter().map(|ns| 1e9 * tokens / ns).collect();
    let rate = |amount: fn(&Sample) -> u64| {
        mean(
            &samples
                .iter()
                .zip(&ns)
                .map(|(s, ns)| amount(s) as f64 / ns)
                .collect::<Vec<_>>(),
        )
    };
    result.avg_ns = mean(&ns) as u64;
    result.stddev_ns = stddev(&ns) as u64;
    result.avg_ts = mean(&ts);
    result.stddev_ts = stddev(&ts);
    result.avg_gmacs = rate(|sample| sample.work.macs);
    result.avg_gbs = rate(|sample| sample.work.bytes);
    result.macs = samples.first().map_or(0, |sample| sample.work.macs);
    result.bytes = samples.first().map_or(0, |sample| sample.work.bytes);
    result.samples_ns = samples.iter().map(|sample| sample.ns).collect();
    result.samples_ts = ts;
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn stddev(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 2 {
        0.0
    } else {
        (squares / (values.len() - 1) as f64).sqrt()
    }
}

/// Where results go, as they come.
struct Results {
    out: Renderer,
    err: Option<Renderer>,
}

impl Results {
    fn new(args: &BenchArgs) -> Self {
        let columns = Columns {
            ubatch: args.ubatch != [512],
            kv: model::kv(args.type_k) != DType::Bf16,
            limit: !args.no_limit,
        };
        let renderer = |format| Renderer::new(self::format(format), columns);
        Self {
            out: renderer(args.output),
            err: args.output_err.map(renderer),
        }
    }

    fn add(&mut self, result: &LlamaBench) -> anyhow::Result<()> {
        let text = self.out.row(result);
        print(&text)?;
        if let Some(err) = &mut self.err {
            eprint!("{}", err.row(result));
        }
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        let number = BUILD_NUMBER.parse().unwrap_or(0);
        print(&self.out.end(BUILD_COMMIT, number))?;
        if let Some(err) = &self.err {
            eprint!("{}", err.end(BUILD_COMMIT, number));
        }
        Ok(())
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")
}

fn format(format: BenchFormat) -> Format {
    match format {
        BenchFormat::Md => Format::Markdown,
        BenchFormat::Json => Format::Json,
        BenchFormat::Jsonl => Format::JsonLines,
        BenchFormat::Csv => Format::Csv,
    }
}
