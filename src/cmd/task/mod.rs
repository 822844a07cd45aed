//! `tokgate task`: makes tasks of many conversations, and has a model answer them.

mod report;
mod run;

use crate::cli::{TaskArgs, TaskCommand, TaskSortArgs};
use crate::cmd::Outcome;
use crate::record::write_whole;
use crate::workload::sort::SortTask;

/// Makes or runs a task.
///
/// # Errors
/// If a file cannot be read or written, or the model cannot be used.
pub fn run(args: &TaskArgs) -> anyhow::Result<Outcome> {
    match &args.command {
        TaskCommand::Sort(args) => sort(args),
        TaskCommand::Run(args) => run::run(args),
    }
}

fn sort(args: &TaskSortArgs) -> anyhow::Result<Outcome> {
    let task = SortTask {
        batches: args.num_batches,
        per_batch: args.per_batch,
        ints: args.ints,
        below: args.below,
        seed: args.seed,
    };
    write_whole(&args.output, &task.json()?)?;
    eprintln!(
        "{}: {} batches of {} conversations of {} numbers below {}, seed {}",
        args.output.display(),
        task.batches,
        task.per_batch,
        task.ints,
        task.below,
        task.seed
    );
    Ok(Outcome::Clean)
}
