//! What gates of one commit against itself showed on a machine: `baselines/<machine key>/calibration.json`.
//!
//! Every regression that such a round calls is false; how many there were is the gate's measured false-alarm rate here.
//! The same rounds tell, for every bench, which statistic scatters least, and how far it comes out by itself.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::files::{FileError, read_text, write_whole};
use super::id::BenchId;
use super::run::MachineKey;
use super::stat::Statistic;

/// The version of the format that this code writes, and the only one that it reads.
pub const SCHEMA: u32 = 1;

const MAX_FILE_BYTES: u64 = 16 << 20;

/// The rounds of one machine and what they say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The version of the format.
    pub schema: u32,
    /// The machine that it holds for.
    pub machine_key: MachineKey,
    /// When the last round ended.
    pub measured_at: Timestamp,
    /// The commit that was measured against itself.
    pub commit: String,
    /// How many rounds there were.
    pub rounds: usize,
    /// Seconds of measuring a round.
    pub budget_s: f64,
    /// Verdicts of all rounds and benches.
    pub verdicts: usize,
    /// How many of them were false alarms.
    pub false_alarms: usize,
    /// How many were false praise.
    pub false_improvements: usize,
    /// The benches, sorted by id.
    pub benches: Vec<CalibratedBench>,
}

/// What identical code shows of one bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibratedBench {
    /// The bench.
    pub id: BenchId,
    /// The statistic whose differences are smallest.
    pub statistic: Statistic,
    /// How far identical code comes out apart by it, at most, in percent: the largest of the rounds, or the 99th
    /// percentile of a t distribution with their scatter, whichever is more.
    pub null_pct: f64,
    /// The smallest slow-down that a round would have found 19 times out of 20, in percent.
    pub detectable_pct: f64,
    /// Blocks of a round.
    pub blocks: usize,
}

/// Why a calibration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a calibration.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The place and what is wrong.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error(
        "{}: has schema version {found}, this version of tokgate reads {SCHEMA}; run `tokgate calibrate` again",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version that it has.
        found: u64,
    },
    /// A figure that is no percentage.
    #[error("{}: '{id}' has a figure that is no percentage", path.display())]
    Figure {
        /// The file.
        path: PathBuf,
        /// The bench.
        id: BenchId,
    },
}

impl Calibration {
    /// Where the calibration of a machine is kept in the folder `baselines`.
    pub fn path(baselines: &Path, key: &MachineKey) -> PathBuf {
        baselines.join(key.as_str()).join("calibration.json")
    }

    /// Reads the calibration of a machine from the folder `baselines`; `None` if there is none.
    ///
    /// # Errors
    /// [`CalibrationError`] if it is there but cannot be read.
    pub fn load(baselines: &Path, key: &MachineKey) -> Result<Option<Self>, CalibrationError> {
        let path = Self::path(baselines, key);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path, MAX_FILE_BYTES)?;
        Self::from_text(&text, &path).map(Some)
    }

    /// Understands the text of a calibration that comes from the file `path`.
    ///
    /// # Errors
    /// [`CalibrationError`] that names `path`.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, CalibrationError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u64,
        }
        let json = |source| CalibrationError::Json {
            path: path.to_owned(),
            source,
        };
        let version: Version = serde_json::from_str(text).map_err(json)?;
        if version.schema != u64::from(SCHEMA) {
            return Err(CalibrationError::Schema {
                path: path.to_owned(),
                found: version.schema,
            });
        }
        let calibration: Self = serde_json::from_str(text).map_err(json)?;
        let percentage = |number: f64| number.is_finite() && number >= 0.0;
        let wrong = calibration
            .benches
            .iter()
            .find(|bench| !(percentage(bench.null_pct) && percentage(bench.detectable_pct)));
        match wrong {
            Some(bench) => Err(CalibrationError::Figure {
                path: path.to_owned(),
                id: bench.id.clone(),
            }),
            None => Ok(calibration),
        }
    }

    /// Writes the calibration into the folder `baselines`, whole or not at all; returns where.
    ///
    /// # Errors
    /// [`CalibrationError`] if it cannot be written; the file is then as it was.
    pub fn save(&self, baselines: &Path) -> Result<PathBuf, CalibrationError> {
        let path = Self::path(baselines, &self.machine_key);
        let mut text =
            serde_json::to_string_pretty(self).expect("numbers, texts and lists of them");
        text.push('\n');
        write_whole(&path, &text)?;
        Ok(path)
    }

    /// What is known of a bench.
    pub fn bench(&self, id: &BenchId) -> Option<&CalibratedBench> {
        self.benches.iter().find(|bench| bench.id == *id)
    }
}
