//! `tokgate load`: many requests to a running server, and what became of them.

mod requests;
mod result;
mod self_check;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{Outcome, interrupts, print, prompts, variable};
use crate::cli::{LoadArgs, LoadBackend, LoadDataset, ReportFormat};
use crate::load::generator::{Asked, Plan, Run};
use crate::load::spec_decode::Counters;
use crate::load::{Api, Client, Failure};
use crate::probe::process::Moment;
use crate::record::serving::ServingResult;
use crate::record::write_whole;
use crate::render::serving as render;
use crate::workload::arrivals::arrivals;
use result::Measured;

/// How long a server may take to tell its metrics.
const METRICS_LIMIT: Duration = Duration::from_secs(5);

/// Different reasons of failures that are told as they come.
const MAX_TOLD: usize = 10;

/// Runs the subcommand.
///
/// # Errors
/// If there is no server, or a request was not answered; then the result was printed and written before.
pub fn run(args: &LoadArgs) -> anyhow::Result<Outcome> {
    let url = match &args.url {
        Some(url) if !args.self_check => url,
        _ => return self_check::run(args),
    };
    let key = variable("OPENAI_API_KEY");
    let client = Client::of_url(url)
        .context("a server is asked at http://HOST:PORT")?
        .with_key(key.as_deref());
    let limit = Duration::from_secs(args.timeout);
    let served = prompts::reach(&client, limit)?;
    let Some(model) = args.model.clone().or(served.id) else {
        bail!("{url}: the server names no model: name it with --model");
    };
    let found = requests::of(args, &client, &model)?;
    let (backend, path) = endpoint(args);
    let plan = Arc::new(Plan {
        client,
        model,
        api: match backend {
            LoadBackend::Openai => Api::Completions,
            LoadBackend::OpenaiChat => Api::Chat,
        },
        path,
        arrivals: arrivals(
            args.num_prompts,
            args.request_rate,
            args.burstiness,
            args.seed,
        ),
        requests: found.requests,
        concurrency: args.max_concurrency,
        extra: extra(args),
        limit,
    });
    let stop = interrupts()?;
    let started = jiff::Zoned::now();
    warm_up(&plan, args.warm_up, &stop)?;
    let counters = || Counters::parse(&plan.client.metrics(METRICS_LIMIT)?);
    let (counted, moment) = (counters(), Moment::now());
    let run = measure(&plan, &stop)?;
    let usage = moment.until(&Moment::now());
    let drafts = counted.zip(counters());
    let cpu_s = usage.user_s.zip(usage.system_s);
    let result = result::of(
        args,
        &plan,
        &run,
        Measured {
            started,
            backend,
            tokenizer: found.tokenizer,
            client_cores: cpu_s.map(|(user, system)| (user + system) / usage.wall_s.max(1e-9)),
            spec_decode: drafts.and_then(|(was, is)| was.until(&is)),
        },
    );
    report(args, &result)?;
    verdict(&result)
}

/// How and where the server is asked: each follows from the other where only one is given.
fn endpoint(args: &LoadArgs) -> (LoadBackend, String) {
    let is_chat = |path: &String| path.trim_end_matches('/').ends_with("chat/completions");
    let by_path = match args.endpoint.as_ref().is_some_and(is_chat) {
        true => LoadBackend::OpenaiChat,
        false => LoadBackend::Openai,
    };
    let backend = args.backend.unwrap_or(by_path);
    let usual = match backend {
        LoadBackend::Openai => Api::Completions.path(),
        LoadBackend::OpenaiChat => Api::Chat.path(),
    };
    let path = args.endpoint.as_deref().unwrap_or(usual);
    (backend, format!("/{}", path.trim_start_matches('/')))
}

/// Fields of every request beside the usual ones; what the user wrote comes last.
fn extra(args: &LoadArgs) -> Map<String, Value> {
    let mut extra = Map::new();
    extra.insert("temperature".to_owned(), json!(args.temperature));
    if args.ignore_eos || args.dataset == LoadDataset::Random {
        extra.insert("ignore_eos".to_owned(), json!(true));
    }
    extra.extend(args.extra_body.clone().unwrap_or_default());
    extra
}

/// Sends the first request a number of times, as many at once as later, so that the server has read its weights, and so
/// that one which answers none of them is not loaded with all the rest.
fn warm_up(plan: &Plan, count: usize, stop: &AtomicBool) -> anyhow::Result<()> {
    let Some(first) = plan.requests.first().filter(|_| count > 0) else {
        return Ok(());
    };
    let plan = Arc::new(Plan {
        requests: vec![first.clone(); count],
        arrivals: vec![Duration::ZERO; count],
        ..plan.clone()
    });
    let mut failure: Option<Failure> = None;
    let mut answered = false;
    let run = plan.run(stop, |asked| match &asked.reply {
        Ok(_) => answered = true,
        Err(error) => failure = Some(error.clone()),
    })?;
    if run.interrupted {
        bail!("interrupted while warming up: nothing was measured");
    }
    if let Some(failure) = failure.filter(|_| !answered) {
        let base = plan.client.base();
        bail!(
            "{base}{}: no request to warm up was answered: {failure}; is that its path, and '{}' its model?",
            plan.path,
            plan.model
        );
    }
    Ok(())
}

fn measure(plan: &Arc<Plan>, stop: &AtomicBool) -> anyhow::Result<Run> {
    let bar = ProgressBar::new(plan.requests.len() as u64).with_style(
        ProgressStyle::with_template("{wide_bar} {pos} of {len}, {eta} left{msg}")
            .expect("the template is correct"),
    );
    bar.enable_steady_tick(Duration::from_millis(500));
    let (mut failed, mut told) = (0, Vec::new());
    let run = plan.run(stop, |asked: &Asked| {
        bar.inc(1);
        let Err(failure) = &asked.reply else {
            return;
        };
        failed += 1;
        bar.set_message(format!(", {failed} failed"));
        let message = failure.to_string();
        if told.len() < MAX_TOLD && !told.contains(&message) {
            bar.suspend(|| eprintln!("tokgate: warning: {}", crate::render::printable(&message)));
            told.push(message);
        }
    });
    bar.finish_and_clear();
    Ok(run?)
}

fn report(args: &LoadArgs, result: &ServingResult) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(&result.json())? + "\n";
    // The file first: whoever reads the table may be gone.
    if let Some(path) = &args.result {
        write_whole(path, &json)?;
        eprintln!("tokgate: the result is in {}", path.display());
    }
    print(&match args.output {
        ReportFormat::Text => render::text(result),
        ReportFormat::Md => render::markdown(result),
        ReportFormat::Json => json,
    })
}

/// Clean only if every request was answered.
fn verdict(result: &ServingResult) -> anyhow::Result<Outcome> {
    let (sent, wanted) = (result.own.sent, result.setup.num_prompts);
    if result.own.interrupted {
        bail!(
            "interrupted after {sent} of {wanted} requests; what was measured until then is told"
        );
    }
    if result.failed > 0 {
        bail!("{} of {wanted} requests were not answered", result.failed);
    }
    Ok(Outcome::Clean)
}
