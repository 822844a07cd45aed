//! `tokgate probe`: what the machine is, and what it can do at most.

mod memory;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Outcome, print, runtime};
use crate::cli::{ProbeArgs, ProbeCommand, ProbeFormat};
use crate::probe::report::{Plan, Report, measure};
use crate::probe::thread_counts;
use crate::record::write_whole;
use crate::render::roofline::{Mark, Roof, Roofline, Slope};

/// Multiply–accumulates of one token for each byte of weights, where every weight is read once: 32 for a block of 34
/// bytes, 1 for two bytes.
const DECODE: [(&str, f64); 2] = [("Q8_0", 32.0 / 34.0), ("bf16", 0.5)];

/// Tokens of a pass over a prompt.
const PROMPT: f64 = 512.0;

/// Measures the machine and prints what came out.
///
/// # Errors
/// If threads or memory cannot be had, or a file cannot be written.
pub fn run(args: &ProbeArgs) -> anyhow::Result<Outcome> {
    if let Some(ProbeCommand::Memory(args)) = &args.what {
        return memory::run(args);
    }
    if cfg!(debug_assertions) {
        eprintln!(
            "tokgate: warning: built without optimisation; cargo build --release measures more"
        );
    }
    let mut threads = args.threads.clone();
    threads.sort_unstable();
    threads.dedup();
    if threads.is_empty() {
        threads = thread_counts(runtime::cores());
    }
    let plan = Plan {
        threads,
        array_bytes: args
            .size
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        time: Duration::from_secs_f64(args.time),
    };
    let bar = ProgressBar::new(1000).with_style(
        ProgressStyle::with_template("probing [{bar:20}] {percent:>3} % {msg}")
            .expect("the template is correct"),
    );
    let report = measure(&plan, &mut |step, done| {
        bar.set_message(step.to_owned());
        bar.set_position((1000.0 * done) as u64);
    });
    bar.finish_and_clear();
    let report = report?;
    if let Some(path) = &args.svg {
        let svg = roofline(&report).svg();
        write_whole(path, &svg)?;
    }
    match args.output {
        ProbeFormat::Text => print(&text::text(&report))?,
        ProbeFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
    }
    Ok(Outcome::Clean)
}

/// The picture of what all threads reach together.
fn roofline(report: &Report) -> Roofline {
    let threads = report.memory.last().map_or(1, |row| row.threads);
    let mut roofs: BTreeMap<&str, Roof> = BTreeMap::new();
    for peak in report.peaks.iter().filter(|peak| peak.threads == threads) {
        let roof = Roof {
            label: format!("{} ({})", peak.factor, peak.tier),
            gmacs: peak.macs.median,
        };
        // The loops are sorted by tier: the last of a type is its best.
        roofs.insert(&peak.factor, roof);
    }
    let fits = |level: &str| {
        let sets = report.working_sets.iter();
        let of_level = sets.filter(|set| set.threads == threads && set.fits == level);
        of_level.map(|set| set.read.median).reduce(f64::max)
    };
    let caches = ["L1", "L2", "L3"].into_iter().filter_map(|level| {
        Some(Slope {
            label: level.to_owned(),
            gbs: fits(level)?,
        })
    });
    let memory = report.memory_at(threads).map(|row| Slope {
        label: "DRAM".to_owned(),
        gbs: row.read.median,
    });
    let marks = DECODE.into_iter().flat_map(|(name, macs)| {
        [("decode", 1.0), ("pp512", PROMPT)].map(|(what, tokens)| Mark {
            label: format!("{name} {what}"),
            macs_per_byte: macs * tokens,
        })
    });
    let plural = if threads == 1 { "" } else { "s" };
    Roofline {
        title: format!("{}, {threads} thread{plural}", report.system.cpu),
        subtitle: format!("measured {} by tokgate probe; medians", report.measured_at),
        slopes: caches.chain(memory).collect(),
        roofs: roofs.into_values().collect(),
        marks: marks.collect(),
    }
}
