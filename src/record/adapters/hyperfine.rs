//! hyperfine: the file of `--export-json`. A bench is called by its command; the time is that of one run of it.

use std::path::Path;

use serde::Deserialize;

use super::{AdapterError, Finding, nanoseconds, parse_id, parse_json, written};
use crate::record::measurement::{Samples, Throughput, TimedSamples};
use crate::record::metric::Metric;

#[derive(Deserialize)]
struct Export {
    results: Vec<Command>,
}

#[derive(Deserialize)]
struct Command {
    command: String,
    /// Seconds of each run.
    times: Vec<f64>,
}

/// Understands the text of the file `path`.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Finding>, AdapterError> {
    let export: Export = parse_json(text, path)?;
    export
        .results
        .into_iter()
        .map(|result| {
            let total_ns = result
                .times
                .iter()
                .map(|seconds| nanoseconds(seconds * 1e9, "times", path))
                .collect::<Result<Vec<u64>, _>>()?;
            let timed = TimedSamples::new(vec![1; total_ns.len()], total_ns).map_err(|source| {
                AdapterError::Samples {
                    path: path.to_owned(),
                    source,
                }
            })?;
            Ok(Finding {
                id: parse_id(result.command, path)?,
                figures: vec![(Metric::Time, Samples::Timed(timed))],
                throughput: Throughput::default(),
                written: written(path)?,
                path: path.to_owned(),
            })
        })
        .collect()
}
