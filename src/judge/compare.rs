//! Weighs records against records.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::gate::{ClockedLimits, CountedLimits, Gate, Limits};
use super::stats::{Statistic, Summary, median_and_deviation};
use super::verdict::{Reason, Verdict};
use crate::record::{BenchId, Direction, MachineKey, Measurement, Metric, Record, Samples};

/// Fewer controls than this are no witness of what the machine did.
const MIN_CONTROLS: usize = 3;

/// Without controls, fewer benches than this are none: one changed operation moves several of them.
const MIN_BENCHES: usize = 8;

/// Standard deviations of the benches' scatter around their common movement that a claim must outlast. With the
/// thresholds on top, the simulation in the tests finds no false alarm in thousands of benches.
const SCATTERS: f64 = 3.0;

/// Whether what the new side lacks is missing, or was just not measured this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The new side should have every bench that the baseline has.
    Whole,
    /// The new side is a run of some benches.
    Partial,
}

/// What a comparison found, the worst first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// One row a bench and metric.
    pub rows: Vec<Row>,
    /// What the machine did between the two sides.
    pub drift: Drift,
    /// Benches and metrics of the baseline that a partial run did not measure.
    pub not_measured: usize,
}

/// One bench and metric on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The bench.
    pub id: BenchId,
    /// What was measured.
    pub metric: Metric,
    /// The new side.
    pub now: Option<Summary>,
    /// The baseline.
    pub base: Option<Summary>,
    /// The change of the compared figure in percent of the baseline's.
    pub delta_pct: Option<f64>,
    /// Where the change may really lie, in percent, lower bound first.
    pub interval_pct: Option<[f64; 2]>,
    /// How much worse it may be, in percent.
    pub threshold_pct: Option<f64>,
    /// Whether a regression counts.
    pub gates: bool,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, where the figures do not say it.
    pub reason: Option<Reason>,
}

/// What the machine did between two sides, as far as it can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "seen_in", rename_all = "snake_case")]
pub enum Drift {
    /// In code that this project does not change.
    Controls(Seen),
    /// In all benches together.
    AllBenches(Seen),
    /// Not at all: too few benches.
    Nothing,
}

/// A common movement of benches and their scatter around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// How many benches.
    pub benches: usize,
    /// The median change in percent; above 0 is slower.
    pub median_pct: f64,
    /// The scatter of the changes around it, as a standard deviation in percent.
    pub scatter_pct: f64,
}

impl Comparison {
    /// The rows that turn a gate red.
    pub fn regressions(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| row.gates && row.verdict == Verdict::Regressed)
    }

    /// The rows whose measurement is wrong.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| row.verdict == Verdict::Failed)
    }

    /// Whether anything was weighed at all.
    pub fn has_judgements(&self) -> bool {
        self.rows.iter().any(|row| row.verdict.is_judgement())
    }
}

/// Weighs `now` against `base`: each measurement against the one of the same bench, metric and machine key.
pub fn compare(now: &[Record], base: &[Record], gate: &Gate, coverage: Coverage) -> Comparison {
    let baseline = Baseline::of(base);
    let measured = || {
        now.iter()
            .flat_map(|record| record.measurements().map(move |m| (record.key(), m)))
    };
    let drift = drift(measured(), &baseline, gate);
    let mut rows: Vec<Row> = measured()
        .map(|(key, measurement)| judge(key, measurement, &baseline, gate, drift))
        .collect();
    excuse_trade_offs(&mut rows);

    let keys: BTreeSet<&MachineKey> = now.iter().map(Record::key).collect();
    let seen: BTreeSet<(&BenchId, Metric)> =
        measured().map(|(_, m)| (m.id(), m.metric())).collect();
    let unseen = baseline
        .all()
        .filter(|(key, m)| keys.contains(key) && !seen.contains(&(m.id(), m.metric())));
    let mut not_measured = 0;
    match coverage {
        Coverage::Partial => not_measured = unseen.count(),
        Coverage::Whole => rows.extend(unseen.map(|(_, measurement)| missing(measurement, gate))),
    }
    rows.sort_by(|a, b| {
        let badness = |row: &Row| {
            let delta = row.delta_pct.unwrap_or(0.0);
            match row.metric.direction() {
                Direction::LowerIsBetter => delta,
                Direction::HigherIsBetter => -delta,
            }
        };
        a.verdict
            .cmp(&b.verdict)
            .then_with(|| badness(b).total_cmp(&badness(a)))
            .then_with(|| (&a.id, a.metric).cmp(&(&b.id, b.metric)))
    });
    Comparison {
        rows,
        drift,
        not_measured,
    }
}

