//! Baselines on disk: `baselines/<machine key>/baseline.jsonl`, text that git can diff.
//!
//! ```text
//! {"schema":1,"machine_key":"x86_64-…"}                       the first line
//! {"run":"matmul@2026-10-01T12:00:00Z","measured_at":…,…}     one line a run, sorted: where figures come from
//! {"bench":"matmul/…","run":"matmul@…","iters":…,"total_ns":[…],"elements":…}     one line a bench, sorted
//! {"bench":"matmul/…","run":"icount@…","counts":{"instructions":…,…}}
//! ```
//!
//! `iters` is one number where each sample ran that many iterations, `{"linear":d}` where they ran d, 2d, 3d, …, and a
//! list otherwise. Unknown keys are ignored; an unknown schema version is an error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::files::{FileError, read_text, write_whole};
use super::id::BenchId;
use super::measurement::{Iters, Measurement, SampleError, Samples, Throughput, TimedSamples};
use super::metric::Metric;
use super::run::{MachineKey, Provenance, Record, RunId, UnknownRun};

/// The version of the format that this code writes, and the only one that it reads.
pub const SCHEMA: u32 = 1;

/// The name of a machine's usual baseline.
pub const DEFAULT_NAME: &str = "baseline";

/// The most samples of a bench that a baseline keeps: enough for every quantile that is judged, few enough for git.
pub const KEPT_SAMPLES: usize = 100;

/// The largest file that is read: some fifty times what this repository needs.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The folder `baselines/` of a project.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// Why a baseline could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// Written by another version.
    #[error(
        "{file}: has schema version {found}, this version of tokgate reads {SCHEMA}; update tokgate or record the baseline again"
    )]
    Schema {
        /// The file.
        file: String,
        /// The version that it has.
        found: u64,
    },
    /// A content that git does not have, or that is too large.
    #[error(
        "{file}: larger than {MAX_FILE_BYTES} bytes, or not in this clone (`git fetch --unshallow`)"
    )]
    NoContent {
        /// The file.
        file: String,
    },
    /// A line that cannot be understood.
    #[error("{file}:{line}: {what}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: LineError,
    },
    /// A name that cannot be a file's.
    #[error("'{0}' cannot name a baseline: 1 to 64 of a-z, A-Z, 0-9, '-' and '_'")]
    Name(String),
}

/// What is wrong with a line of a baseline.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("column {column}: {what}")]
    Json {
        /// The column, from 1, as far as the parser tells.
        column: usize,
        /// What the parser says.
        what: String,
    },
    /// The first line is missing.
    #[error("a baseline begins with {{\"schema\":{SCHEMA},\"machine_key\":…}}")]
    NoHeader,
    /// A run is described twice.
    #[error("the run '{0}' is described twice")]
    RunTwice(RunId),
    /// A bench has two figures for one metric.
    #[error("'{0}' has '{1}' twice")]
    MeasuredTwice(BenchId, Metric),
    /// The run is unknown.
    #[error(transparent)]
    Run(#[from] UnknownRun),
    /// The samples mean nothing.
    #[error("'{0}': {1}")]
    Samples(BenchId, SampleError),
    /// Neither times nor counts nor rates.
    #[error("'{0}' has no samples: one of total_ns, counts, rates is needed")]
    NoSamples(BenchId),
}

impl Store {
    /// The store in the folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the baseline `name` of a machine is kept.
    ///
    /// # Errors
    /// [`StoreError::Name`] for a name that would leave the folder.
    pub fn path(&self, key: &MachineKey, name: &str) -> Result<PathBuf, StoreError> {
        Ok(self.root.join(relative_path(key, name)?))
    }

