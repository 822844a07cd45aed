//! Arguments of `tokgate prompts`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::positive;

/// Arguments of `tokgate prompts`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prompts: memory_sequential, cache_loops, compute_arithmetic,
memory_structured, throughput_sustained, memory_bandwidth.

Examples:
  tokgate prompts --port 8080
  tokgate prompts --host 10.0.0.2 --port 8000 --runs 10 --output before.json
  tokgate prompts --prompts memory_sequential,cache_loops --timeout 120
  tokgate compare before.json after.json

Each prompt is asked --runs times, one after the other, at temperature 0 and as
a stream; a warm-up comes first and does not count. Rates are by the wall clock
here; what the server says of itself stands beside them. After three runs in a
row without a server the rest counts as failed. Ctrl-C keeps what was measured.

Exit code: 0 every answer came whole, 2 trouble; results are printed and
written all the same.")]
pub struct PromptsArgs {
    /// The server's name or address.
    #[arg(long, default_value = "localhost")]
    pub host: String,
    /// The server's port.
    #[arg(long, default_value_t = 8001)]
    pub port: u16,
    /// Runs of each prompt.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub runs: usize,
    /// Prompts to ask, separated by commas [default: all six].
    #[arg(long, value_delimiter = ',', value_name = "KEYS")]
    pub prompts: Vec<String>,
    /// Write the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to ask: as a chat, as a text to continue, or as a chat if the server has that.
    #[arg(long, value_enum, default_value_t = PromptsApi::Auto)]
    pub api: PromptsApi,
    /// Seconds that an answer may take.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// How to print the results.
    #[arg(short = 'o', long, value_enum, default_value_t = PromptsFormat::Text)]
    pub format: PromptsFormat,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptsApi {
    /// /v1/chat/completions, or /v1/completions where there is none.
    Auto,
    /// /v1/chat/completions.
    Chat,
    /// /v1/completions.
    Completions,
}

/// How results of `prompts` are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PromptsFormat {
    /// A table of 80 columns.
    Text,
    /// What --output writes.
    Json,
}
