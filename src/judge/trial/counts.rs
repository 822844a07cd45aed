//! What callgrind counted on both sides: exact, so that beyond the threshold and the floor is beyond.

use super::{Counted, Row};
use crate::judge::compare::multiply_accumulates;
use crate::judge::gate::{Gate, Limits};
use crate::judge::verdict::{Reason, Verdict};
use crate::record::Metric;
use crate::record::trial::TrialBench;

/// Judges the counts of `bench` into its `row`.
pub(super) fn judge(row: &mut Row, bench: &TrialBench, gate: &Gate) {
    let metric = Metric::Instructions;
    let Limits::Counted(mut limits) = gate.limits(&bench.id, metric) else {
        return;
    };
    if let Some(given) = gate.policy.given_threshold_pct(&bench.id, metric) {
        limits.threshold_pct = given;
    }
    row.gates = gate
        .policy
        .gates(&bench.id, metric)
        .unwrap_or_else(|| gate.gates(&bench.id, metric));
    let counts = &bench.instructions;
    if counts.is_empty() {
        // The same code: what need not be measured need not be counted.
        return;
    }
    let (base, head) = (the_count(&counts.base), the_count(&counts.head));
    let mut counted = Counted {
        verdict: Verdict::NotMeasurable,
        base,
        head,
        delta_pct: None,
        threshold_pct: limits.threshold_pct,
    };
    let shape = multiply_accumulates(&bench.id) / limits.macs_per_instruction;
    let least = limits.least.max(shape.floor());
    match (base, head) {
        (Some(base), Some(head)) if (base.min(head) as f64) < least => {
            counted.verdict = Verdict::Failed;
            row.reasons.push(Reason::Implausible { least });
        }
        (Some(base), Some(head)) => {
            let (base, head) = (base as f64, head as f64);
            let delta_pct = (head / base - 1.0) * 100.0;
            let more = head - base;
            let beyond = more.abs() > limits.floor && delta_pct.abs() > limits.threshold_pct;
            counted.delta_pct = Some(delta_pct);
            counted.verdict = match (beyond, more > 0.0) {
                (false, _) => Verdict::Unchanged,
                (true, true) => Verdict::Regressed,
                (true, false) => Verdict::Improved,
            };
            if counted.verdict == Verdict::Regressed {
                row.reasons.push(Reason::Instructions { delta_pct });
            }
        }
        _ => row.reasons.push(Reason::CountsDiffer),
    }
    row.verdict = counted.verdict;
    row.instructions = Some(counted);
}

/// Lets `counted`, the row of a bench's counts, become part of the row of its times.
pub(super) fn join(timed: &mut Row, counted: Row) {
    timed.instructions = counted.instructions;
    let proven_faster = timed.verdict == Verdict::Improved;
    if counted.verdict == Verdict::Regressed && proven_faster {
        timed.reasons.push(Reason::TradeOff);
        return;
    }
    timed.reasons.extend(counted.reasons);
    let worse = matches!(counted.verdict, Verdict::Failed | Verdict::Regressed);
    if worse && (counted.verdict < timed.verdict || !timed.gates) {
        timed.gates = counted.gates;
        timed.verdict = counted.verdict;
    } else if timed.verdict == Verdict::NotMeasurable {
        // Where the clock says nothing, the counts do.
        timed.verdict = counted.verdict;
        timed.gates = counted.gates;
    }
}

/// The count that every process came to.
fn the_count(counts: &[u64]) -> Option<u64> {
    let first = *counts.first()?;
    counts.iter().all(|count| *count == first).then_some(first)
}
