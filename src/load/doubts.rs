//! Reasons to doubt what a run measured: each a number that can be looked at, and what to do about it.

use std::time::Duration;

use super::figures::Figures;
use super::generator::{MAX_STREAMS, Plan, Run};
use crate::record::serving::{Doubt, Latency};

/// Shorter runs are of the start and the end alone.
const SHORT: Duration = Duration::from_secs(10);

/// Requests for each that was open at once: with fewer, filling and draining is most of the run.
const TURNS: usize = 5;

/// Values beyond a percentile that it takes to place it.
const BEYOND: f64 = 1.0;

/// Requests are sent late from so many milliseconds on, if that is also more than this share of the time between them.
const LATE_MS: f64 = 2.0;
const LATE_SHARE: f64 = 0.1;

/// The share of the CPUs of this machine that this program may use.
const CLIENT_SHARE: f64 = 0.5;

/// Tokens of a piece beyond which the gaps between pieces are no times of tokens.
const TOKENS_A_CHUNK: f64 = 1.1;

/// What surrounded a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surroundings {
    /// Cores that this program used.
    pub client_cores: Option<f64>,
    /// Cores of the machine.
    pub cores: usize,
    /// Requests a second that were to arrive.
    pub rate: f64,
}

/// All doubts. `printed` are the statistics that are told, `late` how late requests were sent.
pub fn doubts(
    plan: &Plan,
    run: &Run,
    figures: &Figures,
    printed: &[Latency],
    late: &Latency,
    around: Surroundings,
) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut doubt = |kind, text: String| doubts.push(Doubt { kind, text });
    let sent = figures.requests.len();
    if run.interrupted {
        let wanted = plan.requests.len();
        doubt(
            "interrupted",
            format!(
                "interrupted after {sent} of {wanted} requests; those under way are not counted"
            ),
        );
    }
    if figures.failed > 0 {
        doubt(
            "failed",
            format!(
                "{} of {sent} requests failed, and no time of theirs is in the figures",
                figures.failed
            ),
        );
    }
    if figures.completed > 0 && run.duration < SHORT {
        let (is, least) = (run.duration.as_secs_f64(), SHORT.as_secs());
        doubt(
            "short",
            format!(
                "the run took {is:.1} s: below {least} s, its start and end weigh too much; raise --num-prompts"
            ),
        );
    }
    let open = figures.peak_requests;
    if open > 1 && figures.completed < TURNS * open {
        doubt(
            "few_turns",
            format!(
                "{} answers for {open} requests at once: while these start and end, fewer are open, so the throughput is too low; take {} prompts or more",
                figures.completed,
                TURNS * open
            ),
        );
    }
    for (percent, count, names) in few(printed) {
        let needed = (100.0 * BEYOND / (100.0 - percent)).ceil();
        let names = names.join(", ");
        doubt(
            "few_values",
            format!(
                "P{percent} of {names} is of {count} values and thus nearly their largest; {needed} or more place it"
            ),
        );
    }
    let p99 = late
        .percentiles
        .iter()
        .find(|(percent, _)| *percent == 99.0);
    if let Some((_, p99)) = p99 {
        let gap_ms = 1e3 / around.rate;
        if *p99 > LATE_MS && *p99 > gap_ms * LATE_SHARE {
            doubt(
                "late",
                format!(
                    "this side is saturated: requests were sent up to {p99:.1} ms late (P99) though somebody was free; load from another machine, or less"
                ),
            );
        }
    }
    if let Some(cores) = around
        .client_cores
        .filter(|used| *used > around.cores as f64 * CLIENT_SHARE)
    {
        doubt(
            "client_cpu",
            format!(
                "this program used {cores:.1} of this machine's {} cores, which a server here cannot have",
                around.cores
            ),
        );
    }
    if plan.concurrency.is_none()
        && run.streams < plan.requests.len()
        && run.streams == MAX_STREAMS
        && open >= MAX_STREAMS
    {
        doubt(
            "streams",
            format!(
                "{MAX_STREAMS} requests were open at once, which is as many as there can be: later ones waited here"
            ),
        );
    }
    if figures.uncounted > 0 {
        doubt(
            "uncounted",
            format!(
                "the server did not count the tokens of {} answers: their pieces with text are taken for tokens",
                figures.uncounted
            ),
        );
    }
    let a_chunk = figures.output as f64 / figures.chunks.max(1) as f64;
    if a_chunk > TOKENS_A_CHUNK {
        doubt(
            "bursts",
            format!(
                "a piece has {a_chunk:.2} tokens: ITL is the gap between pieces; the time of a token is that per token, or TPOT"
            ),
        );
    }
    doubts
}

/// The highest percentile of each metric that has too few values beyond it, with their number; metrics of one number
/// together.
fn few(printed: &[Latency]) -> Vec<(f64, usize, Vec<String>)> {
    let mut few: Vec<(f64, usize, Vec<String>)> = Vec::new();
    for latency in printed {
        let count = latency.count;
        let beyond = |percent: f64| count as f64 * (100.0 - percent) / 100.0;
        let percents = latency.percentiles.iter().map(|(percent, _)| *percent);
        // The largest value is what it is, however few there are.
        let short = percents.filter(|percent| *percent < 100.0 && beyond(*percent) < BEYOND);
        let Some(percent) = short.max_by(f64::total_cmp) else {
            continue;
        };
        let name = latency.metric.to_uppercase().replace('_', " ");
        match few
            .iter_mut()
            .find(|(p, n, _)| (*p, *n) == (percent, count))
        {
            Some((.., names)) => names.push(name),
            None => few.push((percent, count, vec![name])),
        }
    }
    few
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_too_few_values_are_told_together() {
        let latency = |metric, count, percents: &[f64]| Latency {
            metric,
            count,
            mean: 0.0,
            median: 0.0,
            std: 0.0,
            percentiles: percents.iter().map(|percent| (*percent, 0.0)).collect(),
        };
        let printed = [
            latency("ttft", 50, &[50.0, 90.0, 99.0]),
            latency("tpot", 50, &[99.0]),
            latency("itl", 100, &[99.0, 100.0]),
            latency("e2el", 5, &[90.0, 99.9, 99.0]),
        ];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            few(&printed),
            [
                (99.0, 50, names(&["TTFT", "TPOT"])),
                (99.9, 5, names(&["E2EL"]))
            ]
        );
    }
}