    /// Reads the baseline `name` of a machine; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if it is there but cannot be read.
    pub fn load(&self, key: &MachineKey, name: &str) -> Result<Option<Record>, StoreError> {
        let path = self.path(key, name)?;
        if path.exists() {
            read(&path).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Writes `record` as the baseline `name` of its machine, whole or not at all, with at most [`KEPT_SAMPLES`] of
    /// each bench; returns where.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written; the file is then as it was.
    pub fn save(&self, record: &Record, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path(record.key(), name)?;
        write_whole(&path, &to_text(&record.clone().thinned(KEPT_SAMPLES)))?;
        Ok(path)
    }

    /// The machine keys that have a folder, sorted.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folder is there but cannot be listed.
    pub fn keys(&self) -> Result<Vec<MachineKey>, StoreError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(FileError::io(&self.root))?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(FileError::io(&self.root))?;
            if entry.path().is_dir()
                && let Ok(key) = MachineKey::new(entry.file_name().to_string_lossy())
            {
                keys.push(key);
            }
        }
        keys.sort();
        Ok(keys)
    }
}

/// Where the baseline `name` of a machine is kept, from the folder `baselines/` on.
///
/// # Errors
/// [`StoreError::Name`] for a name that would leave the folder.
pub fn relative_path(key: &MachineKey, name: &str) -> Result<PathBuf, StoreError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(Path::new(key.as_str()).join(format!("{name}.jsonl")))
    } else {
        Err(StoreError::Name(name.chars().take(64).collect()))
    }
}

/// Reads the baseline in the file `path`.
///
/// # Errors
/// [`StoreError`] that names the file and the line.
pub fn read(path: &Path) -> Result<Record, StoreError> {
    let text = read_text(path, MAX_FILE_BYTES)?;
    from_text(&text, &path.display().to_string())
}

/// Understands the text of a baseline that comes from `file`.
///
/// # Errors
/// [`StoreError`] that names `file` and the line.
pub fn from_text(text: &str, file: &str) -> Result<Record, StoreError> {
    let at_line = |line: usize| {
        move |what: LineError| StoreError::Line {
            file: file.to_owned(),
            line,
            what,
        }
    };
    let mut lines = (1..).zip(text.lines());
    let (_, header) = lines
        .next()
        .ok_or_else(|| at_line(1)(LineError::NoHeader))?;
    let version: Version = parse(header).map_err(at_line(1))?;
    if version.schema != u64::from(SCHEMA) {
        return Err(StoreError::Schema {
            file: file.to_owned(),
            found: version.schema,
        });
    }
    let header: Header = parse(header).map_err(at_line(1))?;
    let mut record = Record::new(header.machine_key);
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        add_line(&mut record, line).map_err(at_line(number))?;
    }
    Ok(record)
}

/// Writes a record as text, one line a run and a bench.
pub fn to_text(record: &Record) -> String {
    let mut text = String::new();
    push_line(
        &mut text,
        &Header {
            schema: SCHEMA,
            machine_key: record.key().clone(),
        },
    );
    for (run, provenance) in record.runs() {
        push_line(
            &mut text,
            &RunLine {
                run: run.clone(),
                provenance: provenance.clone(),
            },
        );
    }
    let mut row: Option<Row> = None;
    for measurement in record.measurements() {
        row = Some(match row.take() {
            Some(mut open) if open.takes(measurement) => {
                open.add(measurement);
                open
            }
            complete => {
                complete.iter().for_each(|row| push_line(&mut text, row));
                Row::of(measurement)
            }
        });
    }
    row.iter().for_each(|row| push_line(&mut text, row));
    text
}

#[derive(Deserialize)]
struct Version {
    schema: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    schema: u32,
    machine_key: MachineKey,
}

#[derive(Serialize, Deserialize)]
struct RunLine {
    run: RunId,
    #[serde(flatten)]
    provenance: Provenance,
}

/// All measurements that one run took of one bench.
#[derive(Serialize, Deserialize)]
struct Row {
    bench: BenchId,
    run: RunId,
    #[serde(flatten)]
    throughput: Throughput,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iters: Option<Iters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    total_ns: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counts: BTreeMap<Metric, Counts>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rates: BTreeMap<Metric, Vec<f64>>,
}

