//! `tokgate compare`: the last run with a baseline, two baselines with each other, or result files.

mod results;

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use super::Outcome;
use super::record::{nothing_found, say_stale};
use crate::cli::{CompareArgs, ReportFormat};
use crate::judge::{Comparison, Coverage, Gate, Verdict, compare};
use crate::record::adapters::file;
use crate::record::{MachineKey, Project, Record, git, store};
use crate::render::{Sides, json, markdown, origin, terminal};
use crate::session::gather::{Request, gather};
use crate::session::{Circumstances, notes, read_gate, stdout_style};

/// Compares, prints, and says by the outcome whether something got worse.
pub fn run(args: &CompareArgs) -> anyhow::Result<Outcome> {
    if let Some(outcome) = results::run(args)? {
        return Ok(outcome);
    }
    let sources = Sources::of(args)?;
    let gate = sources.gate()?;
    let mut now = match &args.new {
        Some(spec) => sources.load(spec)?,
        None => sources.last_run()?,
    };
    let mut base = match &args.old {
        Some(spec) => sources.load(spec)?,
        None => sources.baseline(&now)?,
    };
    retain(args, &mut now.records);
    retain(args, &mut base.records);
    let comparison = compare(&now.records, &base.records, &gate, now.coverage);
    let sides = Sides {
        now: format!("{}, {}", now.label, origin(&now.records)),
        base: format!("{}, {}", base.label, origin(&base.records)),
    };
    super::print(&match args.output {
        ReportFormat::Text => terminal::comparison(&comparison, &sides, stdout_style()),
        ReportFormat::Md => markdown::comparison(&comparison, &sides),
        ReportFormat::Json => json::comparison(&comparison, &sides, &now.records, &base.records),
    })?;
    outcome(&comparison)
}

/// What the new side of `args` is, and by what it would be judged.
pub(super) fn new_side(args: &CompareArgs) -> anyhow::Result<(Vec<Record>, Gate)> {
    let sources = Sources::of(args)?;
    let mut side = match &args.new {
        Some(spec) => sources.load(spec)?,
        None => sources.last_run()?,
    };
    retain(args, &mut side.records);
    Ok((side.records, sources.gate()?))
}

fn retain(args: &CompareArgs, records: &mut [Record]) {
    if let Some(filter) = &args.filter {
        for record in records {
            record.retain(|measurement| measurement.id().as_str().contains(filter));
        }
    }
}

fn outcome(comparison: &Comparison) -> anyhow::Result<Outcome> {
    if comparison.regressions().next().is_some() {
        return Ok(Outcome::Regression);
    }
    let failures = comparison.failures().count();
    if failures > 0 {
        bail!("{failures} measurements are wrong; see those marked as failed");
    }
    if !comparison.has_judgements() {
        let other_machine = comparison
            .rows
            .iter()
            .any(|row| row.verdict == Verdict::NotMeasurable);
        if other_machine {
            bail!("nothing was judged: the two sides are of different machines or toolchains");
        }
        bail!(
            "nothing to compare: the two sides have no bench in common; `tokgate record` makes the last run the baseline"
        );
    }
    Ok(Outcome::Clean)
}

/// One side of a comparison.
struct Side {
    label: String,
    records: Vec<Record>,
    coverage: Coverage,
}

/// Where sides come from.
struct Sources<'a> {
    project: Project,
    here: Circumstances,
    args: &'a CompareArgs,
}

impl<'a> Sources<'a> {
    fn of(args: &'a CompareArgs) -> anyhow::Result<Self> {
        let mut project = Project::find(&env::current_dir().context("the current folder")?)?;
        if let Some(target) = &args.target_dir {
            project = project.with_target(target);
        }
        Ok(Self {
            here: Circumstances::of_observer(&project)?,
            project,
            args,
        })
    }

    fn gate(&self) -> anyhow::Result<Gate> {
        match &self.args.gate {
            Some(path) if !path.is_file() => bail!("{}: no such file", path.display()),
            Some(path) => read_gate(path),
            None => read_gate(&self.project.gate()),
        }
    }

    /// The keys under which this machine's figures are kept.
    fn own_keys(&self) -> [&MachineKey; 2] {
        [&self.here.machine_key, &self.here.counts_key]
    }

    fn last_run(&self) -> anyhow::Result<Side> {
        let request = Request::of_project(&self.project);
        let records = self.measured(request)?;
        Ok(Side {
            label: "last run".to_owned(),
            records,
            coverage: Coverage::Partial,
        })
    }

