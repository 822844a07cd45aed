//! The table of `tokgate prompts`, in 80 columns.

use std::fmt::Write;

use super::printable;
use super::terminal::{Style, push_wrapped};
use crate::record::prompts::{PromptRuns, PromptsResult};

/// A coefficient of variation above this many percent is marked.
const UNSTEADY_PCT: f64 = 5.0;

const RULE: &str = "---------------------------------------------------------------------------";

/// The whole report.
pub fn table(result: &PromptsResult) -> String {
    let (info, settings) = (&result.system_info, &result.settings);
    let model = info.model.as_deref().unwrap_or("not told by the server");
    let mut text = format!("Server: {}{}\n", printable(&info.url), settings.api);
    let _ = writeln!(text, "Model: {}", printable(model));
    let _ = match (
        info.hugepages_total,
        info.hugepages_free,
        info.hugepage_bytes,
    ) {
        (Some(total), Some(free), Some(bytes)) => writeln!(
            text,
            "Huge pages of this machine: {}/{total} in use ({} MiB each)",
            total.saturating_sub(free),
            bytes >> 20
        ),
        _ => writeln!(text, "Huge pages of this machine: not told"),
    };
    let _ = writeln!(
        text,
        "Timestamp: {}",
        info.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")
    );
    let warm = match &settings.warm_up_error {
        None => "after a warm-up",
        Some(_) => "after a warm-up that failed",
    };
    let _ = writeln!(text, "Runs per prompt: {}, {warm}\n", settings.runs);

    let _ = writeln!(
        text,
        "{:21}{:>10}{:>8}{:>11}{:>10}{:>8}{:>9}",
        "Prompt", "Avg tok/s", "CV %", "server's", "TTFT ms", "tokens", "Success"
    );
    let _ = writeln!(text, "{RULE}");
    for prompt in &result.prompts {
        text.push_str(&row(prompt));
    }
    let _ = writeln!(text, "{RULE}");
    let overall = result.summary.overall_avg_tokens_per_second;
    let _ = writeln!(
        text,
        "{:21}{:>10}{:>8}{:>11}{:>10}{:>8}{:>9}",
        "overall",
        figure(overall, 2),
        "",
        "",
        "",
        "",
        percent(result.summary.success_rate)
    );
    text.push_str(&notes(result));
    text
}

fn row(prompt: &PromptRuns) -> String {
    let stats = &prompt.stats;
    let unsteady = stats.cv_pct.is_some_and(|cv| cv > UNSTEADY_PCT);
    let cv = figure(stats.cv_pct, 1) + if unsteady { "!" } else { "" };
    format!(
        "{:21}{:>10}{:>8}{:>11}{:>10}{:>8}{:>9}\n",
        prompt.key,
        figure(stats.avg_tokens_per_second, 2),
        cv,
        figure(stats.avg_server_tokens_per_second, 2),
        figure(stats.avg_first_token_ms, 1),
        figure(stats.avg_tokens, 0),
        percent(stats.success_rate)
    )
}

fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Never 100 % unless it is.
fn percent(rate: f64) -> String {
    let percent = (rate * 100.0).floor();
    format!("{percent:.0}%")
}

/// What the columns mean, and what went wrong.
fn notes(result: &PromptsResult) -> String {
    let mut text =
        "\nAvg tok/s: (tokens - 1) / (last - first token), by the wall clock here, a mean;\n\
        server's: what the server says of itself; TTFT: question to first token.\n"
            .to_owned();
    let unsteady = |prompt: &&PromptRuns| prompt.stats.cv_pct.is_some_and(|cv| cv > UNSTEADY_PCT);
    if result.prompts.iter().any(|prompt| unsteady(&prompt)) {
        text.push_str("!: runs differ by more than 5 %: too unsteady for small differences.\n");
    }
    let counted = |prompt: &PromptRuns| {
        let mut answers = prompt.results.iter().filter_map(|run| run.answer.as_ref());
        answers.any(|answer| answer.tokens_counted_by == "chunks")
    };
    if result.prompts.iter().any(counted) {
        text.push_str("The server counts no tokens: pieces of the stream were counted for them.\n");
    }
    let mut failures: Vec<(String, usize)> = Vec::new();
    let runs = result.prompts.iter().flat_map(|prompt| &prompt.results);
    for error in runs.filter_map(|run| run.error.as_ref()) {
        let message = printable(&error.message);
        match failures.iter_mut().find(|(seen, _)| *seen == message) {
            Some((_, count)) => *count += 1,
            None => failures.push((message, 1)),
        }
    }
    for (message, count) in failures.iter().take(8) {
        let style = Style {
            width: Some(80),
            colour: false,
        };
        push_wrapped(
            &mut text,
            "failed: ",
            &format!("{count} × {message}"),
            style,
        );
    }
    if result.settings.interrupted {
        text.push_str("Interrupted: only the runs that were made are counted.\n");
    }
    text
}
