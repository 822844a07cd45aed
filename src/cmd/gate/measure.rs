//! The session: blocks of fresh processes in shuffled rounds, looks, and time spent where a verdict is not clear yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::prepare::Prepared;
use super::state::State;
use super::{is_the_targets, say};
use crate::cli::MeasuringArgs;
use crate::judge::Verdict;
use crate::judge::trial::{FIRST_BLOCKS, LOOK_SHARES, MOST_BLOCKS, Report, links_of};
use crate::lab::lockstep::Program;
use crate::lab::{Lab, LabError, Pace};
use crate::record::BenchId;
use crate::record::trial::{
    Arm, Block, Code, Counts, Failure, Harness, ProcessRun, Trial, TrialBench,
};

/// Blocks of a bench that the budget is shared out for, which decides how long a process samples.
const PLANNED_BLOCKS: f64 = 14.0;

/// Processes of a block.
const BLOCK: usize = 4;

/// The shortest and the longest that a process samples, in seconds.
const SAMPLING_S: [f64; 2] = [0.05, 0.25];

/// The shortest and the longest that two processes take turns, in seconds. Which pages a process got moves it by half a
/// percent, so that many pairs of processes tell more than long ones.
const IN_TURN_S: [f64; 2] = [1.0, 6.0];

/// What is thrown away before: caches and branch predictors know the code after a few thousand calls.
const WARM_UP_S: f64 = 0.015;

/// Most samples of a process: many short ones find the gaps that neighbours leave.
const MOST_SAMPLES: f64 = 40.0;

/// How many times its share of the time until a look a bench may take before those are asked first that took less: one
/// that runs for seconds would leave too little for all others.
const MOST_SHARE: u32 = 2;

/// Seconds between two writings of the state.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Measures what `prepared` found until every verdict is clear or the budget is spent.
///
/// # Errors
/// [`LabError::Interrupted`], with what was measured until then in `prepared`, or what keeps all benches from running.
pub(crate) fn measure(
    lab: &Lab,
    prepared: &mut Prepared<'_>,
    measuring: &MeasuringArgs,
    judging: &dyn Fn(&Trial) -> Report,
    state: &State,
    progress: &ProgressBar,
) -> Result<(), LabError> {
    count(lab, prepared, measuring, progress)?;
    let mut session = Session::new(lab, prepared, measuring, state, progress);
    let ended = session.run(judging);
    let elapsed_s = session.elapsed().as_secs_f64();
    prepared.trial.finished_at = Timestamp::now();
    if ended.is_err() {
        state.save(elapsed_s, &prepared.trial);
    }
    ended
}

struct Session<'a, 'b> {
    lab: &'a Lab,
    prepared: &'a mut Prepared<'b>,
    state: &'a State,
    progress: &'a ProgressBar,
    budget: Duration,
    start: Instant,
    /// What an interrupted run has spent.
    spent_before: Duration,
    saved: Instant,
    /// What of a bench is known by having measured it.
    known: BTreeMap<usize, Known>,
    planned_s: f64,
}

/// How a bench runs, as its processes so far tell.
#[derive(Clone, Copy)]
struct Known {
    /// Nanoseconds of an iteration.
    iteration_ns: f64,
}

impl<'a, 'b> Session<'a, 'b> {
    fn new(
        lab: &'a Lab,
        prepared: &'a mut Prepared<'b>,
        measuring: &MeasuringArgs,
        state: &'a State,
        progress: &'a ProgressBar,
    ) -> Self {
        let benches = measurable(&prepared.trial).len().max(1);
        let planned_s =
            measuring.budget.as_secs_f64() / (benches as f64 * PLANNED_BLOCKS * BLOCK as f64);
        Self {
            lab,
            state,
            progress,
            budget: measuring.budget,
            start: Instant::now(),
            spent_before: Duration::from_secs_f64(prepared.elapsed_s),
            saved: Instant::now(),
            known: BTreeMap::new(),
            planned_s,
            prepared,
        }
    }

    fn elapsed(&self) -> Duration {
        self.spent_before + self.start.elapsed()
    }

    fn run(&mut self, judging: &dyn Fn(&Trial) -> Report) -> Result<(), LabError> {
        let mut open = measurable(&self.prepared.trial);
        for (look, share) in LOOK_SHARES.into_iter().enumerate() {
            if open.is_empty() {
                break;
            }
            let looked = |bench: &TrialBench| bench.looks.len() > look;
            if open
                .iter()
                .all(|at| looked(&self.prepared.trial.benches[*at]))
            {
                // An interrupted run has looked already.
                open = self.undecided(judging);
                continue;
            }
            self.measure_until(self.budget.mul_f64(share), look, &open)?;
            for at in &open {
                let bench = &mut self.prepared.trial.benches[*at];
                let blocks = bench.blocks.len();
                if bench.looks.last().is_none_or(|last| *last < blocks) && bench.looks.len() <= look
                {
                    bench.looks.push(blocks);
                }
            }
            open = self.undecided(judging);
        }
        Ok(())
    }

