//! The part of `tokgate compare` that puts result files side by side.

use std::path::Path;

use anyhow::{Context, bail};

use crate::cli::{CompareArgs, ReportFormat};
use crate::cmd::{Outcome, print};
use crate::judge::side_by_side::side_by_side;
use crate::record::adapters::file::{self, Format};
use crate::record::read_text;
use crate::record::results::{MAX_RESULT_BYTES, Results};
use crate::render::side_by_side as render;
use crate::session::stdout_style;

/// Compares the files that were named, or gives `None` if they are no result files.
///
/// # Errors
/// If only some of them are, or they have no figure in common.
pub fn run(args: &CompareArgs) -> anyhow::Result<Option<Outcome>> {
    let (Some(old), Some(new)) = (&args.old, &args.new) else {
        return Ok(None);
    };
    let specs: Vec<&String> = [old, new].into_iter().chain(&args.third).collect();
    let mut files = Vec::new();
    let mut others = Vec::new();
    for spec in &specs {
        match read(Path::new(spec))? {
            Some(results) => files.push(((*spec).clone(), results)),
            None => others.push(*spec),
        }
    }
    // Files of repeated measurements can be judged, and so can one against a baseline. Two loads are single runs.
    let is_measured = |spec: &&String| {
        let path = Path::new(spec);
        let format = || Some(file::read(path).ok()??.0);
        let format = path.is_file().then(format).flatten();
        format.is_some_and(|format| format != Format::Serving || !others.is_empty())
    };
    let plain = args.third.is_none() && !args.side_by_side;
    if plain
        && specs
            .iter()
            .filter(|spec| !others.contains(spec))
            .all(is_measured)
    {
        return Ok(None);
    }
    if files.is_empty() {
        return match &args.third {
            Some(_) => bail!("three columns are for result files; baselines are compared by twos"),
            None => Ok(None),
        };
    }
    if let Some(other) = others.first() {
        bail!(
            "{} is a file of {} results, and '{other}' is none: give two result files, or two baselines",
            files[0].0,
            files[0].1.kind
        );
    }
    shorten(&mut files);
    let mut sides = side_by_side(&files);
    if let Some(filter) = &args.filter {
        sides.rows.retain(|row| row.metric.contains(filter));
    }
    if !sides.has_common_rows() {
        let kinds: Vec<&str> = files.iter().map(|(_, file)| file.kind.as_str()).collect();
        bail!(
            "nothing to compare: the files ({}) have no figure in common",
            kinds.join(", ")
        );
    }
    print(&match args.output {
        ReportFormat::Text => render::text(&sides, stdout_style()),
        ReportFormat::Md => render::markdown(&sides),
        ReportFormat::Json => render::json(&sides),
    })?;
    Ok(Some(Outcome::Clean))
}

/// The figures of a file; `None` if it is no file, or one of no format that is known.
fn read(path: &Path) -> anyhow::Result<Option<Results>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = read_text(path, MAX_RESULT_BYTES)?;
    let results = Results::read(&text).transpose();
    results.with_context(|| path.display().to_string())
}

/// Calls files by their names alone, where these differ.
fn shorten(files: &mut [(String, Results)]) {
    let stem = |path: &str| {
        let stem = Path::new(path).file_stem();
        stem.map_or_else(
            || path.to_owned(),
            |stem| stem.to_string_lossy().into_owned(),
        )
    };
    let mut stems: Vec<String> = files.iter().map(|(path, _)| stem(path)).collect();
    stems.sort_unstable();
    stems.dedup();
    if stems.len() == files.len() {
        for (label, _) in files {
            *label = stem(label);
        }
    }
}
