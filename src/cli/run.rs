//! Arguments of `tokgate run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgs, PassArgs, RuntimeArgs, SamplingArgs, positive};
use crate::metrics;

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{}", metrics::help())
)]
pub struct RunArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Text to continue; '-' reads it from standard input.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        required_unless_present = "benchmark",
        conflicts_with = "benchmark"
    )]
    pub prompt: Option<OsString>,

    /// Tokens to generate at most [default: 128, or each prompt's own with --benchmark].
    #[arg(short, long, value_name = "N")]
    pub n_predict: Option<usize>,

    /// Positions of the KV cache [default: as many as the prompt and -n need].
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub sampling: SamplingArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub pass: PassArgs,

    /// Print rates and counts as JSON on the last line, instead of a summary on standard error.
    #[arg(long, conflicts_with_all = ["metrics", "benchmark"])]
    pub json: bool,

    /// Tell what the generation took of time, memory, cores and disk, and what makes the figures doubtful: as text on
    /// standard error, or as JSON on standard output in place of the text. `tokgate --help metrics` tells each figure's formula.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        num_args = 0..=1,
        default_missing_value = "text",
        conflicts_with = "benchmark"
    )]
    pub metrics: Option<MetricsFormat>,

    /// With --metrics: the bandwidth that the memory reaches, in GB/s [default: measured after the generation].
    #[arg(long, value_name = "GB/S", requires = "metrics")]
    pub bandwidth: Option<f64>,

    /// Write a heat map of the experts that were chosen, an SVG.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "benchmark")]
    pub expert_map: Option<PathBuf>,

    /// Generate from several fixed prompts, several times each, and tell mean and spread.
    #[arg(long)]
    pub benchmark: bool,

    /// With --benchmark: only these prompts.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "KEYS",
        requires = "benchmark"
    )]
    pub prompts: Vec<String>,

    /// With --benchmark: runs of each prompt, after one that warms up.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub runs: usize,

    /// With --benchmark: output on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: MetricsFormat,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

/// Output format of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricsFormat {
    /// Lines of 80 columns.
    Text,
    /// One JSON object.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  tokgate run -m qwen3-0.6b.gguf -p 'Once upon a time' -n 64 --temp 0.7 --seed 1
  tokgate run -m qwen3-0.6b.gguf -p 'Once upon a time' -n 128 --metrics
  tokgate run -m moe.gguf -p 'Once upon a time' --metrics json --expert-map experts.svg
  tokgate run -m qwen3-0.6b.gguf --benchmark --runs 5 -o json";
