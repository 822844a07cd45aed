//! The test of all benches that were timed, look by look.

use std::collections::BTreeSet;

use super::{Effect, Timed, parts};
use crate::judge::compare::percent;
use crate::judge::evidence::{
    Estimate, MIN_BLOCKS, MIN_LINKS, Part, estimate, figure, link_ratios,
};
use crate::judge::gate::Gate;
use crate::judge::policy::TrialLimits;
use crate::judge::stats::{Statistic, quantile};
use crate::judge::verdict::{Reason, Verdict};
use crate::record::calibration::Calibration;
use crate::record::trial::{Arm, Block, Code, Harness, Trial, TrialBench};

/// How the run's false-alarm rate is shared out over the looks. The sum of the shares bounds the whole, whatever the
/// looks have in common; most is kept for the last, when there are most blocks.
pub(super) const SPENT: [f64; 3] = [0.2, 0.3, 0.5];

/// The share of the false-alarm rate that goes to the statistic that stands for a bench; medians have the rest.
const MAIN_SHARE: f64 = 0.8;

/// Tail probability on each side of the intervals that are shown.
const SHOWN: f64 = 0.025;

/// The probability with which the smallest detectable slow-down is missed.
const MISSED: f64 = 0.05;

/// How improbable a difference between links must be before it is laid to them, over all links of an arm.
const LAYOUT_LEVEL: f64 = 0.005;

/// What the clock says of a bench.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub verdict: Verdict,
    pub reason: Option<Reason>,
    pub timed: Option<Timed>,
}

/// A bench while it is being judged.
struct Open<'a> {
    bench: &'a TrialBench,
    harness: Harness,
    limits: TrialLimits,
    statistic: Statistic,
    /// τ, as a logarithm.
    threshold: f64,
    /// How much links of one side differ at the last look that was made.
    layout: Option<Layout>,
    looks: Vec<usize>,
    /// Estimates of the main statistic, the median and the tail at the last look that was made.
    seen: [Option<Estimate>; 3],
    look: usize,
    /// The levels that its tests were held to at that look.
    level: f64,
    decided: Option<(Verdict, Option<Reason>)>,
}

/// Judges every bench of `trial` that was timed on both sides; `None` for all others, in the trial's order.
pub(super) fn judge(
    trial: &Trial,
    gate: &Gate,
    calibration: Option<&Calibration>,
) -> Vec<Option<Judged>> {
    let mut open: Vec<Option<Open<'_>>> = trial
        .benches
        .iter()
        .map(|bench| Open::of(trial, bench, gate, calibration))
        .collect();
    let judged = open.iter().flatten().count();
    let alpha = gate.policy.false_alarms_pct / 100.0;
    let mut lost = [0; 3];
    for (look, spent) in SPENT.iter().enumerate() {
        let mut here: Vec<&mut Open<'_>> = open
            .iter_mut()
            .flatten()
            .filter(|bench| bench.decided.is_none() && bench.looks.len() > look)
            .collect();
        for bench in &mut here {
            bench.look_again(look);
        }
        let values = |p: &dyn Fn(&Open<'_>) -> f64| here.iter().map(|bench| p(bench)).collect();
        let tests: [(Vec<f64>, f64); 3] = [
            (
                values(&|bench| bench.p_slower()),
                alpha * MAIN_SHARE * spent,
            ),
            (
                values(&|bench| bench.p_median_slower()),
                alpha * (1.0 - MAIN_SHARE) * spent,
            ),
            (values(&|bench| bench.p_faster()), alpha * spent),
        ];
        let mut rejected = [const { Vec::new() }; 3];
        for (at, (p_values, level)) in tests.into_iter().enumerate() {
            let (found, next) = holm(&p_values, level, judged - lost[at]);
            lost[at] += found.len();
            if at == 0 {
                for bench in &mut here {
                    bench.level = next;
                }
            }
            rejected[at] = found;
        }
        for (at, bench) in here.into_iter().enumerate() {
            let [slower, median, faster] =
                [0, 1, 2].map(|test: usize| rejected[test].contains(&at));
            bench.decide(slower, median, faster);
        }
    }
    open.into_iter()
        .map(|bench| bench.map(|bench| bench.finish(judged)))
        .collect()
}

/// Holm's procedure on the p values of a look, with `hypotheses` not yet rejected in all: which are rejected, and the
/// level that the next one would have to undercut.
///
/// Hypotheses that are not looked at any more still count, so that the first false rejection of the whole run has a
/// level of at most the look's divided by the number of true hypotheses.
fn holm(p_values: &[f64], level: f64, hypotheses: usize) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut rejected = Vec::new();
    for at in order {
        let left = hypotheses.saturating_sub(rejected.len()).max(1);
        if p_values[at] > level / left as f64 {
            break;
        }
        rejected.push(at);
    }
    let left = hypotheses.saturating_sub(rejected.len()).max(1);
    (rejected, level / left as f64)
}

