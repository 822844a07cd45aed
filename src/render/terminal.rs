//! Tables for a terminal: one line a bench, the worst first, within a given width.

use unicode_width::UnicodeWidthStr;

use super::{Sides, change, counts, drift, figure, printable, rows, spread};
use crate::judge::{Comparison, Reason, Row, Verdict};

/// How a terminal wants its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Columns to fit into; no limit for what is not a terminal.
    pub width: Option<usize>,
    /// Whether to colour.
    pub colour: bool,
}

/// The narrowest column of names, however narrow the terminal is.
const MIN_NAME_WIDTH: usize = 12;

/// Notes on single benches that are written out; the rest is counted.
const MAX_NOTES: usize = 10;

/// The table of a comparison: mark, bench, now, baseline, change and spread; below it what the marks mean.
///
/// `title` says what is compared; see [`Sides`].
pub fn comparison(comparison: &Comparison, sides: &Sides, style: Style) -> String {
    let mut text = String::new();
    push_wrapped(&mut text, "now:      ", &sides.now, style);
    push_wrapped(&mut text, "baseline: ", &sides.base, style);
    text.push_str(&table(comparison, style));
    if let Some(drift) = drift(comparison) {
        push_wrapped(&mut text, "", &drift, style);
    }
    text
}

/// The table alone, with what its marks mean.
pub fn table(comparison: &Comparison, style: Style) -> String {
    let rows: Vec<_> = rows(comparison)
        .map(|row| (row.verdict, cells(row)))
        .collect();
    let mut text = aligned(["bench", "now", "baseline", "Δ %", "spread"], &rows, style);
    text.push_str(&legend(comparison));
    text
}

/// Lines of a verdict's mark, a name that gives way where the terminal is narrow, and figures.
pub(super) fn aligned<const N: usize>(
    title: [&str; N],
    rows: &[(Verdict, [String; N])],
    style: Style,
) -> String {
    let mut lines = vec![(None, title.map(str::to_owned))];
    lines.extend(
        rows.iter()
            .map(|(verdict, cells)| (Some(*verdict), cells.clone())),
    );

    let widest = |column: usize| lines.iter().map(|(_, cells)| cells[column].width()).max();
    let widths: Vec<usize> = (0..N).map(|column| widest(column).unwrap_or(0)).collect();
    // A mark and a space before the name, two spaces before each figure.
    let figures: usize = widths[1..].iter().map(|width| width + 2).sum();
    let room = style.width.map_or(usize::MAX, |width| {
        width.saturating_sub(2 + figures).max(MIN_NAME_WIDTH)
    });
    let name_width = widths[0].min(room);

    let mut text = String::new();
    for (verdict, cells) in &lines {
        let name = shortened(&cells[0], name_width);
        let padding = " ".repeat(name_width - name.width());
        let mut line = format!("{} {name}{padding}", verdict.map_or(' ', mark));
        for (cell, width) in cells[1..].iter().zip(&widths[1..]) {
            line.push_str(&" ".repeat(2 + width - cell.width()));
            line.push_str(cell);
        }
        push_coloured(&mut text, line.trim_end(), verdict.and_then(colour), style);
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 5] {
    let none = || "–".to_owned();
    let value = |side: Option<crate::judge::Summary>| {
        side.map_or_else(none, |side| figure(row.metric, side.value))
    };
    [
        printable(row.id.as_str()),
        value(row.now),
        value(row.base),
        row.delta_pct.map_or_else(none, change),
        spread(row).map_or_else(none, |spread| format!("±{spread:.1}")),
    ]
}

/// What the marks mean, how many rows have each, and what has to be said of single benches.
fn legend(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (verdict, rows) in counts(comparison) {
        let mut reasons: Vec<String> = comparison
            .rows
            .iter()
            .filter(|row| row.verdict == verdict)
            .filter_map(|row| row.reason.as_ref())
            .filter(|reason| is_common(reason))
            .map(Reason::to_string)
            .collect();
        reasons.sort();
        reasons.dedup();
        let why = match &reasons[..] {
            [] => String::new(),
            [one] => format!(": {one}"),
            [one, ..] => format!(": {one}, …"),
        };
        text.push_str(&format!("{} {rows} {verdict}{why}\n", mark(verdict)));
    }
    if comparison.not_measured > 0 {
        text.push_str(&format!(
            "  not measured by this run: {} of the baseline's\n",
            comparison.not_measured
        ));
    }
    let notes = comparison
        .rows
        .iter()
        .filter_map(|row| Some((row, row.reason.as_ref()?)))
        .filter(|(_, reason)| !is_common(reason));
    let mut left = 0;
    for (at, (row, reason)) in notes.enumerate() {
        if at < MAX_NOTES {
            text.push_str(&format!("  {}: {reason}\n", printable(row.id.as_str())));
        } else {
            left += 1;
        }
    }
    if left > 0 {
        text.push_str(&format!("  … and {left} more such notes\n"));
    }
    text
}

/// Whether a reason is said once for all rows that have it.
fn is_common(reason: &Reason) -> bool {
    match reason {
        Reason::OtherMachine { .. }
        | Reason::FewSamples { .. }
        | Reason::WithinNoise
        | Reason::CountsDiffer
        | Reason::Control
        | Reason::SameCode
        | Reason::ByChance { .. }
        | Reason::FewBlocks { .. } => true,
        Reason::Median { .. }
        | Reason::Tail { .. }
        | Reason::Implausible { .. }
        | Reason::TradeOff
        | Reason::Layout { .. }
        | Reason::Instructions { .. }
        | Reason::Accepted { .. }
        | Reason::Broken { .. } => false,
    }
}

/// The sign of a verdict.
pub(super) const fn mark(verdict: Verdict) -> char {
    match verdict {
        Verdict::Failed => '!',
        Verdict::Regressed => '▲',
        Verdict::Inconclusive => '?',
        Verdict::NotMeasurable => '≠',
        Verdict::Missing => '-',
        Verdict::New => '+',
        Verdict::Unchanged => '=',
        Verdict::Improved => '▼',
    }
}

/// The escape code of a verdict's colour; most rows have none, so that those which matter stand out.
const fn colour(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Failed | Verdict::Regressed => Some("\u{1b}[31m"),
        Verdict::Inconclusive | Verdict::Missing => Some("\u{1b}[33m"),
        Verdict::Improved => Some("\u{1b}[32m"),
        Verdict::NotMeasurable | Verdict::New | Verdict::Unchanged => None,
    }
}

