//! The command line: clap types only, no behaviour.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokgate_kernels::DType;

use crate::engine::synth::Preset;

/// Kernels that run large language models on CPUs, and the suite that catches the commit which made them slower.
#[derive(Debug, Parser)]
#[command(name = "tokgate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The command line of this process. `bench` also takes llama-bench's spellings with one dash (`-fa 1`, `-ub 512`).
    pub fn of_process() -> Self {
        Self::parse_from(llama_bench_spellings(std::env::args_os()))
    }
}

/// llama-bench's options of several letters behind one dash, which clap would read as several options.
const LLAMA_BENCH_OPTIONS: [&str; 6] = ["-fa", "-ub", "-pg", "-oe", "-ctk", "-ctv"];

fn llama_bench_spellings(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
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

/// One subcommand; its arguments are defined here, its behaviour in the file of the same name under `cmd/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a text, printing it as it comes.
    Run(RunArgs),
    /// Tell how well a model predicts a text.
    Perplexity(PerplexityArgs),
    /// Measure prompt processing and generation, as llama-bench does and in its formats.
    Bench(BenchArgs),
    /// Write the logits of given tokens.
    Logits(LogitsArgs),
    /// Print what is in a model's files: sizes, types, metadata, tensors.
    Inspect(InspectArgs),
    /// Make a model file of a real shape, with seeded weights and a vocabulary.
    Synth(SynthArgs),
    /// Print the token ids of a text, on one line.
    Tokenize(TokenizeArgs),
    /// Keep what the last `cargo bench` measured as this machine's baseline.
    Record(RecordArgs),
    /// Compare the last `cargo bench` with a baseline, or two baselines with each other.
    Compare(CompareArgs),
}

/// Which model, and how it is to be held.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// GGUF file, or a folder with config.json and safetensors.
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,

    /// Convert the matrices at load; without it they are used as the file has them.
    #[arg(long, value_enum)]
    pub dtype: Option<WeightType>,
}

/// What runs the kernels.
#[derive(Clone, Debug, Args)]
pub struct RuntimeArgs {
    /// Threads [default: all cores].
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,

    /// Pin each thread to a core.
    #[arg(long)]
    pub pin: bool,

    /// Force a kernel level: scalar, avx2, avx512vnni or avx512bf16 [default: $TOKGATE_LEVEL, or the CPU's fastest].
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
}

/// Element type to convert weights to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// Blocks of 32 int8 with an f16 scale.
    #[value(name = "q8_0")]
    Q8_0,
    /// bfloat16.
    Bf16,
    /// binary32.
    F32,
}

impl From<WeightType> for DType {
    fn from(dtype: WeightType) -> Self {
        match dtype {
            WeightType::Q8_0 => Self::Q8_0,
            WeightType::Bf16 => Self::Bf16,
            WeightType::F32 => Self::F32,
        }
    }
}

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    /// bfloat16.
    Bf16,
    /// binary32.
    F32,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tokgate run -m qwen3-0.6b.gguf -p 'Once upon a time' -n 64 --temp 0.7 --seed 1"
)]
pub struct RunArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Text to continue; '-' reads it from standard input.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: OsString,

    /// Tokens to generate at most.
    #[arg(short, long, default_value_t = 128, value_name = "N")]
    pub n_predict: usize,

    /// Positions of the KV cache [default: as many as the prompt and -n need].
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// Temperature; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.8)]
    pub temp: f32,

    /// Sample from the K likeliest tokens only; 0 for all.
    #[arg(long, default_value_t = 40, value_name = "K")]
    pub top_k: usize,

    /// Sample from the likeliest tokens that make up this probability.
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub top_p: f32,

    /// Leave out tokens less likely than this share of the likeliest one.
    #[arg(long, default_value_t = 0.05, value_name = "P")]
    pub min_p: f32,

    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Go on after the model's end-of-text token.
    #[arg(long)]
    pub ignore_eos: bool,

    /// Prompt tokens processed in one pass.
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = positive)]
    pub ubatch_size: usize,

    /// Element type of the KV cache.
    #[arg(long, value_enum, default_value = "bf16")]
    pub kv: KvType,

    /// Print rates and counts as JSON on the last line, instead of a summary on standard error.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lists are separated by commas; every combination is measured.\n\nExample:\n  tokgate bench -m qwen3-0.6b.gguf -p 512 -n 128 -t 1,2 -r 5 -o json"
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

    /// Seed of the random tokens.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Pin each thread to a core.
    #[arg(long)]
    pub pin: bool,

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

