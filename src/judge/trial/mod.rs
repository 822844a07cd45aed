//! The verdicts of a gate run: a function of the [`Trial`], the [`Gate`] and the machine's [`Calibration`].
//!
//! How a verdict on time is reached, bench by bench:
//!
//! 1. Every block gives the logarithm of head over base ([`super::evidence`]), by the statistic that serves the bench
//!    best: the lower envelope for code that runs from cache, the median for code that runs from memory.
//! 2. The threshold τ is the policy's, or what identical code was measured to differ by here, whichever is more.
//! 3. At each of at most three looks, "not slower than τ" is tested by t at its degrees of freedom. The run's
//!    false-alarm rate is shared out over the looks, and at each look over all judged benches by Holm's procedure, so
//!    that it holds for the run, however many benches there are. Regressed: the test is lost. Improved: likewise on
//!    the other side. Unchanged: the 95 % interval lies wholly below τ. Else more blocks, and in the end inconclusive,
//!    with the smallest slow-down that would have been found.
//! 4. Where the effect differs between links, each link is one piece of evidence, not each block. With fewer than
//!    [`super::evidence::MIN_LINKS`] of them a bench that re-linking one side moves by more than τ is not measurable here,
//!    and never red.
//! 5. Medians are tested beside it with a wider threshold of their own; tails are told, never red.
//!
//! Counts are exact: beyond the threshold and the floor is beyond, and counting twice must give the same.

pub mod simulation;

mod counts;
mod sequence;

use serde::Serialize;

use super::evidence::Part;
use super::gate::Gate;
use super::stats::Statistic;
use super::verdict::{Reason, Verdict};
use crate::record::calibration::Calibration;
use crate::record::trial::{self, Arm, Code, Harness, Trial, TrialBench};
use crate::record::{BenchId, Metric};
use sequence::Judged;

/// How often the figures may be looked at while they are taken.
pub const MAX_LOOKS: usize = sequence::SPENT.len();

/// The shares of the budget after which the figures are looked at.
pub const LOOK_SHARES: [f64; MAX_LOOKS] = [0.4, 0.7, 1.0];

/// The fewest blocks of a bench at the first look, if the budget allows: with fewer, t quantiles are huge.
pub const FIRST_BLOCKS: usize = 6;

/// More blocks than this add nothing to a verdict.
pub const MOST_BLOCKS: usize = 120;

/// What a gate run found, the worst first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The verdict of the run. See [`Report::is_red`] and [`Report::is_broken`] for what it means to a gate.
    pub verdict: Verdict,
    /// One row a bench.
    pub rows: Vec<Row>,
    /// What is wrong with the run, the checks beside it, or the policy.
    pub complaints: Vec<Complaint>,
    /// How the error was shared out.
    pub family: Family,
    /// What identical code was measured to do on this machine, if it was.
    pub measured: Option<Measured>,
}

/// One bench, by clock and by count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The bench.
    pub id: BenchId,
    /// Its package and target.
    pub target: String,
    /// The verdict: the worse of the clock's and the counts'.
    pub verdict: Verdict,
    /// Whether it may turn the gate red.
    pub gates: bool,
    /// Why the verdict is what it is, where the figures alone do not say it.
    pub reasons: Vec<Reason>,
    /// What the clock says.
    pub time: Option<Timed>,
    /// What was counted.
    pub instructions: Option<Counted>,
}

/// What a clock says of a bench.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timed {
    /// The verdict.
    pub verdict: Verdict,
    /// The base's nanoseconds an iteration.
    pub base_ns: f64,
    /// The head's.
    pub head_ns: f64,
    /// The statistic that was compared.
    pub statistic: Statistic,
    /// Blocks that the estimate is made of.
    pub blocks: usize,
    /// The look at which the verdict was reached, from 1.
    pub look: usize,
    /// The effect, and where it lies with 95 % confidence, in percent of time; above 0 is slower.
    pub effect: Effect,
    /// What it must exceed to be a regression.
    pub threshold_pct: f64,
    /// The effect is at least this, with the confidence that the run as a whole needs: red if above the threshold.
    pub at_least_pct: f64,
    /// The effect is at most this, with that confidence: an improvement if below the negative threshold.
    pub at_most_pct: f64,
    /// The smallest slow-down that these blocks would have shown 19 times out of 20.
    pub detectable_pct: f64,
    /// How much re-linking moves it, where that was measured.
    pub null: Option<Effect>,
    /// The median's effect, where another statistic was compared.
    pub median: Option<Effect>,
    /// The 90 % quantile's effect.
    pub tail: Option<Effect>,
}