fn push_coloured(text: &mut String, line: &str, colour: Option<&str>, style: Style) {
    match colour.filter(|_| style.colour) {
        Some(colour) => text.push_str(&format!("{colour}{line}\u{1b}[0m")),
        None => text.push_str(line),
    }
}

/// A paragraph behind `label`, broken between words where the terminal ends.
pub(crate) fn push_wrapped(text: &mut String, label: &str, paragraph: &str, style: Style) {
    let width = style.width.unwrap_or(usize::MAX);
    text.push_str(label);
    let mut used = label.width();
    for (at, word) in printable(paragraph).split(' ').enumerate() {
        if at > 0 && used + 1 + word.width() > width {
            text.push('\n');
            text.push_str(&" ".repeat(label.width()));
            used = label.width();
        } else if at > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += word.width();
    }
    text.push('\n');
}

/// `name` in at most `width` columns, with its middle left out if need be: both the operation and the shape are needed
/// to tell benches apart.
pub(super) fn shortened(name: &str, width: usize) -> String {
    if name.width() <= width {
        return name.to_owned();
    }
    let kept = width.saturating_sub(1);
    // Widths of whole pieces: some characters make the one before them wider.
    let ends = name.char_indices().map(|(at, c)| at + c.len_utf8());
    let head = ends.take_while(|end| name[..*end].width() <= kept / 2);
    let starts = name.char_indices().rev().map(|(at, _)| at);
    let tail = starts.take_while(|start| name[*start..].width() <= kept.div_ceil(2));
    let (head, tail) = (head.last().unwrap_or(0), tail.last().unwrap_or(name.len()));
    format!("{}…{}", &name[..head], &name[tail..])
}