/// Arguments of `tokgate inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
It reads headers only, also of models that cannot be run. The text shows tensors of the same shape and type in all
layers as one; the JSON has each of them, and the first elements of each array.

Example:
  tokgate inspect qwen3-0.6b.gguf")]
pub struct InspectArgs {
    /// GGUF file, or a folder with config.json and safetensors.
    #[arg(value_name = "FILE")]
    pub model: PathBuf,
    /// Output on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: InspectFormat,
}

/// Output format of `inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectFormat {
    /// Tables of 80 columns.
    Text,
    /// One JSON object.
    Json,
}

/// Arguments of `tokgate synth`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file depends on preset, dtype, seed and layers alone, on every machine.

Examples:
  tokgate synth --preset qwen3-0.6b --dtype q8_0 qwen3-0.6b.gguf
  tokgate synth --preset qwen3-30b-a3b --layers 5 --dtype q8_0 moe.gguf")]
pub struct SynthArgs {
    /// The model whose shape it has.
    #[arg(long, value_enum, value_name = "NAME")]
    pub preset: Preset,
    /// Type of the matrices; norms and routers are f32.
    #[arg(long, value_enum, default_value = "q8_0")]
    pub dtype: WeightType,
    /// Seed of the weights and the vocabulary.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Layers [default: as many as the model has].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub layers: Option<u16>,
    /// Leave the vocabulary out: the file takes token ids only.
    #[arg(long)]
    pub no_vocab: bool,
    /// Replace a file that exists.
    #[arg(short, long)]
    pub force: bool,
    /// Threads that make weights [default: all cores].
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZero<usize>>,
    /// File to write.
    #[arg(value_name = "OUT.gguf")]
    pub output: PathBuf,
}

impl ValueEnum for Preset {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Arguments of `tokgate tokenize`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate tokenize -m model.gguf 'Hello, world'
  tokgate tokenize -m model.gguf --special '<|im_start|>user'
  tokgate tokenize -m folder/tokenizer.json - < text.txt")]
pub struct TokenizeArgs {
    /// GGUF file (a vocabulary is enough), tokenizer.json, or a model folder that has one.
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,
    /// Add the beginning and end tokens that the model wants, and take special tokens in the text as such.
    #[arg(long)]
    pub special: bool,
    /// The text, any bytes; `-` reads it from standard input. Put `--` before a text that begins with a dash.
    #[arg(value_name = "TEXT")]
    pub text: OsString,
}

/// Arguments of `perplexity`.
#[derive(Debug, Args)]
#[command(
    after_help = "The text is cut into chunks of --ctx-size tokens, and the second half of each is predicted from\nwhat comes before it in the chunk, as llama-perplexity does.\n\nExample:\n  tokgate perplexity -m qwen3-0.6b.gguf -f wiki.test.raw"
)]
pub struct PerplexityArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Text to predict.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,

    /// Tokens of a chunk.
    #[arg(short, long, default_value_t = 512, value_name = "N")]
    pub ctx_size: usize,

    /// Stop after this many chunks.
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,

    /// Element type of the KV cache.
    #[arg(long, value_enum, default_value = "bf16")]
    pub kv: KvType,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

