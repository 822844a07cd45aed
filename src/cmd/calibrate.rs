//! `tokgate calibrate`: gates a commit against itself, and keeps what that shows of the machine.

use std::env;

use anyhow::{Context, bail};

use super::Outcome;
use super::gate::prepare::{self, Sides};
use super::gate::state::State;
use super::gate::{measure, progress, say};
use crate::cli::CalibrateArgs;
use crate::judge::calibrate::calibrate;
use crate::judge::trial::judge;
use crate::lab::Lab;
use crate::record::calibration::Calibration;
use crate::render::{change, printable};
use crate::session::read_gate;

/// Measures the rounds and writes the calibration.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<Outcome> {
    let here = env::current_dir().context("the current folder")?;
    let mut lab = Lab::open(&here)?;
    let head = match &args.head {
        Some(revision) => lab.resolve(revision)?,
        None => lab.working_tree()?,
    };
    let gate = prepare::settle(&mut lab, &head, |root| {
        read_gate::<anyhow::Error>(&root.join("baselines/gate.toml"))
    })?;
    let sides = Sides {
        base: head.clone(),
        head,
        even_if_same: true,
    };
    let progress = progress();
    let state = State::of(&lab, &sides, &args.measuring);
    let mut prepared = prepare::prepare(&lab, &sides, &args.measuring, None, &progress)?;
    let untouched = prepared.trial.clone();
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let seed = untouched.seed.wrapping_add(round as u64);
        say(
            &progress,
            &format!("round {} of {}, seed {seed}", round + 1, args.rounds),
        );
        prepared.trial = untouched.clone();
        prepared.trial.seed = seed;
        prepared.trial.started_at = jiff::Timestamp::now();
        let judging = |trial: &_| judge(trial, &gate, None);
        let ended = measure::measure(
            &lab,
            &mut prepared,
            &args.measuring,
            &judging,
            &state,
            &progress,
        );
        state.forget();
        match ended {
            Ok(()) => {}
            Err(error) if error.is_interrupt() && !rounds.is_empty() => {
                eprintln!("tokgate: interrupted; the rounds that are complete count");
                break;
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(folder) = &args.records {
            let path = folder.join(format!("round-{:02}.json", round + 1));
            prepared.trial.write(&path)?;
        }
        rounds.push(prepared.trial.clone());
    }
    progress.finish_and_clear();
    let Some(calibration) = calibrate(&rounds, &gate) else {
        bail!("no round was complete");
    };
    if calibration.benches.is_empty() {
        bail!("no bench was measured: is there a criterion target, and does --bench match?");
    }
    let path = calibration.save(lab.project().store().root())?;
    super::print(&told(&calibration))?;
    eprintln!("tokgate: written to {}", path.display());
    Ok(Outcome::Clean)
}

fn told(calibration: &Calibration) -> String {
    let mut text = format!(
        "{}: {} rounds of {:.0} s, identical code\n{} verdicts: {} false alarms, {} false improvements\n\n",
        calibration.machine_key,
        calibration.rounds,
        calibration.budget_s,
        calibration.verdicts,
        calibration.false_alarms,
        calibration.false_improvements
    );
    text.push_str("null %   finds %  statistic  bench\n");
    for bench in &calibration.benches {
        text.push_str(&format!(
            "{:<8} {:<8} {:<10} {}\n",
            change(bench.null_pct).trim_start_matches('+'),
            change(bench.detectable_pct),
            bench.statistic.name(),
            printable(bench.id.as_str())
        ));
    }
    text
}
