//! `tokgate run`: continues a text, and tells what that took.

mod benchmark;
mod report;

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tokgate_kernels::Runtime;

use crate::cli::{MetricsFormat, RunArgs};
use crate::cmd::model::{self, Loaded};
use crate::cmd::{Outcome, runtime};
use crate::engine::sampler::Sampler;
use crate::engine::tokenizer::{EncodeOptions, Tokenizer};
use crate::generation::single::{Options, Timeline, generate};
use crate::probe::process::Moment;

/// Tokens to generate at most, unless the user says otherwise.
const N_PREDICT: usize = 128;

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
    /// Passes of one token each over their time: one less than the tokens that were sampled.
    decode_tokens_per_second: f64,
    decode_gb_per_second: f64,
}

/// A model that is ready to generate.
struct Session {
    loaded: Loaded,
    tokenizer: Tokenizer,
    rt: Runtime,
    load_s: f64,
}

/// Generates and prints.
///
/// # Errors
/// If the model or its vocabulary cannot be used, or the prompt does not fit the context.
pub fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    let session = Session::open(args)?;
    match &args.prompt {
        None => benchmark::run(args, &session),
        Some(prompt) => {
            let prompt = text(prompt)?;
            let prompt = session.tokenizer.encode(&prompt, EncodeOptions::SPECIAL)?;
            session.continue_text(args, &prompt)
        }
    }
}

impl Session {
    fn open(args: &RunArgs) -> anyhow::Result<Self> {
        let started = Instant::now();
        let loaded = model::load(&args.model.model, &args.model)?;
        let tokenizer = loaded.tokenizer()?;
        let rt = runtime::from_args(&args.runtime)?;
        Ok(Self {
            loaded,
            tokenizer,
            rt,
            load_s: started.elapsed().as_secs_f64(),
        })
    }

    fn continue_text(&self, args: &RunArgs, prompt: &[u32]) -> anyhow::Result<Outcome> {
        let mut sampler = model::sampler(args.sampling)?;
        let options = options(args, args.n_predict.unwrap_or(N_PREDICT));
        let quiet = args.metrics == Some(MetricsFormat::Json);
        let before = Moment::now();
        let (timeline, text) = self.generate(
            prompt,
            options,
            args.sampling.ignore_eos,
            &mut sampler,
            !quiet,
        )?;
        let usage = before.until(&Moment::now());
        report::experts(args, self, &timeline)?;
        match args.metrics {
            Some(format) => report::metrics(args, format, self, timeline, usage, &text)?,
            None => self.summary(args, &timeline)?,
        }
        Ok(Outcome::Clean)
    }

    /// Generates, printing the text as it comes if `print`.
    fn generate(
        &self,
        prompt: &[u32],
        options: Options,
        ignore_eos: bool,
        sampler: &mut Sampler,
        print: bool,
    ) -> anyhow::Result<(Timeline, String)> {
        let mut decoder = self.tokenizer.decoder(false).continuing();
        let mut text = String::new();
        let mut out = std::io::stdout().lock();
        let mut trouble = None;
        let ends = |token| self.tokenizer.ends_generation(token) && !ignore_eos;
        let sink = |token| {
            let piece = decoder.push(token).map_err(anyhow::Error::from);
            let shown = piece.and_then(|piece| {
                if print {
                    out.write_all(piece.as_bytes()).and_then(|()| out.flush())?;
                }
                text.push_str(&piece);
                Ok(())
            });
            match shown {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    trouble = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let model = &self.loaded.model;
        let timeline = generate(model, &self.rt, prompt, options, sampler, ends, sink)?;
        if let Some(error) = trouble {
            return Err(error);
        }
        let rest = decoder.finish();
        if print {
            writeln!(out, "{rest}")?;
        }
        Ok((timeline, text + &rest))
    }

    fn summary(&self, args: &RunArgs, timeline: &Timeline) -> anyhow::Result<()> {
        let per = |amount: f64, seconds: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let first = timeline
            .first_token()
            .unwrap_or(timeline.prefill)
            .as_secs_f64();
        let decode = timeline.decode().as_secs_f64();
        let summary = Summary {
            level: self.rt.level().to_string(),
            threads: self.rt.pool().threads(),
            prompt_tokens: timeline.prompt_tokens,
            generated_tokens: timeline.generated,
            load_ms: self.load_s * 1e3,
            first_token_ms: first * 1e3,
            prompt_tokens_per_second: per(timeline.prompt_tokens as f64, first),
            decode_tokens_per_second: per(timeline.gaps().len() as f64, decode),
            decode_gb_per_second: per(timeline.decode_work.bytes as f64 / 1e9, decode),
        };
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
        Ok(())
    }
}

fn options(args: &RunArgs, max_new: usize) -> Options {
    Options {
        max_new,
        context: args.ctx_size,
        ubatch: args.pass.ubatch_size,
        kv: model::kv(args.pass.kv),
    }
}

fn text(prompt: &std::ffi::OsStr) -> anyhow::Result<Vec<u8>> {
    if prompt != "-" {
        return Ok(prompt.as_encoded_bytes().to_vec());
    }
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .context("standard input")?;
    Ok(text)
}
