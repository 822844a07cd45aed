//! What the blocks of one bench say of its effect: a robust mean of log-ratios, and how sure it is.
//!
//! The unit is a block's log-ratio, never a sample inside a process. The order of the arms in a block is a coin flip,
//! so that without an effect the log-ratios are symmetric around 0, whatever neighbours do. They have long tails,
//! because a neighbour may come or go in the middle of a block; hence the trimmed mean with the winsorised standard
//! error and its t quantile (Tukey and McLaughlin 1963; Wilcox, *Introduction to Robust Estimation*, 4.3).

use std::collections::BTreeSet;

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::stats::{self, Statistic, quantile};
use crate::record::TimedSamples;
use crate::record::trial::{Arm, Block, Harness, ProcessRun};

/// The share of blocks that is set aside at each end.
const TRIM: f64 = 0.2;

/// With fewer blocks than this the mean of all is as good, where none of them was disturbed.
const MIN_TRIMMED: usize = 8;

/// The fewest blocks that a statement is made of.
pub const MIN_BLOCKS: usize = 4;

/// No clock and no process is more alike than this, as a logarithm: blocks that agree to the digit prove no more.
const LEAST_ERROR: f64 = 1e-4;

/// Which part of a process's samples is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The statistic that stands for the bench.
    Main(Statistic),
    /// The median, where the main statistic is the lower envelope.
    Median,
    /// The 90 % quantile.
    Tail,
}

/// The effect of a change on one bench as a logarithm of time, above 0 for slower, and its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The trimmed mean of the log-ratios.
    pub center: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of its t distribution.
    pub freedom: f64,
    /// How many blocks there were.
    pub blocks: usize,
    /// Links that both sides were measured in.
    pub links: usize,
    /// Whether the log-ratios are those of links rather than blocks, because links differ.
    pub of_links: bool,
}

impl Estimate {
    /// The estimate from the log-ratios of blocks; `None` for fewer than [`MIN_BLOCKS`].
    ///
    /// Of few, none is set aside unless that tells more: a single disturbed one widens the interval of their mean, and one
    /// that is set aside without need costs degrees of freedom. As with blocks that are put together, the way is chosen by
    /// how far its interval reaches.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        let n = ratios.len();
        if n < MIN_BLOCKS || ratios.iter().any(|ratio| !ratio.is_finite()) {
            return None;
        }
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let trimmed = Self::trimmed(&sorted, (TRIM * n as f64) as usize);
        if n >= MIN_TRIMMED {
            return Some(trimmed);
        }
        Some(narrower(trimmed, Self::trimmed(&sorted, 0)))
    }

    /// The estimate from sorted log-ratios, of which so many are set aside at each end.
    fn trimmed(sorted: &[f64], aside: usize) -> Self {
        let n = sorted.len();
        let kept = &sorted[aside..n - aside];
        let center = kept.iter().sum::<f64>() / kept.len() as f64;
        // Winsorised: what was set aside counts as the nearest that was kept.
        let (low, high) = (kept[0], kept[kept.len() - 1]);
        let pulled: Vec<f64> = sorted.iter().map(|ratio| ratio.clamp(low, high)).collect();
        let mean = pulled.iter().sum::<f64>() / n as f64;
        let squares: f64 = pulled.iter().map(|ratio| (ratio - mean).powi(2)).sum();
        let deviation = (squares / (n - 1) as f64).sqrt();
        let share = kept.len() as f64 / n as f64;
        Self {
            center,
            error: (deviation / (share * (n as f64).sqrt())).max(LEAST_ERROR),
            freedom: (kept.len() - 1) as f64,
            blocks: n,
            links: 0,
            of_links: false,
        }
    }

    /// The difference `to - from` of two that know nothing of each other, with the degrees of freedom of Welch and
    /// Satterthwaite.
    fn between(from: Self, to: Self) -> Self {
        let (a, b) = (from.error.powi(2), to.error.powi(2));
        Self {
            center: to.center - from.center,
            error: (a + b).sqrt(),
            freedom: (a + b).powi(2) / (a.powi(2) / from.freedom + b.powi(2) / to.freedom),
            ..from
        }
    }

    /// How likely figures like these are, or clearer ones, if the effect is at most `bound`.
    pub fn p_above(&self, bound: f64) -> f64 {
        self.distribution().sf((self.center - bound) / self.error)
    }

    /// How likely figures like these are, or clearer ones, if the effect is at least `bound`.
    pub fn p_below(&self, bound: f64) -> f64 {
        self.distribution().cdf((self.center - bound) / self.error)
    }

    /// The effect is below this only with probability `level`.
    pub fn at_least(&self, level: f64) -> f64 {
        self.center - self.reach(level)
    }

    /// The effect is above this only with probability `level`.
    pub fn at_most(&self, level: f64) -> f64 {
        self.center + self.reach(level)
    }

    /// The t quantile of `level` at the estimate's degrees of freedom, times the standard error.
    pub fn reach(&self, level: f64) -> f64 {
        -self.distribution().inverse_cdf(level.clamp(1e-12, 0.5)) * self.error
    }

    fn distribution(&self) -> StudentsT {
        StudentsT::new(0.0, 1.0, self.freedom).expect("at least one degree of freedom")
    }
}

