//! Tables for GitHub's Markdown.

use super::{Sides, change, counts, drift, figure, rows, shown, spread};
use crate::judge::{Comparison, Row};

/// The table of a comparison with its verdicts; names cannot break out of it.
pub fn comparison(comparison: &Comparison, sides: &Sides) -> String {
    let said: Vec<String> = counts(comparison)
        .into_iter()
        .map(|(verdict, rows)| format!("{rows} {verdict}"))
        .collect();
    let mut text = format!("**{}**\n\n", said.join(", "));
    text.push_str(&format!(
        "- now: {}\n- baseline: {}\n",
        escaped(&sides.now),
        escaped(&sides.base)
    ));
    if let Some(drift) = drift(comparison) {
        text.push_str(&format!("- {drift}\n"));
    }
    if comparison.not_measured > 0 {
        text.push_str(&format!(
            "- not measured by this run: {} of the baseline's\n",
            comparison.not_measured
        ));
    }
    text.push_str("\n| bench | now | baseline | Δ % | may be | spread | verdict |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---|\n");
    for row in rows(comparison) {
        text.push_str(&line(row));
    }
    text
}

fn line(row: &Row) -> String {
    let none = || "–".to_owned();
    let value = |side: Option<crate::judge::Summary>| {
        side.map_or_else(none, |side| figure(row.metric, side.value))
    };
    let interval = row.interval_pct.map_or_else(none, |[low, high]| {
        format!("{} … {}", change(low), change(high))
    });
    let reason = row.reason.as_ref();
    format!(
        "| {} | {} | {} | {} | {interval} | {} | {}{} |\n",
        code(row.id.as_str()),
        value(row.now),
        value(row.base),
        row.delta_pct.map_or_else(none, change),
        spread(row).map_or_else(none, |spread| format!("±{spread:.1}")),
        row.verdict,
        reason.map_or_else(String::new, |reason| format!(": {reason}")),
    )
}

/// `text` in a code span, where nothing is markup, a link, a mention or a reference. What could leave the span, the cell
/// of a table or the line is replaced by what looks alike; long texts lose their middle.
pub(crate) fn code(text: &str) -> String {
    // Between backslash and bar, GitHub's tables and its code spans disagree on who escapes whom.
    let text = shown(text).replace('|', "\u{2223}");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let edge = |c: char| c == '`' || c == ' ';
    let pad = if text.starts_with(edge) || text.ends_with(edge) || text.is_empty() {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// `text` with every character that means something to Markdown or HTML as an entity; for texts that we make ourselves.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '/' | '.' | ',' | '-') {
            safe.push(c);
        } else {
            safe.push_str(&format!("&#{};", u32::from(c)));
        }
    }
    safe
}