/// Counts of the processes that counted, mostly one.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Counts {
    One(u64),
    Each(Vec<u64>),
}

impl Row {
    fn of(measurement: &Measurement) -> Self {
        let mut row = Self {
            bench: measurement.id().clone(),
            run: measurement.run().clone(),
            throughput: measurement.throughput(),
            iters: None,
            total_ns: None,
            counts: BTreeMap::new(),
            rates: BTreeMap::new(),
        };
        row.add(measurement);
        row
    }

    fn takes(&self, measurement: &Measurement) -> bool {
        self.bench == *measurement.id()
            && self.run == *measurement.run()
            && self.throughput == measurement.throughput()
    }

    fn add(&mut self, measurement: &Measurement) {
        match measurement.samples() {
            Samples::Timed(timed) => {
                self.iters = Some(Iters::of(timed.iters()));
                self.total_ns = Some(timed.total_ns().to_vec());
            }
            Samples::Counts(counts) => {
                let counts = match counts[..] {
                    [one] => Counts::One(one),
                    _ => Counts::Each(counts.clone()),
                };
                self.counts.insert(measurement.metric(), counts);
            }
            Samples::Rates(rates) => {
                self.rates.insert(measurement.metric(), rates.clone());
            }
        }
    }

    fn measurements(self) -> Result<Vec<(Metric, Samples)>, SampleError> {
        let mut found = Vec::new();
        if let Some(total_ns) = self.total_ns {
            let count = total_ns.len();
            let iters = self.iters.unwrap_or(Iters::Same(1)).expand(count)?;
            found.push((
                Metric::Time,
                Samples::Timed(TimedSamples::new(iters, total_ns)?),
            ));
        }
        for (metric, counts) in self.counts {
            let counts = match counts {
                Counts::One(count) => vec![count],
                Counts::Each(counts) => counts,
            };
            found.push((metric, Samples::Counts(counts)));
        }
        for (metric, rates) in self.rates {
            found.push((metric, Samples::Rates(rates)));
        }
        Ok(found)
    }
}

