//! The project's own JSON, with a version.

use serde::{Deserialize, Serialize};

use super::Sides;
use crate::judge::{Comparison, Verdict};
use crate::record::Record;

/// The version of the format.
pub const SCHEMA: u32 = 1;

/// The word that tells a comparison from the project's other JSON files.
const KIND: &str = "comparison";

/// A comparison that was read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// What was found.
    pub comparison: Comparison,
    /// What was compared.
    pub sides: Sides,
    /// The commit of the new side, if all of it is of one commit without changes.
    pub head: Option<String>,
}

/// Why a text is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    /// Not JSON, or a key is missing or of the wrong type.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: String,
        /// The place and what is wrong.
        source: serde_json::Error,
    },
    /// Another kind of file.
    #[error("{file}: is nothing that `tokgate compare -o json` wrote (its kind is {found:?})")]
    Kind {
        /// The file.
        file: String,
        /// The kind that it names.
        found: String,
    },
    /// Written by another version.
    #[error(
        "{file}: has schema version {found}, this version of tokgate reads {SCHEMA}; compare again"
    )]
    Schema {
        /// The file.
        file: String,
        /// The version that it has.
        found: u64,
    },
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kind: &'static str,
    now: Side<'a>,
    base: Side<'a>,
    counts: Vec<Count>,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

#[derive(Serialize)]
struct Side<'a> {
    label: &'a str,
    records: Vec<Origin<'a>>,
}

#[derive(Serialize)]
struct Origin<'a> {
    machine_key: &'a str,
    runs: Vec<&'a crate::record::Provenance>,
}

#[derive(Serialize)]
struct Count {
    verdict: Verdict,
    rows: usize,
}

/// A comparison with everything that was weighed, and where both sides come from.
pub fn comparison(
    comparison: &Comparison,
    sides: &Sides,
    now: &[Record],
    base: &[Record],
) -> String {
    let counts = super::counts(comparison).into_iter();
    let document = Document {
        schema: SCHEMA,
        kind: KIND,
        now: side(&sides.now, now),
        base: side(&sides.base, base),
        counts: counts
            .map(|(verdict, rows)| Count { verdict, rows })
            .collect(),
        comparison,
    };
    let mut text =
        serde_json::to_string_pretty(&document).expect("numbers, texts and lists of them");
    text.push('\n');
    text
}

fn side<'a>(label: &'a str, records: &'a [Record]) -> Side<'a> {
    let origin = |record: &'a Record| Origin {
        machine_key: record.key().as_str(),
        runs: record.runs().map(|(_, provenance)| provenance).collect(),
    };
    Side {
        label,
        records: records.iter().map(origin).collect(),
    }
}

#[derive(Deserialize)]
struct Head {
    schema: u64,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct Read {
    now: ReadSide,
    base: ReadSide,
    #[serde(flatten)]
    comparison: Comparison,
}

#[derive(Deserialize)]
struct ReadSide {
    label: String,
    #[serde(default)]
    records: Vec<ReadOrigin>,
}

#[derive(Deserialize)]
struct ReadOrigin {
    runs: Vec<ReadRun>,
}

#[derive(Deserialize)]
struct ReadRun {
    commit: Option<String>,
    dirty: bool,
}

/// Understands what [`comparison`] wrote; `file` says where it comes from.
///
/// # Errors
/// [`ComparisonError`] that names `file`.
pub fn read_comparison(text: &str, file: &str) -> Result<Compared, ComparisonError> {
    let json = |source| ComparisonError::Json {
        file: file.to_owned(),
        source,
    };
    let head: Head = serde_json::from_str(text).map_err(json)?;
    if head.kind != KIND {
        return Err(ComparisonError::Kind {
            file: file.to_owned(),
            found: head.kind.chars().take(32).collect(),
        });
    }
    if head.schema != u64::from(SCHEMA) {
        return Err(ComparisonError::Schema {
            file: file.to_owned(),
            found: head.schema,
        });
    }
    let read: Read = serde_json::from_str(text).map_err(json)?;
    let mut runs = read.now.records.iter().flat_map(|record| &record.runs);
    let first = runs.next();
    let of_first = |run: &ReadRun| !run.dirty && Some(&run.commit) == first.map(|run| &run.commit);
    let head = match first {
        Some(run) if !run.dirty && runs.all(of_first) => run.commit.clone(),
        _ => None,
    };
    Ok(Compared {
        comparison: read.comparison,
        sides: Sides {
            now: read.now.label,
            base: read.base.label,
        },
        head,
    })
}
