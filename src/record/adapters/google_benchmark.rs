//! google-benchmark: the file of `--benchmark_format=json`.
//!
//! Each repetition is a sample of as many iterations as it ran, of wall-clock time (`real_time`); aggregates are made of
//! these and left out. A file of aggregates alone has its means, or its medians, for samples. The rates that a bench
//! reports are turned back into the work of one iteration: they are over CPU time, unless the bench says otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{AdapterError, Finding, nanoseconds, parse_id, parse_json, written};
use crate::record::measurement::{Samples, Throughput, TimedSamples};
use crate::record::metric::Metric;

#[derive(Deserialize)]
struct Report {
    benchmarks: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    run_name: Option<String>,
    #[serde(default)]
    run_type: RunType,
    aggregate_name: Option<String>,
    #[serde(default)]
    error_occurred: bool,
    error_message: Option<String>,
    iterations: Option<u64>,
    real_time: Option<f64>,
    cpu_time: Option<f64>,
    #[serde(default)]
    time_unit: Unit,
    bytes_per_second: Option<f64>,
    items_per_second: Option<f64>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RunType {
    #[default]
    Iteration,
    Aggregate,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    #[default]
    Ns,
    Us,
    Ms,
    S,
}

/// What repetitions of one bench add up to.
#[derive(Default)]
struct Bench {
    iters: Vec<u64>,
    total_ns: Vec<u64>,
    throughput: Throughput,
}

/// Understands the text of the file `path`.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Finding>, AdapterError> {
    let report: Report = parse_json(text, path)?;
    let repeated = report
        .benchmarks
        .iter()
        .any(|row| row.run_type == RunType::Iteration && !row.error_occurred);
    let mut benches: BTreeMap<String, Bench> = BTreeMap::new();
    for aggregate in ["", "mean", "median"] {
        for row in &report.benchmarks {
            let name = row.run_name.as_ref().unwrap_or(&row.name);
            if row.error_occurred {
                let message = row.error_message.as_deref().unwrap_or("it gives no reason");
                return Err(AdapterError::Value {
                    path: path.to_owned(),
                    key: "error_occurred",
                    what: format!("'{name}' failed: {message}"),
                });
            }
            let wanted = match row.run_type {
                RunType::Iteration => aggregate.is_empty(),
                RunType::Aggregate => {
                    !repeated
                        && row.aggregate_name.as_deref() == Some(aggregate)
                        && !benches.contains_key(name)
                }
            };
            if wanted {
                row.add_to(benches.entry(name.clone()).or_default(), name, path)?;
            }
        }
    }
    let finding = |(name, bench): (String, Bench)| {
        let timed = TimedSamples::new(bench.iters, bench.total_ns).map_err(|source| {
            AdapterError::Samples {
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(Finding {
            id: parse_id(name, path)?,
            figures: vec![(Metric::Time, Samples::Timed(timed))],
            throughput: bench.throughput,
            written: written(path)?,
            path: path.to_owned(),
        })
    };
    benches.into_iter().map(finding).collect()
}

impl Row {
    fn add_to(&self, bench: &mut Bench, name: &str, path: &Path) -> Result<(), AdapterError> {
        let missing = |key| AdapterError::Value {
            path: path.to_owned(),
            key,
            what: format!("'{name}' has none"),
        };
        let iterations = match self.run_type {
            RunType::Iteration => self.iterations.ok_or_else(|| missing("iterations"))?,
            // An aggregate counts repetitions there; its times are of one iteration, kept to a thousandth of a ns.
            RunType::Aggregate => 1_000,
        };
        let unit = match self.time_unit {
            Unit::Ns => 1.0,
            Unit::Us => 1e3,
            Unit::Ms => 1e6,
            Unit::S => 1e9,
        };
        let real = self.real_time.ok_or_else(|| missing("real_time"))? * unit;
        bench.iters.push(iterations);
        bench
            .total_ns
            .push(nanoseconds(real * iterations as f64, "real_time", path)?);
        let by_the_clock = name.contains("/real_time") || name.contains("/manual_time");
        let base = match self.cpu_time {
            Some(cpu) if !by_the_clock => cpu * unit,
            _ => real,
        };
        let work = |rate: Option<f64>| {
            let count = (rate? * base / 1e9).round();
            (1.0..=1e18).contains(&count).then_some(count as u64)
        };
        bench.throughput.elements = bench.throughput.elements.or(work(self.items_per_second));
        bench.throughput.bytes = bench.throughput.bytes.or(work(self.bytes_per_second));
        Ok(())
    }
}
