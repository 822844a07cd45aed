//! From gate runs of a commit against itself to what may be expected of a machine.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::compare::percent;
use super::evidence::{self, Estimate, Part};
use super::gate::Gate;
use super::stats::Statistic;
use super::trial::judge;
use super::verdict::Verdict;
use crate::record::BenchId;
use crate::record::calibration::{CalibratedBench, Calibration, SCHEMA};
use crate::record::trial::{Harness, Trial};

/// The quantile of |null| that a threshold must exceed, on each side.
const NULL_TAIL: f64 = 0.005;

/// The probability with which the smallest detectable slow-down is missed.
const MISSED: f64 = 0.05;

/// What `rounds` of one commit against itself say; `None` without a round. Each round is judged by `gate` without a
/// calibration, as the first run on a machine is.
pub fn calibrate(rounds: &[Trial], gate: &Gate) -> Option<Calibration> {
    let first = rounds.first()?;
    let mut calibration = Calibration {
        schema: SCHEMA,
        machine_key: first.machine.key.clone(),
        measured_at: rounds.iter().map(|round| round.finished_at).max()?,
        commit: first.head.commit.clone(),
        rounds: rounds.len(),
        budget_s: first.budget_s,
        verdicts: 0,
        false_alarms: 0,
        false_improvements: 0,
        benches: Vec::new(),
    };
    let mut judged = 0;
    for round in rounds {
        let report = judge(round, gate, None);
        judged = report.family.judged.max(judged);
        for row in report.rows.iter().filter(|row| row.verdict.is_judgement()) {
            calibration.verdicts += 1;
            calibration.false_alarms += usize::from(row.verdict == Verdict::Regressed);
            calibration.false_improvements += usize::from(row.verdict == Verdict::Improved);
        }
    }
    let mut ids: Vec<&BenchId> = first.benches.iter().map(|bench| &bench.id).collect();
    ids.sort();
    ids.dedup();
    let level = gate.policy.false_alarms_pct / 100.0 / judged.max(1) as f64 / 2.0;
    let benches = ids.into_iter();
    calibration.benches = benches
        .filter_map(|id| bench(id, rounds, gate, level))
        .collect();
    Some(calibration)
}

/// The statistic whose nulls are narrowest, and what it can show.
fn bench(id: &BenchId, rounds: &[Trial], gate: &Gate, level: f64) -> Option<CalibratedBench> {
    let of = |statistic| {
        let nulls: Vec<Estimate> = rounds
            .iter()
            .filter_map(|round| estimate(id, round, statistic))
            .collect();
        let null = null(&nulls)?;
        Some((null, statistic, nulls))
    };
    let in_turn = rounds.iter().flat_map(|round| {
        let same = round.benches.iter().filter(|bench| bench.id == *id);
        same.filter_map(|bench| Some(round.target(bench)?.harness == Harness::Lockstep))
    });
    // Processes that take turns are compared pair by pair of passes, by the median of the pairs.
    let statistics = if in_turn.into_iter().any(|in_turn| in_turn) {
        &[Statistic::Median][..]
    } else {
        &[Statistic::Best, Statistic::Low, Statistic::Median]
    };
    let (null, statistic, nulls) = statistics
        .iter()
        .copied()
        .filter_map(of)
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    let threshold = (gate.policy.limits(id).threshold_pct / 100.0)
        .ln_1p()
        .max(null);
    let mut detectable: Vec<f64> = nulls
        .iter()
        .map(|seen| threshold + seen.reach(level) + seen.reach(MISSED))
        .collect();
    detectable.sort_by(f64::total_cmp);
    Some(CalibratedBench {
        id: id.clone(),
        statistic,
        null_pct: percent(null),
        detectable_pct: percent(detectable[detectable.len() / 2]),
        blocks: nulls.iter().map(|seen| seen.blocks).max().unwrap_or(0),
    })
}

fn estimate(id: &BenchId, round: &Trial, statistic: Statistic) -> Option<Estimate> {
    let bench = round.benches.iter().find(|bench| bench.id == *id)?;
    let harness = round.target(bench)?.harness;
    if harness == Harness::Callgrind {
        return None;
    }
    evidence::estimate(&bench.blocks, Part::Main(statistic), harness)
}

/// How far identical code comes out apart: the most that was seen, or the 99th percentile of a t distribution around 0
/// with what was seen, whichever is more.
fn null(seen: &[Estimate]) -> Option<f64> {
    let most = seen
        .iter()
        .map(|seen| seen.center.abs())
        .fold(0.0, f64::max);
    let squares: f64 = seen.iter().map(|seen| seen.center.powi(2)).sum();
    let rounds = seen.len() as f64;
    let t = StudentsT::new(0.0, 1.0, rounds).ok()?;
    Some(most.max(-t.inverse_cdf(NULL_TAIL) * (squares / rounds).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::super::trial::simulation::{Noise, aa_round};
    use super::*;

    #[test]
    fn rounds_of_identical_code_tell_the_narrowest_statistic() {
        assert_eq!(calibrate(&[], &Gate::default()), None);
        let rounds: Vec<Trial> = (0..6)
            .map(|seed| aa_round(Noise::SHARED, 5, 10, seed))
            .collect();
        let calibration = calibrate(&rounds, &Gate::default()).unwrap();
        assert_eq!((calibration.rounds, calibration.verdicts), (6, 30));
        assert_eq!(
            (calibration.false_alarms, calibration.false_improvements),
            (0, 0)
        );
        assert_eq!(calibration.benches.len(), 5);
        for bench in &calibration.benches {
            // The simulated medians scatter ten times as much as the minima.
            assert_ne!(bench.statistic, Statistic::Median, "{bench:?}");
            assert!(
                bench.null_pct > 0.0 && bench.detectable_pct > bench.null_pct,
                "{bench:?}"
            );
        }
    }
}
