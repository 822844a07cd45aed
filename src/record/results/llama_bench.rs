//! Results of llama-bench and of `tokgate bench`: JSON, JSON lines, and the Markdown table.
//!
//! A test's name is `pp512` or the like. Columns that vary within a file are part of it (`pp512 fa=1`), so that two
//! files of the same tests meet, whatever else differs between them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Better, ResultFigure, Results, deviation, numbers};
use crate::record::llama_bench::test_name;

const KIND: &str = "llama-bench";

/// Columns that tell tests apart, in JSON's names.
const COLUMNS: [&str; 14] = [
    "model_type",
    "model_filename",
    "backends",
    "devices",
    "n_threads",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "split_mode",
    "flash_attn",
    "level",
    "pin",
];

/// One test.
struct Row {
    test: String,
    /// Everything else that may tell it apart from others, by column.
    settings: Vec<(String, String)>,
    rate: f64,
    deviation: Option<f64>,
}

/// An array of objects.
pub(super) fn json(value: &Value) -> Option<Results> {
    let rows = value.as_array()?.iter();
    results(
        rows.map(|row| object(row.as_object()?))
            .collect::<Option<_>>()?,
    )
}

/// An object a line.
pub(super) fn json_lines(text: &str) -> Option<Results> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let rows = lines.map(|line| {
        let row: Value = serde_json::from_str(line).ok()?;
        object(row.as_object()?)
    });
    results(rows.collect::<Option<_>>()?)
}

fn object(fields: &Map<String, Value>) -> Option<Row> {
    let count = |key: &str| fields.get(key)?.as_u64();
    let samples = numbers(fields.get("samples_ts"));
    let settings = COLUMNS.iter().filter_map(|column| {
        let value = fields.get(*column)?;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Some(((*column).to_owned(), text))
    });
    Some(Row {
        test: test_name(
            count("n_prompt")?,
            count("n_gen")?,
            count("n_depth").unwrap_or(0),
        ),
        settings: settings.collect(),
        rate: fields.get("avg_ts")?.as_f64()?,
        deviation: deviation(&samples)
            .or_else(|| fields.get("stddev_ts")?.as_f64())
            .filter(|deviation| *deviation > 0.0),
    })
}

/// All tables in a text, which may hold anything besides.
pub(super) fn markdown(text: &str) -> Option<Results> {
    let mut rows = Vec::new();
    let mut header: Option<Vec<&str>> = None;
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            header = None;
            continue;
        };
        match &header {
            None if cells.contains(&"test") && cells.contains(&"t/s") => header = Some(cells),
            Some(names) if names.len() == cells.len() => rows.extend(markdown_row(names, &cells)),
            _ => {}
        }
    }
    if rows.is_empty() {
        return None;
    }
    results(rows)
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The rule below the header is no row: its rate is no number.
fn markdown_row(names: &[&str], cells: &[&str]) -> Option<Row> {
    let cell = |name: &str| Some(cells[names.iter().position(|of| *of == name)?]);
    let rate = cell("t/s")?;
    let (rate, deviation) = match rate.split_once('±') {
        Some((rate, deviation)) => (rate, deviation.trim().parse().ok()),
        None => (rate, None),
    };
    // What follows from the model, and what was measured, tells nothing apart.
    let described = ["test", "t/s", "size", "params", "GB/s", "GMAC/s"];
    let settings = names.iter().zip(cells);
    let settings = settings.filter(|(name, _)| !described.contains(name));
    Some(Row {
        test: cell("test")?.to_owned(),
        settings: settings
            .map(|(name, cell)| ((*name).to_owned(), (*cell).to_owned()))
            .collect(),
        rate: rate.trim().parse().ok()?,
        deviation: deviation.filter(|deviation: &f64| *deviation > 0.0),
    })
}

fn results(rows: Vec<Row>) -> Option<Results> {
    if rows.is_empty() {
        return None;
    }
    // A column that only some tables have varies, too.
    let varies = |column: &str| {
        let value = |row: &'_ Row| {
            let setting = row.settings.iter().find(|(of, _)| of == column);
            setting.map(|(_, value)| value.clone())
        };
        rows.iter().map(value).collect::<BTreeSet<_>>().len() > 1
    };
    let varying: Vec<&str> = rows
        .iter()
        .flat_map(|row| &row.settings)
        .map(|(column, _)| column.as_str())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|column| varies(column))
        .collect();
    let mut results = Results::new(KIND);
    for row in &rows {
        let mut name = row.test.clone();
        let settings = row.settings.iter();
        for (column, value) in settings.filter(|(column, _)| varying.contains(&column.as_str())) {
            name.push_str(&format!(" {column}={value}"));
        }
        results.push(ResultFigure {
            deviation: row.deviation,
            ..ResultFigure::new(format!("{name} (tok/s)"), row.rate, Some(Better::Higher))
        });
    }
    Some(results)
}
