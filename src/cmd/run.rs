//! `tokgate run`: continues a text.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use tokgate_kernels::Runtime;

use crate::cli::RunArgs;
use crate::cmd::model::{self, Loaded};
use crate::cmd::{Outcome, runtime};
use crate::engine::forward::{Chunk, LogitRows, Work};
use crate::engine::kv_cache::KvCache;
use crate::engine::sampler::{Sampler, SamplerParams};
use crate::engine::tokenizer::{EncodeOptions, Tokenizer};

/// What a run tells of itself. Times leave out loading and tokenising; each rate has the tokens that were computed in
/// its time: the first generated token belongs to the prompt's pass.
#[derive(Debug, Serialize)]
struct Summary {
    level: String,
    threads: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    load_ms: f64,
    /// From the start of the prompt's first pass to the first sampled token.
    first_token_ms: f64,
    prompt_tokens_per_second: f64,
    /// Passes of one token each over their time: one less than the tokens that were generated.
    decode_tokens_per_second: f64,
    decode_gb_per_second: f64,
}

/// Generates and prints.
///
/// # Errors
/// If the model or its vocabulary cannot be used, or the prompt does not fit the context.
pub fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let loaded = model::load(&args.model.model, &args.model)?;
    let tokenizer = loaded.tokenizer()?;
    let rt = runtime::from_args(&args.runtime)?;
    let load = started.elapsed();

    let prompt = tokenizer.encode(&text(args)?, EncodeOptions::SPECIAL)?;
    if prompt.is_empty() {
        bail!(
            "the prompt is empty and the model has no token to begin a text with; give it a prompt with -p"
        );
    }
    let generation = Generation {
        args,
        loaded: &loaded,
        tokenizer: &tokenizer,
        rt: &rt,
    };
    let mut summary = generation.run(&prompt)?;
    summary.load_ms = ms(load);
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        eprintln!(
            "\n{} tokens of prompt at {:.2} tok/s, {} generated at {:.2} tok/s ({:.1} GB/s); \
             first token after {:.1} ms, loaded in {:.1} ms; {} threads, {}",
            summary.prompt_tokens,
            summary.prompt_tokens_per_second,
            summary.generated_tokens,
            summary.decode_tokens_per_second,
            summary.decode_gb_per_second,
            summary.first_token_ms,
            summary.load_ms,
            summary.threads,
            summary.level,
        );
    }
    Ok(Outcome::Clean)
}

fn text(args: &RunArgs) -> anyhow::Result<Vec<u8>> {
    if args.prompt != "-" {
        return Ok(args.prompt.clone().into_encoded_bytes());
    }
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .context("standard input")?;
    Ok(text)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

struct Generation<'a> {
    args: &'a RunArgs,
    loaded: &'a Loaded,
    tokenizer: &'a Tokenizer,
    rt: &'a Runtime,
}

impl Generation<'_> {
    fn run(&self, prompt: &[u32]) -> anyhow::Result<Summary> {
        let args = self.args;
        let model = &self.loaded.model;
        let positions = prompt.len().saturating_add(args.n_predict);
        let capacity = args.ctx_size.unwrap_or(positions);
        let mut cache = KvCache::new(model.config(), model::kv(args.kv), capacity)?;
        let mut sampler = Sampler::new(SamplerParams {
            temperature: args.temp,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            seed: args.seed,
            ..SamplerParams::default()
        })?;
        let mut decoder = self.tokenizer.decoder(false).continuing();
        let mut out = std::io::stdout().lock();
        let mut logits = Vec::new();

        let started = Instant::now();
        let mut batches = prompt.chunks(args.ubatch_size).peekable();
        while let Some(tokens) = batches.next() {
            let rows = if batches.peek().is_none() {
                LogitRows::Last
            } else {
                LogitRows::None
            };
            let chunk = Chunk {
                tokens,
                cache: &mut cache,
                logits: rows,
            };
            model.forward(self.rt, &mut [chunk], &mut logits, &mut Work::default())?;
        }
        let mut generated = 0;
        let mut first = started.elapsed();
        let mut decode = Duration::ZERO;
        let mut work = Work::default();
        while generated < args.n_predict {
            let passed = Instant::now();
            let token = sampler.sample(&logits)?;
            sampler.accept(token);
            if generated == 0 {
                first = started.elapsed();
            }
            if self.tokenizer.ends_generation(token) && !args.ignore_eos {
                break;
            }
            generated += 1;
            out.write_all(decoder.push(token)?.as_bytes())
                .and_then(|()| out.flush())?;
            if generated == args.n_predict || cache.len() == cache.capacity() {
                break;
            }
            let chunk = Chunk {
                tokens: &[token],
                cache: &mut cache,
                logits: LogitRows::Last,
            };
            model.forward(self.rt, &mut [chunk], &mut logits, &mut work)?;
            decode += passed.elapsed();
        }
        writeln!(out, "{}", decoder.finish())?;
        let passes = cache.len() - prompt.len();
        let per_second = |amount: f64, time: Duration| {
            if time.is_zero() {
                0.0
            } else {
                amount / time.as_secs_f64()
            }
        };
        Ok(Summary {
            level: self.rt.level().to_string(),
            threads: self.rt.pool().threads(),
            prompt_tokens: prompt.len(),
            generated_tokens: generated,
            load_ms: 0.0,
            first_token_ms: ms(first),
            prompt_tokens_per_second: per_second(prompt.len() as f64, first),
            decode_tokens_per_second: per_second(passes as f64, decode),
            decode_gb_per_second: per_second(work.bytes as f64 / 1e9, decode),
        })
    }
}
