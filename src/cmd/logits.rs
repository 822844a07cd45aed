//! `tokgate logits`: what the model says about given tokens, for checking it from outside.

use std::io::{BufWriter, Write};

use anyhow::Context;

use crate::cli::LogitsArgs;
use crate::cmd::{Outcome, model, runtime};
use crate::engine::forward::{Chunk, LogitRows, Work};
use crate::engine::kv_cache::KvCache;
use crate::whole::temporary_beside;

/// Writes the logits of every position.
///
/// # Errors
/// If the model cannot be loaded, a token is not in its vocabulary, or the file cannot be written.
pub fn run(args: &LogitsArgs) -> anyhow::Result<Outcome> {
    let model = model::load(&args.model.model, &args.model)?.model;
    let rt = runtime::from_args(&args.runtime)?;
    let mut cache = KvCache::new(model.config(), model::kv(args.pass.kv), args.tokens.len())?;
    let file = temporary_beside(&args.output)
        .with_context(|| format!("cannot write beside {}", args.output.display()))?;
    let mut out = BufWriter::new(file);
    let mut logits = Vec::new();
    for tokens in args.tokens.chunks(args.pass.ubatch_size) {
        let chunk = Chunk {
            tokens,
            cache: &mut cache,
            logits: LogitRows::All,
        };
        model.forward(&rt, &mut [chunk], &mut logits, &mut Work::default())?;
        for logit in &logits {
            out.write_all(&logit.to_le_bytes())
                .with_context(|| format!("writing {}", args.output.display()))?;
        }
    }
    let file = out
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error);
    file.map_err(anyhow::Error::from)
        .and_then(|file| Ok(file.persist(&args.output)?))
        .with_context(|| format!("writing {}", args.output.display()))?;
    eprintln!(
        "{}: {} positions × {} logits",
        args.output.display(),
        args.tokens.len(),
        model.config().n_vocab
    );
    Ok(Outcome::Clean)
}
