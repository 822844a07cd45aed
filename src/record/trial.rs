//! A trial: what one run of `tokgate gate` measured of two commits in one session, with every raw sample.
//!
//! ```text
//! {"schema":1,"kind":"trial","seed":…,"machine":{…},"build":{…},"base":{…},"head":{…},
//!  "targets":[{"package":…,"name":…,"harness":"criterion","code":"differs","links":[…]}],
//!  "benches":[{"id":…,"target":0,"in_base":true,"in_head":true,"looks":[6,12],
//!              "blocks":[{"round":0,"at_ms":…,"runs":[{"arm":"base","link":0,"iters":…,"total_ns":[…]},…]}]}],
//!  "checks":[…],"notes":[…]}
//! ```
//!
//! The unit of evidence is a [`Block`]: base, head, head, base (or the reverse), each in a fresh process, one soon after
//! the other. `runs` are in the order in which they ran. A report is a function of this file and the policy alone, so
//! it can be drawn again, elsewhere and later; see [`crate::judge::trial`].

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::files::{FileError, read_text, write_whole};
use super::id::BenchId;
use super::measurement::{Iters, MAX_SAMPLES, SampleError, TimedSamples};
use super::run::MachineKey;

/// The version of the format that this code writes, and the only one that it reads.
pub const SCHEMA: u32 = 1;

/// The word that tells a trial from the project's other JSON files.
const KIND: &str = "trial";

/// The largest file that is read: thousands of benches.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The most benches, targets, notes and the like of one trial.
const MAX_ENTRIES: usize = 20_000;

/// The most blocks of one bench.
const MAX_BLOCKS: usize = 20_000;

/// The most processes of one block.
const MAX_RUNS: usize = 64;

/// Everything that one run of the gate measured, and under which circumstances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// When the first build began.
    pub started_at: Timestamp,
    /// When the last process ended; acceptances that had expired by then do not count.
    pub finished_at: Timestamp,
    /// What the order of benches and blocks and the layout of links were drawn from.
    pub seed: u64,
    /// Seconds of measuring that were granted.
    pub budget_s: f64,
    /// Whether the run was cut short before every bench had its blocks.
    #[serde(default)]
    pub interrupted: bool,
    /// Where it was measured.
    pub machine: Machine,
    /// How both sides were built.
    pub build: Build,
    /// What was compared with.
    pub base: Revision,
    /// What was compared.
    pub head: Revision,
    /// The bench targets of both sides.
    pub targets: Vec<Target>,
    /// The benches of both sides, in the order in which they were found.
    pub benches: Vec<TrialBench>,
    /// What was checked beside the clock, such as numerics.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What a reader should know beside the figures.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The machine that measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The key of what a clock measures.
    pub key: MachineKey,
    /// The key of counts.
    pub counts_key: MachineKey,
    /// The CPU's model name.
    pub cpu: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// The frequency governor; absent where the system tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
}

/// The one way in which both sides were built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `rustc --version`.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// The flags that rustc was given.
    pub rustflags: String,
    /// The cargo profile.
    pub profile: String,
}

/// One side's sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// What was asked for, such as `main`.
    pub asked: String,
    /// The commit, in full. Of a dirty side: the commit that its changes are on top of.
    pub commit: String,
    /// Whether the sources differ from the commit.
    pub dirty: bool,
}

/// Which side a process belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// What was compared with.
    Base,
    /// What was compared.
    Head,
}

/// A bench target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its package.
    pub package: String,
    /// Its name.
    pub name: String,
    /// Who measures in it.
    pub harness: Harness,
    /// Whether the machine code of both sides is the same.
    pub code: Code,
    /// Its binaries; a process names one by its place among those of its arm.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Why it gave no benches at all, and on which side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The harness of a bench target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Harness {
    /// Criterion: a clock.
    Criterion,
    /// iai-callgrind or gungraun: counts under valgrind.
    Callgrind,
    /// Two processes alive at once that take turns token by token.
    Lockstep,
}

/// How the machine code of a target compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The same code and data on both sides: nothing to measure.
    Same,
    /// It differs.
    Differs,
    /// One side lacks the target.
    OneSided,
    /// Not compared.
    Unknown,
}

/// One binary: the sources of an arm, laid out in memory in one of many ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The side.
    pub arm: Arm,
    /// What the order of its sections was drawn from; absent for the linker's own order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// A checksum of its code as it lies in memory: differs between links of one arm if the shuffle worked.
    pub text: String,
}

/// What went wrong, on which side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The side.
    pub arm: Arm,
    /// What is known of it.
    pub what: String,
}

/// A bench, with all that was measured of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialBench {
    /// Its name.
    pub id: BenchId,
    /// Its target, as a place in [`Trial::targets`].
    pub target: usize,
    /// Whether the base has it.
    pub in_base: bool,
    /// Whether the head has it.
    pub in_head: bool,
    /// How many blocks there were at each look at the figures, at most three, increasing.
    #[serde(default)]
    pub looks: Vec<usize>,
    /// What the clock measured, in order.
    #[serde(default)]
    pub blocks: Vec<Block>,
    /// Instructions that callgrind counted, one a process.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub instructions: Counts,
    /// Why it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Processes that ran one soon after the other, both arms equally often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The round through all benches that it belongs to.
    pub round: u32,
    /// When it began, in milliseconds since the trial did.
    pub at_ms: u64,
    /// Its processes, in the order in which they ran; or, token by token, at once.
    pub runs: Vec<ProcessRun>,
}

