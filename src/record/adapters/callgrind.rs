//! iai-callgrind 0.16 and its successor gungraun: `**/summary.json` under `target/iai` or `target/gungraun`.
//!
//! Schema 6 (iai-callgrind 0.16, gungraun 0.17) and schema 7 (gungraun 0.20) are read, each pinned by files that the
//! harness wrote. The files are there only if the harness was asked for them: `IAI_CALLGRIND_SAVE_SUMMARY=json` or
//! `GUNGRAUN_SAVE_SUMMARY=json`.
//!
//! A bench is called what the harness prints, `file::group::function id`. Where the bench file is [`GRAMMAR_FILE`] and
//! the id reads `variant_shape` with a numbered shape, the name is that of the grammar instead:
//! `icount::matmul::q8_0 avx2_m1_k64_n32` is `matmul/q8_0/avx2/m1_k64_n32`, so that the counts of a bench stand beside
//! its times. Modules may stand between file and group.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::{AdapterError, Finding, distinct, files_named, parse_id, read_json, written};
use crate::record::id::BenchId;
use crate::record::measurement::{Samples, Throughput};
use crate::record::metric::Metric;

/// The bench file whose names follow the grammar.
pub const GRAMMAR_FILE: &str = "icount";

const MAX_SUMMARY_BYTES: u64 = 32 << 20;

/// The counts that are kept, as the harness calls them.
const EVENTS: [(&str, Metric); 5] = [
    ("Ir", Metric::Instructions),
    ("L1hits", Metric::L1Hits),
    ("LLhits", Metric::LlHits),
    ("RamHits", Metric::RamHits),
    ("EstimatedCycles", Metric::EstimatedCycles),
];

/// Reads the counts of every bench below `root`, sorted by id; empty if there are none. Summaries of other tools than
/// callgrind are left out.
///
/// # Errors
/// [`AdapterError`] that names the file which cannot be understood.
pub fn read(root: &Path) -> Result<Vec<Finding>, AdapterError> {
    let mut findings = Vec::new();
    for path in files_named(root, "summary.json")? {
        findings.extend(read_bench(&path)?);
    }
    distinct(findings)
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Summary<P> {
    module_path: String,
    id: Option<String>,
    profiles: Vec<P>,
}

/// A tool's profile in schema 6: `summaries.total.summary.Callgrind.Ir.metrics.{Left|Both}`, the new value first.
#[derive(Deserialize)]
struct Profile6 {
    summaries: Summaries6,
}

#[derive(Deserialize)]
struct Summaries6 {
    total: Total6,
}

#[derive(Deserialize)]
struct Total6 {
    summary: Json,
}

#[derive(Deserialize)]
struct Event6 {
    metrics: Sides6,
}

#[derive(Deserialize)]
enum Sides6 {
    Left(Value),
    Right(IgnoredAny),
    Both(Value, IgnoredAny),
}

/// A tool's profile in schema 7: `data.total.metrics.Ir.values.new`.
#[derive(Deserialize)]
struct Profile7 {
    tool: String,
    data: Data7,
}

#[derive(Deserialize)]
struct Data7 {
    total: Total7,
}

#[derive(Deserialize)]
struct Total7 {
    metrics: Json,
}

#[derive(Deserialize)]
struct Event7 {
    values: Sides7,
}

#[derive(Deserialize)]
struct Sides7 {
    new: Option<serde_json::Number>,
}

#[derive(Clone, Copy, Deserialize)]
enum Value {
    Int(u64),
    Float(f64),
}

fn read_bench(path: &Path) -> Result<Option<Finding>, AdapterError> {
    let json: Json = read_json(path, MAX_SUMMARY_BYTES)?;
    let wrong = |source| AdapterError::Json {
        path: path.to_owned(),
        source,
    };
    let Version { version } = Version::deserialize(&json).map_err(wrong)?;
    let (module_path, id, events) = match version.as_str() {
        "6" => {
            let summary = Summary::<Profile6>::deserialize(&json).map_err(wrong)?;
            let events = events_6(&summary.profiles).map_err(wrong)?;
            (summary.module_path, summary.id, events)
        }
        "7" => {
            let summary = Summary::<Profile7>::deserialize(&json).map_err(wrong)?;
            let events = events_7(&summary.profiles).map_err(wrong)?;
            (summary.module_path, summary.id, events)
        }
        _ => {
            return Err(AdapterError::Schema {
                path: path.to_owned(),
                found: version.chars().take(32).collect(),
                known: "6 and 7",
            });
        }
    };
    if events.is_empty() {
        return Ok(None);
    }
    let mut figures = Vec::new();
    for (event, metric) in EVENTS {
        match events.get(event) {
            Some(Value::Int(count)) => figures.push((metric, Samples::Counts(vec![*count]))),
            Some(Value::Float(number)) => {
                return Err(AdapterError::Value {
                    path: path.to_owned(),
                    key: event,
                    what: format!("{number} is not a count"),
                });
            }
            None => {}
        }
    }
    Ok(Some(Finding {
        id: name(&module_path, id.as_deref(), path)?,
        figures,
        throughput: Throughput::default(),
        written: written(path)?,
        path: path.to_owned(),
    }))
}

fn events_6(profiles: &[Profile6]) -> Result<HashMap<String, Value>, serde_json::Error> {
    let callgrind = profiles
        .iter()
        .find_map(|profile| profile.summaries.total.summary.get("Callgrind"));
    let Some(callgrind) = callgrind else {
        return Ok(HashMap::new());
    };
    let events = HashMap::<String, Event6>::deserialize(callgrind)?;
    let new = |(event, sides): (String, Event6)| match sides.metrics {
        Sides6::Left(value) | Sides6::Both(value, _) => Some((event, value)),
        Sides6::Right(_) => None,
    };
    Ok(events.into_iter().filter_map(new).collect())
}

fn events_7(profiles: &[Profile7]) -> Result<HashMap<String, Value>, serde_json::Error> {
    let callgrind = profiles
        .iter()
        .find(|profile| profile.tool.eq_ignore_ascii_case("callgrind"));
    let Some(callgrind) = callgrind else {
        return Ok(HashMap::new());
    };
    let events = HashMap::<String, Event7>::deserialize(&callgrind.data.total.metrics)?;
    let new = |(event, sides): (String, Event7)| {
        let number = sides.values.new?;
        let value = match number.as_u64() {
            Some(count) => Value::Int(count),
            None => Value::Float(number.as_f64()?),
        };
        Some((event, value))
    };
    Ok(events.into_iter().filter_map(new).collect())
}

fn name(module_path: &str, id: Option<&str>, path: &Path) -> Result<BenchId, AdapterError> {
    if let Some(ours) = id.and_then(|id| grammar_name(module_path, id)) {
        return Ok(ours);
    }
    let text = match id {
        Some(id) => format!("{module_path} {id}"),
        None => module_path.to_owned(),
    };
    parse_id(text, path)
}

fn grammar_name(module_path: &str, id: &str) -> Option<BenchId> {
    let mut parts = module_path.rsplit("::");
    let (dtype, op, file) = (parts.next()?, parts.next()?, parts.last()?);
    let (variant, shape) = id.split_once('_')?;
    let ours = BenchId::new(op, dtype, variant, shape).ok()?;
    let fields = shape.split('_').count();
    let numbered = ours.parts()?.dimensions().count() == fields;
    (file == GRAMMAR_FILE && numbered).then_some(ours)
}
