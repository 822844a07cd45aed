//! Criterion 0.8: `target/criterion/**/<which>/{benchmark,sample}.json`.
//!
//! The layout is undocumented upstream and pinned here by a tree that criterion 0.8 wrote. A bench is known by the
//! `full_id` in its `benchmark.json`, never by its path: folder names are cut at 64 bytes, and a second bench of the
//! same folder gets `_2`. The raw samples are read, not the estimates made of them. They are taken to be nanoseconds;
//! criterion does not say when a custom `Measurement` made them something else.

use std::path::Path;

use serde::Deserialize;

use super::{AdapterError, Finding, distinct, files_named, parse_id, read_json, written};
use crate::record::measurement::{Samples, Throughput, TimedSamples};
use crate::record::metric::Metric;

/// The folder that criterion writes the last run into.
pub const LAST_RUN: &str = "new";

const MAX_BENCHMARK_BYTES: u64 = 1 << 20;
const MAX_SAMPLE_BYTES: u64 = 32 << 20;

/// Whole numbers up to here are exact in a JSON number as criterion writes it.
const MAX_EXACT: f64 = (1_u64 << 53) as f64;

/// Reads the results called `which` ([`LAST_RUN`], or the name of a saved baseline) of every bench below `root`,
/// sorted by id; empty if there are none.
///
/// # Errors
/// [`AdapterError`] that names the file which cannot be understood.
pub fn read(root: &Path, which: &str) -> Result<Vec<Finding>, AdapterError> {
    let mut findings = Vec::new();
    for path in files_named(root, "benchmark.json")? {
        let folder = path.parent().unwrap_or(root);
        if folder.file_name().is_some_and(|name| name == which) {
            findings.push(read_bench(&path, &folder.join("sample.json"))?);
        }
    }
    distinct(findings)
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Work>,
}

#[derive(Deserialize)]
enum Work {
    Bits(u64),
    Bytes(u64),
    BytesDecimal(u64),
    Elements(u64),
    ElementsAndBytes { elements: u64, bytes: u64 },
}

#[derive(Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

fn read_bench(path: &Path, sample_path: &Path) -> Result<Finding, AdapterError> {
    let benchmark: Benchmark = read_json(path, MAX_BENCHMARK_BYTES)?;
    let id = parse_id(benchmark.full_id, path)?;
    if !sample_path.exists() {
        return Err(AdapterError::Value {
            path: path.to_owned(),
            key: "full_id",
            what: format!(
                "'{id}' has no sample.json beside it; run the bench again or remove the folder"
            ),
        });
    }
    let sample: Sample = read_json(sample_path, MAX_SAMPLE_BYTES)?;
    let iters = whole_numbers(&sample.iters, "iters", sample_path)?;
    let total_ns = whole_numbers(&sample.times, "times", sample_path)?;
    let timed = TimedSamples::new(iters, total_ns).map_err(|source| AdapterError::Samples {
        path: sample_path.to_owned(),
        source,
    })?;
    Ok(Finding {
        id,
        figures: vec![(Metric::Time, Samples::Timed(timed))],
        throughput: benchmark
            .throughput
            .map(Throughput::from)
            .unwrap_or_default(),
        written: written(sample_path)?,
        path: sample_path.to_owned(),
    })
}

/// Criterion keeps counts and nanoseconds as floating-point numbers.
fn whole_numbers(
    numbers: &[f64],
    key: &'static str,
    path: &Path,
) -> Result<Vec<u64>, AdapterError> {
    let whole = |number: &f64| {
        if (0.0..=MAX_EXACT).contains(number) {
            Ok(number.round() as u64)
        } else {
            Err(AdapterError::Value {
                path: path.to_owned(),
                key,
                what: format!("{number:?} is not a count"),
            })
        }
    };
    numbers.iter().map(whole).collect()
}

impl From<Work> for Throughput {
    fn from(work: Work) -> Self {
        let none = Self::default();
        match work {
            Work::Bits(bits) => Self {
                bits: Some(bits),
                ..none
            },
            Work::Bytes(bytes) | Work::BytesDecimal(bytes) => Self {
                bytes: Some(bytes),
                ..none
            },
            Work::Elements(elements) => Self {
                elements: Some(elements),
                ..none
            },
            Work::ElementsAndBytes { elements, bytes } => Self {
                elements: Some(elements),
                bytes: Some(bytes),
                ..none
            },
        }
    }
}