/// The raw samples of one fresh process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RunJson", into = "RunJson")]
pub struct ProcessRun {
    /// The side.
    pub arm: Arm,
    /// The binary, as a place among the arm's [`Target::links`].
    pub link: usize,
    /// The samples, in the order in which they were taken.
    pub samples: TimedSamples,
}

/// Counts of both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Of the base, one a process.
    #[serde(default)]
    pub base: Vec<u64>,
    /// Of the head, one a process.
    #[serde(default)]
    pub head: Vec<u64>,
}

/// Something that is right or wrong, whatever the clock says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The figures behind it.
    pub detail: String,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be made; the detail says why.
    Skipped,
}

/// Why a trial could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: String,
        /// The place and what is wrong.
        source: serde_json::Error,
    },
    /// Another kind of file.
    #[error("{file}: is no record of `tokgate gate` (its kind is {found:?}, not \"trial\")")]
    Kind {
        /// The file.
        file: String,
        /// The kind that it names.
        found: String,
    },
    /// Written by another version.
    #[error(
        "{file}: has schema version {found}, this version of tokgate reads {SCHEMA}; update tokgate or run the gate again"
    )]
    Schema {
        /// The file.
        file: String,
        /// The version that it has.
        found: u64,
    },
    /// Parts that do not belong together.
    #[error("{file}: {what}")]
    Inconsistent {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
}

impl Trial {
    /// Reads the trial in the file `path`.
    ///
    /// # Errors
    /// [`TrialError`] that names the file.
    pub fn read(path: &Path) -> Result<Self, TrialError> {
        let text = read_text(path, MAX_FILE_BYTES)?;
        Self::from_text(&text, &path.display().to_string())
    }

    /// Understands the text of a trial that comes from `file`.
    ///
    /// # Errors
    /// [`TrialError`] that names `file`.
    pub fn from_text(text: &str, file: &str) -> Result<Self, TrialError> {
        let json = |source| TrialError::Json {
            file: file.to_owned(),
            source,
        };
        let head: Head = serde_json::from_str(text).map_err(json)?;
        if head.kind != KIND {
            return Err(TrialError::Kind {
                file: file.to_owned(),
                found: head.kind.chars().take(32).collect(),
            });
        }
        if head.schema != u64::from(SCHEMA) {
            return Err(TrialError::Schema {
                file: file.to_owned(),
                found: head.schema,
            });
        }
        let trial: Self = serde_json::from_str(text).map_err(json)?;
        trial.check().map_err(|what| TrialError::Inconsistent {
            file: file.to_owned(),
            what,
        })?;
        Ok(trial)
    }

    /// The trial as text, on one line.
    pub fn to_text(&self) -> String {
        let document = Document {
            schema: SCHEMA,
            kind: KIND,
            trial: self,
        };
        let mut text = serde_json::to_string(&document).expect("numbers, texts and lists of them");
        text.push('\n');
        text
    }

    /// Writes the trial into the file `path`, whole or not at all.
    ///
    /// # Errors
    /// [`TrialError`] if it cannot be written; the file is then as it was.
    pub fn write(&self, path: &Path) -> Result<(), TrialError> {
        Ok(write_whole(path, &self.to_text())?)
    }

    /// The target of a bench; every bench of a trial that was read has one.
    pub fn target(&self, bench: &TrialBench) -> Option<&Target> {
        self.targets.get(bench.target)
    }

    fn check(&self) -> Result<(), String> {
        let lists = [
            ("targets", self.targets.len()),
            ("benches", self.benches.len()),
            ("checks", self.checks.len()),
            ("notes", self.notes.len()),
        ];
        for (name, length) in lists {
            if length > MAX_ENTRIES {
                return Err(format!("{length} {name} are more than {MAX_ENTRIES}"));
            }
        }
        if !(self.budget_s.is_finite() && self.budget_s >= 0.0) {
            return Err(format!("budget_s: {} is no duration", self.budget_s));
        }
        let mut ids: Vec<(&BenchId, usize)> = self
            .benches
            .iter()
            .map(|bench| (&bench.id, bench.target))
            .collect();
        ids.sort();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("'{}' is there twice", twice[0].0));
        }
        self.benches.iter().try_for_each(|bench| {
            self.check_bench(bench)
                .map_err(|what| format!("'{}': {what}", bench.id))
        })
    }

    fn check_bench(&self, bench: &TrialBench) -> Result<(), String> {
        let Some(target) = self.target(bench) else {
            return Err(format!(
                "names the target {}, which is not described",
                bench.target
            ));
        };
        if bench.blocks.len() > MAX_BLOCKS {
            return Err(format!(
                "{} blocks are more than {MAX_BLOCKS}",
                bench.blocks.len()
            ));
        }
        let rising = bench.looks.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising
            || bench
                .looks
                .last()
                .is_some_and(|last| *last > bench.blocks.len())
        {
            return Err("looks must increase, up to the number of blocks".to_owned());
        }
        let links = |arm| target.links.iter().filter(|link| link.arm == arm).count();
        let (base, head) = (links(Arm::Base), links(Arm::Head));
        for block in &bench.blocks {
            if block.runs.len() > MAX_RUNS {
                return Err(format!("a block of {} processes", block.runs.len()));
            }
            for run in &block.runs {
                let known = match run.arm {
                    Arm::Base => base,
                    Arm::Head => head,
                };
                if run.link >= known {
                    return Err(format!("names the link {} of {known}", run.link));
                }
            }
        }
        let counts = &bench.instructions;
        if counts.base.len().max(counts.head.len()) > MAX_SAMPLES {
            return Err("more counts than there can be processes".to_owned());
        }
        Ok(())
    }
}