/// An effect in percent of time, above 0 for slower.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// The estimate.
    pub pct: f64,
    /// Its 95 % interval, the lower bound first.
    pub interval_pct: [f64; 2],
}

/// What was counted of a bench.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Counted {
    /// The verdict.
    pub verdict: Verdict,
    /// The base's count.
    pub base: Option<u64>,
    /// The head's count.
    pub head: Option<u64>,
    /// The change in percent.
    pub delta_pct: Option<f64>,
    /// What it must exceed to be a regression, in percent.
    pub threshold_pct: f64,
}

/// How the error of a run was shared out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Family {
    /// The share of runs that may be red although nothing changed, in percent.
    pub false_alarms_pct: f64,
    /// Benches that were judged by clock.
    pub judged: usize,
    /// Looks at the figures.
    pub looks: usize,
}

/// What identical code was measured to do on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Gate runs of a commit against itself.
    pub rounds: usize,
    /// Verdicts of all of them.
    pub verdicts: usize,
    /// How many were false alarms.
    pub false_alarms: usize,
}

/// Something that keeps a run from being green, or that its reader must know.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Complaint {
    /// A bench target gave no benches.
    Target {
        /// Its package and name.
        target: String,
        /// The side.
        arm: Arm,
        /// What is known.
        what: String,
    },
    /// A check beside the clock does not hold.
    Check {
        /// What was checked.
        name: String,
        /// The figures behind it.
        detail: String,
    },
    /// An acceptance is past its day.
    Expired {
        /// The benches that it is about.
        bench: String,
        /// The last day on which it held.
        expires: String,
    },
    /// A bench that the policy requires is not there.
    Required {
        /// The pattern that nothing matches.
        pattern: String,
    },
    /// An acceptance that is about no bench of this run.
    Unused {
        /// The benches that it is about.
        bench: String,
    },
    /// Nothing was there to be measured.
    NothingMeasured,
    /// The run was cut short.
    Interrupted,
}

impl Report {
    /// Whether the gate is red: something got worse.
    pub fn is_red(&self) -> bool {
        self.reds().next().is_some()
    }

    /// The rows that make the gate red.
    pub fn reds(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| row.gates && row.verdict == Verdict::Regressed)
    }

    /// Whether the run cannot vouch for the change: a bench failed or vanished, a check does not hold, or the policy
    /// wants attention. Never green either.
    pub fn is_broken(&self) -> bool {
        let broken =
            |row: &Row| row.gates && matches!(row.verdict, Verdict::Failed | Verdict::Missing);
        self.rows.iter().any(broken) || self.complaints.iter().any(Complaint::blocks)
    }

    /// Rows of a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows
            .iter()
            .filter(|row| row.verdict == verdict)
            .count()
    }
}

impl Complaint {
    /// Whether the gate cannot be green with it.
    pub const fn blocks(&self) -> bool {
        !matches!(self, Self::Unused { .. })
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Target { target, arm, what } => {
                write!(
                    f,
                    "{target} gave no benches on the side of the {}: {what}",
                    arm.name()
                )
            }
            Self::Check { name, detail } => write!(f, "{name} does not hold: {detail}"),
            Self::Expired { bench, expires } => write!(
                f,
                "what was accepted of '{bench}' expired on {expires}: renew or remove it in gate.toml"
            ),
            Self::Required { pattern } => write!(
                f,
                "no bench is called '{pattern}', which gate.toml requires"
            ),
            Self::Unused { bench } => {
                write!(
                    f,
                    "what gate.toml accepts of '{bench}' is about no bench of this run"
                )
            }
            Self::NothingMeasured => f.write_str("nothing was measured"),
            Self::Interrupted => f.write_str("the run was cut short; start it again to go on"),
        }
    }
}

