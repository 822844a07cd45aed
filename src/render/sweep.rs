//! A sweep over thread counts: a table, and a plot.

use std::fmt::Write;

use crate::metrics::sweep::{Rate, Recommended, Row};

/// A table of 80 columns; a star marks what is recommended.
pub fn table(rows: &[Row], recommended: Recommended, cpus: usize) -> String {
    let mut text = format!(
        "{:>7}  {:>12} {:>7} {:>8}    {:>12} {:>7} {:>8}\n{:>7}  {:>12} {:>7} {:>8}    {:>12} {:>7} {:>8}\n",
        "",
        "prefill",
        "±",
        "",
        "decode",
        "±",
        "",
        "threads",
        "tok/s",
        "%",
        "× one",
        "tok/s",
        "%",
        "× one"
    );
    let first = rows.first();
    for row in rows {
        let star = |count| if count == row.threads { '*' } else { ' ' };
        let gain = |rate: &Rate, one: fn(&Row) -> &Rate| {
            let one = first
                .filter(|row| row.threads == 1)
                .map(|row| one(row).median);
            one.filter(|one| *one > 0.0)
                .map_or_else(String::new, |one| format!("{:.2}", rate.median / one))
        };
        let _ = writeln!(
            text,
            "{:>7}  {:>12.2} {:>7.1} {:>8} {}  {:>12.2} {:>7.1} {:>8} {}{}",
            row.threads,
            row.prefill.median,
            row.prefill.spread_pct,
            gain(&row.prefill, |row| &row.prefill),
            star(recommended.prefill),
            row.decode.median,
            row.decode.spread_pct,
            gain(&row.decode, |row| &row.decode),
            star(recommended.decode),
            if row.oversubscribed { "  over" } else { "" },
        );
    }
    let _ = writeln!(
        text,
        "\n* recommended: -t {} for prompts, -t {} for generation",
        recommended.prefill, recommended.decode
    );
    if rows.iter().any(|row| row.oversubscribed) {
        let _ = writeln!(text, "over: more threads than the {cpus} CPUs");
    }
    text
}

const WIDTH: f64 = 760.0;
const PANEL: f64 = 300.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 70.0;
const HEIGHT: f64 = 260.0;
const INK: &str = "#1f4e8c";
const MARK: &str = "#c2410c";

type RateOf = fn(&Row) -> &Rate;

/// An SVG of two panels, prefill and decode, from zero up; whiskers from the slowest repetition to the fastest.
pub fn plot(title: &str, rows: &[Row], recommended: Recommended) -> String {
    let whole = TOP + HEIGHT + 64.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{whole}\" viewBox=\"0 0 {WIDTH} {whole}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{whole}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        super::svg_text(title)
    );
    let panels: [(&str, RateOf, usize); 2] = [
        ("prefill, tok/s", |row| &row.prefill, recommended.prefill),
        ("decode, tok/s", |row| &row.decode, recommended.decode),
    ];
    for (at, (name, rate, best)) in panels.into_iter().enumerate() {
        let left = LEFT + at as f64 * (PANEL + LEFT + 10.0);
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\">{name}</text>", TOP - 12.0);
        panel(&mut svg, rows, rate, best, left);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#444444\">threads; orange: recommended; grey: more threads than CPUs</text>",
        whole - 14.0
    );
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, rows: &[Row], rate: RateOf, best: usize, left: f64) {
    let most = rows.iter().map(|row| rate(row).max).fold(0.0, f64::max);
    let step = nice_step(most / 4.0);
    let top = step * (most / step).ceil().max(1.0);
    let x = |at: usize| left + PANEL * (at as f64 + 0.5) / rows.len().max(1) as f64;
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / top);
    if let Some(at) = rows.iter().position(|row| row.oversubscribed) {
        let from = left + PANEL * at as f64 / rows.len() as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#eeeeee\"/>",
            left + PANEL - from
        );
    }
    let mut line = 0.0;
    while line <= top * 1.000_1 {
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{0:.1}\" x2=\"{1}\" y2=\"{0:.1}\" stroke=\"#cccccc\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
            y(line),
            left + PANEL,
            left - 6.0,
            y(line) + 4.0,
            super::digits(line)
                .trim_end_matches('0')
                .trim_end_matches('.')
        );
        line += step;
    }
    let points: Vec<String> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| format!("{:.1},{:.1}", x(at), y(rate(row).median)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{INK}\" stroke-width=\"1.5\"/>",
        points.join(" ")
    );
    for (at, row) in rows.iter().enumerate() {
        let (x, of) = (x(at), rate(row));
        let ink = if row.threads == best { MARK } else { INK };
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{ink}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{ink}\"><title>{} threads: {:.2} tok/s</title></circle>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{}</text>",
            y(of.min),
            y(of.max),
            y(of.median),
            row.threads,
            of.median,
            TOP + HEIGHT + 18.0,
            row.threads
        );
    }
}

/// The smallest of 1, 2, 5 · 10ⁿ that is not below `least`.
fn nice_step(least: f64) -> f64 {
    if least <= 0.0 || !least.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}
