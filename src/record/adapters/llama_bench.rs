//! llama-bench: `-o json` or `-o jsonl`, of llama.cpp or of `tokgate bench`.
//!
//! A bench is called `llama-bench/<model_type>/<backends>/<test>_t<threads>`, with what differs from llama-bench's own
//! defaults behind it (`_ub256_fa1_kbf16`), so that two settings of one file have two names. A sample is one repetition;
//! its elements are the tokens.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{AdapterError, Finding, parse_id, parse_json, written};
use crate::record::measurement::{Samples, Throughput, TimedSamples};
use crate::record::metric::Metric;

/// The settings that tell rows apart: key, how the name shows it, and the default that it does not show.
const SETTINGS: [(&str, &str, &[&str]); 9] = [
    ("n_batch", "b", &["2048"]),
    ("n_ubatch", "ub", &["512"]),
    ("n_gpu_layers", "ngl", &["99", "-1", "0"]),
    ("flash_attn", "fa", &["0", "-1", "false"]),
    ("type_k", "k", &["f16"]),
    ("type_v", "v", &["f16"]),
    ("cpu_mask", "mask", &["0x0", ""]),
    ("split_mode", "sm", &["layer", "none"]),
    ("level", "", &[]),
];

#[derive(Deserialize)]
struct Row {
    model_type: String,
    #[serde(default)]
    backends: String,
    #[serde(default)]
    n_threads: u64,
    n_prompt: u64,
    n_gen: u64,
    #[serde(default)]
    n_depth: u64,
    #[serde(default)]
    samples_ns: Vec<u64>,
    /// Versions without the samples have their mean.
    avg_ns: Option<u64>,
}

/// Understands the text of the file `path`.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Finding>, AdapterError> {
    let rows: Vec<Json> = if text.trim_start().starts_with('[') {
        parse_json(text, path)?
    } else {
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| parse_json(line, path))
            .collect::<Result<_, _>>()?
    };
    rows.iter().map(|row| finding(row, path)).collect()
}

fn finding(json: &Json, path: &Path) -> Result<Finding, AdapterError> {
    let row: Row = from_value(json, path)?;
    let mut total_ns = row.samples_ns;
    if total_ns.is_empty() {
        total_ns.extend(row.avg_ns);
    }
    let timed = TimedSamples::new(vec![1; total_ns.len()], total_ns).map_err(|source| {
        AdapterError::Samples {
            path: path.to_owned(),
            source,
        }
    })?;
    let test = match (row.n_prompt, row.n_gen) {
        (prompt, 0) => format!("pp{prompt}"),
        (0, generated) => format!("tg{generated}"),
        (prompt, generated) => format!("pp{prompt}+tg{generated}"),
    };
    let mut name = format!(
        "llama-bench/{}/{}/{test}_t{}",
        row.model_type, row.backends, row.n_threads
    );
    if row.n_depth > 0 {
        name.push_str(&format!("_d{}", row.n_depth));
    }
    for (key, short, defaults) in SETTINGS {
        let said = match json.get(key) {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Null) | None => continue,
            Some(other) => other.to_string(),
        };
        if !defaults.contains(&said.as_str()) {
            name.push_str(&format!("_{short}{said}"));
        }
    }
    let elements = row.n_prompt.checked_add(row.n_gen);
    Ok(Finding {
        id: parse_id(name, path)?,
        figures: vec![(Metric::Time, Samples::Timed(timed))],
        throughput: Throughput {
            elements,
            ..Throughput::default()
        },
        written: written(path)?,
        path: path.to_owned(),
    })
}

fn from_value<T: DeserializeOwned>(json: &Json, path: &Path) -> Result<T, AdapterError> {
    T::deserialize(json).map_err(|source| AdapterError::Json {
        path: path.to_owned(),
        source,
    })
}
