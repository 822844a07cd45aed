//! The result of a load, put together.

use procfs::process::Process;
use serde_json::json;

use crate::cli::{LoadArgs, LoadBackend, LoadDataset};
use crate::load::doubts::{Surroundings, doubts};
use crate::load::figures::{Figures, Goodput};
use crate::load::generator::{Plan, Run};
use crate::record::serving::{Own, SERVING_SCHEMA, ServingResult, Setup, SpecDecode};

/// Percentiles of what is told beside vLLM's table.
const OWN_PERCENTS: [f64; 1] = [99.0];

/// What is known beside the run itself.
pub struct Measured {
    pub started: jiff::Zoned,
    pub backend: LoadBackend,
    /// What counted the tokens of prompts.
    pub tokenizer: Option<String>,
    /// Cores that this program used.
    pub client_cores: Option<f64>,
    pub spec_decode: Option<SpecDecode>,
}

/// The result of `run`.
pub fn of(args: &LoadArgs, plan: &Plan, run: &Run, measured: Measured) -> ServingResult {
    let figures = Figures::of(plan, run, goodput(args));
    let latencies: Vec<_> = args
        .percentile_metrics
        .iter()
        .filter_map(|metric| figures.latency(metric, &args.metric_percentiles))
        .collect();
    let late = figures.late(&OWN_PERCENTS);
    let around = Surroundings {
        client_cores: measured.client_cores,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        rate: args.request_rate,
    };
    let queue = figures.latency("client_queue_time", &OWN_PERCENTS);
    let limits = args.goodput.iter();
    let backend = match measured.backend {
        LoadBackend::Openai => "openai",
        LoadBackend::OpenaiChat => "openai-chat",
    };
    let duration = run.duration.as_secs_f64();
    let own = Own {
        schema: SERVING_SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        url: plan.client.base(),
        endpoint: plan.path.clone(),
        dataset: dataset(args),
        seed: args.seed.into(),
        tokens_counted_by: counted_by(&figures, measured.tokenizer.as_deref()),
        warm_ups: args.warm_up,
        sent: figures.requests.len(),
        interrupted: run.interrupted,
        tokens_per_chunk: (figures.chunks > 0)
            .then(|| figures.output as f64 / figures.chunks as f64),
        itl_per_token_ms: figures.per_token(&OWN_PERCENTS),
        client_queue_ms: queue.expect("one of the metrics"),
        doubts: doubts(plan, run, &figures, &latencies, &late, around),
        late_ms: late,
        client_cores: measured.client_cores,
        server_peak_gib: args.server_pid.and_then(peak_gib),
        goodput: limits
            .map(|(metric, ms)| (metric.clone(), json!(ms)))
            .collect(),
    };
    ServingResult {
        setup: Setup {
            date: measured.started.strftime("%Y%m%d-%H%M%S").to_string(),
            endpoint_type: backend,
            backend,
            label: args.label.clone(),
            model_id: plan.model.clone(),
            tokenizer_id: measured.tokenizer,
            num_prompts: args.num_prompts,
            request_rate: args.request_rate,
            burstiness: args.burstiness,
            max_concurrency: args.max_concurrency,
        },
        duration,
        completed: figures.completed,
        failed: figures.failed,
        total_input_tokens: figures.input,
        total_output_tokens: figures.output,
        request_goodput: (!args.goodput.is_empty())
            .then(|| figures.good as f64 / duration.max(1e-9)),
        max_output_tokens_per_s: figures.peak_chunks,
        max_concurrent_requests: figures.peak_requests,
        spec_decode: measured.spec_decode,
        latencies,
        own,
        requests: figures.requests,
    }
}

fn goodput(args: &LoadArgs) -> Goodput {
    let limit = |metric: &str| {
        let mut limits = args.goodput.iter().rev();
        limits.find(|(name, _)| name == metric).map(|(_, ms)| *ms)
    };
    Goodput {
        ttft: limit("ttft"),
        tpot: limit("tpot"),
        e2el: limit("e2el"),
    }
}

fn dataset(args: &LoadArgs) -> String {
    match &args.dataset {
        LoadDataset::Sharegpt(file) => format!("sharegpt:{}", file.display()),
        LoadDataset::Random => format!(
            "random, {} tokens in and {} out",
            args.random_input_len,
            args.output_len.unwrap_or(args.random_output_len.into())
        ),
        LoadDataset::Sort => format!("sort, {} numbers", args.sort_ints),
        LoadDataset::Prompts => "prompts".to_owned(),
    }
}

/// Who counted tokens: the server tells at the end of an answer how many it and its prompt have, if it tells any.
fn counted_by(figures: &Figures, tokenizer: Option<&str>) -> String {
    let beforehand = tokenizer.map_or_else(String::new, |tokenizer| {
        format!("; prompts beforehand by {tokenizer}")
    });
    match figures.uncounted {
        0 => format!("the server{beforehand}"),
        _ => format!("pieces with text, for lack of the server's count{beforehand}"),
    }
}

/// The most that a process ever had resident.
fn peak_gib(pid: i32) -> Option<f64> {
    let status = Process::new(pid).and_then(|process| process.status());
    let kib = status.ok()?.vmhwm?;
    Some(kib as f64 / f64::from(1 << 20))
}
