//! Measurements in the formats of other tools. A value is the statistic that the gate compares; its bounds are the
//! quartiles of the samples.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::judge::trend::Point;
use crate::judge::{Gate, Statistic, gate::Limits};
use crate::record::{Measurement, Metric, Record};

/// Bencher Metric Format: `{bench: {measure: {value, lower_value, upper_value}}}`. Measures are called as Bencher's own
/// adapters call them: `latency` in ns, `throughput` in tokens a second, `instructions`.
pub fn bmf(records: &[Record], gate: &Gate) -> String {
    #[derive(Serialize)]
    struct Value {
        value: f64,
        lower_value: f64,
        upper_value: f64,
    }
    let mut benches: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
    for (_, measurement) in measurements(records) {
        let point = point(measurement, gate);
        let value = Value {
            value: point.value,
            lower_value: point.low.min(point.value),
            upper_value: point.high.max(point.value),
        };
        benches
            .entry(measurement.id().as_str())
            .or_default()
            .insert(measure(measurement.metric()), value);
    }
    json(&benches)
}

/// The list of github-action-benchmark's `customSmallerIsBetter`: `[{name, unit, value, range, extra}]`. A rate, of which
/// more is better, becomes the time of one token.
pub fn github_action_benchmark(records: &[Record], gate: &Gate) -> String {
    #[derive(Serialize)]
    struct Entry {
        name: String,
        unit: &'static str,
        value: f64,
        range: String,
        extra: String,
    }
    let entry = |(record, measurement): (&Record, &Measurement)| {
        let metric = measurement.metric();
        let id = measurement.id();
        let is_rate = metric == Metric::TokensPerSecond;
        let mut point = point(measurement, gate);
        if is_rate {
            point = Point {
                value: 1e9 / point.value,
                low: 1e9 / point.high,
                high: 1e9 / point.low,
            };
        }
        let commit = record
            .provenance(measurement)
            .and_then(|run| run.commit.as_deref());
        Entry {
            name: match metric {
                Metric::Time => id.to_string(),
                Metric::TokensPerSecond => format!("{id} (token)"),
                _ => format!("{id} ({metric})"),
            },
            unit: if is_rate { "ns/token" } else { metric.unit() },
            value: point.value,
            range: format!("± {}", (point.high - point.low) / 2.0),
            extra: format!(
                "{} samples\n{}\ncommit {}",
                measurement.figures().len(),
                record.key(),
                commit.unwrap_or("unknown")
            ),
        }
    };
    let entries: Vec<Entry> = measurements(records).map(entry).collect();
    json(&entries)
}

/// One line a bench and metric, with a header; texts are quoted.
pub fn csv(records: &[Record], gate: &Gate) -> String {
    let mut text = "bench,metric,unit,value,low,high,samples,elements,bytes,machine_key,commit,dirty,measured_at\n".to_owned();
    for (record, measurement) in measurements(records) {
        let point = point(measurement, gate);
        let work = |work: Option<u64>| work.map(|work| work.to_string()).unwrap_or_default();
        let run = record.provenance(measurement);
        let commit = run.and_then(|run| run.commit.as_deref());
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{},{}",
            quoted(measurement.id().as_str()),
            measurement.metric(),
            measurement.metric().unit(),
            point.value,
            point.low,
            point.high,
            measurement.figures().len(),
            work(measurement.throughput().elements),
            work(measurement.throughput().bytes),
            record.key(),
            quoted(commit.unwrap_or_default()),
            run.is_none_or(|run| run.dirty),
            run.map(|run| run.measured_at.to_string())
                .unwrap_or_default(),
        );
    }
    text
}

fn measurements(records: &[Record]) -> impl Iterator<Item = (&Record, &Measurement)> {
    let each = |record| Record::measurements(record).map(move |measurement| (record, measurement));
    records.iter().flat_map(each)
}

fn point(measurement: &Measurement, gate: &Gate) -> Point {
    let statistic = match gate.limits(measurement.id(), measurement.metric()) {
        Limits::Clocked(limits) => limits.statistic,
        Limits::Counted(_) => Statistic::Median,
    };
    Point::of(measurement, statistic)
}

const fn measure(metric: Metric) -> &'static str {
    match metric {
        Metric::Time => "latency",
        Metric::TokensPerSecond => "throughput",
        Metric::Instructions => "instructions",
        Metric::L1Hits => "l1-hits",
        Metric::LlHits => "ll-hits",
        Metric::RamHits => "ram-hits",
        Metric::EstimatedCycles => "estimated-cycles",
        Metric::Bytes => "bytes",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("numbers, texts and lists of them");
    text.push('\n');
    text
}