/// The one whose interval reaches less far.
fn narrower(a: Estimate, b: Estimate) -> Estimate {
    if b.reach(WEIGHED_AT) < a.reach(WEIGHED_AT) {
        b
    } else {
        a
    }
}

/// How many successive blocks are put together for the lower envelope, where that tells more than single ones.
const POOLS: [usize; 4] = [1, 2, 3, 4];

/// The level at which ways to estimate are weighed.
const WEIGHED_AT: f64 = 1e-3;

/// The fewest links whose log-ratios say how far layouts come out apart.
pub const MIN_LINKS: usize = 5;

/// Links count as different where they would be so by chance with this probability: rather too often than too seldom,
/// because links that differ unnoticed count as evidence again with every block.
const LINKS_DIFFER: f64 = 0.1;

/// What the blocks of a bench say of a part of its distribution.
///
/// The effect of a change is not the same in every layout: where code moves to other addresses, it becomes faster or
/// slower by itself, by several percent in a parser or a sort. So if links differ, each is one log-ratio, however often
/// it was measured, and the error is that of their mean.
pub fn estimate(blocks: &[Block], part: Part, harness: Harness) -> Option<Estimate> {
    let links = links_of(blocks);
    let differ = links.len() >= MIN_LINKS && links_differ(blocks, &links, part, harness);
    let of_links = differ.then(|| of_links(blocks, &links, part, harness));
    let seen = match of_links.flatten() {
        Some(seen) => Estimate {
            of_links: true,
            ..seen
        },
        None => of_blocks(blocks, part, harness)?,
    };
    Some(Estimate {
        blocks: blocks.len(),
        links: links.len(),
        ..seen
    })
}

/// The links that both sides were measured in.
fn links_of(blocks: &[Block]) -> Vec<usize> {
    let [base, head] = Arm::ALL.map(|arm| -> BTreeSet<usize> {
        let runs = blocks.iter().flat_map(|block| &block.runs);
        runs.filter(|run| run.arm == arm)
            .map(|run| run.link)
            .collect()
    });
    base.intersection(&head).copied().collect()
}

/// What links say that differ, in one of two ways, chosen by how far the interval reaches: by the log-ratio of each,
/// where both sides of it have much in common; or by the difference between the mean of the head's links and that of the
/// base's (Welch 1947), which has nearly twice the degrees of freedom.
fn of_links(blocks: &[Block], links: &[usize], part: Part, harness: Harness) -> Option<Estimate> {
    let ratios: Vec<f64> = links
        .iter()
        .filter_map(|link| link_ratio(blocks, part, harness, *link))
        .collect();
    let paired = Estimate::of(&ratios)?;
    if harness == Harness::Lockstep {
        return Some(paired);
    }
    let runs = || blocks.iter().flat_map(|block| &block.runs);
    let [base, head] = Arm::ALL.map(|arm| {
        let of = |link: &usize| {
            let runs = runs().filter(|run| run.arm == arm && run.link == *link);
            together(runs, part)
        };
        Estimate::of(&links.iter().filter_map(of).collect::<Vec<f64>>())
    });
    Some(narrower(paired, Estimate::between(base?, head?)))
}