impl<'a> Open<'a> {
    fn of(
        trial: &'a Trial,
        bench: &'a TrialBench,
        gate: &Gate,
        calibration: Option<&Calibration>,
    ) -> Option<Self> {
        let target = trial.target(bench)?;
        let timed = target.harness != Harness::Callgrind
            && target.code != Code::Same
            && bench.in_base
            && bench.in_head
            && bench.failure.is_none();
        if !timed {
            return None;
        }
        let limits = gate.policy.limits(&bench.id);
        let known = calibration.and_then(|known| known.bench(&bench.id));
        let statistic = match known {
            _ if target.harness == Harness::Lockstep => Statistic::Median,
            Some(known) if !limits.statistic_is_given => known.statistic,
            _ => limits.statistic,
        };
        let null_pct = known
            .filter(|known| known.statistic == statistic)
            .map_or(0.0, |known| known.null_pct);
        let mut looks: Vec<usize> = bench.looks.iter().copied().take(SPENT.len()).collect();
        // A run that was cut short is judged by what it has.
        if looks.len() < SPENT.len() && looks.last().is_none_or(|last| *last < bench.blocks.len()) {
            looks.push(bench.blocks.len());
        }
        Some(Self {
            bench,
            harness: target.harness,
            limits,
            statistic,
            threshold: (limits.threshold_pct.max(null_pct) / 100.0).ln_1p(),
            layout: None,
            looks,
            seen: [None; 3],
            look: 0,
            level: 0.0,
            decided: None,
        })
    }

