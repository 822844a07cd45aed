//! `tokgate gate`: two commits, measured in one session and judged.

pub(super) mod measure;
pub(super) mod prepare;
pub(super) mod state;

use std::env;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::Outcome;
use crate::cli::{GateArgs, GateFormat};
use crate::judge::trial::{Report, judge};
use crate::judge::{Gate, Verdict};
use crate::lab::{Lab, LabError};
use crate::record::Project;
use crate::record::calibration::Calibration;
use crate::record::trial::Trial;
use crate::render::pull_request::{MAX_COMMENT_BYTES, Page, markdown};
use crate::render::{junit, trial as render};
use crate::session::{read_gate, stdout_style};
use prepare::Sides;
use state::State;

/// Measures, judges, prints, and says by the outcome whether something got worse.
pub fn run(args: &GateArgs) -> anyhow::Result<Outcome> {
    let here = env::current_dir().context("the current folder")?;
    let (trial, gate, calibration) = match &args.from {
        Some(record) => {
            let trial = Trial::read(record)?;
            let project = Project::find(&here).ok();
            let root = project.as_ref().map_or(here.as_path(), Project::root);
            let gate = policy(args, root)?;
            let calibration = Calibration::load(&root.join("baselines"), &trial.machine.key)?;
            (trial, gate, calibration)
        }
        None => measured(args, &here)?,
    };
    let report = judge(&trial, &gate, calibration.as_ref());
    print(&report, &trial, args.output)?;
    outcome(&report)
}

/// What the exit code says of a report.
fn outcome(report: &Report) -> anyhow::Result<Outcome> {
    if report.is_red() {
        return Ok(Outcome::Regression);
    }
    if report.is_broken() {
        bail!(
            "the gate cannot vouch for this change: {} failed, {} missing, {} complaints; see above",
            report.count(Verdict::Failed),
            report.count(Verdict::Missing),
            report.complaints.len()
        );
    }
    Ok(Outcome::Clean)
}

fn print(report: &Report, trial: &Trial, format: GateFormat) -> anyhow::Result<()> {
    super::print(&match format {
        GateFormat::Text => render::text(report, trial, stdout_style()),
        GateFormat::Json => render::json(report, trial),
        GateFormat::Md => markdown(&Page::of_trial(report, trial), MAX_COMMENT_BYTES),
        GateFormat::Junit => junit::report(&Page::of_trial(report, trial)),
    })
}

fn measured(args: &GateArgs, here: &Path) -> anyhow::Result<(Trial, Gate, Option<Calibration>)> {
    let mut lab = Lab::open(here)?;
    let head = match &args.head {
        Some(revision) => lab.resolve(revision)?,
        None => lab.working_tree()?,
    };
    let asked = lab.resolve(args.base.as_deref().unwrap_or("HEAD"))?;
    let base = lab.merge_base(&asked, &head)?;
    // One set of flags for both sides, whatever each configures: that of the head.
    let gate = prepare::settle(&mut lab, &head, |root| policy(args, root))?;
    let record = args
        .record
        .clone()
        .unwrap_or_else(|| lab.project().target().join("tokgate/gate.json"));
    let progress = progress();
    let sides = Sides {
        base: base.clone(),
        head: head.clone(),
        even_if_same: args.even_if_same,
    };
    let state = State::of(&lab, &sides, &args.measuring);
    let earlier = if args.fresh { None } else { state.load() };
    let mut prepared = prepare::prepare(&lab, &sides, &args.measuring, earlier, &progress)?;
    let root = prepared.head_root();
    let key = &prepared.trial.machine.key;
    let calibration = match Calibration::load(&root.join("baselines"), key)? {
        Some(known) => Some(known),
        None => Calibration::load(&lab.project().root().join("baselines"), key)?,
    };
    if !args.no_checks {
        prepared.check(&lab, gate.policy.checks(), &progress)?;
    }
    let judging = |trial: &Trial| judge(trial, &gate, calibration.as_ref());
    let ended = measure::measure(
        &lab,
        &mut prepared,
        &args.measuring,
        &judging,
        &state,
        &progress,
    );
    progress.finish_and_clear();
    let interrupted = match ended {
        Ok(()) => false,
        Err(error) if error.is_interrupt() => true,
        Err(error) => return Err(error.into()),
    };
    let mut trial = prepared.into_trial();
    trial.interrupted = interrupted;
    trial.write(&record)?;
    eprintln!(
        "tokgate: everything that was measured is in {}",
        record.display()
    );
    if interrupted {
        bail!("interrupted; the same command goes on from here");
    }
    state.forget();
    Ok((trial, gate, calibration))
}

fn policy(args: &GateArgs, root: &Path) -> anyhow::Result<Gate> {
    match &args.gate {
        Some(path) if !path.is_file() => bail!("{}: no such file", path.display()),
        Some(path) => read_gate(path),
        None => read_gate(&root.join("baselines/gate.toml")),
    }
}

/// Says on stderr what is done and how long it will take.
pub(super) fn progress() -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(
        ProgressStyle::with_template("{spinner} {wide_msg} {prefix}")
            .expect("a template without mistakes"),
    );
    bar.enable_steady_tick(std::time::Duration::from_millis(250));
    bar
}

/// Says what is done, on the progress bar or, where there is no terminal, on a line of its own.
pub(super) fn say(progress: &ProgressBar, what: &str) {
    if progress.is_hidden() {
        eprintln!("tokgate: {what}");
    } else {
        progress.set_message(what.to_owned());
    }
}

/// Whether an error is the target's own fault, to be told in the report, or ends the run.
pub(super) fn is_the_targets(error: &LabError) -> bool {
    matches!(
        error,
        LabError::Ended { .. }
            | LabError::TimedOut { .. }
            | LabError::Answer { .. }
            | LabError::Results(_)
            | LabError::NoResult(_)
    )
}
