//! What makes the figures of a generation doubtful.

use serde::Serialize;

use super::Observed;
use crate::judge::stats::median_and_deviation;

/// A doubt, in words for people and with a name for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flag {
    /// Its name in files.
    pub key: &'static str,
    /// What is doubtful, and what to do about it.
    pub text: String,
}

/// Less decoding than this says little: ticks, timers and neighbours are of the same order.
const SHORT_DECODE_S: f64 = 1.0;

/// Fewer gaps than this have no 99 % quantile of their own, only their maximum.
const GAPS_FOR_P99: usize = 100;

/// Both halves of the decoding need this many gaps to be compared.
const GAPS_FOR_DRIFT: usize = 20;

/// A difference of the halves that neighbours and noise do not explain.
const DRIFT: f64 = 0.05;

/// Stolen time that shows in the figures, in percent.
const STEAL_PCT: f64 = 1.0;

/// A share of the weights that came from the disk while they were used.
const COLD_SHARE: f64 = 0.01;

/// All doubts, the gravest kinds first.
pub fn flags(observed: &Observed) -> Vec<Flag> {
    let o = observed;
    let gaps = o.timeline.gaps();
    let decode = o.timeline.decode().as_secs_f64();
    let mut flags = Vec::new();
    let mut flag = |key, text| flags.push(Flag { key, text });

    if o.threads > o.cpus {
        flag(
            "oversubscribed",
            format!(
                "{} threads on {} CPUs wait for each other; use -t {} or fewer",
                o.threads, o.cpus, o.cpus
            ),
        );
    }
    let read = o.usage.read_bytes.unwrap_or(0) as f64;
    if read > COLD_SHARE * o.weights() as f64 && read > 0.0 {
        flag(
            "cold_cache",
            format!(
                "{:.1} MiB came from the disk meanwhile; run it once more, now that the file is cached",
                read / 1_048_576.0
            ),
        );
    }
    if let Some(steal) = o.usage.steal_pct.filter(|steal| *steal > STEAL_PCT) {
        flag(
            "steal",
            format!("a hypervisor gave {steal:.1} % of the CPUs' time to others"),
        );
    }
    if let Some(throttles) = o.usage.throttles.filter(|throttles| *throttles > 0) {
        flag(
            "throttled",
            format!("cores were throttled for heat {throttles} times"),
        );
    }
    if let Some(drift) = drift(&gaps.iter().map(|gap| gap.as_secs_f64()).collect::<Vec<_>>()) {
        flag(
            "drift",
            format!(
                "the second half of the decoding was {:.0} % {} than the first: heat, neighbours, or the longer context",
                100.0 * drift.abs(),
                if drift > 0.0 { "slower" } else { "faster" }
            ),
        );
    }
    if let Some(governor) = o.governor.as_deref().filter(|name| *name != "performance") {
        flag(
            "governor",
            format!("the frequency governor is '{governor}'; 'performance' gives steadier figures"),
        );
    }
    if decode < SHORT_DECODE_S {
        flag(
            "short_run",
            format!(
                "decoding took {decode:.2} s; from {SHORT_DECODE_S} s on its rate can be trusted, so raise -n"
            ),
        );
    }
    if gaps.len() < GAPS_FOR_P99 {
        flag(
            "few_samples",
            format!(
                "{} gaps have no 99 % quantile worth the name; {GAPS_FOR_P99} have, so raise -n",
                gaps.len()
            ),
        );
    }
    flags
}

/// How much longer the median gap of the second half is than that of the first, as a share, where it matters.
fn drift(gaps: &[f64]) -> Option<f64> {
    if gaps.len() < 2 * GAPS_FOR_DRIFT {
        return None;
    }
    let (first, second) = gaps.split_at(gaps.len() / 2);
    let (first, _) = median_and_deviation(first)?;
    let (second, _) = median_and_deviation(second)?;
    Some(second / first - 1.0).filter(|drift| drift.abs() > DRIFT)
}