fn add_line(record: &mut Record, line: &str) -> Result<(), LineError> {
    #[derive(Deserialize)]
    struct Kind {
        bench: Option<IgnoredAny>,
    }
    if parse::<Kind>(line)?.bench.is_none() {
        let RunLine { run, provenance } = parse(line)?;
        if record.runs().any(|(known, _)| *known == run) {
            return Err(LineError::RunTwice(run));
        }
        record.add_run(run, provenance);
        return Ok(());
    }
    let row: Row = parse(line)?;
    let (id, run, throughput) = (row.bench.clone(), row.run.clone(), row.throughput);
    let wrong = |error| LineError::Samples(id.clone(), error);
    let found = row.measurements().map_err(wrong)?;
    if found.is_empty() {
        return Err(LineError::NoSamples(id));
    }
    for (metric, samples) in found {
        if record.get(&id, metric).is_some() {
            return Err(LineError::MeasuredTwice(id, metric));
        }
        let measurement = Measurement::new(id.clone(), metric, run.clone(), samples, throughput)
            .map_err(wrong)?;
        record.insert(measurement)?;
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, LineError> {
    serde_json::from_str(line).map_err(|error| {
        let what = error.to_string();
        // The parser counts lines of the text that it was given, which is always one.
        let end = what.rfind(" at line ").unwrap_or(what.len());
        LineError::Json {
            column: error.column(),
            what: what[..end].to_owned(),
        }
    })
}

fn push_line(text: &mut String, line: &impl Serialize) {
    let line = serde_json::to_string(line).expect("numbers, texts and maps with text keys");
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::run::Witness;

    const TEXT: &str = r#"{"schema":1,"machine_key":"x86_64-test-2c"}
{"run":"icount@2026-10-01T12:05:00Z","measured_at":"2026-10-01T12:05:00Z","witness":"bench","harness":"callgrind","commit":"0123456789abcdef0123456789abcdef01234567","dirty":false,"rustc":"rustc 1.95.0","target":"x86_64-unknown-linux-gnu","rustflags":"","profile":"bench","cpu":"Test CPU","cpus":2,"level":"avx2"}
{"run":"matmul@2026-10-01T12:00:00Z","measured_at":"2026-10-01T12:00:00Z","witness":"afterwards","harness":"criterion","dirty":true,"rustc":"rustc 1.95.0","target":"x86_64-unknown-linux-gnu","rustflags":"","profile":"bench","cpu":"Test CPU","cpus":2}
{"bench":"matmul/q8_0/avx2/m1_k32_n8","run":"matmul@2026-10-01T12:00:00Z","elements":256,"bytes":272,"iters":{"linear":5},"total_ns":[50,101,149]}
{"bench":"matmul/q8_0/avx2/m1_k32_n8","run":"icount@2026-10-01T12:05:00Z","counts":{"instructions":1234,"estimated_cycles":[7,8]}}
{"bench":"parse \"x\"\n","run":"matmul@2026-10-01T12:00:00Z","iters":7,"total_ns":[10,11]}
{"bench":"serve","run":"matmul@2026-10-01T12:00:00Z","rates":{"tokens_per_s":[44.5,45.0]}}
"#;

    fn line_error(text: &str) -> String {
        from_text(text, "b.jsonl").unwrap_err().to_string()
    }

    #[test]
    fn the_text_is_pinned() {
        let record = from_text(TEXT, "test").unwrap();
        assert_eq!(record.len(), 5);
        assert_eq!(to_text(&record), TEXT);
        let id = "matmul/q8_0/avx2/m1_k32_n8".parse().unwrap();
        let time = record.get(&id, Metric::Time).unwrap();
        assert_eq!(time.figures()[..2], [10.0, 10.1]);
        assert_eq!(time.throughput().elements, Some(256));
        let provenance = record.provenance(time).unwrap();
        assert_eq!(provenance.witness, Witness::Afterwards);
        assert_eq!(provenance.commit, None);
    }

    #[test]
    fn another_schema_is_named_and_another_key_ignored() {
        let error = line_error(r#"{"schema":7,"rows":3}"#);
        assert!(
            error.contains("version 7") && error.contains("reads 1"),
            "{error}"
        );
        let newer = TEXT.replace(r#""iters":7"#, r#""colour":{"of":["money"]},"iters":7"#);
        assert_eq!(from_text(&newer, "").unwrap(), from_text(TEXT, "").unwrap());
    }

    #[test]
    fn damage_is_an_error_that_names_the_line() {
        for (was, becomes, place, what) in [
            (r#""schema":1"#, r#""schema":"1""#, "b.jsonl:1:", "u64"),
            ("x86_64-test-2c", "../../etc", "b.jsonl:1:", "machine key"),
            (
                r#""cpus":2,"level""#,
                r#""cpus":-2,"level""#,
                "b.jsonl:2:",
                "-2",
            ),
            (r#"{"linear":5}"#, "0", "b.jsonl:4:", "no iteration"),
            (
                r#"{"linear":5}"#,
                "[1,2]",
                "b.jsonl:4:",
                "2 iteration counts",
            ),
            ("[50,101,149]", "[]", "b.jsonl:4:", "no sample"),
            ("[50,101,149]", "[-1]", "b.jsonl:4:", "-1"),
            ("[50,101,149]", "[50,", "b.jsonl:4:", "expected value"),
            (
                r#"{"instructions":1234"#,
                r#"{"joules":1"#,
                "b.jsonl:5:",
                "joules",
            ),
            (
                r#"{"instructions":1234"#,
                r#"{"time":1"#,
                "b.jsonl:5:",
                "'time'",
            ),
            (
                r#"{"bench":"serve","run":"matmul@"#,
                r#"{"bench":"serve","run":"x@"#,
                "b.jsonl:7:",
                "x@",
            ),
            ("44.5", "-44.5", "b.jsonl:7:", "positive"),
            (
                r#""rates":{"tokens_per_s":[44.5,45.0]}"#,
                r#""x":1"#,
                "b.jsonl:7:",
                "no samples",
            ),
        ] {
            let damaged = TEXT.replacen(was, becomes, 1);
            assert_ne!(damaged, TEXT, "{was}");
            let error = line_error(&damaged);
            assert!(error.contains(place) && error.contains(what), "{error}");
        }
        assert!(line_error("").contains("b.jsonl:1: a baseline begins"));
        let twice = format!("{TEXT}{}", TEXT.lines().last().unwrap());
        assert!(line_error(&twice).contains("b.jsonl:8: 'serve' has 'tokens_per_s' twice"));
    }

    #[test]
    fn a_record_of_a_part_replaces_that_part_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("baselines"));
        assert!(store.keys().unwrap().is_empty());
        let mut record = from_text(TEXT, "").unwrap();
        let path = store.save(&record, DEFAULT_NAME).unwrap();
        assert!(path.ends_with("baselines/x86_64-test-2c/baseline.jsonl"));
        assert_eq!(store.keys().unwrap(), [record.key().clone()]);

        let newer = TEXT
            .replace("matmul@2026-10-01", "matmul@2026-10-02")
            .replace("[10,11]", "[20,21]");
        let mut newer = from_text(&newer, "").unwrap();
        newer.retain(|measurement| measurement.id().as_str().starts_with("parse"));
        assert_eq!(newer.runs().count(), 1);
        record.merge(newer);
        store.save(&record, DEFAULT_NAME).unwrap();

        let stored = store.load(record.key(), DEFAULT_NAME).unwrap().unwrap();
        assert_eq!(stored, record);
        assert_eq!((stored.len(), stored.runs().count()), (5, 3));
        let runs: Vec<&str> = stored.measurements().map(|m| m.run().as_str()).collect();
        assert_eq!(runs[3], "matmul@2026-10-02T12:00:00Z");
        assert_eq!(runs[4], "matmul@2026-10-01T12:00:00Z");

        assert!(store.load(record.key(), "other").unwrap().is_none());
        assert!(matches!(
            store.load(record.key(), "../other"),
            Err(StoreError::Name(_))
        ));
    }

    proptest! {
        #[test]
        fn any_record_round_trips(
            rows in proptest::collection::vec(
                (
                    "\\PC{1,20}",
                    proptest::collection::vec((1u64..1 << 40, any::<u64>()), 1..20),
                    any::<Option<u64>>(),
                ),
                0..8,
            ),
        ) {
            let run = RunId::new("r").unwrap();
            let mut record = Record::new(MachineKey::new("k").unwrap());
            let provenance = from_text(TEXT, "").unwrap();
            let (_, provenance) = provenance.runs().next().unwrap();
            record.add_run(run.clone(), provenance.clone());
            for (id, samples, elements) in rows {
                let id: BenchId = id.parse().unwrap();
                let (iters, total_ns): (Vec<u64>, Vec<u64>) = samples.into_iter().unzip();
                let throughput = Throughput { elements, ..Throughput::default() };
                let counts = Samples::Counts(total_ns.clone());
                let timed = Samples::Timed(TimedSamples::new(iters, total_ns).unwrap());
                for (metric, samples) in [(Metric::Time, timed), (Metric::Bytes, counts)] {
                    let measurement =
                        Measurement::new(id.clone(), metric, run.clone(), samples, throughput);
                    record.insert(measurement.unwrap()).unwrap();
                }
            }
            prop_assert_eq!(from_text(&to_text(&record), "").unwrap(), record);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", at in 0usize..TEXT.len()) {
            let _ = from_text(&text, "");
            let mut damaged = TEXT.to_owned();
            damaged.insert_str(at, &text);
            let _ = from_text(&damaged, "");
            let _ = from_text(&TEXT[..at], "");
        }
    }
}
