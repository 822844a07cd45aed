//! What `tokgate run` tells of one generation: figures, doubts, memory by part, and the use of experts.

use std::fmt::Write;

use anyhow::Context;
use serde::Serialize;

use super::Session;
use crate::cli::{MetricsFormat, RunArgs};
use crate::cmd::{experts::usage_of, runtime};
use crate::engine::weights::Component;
use crate::generation::expert_selections;
use crate::generation::single::Timeline;
use crate::metrics::experts::{ExpertUsage, Hot};
use crate::metrics::{Flag, Observed, Part, Selections, flags};
use crate::probe::limits::Limits;
use crate::probe::machine::Machine;
use crate::probe::process::{self, Memory, Usage};
use crate::record::{FIGURES_SCHEMA, Figure, write_whole};
use crate::render::{experts as drawing, figures};

/// Keys before which the text has a blank line.
const GROUPS: [&str; 8] = [
    "load",
    "overall_rate",
    "gap_mean",
    "prefill_gmac_rate",
    "rss",
    "cores_used",
    "disk_read",
    "energy",
];

/// Experts in the JSON's list of the hottest.
const HOT: usize = 32;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kind: &'static str,
    model: String,
    model_type: String,
    level: String,
    seed: u64,
    temperature: f32,
    text: &'a str,
    figures: &'a [Figure],
    memory: Vec<Part>,
    flags: &'a [Flag],
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<&'a ExpertUsage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hot_experts: Vec<Hot>,
}

/// Prints everything, as text on standard error or as JSON on standard output.
pub fn metrics(
    args: &RunArgs,
    format: MetricsFormat,
    session: &Session,
    timeline: Timeline,
    usage: Usage,
    text: &str,
) -> anyhow::Result<()> {
    let experts = expert_usage(session, &timeline)?;
    let weights = session.loaded.model.weights();
    // Before the arrays of the bandwidth, which are no part of the generation.
    let memory = Memory::now();
    let observed = Observed {
        timeline,
        usage,
        load_s: session.load_s,
        memory,
        components: Component::ALL
            .map(|component| (component.name(), weights.size(component).bytes))
            .to_vec(),
        threads: session.rt.pool().threads(),
        cpus: runtime::cores(),
        mhz: process::mhz(),
        governor: Machine::detect().governor().map(str::to_owned),
        bandwidth_gb_s: Some(bandwidth(args, session)?),
    };
    let figures = observed.figures();
    let flags = flags(&observed);
    match format {
        MetricsFormat::Json => {
            let document = Document {
                schema: FIGURES_SCHEMA,
                kind: "run_metrics",
                model: session.loaded.path.display().to_string(),
                model_type: session.loaded.model_type(),
                level: session.rt.level().to_string(),
                seed: args.sampling.seed,
                temperature: args.sampling.temp,
                text,
                figures: &figures,
                memory: observed.parts(),
                flags: &flags,
                hot_experts: experts
                    .as_ref()
                    .map_or_else(Vec::new, |usage| usage.hot(HOT)),
                experts: experts.as_ref(),
            };
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        MetricsFormat::Text => {
            let head = format!(
                "\n{}, {}, seed {}\n",
                session.loaded.model_type(),
                session.rt.level(),
                args.sampling.seed
            );
            eprint!(
                "{head}{}",
                lines(&observed, &figures, &flags, experts.as_ref())
            );
        }
    }
    Ok(())
}

/// What the memory reaches with the threads of the generation, in 10⁹ bytes a second: as given, or measured now.
fn bandwidth(args: &RunArgs, session: &Session) -> anyhow::Result<f64> {
    if let Some(given) = args.bandwidth {
        return Ok(given);
    }
    let Session { loaded, rt, .. } = session;
    let limits = Limits::new(rt, loaded.matrix_type(), loaded.bytes())
        .context("the memory's bandwidth; give one with --bandwidth")?;
    Ok(limits.now(rt).gbs)
}

fn lines(
    observed: &Observed,
    figures: &[Figure],
    flags: &[Flag],
    experts: Option<&ExpertUsage>,
) -> String {
    let mut text = figures::lines(figures, &GROUPS);
    let parts = observed.parts();
    let parts: Vec<String> = parts
        .iter()
        .map(|part| format!("{} {:.1}", part.component, part.bytes as f64 / 1_048_576.0))
        .collect();
    let _ = write!(text, "\n{}", figures::wrapped("  MiB: ", &parts.join(", ")));
    if let Some(usage) = experts {
        let _ = write!(text, "\n{}", drawing::table(usage));
    }
    if !flags.is_empty() {
        text.push('\n');
    }
    for flag in flags {
        text.push_str(&figures::wrapped("  ! ", &flag.text));
    }
    text
}

/// Writes the heat map that was asked for.
pub fn experts(args: &RunArgs, session: &Session, timeline: &Timeline) -> anyhow::Result<()> {
    let Some(path) = &args.expert_map else {
        return Ok(());
    };
    let usage = expert_usage(session, timeline)?
        .context("--expert-map: the model has no experts; leave the option out")?;
    let title = format!("Experts of {}", session.loaded.model_type());
    write_whole(path, &drawing::heat_map(&title, &usage))?;
    Ok(())
}

fn expert_usage(session: &Session, timeline: &Timeline) -> anyhow::Result<Option<ExpertUsage>> {
    let model = &session.loaded.model;
    let decoded = timeline.sampled.len().saturating_sub(1) as u64;
    let expected = Selections {
        prefill: expert_selections(model, timeline.prompt_tokens as u64, 1),
        decode: expert_selections(model, decoded, decoded),
    };
    let works = (&timeline.prefill_work, &timeline.decode_work);
    usage_of(model.config(), works, expected)
}
