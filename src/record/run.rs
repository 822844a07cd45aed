//! Where measurements come from, and sets of them: what a run produced, or what a baseline keeps.

use std::collections::BTreeSet;
use std::collections::btree_map::{self, BTreeMap};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::BenchId;
use super::measurement::Measurement;
use super::metric::Metric;

/// Names the machine that figures hold for, or for counts the CPU family and toolchain: also the name of a folder
/// under `baselines/`, so lower-case letters, digits, `-`, `_` and `.` only, and at most 128 of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineKey(String);

/// Names a run within one record: the bench target and the time, such as `matmul@2026-10-01T12:00:00Z`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// A text that cannot name a machine or a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a machine key.
    #[error(
        "'{0}' is not a machine key: 1 to 128 of a-z, 0-9, '-', '_', '.', the first a letter or digit"
    )]
    MachineKey(String),
    /// Not a run's name.
    #[error("'{0}' cannot name a run: 1 to 256 printable characters")]
    RunId(String),
}

/// What must be known of a run before its figures mean anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// When it was measured: the start of the run, or the newest result where only files tell.
    pub measured_at: Timestamp,
    /// Who wrote this down: the bench itself, or a later look at its files.
    pub witness: Witness,
    /// The harness that took the samples, such as `criterion`.
    pub harness: String,
    /// The commit that was checked out, in full; absent outside a git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether the sources differed from the commit, or may have.
    pub dirty: bool,
    /// `rustc --version`.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// The flags that the code was compiled with, as far as they are known.
    pub rustflags: String,
    /// The cargo profile.
    pub profile: String,
    /// The CPU's model name.
    pub cpu: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// The frequency governor; absent where the system tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// The kernel level that the dispatcher chose; absent where other code than tokgate's ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// Who vouches for a run's provenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// The bench target wrote it down while it ran.
    Bench,
    /// Seen afterwards: commit, compiler and governor are those of the time of recording.
    Afterwards,
}

/// Measurements that hold for one machine key, sorted by id and metric, each with the run that it comes from.
///
/// A run that was just taken and a baseline that was kept are the same thing at different times.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    key: MachineKey,
    runs: BTreeMap<RunId, Provenance>,
    measurements: BTreeMap<(BenchId, Metric), Measurement>,
}

/// A measurement that names a run which its record does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{id}' names the run '{run}', which is not described")]
pub struct UnknownRun {
    /// The bench.
    pub id: BenchId,
    /// The run that it names.
    pub run: RunId,
}

impl Record {
    /// An empty record.
    pub fn new(key: MachineKey) -> Self {
        Self {
            key,
            runs: BTreeMap::new(),
            measurements: BTreeMap::new(),
        }
    }

    /// What the figures hold for.
    pub fn key(&self) -> &MachineKey {
        &self.key
    }

    /// Describes a run; measurements may then name it.
    pub fn add_run(&mut self, id: RunId, provenance: Provenance) {
        self.runs.insert(id, provenance);
    }

    /// Adds a measurement, or replaces the one of the same bench and metric.
    ///
    /// # Errors
    /// [`UnknownRun`] if the run was not described before.
    pub fn insert(&mut self, measurement: Measurement) -> Result<(), UnknownRun> {
        if !self.runs.contains_key(measurement.run()) {
            return Err(UnknownRun {
                id: measurement.id().clone(),
                run: measurement.run().clone(),
            });
        }
        let place = (measurement.id().clone(), measurement.metric());
        self.measurements.insert(place, measurement);
        Ok(())
    }

    /// Takes over every measurement of `newer`, and the runs that vouch for them; what only this record has stays.
    /// Runs that no measurement names any more are forgotten.
    pub fn merge(&mut self, newer: Self) {
        self.runs.extend(newer.runs);
        self.measurements.extend(newer.measurements);
        self.forget_unused_runs();
    }

    /// Keeps the measurements that `keep` accepts, and the runs that vouch for them.
    pub fn retain(&mut self, mut keep: impl FnMut(&Measurement) -> bool) {
        self.measurements.retain(|_, measurement| keep(measurement));
        self.forget_unused_runs();
    }

    /// The record with at most `limit` samples a measurement.
    #[must_use]
    pub fn thinned(self, limit: usize) -> Self {
        let thin = |(place, measurement): (_, Measurement)| (place, measurement.thinned(limit));
        Self {
            measurements: self.measurements.into_iter().map(thin).collect(),
            ..self
        }
    }

    /// The measurement of a bench for a metric.
    pub fn get(&self, id: &BenchId, metric: Metric) -> Option<&Measurement> {
        self.measurements.get(&(id.clone(), metric))
    }

    /// All measurements, sorted by id, then metric.
    pub fn measurements(&self) -> btree_map::Values<'_, (BenchId, Metric), Measurement> {
        self.measurements.values()
    }

    /// All runs, sorted by name.
    pub fn runs(&self) -> btree_map::Iter<'_, RunId, Provenance> {
        self.runs.iter()
    }

    /// The provenance of a measurement of this record.
    pub fn provenance(&self, measurement: &Measurement) -> Option<&Provenance> {
        self.runs.get(measurement.run())
    }

    /// How many measurements there are.
    pub fn len(&self) -> usize {
        self.measurements.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.measurements.is_empty()
    }

    fn forget_unused_runs(&mut self) {
        let used: BTreeSet<&RunId> = self.measurements.values().map(Measurement::run).collect();
        self.runs.retain(|id, _| used.contains(id));
    }
}

impl MachineKey {
    /// Takes `key` as it is.
    ///
    /// # Errors
    /// [`NameError`] if it is not of the form that a folder's name needs.
    pub fn new(key: impl Into<String>) -> Result<Self, NameError> {
        let key = key.into();
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        let valid = key.len() <= 128
            && key.bytes().all(allowed)
            && key.starts_with(|c: char| c.is_ascii_alphanumeric());
        if valid {
            Ok(Self(key))
        } else {
            Err(NameError::MachineKey(key.chars().take(128).collect()))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RunId {
    /// Takes `name` as it is.
    ///
    /// # Errors
    /// [`NameError`] if it is empty, over 256 bytes or has control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if (1..=256).contains(&name.len()) && !name.chars().any(char::is_control) {
            Ok(Self(name))
        } else {
            Err(NameError::RunId(name.chars().take(128).collect()))
        }
    }

    /// The run of a bench target at a time, which is told to the second.
    ///
    /// # Errors
    /// [`NameError`] for a target without a usable name.
    pub fn of(target: &str, at: Timestamp) -> Result<Self, NameError> {
        let second = Timestamp::from_second(at.as_second()).unwrap_or(at);
        Self::new(format!("{target}@{second}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for MachineKey {
    type Error = NameError;

    fn try_from(key: String) -> Result<Self, NameError> {
        Self::new(key)
    }
}

impl From<MachineKey> for String {
    fn from(key: MachineKey) -> Self {
        key.0
    }
}

impl TryFrom<String> for RunId {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}
