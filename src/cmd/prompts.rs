//! `tokgate prompts`: fixed prompts against a running server.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use procfs::{Current, Meminfo};

use super::{Outcome, interrupts};
use crate::cli::{PromptsApi, PromptsArgs, PromptsFormat};
use crate::load::prompts::{End, Plan};
use crate::load::{Api, Client, Failure, Model};
use crate::record::prompts::{
    PROMPTS_SCHEMA, PromptRuns, PromptsResult, PromptsSummary, Settings, SystemInfo,
};
use crate::record::write_whole;
use crate::render;
use crate::workload::prompts::{PROMPTS, Prompt};

/// Runs the subcommand.
///
/// # Errors
/// If there is no server, or an answer did not come whole; then the results were printed and written before.
pub fn run(args: &PromptsArgs) -> anyhow::Result<Outcome> {
    let prompts = match args.prompts.is_empty() {
        true => PROMPTS.to_vec(),
        false => {
            let keys = args.prompts.iter();
            keys.map(|key| Prompt::of_key(key))
                .collect::<Result<_, _>>()?
        }
    };
    let limit = Duration::from_secs(args.timeout);
    let client = Client::new(&args.host, args.port)?;
    let model = reach(&client, limit)?;
    let mut plan = Plan {
        client,
        model,
        api: match args.api {
            PromptsApi::Auto | PromptsApi::Chat => Api::Chat,
            PromptsApi::Completions => Api::Completions,
        },
        may_change_api: args.api == PromptsApi::Auto,
        prompts,
        runs: args.runs,
        limit,
    };
    let stop = interrupts()?;

    let timestamp = jiff::Timestamp::now();
    let warm_up = plan.warm_up(&stop);
    if let Err(failure) = &warm_up {
        eprintln!("tokgate: warning: the warm-up failed: {failure}");
    }
    let (prompts, end) = match warm_up {
        Ok(End::Interrupted) => (Vec::new(), End::Interrupted),
        _ => ask(&plan, &stop),
    };
    let result = PromptsResult {
        schema: PROMPTS_SCHEMA,
        kind: "prompts",
        system_info: system_info(&plan, timestamp),
        settings: Settings {
            runs: args.runs,
            timeout_s: limit.as_secs_f64(),
            api: plan.api.path(),
            warm_up_error: warm_up.err().map(|failure| failure.to_string()),
            interrupted: end == End::Interrupted,
        },
        summary: PromptsSummary::of(&prompts),
        prompts,
    };
    report(args, &result)?;
    verdict(&result, args.runs * plan.prompts.len())
}

/// What the server serves, or a sentence on what to do if it does not.
pub(super) fn reach(client: &Client, limit: Duration) -> anyhow::Result<Model> {
    client.model(limit).map_err(|failure| {
        let base = client.base();
        let hint = match &failure {
            Failure::Status { code: 503, .. } => {
                "the server is there but not ready, so wait until it has loaded its model"
            }
            Failure::Status { .. } | Failure::Garbage(_) => {
                "is that the port of an OpenAI-compatible server?"
            }
            _ => "is the server running, and is that its port?",
        };
        anyhow::anyhow!("{base}: {failure}; {hint} (try: curl {base}/v1/models)")
    })
}

fn ask(plan: &Plan, stop: &AtomicBool) -> (Vec<PromptRuns>, End) {
    let bar = ProgressBar::new((plan.runs * plan.prompts.len()) as u64).with_style(
        ProgressStyle::with_template("{msg:21} {wide_bar} {pos} of {len}, {eta} left")
            .expect("the template is correct"),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut told: Vec<String> = Vec::new();
    let outcome = plan.run(stop, |prompt, run| {
        bar.set_message(prompt.key);
        bar.inc(1);
        if let Some(error) = run.error.as_ref().filter(|e| !told.contains(&e.message)) {
            told.push(error.message.clone());
            bar.suspend(|| eprintln!("tokgate: warning: {}: {}", prompt.key, error.message));
        }
    });
    bar.finish_and_clear();
    outcome
}

fn system_info(plan: &Plan, timestamp: jiff::Timestamp) -> SystemInfo {
    let memory = Meminfo::current().ok();
    SystemInfo {
        model: plan.model.id.clone(),
        url: plan.client.base(),
        hugepages_total: memory.as_ref().and_then(|memory| memory.hugepages_total),
        hugepages_free: memory.as_ref().and_then(|memory| memory.hugepages_free),
        hugepage_bytes: memory.as_ref().and_then(|memory| memory.hugepagesize),
        timestamp,
    }
}

fn report(args: &PromptsArgs, result: &PromptsResult) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(result)? + "\n";
    super::print(&match args.format {
        PromptsFormat::Text => render::prompts::table(result),
        PromptsFormat::Json => json.clone(),
    })?;
    if let Some(path) = &args.output {
        write_whole(path, &json)?;
        eprintln!("tokgate: results are in {}", path.display());
    }
    Ok(())
}

/// Clean only if every answer came.
fn verdict(result: &PromptsResult, wanted: usize) -> anyhow::Result<Outcome> {
    let summary = &result.summary;
    if result.settings.interrupted {
        bail!("interrupted after {} of {wanted} runs", summary.runs);
    }
    if summary.successes < summary.runs {
        let runs = result.prompts.iter().flat_map(|prompt| &prompt.results);
        let errors = runs.filter_map(|run| run.error.as_ref());
        let slow = errors.filter(|error| error.kind == "timeout").count();
        let hint = match slow {
            0 => String::new(),
            slow => format!(", {slow} of them for lack of time: raise --timeout"),
        };
        bail!(
            "{} of {} runs got no whole answer{hint}",
            summary.runs - summary.successes,
            summary.runs
        );
    }
    Ok(Outcome::Clean)
}
