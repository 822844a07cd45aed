//! What there is to say, whether it was measured by `tokgate gate` or weighed by `tokgate compare`.

use crate::judge::trial::{Counted, Report, Row as TrialRow};
use crate::judge::{Comparison, Reason, Row, Verdict};
use crate::record::trial::{Revision, Trial};
use crate::record::{BenchId, Metric, git::is_commit};
use crate::render::{Sides, change, drift, figure, rows};

/// Everything that a pull request is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// What the gate says.
    pub outcome: Outcome,
    /// What was compared, where and how long.
    pub facts: Vec<Fact>,
    /// What is wrong with the run itself.
    pub complaints: Vec<Complaint>,
    /// One line a bench, the worst first.
    pub lines: Vec<Line>,
    /// How the figures are to be read, and how far to trust them: sentences of Markdown.
    pub method: Vec<String>,
    /// The command that measures it again.
    pub reproduce: Option<String>,
}

/// What a gate says, and the exit code with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing got worse: 0.
    Clean,
    /// Something got worse: 1.
    Regressed,
    /// It cannot be told: 2.
    Broken,
}

/// One thing to know of the run, in parts as somebody wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is.
    pub name: &'static str,
    /// What there is to know.
    pub parts: Vec<String>,
}

/// Something that is wrong with the run itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Whether the gate cannot be green with it.
    pub blocks: bool,
    /// What is wrong, as somebody wrote it.
    pub text: String,
}

/// What is to be said of one bench.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The bench.
    pub id: BenchId,
    /// Its package and target, where they are known.
    pub target: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether it counts.
    pub gates: bool,
    /// The base's figure with its unit.
    pub base: Option<String>,
    /// The head's.
    pub head: Option<String>,
    /// The change of the figure in percent.
    pub delta_pct: Option<f64>,
    /// Where the change lies.
    pub interval_pct: Option<[f64; 2]>,
    /// The smallest change for the worse that would have been found.
    pub detectable_pct: Option<f64>,
    /// The change of the instructions, where they were counted beside a clock.
    pub instructions: Option<String>,
    /// Why.
    pub reasons: Vec<Reason>,
}

impl Line {
    /// Whether it belongs among what moved.
    pub fn has_moved(&self) -> bool {
        matches!(
            self.verdict,
            Verdict::Failed | Verdict::Regressed | Verdict::Missing | Verdict::Improved
        )
    }

    /// Whether it keeps the gate from being green because something got worse.
    pub fn is_red(&self) -> bool {
        self.gates && self.verdict == Verdict::Regressed
    }
}

impl Page {
    /// What a gate run found.
    pub fn of_trial(report: &Report, trial: &Trial) -> Self {
        let outcome = if report.is_red() {
            Outcome::Regressed
        } else if report.is_broken() {
            Outcome::Broken
        } else {
            Outcome::Clean
        };
        Self {
            outcome,
            facts: facts(trial),
            complaints: report
                .complaints
                .iter()
                .map(|complaint| Complaint {
                    blocks: complaint.blocks(),
                    text: complaint.to_string(),
                })
                .collect(),
            lines: report.rows.iter().map(of_trial_row).collect(),
            method: method(report),
            reproduce: reproduce(trial),
        }
    }

    /// What a comparison with a stored baseline found.
    pub fn of_comparison(comparison: &Comparison, sides: &Sides) -> Self {
        let outcome = if comparison.regressions().next().is_some() {
            Outcome::Regressed
        } else if comparison.failures().next().is_some() {
            Outcome::Broken
        } else {
            Outcome::Clean
        };
        let mut method = vec![
            "Δ % is the head against a stored baseline that was measured in another session; what the machine itself \
             did between the two is granted."
                .to_owned(),
        ];
        method.extend(drift(comparison));
        if comparison.not_measured > 0 {
            method.push(format!(
                "{} benches of the baseline were not measured.",
                comparison.not_measured
            ));
        }
        Self {
            outcome,
            facts: vec![
                fact("head", [sides.now.clone()]),
                fact("base", [sides.base.clone()]),
            ],
            complaints: Vec::new(),
            lines: rows(comparison).map(of_comparison_row).collect(),
            method,
            reproduce: None,
        }
    }
}

