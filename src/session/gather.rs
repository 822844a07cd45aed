//! From the files of harnesses to records: which results belong to the last run, and where each comes from.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::Note;
use super::circumstances::Circumstances;
use crate::record::adapters::file::{self, Format};
use crate::record::adapters::{AdapterError, Finding, callgrind, criterion};
use crate::record::{
    BenchId, Measurement, MetricKind, NameError, Project, Provenance, Record, RunId, SampleError,
    Samples, UnknownRun, Witness,
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
    /// Files of other harnesses.
    pub files: Vec<PathBuf>,
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
    /// A file of no harness that is known.
    #[error("{}: not a result of hyperfine (--export-json), google-benchmark (--benchmark_format=json), llama-bench (-o json, -o jsonl), a load (tokgate load --result, vllm bench serve --save-result) or a cluster (tokgate cluster bench --result)", .0.display())]
    UnknownFile(PathBuf),
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
            files: Vec::new(),
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
            files: Vec::new(),
            filter: None,
            since: None,
            all: false,
        })
    }

    /// The last run in folders, as [`of_folder`](Self::of_folder) reads them, and whole files of other harnesses.
    ///
    /// # Errors
    /// [`GatherError::NoFolder`] if one of them does not exist.
    pub fn of_paths(paths: &[PathBuf]) -> Result<Self, GatherError> {
        let mut request = Self {
            criterion: Vec::new(),
            which: criterion::LAST_RUN.to_owned(),
            callgrind: Vec::new(),
            files: Vec::new(),
            filter: None,
            since: None,
            all: false,
        };
        for path in paths {
            if path.is_file() {
                request.files.push(path.clone());
            } else {
                let folder = Self::of_folder(path)?;
                request.criterion.extend(folder.criterion);
                request.callgrind.extend(folder.callgrind);
            }
        }
        Ok(request)
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
    for path in &request.files {
        let read = file::read(path)?;
        let (format, findings) = read.ok_or_else(|| GatherError::UnknownFile(path.clone()))?;
        for finding in findings {
            found.push(Dated::new(finding, format.harness())?);
        }
    }
    if let Some(filter) = &request.filter {
        found.retain(|result| result.finding.id.as_str().contains(filter));
    }
    let stale = set_stale_aside(&mut found, request);
    let found = join_loads(found)?;
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

/// Puts repeated loads together, of which each becomes a sample; of all else the newest result counts.
fn join_loads(found: Vec<Dated>) -> Result<Vec<Dated>, GatherError> {
    let mut joined: Vec<(Dated, Vec<Finding>)> = Vec::new();
    for dated in found {
        let is_load = dated.harness == Format::Serving.harness();
        let mut loads = joined.iter_mut().filter(|_| is_load);
        let same = loads.find(|(first, _)| {
            first.harness == dated.harness && first.finding.id == dated.finding.id
        });
        match same {
            Some((_, others)) => others.push(dated.finding),
            None => joined.push((dated, Vec::new())),
        }
    }
    let join = |(mut dated, others): (Dated, Vec<Finding>)| {
        if others.is_empty() {
            return Ok(dated);
        }
        let Finding { id, figures, .. } = &mut dated.finding;
        for (metric, samples) in figures {
            let figures = others.iter().flat_map(|other| &other.figures);
            let same = figures.filter(|(other, _)| other == metric);
            let others = same.map(|(_, samples)| samples.clone());
            let runs: Vec<Samples> = [samples.clone()].into_iter().chain(others).collect();
            *samples = Samples::of_runs(&runs).map_err(|source| GatherError::Samples {
                id: id.clone(),
                source,
            })?;
        }
        Ok(dated)
    };
    joined.into_iter().map(join).collect()
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::record::MachineKey;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn here() -> Circumstances {
        let provenance = Provenance {
            measured_at: second(0),
            witness: Witness::Afterwards,
            harness: String::new(),
            commit: Some("of now".to_owned()),
            dirty: false,
            rustc: "rustc 1.95.0".to_owned(),
            target: String::new(),
            rustflags: String::new(),
            profile: "bench".to_owned(),
            cpu: String::new(),
            cpus: 2,
            governor: None,
            level: None,
        };
        Circumstances {
            machine_key: MachineKey::new("here").unwrap(),
            counts_key: MachineKey::new("counts").unwrap(),
            committed_at: Some(second(0)),
            provenance,
        }
    }

    fn note(target: &str, from: i64, to: i64) -> Note {
        let mut provenance = here().provenance;
        provenance.witness = Witness::Bench;
        provenance.commit = Some(format!("of {target}"));
        provenance.level = Some("avx2".to_owned());
        Note {
            target: target.to_owned(),
            started_at: second(from),
            finished_at: second(to),
            machine_key: here().machine_key,
            counts_key: here().counts_key,
            provenance,
        }
    }

    /// A tree of criterion with benches written at the given seconds.
    fn tree(benches: &[(&str, i64)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (id, second) in benches {
            let bench = folder.path().join("criterion").join(id).join("new");
            fs::create_dir_all(&bench).unwrap();
            fs::write(
                bench.join("benchmark.json"),
                format!(r#"{{"full_id":"{id}"}}"#),
            )
            .unwrap();
            fs::write(
                bench.join("sample.json"),
                r#"{"iters":[1.0],"times":[5.0]}"#,
            )
            .unwrap();
            let file = File::options()
                .write(true)
                .open(bench.join("sample.json"))
                .unwrap();
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(*second as u64);
            file.set_modified(written).unwrap();
        }
        folder
    }

    fn gathered(request: &Request, sessions: &[Note]) -> Gathered {
        gather(request, sessions, &here()).unwrap()
    }

    #[test]
    fn a_result_has_the_provenance_of_the_session_that_it_was_written_in() {
        let folder = tree(&[("a", 1_000), ("b", 1_100), ("c", 1_300)]);
        let request = Request::of_folder(folder.path()).unwrap();
        let sessions = [note("first", 990, 1_050), note("second", 1_051, 1_200)];
        let found = gathered(&request, &sessions);
        assert_eq!(found.records.len(), 1);
        let record = &found.records[0];
        let told: Vec<(&str, &str, Witness)> = record
            .measurements()
            .map(|measurement| {
                let run = record.provenance(measurement).unwrap();
                (
                    measurement.run().as_str(),
                    run.commit.as_deref().unwrap(),
                    run.witness,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("first@1970-01-01T00:16:30Z", "of first", Witness::Bench),
                ("second@1970-01-01T00:17:31Z", "of second", Witness::Bench),
                (
                    "criterion@1970-01-01T00:21:40Z",
                    "of now",
                    Witness::Afterwards
                ),
            ]
        );
        assert!(record.runs().all(|(_, run)| run.harness == "criterion"));
    }

    #[test]
    fn a_load_that_was_repeated_has_a_sample_for_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let load = |name: &str, first: f64, rate: f64| {
            let path = folder.path().join(name);
            let text = format!(
                r#"{{"backend":"openai","model_id":"m","num_prompts":2,"max_concurrency":1,"request_rate":"inf",
                "completed":2,"duration":1.0,"request_throughput":2.0,"output_throughput":{rate},"ttfts":[{first},{}],"itls":[[],[]],
                "mean_ttft_ms":1.0,"errors":["",""]}}"#,
                first * 3.0
            );
            fs::write(&path, text).unwrap();
            path
        };
        let paths = [load("a.json", 1e-3, 50.0), load("b.json", 2e-3, 40.0)];
        let found = gathered(&Request::of_paths(&paths).unwrap(), &[]);
        let mut figures: Vec<String> = found.records[0]
            .measurements()
            .map(|measurement| {
                let mut each: Vec<f64> = match measurement.samples() {
                    Samples::Timed(times) => times.per_iteration_ns().collect(),
                    Samples::Rates(rates) => rates.clone(),
                    Samples::Counts(_) => unreachable!("nothing was counted"),
                };
                each.sort_by(f64::total_cmp);
                format!("{} {each:?}", measurement.id())
            })
            .collect();
        figures.sort();
        assert_eq!(
            figures,
            [
                "serve/completions/m/e2el_n2_c1 [2000000.0, 4000000.0]",
                "serve/completions/m/output_n2_c1 [40.0, 50.0]",
                "serve/completions/m/ttft_n2_c1 [2000000.0, 4000000.0]",
            ]
        );
        // A load by itself has its requests.
        let found = gathered(&Request::of_paths(&paths[..1]).unwrap(), &[]);
        let ttft = found.records[0]
            .measurements()
            .find(|measurement| measurement.id().as_str().contains("ttft"));
        let samples = ttft.unwrap().samples();
        assert!(matches!(samples, Samples::Timed(times) if times.total_ns().len() == 2));
    }

    #[test]
    fn a_pause_separates_runs() {
        let folder = tree(&[("old", 1_000), ("a", 5_000), ("b", 5_800), ("c", 6_600)]);
        let request = Request::of_folder(folder.path()).unwrap();
        let found = gathered(&request, &[]);
        assert_eq!(found.records[0].len(), 3);
        assert_eq!(found.stale.len(), 1);
        assert_eq!(found.stale[0].1, second(1_000));

        let all = Request {
            all: true,
            ..request.clone()
        };
        assert_eq!(gathered(&all, &[]).records[0].len(), 4);
        let since = Request {
            since: Some(second(5_800)),
            ..request.clone()
        };
        assert_eq!(gathered(&since, &[]).records[0].len(), 2);
        let filtered = Request {
            filter: Some("old".to_owned()),
            ..request
        };
        assert_eq!(gathered(&filtered, &[]).records[0].len(), 1);
    }

    #[test]
    fn results_older_than_the_commit_are_not_claimed_for_it() {
        let folder = tree(&[("a", 1_000)]);
        let request = Request::of_folder(folder.path()).unwrap();
        for (committed_at, dirty) in [(Some(999), false), (Some(1_001), true), (None, true)] {
            let here = Circumstances {
                committed_at: committed_at.map(second),
                ..here()
            };
            let found = gather(&request, &[], &here).unwrap();
            let (_, run) = found.records[0].runs().next().unwrap();
            assert_eq!(run.dirty, dirty, "{committed_at:?}");
        }
    }

    #[test]
    fn a_folder_without_results_is_empty_and_one_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let request = Request::of_folder(folder.path()).unwrap();
        assert!(gathered(&request, &[]).records.is_empty());
        let none = Request::of_folder(&folder.path().join("none"));
        assert!(matches!(none, Err(GatherError::NoFolder(_))));
    }
}
