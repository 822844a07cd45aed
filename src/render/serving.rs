//! The result of `tokgate load`: vLLM's printed table to the letter, and below it what that leaves out.

use std::fmt::Write;

use super::markdown::escaped;
use super::printable;
use super::terminal::{Style, push_wrapped};
use crate::record::serving::{Latency, ServingResult};

/// Metrics with the names and the titles that vLLM prints.
const TITLES: [(&str, &str, &str); 6] = [
    ("ttft", "TTFT", "Time to First Token"),
    ("tpot", "TPOT", "Time per Output Token (excl. 1st token)"),
    ("itl", "ITL", "Inter-token Latency"),
    ("e2el", "E2EL", "End-to-end Latency"),
    (
        "client_queue_time",
        "Client Queue Time",
        "Client-side Queueing",
    ),
    (
        "e2el_including_client_queue",
        "E2EL incl. Client Queue",
        "Queue-inclusive End-to-end Latency",
    ),
];

/// Columns of the part that is ours.
const WIDTH: usize = 80;

/// A row: its label and its figure.
type Line = (String, Figure);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    Whole(u64),
    Real(f64),
    /// The title of a section.
    Title,
    /// A line over the rows that it is about.
    Heading,
}

/// vLLM's table, and our part.
pub fn text(result: &ServingResult) -> String {
    let mut text = format!("{:=^50}\n", " Serving Benchmark Result ");
    for (label, figure) in lines(result) {
        let _ = match figure {
            Figure::Whole(number) => writeln!(text, "{:<40} {number:<10}", label + ":"),
            Figure::Real(number) => writeln!(text, "{:<40} {number:<10.2}", label + ":"),
            Figure::Title => writeln!(text, "{label:-^50}"),
            Figure::Heading => writeln!(text, "{label}:"),
        };
    }
    let _ = writeln!(text, "{:=^50}\n", "");
    let style = Style {
        width: Some(WIDTH),
        colour: false,
    };
    for (label, line) in beside(result) {
        push_wrapped(&mut text, &format!("{label:<22}"), &line, style);
    }
    for doubt in &result.own.doubts {
        push_wrapped(&mut text, "! ", &doubt.text, style);
    }
    text
}

/// The same as Markdown.
pub fn markdown(result: &ServingResult) -> String {
    let mut text = "| Metric | Value |\n|:--|--:|\n".to_owned();
    for (label, figure) in lines(result) {
        let _ = match figure {
            Figure::Whole(number) => writeln!(text, "| {label} | {number} |"),
            Figure::Real(number) => writeln!(text, "| {label} | {number:.2} |"),
            Figure::Title => writeln!(text, "| **{label}** | |"),
            Figure::Heading => writeln!(text, "| {label} | |"),
        };
    }
    text.push('\n');
    for (label, line) in beside(result) {
        let _ = writeln!(text, "- {label}: {}", escaped(&printable(&line)));
    }
    for doubt in &result.own.doubts {
        let _ = writeln!(text, "- **doubt**: {}", escaped(&printable(&doubt.text)));
    }
    text
}

/// The rows of vLLM's table.
fn lines(result: &ServingResult) -> Vec<Line> {
    use Figure::{Heading, Real, Title, Whole};
    let mut lines: Vec<Line> = Vec::new();
    let mut push = |label: &str, figure| lines.push((label.to_owned(), figure));
    let count = |count: usize| Whole(count as u64);
    let (input, output) = (result.total_input_tokens, result.total_output_tokens);
    push("Successful requests", count(result.completed));
    push("Failed requests", count(result.failed));
    if let Some(most) = result.setup.max_concurrency {
        push("Maximum request concurrency", count(most));
    }
    if result.setup.request_rate.is_finite() {
        push(
            "Request rate configured (RPS)",
            Real(result.setup.request_rate),
        );
    }
    push("Benchmark duration (s)", Real(result.duration));
    push("Total input tokens", Whole(input));
    push("Total generated tokens", Whole(output));
    push(
        "Request throughput (req/s)",
        Real(result.rate(result.completed as f64)),
    );
    if let Some(good) = result.request_goodput {
        push("Request goodput (req/s)", Real(good));
    }
    push(
        "Output token throughput (tok/s)",
        Real(result.rate(output as f64)),
    );
    push(
        "Peak output token throughput (tok/s)",
        Real(result.max_output_tokens_per_s),
    );
    push(
        "Peak concurrent requests",
        Real(result.max_concurrent_requests as f64),
    );
    push(
        "Total token throughput (tok/s)",
        Real(result.rate((input + output) as f64)),
    );
    for (metric, name, title) in TITLES {
        let Some(latency) = result.latency(metric) else {
            continue;
        };
        push(title, Title);
        push(&format!("Mean {name} (ms)"), Real(latency.mean));
        push(&format!("Median {name} (ms)"), Real(latency.median));
        for (percent, value) in &latency.percentiles {
            push(&format!("P{percent} {name} (ms)"), Real(*value));
        }
    }
    if let Some(drafts) = &result.spec_decode {
        push("Speculative Decoding", Title);
        push("Acceptance rate (%)", Real(drafts.acceptance_rate()));
        push("Acceptance length", Real(drafts.acceptance_length()));
        push("Drafts", Whole(drafts.num_drafts));
        push("Draft tokens", Whole(drafts.draft_tokens));
        push("Accepted tokens", Whole(drafts.accepted_tokens));
        if !drafts.per_position.is_empty() {
            push("Per-position acceptance (%)", Heading);
        }
        for (position, share) in drafts.per_position.iter().enumerate() {
            push(&format!("  Position {position}"), Real(share * 100.0));
        }
    }
    lines
}

/// What vLLM's table leaves out, as label and line.
fn beside(result: &ServingResult) -> Vec<(&'static str, String)> {
    let (setup, own) = (&result.setup, &result.own);
    let mut lines = vec![
        (
            "Server",
            format!("{}{}, {}", own.url, own.endpoint, setup.model_id),
        ),
        (
            "Requests",
            format!(
                "{}, seed {}, after {} to warm up",
                own.dataset, own.seed, own.warm_ups
            ),
        ),
        ("Tokens counted by", own.tokens_counted_by.clone()),
        (
            "ITL per token (ms)",
            format!(
                "{}; ITL above is of gaps between pieces{}",
                statistics(&own.itl_per_token_ms),
                match own.tokens_per_chunk {
                    Some(tokens) => format!(", of {tokens:.2} tokens each"),
                    None => String::new(),
                }
            ),
        ),
        (
            "Waited here (ms)",
            format!(
                "{}, until there was room; in no other figure",
                statistics(&own.client_queue_ms)
            ),
        ),
        ("Sent late (ms)", statistics(&own.late_ms)),
    ];
    if let Some(cores) = own.client_cores {
        lines.push(("This program used", format!("{cores:.2} cores")));
    }
    if let Some(gib) = own.server_peak_gib {
        lines.push(("Server's peak memory", format!("{gib:.3} GiB")));
    }
    lines
}

fn statistics(latency: &Latency) -> String {
    let mut text = format!("mean {:.2}, median {:.2}", latency.mean, latency.median);
    for (percent, value) in &latency.percentiles {
        let _ = write!(text, ", P{percent} {value:.2}");
    }
    text
}
