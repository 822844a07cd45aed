//! The command line: clap types only, no behaviour.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Kernels that run large language models on CPUs, and the suite that catches the commit which made them slower.
#[derive(Debug, Parser)]
#[command(name = "tokgate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One subcommand; its arguments are defined here, its behaviour in the file of the same name under `cmd/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the token ids of a text, on one line.
    Tokenize(TokenizeArgs),
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