    /// Rounds through the open benches, in another order each time, until `deadline` of the budget.
    fn measure_until(
        &mut self,
        deadline: Duration,
        look: usize,
        open: &[usize],
    ) -> Result<(), LabError> {
        let last = look + 1 == LOOK_SHARES.len();
        let share = deadline.saturating_sub(self.elapsed()) / open.len().max(1) as u32;
        let mut taken: BTreeMap<usize, Duration> = BTreeMap::new();
        loop {
            let trial = &self.prepared.trial;
            let round = open.iter().map(|at| trial.benches[*at].blocks.len()).max();
            let round = round.unwrap_or(0);
            let is_modest = |at: &usize| {
                let taken = taken.get(at).copied().unwrap_or_default();
                taken <= share * MOST_SHARE
            };
            let few = open.iter().any(|at| {
                let blocks = trial.benches[*at].blocks.len();
                alive(trial, *at) && is_modest(at) && blocks < FIRST_BLOCKS
            });
            let over = self.elapsed() >= self.budget;
            let enough = self.elapsed() >= deadline && !(look == 0 && few && !over);
            let mut order: Vec<usize> = open
                .iter()
                .copied()
                .filter(|at| alive(trial, *at) && trial.benches[*at].blocks.len() < MOST_BLOCKS)
                .collect();
            if order.is_empty() || enough {
                return Ok(());
            }
            if order.iter().any(is_modest) {
                order.retain(is_modest);
            }
            // Order and arms are drawn from the seed and the round alone, so that a run that goes on draws the same.
            let seed = trial.seed ^ ((round as u64 + 1) << 20);
            let mut rng = StdRng::seed_from_u64(seed);
            order.shuffle(&mut rng);
            for at in order {
                if last && self.elapsed() >= self.budget && round >= FIRST_BLOCKS {
                    return Ok(());
                }
                self.tell(at, open.len());
                let start = self.elapsed();
                self.block(at, round, &mut rng)?;
                *taken.entry(at).or_default() += self.elapsed().saturating_sub(start);
            }
            if self.saved.elapsed() > SAVE_EVERY {
                self.saved = Instant::now();
                self.state
                    .save(self.elapsed().as_secs_f64(), &self.prepared.trial);
            }
        }
    }