    fn measured(&self, mut request: Request) -> anyhow::Result<Vec<Record>> {
        request.filter.clone_from(&self.args.filter);
        request.all = self.args.all;
        let found = gather(&request, &notes(&self.project.sessions()), &self.here)?;
        if found.records.is_empty() {
            bail!("{}", nothing_found(&request));
        }
        say_stale(&found, "--all counts them in");
        Ok(found.records)
    }

    /// The usual baselines for the keys that `now` was measured under.
    fn baseline(&self, now: &Side) -> anyhow::Result<Side> {
        let store = self.project.store();
        let mut records = Vec::new();
        for record in &now.records {
            records.extend(store.load(record.key(), store::DEFAULT_NAME)?);
        }
        if records.is_empty() {
            let keys: Vec<&str> = now
                .records
                .iter()
                .map(|record| record.key().as_str())
                .collect();
            bail!(
                "there is no baseline of {}: `tokgate record` makes the last run the baseline{}",
                keys.join(" or "),
                self.other_machines(&store.keys()?, "baselines/")
            );
        }
        Ok(Side {
            label: "baseline".to_owned(),
            records,
            coverage: Coverage::Whole,
        })
    }

    fn load(&self, spec: &str) -> anyhow::Result<Side> {
        let path = Path::new(spec);
        let (records, coverage) = if path.is_file() && file::read(path)?.is_some() {
            let request = Request::of_paths(&[path.to_owned()])?;
            (self.measured(request)?, Coverage::Partial)
        } else if path.is_file() {
            (vec![store::read(path)?], Coverage::Whole)
        } else if path.is_dir() {
            match baselines_in(path)? {
                Some(records) => (records, Coverage::Whole),
                None => (self.measured(Request::of_folder(path)?)?, Coverage::Partial),
            }
        } else if let Some((revision, key)) = spec.rsplit_once(':') {
            (self.of_commit(revision, key)?, Coverage::Whole)
        } else {
            (self.named(spec)?, Coverage::Whole)
        };
        Ok(Side {
            label: spec.to_owned(),
            records,
            coverage,
        })
    }

    fn of_commit(&self, revision: &str, key: &str) -> anyhow::Result<Vec<Record>> {
        let root = self.project.root();
        let commit = git::resolve(root, revision)?;
        let given = match key {
            "" => None,
            key => Some(MachineKey::new(key)?),
        };
        let wanted = match &given {
            Some(key) => vec![key],
            None => self.own_keys().to_vec(),
        };
        let mut records = Vec::new();
        for key in &wanted {
            records.extend(git::baseline(root, &commit, key, store::DEFAULT_NAME)?);
        }
        if records.is_empty() {
            let wanted: Vec<&str> = wanted.iter().map(|key| key.as_str()).collect();
            bail!(
                "'{revision}' has no baseline of {}{}",
                wanted.join(" or "),
                self.other_machines(&git::baseline_keys(root, &commit)?, &format!("{revision}:"))
            );
        }
        Ok(records)
    }

    fn named(&self, name: &str) -> anyhow::Result<Vec<Record>> {
        let store = self.project.store();
        let mut records = Vec::new();
        for key in self.own_keys() {
            records.extend(store.load(key, name).with_context(|| {
                format!("'{name}' is no file, no folder and no commit's baseline ('{name}:')")
            })?);
        }
        if records.is_empty() {
            bail!(
                "'{name}' is no file, no folder, and no baseline of this machine ({}); for that of a commit write '{name}:'",
                self.here.machine_key
            );
        }
        Ok(records)
    }

    /// Names the machines that have baselines, and how to look at one.
    fn other_machines(&self, keys: &[MachineKey], prefix: &str) -> String {
        match keys {
            [] => String::new(),
            [first, ..] => {
                let names: Vec<&str> = keys.iter().map(MachineKey::as_str).collect();
                format!(
                    ".\nThere are baselines of {}; `tokgate compare {prefix}{first}` shows the figures of another machine without judging them",
                    names.join(", ")
                )
            }
        }
    }
}

/// The baselines in a machine's folder, or `None` where a folder has none: the usual one, or the only one.
fn baselines_in(folder: &Path) -> anyhow::Result<Option<Vec<Record>>> {
    let usual = folder.join(format!("{}.jsonl", store::DEFAULT_NAME));
    if usual.is_file() {
        return Ok(Some(vec![store::read(&usual)?]));
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            files.push(path);
        }
    }
    match &files[..] {
        [] => Ok(None),
        [one] => Ok(Some(vec![store::read(one)?])),
        many => bail!(
            "{} has {} baselines and none called {}.jsonl: name one of the files",
            folder.display(),
            many.len(),
            store::DEFAULT_NAME
        ),
    }
}
