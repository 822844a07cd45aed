//! Measurements in the order of the commits: one series a bench, metric and machine, and the changes of its level.

use std::collections::{BTreeMap, HashMap};

use super::changes::{ChangePoint, Options, change_points};
use super::gate::{Gate, Limits};
use super::stats::{self, Statistic, quantile};
use crate::record::history::Commit;
use crate::record::trial::{Arm, Trial, TrialBench};
use crate::record::{
    BenchId, Direction, MachineKey, Measurement, Metric, MetricKind, Record, RunId, Throughput,
};

/// Gathers what commits measured, the oldest first.
#[derive(Debug)]
pub struct TrendBuilder {
    gate: Gate,
    commits: Vec<Commit>,
    places: HashMap<String, usize>,
    machines: BTreeMap<MachineKey, MachineBuilder>,
}

/// What was measured over the commits of a branch.
#[derive(Clone, Debug, PartialEq)]
pub struct Trend {
    /// All commits, the oldest first, measured or not.
    pub commits: Vec<Commit>,
    /// What each machine measured; machines are never mixed.
    pub machines: Vec<Machine>,
}

/// What one machine measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The machine, or for counts the CPU family and toolchain.
    pub key: MachineKey,
    /// The commits that it measured, in their order.
    pub columns: Vec<Column>,
    /// What it measured, sorted by bench and metric.
    pub series: Vec<Series>,
    /// The best rates that any of its benches has now: a roof that was really reached.
    pub roof: Roof,
}

/// A commit that a machine measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The commit: its place in [`Trend::commits`].
    pub commit: usize,
    /// The CPU's name.
    pub cpu: String,
    /// The compiler.
    pub rustc: String,
    /// Whether the sources differed from the commit, or may have.
    pub dirty: bool,
}

/// One bench and metric on one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The bench.
    pub id: BenchId,
    /// What was measured of it.
    pub metric: Metric,
    /// The statistic that stands for a measurement.
    pub statistic: Statistic,
    /// How much worse the gate lets it become, in percent.
    pub threshold_pct: f64,
    /// The work of one iteration, as it was told last.
    pub throughput: Throughput,
    /// One a column of the machine; `None` where the bench was not measured.
    pub points: Vec<Option<Point>>,
    /// Where its level changed; [`ChangePoint::at`] counts the measured points.
    pub changes: Vec<Change>,
}

/// One measurement, in the metric's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The figure that is compared.
    pub value: f64,
    /// The lower quartile of the samples.
    pub low: f64,
    /// The upper quartile of the samples.
    pub high: f64,
}

/// A change of level between two columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The last column that was measured before it.
    pub after: usize,
    /// The first column that was measured with it.
    pub column: usize,
    /// The statistics.
    pub point: ChangePoint,
    /// Whether it is for the worse.
    pub worse: bool,
}

/// The best rates, `None` where no bench tells its work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Roof {
    /// Elements a second.
    pub elements_per_s: Option<f64>,
    /// Bytes a second.
    pub bytes_per_s: Option<f64>,
}

#[derive(Debug, Default)]
struct MachineBuilder {
    columns: BTreeMap<usize, Column>,
    rows: BTreeMap<(BenchId, Metric), RowBuilder>,
}

#[derive(Debug, Default)]
struct RowBuilder {
    points: BTreeMap<usize, Point>,
    last_run: Option<RunId>,
    throughput: Throughput,
}

impl TrendBuilder {
    /// A trend over `commits`, the oldest first, whose figures are taken as `gate` says.
    pub fn new(commits: Vec<Commit>, gate: Gate) -> Self {
        let place = |(at, commit): (usize, &Commit)| (commit.id.clone(), at);
        Self {
            gate,
            places: commits.iter().enumerate().map(place).collect(),
            commits,
            machines: BTreeMap::new(),
        }
    }

    /// Takes what a baseline gained in `commit`, or knew before all commits. A figure belongs to the commit that was
    /// measured, if that is one of the branch and its sources were clean, and else to the commit that kept it. What a
    /// baseline merely carries on was not measured again.
    pub fn add_baseline(&mut self, commit: Option<usize>, record: &Record) {
        for measurement in record.measurements() {
            let Some(provenance) = record.provenance(measurement) else {
                continue;
            };
            let measured = provenance.commit.as_ref().filter(|_| !provenance.dirty);
            let place = measured.and_then(|id| self.places.get(id).copied());
            let statistic = self.limits(measurement.id(), measurement.metric()).0;
            let column = commit.map(|at| Column {
                commit: place.unwrap_or(at),
                cpu: provenance.cpu.clone(),
                rustc: provenance.rustc.clone(),
                dirty: provenance.dirty,
            });
            let machine = self.machines.entry(record.key().clone()).or_default();
            machine.add(measurement, statistic, column);
        }
    }

    /// Takes what a run of the gate measured of those of its two commits that are among the commits, unless a baseline
    /// has their figure already. The figures of a bench are those of its processes, each by the bench's statistic.
    pub fn add_trial(&mut self, trial: &Trial) {
        for (arm, revision) in [(Arm::Base, &trial.base), (Arm::Head, &trial.head)] {
            let place = self.places.get(&revision.commit).copied();
            let Some(commit) = place.filter(|_| !revision.dirty) else {
                continue;
            };
            let column = Column {
                commit,
                cpu: trial.machine.cpu.clone(),
                rustc: trial.build.rustc.clone(),
                dirty: false,
            };
            for bench in trial.benches.iter().filter(|one| one.failure.is_none()) {
                let statistic = self.limits(&bench.id, Metric::Time).0;
                let time = times(bench, arm, statistic);
                let counts = match arm {
                    Arm::Base => &bench.instructions.base,
                    Arm::Head => &bench.instructions.head,
                };
                let counts: Vec<f64> = counts.iter().map(|count| *count as f64).collect();
                for (key, metric, figures) in [
                    (&trial.machine.key, Metric::Time, time),
                    (&trial.machine.counts_key, Metric::Instructions, counts),
                ] {
                    if !figures.is_empty() {
                        let point = Point::of_figures(figures, metric, Statistic::Median);
                        let machine = self.machines.entry(key.clone()).or_default();
                        machine.add_if_new(&bench.id, metric, point, column.clone());
                    }
                }
            }
        }
    }