/// The baseline's measurements by what they are of; several machines may have the same.
struct Baseline<'a> {
    found: BTreeMap<(&'a BenchId, Metric), Vec<(&'a MachineKey, &'a Measurement)>>,
}

impl<'a> Baseline<'a> {
    fn of(records: &'a [Record]) -> Self {
        let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in records {
            for measurement in record.measurements() {
                let place = (measurement.id(), measurement.metric());
                found
                    .entry(place)
                    .or_default()
                    .push((record.key(), measurement));
            }
        }
        Self { found }
    }

    fn all(&self) -> impl Iterator<Item = (&'a MachineKey, &'a Measurement)> {
        self.found.values().flatten().copied()
    }

    /// The measurement to compare with: that of the same machine, or else any.
    fn partner(
        &self,
        key: &MachineKey,
        measurement: &Measurement,
    ) -> Option<(&'a MachineKey, &'a Measurement)> {
        let found = self.found.get(&(measurement.id(), measurement.metric()))?;
        let same = found.iter().find(|(other, _)| *other == key);
        same.or(found.first()).copied()
    }
}

/// What all benches of one machine did together, or the controls among them.
fn drift<'a>(
    measured: impl Iterator<Item = (&'a MachineKey, &'a Measurement)>,
    baseline: &Baseline<'_>,
    gate: &Gate,
) -> Drift {
    let (mut controls, mut all) = (Vec::new(), Vec::new());
    for (key, now) in measured {
        let Limits::Clocked(limits) = gate.limits(now.id(), now.metric()) else {
            continue;
        };
        let Some((base_key, base)) = baseline.partner(key, now) else {
            continue;
        };
        let (now_side, base_side) = (
            Summary::of(now, limits.statistic),
            Summary::of(base, limits.statistic),
        );
        let enough = now_side.samples.min(base_side.samples) >= limits.min_samples;
        let effect = worse_by(now.metric(), now_side.value, base_side.value);
        if base_key == key && enough && effect.is_finite() {
            all.push(effect);
            if gate.is_control(now.id()) {
                controls.push(effect);
            }
        }
    }
    if controls.len() >= MIN_CONTROLS {
        seen(&controls).map_or(Drift::Nothing, Drift::Controls)
    } else if all.len() >= MIN_BENCHES {
        seen(&all).map_or(Drift::Nothing, Drift::AllBenches)
    } else {
        Drift::Nothing
    }
}

fn seen(effects: &[f64]) -> Option<Seen> {
    let (median, scatter) = median_and_deviation(effects)?;
    Some(Seen {
        benches: effects.len(),
        median_pct: percent(median),
        scatter_pct: percent(scatter),
    })
}

fn judge(
    key: &MachineKey,
    now: &Measurement,
    baseline: &Baseline<'_>,
    gate: &Gate,
    drift: Drift,
) -> Row {
    let (id, metric) = (now.id(), now.metric());
    let limits = gate.limits(id, metric);
    let statistic = match limits {
        Limits::Clocked(limits) => limits.statistic,
        Limits::Counted(_) => Statistic::Best,
    };
    let now_side = Summary::of(now, statistic);
    let mut row = Row {
        id: id.clone(),
        metric,
        now: Some(now_side),
        base: None,
        delta_pct: None,
        interval_pct: None,
        threshold_pct: None,
        gates: gate.gates(id, metric),
        verdict: Verdict::New,
        reason: None,
    };
    if let Some(reason) = implausible(now, &limits) {
        row.verdict = Verdict::Failed;
        row.reason = Some(reason);
        return row;
    }
    let Some((base_key, base)) = baseline.partner(key, now) else {
        return row;
    };
    let base_side = Summary::of(base, statistic);
    row.base = Some(base_side);
    row.delta_pct =
        Some((now_side.value / base_side.value - 1.0) * 100.0).filter(|delta| delta.is_finite());
    if base_key != key {
        row.verdict = Verdict::NotMeasurable;
        row.reason = Some(Reason::OtherMachine {
            base: base_key.clone(),
        });
        return row;
    }
    if let Some(reason) = implausible(base, &limits) {
        row.verdict = Verdict::Failed;
        row.reason = Some(reason);
        return row;
    }
    match limits {
        Limits::Clocked(limits) => {
            row.threshold_pct = Some(limits.threshold_pct);
            let control = gate.is_control(id);
            judge_clocked(&mut row, now_side, base_side, limits, gate, drift);
            if control && row.verdict == Verdict::Regressed {
                row.reason = Some(Reason::Control);
            }
        }
        Limits::Counted(limits) => {
            row.threshold_pct = Some(limits.threshold_pct);
            judge_counted(&mut row, now, base, limits);
        }
    }
    row
}