/// The two links, of so many, that the processes of a side have in a round: none twice before all had their turn, and then
/// with other neighbours.
pub fn links_of(round: usize, links: usize) -> [usize; 2] {
    let links = links.max(1);
    let mut first = 2 * round;
    if links.is_multiple_of(2) {
        first += first / links;
    }
    [first % links, (first + 1) % links]
}

/// Judges what a gate run measured.
pub fn judge(trial: &Trial, gate: &Gate, calibration: Option<&Calibration>) -> Report {
    let calibration = calibration.filter(|known| known.machine_key == trial.machine.key);
    let judged = sequence::judge(trial, gate, calibration);
    let looks = judged
        .iter()
        .flatten()
        .map(|bench| bench.timed.as_ref().map_or(0, |timed| timed.look))
        .max();
    let family = Family {
        false_alarms_pct: gate.policy.false_alarms_pct,
        judged: judged.iter().flatten().count(),
        looks: looks.unwrap_or(0),
    };
    let mut rows = rows(trial, gate, judged);
    rows.sort_by(|a, b| {
        let effect = |row: &Row| row.time.as_ref().map_or(0.0, |timed| timed.effect.pct);
        a.verdict
            .cmp(&b.verdict)
            .then_with(|| effect(b).total_cmp(&effect(a)))
            .then_with(|| (&a.id, &a.target).cmp(&(&b.id, &b.target)))
    });
    let complaints = complaints(trial, gate, &rows);
    let mut report = Report {
        verdict: Verdict::Unchanged,
        rows,
        complaints,
        family,
        measured: calibration.map(|known| Measured {
            rounds: known.rounds,
            verdicts: known.verdicts,
            false_alarms: known.false_alarms,
        }),
    };
    report.verdict = verdict_of(&report);
    report
}

/// The run is as bad as its worst bench that gates; where none is bad, as good as its best.
fn verdict_of(report: &Report) -> Verdict {
    let has = |verdict| {
        let gating = |row: &Row| row.gates && row.verdict == verdict;
        report.rows.iter().any(gating)
    };
    if report.is_red() {
        Verdict::Regressed
    } else if has(Verdict::Failed) || report.complaints.iter().any(Complaint::blocks) {
        Verdict::Failed
    } else if has(Verdict::Missing) {
        Verdict::Missing
    } else if has(Verdict::Inconclusive) {
        Verdict::Inconclusive
    } else if has(Verdict::Improved) {
        Verdict::Improved
    } else if has(Verdict::Unchanged) || report.rows.is_empty() {
        Verdict::Unchanged
    } else {
        Verdict::NotMeasurable
    }
}

fn rows(trial: &Trial, gate: &Gate, judged: Vec<Option<Judged>>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let of_clock = trial.benches.iter().zip(judged).map(|(bench, judged)| {
        let mut row = blank(trial, bench);
        row.gates = gate.policy.gates(&bench.id, Metric::Time).unwrap_or(true);
        one_sided(&mut row, trial, gate, bench);
        if let Some(judged) = judged {
            row.verdict = judged.verdict;
            row.reasons.extend(judged.reason);
            row.time = judged.timed;
            accept(&mut row, trial, gate, Metric::Time);
        }
        (bench, row)
    });
    let mut counted_only = Vec::new();
    for (bench, row) in of_clock {
        let counts = trial
            .target(bench)
            .is_some_and(|target| target.harness == Harness::Callgrind);
        if counts {
            counted_only.push((bench, row));
        } else {
            rows.push(row);
        }
    }
    for (bench, mut row) in counted_only {
        if row.verdict == Verdict::Unchanged {
            counts::judge(&mut row, bench, gate);
            accept(&mut row, trial, gate, Metric::Instructions);
        }
        // A bench that is counted as well as timed is one row.
        match rows
            .iter_mut()
            .find(|known| known.id == row.id && known.time.is_some())
        {
            Some(known) => counts::join(known, row),
            None => rows.push(row),
        }
    }
    rows
}

