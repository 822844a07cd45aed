//! `tokgate bisect-step`: one answer for `git bisect run`, or none.

use std::env;
use std::time::Instant;

use anyhow::Context;

use super::Outcome;
use super::bisect::{Measured, WallClock, Workbench};
use crate::cli::BisectStepArgs;
use crate::judge::evidence::Estimate;
use crate::lab::Lab;

/// The exit code that makes `git bisect run` skip a commit.
const SKIP: Outcome = Outcome::Code(125);

/// The exit code that makes it stop: every other commit would meet the same trouble.
const STOP: Outcome = Outcome::Code(128);

/// After so many links a look is taken at what they say; the risk is shared between the looks.
const LOOKS: [u32; 4] = [6, 10, 16, 26];

/// Runs of each link.
const RUNS: u32 = 2;

/// Measures what is checked out against the good commit.
pub fn run(args: &BisectStepArgs) -> anyhow::Result<Outcome> {
    match answer(args) {
        Ok((outcome, said)) => {
            eprintln!("tokgate: {said}");
            Ok(outcome)
        }
        Err(error) => {
            eprintln!("tokgate: {error:#}");
            Ok(STOP)
        }
    }
}

fn answer(args: &BisectStepArgs) -> anyhow::Result<(Outcome, String)> {
    let lab = Lab::open(&env::current_dir().context("the current folder")?)?;
    let good = lab.resolve(&args.good_baseline)?;
    let here = lab.working_tree()?;
    let mut clock = WallClock::new(
        &lab,
        &good,
        &args.bench,
        args.target.as_deref(),
        false,
        args.time,
    )
    .with_context(|| format!("the good commit '{}'", args.good_baseline))?;
    let bound = (args.threshold / 100.0).ln_1p();
    let risk = args.risk / LOOKS.len() as f64;
    let begun = Instant::now();
    let mut ratios = Vec::new();
    for link in 0..LOOKS[LOOKS.len() - 1] {
        let link = if clock.relinks { link } else { 0 };
        match clock.measure(&here.id, link, RUNS)? {
            Measured::Unbuildable(why) => {
                return Ok((SKIP, format!("skipped: it does not build or run: {why}")));
            }
            // The unit of evidence is a link: its runs share a layout.
            Measured::Figures { figures, .. } => {
                ratios.push(figures.iter().sum::<f64>() / figures.len().max(1) as f64);
            }
        }
        let last = begun.elapsed() >= args.budget;
        if !last && !LOOKS.contains(&(ratios.len() as u32)) {
            continue;
        }
        if let Some(seen) = Estimate::of(&ratios) {
            let change = 100.0 * seen.center.exp_m1();
            let said = format!(
                "{change:+.2} % against the good commit, {} links",
                ratios.len()
            );
            if seen.p_above(bound) <= risk {
                return Ok((Outcome::Regression, format!("bad: {said}")));
            }
            if seen.p_below(bound) <= risk {
                return Ok((Outcome::Clean, format!("good: {said}")));
            }
        }
        if last {
            break;
        }
    }
    let seen = Estimate::of(&ratios).map_or_else(String::new, |seen| {
        format!(": {:+.2} %", 100.0 * seen.center.exp_m1())
    });
    Ok((
        SKIP,
        format!("skipped: not clear after {} links{seen}", ratios.len()),
    ))
}