fn judge_clocked(
    row: &mut Row,
    now: Summary,
    base: Summary,
    limits: ClockedLimits,
    gate: &Gate,
    drift: Drift,
) {
    let samples = now.samples.min(base.samples);
    if samples < limits.min_samples {
        row.verdict = Verdict::Inconclusive;
        row.reason = Some(Reason::FewSamples {
            samples,
            needed: limits.min_samples,
        });
        return;
    }
    let metric = row.metric;
    let machine = Machine::between(drift, gate);
    let effect = worse_by(metric, now.value, base.value);
    let own = now.wander + base.wander + machine.scatter;
    let (low, high) = (
        effect - own - machine.slower_by,
        effect + own + machine.faster_by,
    );
    row.interval_pct = Some(in_percent_of_figure(metric, low, high));

    let threshold = (limits.threshold_pct / 100.0).ln_1p();
    let highest = match drift {
        // What the machine did is known apart from what the code did.
        Drift::Controls(_) => effect + own - machine.slower_by + machine.faster_by,
        Drift::AllBenches(_) => high,
        // A drift that nobody saw may excuse a slow-down; to hide one of just this size would be a coincidence.
        Drift::Nothing => effect + own,
    };
    row.verdict = if low > threshold {
        Verdict::Regressed
    } else if high < -threshold {
        Verdict::Improved
    } else if highest < threshold {
        Verdict::Unchanged
    } else {
        row.reason = Some(Reason::WithinNoise);
        Verdict::Inconclusive
    };
    if matches!(row.verdict, Verdict::Unchanged | Verdict::Improved) {
        judge_rest_of_distribution(row, now, base, limits, machine);
    }
}

/// A slow-down that hits only some calls: the lower envelope does not see it.
fn judge_rest_of_distribution(
    row: &mut Row,
    now: Summary,
    base: Summary,
    limits: ClockedLimits,
    machine: Machine,
) {
    let median = worse_by(row.metric, now.median, base.median);
    let threshold = (limits.median_threshold_pct / 100.0).ln_1p();
    if median - machine.slower_by > threshold {
        // Neighbours move a median as well. Only samples that agree among themselves can blame the code.
        let own = (now.spread_pct + base.spread_pct) / 100.0 + machine.scatter;
        row.verdict = if median - own - machine.slower_by > threshold {
            Verdict::Regressed
        } else {
            Verdict::Inconclusive
        };
        row.reason = Some(Reason::Median {
            delta_pct: percent(median),
        });
        return;
    }
    let tail = worse_by(row.metric, now.tail, base.tail);
    if tail - machine.slower_by > (limits.tail_threshold_pct / 100.0).ln_1p() {
        row.verdict = Verdict::Inconclusive;
        row.reason = Some(Reason::Tail {
            delta_pct: percent(tail),
        });
    }
}

fn judge_counted(row: &mut Row, now: &Measurement, base: &Measurement, limits: CountedLimits) {
    let (Some(now), Some(base)) = (the_count(now), the_count(base)) else {
        row.verdict = Verdict::NotMeasurable;
        row.reason = Some(Reason::CountsDiffer);
        return;
    };
    let more = now - base;
    let beyond = more.abs() > limits.floor && more.abs() > base * limits.threshold_pct / 100.0;
    row.verdict = match (beyond, more > 0.0) {
        (false, _) => Verdict::Unchanged,
        (true, true) => Verdict::Regressed,
        (true, false) => Verdict::Improved,
    };
}

/// The count that every process came to.
fn the_count(measurement: &Measurement) -> Option<f64> {
    match measurement.samples() {
        Samples::Counts(counts) => {
            let first = *counts.first()?;
            counts
                .iter()
                .all(|count| *count == first)
                .then_some(first as f64)
        }
        Samples::Timed(_) | Samples::Rates(_) => None,
    }
}