fn of_trial_row(row: &TrialRow) -> Line {
    let mut line = Line {
        id: row.id.clone(),
        target: row.target.clone(),
        verdict: row.verdict,
        gates: row.gates,
        base: None,
        head: None,
        delta_pct: None,
        interval_pct: None,
        detectable_pct: None,
        instructions: None,
        reasons: row.reasons.clone(),
    };
    if let Some(timed) = &row.time {
        line.base = finite(timed.base_ns).map(|ns| figure(Metric::Time, ns));
        line.head = finite(timed.head_ns).map(|ns| figure(Metric::Time, ns));
        line.delta_pct = finite(timed.effect.pct);
        let [low, high] = timed.effect.interval_pct;
        line.interval_pct = (low.is_finite() && high.is_finite()).then_some([low, high]);
        line.detectable_pct = finite(timed.detectable_pct);
        line.instructions = row.instructions.as_ref().map(both_counts);
    } else if let Some(counted) = &row.instructions {
        let count = |count: Option<u64>| count.map(|n| figure(Metric::Instructions, n as f64));
        line.base = count(counted.base);
        line.head = count(counted.head);
        line.delta_pct = counted.delta_pct.and_then(finite);
    }
    line
}

fn both_counts(counted: &Counted) -> String {
    match counted.delta_pct.and_then(finite) {
        Some(delta) => format!("{} %", change(delta)),
        None => counted.verdict.to_string(),
    }
}

fn of_comparison_row(row: &Row) -> Line {
    let side =
        |side: Option<crate::judge::Summary>| side.map(|side| figure(row.metric, side.value));
    Line {
        id: row.id.clone(),
        target: String::new(),
        verdict: row.verdict,
        gates: row.gates,
        base: side(row.base),
        head: side(row.now),
        delta_pct: row.delta_pct.and_then(finite),
        interval_pct: row.interval_pct,
        detectable_pct: None,
        instructions: None,
        reasons: row.reason.iter().cloned().collect(),
    }
}

fn facts(trial: &Trial) -> Vec<Fact> {
    let machine = &trial.machine;
    let took = trial.finished_at.duration_since(trial.started_at);
    vec![
        fact("head", revision(&trial.head)),
        fact("base", revision(&trial.base)),
        fact(
            "machine",
            [
                machine.cpu.clone(),
                format!("{} CPUs", machine.cpus),
                trial.build.rustc.clone(),
            ],
        ),
        fact(
            "run",
            [
                format!("{:.1} min", took.as_secs_f64() / 60.0),
                format!("seed {}", trial.seed),
            ],
        ),
    ]
}

fn fact(name: &'static str, parts: impl IntoIterator<Item = String>) -> Fact {
    Fact {
        name,
        parts: parts.into_iter().collect(),
    }
}

/// A commit, what it was asked for by, and whether it was changed.
fn revision(revision: &Revision) -> Vec<String> {
    let mut parts = vec![revision.commit.clone()];
    if !revision.commit.starts_with(&revision.asked) {
        parts.push(revision.asked.clone());
    }
    if revision.dirty {
        parts.push("with changes".to_owned());
    }
    parts
}

fn method(report: &Report) -> Vec<String> {
    let mut said = vec![
        "Δ % is time, above 0 is slower, with its 95 % interval; *least seen* is the smallest slow-down that would have \
         been found 19 times out of 20. Base and head ran in turn, a fresh process each time."
            .to_owned(),
    ];
    if report.family.judged > 0 {
        said.push(format!(
            "By design at most {} % of runs of unchanged code are red, over all {} benches that were timed.",
            report.family.false_alarms_pct, report.family.judged
        ));
    }
    said.push(match report.measured {
        Some(measured) => format!(
            "Measured on this machine: {} false alarms among {} verdicts on identical code ({} runs).",
            measured.false_alarms, measured.verdicts, measured.rounds
        ),
        None => "On this machine the rate of false alarms was not measured yet: `tokgate calibrate` does.".to_owned(),
    });
    said
}

/// The command, if both sides are commits that others can have.
fn reproduce(trial: &Trial) -> Option<String> {
    let [base, head] = [&trial.base, &trial.head];
    let clean = |side: &Revision| !side.dirty && is_commit(&side.commit);
    (clean(base) && clean(head)).then(|| {
        format!(
            "git fetch origin {base} {head}\ntokgate gate --base {base} --head {head} --budget {}s --seed {}",
            trial.budget_s.round(),
            trial.seed,
            base = base.commit,
            head = head.commit,
        )
    })
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}
