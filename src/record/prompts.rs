//! What `tokgate prompts` measured: a server's answers to fixed prompts.
//!
//! FORMULAS. `tokens_per_second`, the rate that results are compared by, is (n − 1) / (last − first): n tokens of the
//! answer, and the times of its first and its last piece by the wall clock of this side. `end_to_end_tokens_per_second`
//! is n / total, prefill and network included. What stands under `server` is the server's own count and clock.
//! Averages are means over the answers that came whole; a deviation is that of a sample (n − 1).

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The version of the file; it changes when a field goes or changes its meaning.
pub const PROMPTS_SCHEMA: u32 = 1;

/// Results of one run of `tokgate prompts`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptsResult {
    /// See [`PROMPTS_SCHEMA`].
    pub schema: u32,
    /// `prompts`.
    pub kind: &'static str,
    /// Who answered, and on what.
    pub system_info: SystemInfo,
    /// How it was asked.
    pub settings: Settings,
    /// By prompt, in the order in which they were asked.
    #[serde(serialize_with = "by_key")]
    pub prompts: Vec<PromptRuns>,
    /// Over all prompts.
    pub summary: PromptsSummary,
}

/// Who answered, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SystemInfo {
    /// The model's id, as the server gives it.
    pub model: Option<String>,
    /// The server.
    pub url: String,
    /// Huge pages of the machine that asked; those of the server if it is the same machine.
    pub hugepages_total: Option<u64>,
    /// Of these, pages that nobody uses.
    pub hugepages_free: Option<u64>,
    /// Bytes of such a page.
    pub hugepage_bytes: Option<u64>,
    /// When the first prompt was asked.
    pub timestamp: jiff::Timestamp,
}

/// How it was asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Runs of each prompt.
    pub runs: usize,
    /// Seconds that an answer may take.
    pub timeout_s: f64,
    /// The path that was asked.
    pub api: &'static str,
    /// What became of the warm-up; `None` where it went well.
    pub warm_up_error: Option<String>,
    /// Whether it was broken off before all runs were made.
    pub interrupted: bool,
}

/// The runs of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptRuns {
    /// The prompt's name.
    #[serde(skip)]
    pub key: &'static str,
    /// Its text.
    pub prompt_text: &'static str,
    /// Tokens that an answer could have.
    pub max_tokens: usize,
    /// Each run.
    pub results: Vec<PromptRun>,
    /// Over the runs.
    pub stats: PromptStats,
}

/// One run of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptRun {
    /// Whether the answer came whole.
    pub success: bool,
    /// Why it did not.
    pub error: Option<RunError>,
    /// What came; `None` without success.
    #[serde(flatten)]
    pub answer: Option<AnswerFigures>,
}

/// Why an answer did not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunError {
    /// A word for programs.
    pub kind: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerFigures {
    /// Tokens of the answer.
    pub tokens: u64,
    /// Whose count that is: `usage`, `timings`, or `chunks` where the server gives none.
    pub tokens_counted_by: &'static str,
    /// Tokens of the prompt, by the server's count.
    pub prompt_tokens: Option<u64>,
    /// Pieces in which the answer came.
    pub chunks: usize,
    /// From the question to the first piece.
    pub first_token_ms: f64,
    /// From the question to the end of the stream.
    pub total_ms: f64,
    /// (tokens − 1) / (last − first); `None` where the answer came in one piece or one burst.
    pub tokens_per_second: Option<f64>,
    /// tokens / total.
    pub end_to_end_tokens_per_second: f64,
    /// What the server says of itself, if it does.
    pub server: Option<ServerFigures>,
}

/// A server's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ServerFigures {
    /// Tokens of the prompt that were processed, which may be fewer than it has.
    pub prompt_tokens: u64,
    /// Milliseconds for them.
    pub prompt_ms: f64,
    /// Tokens that were generated.
    pub tokens: u64,
    /// Milliseconds for them.
    pub decode_ms: f64,
    /// tokens / decode_ms, as the server computes it.
    pub tokens_per_second: f64,
}

/// Over the runs of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PromptStats {
    /// Whole answers.
    pub successes: usize,
    /// Runs that were to be made; less than was asked for only after an interrupt.
    pub runs: usize,
    /// successes / runs.
    pub success_rate: f64,
    /// Mean rate by the wall clock.
    pub avg_tokens_per_second: Option<f64>,
    /// Its standard deviation; `None` for fewer than two answers.
    pub stddev_tokens_per_second: Option<f64>,
    /// Deviation over mean, in percent.
    pub cv_pct: Option<f64>,
    /// Mean rate with prefill and network.
    pub avg_end_to_end_tokens_per_second: Option<f64>,
    /// Mean rate by the server's clock.
    pub avg_server_tokens_per_second: Option<f64>,
    /// Mean time to the first token.
    pub avg_first_token_ms: Option<f64>,
    /// Mean length of an answer.
    pub avg_tokens: Option<f64>,
}

/// Over all prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PromptsSummary {
    /// Mean of the prompts' means.
    pub overall_avg_tokens_per_second: Option<f64>,
    /// Whole answers over runs.
    pub success_rate: f64,
    /// Whole answers.
    pub successes: usize,
    /// Runs.
    pub runs: usize,
}

impl PromptStats {
    /// Of these runs.
    pub fn of(results: &[PromptRun]) -> Self {
        let answers = || results.iter().filter_map(|run| run.answer.as_ref());
        let rates: Vec<f64> = answers().filter_map(|a| a.tokens_per_second).collect();
        let average = mean(&rates);
        let deviation = deviation(&rates);
        let mean_of =
            |figure: fn(&AnswerFigures) -> f64| mean(&answers().map(figure).collect::<Vec<f64>>());
        let server: Vec<f64> = answers()
            .filter_map(|answer| Some(answer.server?.tokens_per_second))
            .collect();
        let successes = answers().count();
        Self {
            successes,
            runs: results.len(),
            success_rate: rate(successes, results.len()),
            avg_tokens_per_second: average,
            stddev_tokens_per_second: deviation,
            cv_pct: deviation.zip(average).map(|(d, mean)| 100.0 * d / mean),
            avg_end_to_end_tokens_per_second: mean_of(|a| a.end_to_end_tokens_per_second),
            avg_server_tokens_per_second: mean(&server),
            avg_first_token_ms: mean_of(|a| a.first_token_ms),
            avg_tokens: mean_of(|a| a.tokens as f64),
        }
    }
}

impl PromptsSummary {
    /// Of these prompts.
    pub fn of(prompts: &[PromptRuns]) -> Self {
        let means: Vec<f64> = prompts
            .iter()
            .filter_map(|prompt| prompt.stats.avg_tokens_per_second)
            .collect();
        let successes = prompts.iter().map(|prompt| prompt.stats.successes).sum();
        let runs = prompts.iter().map(|prompt| prompt.stats.runs).sum();
        Self {
            overall_avg_tokens_per_second: mean(&means),
            success_rate: rate(successes, runs),
            successes,
            runs,
        }
    }
}

fn rate(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

fn mean(figures: &[f64]) -> Option<f64> {
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}

fn deviation(figures: &[f64]) -> Option<f64> {
    let mean = mean(figures).filter(|_| figures.len() > 1)?;
    let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
    Some((squares / (figures.len() - 1) as f64).sqrt())
}

fn by_key<S: Serializer>(prompts: &[PromptRuns], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(prompts.len()))?;
    for prompt in prompts {
        map.serialize_entry(prompt.key, prompt)?;
    }
    map.end()
}
