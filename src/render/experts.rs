//! How experts were used: a table for a terminal, and a heat map.

use std::fmt::Write;

use super::svg_text;
use crate::metrics::experts::{Counts, ExpertUsage};

/// Layers of a table; of more, the least even are shown.
const MAX_LAYERS: usize = 12;

/// Experts in the list of the hottest.
const HOT: usize = 8;

/// A table of 80 columns.
pub fn table(usage: &ExpertUsage) -> String {
    let ExpertUsage {
        layers,
        experts,
        top_k,
        prefill,
        decode,
    } = usage;
    let mut text = format!("  experts: {layers} layers of {experts}, {top_k} for each token\n");
    for (name, counts) in [("prefill", prefill), ("decode", decode)] {
        let _ = write!(text, "  {name:8} {:>10} selections", counts.selections);
        if let Some((entropy, imbalance)) = counts.means() {
            let _ = write!(
                text,
                ", entropy {entropy:.3}, imbalance {imbalance:.2}, {} of {} unused",
                counts.unused(),
                layers * experts
            );
        }
        text.push('\n');
    }
    text.push_str(
        "\n  layer  entropy  imbalance  the layer's three most chosen, with counts (decode)\n",
    );
    for layer in shown(decode) {
        let row = &decode.by_layer[layer];
        let figure = |figure: Option<f64>, decimals| {
            figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.decimals$}"))
        };
        let mut order: Vec<usize> = (0..row.counts.len()).collect();
        order.sort_by_key(|expert| std::cmp::Reverse(row.counts[*expert]));
        let most: Vec<String> = order
            .iter()
            .take(3)
            .map(|expert| format!("{expert} ({})", row.counts[*expert]))
            .collect();
        let _ = writeln!(
            text,
            "  {layer:5}  {:>7}  {:>9}  {}",
            figure(row.entropy, 3),
            figure(row.imbalance, 2),
            most.join(", ")
        );
    }
    if *layers > MAX_LAYERS {
        let _ = writeln!(text, "  (the {MAX_LAYERS} least even of {layers} layers)");
    }
    let hot: Vec<String> = usage
        .hot(HOT)
        .iter()
        .map(|hot| format!("{}/{} {:.0} %", hot.layer, hot.expert, 100.0 * hot.share))
        .collect();
    text.push_str(&super::figures::wrapped(
        "  hot (layer/expert, share of tokens): ",
        &hot.join(", "),
    ));
    text
}

/// Layers to show, in their order.
fn shown(counts: &Counts) -> Vec<usize> {
    let mut layers: Vec<usize> = (0..counts.by_layer.len()).collect();
    layers.sort_by(|a, b| {
        let imbalance = |layer: &usize| counts.by_layer[*layer].imbalance.unwrap_or(0.0);
        imbalance(b).total_cmp(&imbalance(a))
    });
    layers.truncate(MAX_LAYERS);
    layers.sort_unstable();
    layers
}

/// Pixels of the heat map's parts.
const LEFT: usize = 56;
const TOP: usize = 64;
const PANEL_GAP: usize = 56;
const PANEL_WIDTH: usize = 768;
const CELL_HEIGHTS: std::ops::RangeInclusive<usize> = 6..=24;

/// An SVG of two panels, one row a layer and one column an expert: how often an expert was chosen over the layer's mean.
pub fn heat_map(title: &str, usage: &ExpertUsage) -> String {
    let columns = usage.experts.max(1);
    let cell = (PANEL_WIDTH / columns).clamp(2, 48);
    let row = (480 / usage.layers.max(1)).clamp(*CELL_HEIGHTS.start(), *CELL_HEIGHTS.end());
    let (width, height) = (cell * columns, row * usage.layers);
    let whole = (
        LEFT + width.max(480) + 24,
        TOP + 2 * (height + PANEL_GAP) + 40,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{2}</text>\n",
        whole.0,
        whole.1,
        svg_text(title)
    );
    let most = [&usage.prefill, &usage.decode]
        .into_iter()
        .flat_map(|counts| &counts.by_layer)
        .filter_map(|layer| layer.imbalance)
        .fold(1.0, f64::max);
    for (at, (name, counts)) in [("prefill", &usage.prefill), ("decode", &usage.decode)]
        .into_iter()
        .enumerate()
    {
        let top = TOP + at * (height + PANEL_GAP);
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\">{name}: {} selections</text>",
            top - 8,
            counts.selections
        );
        panel(&mut svg, counts, (cell, row), top, most);
        axes(&mut svg, usage, (cell, row), top);
    }
    legend(&mut svg, whole.1 - 34, most);
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, counts: &Counts, (cell, row): (usize, usize), top: usize, most: f64) {
    for (layer, line) in counts.by_layer.iter().enumerate() {
        let sum: u64 = line.counts.iter().sum();
        let mean = sum as f64 / line.counts.len().max(1) as f64;
        for (expert, count) in line.counts.iter().enumerate() {
            let ratio = if mean > 0.0 {
                *count as f64 / mean
            } else {
                0.0
            };
            let _ = writeln!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{cell}\" height=\"{row}\" fill=\"{}\"><title>layer {layer}, \
                 expert {expert}: {count} ({ratio:.2} × mean)</title></rect>",
                LEFT + expert * cell,
                top + layer * row,
                colour(ratio, most)
            );
        }
    }
}

fn axes(svg: &mut String, usage: &ExpertUsage, (cell, row): (usize, usize), top: usize) {
    let (width, height) = (cell * usage.experts, row * usage.layers);
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#444444\"/>\n\
         <text x=\"14\" y=\"{0}\" transform=\"rotate(-90 14 {0})\" text-anchor=\"middle\">layer</text>",
        top + height / 2
    );
    for layer in ticks(usage.layers, height / 14) {
        let y = top + layer * row + row / 2 + 4;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{layer}</text>",
            LEFT - 6
        );
    }
    for expert in ticks(usage.experts, width / 28) {
        let x = LEFT + expert * cell + cell / 2;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{expert}</text>",
            top + height + 15
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">expert</text>",
        LEFT + width / 2,
        top + height + 30
    );
}

fn legend(svg: &mut String, top: usize, most: f64) {
    let steps = 32;
    for step in 0..steps {
        let ratio = most * step as f64 / (steps - 1) as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{top}\" width=\"6\" height=\"10\" fill=\"{}\"/>",
            LEFT + step * 6,
            colour(ratio, most)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{0}\">0</text><text x=\"{1}\" y=\"{0}\" text-anchor=\"end\">{most:.1}</text>\
         <text x=\"{2}\" y=\"{3}\">times the layer's mean</text>",
        top + 23,
        LEFT + steps * 6,
        LEFT + steps * 6 + 10,
        top + 10
    );
}

/// Round numbers from 0 up to below `count`, at most `most` of them.
fn ticks(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let wide_enough = |step: &usize| count.div_ceil(*step) <= most.max(1);
    let steps = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 512];
    let step = steps.into_iter().find(wide_enough).unwrap_or(count.max(1));
    (0..count).step_by(step)
}

/// From white over the mean's light blue to dark blue, by the square root, so that what is rarely chosen differs too.
fn colour(ratio: f64, most: f64) -> String {
    let depth = (ratio / most).clamp(0.0, 1.0).sqrt();
    let channel = |light: f64, dark: f64| (light + (dark - light) * depth).round() as u8;
    format!(
        "#{:02x}{:02x}{:02x}",
        channel(255.0, 8.0),
        channel(255.0, 48.0),
        channel(255.0, 107.0)
    )
}