    /// Measures one block: one arm, the other twice, the one again, each with another link.
    fn block(&mut self, at: usize, round: usize, rng: &mut StdRng) -> Result<(), LabError> {
        let bench = &self.prepared.trial.benches[at];
        let (id, target) = (bench.id.clone(), bench.target);
        if let Some(program) = self.prepared.targets[target].lockstep.clone() {
            return self.in_turn(at, &program, round, rng);
        }
        let links = self.prepared.links[target][0].len();
        let order = if rng.random() {
            [Arm::Base, Arm::Head, Arm::Head, Arm::Base]
        } else {
            [Arm::Head, Arm::Base, Arm::Base, Arm::Head]
        };
        let mut pair = links_of(round, links);
        if rng.random() {
            pair.reverse();
        }
        if !self.known.contains_key(&at) {
            // How the bench runs is not known before it ran, and a process that samples otherwise is no evidence.
            let binary = &self.prepared.links[target][Arm::Base as usize][0];
            match self.lab.measure(binary, &id, self.pace(at)) {
                Ok(samples) => {
                    let ns = samples.per_iteration_ns().fold(f64::INFINITY, f64::min);
                    self.known.insert(at, Known { iteration_ns: ns });
                }
                Err(error) if is_the_targets(&error) => {
                    self.fail(at, Arm::Base, &error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let at_ms = self.elapsed().as_millis() as u64;
        let mut runs = Vec::new();
        for (place, arm) in order.into_iter().enumerate() {
            let link = pair[place / 2];
            let binary = &self.prepared.links[target][arm as usize][link];
            let pace = self.pace(at);
            match self.lab.measure(binary, &id, pace) {
                Ok(samples) => runs.push(ProcessRun { arm, link, samples }),
                Err(error) if is_the_targets(&error) => {
                    self.fail(at, arm, &error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.prepared.trial.benches[at].blocks.push(Block {
            round: round as u32,
            at_ms,
            runs,
        });
        Ok(())
    }

    /// Measures one block of processes that take turns: one of each side, at once.
    fn in_turn(
        &mut self,
        at: usize,
        program: &Program,
        round: usize,
        rng: &mut StdRng,
    ) -> Result<(), LabError> {
        let target = self.prepared.trial.benches[at].target;
        let arms = if rng.random() {
            [Arm::Base, Arm::Head]
        } else {
            [Arm::Head, Arm::Base]
        };
        let link = round % self.prepared.links[target][0].len().max(1);
        let binaries = arms.map(|arm| &self.prepared.links[target][arm as usize][link]);
        let [least, most] = IN_TURN_S;
        let time = Duration::from_secs_f64((self.planned_s * BLOCK as f64).clamp(least, most));
        let at_ms = self.elapsed().as_millis() as u64;
        match self.lab.lockstep(binaries, program, time) {
            Ok(samples) => {
                let runs = arms.into_iter().zip(samples);
                let runs = runs.map(|(arm, samples)| ProcessRun { arm, link, samples });
                self.prepared.trial.benches[at].blocks.push(Block {
                    round: round as u32,
                    at_ms,
                    runs: runs.collect(),
                });
                Ok(())
            }
            Err((place, error)) if is_the_targets(&error) => {
                self.fail(at, arms[place], &error);
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    fn fail(&mut self, at: usize, arm: Arm, error: &LabError) {
        let what = error.to_string();
        self.prepared.trial.benches[at].failure = Some(Failure { arm, what });
    }

    /// Short enough for the budget, long enough for ten samples.
    fn pace(&self, at: usize) -> Pace {
        let [least, most] = SAMPLING_S;
        let sampling = (self.planned_s * 0.7).clamp(least, most);
        let samples = match self.known.get(&at) {
            Some(known) => (sampling * 1e9 / known.iteration_ns.max(1.0)).clamp(10.0, MOST_SAMPLES),
            None => 10.0,
        };
        Pace {
            warm_up: Duration::from_secs_f64(WARM_UP_S),
            measure: Duration::from_secs_f64(sampling),
            samples: samples as usize,
            ..Pace::default()
        }
    }

    /// The benches whose verdict is not clear yet.
    fn undecided(&self, judging: &dyn Fn(&Trial) -> Report) -> Vec<usize> {
        let trial = &self.prepared.trial;
        let report = judging(trial);
        let is_open = |at: &usize| {
            let id: &BenchId = &trial.benches[*at].id;
            let of_clock = report
                .rows
                .iter()
                .find(|row| row.id == *id)
                .and_then(|row| row.time.as_ref());
            of_clock.is_none_or(|timed| timed.verdict == Verdict::Inconclusive)
        };
        measurable(trial).into_iter().filter(is_open).collect()
    }

    fn tell(&self, at: usize, open: usize) {
        if self.progress.is_hidden() {
            return;
        }
        let left = self.budget.saturating_sub(self.elapsed()).as_secs();
        self.progress.set_prefix(format!(
            "{open} open, at most {}:{:02} left",
            left / 60,
            left % 60
        ));
        self.progress
            .set_message(self.prepared.trial.benches[at].id.to_string());
    }
}

/// The benches that a clock can measure on both sides, as places in the trial.
fn measurable(trial: &Trial) -> Vec<usize> {
    (0..trial.benches.len())
        .filter(|at| {
            let bench = &trial.benches[*at];
            let target = &trial.targets[bench.target];
            bench.in_base
                && bench.in_head
                && target.harness != Harness::Callgrind
                && matches!(target.code, Code::Differs | Code::Unknown)
                && alive(trial, *at)
        })
        .collect()
}

fn alive(trial: &Trial, at: usize) -> bool {
    trial.benches[at].failure.is_none()
}

/// Counts instructions on both sides, twice each, where a target can.
fn count(
    lab: &Lab,
    prepared: &mut Prepared<'_>,
    measuring: &MeasuringArgs,
    progress: &ProgressBar,
) -> Result<(), LabError> {
    let countable: Vec<usize> = (0..prepared.targets.len())
        .filter(|at| {
            let target = &prepared.trial.targets[*at];
            target.harness == Harness::Callgrind
                && target.failure.is_none()
                && target.code == Code::Differs
        })
        .collect();
    if countable.is_empty() {
        return Ok(());
    }
    if let Some(missing) = lab.counting_needs() {
        let note = format!("instructions are not counted: {missing}");
        prepared.trial.notes.push(note);
        return Ok(());
    }
    for at in countable {
        let target = &prepared.targets[at];
        if prepared
            .trial
            .benches
            .iter()
            .any(|bench| bench.target == at)
        {
            // An interrupted run has counted.
            continue;
        }
        say(
            progress,
            &format!("counting the instructions of {}", target.name),
        );
        let mut found: BTreeMap<BenchId, Counts> = BTreeMap::new();
        let mut failure = None;
        for (arm, tree) in [
            (Arm::Base, &prepared.base),
            (Arm::Head, &prepared.head),
            (Arm::Base, &prepared.base),
            (Arm::Head, &prepared.head),
        ] {
            match lab.count(tree, target) {
                Ok(counts) => {
                    for (id, count) in counts {
                        if measuring.selects(id.as_str()) {
                            let counts = found.entry(id).or_default();
                            match arm {
                                Arm::Base => counts.base.push(count),
                                Arm::Head => counts.head.push(count),
                            }
                        }
                    }
                }
                Err(error) if is_the_targets(&error) => {
                    let what = error.to_string();
                    failure.get_or_insert(Failure { arm, what });
                }
                Err(error) => return Err(error),
            }
        }
        prepared.trial.targets[at].failure = failure;
        for (id, instructions) in found {
            let (in_base, in_head) = (!instructions.base.is_empty(), !instructions.head.is_empty());
            let mut bench = TrialBench::new(id, at, in_base, in_head);
            bench.instructions = instructions;
            prepared.trial.benches.push(bench);
        }
    }
    Ok(())
}
