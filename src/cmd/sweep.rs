//! `tokgate sweep`: the same work at several thread counts.

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokgate_kernels::Runtime;

use super::{Outcome, model, print, runtime};
use crate::cli::{MetricsFormat, SweepArgs};
use crate::metrics::sweep::{Rate, Recommended, Row, recommend};
use crate::record::{Better, FIGURES_SCHEMA, Figure, write_whole};
use crate::render::sweep::{plot, table};
use crate::throughput::{Bench, Case, Sample};

#[derive(Serialize)]
struct Document {
    schema: u32,
    kind: &'static str,
    model: String,
    model_type: String,
    level: String,
    cpus: usize,
    n_prompt: usize,
    n_gen: usize,
    seed: u64,
    rows: Vec<Row>,
    recommended: Recommended,
    /// `prefill_rate/tN` and `decode_rate/tN`, each with its samples.
    figures: Vec<Figure>,
}

/// What is measured at one thread count.
struct Lane<'a> {
    threads: usize,
    prefill: Bench<'a>,
    decode: Bench<'a>,
    prefill_rates: Vec<f64>,
    decode_rates: Vec<f64>,
}

/// Measures and recommends.
///
/// # Errors
/// If the model cannot be loaded, or threads or memory cannot be had.
pub fn run(args: &SweepArgs) -> anyhow::Result<Outcome> {
    let loaded = model::load(&args.model.model, &args.model)?;
    let cpus = runtime::cores();
    let counts = counts(&args.threads, cpus);
    let runtimes: Vec<Runtime> = counts
        .iter()
        .map(|&threads| runtime::new(threads, args.pin, args.level.as_deref()))
        .collect::<Result<_, _>>()?;
    let mut lanes = Vec::new();
    for (rt, &threads) in runtimes.iter().zip(&counts) {
        let case = |n_prompt, n_gen| Case {
            n_prompt,
            n_gen,
            n_depth: 0,
            ubatch: args.pass.ubatch_size,
            kv: model::kv(args.pass.kv),
        };
        lanes.push(Lane {
            threads,
            prefill: Bench::new(&loaded.model, rt, case(args.n_prompt, 0), args.seed)?,
            decode: Bench::new(&loaded.model, rt, case(0, args.n_gen), args.seed)?,
            prefill_rates: Vec::new(),
            decode_rates: Vec::new(),
        });
    }
    measure(args, &mut lanes)?;
    let rows: Vec<Row> = lanes
        .into_iter()
        .map(|lane| Row {
            threads: lane.threads,
            oversubscribed: lane.threads > cpus,
            prefill: Rate::of(lane.prefill_rates),
            decode: Rate::of(lane.decode_rates),
        })
        .collect();
    let recommended = recommend(&rows).expect("there is a thread count");
    let level = runtimes[0].level().to_string();
    let head = format!("{}, {level}, {cpus} CPUs", loaded.model_type());
    if let Some(path) = &args.plot {
        write_whole(path, &plot(&format!("Threads: {head}"), &rows, recommended))?;
    }
    match args.output {
        MetricsFormat::Text => {
            let work = format!(
                "prompts of {} tokens, {} generated, {} repetitions each, median ± MAD",
                args.n_prompt, args.n_gen, args.repetitions
            );
            print(&format!(
                "{head}\n{work}\n\n{}",
                table(&rows, recommended, cpus)
            ))?;
        }
        MetricsFormat::Json => {
            let document = Document {
                schema: FIGURES_SCHEMA,
                kind: "thread_sweep",
                model: loaded.path.display().to_string(),
                model_type: loaded.model_type(),
                level,
                cpus,
                n_prompt: args.n_prompt,
                n_gen: args.n_gen,
                seed: args.seed,
                figures: figures(&rows),
                rows,
                recommended,
            };
            print(&format!("{}\n", serde_json::to_string_pretty(&document)?))?;
        }
    }
    Ok(Outcome::Clean)
}

/// The counts that were asked for, ascending and each once; or powers of two up to twice the CPUs.
fn counts(asked: &[usize], cpus: usize) -> Vec<usize> {
    let mut counts = asked.to_vec();
    if counts.is_empty() {
        let powers = std::iter::successors(Some(1), |count| Some(2 * count));
        counts.extend(powers.take_while(|count| *count < 2 * cpus));
        counts.extend([cpus, 2 * cpus]);
    }
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Lanes take turns, in the other direction every other time.
fn measure(args: &SweepArgs, lanes: &mut [Lane<'_>]) -> anyhow::Result<()> {
    let bar = ProgressBar::new(((args.repetitions + 1) * lanes.len()) as u64).with_style(
        ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len}, {eta} left")
            .expect("the template is correct"),
    );
    for lane in &mut *lanes {
        bar.set_message(format!("{} threads", lane.threads));
        lane.prefill.warm_up()?;
        lane.decode.warm_up()?;
        bar.inc(1);
    }
    let rate = |tokens: usize, sample: &Sample| tokens as f64 * 1e9 / sample.ns.max(1) as f64;
    for _ in 0..args.repetitions {
        for lane in &mut *lanes {
            bar.set_message(format!("{} threads", lane.threads));
            lane.prefill_rates
                .push(rate(args.n_prompt, &lane.prefill.repeat()?));
            lane.decode_rates
                .push(rate(args.n_gen, &lane.decode.repeat()?));
            bar.inc(1);
        }
        lanes.reverse();
    }
    lanes.sort_by_key(|lane| lane.threads);
    bar.finish_and_clear();
    Ok(())
}

fn figures(rows: &[Row]) -> Vec<Figure> {
    let figure = |key: String, rate: &Rate, formula: &str| Figure {
        key,
        value: rate.median,
        unit: "tok/s".to_owned(),
        better: Some(Better::Higher),
        samples: rate.samples.clone(),
        formula: formula.to_owned(),
    };
    let both = rows.iter().flat_map(|row| {
        let key = |name| format!("{name}/t{}", row.threads);
        [
            figure(
                key("prefill_rate"),
                &row.prefill,
                "n_prompt / time of its passes",
            ),
            figure(
                key("decode_rate"),
                &row.decode,
                "n_gen / time of its passes",
            ),
        ]
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_counts_reach_into_over_subscription() {
        assert_eq!(counts(&[], 2), [1, 2, 4]);
        assert_eq!(counts(&[], 12), [1, 2, 4, 8, 12, 16, 24]);
        assert_eq!(counts(&[4, 1, 4], 2), [1, 4]);
    }
}