/// The log-ratio of head over base in one link, of all blocks.
fn link_ratio(blocks: &[Block], part: Part, harness: Harness, link: usize) -> Option<f64> {
    if harness == Harness::Lockstep {
        let mut ratios = ratios_in(blocks, part, harness, link);
        ratios.sort_by(f64::total_cmp);
        return Some(quantile(&ratios, 0.5)).filter(|ratio| ratio.is_finite());
    }
    let runs = || blocks.iter().flat_map(|block| &block.runs);
    let of = |arm| {
        let runs = runs().filter(move |run| run.arm == arm && run.link == link);
        together(runs, part)
    };
    Some(of(Arm::Head)? - of(Arm::Base)?).filter(|ratio| ratio.is_finite())
}

/// The log-ratios of head over base in one link, one for each block that has it.
fn ratios_in(blocks: &[Block], part: Part, harness: Harness, link: usize) -> Vec<f64> {
    let ratio = |block: &Block| {
        if harness == Harness::Lockstep {
            let is_it = block.runs.iter().all(|run| run.link == link);
            return is_it.then(|| token_by_token(block, part)).flatten();
        }
        link_ratio(std::slice::from_ref(block), part, harness, link)
    };
    blocks
        .iter()
        .filter_map(ratio)
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// Whether the effect is another one in some links than in others, by the ranks of its log-ratios.
fn links_differ(blocks: &[Block], links: &[usize], part: Part, harness: Harness) -> bool {
    let groups: Vec<Vec<f64>> = links
        .iter()
        .map(|link| ratios_in(blocks, part, harness, *link))
        .collect();
    stats::kruskal_wallis(&groups) < LINKS_DIFFER
}

/// What blocks say whose links are all alike.
///
/// Where neighbours disturb so many processes that whole blocks of an arm are disturbed, several blocks have an
/// undisturbed process of each arm: fewer ratios, but quieter ones. The way is chosen by how far its interval reaches,
/// never by where it lies.
fn of_blocks(blocks: &[Block], part: Part, harness: Harness) -> Option<Estimate> {
    let is_envelope = matches!(part, Part::Main(Statistic::Best | Statistic::Low));
    let pools = if is_envelope && harness == Harness::Criterion {
        &POOLS[..]
    } else {
        &POOLS[..1]
    };
    pools
        .iter()
        .filter_map(|pool| {
            let ratios: Vec<f64> = blocks
                .chunks(*pool)
                .filter(|blocks| blocks.len() == *pool)
                .filter_map(|blocks| ratio(blocks, part, harness))
                .filter(|ratio| ratio.is_finite())
                .collect();
            Estimate::of(&ratios)
        })
        .reduce(narrower)
}

/// The log-ratio of head over base in blocks that are put together; `None` where an arm is lacking.
fn ratio(blocks: &[Block], part: Part, harness: Harness) -> Option<f64> {
    match harness {
        Harness::Lockstep => token_by_token(blocks.first()?, part),
        Harness::Criterion | Harness::Callgrind => {
            let runs = || blocks.iter().flat_map(|block| &block.runs);
            let of = |arm| together(runs().filter(move |run| run.arm == arm), part);
            Some(of(Arm::Head)? - of(Arm::Base)?)
        }
    }
}

/// How much one link of an arm differs from its other links, one log-ratio for each block that has both.
pub fn link_ratios(blocks: &[Block], part: Part, arm: Arm, link: usize) -> Vec<f64> {
    let ratio = |block: &Block| {
        let runs = || block.runs.iter().filter(|run| run.arm == arm);
        let own = together(runs().filter(|run| run.link == link), part)?;
        let others = together(runs().filter(|run| run.link != link), part)?;
        Some(own - others)
    };
    blocks
        .iter()
        .filter_map(ratio)
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// What one process says, in nanoseconds an iteration.
pub fn figure(run: &ProcessRun, part: Part) -> f64 {
    let mut sorted: Vec<f64> = run.samples.per_iteration_ns().collect();
    sorted.sort_by(f64::total_cmp);
    match part {
        Part::Main(statistic) => stats::of(statistic, &sorted),
        Part::Median => quantile(&sorted, 0.5),
        Part::Tail => quantile(&sorted, 0.9),
    }
}

/// The processes of one arm and block as one logarithm. For the lower envelope it is their best: a process that a
/// neighbour disturbed from its beginning to its end does no harm as long as the other was left alone.
fn together<'a>(runs: impl Iterator<Item = &'a ProcessRun>, part: Part) -> Option<f64> {
    let figures: Vec<f64> = runs.map(|run| figure(run, part).ln()).collect();
    if figures.is_empty() {
        return None;
    }
    Some(match part {
        Part::Main(Statistic::Best | Statistic::Low) => {
            figures.iter().copied().fold(f64::INFINITY, f64::min)
        }
        Part::Main(Statistic::Median) | Part::Median | Part::Tail => {
            figures.iter().sum::<f64>() / figures.len() as f64
        }
    })
}

/// Two processes that took turns token by token: neighbouring tokens share what the machine did, so each pair of them
/// has a ratio of its own.
fn token_by_token(block: &Block, part: Part) -> Option<f64> {
    let of = |arm| block.runs.iter().find(|run| run.arm == arm);
    let (base, head) = (of(Arm::Base)?, of(Arm::Head)?);
    if part == Part::Tail {
        return Some(figure(head, part).ln() - figure(base, part).ln());
    }
    Some(in_turn(&base.samples, &head.samples))
}

/// The log-ratio of `head` over `base`, whose n-th samples are neighbours in time: the median of those of the pairs.
pub fn in_turn(base: &TimedSamples, head: &TimedSamples) -> f64 {
    let pairs = base.per_iteration_ns().zip(head.per_iteration_ns());
    let mut ratios: Vec<f64> = pairs.map(|(base, head)| (head / base).ln()).collect();
    ratios.sort_by(f64::total_cmp);
    quantile(&ratios, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_are_honest_about_it() {
        assert_eq!(Estimate::of(&[0.1, 0.1, 0.1]), None);
        let four = Estimate::of(&[-0.01, 0.01, -0.01, 0.01]).unwrap();
        // t at 3 degrees of freedom: 3.182 for 2.5 %, 10.2 for 0.1 %.
        assert!((four.reach(0.025) / four.error - 3.182).abs() < 0.01);
        assert!((four.reach(0.001) / four.error - 10.21).abs() < 0.05);
        assert!((four.p_above(four.center - four.reach(0.001)) - 0.001).abs() < 1e-6);
    }

    #[test]
    fn a_neighbour_in_two_of_ten_blocks_moves_nothing() {
        let quiet = [0.001, -0.001, 0.002, -0.002, 0.0, 0.001, -0.001, 0.0];
        let mut loud = quiet.to_vec();
        loud.extend([0.4, -0.35]);
        let estimate = Estimate::of(&loud).unwrap();
        assert!(estimate.center.abs() < 0.001, "{estimate:?}");
        assert!(estimate.reach(0.025) < 0.004, "{estimate:?}");
    }

    #[test]
    fn agreement_to_the_digit_is_no_proof_beyond_the_clock() {
        let same = Estimate::of(&[0.01; 12]).unwrap();
        assert_eq!(same.error, LEAST_ERROR);
        assert!(same.at_least(0.01) < 0.01 && same.at_most(0.01) > 0.01);
    }
}
