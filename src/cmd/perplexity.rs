//! `tokgate perplexity`: how well a model predicts a text, as llama-perplexity measures it.
//!
//! The text is one stream of tokens, cut into chunks of `ctx_size`. In each chunk the first token is replaced by the
//! beginning-of-text token where the model wants one, and the tokens of the second half are predicted from all before
//! them in the chunk. Perplexity is `exp(mean(−ln p))`; its error is the standard error of that mean, times perplexity.

use std::io::Write;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::PerplexityArgs;
use crate::cmd::{Outcome, model, runtime};
use crate::engine::forward::{Chunk, LogitRows, Work};
use crate::engine::kv_cache::KvCache;
use crate::engine::tokenizer::EncodeOptions;

/// The outcome, as JSON has it.
#[derive(Debug, Serialize)]
struct Result {
    perplexity: f64,
    standard_error: f64,
    tokens_predicted: usize,
    chunks: usize,
    ctx_size: usize,
}

/// Measures and prints.
///
/// # Errors
/// If the model, its vocabulary or the text cannot be used, or the text is shorter than two chunks.
pub fn run(args: &PerplexityArgs) -> anyhow::Result<Outcome> {
    if args.ctx_size < 4 {
        bail!("--ctx-size must be at least 4");
    }
    let loaded = model::load(&args.model.model, &args.model)?;
    let tokenizer = loaded.tokenizer()?;
    let rt = runtime::from_args(&args.runtime)?;
    let text = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let tokens = tokenizer.encode(&text, options)?;
    let whole = tokens.len() / args.ctx_size;
    if whole == 0 {
        bail!(
            "{} has {} tokens, and a chunk takes {}; use a longer text or a smaller --ctx-size",
            args.file.display(),
            tokens.len(),
            args.ctx_size
        );
    }
    let chunks = args.chunks.unwrap_or(whole).min(whole);
    let progress = ProgressBar::new(chunks as u64).with_style(
        ProgressStyle::with_template("[{bar:30}] {pos}/{len} chunks, {eta} left; {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );

    let model = &loaded.model;
    let mut cache = KvCache::new(model.config(), model::kv(args.kv), args.ctx_size)?;
    let (mut first_half, mut logits) = (Vec::new(), Vec::new());
    let mut losses = Losses::default();
    for chunk in tokens.chunks_exact(args.ctx_size).take(chunks) {
        let mut chunk = chunk.to_vec();
        if let (true, Some(bos)) = (tokenizer.adds_bos(), tokenizer.bos()) {
            chunk[0] = bos;
        }
        cache.truncate(0);
        let half = args.ctx_size / 2;
        let (context, predicted) = chunk.split_at(half);
        // The last row predicts the next chunk's first token, which is not asked for.
        let (asked, _) = predicted.split_at(predicted.len() - 1);
        let context = Chunk {
            tokens: context,
            cache: &mut cache,
            logits: LogitRows::None,
        };
        model.forward(&rt, &mut [context], &mut first_half, &mut Work::default())?;
        let asked = Chunk {
            tokens: asked,
            cache: &mut cache,
            logits: LogitRows::All,
        };
        model.forward(&rt, &mut [asked], &mut logits, &mut Work::default())?;
        let rows = logits.chunks_exact(model.config().n_vocab);
        for (row, next) in rows.zip(&predicted[1..]) {
            losses.add(negative_log_probability(row, *next as usize));
        }
        progress.set_message(format!("perplexity {:.4}", losses.mean().exp()));
        progress.inc(1);
    }
    progress.finish_and_clear();

    let perplexity = losses.mean().exp();
    let result = Result {
        perplexity,
        standard_error: losses.standard_error() * perplexity,
        tokens_predicted: losses.count,
        chunks,
        ctx_size: args.ctx_size,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&result)?)?;
    } else {
        writeln!(
            out,
            "perplexity {:.4} ± {:.4} over {} tokens in {chunks} chunks of {}",
            result.perplexity, result.standard_error, result.tokens_predicted, args.ctx_size
        )?;
    }
    Ok(Outcome::Clean)
}

/// `−ln softmax(logits)[token]`, nats.
fn negative_log_probability(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - max).exp())
        .sum();
    sum.ln() - f64::from(logits[token] - max)
}

/// Sums from which mean and standard error follow.
#[derive(Debug, Default)]
struct Losses {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Losses {
    fn add(&mut self, loss: f64) {
        self.count += 1;
        self.sum += loss;
        self.squares += loss * loss;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    fn standard_error(&self) -> f64 {
        let n = self.count as f64;
        if self.count < 2 {
            return 0.0;
        }
        let variance = (self.squares / n - self.mean().powi(2)).max(0.0);
        (variance / (n - 1.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_are_as_perplexed_as_there_are_tokens() {
        let mut losses = Losses::default();
        for token in 0..50 {
            losses.add(negative_log_probability(&[3.0; 50], token));
        }
        assert!((losses.mean().exp() - 50.0).abs() < 1e-9);
        assert!(losses.standard_error() < 1e-6);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let loss = negative_log_probability(&[1e38, -1e38, 1e38], 0);
        assert!((loss - 2.0_f64.ln()).abs() < 1e-12);
    }
}
