//! Results of `tokgate load`, of `vllm bench serve`, and of `benchmark_serving.py` before it: JSON, and the printed table old and new.

use serde_json::Value;

use super::{Better, ResultFigure, Results};
use crate::record::serving::OWN_KEY;

const KIND: &str = "vLLM bench serve";

/// The same by this program.
const OWN_KIND: &str = "tokgate load";

/// JSON key, row of the table, and which way is better.
const ROWS: [(&str, &str, Option<Better>); 15] = [
    ("", "Memory Usage (GiB)", Some(Better::Lower)),
    ("completed", "Successful requests", None),
    ("failed", "Failed requests", Some(Better::Lower)),
    ("max_concurrency", "Maximum request concurrency", None),
    ("duration", "Benchmark duration (s)", Some(Better::Lower)),
    ("total_input_tokens", "Total input tokens", None),
    ("total_output_tokens", "Total generated tokens", None),
    ("request_throughput", REQUESTS, Some(Better::Higher)),
    (
        "request_goodput",
        "Request goodput (req/s)",
        Some(Better::Higher),
    ),
    ("output_throughput", OUTPUT, Some(Better::Higher)),
    (
        "max_output_tokens_per_s",
        "Peak output token throughput (tok/s)",
        Some(Better::Higher),
    ),
    ("max_concurrent_requests", "Peak concurrent requests", None),
    ("total_token_throughput", TOTAL, Some(Better::Higher)),
    (
        "spec_decode_acceptance_rate",
        "Acceptance rate (%)",
        Some(Better::Higher),
    ),
    (
        "spec_decode_acceptance_length",
        "Acceptance length",
        Some(Better::Higher),
    ),
];

/// What a result of this program has besides.
const OWN_ROWS: [(&str, &str, Option<Better>); 2] = [
    (
        "itl_per_token_ms",
        "Mean ITL per token (ms)",
        Some(Better::Lower),
    ),
    // Where all requests come at once, most wait for others: that is of the load, not of the server.
    ("client_queue_ms", "Mean client queue (ms)", None),
];

const REQUESTS: &str = "Request throughput (req/s)";
const OUTPUT: &str = "Output token throughput (tok/s)";
const TOTAL: &str = "Total token throughput (tok/s)";

/// The JSON that `--save-result` writes.
pub(super) fn json(value: &Value) -> Option<Results> {
    let fields = value.as_object()?;
    if !["completed", "request_throughput", "duration"]
        .iter()
        .all(|key| fields.contains_key(*key))
    {
        return None;
    }
    let own = fields.get(OWN_KEY);
    let mut results = Results::new(if own.is_some() { OWN_KIND } else { KIND });
    for (key, row, better) in ROWS {
        if let Some(number) = fields.get(key).and_then(Value::as_f64) {
            results.push(ResultFigure::new(row, number, better));
        }
    }
    if let Some(gib) = own.and_then(|own| own.get("server_peak_gib")?.as_f64()) {
        let (_, row, better) = ROWS[0];
        results
            .figures
            .insert(0, ResultFigure::new(row, gib, better));
    }
    for (key, value) in fields {
        let (Some(number), Some(row)) = (value.as_f64(), latency(key)) else {
            continue;
        };
        let mut figure = ResultFigure::new(row, number, Some(Better::Lower));
        if let Some(metric) = key.strip_prefix("mean_") {
            let deviation = fields.get(&format!("std_{metric}")).and_then(Value::as_f64);
            figure.deviation = deviation;
        }
        results.push(figure);
    }
    if let Some(own) = own {
        for (key, row, better) in OWN_ROWS {
            let mean = own.get(key).and_then(|times| times.get("mean")?.as_f64());
            let figure = mean.map(|mean| ResultFigure::new(row, mean, better));
            figure.into_iter().for_each(|figure| results.push(figure));
        }
    }
    Some(results)
}

/// `p99_ttft_ms` as the table has it: `P99 TTFT (ms)`. Deviations go with their means.
fn latency(key: &str) -> Option<String> {
    let (statistic, metric) = key.strip_suffix("_ms")?.split_once('_')?;
    if !matches!(metric, "ttft" | "tpot" | "itl" | "e2el") {
        return None;
    }
    let statistic = match statistic {
        "mean" => "Mean".to_owned(),
        "median" => "Median".to_owned(),
        other => format!("P{}", other.strip_prefix('p')?),
    };
    Some(format!("{statistic} {} (ms)", metric.to_uppercase()))
}

/// The printed table, with the line `- 20.567 GiB` that the people who published some put below it for the memory.
///
/// Rates are computed again from counts and duration, of which the table prints more digits: 50 requests in 1085.39 s
/// and in 678.21 s differ by 60 %, where the printed 0.05 and 0.07 would make it 40 %.
pub(super) fn table(text: &str) -> Option<Results> {
    let is_title = |line: &&str| line.contains("Serving Benchmark Result") && line.contains("===");
    text.lines().find(is_title)?;
    let mut results = Results::new(KIND);
    let memory = text.lines().find_map(|line| {
        let number = line.trim().strip_prefix("- ")?.strip_suffix(" GiB")?;
        number.trim().parse().ok()
    });
    if let Some(gib) = memory {
        results.push(ResultFigure::new(ROWS[0].1, gib, ROWS[0].2));
    }
    let lines = text.lines().skip_while(|line| !is_title(line)).skip(1);
    // The closing rule has no colon, and neither have sections' titles.
    for line in lines.take_while(|line| !line.starts_with("=====")) {
        let Some((label, number)) = line.rsplit_once(':') else {
            continue;
        };
        let Ok(number) = number.trim().parse::<f64>() else {
            continue;
        };
        let label = label.trim();
        let known = ROWS
            .iter()
            .find(|(_, row, _)| row.eq_ignore_ascii_case(label));
        let (row, better) = match known {
            Some((_, row, better)) => (*row, *better),
            None if label.ends_with("(ms)") => (label, Some(Better::Lower)),
            None => (label, None),
        };
        results.push(ResultFigure::new(row, number, better));
    }
    results.recompute();
    Some(results)
}

impl Results {
    fn recompute(&mut self) {
        let value = |name: &str| {
            let figure = self.figures.iter().find(|figure| figure.name == name);
            figure.map(|figure| figure.value)
        };
        let (requests, seconds) = (value(ROWS[1].1), value(ROWS[4].1));
        let (input, output) = (value(ROWS[5].1), value(ROWS[6].1));
        let both = input.zip(output).map(|(input, output)| input + output);
        for (name, amount) in [(REQUESTS, requests), (OUTPUT, output), (TOTAL, both)] {
            let Some((amount, seconds)) = amount.zip(seconds) else {
                continue;
            };
            let exact = amount / seconds;
            let figure = self.figures.iter_mut().find(|figure| figure.name == name);
            // Only where the printed figure is that one, rounded.
            if let Some(figure) = figure.filter(|figure| (figure.value - exact).abs() <= 0.005_1) {
                figure.value = exact;
            }
        }
    }
}
