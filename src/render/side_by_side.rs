//! Result files side by side: for the terminal in 80 columns, as Markdown, as JSON.

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::markdown::escaped;
use super::printable;
use super::terminal::{Style, push_wrapped, shortened};
use crate::judge::side_by_side::{Cell, Effect, Row, SideBySide};

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// Columns of text where nothing says how wide the terminal is.
const WIDTH: usize = 80;

/// The narrowest that names of metrics and of files get.
const MIN_NAME: usize = 12;

/// What files are called where their names take too much room.
const LETTERS: [&str; 3] = ["a", "b", "c"];

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kind: &'static str,
    #[serde(flatten)]
    sides: &'a SideBySide,
}

/// The project's own JSON.
pub fn json(sides: &SideBySide) -> String {
    let document = Document {
        schema: SCHEMA,
        kind: "comparison_of_results",
        sides,
    };
    serde_json::to_string_pretty(&document).expect("numbers, texts and lists of them") + "\n"
}

/// A table for the terminal, with what its marks mean.
pub fn text(sides: &SideBySide, style: Style) -> String {
    let width = style.width.unwrap_or(WIDTH).max(WIDTH);
    let lines: Vec<(String, Vec<String>)> = sides
        .rows
        .iter()
        .map(|row| (printable(&row.metric), cells(row)))
        .collect();
    let columns = sides.columns.len() * 2 - 1;
    let widest = |column: usize| {
        let cells = lines.iter().map(|(_, cells)| cells[column].width());
        cells.max().unwrap_or(0).max(column % 2 * 3 + 1)
    };
    // Figures and differences take turns, from the second file on; a header may be cut to its figures' width.
    let mut widths: Vec<usize> = (0..columns).map(widest).collect();
    let longest = lines.iter().map(|(name, _)| name.width()).max();
    let longest = longest.unwrap_or(0).max(MIN_NAME);
    let figures: usize = widths.iter().map(|width| width + 2).sum();
    let mut spare = width.saturating_sub(figures + longest);
    let mut headers = headers(sides);
    let missing = |widths: &[usize], headers: &[String]| -> usize {
        let columns = widths.iter().zip(headers);
        columns
            .map(|(width, header)| header.width().saturating_sub(*width))
            .sum()
    };
    if missing(&widths, &headers) > spare {
        for (at, letter) in LETTERS.iter().take(sides.columns.len()).enumerate() {
            headers[(at * 2).saturating_sub(1)] = (*letter).to_owned();
        }
    }
    for (width, header) in widths.iter_mut().zip(&headers) {
        let wanted = header.width().saturating_sub(*width).min(spare);
        *width += wanted;
        spare -= wanted;
    }
    let figures: usize = widths.iter().map(|width| width + 2).sum();
    let name_width = longest.min(width.saturating_sub(figures).max(MIN_NAME));

    let mut text = String::new();
    for (column, letter) in sides.columns.iter().zip(LETTERS) {
        let line = format!("{letter}: {} ({})", column.label, column.kind);
        push_wrapped(
            &mut text,
            "",
            &line,
            Style {
                width: Some(width),
                ..style
            },
        );
    }
    text.push('\n');
    let header = ("metric".to_owned(), headers);
    for (at, (name, cells)) in [&header].into_iter().chain(&lines).enumerate() {
        let name = shortened(name, name_width);
        let mut line = format!("{name}{}", " ".repeat(name_width - name.width()));
        for (cell, width) in cells.iter().zip(&widths) {
            let cell = shortened(cell, *width);
            line.push_str(&" ".repeat(2 + width - cell.width()));
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if at == 0 {
            text.push_str(&"-".repeat(name_width + figures));
            text.push('\n');
        }
    }
    let more = if sides.columns.len() > 2 {
        ", c likewise"
    } else {
        ""
    };
    text.push_str(&format!(
        "\n% diff: (b / a - 1) * 100 of the unrounded figures{more}.\n"
    ));
    let has = |effect| {
        sides
            .rows
            .iter()
            .flat_map(|row| row.cells.iter().flatten())
            .any(|cell| cell.effect == effect)
    };
    if has(Effect::Better) || has(Effect::Worse) {
        text.push_str("+ better, ! worse; no mark: a description, or the same figure.\n");
    }
    if has(Effect::WithinSpread) {
        text.push_str(
            "~ within the spread of the repetitions, sqrt(a^2 + b^2) of the deviations (±).\n",
        );
    }
    text
}

/// The columns behind the name: a figure, then a figure and its difference for each further file.
fn headers(sides: &SideBySide) -> Vec<String> {
    let mut headers = Vec::new();
    for (at, column) in sides.columns.iter().enumerate() {
        headers.push(printable(&column.label));
        if at > 0 {
            headers.push("% diff".to_owned());
        }
    }
    headers
}

fn cells(row: &Row) -> Vec<String> {
    let mut cells = figures(row);
    for (at, cell) in row.cells.iter().enumerate().skip(1).rev() {
        cells.insert(at + 1, cell.as_ref().map_or_else(String::new, difference));
    }
    cells
}

/// All figures of a row, whole numbers only if all of them are.
fn figures(row: &Row) -> Vec<String> {
    let present = row.cells.iter().flatten();
    let whole = present
        .clone()
        .all(|cell| is_whole(cell.value) && cell.deviation.is_none());
    let none = || "–".to_owned();
    let cells = row.cells.iter().map(|cell| cell.as_ref());
    cells
        .map(|cell| cell.map_or_else(none, |cell| figure(cell, whole)))
        .collect()
}
fn figure(cell: &Cell, whole: bool) -> String {
    let value = number(cell.value, whole);
    match cell.deviation {
        Some(deviation) => format!("{value} ±{}", number(deviation, false)),
        None => value,
    }
}

fn is_whole(value: f64) -> bool {
    value.fract() == 0.0 && value.abs() < 1e15
}

/// Two decimals, and more where they would all be zeros.
fn number(value: f64, whole: bool) -> String {
    let size = value.abs();
    if whole || value == 0.0 {
        format!("{value:.0}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else if size >= 1e-4 {
        format!("{value:.4}")
    } else {
        format!("{value:.2e}")
    }
}

fn difference(cell: &Cell) -> String {
    let mark = match cell.effect {
        Effect::None => ' ',
        Effect::Better => '+',
        Effect::Worse => '!',
        Effect::WithinSpread => '~',
    };
    cell.difference_pct
        .map_or_else(String::new, |percent| format!("{percent:+.1} {mark}"))
}

/// The table as people paste it: metric, figures, and the difference in percent.
pub fn markdown(sides: &SideBySide) -> String {
    let (mut names, mut rule) = ("| Metric |".to_owned(), "|:--|".to_owned());
    for (at, column) in sides.columns.iter().enumerate() {
        names.push_str(&format!(" {} |", plain(&column.label)));
        rule.push_str("--:|");
        if at > 0 {
            names.push_str(" % Difference |");
            rule.push_str("--:|");
        }
    }
    let mut text = format!("{names}\n{rule}\n");
    for row in &sides.rows {
        text.push_str(&format!("| {} |", plain(&row.metric)));
        for (at, (cell, figure)) in row.cells.iter().zip(figures(row)).enumerate() {
            text.push_str(&format!(" {figure} |"));
            if at > 0 {
                let percent = cell.and_then(|cell| cell.difference_pct);
                let effect = match cell.map(|cell| cell.effect) {
                    Some(Effect::Better) => " better",
                    Some(Effect::Worse) => " worse",
                    Some(Effect::WithinSpread) => " within spread",
                    Some(Effect::None) | None => "",
                };
                let percent = percent.map_or_else(String::new, |p| format!("{p:+.1}{effect}"));
                text.push_str(&format!(" {percent} |"));
            }
        }
        text.push('\n');
    }
    text
}

/// A name that cannot break out of a table, and that can still be read where Markdown is not rendered.
fn plain(name: &str) -> String {
    let mut text = escaped(&printable(name));
    for harmless in ['(', ')', '%', '+', '=', '_'] {
        let entity = format!("&#{};", u32::from(harmless));
        text = text.replace(&entity, harmless.encode_utf8(&mut [0; 4]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::side_by_side::side_by_side;
    use crate::record::results::Results;

    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("../tests/fixtures/serving/", $name))
        };
    }

    fn sides(files: &[(&str, &str)]) -> SideBySide {
        let files: Vec<(String, Results)> = files
            .iter()
            .map(|(label, text)| ((*label).to_owned(), Results::read(text).unwrap().unwrap()))
            .collect();
        side_by_side(&files)
    }

    /// Rows of a published table: metric, both figures, and the difference in percent.
    fn published(table: &str) -> Vec<(&str, [f64; 3])> {
        let rows = table.lines().skip(2).map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0], [1, 2, 3].map(|at| cells[at].parse().unwrap()))
        });
        rows.collect()
    }

    /// The published tables again, to their last digit, but for what their rounding got wrong. Each exception is a row,
    /// the published percentage, and what the unrounded figures make it.
    #[test]
    fn published_tables_are_reproduced_but_for_their_rounding() {
        let (w7900, w7900_draft) = (fixture!("w7900.txt"), fixture!("w7900-draft.txt"));
        let (rtx, rtx_draft) = (fixture!("rtx3090-fa.txt"), fixture!("rtx3090-draft.txt"));
        let requests = "Request throughput (req/s)";
        let memory = "Memory Usage (GiB)";
        let tables = [
            (
                w7900,
                w7900_draft,
                fixture!("w7900-published.md"),
                // 0.05 and 0.07 requests a second are 0.0461 and 0.0737; 20.57 and 22.12 GiB are 20.567 and 22.123.
                vec![(memory, 7.5, 7.6), (requests, 40.0, 60.0)],
            ),
            (
                rtx,
                rtx_draft,
                fixture!("rtx3090-published.md"),
                // 35.5554 and 55.0941 tokens a second are 54.95 % apart.
                vec![
                    (requests, 50.0, 57.1),
                    ("Output token throughput (tok/s)", 54.9, 55.0),
                ],
            ),
            (
                w7900_draft,
                rtx_draft,
                fixture!("w7900-rtx3090-published.md"),
                vec![(requests, 71.4, 61.6)],
            ),
        ];
        for (one, other, table, exceptions) in tables {
            let sides = sides(&[("a", one), ("b", other)]);
            let published = published(table);
            assert_eq!(published.len(), sides.rows.len());
            let mut found = Vec::new();
            for ((metric, [a, b, percent]), row) in published.into_iter().zip(&sides.rows) {
                assert!(
                    metric.eq_ignore_ascii_case(&row.metric),
                    "{metric} {}",
                    row.metric
                );
                let [first, second] = [row.cells[0].unwrap(), row.cells[1].unwrap()];
                // The second table has 20.20 GiB for what was noted as 20.119.
                if (metric, a) != (memory, 20.20) {
                    assert!(
                        (first.value - a).abs() <= 0.005_1,
                        "{metric}: {}",
                        first.value
                    );
                }
                assert!(
                    (second.value - b).abs() <= 0.005_1,
                    "{metric}: {}",
                    second.value
                );
                let ours = second.difference_pct.unwrap();
                let ours = (ours * 10.0).round() / 10.0;
                if (ours - percent).abs() > 0.01 {
                    found.push((row.metric.as_str(), percent, ours));
                }
            }
            assert_eq!(found, exceptions);
        }
    }

    #[test]
    fn two_and_three_columns_fit_a_terminal() {
        let style = Style {
            width: Some(80),
            colour: false,
        };
        let two = [
            ("W7900", fixture!("w7900.txt")),
            ("W7900 + draft", fixture!("w7900-draft.txt")),
        ];
        let three = [
            two[0],
            two[1],
            ("RTX 3090 + draft", fixture!("rtx3090-draft.txt")),
        ];
        for files in [&two[..], &three] {
            let text = text(&sides(files), style);
            assert!(text.lines().all(|line| line.width() <= 80), "{text}");
            insta::with_settings!({ snapshot_suffix => files.len().to_string() }, {
                insta::assert_snapshot!(text);
            });
        }
        insta::assert_snapshot!(markdown(&sides(&two)));
        let json: serde_json::Value = serde_json::from_str(&json(&sides(&three))).unwrap();
        assert_eq!(json["rows"][5]["metric"], "Request throughput (req/s)");
    }

    #[test]
    fn a_difference_within_the_spread_is_marked_as_one() {
        let (one, other) = (
            fixture!("llama-bench-w7900.md"),
            fixture!("llama-bench-rtx3090.md"),
        );
        let sides = sides(&[("a", one), ("b", other)]);
        assert_eq!(sides.rows.len(), 4, "two have no partner");
        assert_eq!(sides.rows[0].cells[1].unwrap().effect, Effect::Better);
        assert!(sides.rows[2].cells[0].is_none());
        let near = one.replace("663.44 ± 1.50", "665.00 ± 1.00");
        let sides = side_by_side(
            &[("a", one), ("b", &near)]
                .map(|(label, text)| (label.to_owned(), Results::read(text).unwrap().unwrap())),
        );
        let cell = sides.rows[0].cells[1].unwrap();
        // The difference is 1.56, the deviations together 1.80.
        assert_eq!(cell.effect, Effect::WithinSpread);
        assert_eq!(sides.rows[1].cells[1].unwrap().difference_pct, Some(0.0));
    }
}