fn blank(trial: &Trial, bench: &TrialBench) -> Row {
    Row {
        id: bench.id.clone(),
        target: trial.target(bench).map_or_else(String::new, name),
        verdict: Verdict::Unchanged,
        gates: true,
        reasons: Vec::new(),
        time: None,
        instructions: None,
    }
}

fn name(target: &trial::Target) -> String {
    format!("{} {}", target.package, target.name)
}

/// What can be said of a bench without a figure.
fn one_sided(row: &mut Row, trial: &Trial, gate: &Gate, bench: &TrialBench) {
    if let Some(failure) = &bench.failure {
        row.verdict = Verdict::Failed;
        row.reasons.push(Reason::Broken {
            what: format!("{}: {}", failure.arm.name(), failure.what),
        });
        return;
    }
    match (bench.in_base, bench.in_head) {
        (true, true) | (false, false) => {
            let same = trial
                .target(bench)
                .is_some_and(|target| target.code == Code::Same);
            if same {
                row.reasons.push(Reason::SameCode);
            }
        }
        (true, false) => {
            row.verdict = Verdict::Missing;
            if let Some(accepted) = gate.policy.may_vanish(&bench.id, trial.finished_at) {
                row.gates = false;
                row.reasons.push(Reason::Accepted {
                    bound_pct: None,
                    expires: accepted.expires.to_string(),
                    reason: accepted.reason.clone(),
                });
            }
        }
        (false, true) => row.verdict = Verdict::New,
    }
}

/// A regression that was agreed to stays one, but does not gate within its bound.
fn accept(row: &mut Row, trial: &Trial, gate: &Gate, metric: Metric) {
    if row.verdict != Verdict::Regressed {
        return;
    }
    let Some(accepted) = gate.policy.accepted(&row.id, metric, trial.finished_at) else {
        return;
    };
    let bound = accepted.bound_pct.unwrap_or(0.0);
    let beyond = match (metric, &row.time, &row.instructions) {
        (Metric::Time, Some(timed), _) => timed.at_least_pct > bound,
        (Metric::Instructions, _, Some(counted)) => {
            counted.delta_pct.is_none_or(|delta| delta > bound)
        }
        _ => true,
    };
    row.gates &= beyond;
    row.reasons.push(Reason::Accepted {
        bound_pct: Some(bound),
        expires: accepted.expires.to_string(),
        reason: accepted.reason.clone(),
    });
}

fn complaints(trial: &Trial, gate: &Gate, rows: &[Row]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for target in &trial.targets {
        if let Some(failure) = &target.failure {
            complaints.push(Complaint::Target {
                target: name(target),
                arm: failure.arm,
                what: failure.what.clone(),
            });
        }
    }
    for check in &trial.checks {
        if check.outcome == trial::Outcome::Failed {
            complaints.push(Complaint::Check {
                name: check.name.clone(),
                detail: check.detail.clone(),
            });
        }
    }
    for accepted in gate.policy.acceptances() {
        if !accepted.holds(trial.finished_at) {
            complaints.push(Complaint::Expired {
                bench: accepted.bench.clone(),
                expires: accepted.expires.to_string(),
            });
        } else if !trial.benches.iter().any(|bench| accepted.is_of(&bench.id)) {
            complaints.push(Complaint::Unused {
                bench: accepted.bench.clone(),
            });
        }
    }
    for pattern in gate.policy.required() {
        let there =
            |bench: &TrialBench| bench.in_head && super::gate::matches(pattern, bench.id.as_str());
        if !trial.benches.iter().any(there) {
            complaints.push(Complaint::Required {
                pattern: pattern.clone(),
            });
        }
    }
    if rows.is_empty() {
        complaints.push(Complaint::NothingMeasured);
    }
    if trial.interrupted {
        complaints.push(Complaint::Interrupted);
    }
    complaints
}

/// The parts of a bench's distribution, the one that stands for it first.
fn parts(statistic: Statistic) -> [Part; 3] {
    [Part::Main(statistic), Part::Median, Part::Tail]
}

#[cfg(test)]
mod tests;