    fn blocks(&self) -> &'a [Block] {
        let count = self.look.checked_sub(1).map_or(0, |look| self.looks[look]);
        &self.bench.blocks[..count]
    }

    fn look_again(&mut self, look: usize) {
        self.look = look + 1;
        let blocks = self.blocks();
        self.seen = parts(self.statistic).map(|part| estimate(blocks, part, self.harness));
        self.layout = layout(blocks, self.statistic);
    }

    fn p_slower(&self) -> f64 {
        self.seen[0].map_or(1.0, |seen| seen.p_above(self.threshold))
    }

    fn p_faster(&self) -> f64 {
        self.seen[0].map_or(1.0, |seen| seen.p_below(-self.threshold))
    }

    fn p_median_slower(&self) -> f64 {
        if self.statistic == Statistic::Median {
            return 1.0;
        }
        self.seen[1].map_or(1.0, |seen| seen.p_above(self.median_threshold()))
    }

    fn median_threshold(&self) -> f64 {
        (self.limits.median_threshold_pct / 100.0)
            .ln_1p()
            .max(self.threshold)
    }

    fn tail_threshold(&self) -> f64 {
        (self.limits.tail_threshold_pct / 100.0)
            .ln_1p()
            .max(self.threshold)
    }

    fn decide(&mut self, slower: bool, median_slower: bool, faster: bool) {
        let [Some(main), median, tail] = self.seen else {
            return;
        };
        self.decided = if slower {
            Some((Verdict::Regressed, None))
        } else if median_slower {
            Some((Verdict::Regressed, median.map(median_reason)))
        } else if let Some(median) = median.filter(|seen| self.shows(seen, self.median_threshold()))
        {
            // Perhaps slower in the usual case: not proven, but nothing to pass either.
            (self.look == self.looks.len())
                .then(|| (Verdict::Inconclusive, Some(median_reason(median))))
        } else if faster {
            Some((Verdict::Improved, None))
        } else if main.at_most(SHOWN) < self.threshold {
            let tail = tail.filter(|seen| self.shows(seen, self.tail_threshold()));
            let reason = tail.map(|tail| Reason::Tail {
                delta_pct: percent(tail.center),
            });
            Some((Verdict::Unchanged, reason))
        } else {
            None
        };
    }

    /// Whether the shown interval of another part than the main one lies beyond its threshold.
    fn shows(&self, seen: &Estimate, threshold: f64) -> bool {
        self.statistic != Statistic::Median && seen.at_least(SHOWN) > threshold
    }

    fn finish(self, judged: usize) -> Judged {
        let Some(main) = self.seen[0] else {
            let reason = Reason::FewBlocks {
                blocks: self.bench.blocks.len(),
                needed: MIN_BLOCKS,
            };
            return Judged {
                verdict: Verdict::Inconclusive,
                reason: Some(reason),
                timed: None,
            };
        };
        let (mut verdict, mut reason) = self.decided.clone().unwrap_or_else(|| {
            let beyond = main.at_least(SHOWN) > self.threshold;
            let reason = if beyond {
                Reason::ByChance { benches: judged }
            } else {
                Reason::WithinNoise
            };
            (Verdict::Inconclusive, Some(reason))
        });
        if let Some(layout) = self.layout
            && layout.at_least > self.threshold
            && (main.links < MIN_LINKS || (main.of_links && self.decided.is_none()))
        {
            // Few links do not tell how far others would come out apart.
            if main.links < MIN_LINKS {
                verdict = Verdict::NotMeasurable;
            }
            reason = Some(Reason::Layout {
                null_pct: percent(layout.seen.center.abs()),
                floor_pct: percent(self.threshold),
            });
        }
        let [base_ns, head_ns] = Arm::ALL.map(|arm| self.typical(arm));
        let level = self.level;
        let timed = Timed {
            verdict,
            base_ns,
            head_ns,
            statistic: self.statistic,
            blocks: main.blocks,
            look: self.look,
            effect: effect(main),
            threshold_pct: percent(self.threshold),
            at_least_pct: percent(main.at_least(level)),
            at_most_pct: percent(main.at_most(level)),
            detectable_pct: percent(self.threshold + main.reach(level) + main.reach(MISSED)),
            null: self.layout.map(|layout| effect(layout.seen)),
            median: self.seen[1]
                .filter(|_| self.statistic != Statistic::Median)
                .map(effect),
            tail: self.seen[2].map(effect),
        };
        Judged {
            verdict,
            reason,
            timed: Some(timed),
        }
    }

    /// What an iteration takes on one side: over processes as over samples, for the envelope a low quantile.
    fn typical(&self, arm: Arm) -> f64 {
        let part = Part::Main(self.statistic);
        let mut figures: Vec<f64> = self
            .blocks()
            .iter()
            .flat_map(|block| &block.runs)
            .filter(|run| run.arm == arm)
            .map(|run| figure(run, part))
            .collect();
        figures.sort_by(f64::total_cmp);
        let place = match self.statistic {
            Statistic::Best | Statistic::Low => 0.1,
            Statistic::Median => 0.5,
        };
        quantile(&figures, place)
    }
}

/// How much one link differs from the others of its arm.
#[derive(Clone, Copy)]
struct Layout {
    /// The estimate, as a logarithm.
    seen: Estimate,
    /// It is at least this, either way; below 0 where links may as well be alike.
    at_least: f64,
}

/// How far re-linking moves the bench: of both sides the link that differs most from the others.
fn layout(blocks: &[Block], statistic: Statistic) -> Option<Layout> {
    Arm::ALL
        .into_iter()
        .flat_map(|arm| {
            let runs = blocks.iter().flat_map(|block| &block.runs);
            let links = runs.filter(|run| run.arm == arm).map(|run| run.link);
            let links: BTreeSet<usize> = links.collect();
            let level = LAYOUT_LEVEL / links.len().max(1) as f64;
            links.into_iter().filter_map(move |link| {
                let part = Part::Main(statistic);
                let seen = Estimate::of(&link_ratios(blocks, part, arm, link))?;
                let at_least = seen.center.abs() - seen.reach(level);
                Some(Layout { seen, at_least })
            })
        })
        .max_by(|a, b| a.at_least.total_cmp(&b.at_least))
}

fn effect(seen: Estimate) -> Effect {
    Effect {
        pct: percent(seen.center),
        interval_pct: [percent(seen.at_least(SHOWN)), percent(seen.at_most(SHOWN))],
    }
}

fn median_reason(seen: Estimate) -> Reason {
    Reason::Median {
        delta_pct: percent(seen.center),
    }
}
