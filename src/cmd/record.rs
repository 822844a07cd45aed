//! `tokgate record`: keeps what the last run measured as this machine's baseline.

use std::env;

use anyhow::{Context, bail};
use jiff::Timestamp;

use super::Outcome;
use crate::cli::RecordArgs;
use crate::record::{BenchId, Measurement, Project, Record};
use crate::render::origin;
use crate::session::gather::{Gathered, Request, gather};
use crate::session::{Circumstances, notes};

/// Stores the results.
pub fn run(args: &RecordArgs) -> anyhow::Result<Outcome> {
    let mut project = Project::find(&env::current_dir().context("the current folder")?)?;
    if let Some(target) = &args.target_dir {
        project = project.with_target(target);
    }
    let mut request = if args.from.is_empty() {
        Request::of_project(&project)
    } else {
        Request::of_paths(&args.from)?
    };
    request.filter.clone_from(&args.filter);
    request.all = args.all;
    if let Some(baseline) = &args.baseline {
        request.which.clone_from(baseline);
        request.callgrind.clear();
    }
    let here = Circumstances::of_observer(&project)?;
    let found = gather(&request, &notes(&project.sessions()), &here)?;
    if found.records.is_empty() {
        bail!("{}", nothing_found(&request));
    }
    say_stale(&found, "--all records them as well");

    let store = project.store();
    for record in found.records {
        let count = record.len();
        let benches = count_benches(&record);
        let origin = origin(std::slice::from_ref(&record));
        let old = if args.replace {
            None
        } else {
            store.load(record.key(), &args.name)?
        };
        let merged = match old {
            Some(mut old) => {
                old.merge(record);
                old
            }
            None => record,
        };
        let path = store.save(&merged, &args.name)?;
        let kept = merged.len() - count;
        super::print(&format!(
            "{}: {count} measurements of {benches} benches ({origin}); {kept} older ones kept\n",
            path.strip_prefix(project.root()).unwrap_or(&path).display()
        ))?;
    }
    Ok(Outcome::Clean)
}

/// Tells that results of earlier runs were left out, of which age, and what takes them in.
pub(super) fn say_stale(found: &Gathered, remedy: &str) {
    if let Some((id, written)) = found.stale.first() {
        eprintln!(
            "tokgate: results of earlier runs, left out: {}, the newest '{}', {} old; {remedy}",
            found.stale.len(),
            id.as_str().escape_debug(),
            age(*written)
        );
    }
}

/// What to do where a tree holds no result.
pub(super) fn nothing_found(request: &Request) -> String {
    let places: Vec<String> = request
        .criterion
        .iter()
        .chain(&request.callgrind)
        .chain(&request.files)
        .map(|tree| tree.display().to_string())
        .collect();
    let counted = request.callgrind.iter().any(|tree| tree.is_dir());
    let hint = if counted {
        "; callgrind's harnesses keep their counts only with IAI_CALLGRIND_SAVE_SUMMARY=json or \
         GUNGRAUN_SAVE_SUMMARY=json set"
    } else {
        ""
    };
    let filter = match &request.filter {
        Some(filter) => format!(" of benches with '{filter}' in their name"),
        None => String::new(),
    };
    format!(
        "there are no results{filter} in {}: run `cargo bench` first{hint}",
        places.join(", ")
    )
}

fn age(written: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(written).as_secs();
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn count_benches(record: &Record) -> usize {
    let mut ids: Vec<&BenchId> = record.measurements().map(Measurement::id).collect();
    ids.dedup();
    ids.len()
}
