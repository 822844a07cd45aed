//! Arguments of `tokgate sweep`.

use std::path::PathBuf;

use clap::Args;

use super::{MetricsFormat, ModelArgs, PassArgs, positive};

/// Arguments of `sweep`.
#[derive(Debug, Args)]
#[command(after_help = "\
Thread counts take turns, so that a machine that gets slower or faster meanwhile does so for all of them. Recommended is
the smallest count whose median is within the noise of the best one's; prompt processing and generation have one each.

Example:
  tokgate sweep -m qwen3-0.6b.gguf --threads 1,2,4,8,16 --plot threads.svg")]
pub struct SweepArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Thread counts [default: 1, 2, 4, … up to twice the CPUs].
    #[arg(short, long, value_delimiter = ',', value_name = "N", value_parser = threads)]
    pub threads: Vec<usize>,

    /// Prompt tokens of a repetition.
    #[arg(short = 'p', long, default_value_t = 256, value_name = "N", value_parser = positive)]
    pub n_prompt: usize,

    /// Tokens that a repetition generates.
    #[arg(short = 'n', long, default_value_t = 32, value_name = "N", value_parser = positive)]
    pub n_gen: usize,

    /// Timed repetitions of each, after one that warms up.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub repetitions: usize,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub pass: PassArgs,

    /// Write a plot, an SVG.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,

    /// Output on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: MetricsFormat,

    /// Pin each thread to a core.
    #[arg(long)]
    pub pin: bool,

    /// Force a kernel level: scalar, avx2, avx512vnni or avx512bf16 [default: $TOKGATE_LEVEL, or the CPU's fastest].
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,

    /// Seed of the random tokens.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn threads(text: &str) -> Result<usize, String> {
    match positive(text)? {
        count if count > 1024 => Err("must be at most 1024".to_owned()),
        count => Ok(count),
    }
}
