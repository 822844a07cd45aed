//! From the files of harnesses to records: which results belong to the last run, and where each comes from.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::Note;
use super::circumstances::Circumstances;
use crate::record::adapters::{AdapterError, Finding, callgrind, criterion};
use crate::record::{
    BenchId, Measurement, MetricKind, NameError, Project, Provenance, Record, RunId, SampleError,
    UnknownRun, Witness,
};

/// A pause between two results that separates runs: the slowest bench takes less, a new day takes more.
const PAUSE: SignedDuration = SignedDuration::from_mins(15);

/// The clock of a file system may lag behind that of the processes by a tick.
const TICK: SignedDuration = SignedDuration::from_millis(20);

/// Which results to read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Trees of criterion; those that do not exist are empty.
    pub criterion: Vec<PathBuf>,
    /// The folder of criterion's results that is read: the last run's, or the name of a saved baseline.
    pub which: String,
    /// Trees of iai-callgrind or gungraun; those that do not exist are empty.
    pub callgrind: Vec<PathBuf>,
    /// Only benches whose id contains this.
    pub filter: Option<String>,
    /// Only results written from then on; otherwise those of the last run.
    pub since: Option<Timestamp>,
    /// Results of all ages.
    pub all: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    /// The results, one record a machine key; none if there are no results.
    pub records: Vec<Record>,
    /// Results that were left out because an earlier run wrote them, the newest first.
    pub stale: Vec<(BenchId, Timestamp)>,
}

/// Why results could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// A tree cannot be read.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A file's time is out of range.
    #[error("{}: written at a time that is no date", .0.display())]
    Time(PathBuf),
    /// The folder holds no harness's results at all.
    #[error("{}: no such folder", .0.display())]
    NoFolder(PathBuf),
    /// A run cannot be named.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Samples that mean nothing.
    #[error("'{id}': {source}")]
    Samples {
        /// The bench.
        id: BenchId,
        /// What is wrong.
        source: SampleError,
    },
    /// A record that contradicts itself.
    #[error(transparent)]
    Run(#[from] UnknownRun),
}

impl Request {
    /// The last run of a project.
    pub fn of_project(project: &Project) -> Self {
        Self {
            criterion: vec![project.criterion()],
            which: criterion::LAST_RUN.to_owned(),
            callgrind: project.callgrind().into(),
            filter: None,
            since: None,
            all: false,
        }
    }

    /// The last run in `folder`: a target folder, or the tree of a harness.
    ///
    /// # Errors
    /// [`GatherError::NoFolder`] if there is no such folder.
    pub fn of_folder(folder: &Path) -> Result<Self, GatherError> {
        if !folder.is_dir() {
            return Err(GatherError::NoFolder(folder.to_owned()));
        }
        let below = ["criterion", "iai", "gungraun"].map(|name| folder.join(name));
        let is_target = below.iter().any(|folder| folder.is_dir());
        let [criterion_tree, iai, gungraun] = below;
        let (criterion_trees, callgrind_trees) = if is_target {
            (vec![criterion_tree], vec![iai, gungraun])
        } else {
            (vec![folder.to_owned()], vec![folder.to_owned()])
        };
        Ok(Self {
            criterion: criterion_trees,
            which: criterion::LAST_RUN.to_owned(),
            callgrind: callgrind_trees,
            filter: None,
            since: None,
            all: false,
        })
    }
}

/// Reads what `request` asks for. A result that was written during one of the `sessions` has the provenance of that
/// session; any other has that of `here`, as seen afterwards.
///
/// # Errors
/// [`GatherError`] that names the file which cannot be understood.
pub fn gather(
    request: &Request,
    sessions: &[Note],
    here: &Circumstances,
) -> Result<Gathered, GatherError> {
    let mut found = Vec::new();
    let existing = |trees: &'_ [PathBuf]| -> Vec<PathBuf> {
        trees.iter().filter(|tree| tree.is_dir()).cloned().collect()
    };
    for tree in existing(&request.criterion) {
        for finding in criterion::read(&tree, &request.which)? {
            found.push(Dated::new(finding, "criterion")?);
        }
    }
    for tree in existing(&request.callgrind) {
        for finding in callgrind::read(&tree)? {
            found.push(Dated::new(finding, "callgrind")?);
        }
    }
    if let Some(filter) = &request.filter {
        found.retain(|result| result.finding.id.as_str().contains(filter));
    }
    let stale = set_stale_aside(&mut found, request);
    Ok(Gathered {
        records: records(found, sessions, here)?,
        stale,
    })
}

