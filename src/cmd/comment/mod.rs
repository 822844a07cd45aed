//! `tokgate comment`: tells a pull request what a gate run or a comparison found.
//!
//! The report is drawn first, and its verdict is the exit code. Everything after that may fail for want of a network or
//! a permission: it is said, and changes nothing.

#[cfg(feature = "github")]
mod publish;
#[cfg(not(feature = "github"))]
#[path = "unpublished.rs"]
mod publish;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Outcome, variable};
use crate::cli::CommentArgs;
use crate::github::summary;
use crate::judge::{Gate, trial};
use crate::record::calibration::Calibration;
use crate::record::git::is_commit;
use crate::record::trial::Trial;
use crate::record::{Project, read_text};
use crate::render::json;
use crate::render::pull_request::{self, MAX_COMMENT_BYTES, MIN_BYTES, Page, markdown};
use crate::session::read_gate;

/// The largest comparison that is read.
const MAX_COMPARISON_BYTES: u64 = 64 << 20;

/// What is to be published, and of which commit it is.
struct Report {
    page: Page,
    /// The commit that was measured, where it is known and was not changed.
    #[cfg_attr(not(feature = "github"), expect(dead_code))]
    head: Option<String>,
}

/// Renders, publishes as far as it may, and says by the outcome what the verdict is.
pub fn run(args: &CommentArgs) -> anyhow::Result<Outcome> {
    let report = load(args)?;
    if args.dry_run {
        super::print(&markdown(&report.page, MAX_COMMENT_BYTES))?;
    } else {
        summarise(args, &report.page);
        if let Err(error) = publish::publish(args, &report) {
            say(&format!("no comment: {error:#}"));
        }
    }
    match report.page.outcome {
        pull_request::Outcome::Clean => Ok(Outcome::Clean),
        pull_request::Outcome::Regressed => Ok(Outcome::Regression),
        pull_request::Outcome::Broken => {
            bail!("the gate cannot vouch for this change; the report says why")
        }
    }
}

fn load(args: &CommentArgs) -> anyhow::Result<Report> {
    match (&args.record, &args.comparison) {
        (Some(path), _) => of_record(args, path),
        (None, Some(path)) => of_comparison(path),
        (None, None) => bail!("name what to report: --record FILE or --comparison FILE"),
    }
}

fn of_record(args: &CommentArgs, path: &Path) -> anyhow::Result<Report> {
    let trial = Trial::read(path)?;
    let project = Project::find(&env::current_dir().context("the current folder")?).ok();
    let gate = policy(args, project.as_ref())?;
    let calibration = match &project {
        Some(project) => Calibration::load(project.store().root(), &trial.machine.key)?,
        None => None,
    };
    let report = trial::judge(&trial, &gate, calibration.as_ref());
    let commit = &trial.head.commit;
    Ok(Report {
        page: Page::of_trial(&report, &trial),
        head: (!trial.head.dirty && is_commit(commit)).then(|| commit.clone()),
    })
}

fn policy(args: &CommentArgs, project: Option<&Project>) -> anyhow::Result<Gate> {
    match (&args.gate, project) {
        (Some(path), _) if !path.is_file() => bail!("{}: no such file", path.display()),
        (Some(path), _) => read_gate(path),
        (None, Some(project)) => read_gate(&project.gate()),
        (None, None) => Ok(Gate::default()),
    }
}

fn of_comparison(path: &Path) -> anyhow::Result<Report> {
    let text = read_text(path, MAX_COMPARISON_BYTES)?;
    let read = json::read_comparison(&text, &path.display().to_string())?;
    Ok(Report {
        page: Page::of_comparison(&read.comparison, &read.sides),
        head: read.head.filter(|head| is_commit(head)),
    })
}

/// Appends the report to the job's summary, where there is one.
fn summarise(args: &CommentArgs, page: &Page) {
    let given = args.summary.clone();
    let Some(path) = given.or_else(|| variable("GITHUB_STEP_SUMMARY").map(PathBuf::from)) else {
        return;
    };
    let room = summary::room(&path);
    if room < MIN_BYTES {
        say("no summary: other steps have filled it");
        return;
    }
    if let Err(error) = summary::append(&path, &markdown(page, room)) {
        say(&format!("no summary: {}: {error}", path.display()));
    }
}

fn say(text: &str) {
    eprintln!(
        "tokgate: {}",
        text.replace(|c: char| c.is_control(), "\u{fffd}")
    );
}
