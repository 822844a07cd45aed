//! Arguments of `tokgate serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{DraftArgs, KvType, ModelArgs, RuntimeArgs, positive};

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Address to listen at; one that others can reach should go with --api-key-file.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: IpAddr,

    /// Port to listen at; 0 for any that is free.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,

    /// Requests that are computed at a time.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = positive)]
    pub parallel: usize,

    /// Tokens of a request, prompt and answer together [default: the model's, at most 8192].
    #[arg(short, long, visible_alias = "ctx", value_name = "N", value_parser = positive)]
    pub ctx_size: Option<usize>,

    /// Tokens computed in one pass: a long prompt delays the others' next token by one such pass.
    #[arg(short, long, default_value_t = 256, value_name = "N", value_parser = positive)]
    pub ubatch_size: usize,

    /// Element type of the KV cache.
    #[arg(long, value_enum, default_value = "bf16")]
    pub kv: KvType,

    /// Guess tokens with this smaller model of the same vocabulary, and check them in one pass. A text that runs alone is the
    /// same, token for token, as without. Guesses that do not pay are given up.
    #[arg(long, value_name = "FILE")]
    pub draft: Option<PathBuf>,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub draft_options: DraftArgs,

    /// Guess up to N tokens from what the text said before after the same words, and check them in one pass, as
    /// with --draft. 0 turns it off. With --draft, this is tried first.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub look_up: usize,

    /// Give every answer the bits that it would have if nobody else asked: texts and prompts are not computed in the
    /// same passes, and an earlier prompt serves a later one only in whole passes of --ubatch-size tokens. Costs time
    /// where several ask at once.
    #[arg(long)]
    pub batch_invariant: bool,

    /// Requests that may wait; more are told to come again (429).
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = positive)]
    pub max_queue: usize,

    /// Connections at a time.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = positive)]
    pub max_connections: usize,

    /// Bytes of a request at most (413).
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES", value_parser = positive)]
    pub max_body: usize,

    /// Seconds from a request to the end of its answer at most.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// File with the keys, one a line, one of which every request must bring.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Measure instead of serving others: for each empty line on standard input, ask this server N requests at once, with
    /// prompts and answers of 32 tokens, and tell the nanoseconds until all are answered. `tokgate gate` lets base and
    /// head take turns by it.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub lockstep: Option<usize>,

    /// Name of the model for clients [default: the file's name without its ending].
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

const EXAMPLES: &str = "\
Examples:
  tokgate serve -m qwen3-0.6b.gguf --parallel 8 --ctx-size 4096
  tokgate serve -m qwen3-0.6b.gguf --batch-invariant --parallel 8
  tokgate serve -m coder-32b.gguf --draft coder-1.5b.gguf --draft-max 24
  yes '' | head -20 | tokgate serve -m qwen3-0.6b.gguf --lockstep 4 --ctx-size 80
  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\":
    [{\"role\": \"user\", \"content\": \"Hello\"}], \"stream\": true}'";
