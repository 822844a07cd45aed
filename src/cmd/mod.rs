//! One file a subcommand: orchestration only. Everything may be imported here; nothing imports `cmd`.

mod bench;
mod bisect;
mod bisect_step;
mod calibrate;
mod cluster;
mod comment;
mod compare;
#[cfg(feature = "serve")]
mod draft;
mod experts;
mod export;
mod gate;
mod history;
#[cfg(feature = "github")]
mod hub;
mod inspect;
mod load;
mod lockstep;
mod logits;
mod model;
mod perplexity;
mod probe;
mod prompts;
mod record;
mod run;
mod runtime;
#[cfg(feature = "serve")]
mod serve;
#[cfg(not(feature = "serve"))]
#[path = "unserved.rs"]
mod serve;
mod sweep;
mod synth;
mod task;
mod tokenize;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::cli::{Cli, Command};

/// How a subcommand that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to report: exit code 0.
    Clean,
    /// A regression beyond the gate: exit code 1.
    Regression,
    /// A code of its own, for a caller that has its own ones.
    Code(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Clean => Self::SUCCESS,
            Outcome::Regression => Self::from(1),
            Outcome::Code(code) => Self::from(code),
        }
    }
}

/// Runs the subcommand that `cli` names.
///
/// # Errors
/// Whatever kept the subcommand from doing its work, with the context a user needs to act on it (exit code 2).
pub fn run(cli: Cli) -> anyhow::Result<Outcome> {
    match cli.command {
        Command::Bench(args) => bench::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Prompts(args) => prompts::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Task(args) => task::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::History(args) => history::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Comment(args) => comment::run(&args),
        Command::Bisect(args) => bisect::run(&args),
        Command::BisectStep(args) => bisect_step::run(&args),
    }
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Whether Ctrl-C asked to stop, from now on; a second one ends the process.
fn interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    // In this order, the first interrupt is taken note of, and a second one ends the process.
    flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&stop)))
        .context("taking note of Ctrl-C")?;
    Ok(stop)
}

/// Prints a report. Whoever stops reading it, such as `head`, has seen enough: that is no trouble.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("stdout"),
        _ => Ok(()),
    }
}
