//! What people and programs read. Pure: width, colours and labels are inputs, text is the output.
//!
//! Names of benches come from anywhere, so every writer makes them harmless for its medium.

pub mod bisection;
pub mod cluster;
pub mod experts;
pub mod export;
pub mod figures;
pub mod history;
pub mod json;
pub mod junit;
pub mod llama_bench;
pub mod markdown;
pub mod prompts;
pub mod pull_request;
pub mod roofline;
pub mod serving;
pub mod side_by_side;
pub mod sweep;
pub mod terminal;
pub mod trial;

use crate::judge::{Comparison, Drift, Row, Seen, Verdict};
use crate::record::{Metric, MetricKind, Record};

/// What a comparison compares, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// The new side.
    pub now: String,
    /// The baseline.
    pub base: String,
}

/// Says in one line where the figures of `records` come from: when, which commit, compiler and level.
pub fn origin(records: &[Record]) -> String {
    let runs = || records.iter().flat_map(Record::runs).map(|(_, run)| run);
    let (Some(first), Some(last)) = (
        runs().map(|run| run.measured_at).min(),
        runs().map(|run| run.measured_at).max(),
    ) else {
        return "nothing".to_owned();
    };
    let day = |time: jiff::Timestamp| time.strftime("%Y-%m-%d").to_string();
    let mut parts = vec![if day(first) == day(last) {
        day(last)
    } else {
        format!("{} to {}", day(first), day(last))
    }];
    parts.push(one_or_count(
        "commits",
        runs().map(|run| {
            let commit = run.commit.as_deref().unwrap_or("no commit");
            let short: String = commit.chars().take(10).collect();
            if run.dirty {
                format!("{short}+changes")
            } else {
                short
            }
        }),
    ));
    parts.push(one_or_count(
        "compilers",
        runs().map(|run| {
            run.rustc
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        }),
    ));
    if runs().any(|run| run.level.is_some()) {
        parts.push(one_or_count(
            "levels",
            runs().filter_map(|run| run.level.clone()),
        ));
    }
    parts.join(", ")
}

/// The one text, or how many there are.
fn one_or_count(of: &str, texts: impl Iterator<Item = String>) -> String {
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    texts.dedup();
    match &texts[..] {
        [one] => printable(one),
        many => format!("{} {of}", many.len()),
    }
}

/// How many of the [`rows`] have each verdict, the worst first; verdicts without a row are left out.
fn counts(comparison: &Comparison) -> Vec<(Verdict, usize)> {
    let count = |verdict| {
        rows(comparison)
            .filter(|row| row.verdict == verdict)
            .count()
    };
    Verdict::ALL
        .into_iter()
        .map(|verdict| (verdict, count(verdict)))
        .filter(|(_, rows)| *rows > 0)
        .collect()
}

/// What the machine did, as a sentence; `None` where no time was judged.
fn drift(comparison: &Comparison) -> Option<String> {
    let clocked =
        |row: &Row| row.metric.kind() == MetricKind::Clocked && row.verdict.is_judgement();
    if !comparison.rows.iter().any(clocked) {
        return None;
    }
    let moved = |seen: Seen, of: &str| {
        format!(
            "{} {of} moved by {:+.1} % ± {:.1} % together: that much is laid to the machine.",
            seen.benches, seen.median_pct, seen.scatter_pct
        )
    };
    Some(match comparison.drift {
        Drift::Controls(seen) => moved(seen, "controls"),
        Drift::AllBenches(seen) => moved(seen, "benches"),
        Drift::Nothing => {
            "Too few benches to see what the machine itself did between the two sides.".to_owned()
        }
    })
}

/// Rows that people need: descriptive metrics only where they moved.
fn rows(comparison: &Comparison) -> impl Iterator<Item = &Row> {
    comparison.rows.iter().filter(|row| {
        let quiet = matches!(row.verdict, Verdict::Unchanged | Verdict::New);
        row.metric.gates() || !quiet
    })
}

/// The spread of the samples in percent; exact counts have none.
fn spread(row: &Row) -> Option<f64> {
    let spread = row.now.or(row.base)?.spread_pct;
    (row.metric.kind() == MetricKind::Clocked && spread.is_finite()).then_some(spread)
}

/// A figure of a metric in four significant digits and a readable unit.
pub fn figure(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Time => scaled(value, &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")]),
        Metric::TokensPerSecond => format!("{} t/s", digits(value)),
        Metric::Bytes => scaled(
            value,
            &[
                (1.0, "B"),
                (1024.0, "KiB"),
                (1_048_576.0, "MiB"),
                (1_073_741_824.0, "GiB"),
            ],
        ),
        Metric::Instructions => count(value, "Ir"),
        Metric::EstimatedCycles => count(value, "cyc"),
        Metric::L1Hits => count(value, "L1"),
        Metric::LlHits => count(value, "LL"),
        Metric::RamHits => count(value, "RAM"),
    }
}

/// Small counts are exact, because single instructions are seen.
fn count(value: f64, unit: &str) -> String {
    if value < 1e5 {
        return format!("{value:.0} {unit}");
    }
    let [million, billion, trillion] = ["M", "G", "T"].map(|prefix| format!("{prefix}{unit}"));
    scaled(
        value,
        &[(1e6, &million), (1e9, &billion), (1e12, &trillion)],
    )
}

/// `value` in the largest of the units that leaves at least 1, or in the smallest.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // What rounds to 1000 of a unit is 1 of the next.
    let fits = |(size, _): &&(f64, &str)| value >= size * 0.999_95;
    let (size, unit) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    format!("{} {unit}", digits(value / size))
}

fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size < 9.9995 => 3,
        size if size < 99.995 => 2,
        size if size < 999.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// A change in percent, with as many decimals as matter.
pub(crate) fn change(percent: f64) -> String {
    let decimals = match percent.abs() {
        size if size < 9.995 => 2,
        size if size < 999.95 => 1,
        _ => 0,
    };
    format!("{percent:+.decimals$}")
}

/// [`printable`], and without the middle of what nobody reads to its end.
fn shown(text: &str) -> String {
    terminal::shortened(&printable(text), 160)
}

/// [`printable`], and safe inside an element of an SVG.
fn svg_text(text: &str) -> String {
    printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// `text` without what could move a cursor, break a line or turn the direction of reading.
pub(crate) fn printable(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
    };
    text.chars()
        .map(|c| if harmful(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
