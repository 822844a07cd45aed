//! The project's own JSON, with a version.

use serde::Serialize;

use super::Sides;
use crate::judge::{Comparison, Verdict};
use crate::record::Record;

/// The version of the format.
pub const SCHEMA: u32 = 1;

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
        kind: "comparison",
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