/// Figures that no real work can have left behind.
fn implausible(now: &Measurement, limits: &Limits) -> Option<Reason> {
    match limits {
        Limits::Clocked(_) => {
            let zero = now.figures().iter().any(|figure| *figure <= 0.0);
            zero.then_some(Reason::Implausible {
                least: f64::MIN_POSITIVE,
            })
        }
        Limits::Counted(limits) if now.metric() == Metric::Instructions => {
            let shape = multiply_accumulates(now.id()) / limits.macs_per_instruction;
            let least = limits.least.max(shape.floor());
            let counted = the_count(now)?;
            (counted < least).then_some(Reason::Implausible { least })
        }
        Limits::Counted(_) => None,
    }
}

/// m × k × n of a shape that names all three, otherwise 0.
pub(super) fn multiply_accumulates(id: &BenchId) -> f64 {
    let Some(parts) = id.parts() else {
        return 0.0;
    };
    let size = |wanted: &str| {
        let mut dimensions = parts.dimensions();
        dimensions.find_map(|(name, size)| (name == wanted).then_some(size as f64))
    };
    match (size("m"), size("k"), size("n")) {
        (Some(m), Some(k), Some(n)) => m * k * n,
        _ => 0.0,
    }
}

/// More instructions are no loss where the clock proves the gain.
fn excuse_trade_offs(rows: &mut [Row]) {
    let faster: BTreeSet<BenchId> = rows
        .iter()
        .filter(|row| row.metric == Metric::Time && row.verdict == Verdict::Improved)
        .map(|row| row.id.clone())
        .collect();
    for row in rows {
        if row.metric == Metric::Instructions
            && row.verdict == Verdict::Regressed
            && faster.contains(&row.id)
        {
            row.gates = false;
            row.reason = Some(Reason::TradeOff);
        }
    }
}

fn missing(base: &Measurement, gate: &Gate) -> Row {
    let (id, metric) = (base.id(), base.metric());
    let statistic = match gate.limits(id, metric) {
        Limits::Clocked(limits) => limits.statistic,
        Limits::Counted(_) => Statistic::Best,
    };
    Row {
        id: id.clone(),
        metric,
        now: None,
        base: Some(Summary::of(base, statistic)),
        delta_pct: None,
        interval_pct: None,
        threshold_pct: None,
        gates: gate.gates(id, metric),
        verdict: Verdict::Missing,
        reason: None,
    }
}

/// What the machine may have done to every bench, as logarithms.
#[derive(Clone, Copy)]
struct Machine {
    /// By how much it may have become slower.
    slower_by: f64,
    /// By how much it may have become faster.
    faster_by: f64,
    /// By how much one bench may have moved beside the others.
    scatter: f64,
}

impl Machine {
    fn between(drift: Drift, gate: &Gate) -> Self {
        let most = (gate.session.most_drift_pct / 100.0).ln_1p();
        match drift {
            Drift::Nothing => {
                let allowed = (gate.session.unknown_drift_pct / 100.0).ln_1p().min(most);
                Self {
                    slower_by: allowed,
                    faster_by: allowed,
                    scatter: 0.0,
                }
            }
            Drift::Controls(seen) | Drift::AllBenches(seen) => {
                let moved = (seen.median_pct / 100.0).ln_1p();
                Self {
                    slower_by: moved.clamp(0.0, most),
                    faster_by: (-moved).clamp(0.0, most),
                    scatter: SCATTERS * (seen.scatter_pct / 100.0).ln_1p(),
                }
            }
        }
    }
}

/// By how much `now` is worse than `base`, as a logarithm; below 0 is better.
fn worse_by(metric: Metric, now: f64, base: f64) -> f64 {
    match metric.direction() {
        Direction::LowerIsBetter => (now / base).ln(),
        Direction::HigherIsBetter => (base / now).ln(),
    }
}

/// The bounds of how much worse a figure may be, as changes of the figure itself.
fn in_percent_of_figure(metric: Metric, low: f64, high: f64) -> [f64; 2] {
    match metric.direction() {
        Direction::LowerIsBetter => [percent(low), percent(high)],
        Direction::HigherIsBetter => [percent(-high), percent(-low)],
    }
}

pub(super) fn percent(logarithm: f64) -> f64 {
    logarithm.exp_m1() * 100.0
}