/// Arguments of `logits`.
#[derive(Debug, Args)]
#[command(
    after_help = "OUT holds little-endian f32, one row of the vocabulary's size for each token.\n\nExample:\n  tokgate logits -m tiny.gguf --tokens 1,2,3 -o out.f32"
)]
pub struct LogitsArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    pub tokens: Vec<u32>,

    /// File to write.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,

    /// Prompt tokens processed in one pass.
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = positive)]
    pub ubatch_size: usize,

    /// Element type of the KV cache.
    #[arg(long, value_enum, default_value = "bf16")]
    pub kv: KvType,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
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

/// Arguments of `tokgate record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo bench && tokgate record
  tokgate record matmul/q8_0                 only benches whose id contains this
  tokgate record --as before-the-rewrite     beside the usual baseline, under a name
  tokgate record --baseline main             what criterion saved with --save-baseline main

Reads the trees of criterion (target/criterion), iai-callgrind (target/iai) and gungraun
(target/gungraun) and writes baselines/<machine key>/baseline.jsonl. Benches that were not measured keep
the figures and the provenance that they have. Instruction counts are kept under the key of the CPU
family and compiler; callgrind's harnesses leave them behind only with IAI_CALLGRIND_SAVE_SUMMARY=json
or GUNGRAUN_SAVE_SUMMARY=json set.")]
pub struct RecordArgs {
    /// Only benches whose id contains this text.
    pub filter: Option<String>,
    /// Read the results in this folder: a target folder, or the tree of a harness. They must be of this machine.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// The target folder, where it is not the one that cargo uses.
    #[arg(long, value_name = "DIR", conflicts_with = "from")]
    pub target_dir: Option<PathBuf>,
    /// The name to keep the figures under.
    #[arg(long = "as", value_name = "NAME", default_value = "baseline")]
    pub name: String,
    /// Read what criterion saved under this name instead of its last run.
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,
    /// Also take results that an earlier run left behind.
    #[arg(long)]
    pub all: bool,
    /// Forget benches of the baseline that were not measured now.
    #[arg(long, conflicts_with = "filter")]
    pub replace: bool,
}

/// Arguments of `tokgate compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate compare                    the last run with this machine's baseline
  tokgate compare main:              the last run with the baseline in the commit 'main'
  tokgate compare HEAD~3: HEAD:      two commits' baselines
  tokgate compare before after       two baselines of this machine that were recorded --as these names
  tokgate compare -o md > report.md

OLD and NEW are each REV: (the baselines of this machine in a commit), REV:KEY (those of another machine),
a baseline's file or folder, a target folder or harness's tree, or the name of a baseline.

Exit code: 0 nothing got worse, 1 a regression beyond baselines/gate.toml, 2 trouble. Nothing to compare
is trouble, and so are figures of different machines alone: they are shown, but never judged.")]
pub struct CompareArgs {
    /// What to compare with; this machine's baseline if left out.
    #[arg(value_name = "OLD")]
    pub old: Option<String>,
    /// What to compare; the last run if left out.
    #[arg(value_name = "NEW")]
    pub new: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// The thresholds; baselines/gate.toml, or the usual ones where there is none.
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    /// Only benches whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// The target folder, where it is not the one that cargo uses.
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// Count results of earlier runs as part of the last one.
    #[arg(long)]
    pub all: bool,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A table for the terminal.
    Text,
    /// Markdown for GitHub.
    Md,
    /// The project's own JSON.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn bench_takes_llama_benchs_spellings() {
        let line = "tokgate bench -m a,b -ub 64 -fa 1 -pg 8,2 -ctk f32 -oe md -t 1,2";
        let args = llama_bench_spellings(line.split(' ').map(OsString::from));
        let Command::Bench(args) = Cli::try_parse_from(args).unwrap().command else {
            panic!("another command");
        };
        assert_eq!((args.ubatch, args.prompt_gen), (vec![64], vec![(8, 2)]));
        assert_eq!((args.type_k, args.threads), (KvType::F32, vec![1, 2]));
        assert_eq!((args.model.len(), args.flash_attn), (2, FlashAttn::On));
    }
}
