//! Tables for GitHub's Markdown.

use super::{Sides, change, counts, drift, figure, printable, rows, spread};
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
        name(row),
        value(row.now),
        value(row.base),
        row.delta_pct.map_or_else(none, change),
        spread(row).map_or_else(none, |spread| format!("±{spread:.1}")),
        row.verdict,
        reason.map_or_else(String::new, |reason| format!(": {reason}")),
    )
}

/// Ids of the grammar have nothing that Markdown could mistake; all others are spelled out in entities.
fn name(row: &Row) -> String {
    if row.id.parts().is_some() {
        format!("`{}`", row.id)
    } else {
        format!("<code>{}</code>", escaped(&printable(row.id.as_str())))
    }
}

/// `text` with every character that means something to Markdown or HTML as an entity.
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
