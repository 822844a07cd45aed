//! Arguments of the subcommands that use or describe a model, and what they share.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use tokgate_kernels::DType;

use super::positive;
use crate::engine::synth::Preset;

/// Which model, and how it is to be held.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// GGUF file, or a folder with config.json and safetensors.
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,

    /// Convert the matrices at load; without it they are used as the file has them.
    #[arg(long, value_enum)]
    pub dtype: Option<WeightType>,

    /// Accept GGUF's types without kernels (Q2_K to Q8_K, Q4_0, Q4_1, Q5_0, Q5_1, Q8_1) and convert them at load.
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "dtype")]
    pub requantize: Option<RequantizeType>,
}

/// Element type to convert weights without kernels to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RequantizeType {
    /// Blocks of 32 int8 with an f16 scale: half the memory.
    #[value(name = "q8_0")]
    Q8_0,
    /// bfloat16: rounds less.
    Bf16,
}

impl From<RequantizeType> for DType {
    fn from(dtype: RequantizeType) -> Self {
        match dtype {
            RequantizeType::Q8_0 => Self::Q8_0,
            RequantizeType::Bf16 => Self::Bf16,
        }
    }
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

/// What a pass over a prompt takes at once, and what it leaves behind.
#[derive(Clone, Copy, Debug, Args)]
pub struct PassArgs {
    /// Prompt tokens processed in one pass.
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = positive)]
    pub ubatch_size: usize,

    /// Element type of the KV cache.
    #[arg(long, value_enum, default_value = "bf16")]
    pub kv: KvType,
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

/// How much a draft model guesses. The names and defaults are llama.cpp's, but for the probability.
#[derive(Clone, Debug, Args)]
pub struct DraftArgs {
    /// With --draft: tokens of a guess at most; fewer are guessed where fewer stand.
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = positive)]
    pub draft_max: usize,

    /// With --draft: shorter guesses are not checked.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub draft_min: usize,

    /// With --draft: end a guess before a token that the draft model holds less likely than this.
    #[arg(long, default_value_t = 0.6, value_name = "P")]
    pub draft_p_min: f32,
}

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    /// bfloat16.
    Bf16,
    /// binary32.
    F32,
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

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub pass: PassArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, Args)]
pub struct SamplingArgs {
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
}

/// Arguments of `tokgate inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
It reads headers only, also of models that cannot be run. The text shows tensors
of the same shape and type in all layers as one; the JSON has each of them, and
the first elements of each array.

Memory by layer type is what running the model takes: weights as they are held
(vectors as f32), keys and values of --ctx positions, and the activations of a
pass of --ubatch-size tokens. A token's GMACs are the sum of m*k*n over its
matmuls, and two MACs for each element of each query and key that meet.

Examples:
  tokgate inspect qwen3-0.6b.gguf
  tokgate inspect llama2-7b.gguf --ctx 4096 --kv bf16
  tokgate inspect Q4_K_M.gguf --dtype q8_0      as --requantize q8_0 holds it")]
pub struct InspectArgs {
    /// GGUF file, or a folder with config.json and safetensors.
    #[arg(value_name = "FILE")]
    pub model: PathBuf,
    /// Positions of the KV cache whose memory is told [default: the model's context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Element type of the KV cache whose memory is told.
    #[arg(long, value_enum, default_value = "bf16")]
    pub kv: KvType,
    /// Tell the memory of matrices that are converted to this type at load.
    #[arg(long, value_enum)]
    pub dtype: Option<WeightType>,
    /// Tokens of the pass whose activations are told.
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = positive)]
    pub ubatch_size: usize,
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
