//! Arguments of `tokgate bench`, in llama-bench's spellings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{KvType, RequantizeType, WeightType, positive};

/// llama-bench's options of several letters behind one dash, which clap would read as several options.
const LLAMA_BENCH_OPTIONS: [&str; 6] = ["-fa", "-ub", "-pg", "-oe", "-ctk", "-ctv"];

pub(super) fn llama_bench_spellings(
    args: impl Iterator<Item = OsString>,
) -> impl Iterator<Item = OsString> {
    let mut bench = false;
    args.enumerate().map(move |(at, arg)| {
        bench |= at == 1 && arg == "bench";
        match arg.to_str() {
            Some(option) if bench && LLAMA_BENCH_OPTIONS.contains(&option) => {
                format!("-{option}").into()
            }
            _ => arg,
        }
    })
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lists are separated by commas; every combination is measured.\n\nExample:\n  tokgate bench -m qwen3-0.6b.gguf -p 512 -n 128 -t 1,2 -r 5 -o json\n  tokgate bench -m qwen3-0.6b.gguf --llama-bench ~/llama.cpp/build/bin/llama-bench -r 3\n  yes '' | head -20 | tokgate bench -m qwen3-0.6b.gguf --lockstep -p 0 -n 128"
)]
pub struct BenchArgs {
    /// GGUF files, or folders with config.json and safetensors.
    #[arg(
        short,
        long,
        value_name = "FILE",
        value_delimiter = ',',
        required = true
    )]
    pub model: Vec<PathBuf>,

    /// Convert the matrices at load; without it they are used as the file has them.
    #[arg(long, value_enum)]
    pub dtype: Option<WeightType>,

    /// Accept GGUF's types without kernels (Q2_K to Q8_K, Q4_0, Q4_1, Q5_0, Q5_1, Q8_1) and convert them at load.
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "dtype")]
    pub requantize: Option<RequantizeType>,

    /// Prompt tokens; 0 for no such test.
    #[arg(
        short = 'p',
        long,
        value_delimiter = ',',
        default_value = "512",
        value_name = "N"
    )]
    pub n_prompt: Vec<usize>,

    /// Generated tokens; 0 for no such test.
    #[arg(
        short = 'n',
        long,
        value_delimiter = ',',
        default_value = "128",
        value_name = "N"
    )]
    pub n_gen: Vec<usize>,

    /// A prompt and then generated tokens, in one test; may be given several times.
    #[arg(long = "pg", value_name = "PP,TG", value_parser = pair)]
    pub prompt_gen: Vec<(usize, usize)>,

    /// Tokens in the KV cache before each test.
    #[arg(
        short = 'd',
        long,
        value_delimiter = ',',
        default_value = "0",
        value_name = "N"
    )]
    pub n_depth: Vec<usize>,

    /// Threads [default: all cores].
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    pub threads: Vec<usize>,

    /// Repetitions of each test.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub repetitions: usize,

    /// Output on standard output.
    #[arg(short, long, value_enum, default_value = "md")]
    pub output: BenchFormat,

    /// Output on standard error as well, in this format.
    #[arg(long = "oe", alias = "output-err", value_enum, value_name = "FORMAT")]
    pub output_err: Option<BenchFormat>,

    /// Prompt tokens processed in one pass.
    #[arg(short = 'u', long = "ubatch-size", alias = "ub", value_delimiter = ',', default_value = "512", value_name = "N", value_parser = positive)]
    pub ubatch: Vec<usize>,

    /// Prompt tokens submitted at a time; told in the results, and an upper limit to --ubatch-size.
    #[arg(short = 'b', long, default_value_t = 2048, value_name = "N", value_parser = positive)]
    pub batch_size: usize,

    /// Element type of the keys in the KV cache.
    #[arg(
        long = "cache-type-k",
        alias = "ctk",
        value_enum,
        default_value = "bf16"
    )]
    pub type_k: KvType,

    /// Element type of the values in the KV cache; must be that of the keys.
    #[arg(long = "cache-type-v", alias = "ctv", value_enum)]
    pub type_v: Option<KvType>,

    /// Attention is always computed in tiles, without a matrix of scores: only 1 is possible.
    #[arg(
        long = "flash-attn",
        alias = "fa",
        default_value = "1",
        value_name = "0|1",
        hide_possible_values = true
    )]
    pub flash_attn: FlashAttn,

    /// Leave out the warm-up run before each test.
    #[arg(long)]
    pub no_warmup: bool,

    /// Run this llama-bench in turn with the engine on the same file, tests and threads, and print ours/theirs.
    #[arg(long, value_name = "PATH")]
    pub llama_bench: Option<PathBuf>,

    /// More arguments for it, separated by spaces, such as '-fa 1 -ctk bf16 -ctv bf16'.
    #[arg(
        long,
        value_name = "ARGS",
        requires = "llama_bench",
        allow_hyphen_values = true
    )]
    pub llama_bench_args: Vec<String>,

    /// Pairs of blocks, ours and theirs in turn; each has --repetitions.
    #[arg(long, default_value_t = 5, value_name = "N", requires = "llama_bench", value_parser = positive)]
    pub pairs: usize,

    /// Run one pass of one test for each line on standard input, and answer with its nanoseconds: what `tokgate gate`
    /// asks of two commits in turn.
    #[arg(long, conflicts_with_all = ["llama_bench", "output", "output_err", "repetitions", "no_limit"])]
    pub lockstep: bool,

    /// Seed of the random tokens.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Pin each thread to a core.
    #[arg(long)]
    pub pin: bool,

    /// Do not measure beside each test how fast this machine reads and multiplies at most.
    #[arg(long)]
    pub no_limit: bool,

    /// Force a kernel level: scalar, avx2, avx512vnni or avx512bf16 [default: $TOKGATE_LEVEL, or the CPU's fastest].
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
}

/// Output format of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    /// Markdown table.
    Md,
    /// JSON array.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values.
    Csv,
}

/// Whether attention is computed in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlashAttn {
    /// In tiles.
    #[value(name = "1", aliases = ["on", "auto"])]
    On,
    /// With a matrix of scores.
    #[value(name = "0", alias = "off")]
    Off,
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let (prompt, generated) = text
        .split_once(',')
        .ok_or("must be two numbers, for example 512,128")?;
    let number = |text: &str| {
        text.trim()
            .parse()
            .map_err(|error| format!("'{text}': {error}"))
    };
    Ok((number(prompt)?, number(generated)?))
}
