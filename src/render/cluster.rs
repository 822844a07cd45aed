//! What a cluster was measured to do, as Markdown of 80 columns, and as JSON.

use std::fmt::Write;

use serde_json::json;

use super::{digits, figures::wrapped, printable};
use crate::cluster::network;
use crate::cluster::report::{Rank, Report, Summary, Test};
use crate::cluster::timing::Sums;
use crate::record::{Better, FIGURES_SCHEMA, Figure};

/// The model that was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// For people: `qwen3 0.6B Q8_0`.
    pub model: &'a str,
    /// For ids: `qwen3-0.6b`.
    pub name: &'a str,
    /// Element type of its matrices.
    pub dtype: &'a str,
}

/// One object: the report, the summary of its generation, and its figures as all results have them.
pub fn json(report: &Report, of: Measured<'_>) -> String {
    let object = json!({
        "schema": FIGURES_SCHEMA,
        "kind": "cluster",
        "model": of.model,
        "name": of.name,
        "dtype": of.dtype,
        "figures": figures(report),
        "summary": report.summary(),
        "report": report,
    });
    let mut text = serde_json::to_string_pretty(&object).unwrap_or_default();
    text.push('\n');
    text
}

fn figures(report: &Report) -> Vec<Figure> {
    let figure = |key: &str, value: f64, unit: &str, better, formula: &str| Figure {
        key: key.to_owned(),
        value,
        unit: unit.to_owned(),
        better: Some(better),
        samples: Vec::new(),
        formula: formula.to_owned(),
    };
    let rates = report.tests.iter().map(|test| Figure {
        samples: test.samples.iter().map(|s| s.tokens_per_second).collect(),
        ..figure(
            &test.name(),
            test.tokens_per_second(),
            "tok/s",
            Better::Higher,
            "tokens / wall-clock time on rank 0",
        )
    });
    let mut figures: Vec<Figure> = rates.collect();
    if report.ranks.len() > 1 {
        figures.push(figure(
            "exchanges of a token",
            report.dry_token_us,
            "µs",
            Better::Lower,
            "all of them where nobody computes, the median",
        ));
    }
    if let Some(summary) = report.summary() {
        figures.push(figure(
            "efficiency",
            100.0 * summary.efficiency,
            "%",
            Better::Higher,
            "measured / (total GMAC/s / GMAC of a token)",
        ));
        figures.extend(summary.speedup.map(|speedup| {
            figure(
                "speed-up",
                100.0 * speedup,
                "%",
                Better::Higher,
                "measured / rank 0 alone − 1",
            )
        }));
    }
    figures
}

/// Tables, each with its formulas.
pub fn markdown(report: &Report, of: Measured<'_>) -> String {
    let mut text = format!(
        "# {} on {} rank{}\n\n",
        printable(of.model),
        report.ranks.len(),
        if report.ranks.len() == 1 { "" } else { "s" }
    );
    text += &ranks(report);
    if report.ranks.len() > 1 {
        text += &wire(report);
        for test in &report.tests {
            text += &time(test);
        }
    }
    text += &outcome(report);
    text += &machines(report);
    text
}

fn ranks(report: &Report) -> String {
    let mut text = table(&[
        "rank", "host", "threads", "GMAC/s", "share %", "heads", "inner", "MB", "copied", "init ms",
    ]);
    for rank in &report.ranks {
        let Rank { hello, .. } = rank;
        row(
            &mut text,
            &[
                rank.rank.to_string(),
                printable(&hello.host).chars().take(12).collect(),
                hello.threads.to_string(),
                digits(rank.gmacs),
                format!("{:.1}", 100.0 * rank.share),
                rank.heads.len().to_string(),
                match report.whole_experts {
                    true => format!("{} experts", rank.experts.len()),
                    false => rank.inner.len().to_string(),
                },
                digits(rank.bytes as f64 / 1e6),
                digits(rank.copied_bytes as f64 / 1e6),
                digits(rank.init_ms),
            ],
        );
    }
    text += &wrapped(
        "",
        "GMAC/s: 10⁹ multiply–accumulates a second in generating, on the first layers, all ranks at the same time. \
         copied: MB of the weights cut out of rows; the rest stays mapped.",
    );
    if report.imbalance > 1.001 {
        text += &wrapped(
            "",
            &format!(
                "Parts are as even as heads and blocks allow: the slowest takes {:.1} % longer than its share.",
                100.0 * (report.imbalance - 1.0)
            ),
        );
    }
    text.push('\n');
    text
}

fn wire(report: &Report) -> String {
    let payload = report.payload_bytes;
    let mut text = "## Wire\n\n".to_owned();
    let both = format!("{payload} B each way µs");
    text += &table(&["rank", "round trip µs", "after", &both, "after"]);
    for rank in report.ranks.iter().skip(1) {
        let [short, short_after] = rank.round_trip_us;
        let [long, long_after] = rank.payload_us;
        let cells = [short, short_after, long, long_after].map(digits);
        let mut all = vec![rank.rank.to_string()];
        all.extend(cells);
        row(&mut text, &all);
    }
    let injected = match report.inject_us > 0.0 {
        true => format!(", of which {} µs injected", digits(report.inject_us)),
        false => String::new(),
    };
    text += &wrapped(
        "",
        &format!(
            "Medians, from rank 0, before and after the tests. The slowest link: {} µs one way{injected}, {} Gbit/s. All \
             exchanges of a token, without computing: {} µs.",
            digits(report.network.latency_us),
            digits(report.network.gbit_s),
            digits(report.dry_token_us),
        ),
    );
    text.push('\n');
    text
}

