//! `tokgate task run`: answers all conversations of a task, several times.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokgate_kernels::Runtime;

use super::report;
use crate::cli::{TaskMode, TaskRunArgs};
use crate::cmd::model::{self, Loaded};
use crate::cmd::{Outcome, runtime};
use crate::engine::tokenizer::{EncodeOptions, Tokenizer};
use crate::generation::batch::{self, Mode, Options, Run};
use crate::generation::chat::Template;
use crate::record::read_text;
use crate::workload::sort::{MAX_FILE_BYTES, Task, is_right};

/// Everything that a report tells.
pub struct Done<'a> {
    pub args: &'a TaskRunArgs,
    pub loaded: &'a Loaded,
    pub rt: &'a Runtime,
    pub mode: Mode,
    pub template: Template,
    pub times: Times,
    /// Conversations.
    pub conversations: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Timed repetitions, in the order in which they were run.
    pub runs: Vec<Run>,
    /// Answers of the last repetition, decoded.
    pub outputs: Vec<String>,
    /// Answers that end with the question's numbers in order, of those that ask for it.
    pub right: Option<(usize, usize)>,
    /// Whether all repetitions gave the same tokens.
    pub same_outputs: bool,
}

/// Seconds of what is done once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub load_model: f64,
    pub load_input: f64,
    pub encode_input: f64,
    pub decode_outputs: f64,
}

/// Runs the task and reports.
pub fn run(args: &TaskRunArgs) -> anyhow::Result<Outcome> {
    let mut times = Times::default();
    let (loaded, tokenizer, rt) = timed(&mut times.load_model, || {
        let loaded = model::load(&args.model.model, &args.model)?;
        let tokenizer = loaded.tokenizer()?;
        let rt = runtime::from_args(&args.runtime)?;
        anyhow::Ok((loaded, tokenizer, rt))
    })?;
    let task = timed(&mut times.load_input, || load(args))?;
    let template = Template::of(&tokenizer);
    let batches = timed(&mut times.encode_input, || {
        encode(&task, template, &tokenizer)
    })?;
    let largest = batches.iter().map(Vec::len).max().unwrap_or(0);
    let mode = match args.mode {
        TaskMode::Padded => Mode::Padded,
        TaskMode::Packed => Mode::Packed {
            parallel: args.parallel.unwrap_or(largest),
        },
    };
    let runs = repeat(args, &loaded, &tokenizer, &rt, &batches, mode)?;
    let last = runs.last().context("there is a repetition")?;
    let outputs: Vec<String> = timed(&mut times.decode_outputs, || {
        let text = |tokens: &Vec<u32>| {
            let bytes = tokenizer.decode(tokens, false)?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        last.outputs.iter().map(text).collect::<Result<_, _>>()
    })?;
    let verdicts: Vec<bool> = task
        .iter()
        .flatten()
        .zip(&outputs)
        .filter_map(|(messages, output)| is_right(&messages.last()?.content, output))
        .collect();
    let right = verdicts.iter().filter(|right| **right).count();
    let done = Done {
        args,
        loaded: &loaded,
        rt: &rt,
        mode,
        template,
        times,
        conversations: outputs.len(),
        prompt_tokens: batches
            .iter()
            .flatten()
            .map(|prompt| prompt.len() as u64)
            .sum(),
        right: (!verdicts.is_empty()).then_some((right, verdicts.len())),
        same_outputs: runs.iter().all(|run| run.outputs == last.outputs),
        outputs,
        runs,
    };
    report::report(&done)?;
    Ok(Outcome::Clean)
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    let result = work()?;
    *seconds = started.elapsed().as_secs_f64();
    Ok(result)
}

fn load(args: &TaskRunArgs) -> anyhow::Result<Task> {
    let text = read_text(&args.task, MAX_FILE_BYTES)?;
    let task: Task = serde_json::from_str(&text).with_context(|| {
        format!(
            "{}: not a task file, which is [batch][conversation][{{role, content}}]; `tokgate task sort` makes one",
            args.task.display()
        )
    })?;
    if task.iter().all(Vec::is_empty) {
        bail!("{}: no conversation in it", args.task.display());
    }
    Ok(task)
}

fn encode(
    task: &Task,
    template: Template,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
    let encode = |messages: &Vec<_>| {
        let text = template.prompt(messages);
        Ok(tokenizer.encode(text.as_bytes(), EncodeOptions::SPECIAL)?)
    };
    task.iter()
        .map(|batch| batch.iter().map(encode).collect())
        .collect()
}

fn repeat(
    args: &TaskRunArgs,
    loaded: &Loaded,
    tokenizer: &Tokenizer,
    rt: &Runtime,
    batches: &[Vec<Vec<u32>>],
    mode: Mode,
) -> anyhow::Result<Vec<Run>> {
    let options = Options {
        mode,
        max_new: args.max_new,
        ubatch: args.pass.ubatch_size,
        kv: model::kv(args.pass.kv),
    };
    let pad = tokenizer.eos().or(tokenizer.eot()).unwrap_or(0);
    let ends = |token| tokenizer.ends_generation(token);
    let warm_up = usize::from(!args.no_warmup);
    let rounds = args.repetitions + warm_up;
    let bar = ProgressBar::new(rounds as u64).with_style(
        ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len}, {eta} left")
            .expect("the template is correct"),
    );
    bar.enable_steady_tick(Duration::from_secs(1));
    let mut runs = Vec::with_capacity(args.repetitions);
    for round in 0..rounds {
        bar.set_message(if round < warm_up { "warm-up" } else { "timed" });
        let run = batch::run(&loaded.model, rt, batches, options, pad, &ends)?;
        if round >= warm_up {
            runs.push(run);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(runs)
}
