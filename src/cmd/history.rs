//! `tokgate history`: a page of what the commits of a branch measured.

use std::env;
use std::path::{Path, PathBuf};

use std::fs;

use anyhow::{Context, bail};

use super::Outcome;
use crate::cli::HistoryArgs;
use crate::judge::{Gate, Trend, TrendBuilder};
use crate::record::history::Walk;
use crate::record::trial::{Trial, TrialError};
use crate::record::{Project, git, write_whole};
use crate::render::history::{Subject, page};
use crate::session::read_gate;

/// Walks, and writes the page.
pub fn run(args: &HistoryArgs) -> anyhow::Result<Outcome> {
    let project = Project::find(&env::current_dir().context("the current folder")?)?;
    let root = project.root();
    let gate: Gate = read_gate::<anyhow::Error>(&project.gate())?;
    let head = git::resolve(root, &args.head)?;
    let since = args.since.as_deref();
    let since = since.map(|since| git::resolve(root, since)).transpose()?;
    let walk = Walk {
        root,
        head: &head,
        since: since.as_deref(),
        limit: args.limit,
        name: &args.name,
    };
    let trend = gather(&walk, gate, args)?;
    let series: usize = trend.machines.iter().map(|one| one.series.len()).sum();
    if series == 0 {
        bail!(
            "none of the {} commits keeps a baseline '{}'{}: `cargo bench && tokgate record`, and commit baselines/",
            trend.commits.len(),
            args.name,
            if args.filter.is_some() {
                " with such a bench"
            } else {
                ""
            }
        );
    }
    let remote = git::remote(root);
    let folder = root.file_name().and_then(|name| name.to_str());
    let subject = Subject {
        project: remote
            .as_ref()
            .map_or(folder.unwrap_or("project"), |remote| remote.name()),
        remote: remote.as_ref(),
    };
    let path = args.out.join("index.html");
    write_whole(&path, &page(&trend, &subject))?;
    super::print(&said(&trend, &path))?;
    Ok(Outcome::Clean)
}

fn gather(walk: &Walk, gate: Gate, args: &HistoryArgs) -> anyhow::Result<Trend> {
    let filter = args.filter.as_deref();
    let commits = walk.commits()?;
    let mut builder = TrendBuilder::new(commits.clone(), gate);
    let mut unread = Vec::new();
    walk.baselines(&commits, |kept| match kept.record {
        Ok(mut record) => {
            if let Some(filter) = filter {
                record.retain(|measurement| measurement.id().as_str().contains(filter));
            }
            builder.add_baseline(kept.commit, &record);
        }
        Err(error) => unread.push(error),
    })?;
    if let Some(first) = unread.first() {
        eprintln!(
            "tokgate: baselines that cannot be read, left out: {}, the first: {}",
            unread.len(),
            first.to_string().escape_debug()
        );
    }
    for mut trial in trials(&args.trial)? {
        if let Some(filter) = filter {
            trial.benches.retain(|one| one.id.as_str().contains(filter));
        }
        builder.add_trial(&trial);
    }
    Ok(builder.finish())
}

/// The records of the gate in files and folders; what else is in a folder is left alone.
fn trials(paths: &[PathBuf]) -> anyhow::Result<Vec<Trial>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(Trial::read(path)?);
            continue;
        }
        let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.with_context(|| path.display().to_string())?.path());
        }
        files.sort();
        let is_json = |path: &&PathBuf| path.extension().is_some_and(|name| name == "json");
        for file in files.iter().filter(is_json) {
            match Trial::read(file) {
                Ok(trial) => found.push(trial),
                Err(TrialError::Kind { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    // Of two records of one commit the earlier one has its figure.
    found.sort_by_key(|trial| trial.started_at);
    Ok(found)
}

fn said(trend: &Trend, path: &Path) -> String {
    let machines = &trend.machines;
    let series: usize = machines.iter().map(|machine| machine.series.len()).sum();
    let changes = machines.iter().flat_map(|machine| &machine.series);
    let changes: usize = changes.map(|series| series.changes.len()).sum();
    let count = |count: usize, what: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {what}{plural}")
    };
    format!(
        "{}: {} and metrics of {} over {}, {} of level\n",
        path.display(),
        if series == 1 {
            "1 bench".to_owned()
        } else {
            format!("{series} benches")
        },
        count(machines.len(), "machine"),
        count(trend.commits.len(), "commit"),
        count(changes, "change"),
    )
}