fn time(test: &Test) -> String {
    let mut text = format!("## Time of a token, {} (µs)\n\n", test.name());
    text += &table(&[
        "rank",
        "compute",
        "serialise",
        "wire",
        "wait",
        "GMAC/s",
        "exchanges",
        "bytes",
    ]);
    for (rank, spent) in test.ranks.iter().enumerate() {
        let Sums {
            compute_us,
            serialise_us,
            wire_us,
            wait_us,
            ..
        } = spent.all;
        let mut cells = vec![rank.to_string()];
        cells.extend([compute_us, serialise_us, wire_us, wait_us, spent.gmacs].map(digits));
        cells.extend([digits(spent.exchanges), format!("{:.0}", spent.bytes)]);
        row(&mut text, &cells);
    }
    text += &wrapped(
        "",
        "compute: between exchanges. wait: until the last rank has come. serialise: adding and copying. wire: the rest. \
         GMAC/s: over compute. bytes: sent. Per layer: -o json, --log.",
    );
    text.push('\n');
    text
}

fn outcome(report: &Report) -> String {
    let Some(summary) = report.summary() else {
        return String::new();
    };
    let Summary {
        total_gmacs,
        theoretical,
        measured,
        baseline,
        speedup,
        efficiency,
        prediction_error,
    } = summary;
    let mut text = "## Outcome\n\n".to_owned();
    text += &table(&["figure", "value", "formula"]);
    let macs = report.model_macs as f64 / 1e9;
    let percent = |part: f64| format!("{:.1} %", 100.0 * part);
    let mut line = |name: &str, value: String, formula: &str| {
        row(&mut text, &[name.to_owned(), value, formula.to_owned()]);
    };
    line(
        "GMAC of a token",
        format!("{macs:.4}"),
        "Σ m·k·n of its matrices",
    );
    line("total GMAC/s", digits(total_gmacs), "Σ of the ranks");
    line(
        "theoretical tok/s",
        digits(theoretical),
        "total GMAC/s / GMAC of a token",
    );
    for test in &report.tests {
        let rates = test.samples.iter().map(|s| s.tokens_per_second);
        let (low, high) = rates.fold((f64::INFINITY, 0.0_f64), |(low, high), rate| {
            (low.min(rate), high.max(rate))
        });
        line(
            &format!("{} tok/s", test.name()),
            digits(test.tokens_per_second()),
            &format!(
                "median of {}: {} to {}",
                test.samples.len(),
                digits(low),
                digits(high)
            ),
        );
    }
    if let (Some(baseline), Some(speedup)) = (baseline, speedup) {
        line(
            "rank 0 alone tok/s",
            digits(baseline),
            "the whole model, median",
        );
        line("speed-up", percent(speedup), "measured / rank 0 alone − 1");
    }
    line("efficiency", percent(efficiency), "measured / theoretical");
    if report.ranks.len() > 1 {
        line(
            "predicted tok/s",
            digits(report.expected.tokens_per_second),
            &format!(
                "by latency and bandwidth: {:+.1} % off the last repetition",
                100.0 * prediction_error
            ),
        );
    }
    text.push('\n');
    text += &doubt(report, measured);
    text
}

/// What a reader should know before believing.
fn doubt(report: &Report, measured: f64) -> String {
    let hosts = report.ranks.iter().map(|rank| rank.hello.host.as_str());
    let mut names: Vec<&str> = hosts.collect();
    names.sort_unstable();
    names.dedup();
    if names.len() < report.ranks.len() && measured > 0.0 {
        return wrapped(
            "! ",
            "Ranks share a machine: they share its memory bandwidth, and no network is in between. Speed-up needs \
             machines of their own.",
        ) + "\n";
    }
    String::new()
}

fn machines(report: &Report) -> String {
    let Some(of_table) = report.model_network else {
        return String::new();
    };
    let mut text = format!(
        "## Machines like rank 0's, on {} µs and {} Gbit/s\n\n",
        digits(of_table.latency_us),
        digits(of_table.gbit_s)
    );
    text += &table(&[
        "machines",
        "tok/s",
        "× one",
        "efficiency %",
        "compute ms",
        "exchange ms",
    ]);
    for one in &report.table {
        row(
            &mut text,
            &[
                one.machines.to_string(),
                digits(one.tokens_per_second),
                format!("{:.2}", one.speedup),
                format!("{:.0}", 100.0 * one.efficiency),
                digits(one.token.compute_ms),
                digits(one.token.exchange_ms),
            ],
        );
    }
    let half = report.table.iter().find(|one| one.efficiency < 0.5);
    let half = half.map_or(String::new(), |one| {
        format!(" From {} on, less than half of each is used.", one.machines)
    });
    if let Some(best) = network::fastest(&report.table) {
        let last = report.table.last().map_or(0, |one| one.machines);
        let more = match best.machines == last {
            true => "more were not looked at",
            false => "more machines do not pay",
        };
        text += &wrapped(
            "",
            &format!(
                "Fastest with {}: {} tok/s; {more}.{half} token = compute + exchanges: two sums a layer, {} in all; what \
                 messages cost the CPU is left out.",
                best.machines,
                digits(best.tokens_per_second),
                2 * report.layers + 2,
            ),
        );
    }
    text
}

/// The head of a table: the first column is text, all others are figures.
fn table(columns: &[&str]) -> String {
    let rule = columns
        .iter()
        .enumerate()
        .map(|(at, _)| if at == 0 { "---" } else { "---:" });
    let rule: Vec<&str> = rule.collect();
    format!("| {} |\n|{}|\n", columns.join(" | "), rule.join("|"))
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}
