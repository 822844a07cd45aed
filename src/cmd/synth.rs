//! `tokgate synth`: a model file of a real shape with made-up weights.

use std::num::NonZero;
use std::thread;

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use super::Outcome;
use crate::cli::SynthArgs;
use crate::engine::synth::{Plan, Synth};

/// Runs the subcommand.
///
/// # Errors
/// If the file exists and is not to be replaced, or cannot be written.
pub fn run(args: &SynthArgs) -> anyhow::Result<Outcome> {
    let plan = Plan::new(Synth {
        preset: args.preset,
        dtype: args.dtype.into(),
        seed: args.seed,
        layers: args.layers.map(usize::from),
        vocabulary: !args.no_vocab,
    });
    let threads = args.threads.map_or_else(
        || thread::available_parallelism().map_or(1, NonZero::get),
        NonZero::get,
    );
    // It draws nothing where standard error is not a terminal.
    let bar = ProgressBar::new(plan.len()).with_style(
        ProgressStyle::with_template(
            "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
        .expect("the template is correct"),
    );
    let result = plan.write_file(&args.output, args.force, threads, |written| {
        bar.set_position(written);
    });
    bar.finish_and_clear();
    result?;
    let seconds = bar.elapsed().as_secs_f64();
    eprintln!(
        "{}: {} layers, {} in {seconds:.1} s ({:.0} MB/s)",
        args.output.display(),
        plan.config().n_layer,
        DecimalBytes(plan.len()),
        plan.len() as f64 / 1e6 / seconds.max(1e-3),
    );
    Ok(Outcome::Clean)
}