impl TrialBench {
    /// A bench of which nothing is known but where it is.
    pub fn new(id: BenchId, target: usize, in_base: bool, in_head: bool) -> Self {
        Self {
            id,
            target,
            in_base,
            in_head,
            looks: Vec::new(),
            blocks: Vec::new(),
            instructions: Counts::default(),
            failure: None,
        }
    }
}

impl Arm {
    /// Both sides, the base first.
    pub const ALL: [Self; 2] = [Self::Base, Self::Head];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Head => "head",
        }
    }
}

impl Counts {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.base.is_empty() && self.head.is_empty()
    }
}

impl Harness {
    /// The harness's own name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Criterion => "criterion",
            Self::Callgrind => "callgrind",
            Self::Lockstep => "lockstep",
        }
    }
}

#[derive(Deserialize)]
struct Head {
    schema: u64,
    #[serde(default)]
    kind: String,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kind: &'static str,
    #[serde(flatten)]
    trial: &'a Trial,
}

#[derive(Serialize, Deserialize)]
struct RunJson {
    arm: Arm,
    link: usize,
    iters: Iters,
    total_ns: Vec<u64>,
}

impl TryFrom<RunJson> for ProcessRun {
    type Error = SampleError;

    fn try_from(json: RunJson) -> Result<Self, SampleError> {
        let iters = json.iters.expand(json.total_ns.len())?;
        Ok(Self {
            arm: json.arm,
            link: json.link,
            samples: TimedSamples::new(iters, json.total_ns)?,
        })
    }
}

impl From<ProcessRun> for RunJson {
    fn from(run: ProcessRun) -> Self {
        Self {
            arm: run.arm,
            link: run.link,
            iters: Iters::of(run.samples.iters()),
            total_ns: run.samples.total_ns().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        let text = r#"{"schema":1,"kind":"trial","unknown":0,"seed":7,"budget_s":60.0,
            "started_at":"2026-10-01T12:00:00Z","finished_at":"2026-10-01T12:01:00Z",
            "machine":{"key":"x86_64-test-2c","counts_key":"callgrind-test","cpu":"Test","cpus":2},
            "build":{"rustc":"rustc 1.95.0","target":"x86_64-unknown-linux-gnu","rustflags":"","profile":"bench"},
            "base":{"asked":"main","commit":"aaaa","dirty":false},
            "head":{"asked":"HEAD","commit":"bbbb","dirty":true},
            "targets":[{"package":"p","name":"parse","harness":"criterion","code":"differs","links":[
                {"arm":"base","text":"0"},{"arm":"head","seed":3,"text":"1"}]}],
            "benches":[{"id":"parse","target":0,"in_base":true,"in_head":true,"looks":[1],"blocks":[
                {"round":0,"at_ms":5,"runs":[{"arm":"base","link":0,"iters":{"linear":2},"total_ns":[10,20]},
                    {"arm":"head","link":0,"iters":1,"total_ns":[6]}]}]}]}"#;
        Trial::from_text(text, "t.json").unwrap()
    }

    #[test]
    fn a_trial_round_trips() {
        let trial = trial();
        let run = &trial.benches[0].blocks[0].runs[0];
        assert_eq!(run.samples.iters(), [2, 4]);
        let again = Trial::from_text(&trial.to_text(), "t.json").unwrap();
        assert_eq!(again, trial);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        trial.write(&path).unwrap();
        assert_eq!(Trial::read(&path).unwrap(), trial);
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let text = trial().to_text();
        for (was, becomes, says) in [
            ("\"schema\":1", "\"schema\":2", "schema version 2"),
            ("\"trial\"", "\"comparison\"", "\"comparison\""),
            ("\"target\":0", "\"target\":1", "names the target 1"),
            ("\"link\":0", "\"link\":9", "names the link 9 of 1"),
            ("\"looks\":[1]", "\"looks\":[2]", "looks must increase"),
            ("[10,20]", "[]", "no sample"),
            ("\"budget_s\":60.0", "\"budget_s\":-1", "no duration"),
        ] {
            assert!(text.contains(was), "{was}");
            let error = Trial::from_text(&text.replacen(was, becomes, 1), "t.json").unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("t.json: ") && error.contains(says),
                "{error}"
            );
        }
    }
}
