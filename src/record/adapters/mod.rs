//! What other harnesses leave behind, read for any project: one file a format.
//!
//! Trees of many files: [`criterion`], [`callgrind`]. Single files, told apart by their content: [`mod@file`].
//!
//! A reader takes a folder that nobody vouches for and returns [`Finding`]s, or an error that names the file and the
//! place. It knows nothing of commits and machines; [`crate::record::Provenance`] comes from whoever calls it.

pub mod callgrind;
pub mod criterion;
pub mod file;

mod cluster;
mod google_benchmark;
mod hyperfine;
mod llama_bench;
mod serving;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::files::{FileError, read_text};
use super::id::{BenchId, IdError};
use super::measurement::{SampleError, Samples, Throughput};
use super::metric::Metric;

/// The deepest folder that is looked into; both harnesses nest below ten.
const MAX_DEPTH: usize = 24;

/// The most files and folders that one tree may have.
const MAX_ENTRIES: usize = 1_000_000;

/// The figures of one bench in a harness's tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The bench.
    pub id: BenchId,
    /// What was measured of it.
    pub figures: Vec<(Metric, Samples)>,
    /// The work of one iteration.
    pub throughput: Throughput,
    /// When the harness wrote it.
    pub written: SystemTime,
    /// The file that holds the figures.
    pub path: PathBuf,
}

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file or folder cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tree is deeper or larger than any harness makes one.
    #[error("{}: holds more than {MAX_ENTRIES} files or is nested deeper than {MAX_DEPTH} folders; is it a harness's folder?", .0.display())]
    TooLarge(PathBuf),
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The place and what is wrong.
        source: serde_json::Error,
    },
    /// A value that makes no sense.
    #[error("{}: {key}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        what: String,
    },
    /// The samples mean nothing.
    #[error("{}: {source}", path.display())]
    Samples {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SampleError,
    },
    /// The name of a bench cannot be one.
    #[error("{}: {source}", path.display())]
    Id {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IdError,
    },
    /// Two results of one name, of which at most one could be kept.
    #[error("'{id}' is the name of two benches: {} and {}; remove the stale one or rename one of them", first.display(), second.display())]
    Twice {
        /// The name.
        id: BenchId,
        /// One file.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// A summary of a schema that is not known.
    #[error("{}: has schema version {found:?}, this version of tokgate reads {known}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version that it has.
        found: String,
        /// The versions that are read.
        known: &'static str,
    },
}

/// All files called `name` below `root`, sorted; symbolic links are not followed.
fn files_named(root: &Path, name: &str) -> Result<Vec<PathBuf>, AdapterError> {
    let mut found = Vec::new();
    let mut entries = 0;
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(FileError::io(&folder))? {
            let entry = entry.map_err(FileError::io(&folder))?;
            let kind = entry.file_type().map_err(FileError::io(&folder))?;
            entries += 1;
            if entries > MAX_ENTRIES || depth > MAX_DEPTH {
                return Err(AdapterError::TooLarge(root.to_owned()));
            }
            if kind.is_dir() {
                open.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.file_name() == name {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read_json<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, AdapterError> {
    parse_json(&read_text(path, limit)?, path)
}

fn parse_json<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, AdapterError> {
    serde_json::from_str(text).map_err(|source| AdapterError::Json {
        path: path.to_owned(),
        source,
    })
}

/// A time in nanoseconds as a whole number of them; at most that of 100 days, where such numbers are exact.
fn nanoseconds(time: f64, key: &'static str, path: &Path) -> Result<u64, AdapterError> {
    if (0.0..=9e15).contains(&time) {
        Ok(time.round() as u64)
    } else {
        Err(AdapterError::Value {
            path: path.to_owned(),
            key,
            what: format!("{time:?} ns is no time"),
        })
    }
}

fn written(path: &Path) -> Result<SystemTime, AdapterError> {
    Ok(fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map_err(FileError::io(path))?)
}

fn parse_id(text: String, path: &Path) -> Result<BenchId, AdapterError> {
    BenchId::try_from(text).map_err(|source| AdapterError::Id {
        path: path.to_owned(),
        source,
    })
}

/// The findings sorted by id, if no two have the same.
fn distinct(findings: Vec<Finding>) -> Result<Vec<Finding>, AdapterError> {
    let mut by_id: BTreeMap<BenchId, Finding> = BTreeMap::new();
    for finding in findings {
        if let Some(other) = by_id.get(&finding.id) {
            return Err(AdapterError::Twice {
                id: finding.id,
                first: other.path.clone(),
                second: finding.path,
            });
        }
        by_id.insert(finding.id.clone(), finding);
    }
    Ok(by_id.into_values().collect())
}
