//! Figures as text: name, value, unit, and how it is computed, in 80 columns.

use std::fmt::Write;

use super::{digits, printable};
use crate::record::Figure;

/// Columns of the text.
const WIDTH: usize = 80;

/// One line a figure. A blank line stands before each of `starts`, the keys that begin a group.
pub fn lines(figures: &[Figure], starts: &[&str]) -> String {
    let mut text = String::new();
    for (at, figure) in figures.iter().enumerate() {
        if at > 0 && starts.contains(&figure.key.as_str()) {
            text.push('\n');
        }
        let line = format!(
            "  {:19}{:>10} {:6} {}",
            printable(&figure.key),
            value(figure),
            figure.unit,
            figure.formula
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Four significant digits, or a whole number as it is.
pub fn value(figure: &Figure) -> String {
    let value = figure.value;
    if value.fract() == 0.0 && value.abs() < 1e12 && figure.better.is_none() {
        format!("{value:.0}")
    } else if value != 0.0 && value.abs() < 0.000_95 {
        format!("{value:.1e}")
    } else {
        digits(value)
    }
}

/// Words on lines of at most 80 columns, those after the first indented below the first word behind `mark`.
pub fn wrapped(mark: &str, text: &str) -> String {
    let indent = mark.chars().count();
    let mut out = mark.to_owned();
    let mut column = indent;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column > indent && column + 1 + len > WIDTH {
            let _ = write!(out, "\n{:indent$}", "");
            column = indent;
        }
        if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Better;

    #[test]
    fn a_figure_is_a_line_of_80_columns_and_doubts_are_wrapped() {
        let figure = |key: &str, value, better| Figure {
            key: key.to_owned(),
            value,
            unit: "tok/s".to_owned(),
            better,
            samples: Vec::new(),
            formula: "(n − 1) / decode, n tokens sampled".to_owned(),
        };
        let figures = [
            figure("threads", 2.0, None),
            figure("decode_rate", 38.712_34, Some(Better::Higher)),
            figure("tiny", 0.000_012, Some(Better::Lower)),
        ];
        let text = lines(&figures, &["decode_rate"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].contains(" 2 tok/s") && lines[1].is_empty());
        assert!(lines[2].contains(" 38.71 ") && lines[3].contains(" 1.2e-5 "));
        let text = wrapped("  ! ", &"word ".repeat(40));
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.len() <= 80));
        assert!(text.lines().skip(1).all(|line| line.starts_with("    w")));
    }
}