/// A finding with the harness that it comes from and the time that its file tells.
struct Dated {
    finding: Finding,
    harness: &'static str,
    written: Timestamp,
}

impl Dated {
    fn new(finding: Finding, harness: &'static str) -> Result<Self, GatherError> {
        let written = Timestamp::try_from(finding.written)
            .map_err(|_| GatherError::Time(finding.path.clone()))?;
        Ok(Self {
            finding,
            harness,
            written,
        })
    }
}

/// Takes out of `found` what is older than the last run, or than the request allows.
fn set_stale_aside(found: &mut Vec<Dated>, request: &Request) -> Vec<(BenchId, Timestamp)> {
    found.sort_by_key(|dated| Reverse(dated.written));
    let kept = if request.all {
        found.len()
    } else if let Some(since) = request.since {
        found.partition_point(|dated| dated.written >= since.saturating_sub(TICK).unwrap_or(since))
    } else {
        let pause = |pair: &[Dated]| pair[0].written.duration_since(pair[1].written) > PAUSE;
        found
            .windows(2)
            .position(pause)
            .map_or(found.len(), |at| at + 1)
    };
    found
        .split_off(kept)
        .into_iter()
        .map(|dated| (dated.finding.id, dated.written))
        .collect()
}

fn records(
    found: Vec<Dated>,
    sessions: &[Note],
    here: &Circumstances,
) -> Result<Vec<Record>, GatherError> {
    let mut newest_afterwards: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for dated in &found {
        if session_of(dated, sessions).is_none() {
            let newest = newest_afterwards
                .entry(dated.harness)
                .or_insert(dated.written);
            *newest = dated.written.max(*newest);
        }
    }
    let mut records = BTreeMap::new();
    for dated in found {
        let (run, provenance, machine_key, counts_key) = match session_of(&dated, sessions) {
            Some(note) => (
                RunId::of(&note.target, note.started_at)?,
                Provenance {
                    harness: dated.harness.to_owned(),
                    ..note.provenance.clone()
                },
                &note.machine_key,
                &note.counts_key,
            ),
            None => {
                let newest = newest_afterwards
                    .get(dated.harness)
                    .copied()
                    .unwrap_or(dated.written);
                (
                    RunId::of(dated.harness, newest)?,
                    seen_afterwards(here, dated.harness, newest),
                    &here.machine_key,
                    &here.counts_key,
                )
            }
        };
        for (metric, samples) in dated.finding.figures {
            let key = match metric.kind() {
                MetricKind::Clocked => machine_key,
                MetricKind::Counted => counts_key,
            };
            let id = dated.finding.id.clone();
            let wrong = |source| GatherError::Samples {
                id: id.clone(),
                source,
            };
            let throughput = dated.finding.throughput;
            let measurement =
                Measurement::new(id.clone(), metric, run.clone(), samples, throughput)
                    .map_err(wrong)?;
            let record: &mut Record = records
                .entry(key.clone())
                .or_insert_with(|| Record::new(key.clone()));
            record.add_run(run.clone(), provenance.clone());
            record.insert(measurement)?;
        }
    }
    Ok(records.into_values().collect())
}

/// The session during which a result was written.
fn session_of<'a>(dated: &Dated, sessions: &'a [Note]) -> Option<&'a Note> {
    sessions.iter().find(|note| {
        let begun = note
            .started_at
            .saturating_sub(TICK)
            .unwrap_or(note.started_at);
        begun <= dated.written && dated.written <= note.finished_at
    })
}

/// The provenance of results whose measuring nobody wrote down. Sources of a commit that is younger than the results
/// were not what was measured, or not known to be.
fn seen_afterwards(here: &Circumstances, harness: &str, newest: Timestamp) -> Provenance {
    let measured_before_commit = here.committed_at.is_none_or(|commit| newest < commit);
    Provenance {
        measured_at: Timestamp::from_second(newest.as_second()).unwrap_or(newest),
        witness: Witness::Afterwards,
        harness: harness.to_owned(),
        dirty: here.provenance.dirty || measured_before_commit,
        level: None,
        ..here.provenance.clone()
    }
}
