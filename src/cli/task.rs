//! Arguments of `tokgate task`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{MetricsFormat, ModelArgs, PassArgs, RuntimeArgs, positive};
use crate::workload::sort::BELOW;

/// Arguments of `task`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tokgate task sort 1 32 20 2025002 task.json
  tokgate task run -m qwen3-0.6b.gguf task.json --threads 8 --max-new 150 -o out.json")]
pub struct TaskArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TaskCommand,
}

/// What to do with a task.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Make a task file: conversations that ask for random numbers in order.
    Sort(TaskSortArgs),
    /// Answer all conversations of a task file with a model, several times, and tell times and rates.
    Run(TaskRunArgs),
}

/// Arguments of `task sort`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is JSON, [batch][conversation][{role, content}]. The numbers are those of NumPy's
Generator(PCG64(SEED)).integers(0, 10000, INTS), and the bytes are those of Python's json.dump(…, indent=\"\").

Example:
  tokgate task sort 1 32 20 2025002 task.json")]
pub struct TaskSortArgs {
    /// Batches.
    pub num_batches: usize,
    /// Conversations of a batch.
    pub per_batch: usize,
    /// Numbers of a conversation.
    pub ints: usize,
    /// Seed of the numbers.
    pub seed: u64,
    /// File to write.
    #[arg(value_name = "OUT.json")]
    pub output: PathBuf,
    /// Numbers are below this; another than the default gives other files than the original's.
    #[arg(long, default_value_t = BELOW, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub below: u32,
}

/// Arguments of `task run`.
#[derive(Debug, Args)]
#[command(after_help = "\
padded   batch by batch, each padded on the left to its longest and computed to its last end, as transformers does
packed   sequences of all batches, without padding: one that ends makes room for the next

The JSON of -o has the fields load_model, load_input, encode_input, generate_iter_N, generate_llm, decode_outputs (in
seconds; of the repetition with the median time), n_input_tokens, n_total_tokens, n_output_tokens (with padding) and
output; beside them the counts without padding, times by phase, and every rate with its formula and its samples.

Examples:
  tokgate task run -m qwen3-0.6b.gguf task.json --threads 8 --max-new 150 -o out.json
  tokgate task run -m qwen3-0.6b.gguf task.json --mode packed --parallel 16 --dtype q8_0")]
pub struct TaskRunArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,
    /// Task file.
    #[arg(value_name = "TASK.json")]
    pub task: PathBuf,
    /// Tokens to generate at most for each conversation.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub max_new: usize,
    /// How conversations share passes.
    #[arg(long, value_enum, default_value = "packed")]
    pub mode: TaskMode,
    /// With packed: conversations at a time [default: as many as the largest batch has].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub parallel: Option<usize>,
    /// Timed repetitions, after one that warms up.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub repetitions: usize,
    /// Leave out the repetition that warms up.
    #[arg(long)]
    pub no_warmup: bool,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub pass: PassArgs,
    /// File to write the results to, as JSON.
    #[arg(short, long, value_name = "OUT.json")]
    pub output: Option<PathBuf>,
    /// Output on standard output.
    #[arg(long, value_enum, default_value = "text")]
    pub format: MetricsFormat,
    /// Write a heat map of the experts that were chosen, an SVG.
    #[arg(long, value_name = "FILE.svg")]
    pub expert_map: Option<PathBuf>,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

/// How conversations share passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TaskMode {
    /// Batch by batch, padded on the left.
    Padded,
    /// Continuously, without padding.
    Packed,
}