    /// The series and their changes.
    pub fn finish(mut self) -> Trend {
        let machines = std::mem::take(&mut self.machines)
            .into_iter()
            .filter(|(_, machine)| !machine.columns.is_empty())
            .map(|(key, machine)| self.machine(key, machine))
            .collect();
        Trend {
            commits: self.commits,
            machines,
        }
    }

    fn machine(&self, key: MachineKey, built: MachineBuilder) -> Machine {
        let places: Vec<usize> = built.columns.keys().copied().collect();
        let mut series = Vec::new();
        for ((id, metric), row) in built.rows {
            let (statistic, threshold_pct) = self.limits(&id, metric);
            let points: Vec<Option<Point>> = places
                .iter()
                .map(|commit| row.points.get(commit).copied())
                .collect();
            if row.points.is_empty() {
                continue;
            }
            series.push(Series {
                changes: changes(&points, metric),
                id,
                metric,
                statistic,
                threshold_pct,
                throughput: row.throughput,
                points,
            });
        }
        Machine {
            key,
            columns: built.columns.into_values().collect(),
            roof: roof(&series),
            series,
        }
    }

    fn limits(&self, id: &BenchId, metric: Metric) -> (Statistic, f64) {
        match self.gate.limits(id, metric) {
            Limits::Clocked(limits) => (limits.statistic, limits.threshold_pct),
            Limits::Counted(limits) => (Statistic::Median, limits.threshold_pct),
        }
    }
}

impl MachineBuilder {
    /// Adds a measurement that a baseline has, to the column if it is new in it; `None` for what was there before all.
    fn add(&mut self, measurement: &Measurement, statistic: Statistic, column: Option<Column>) {
        let key = (measurement.id().clone(), measurement.metric());
        let row = self.rows.entry(key).or_default();
        let run = Some(measurement.run().clone());
        let carried_on = row.last_run == run;
        row.last_run = run;
        row.throughput = measurement.throughput();
        let Some(column) = column.filter(|_| !carried_on) else {
            return;
        };
        let point = Point::of(measurement, statistic);
        row.points.insert(column.commit, point);
        self.columns.entry(column.commit).or_insert(column);
    }

    fn add_if_new(&mut self, id: &BenchId, metric: Metric, point: Point, column: Column) {
        let row = self.rows.entry((id.clone(), metric)).or_default();
        row.points.entry(column.commit).or_insert(point);
        self.columns.entry(column.commit).or_insert(column);
    }
}

/// What each process of an arm measured, by the statistic of its samples.
fn times(bench: &TrialBench, arm: Arm, statistic: Statistic) -> Vec<f64> {
    let runs = bench.blocks.iter().flat_map(|block| &block.runs);
    runs.filter(|run| run.arm == arm)
        .map(|run| {
            let mut figures: Vec<f64> = run.samples.per_iteration_ns().collect();
            figures.sort_by(f64::total_cmp);
            stats::of(statistic, &figures)
        })
        .collect()
}

impl Series {
    /// The last measurement.
    pub fn last(&self) -> Option<Point> {
        self.points.iter().rev().find_map(|point| *point)
    }
}

impl Point {
    /// What `measurement` says by `statistic`.
    pub fn of(measurement: &Measurement, statistic: Statistic) -> Self {
        Self::of_figures(measurement.figures(), measurement.metric(), statistic)
    }

    fn of_figures(mut figures: Vec<f64>, metric: Metric, statistic: Statistic) -> Self {
        figures.sort_by(f64::total_cmp);
        let (low, high) = (quantile(&figures, 0.25), quantile(&figures, 0.75));
        if metric.direction() == Direction::HigherIsBetter {
            figures.reverse();
        }
        Self {
            value: stats::of(statistic, &figures),
            low,
            high,
        }
    }
}

fn changes(points: &[Option<Point>], metric: Metric) -> Vec<Change> {
    let measured: Vec<(usize, f64)> = points
        .iter()
        .enumerate()
        .filter_map(|(column, point)| Some((column, (*point)?.value)))
        .collect();
    let figures: Vec<f64> = measured.iter().map(|(_, value)| *value).collect();
    let options = match metric.kind() {
        MetricKind::Clocked => Options::clocked(),
        MetricKind::Counted => Options::counted(),
    };
    let rising_is_worse = metric.direction() == Direction::LowerIsBetter;
    change_points(&figures, options)
        .into_iter()
        .map(|point| Change {
            after: measured[point.at - 1].0,
            column: measured[point.at].0,
            worse: (point.after.mean > point.before.mean) == rising_is_worse,
            point,
        })
        .collect()
}

/// The best of what the benches reached when each was measured last.
fn roof(series: &[Series]) -> Roof {
    let best = |work: fn(&Throughput) -> Option<u64>| {
        series
            .iter()
            .filter(|series| series.metric == Metric::Time)
            .filter_map(|series| {
                let ns = series.last()?.value;
                let rate = work(&series.throughput)? as f64 * 1e9 / ns;
                rate.is_finite().then_some(rate)
            })
            .reduce(f64::max)
    };
    Roof {
        elements_per_s: best(|work| work.elements),
        bytes_per_s: best(|work| work.bytes),
    }
}
