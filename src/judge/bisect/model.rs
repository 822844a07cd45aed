//! The posterior over commits: closed forms in the level and the effect, sums over a grid in the two variances.

use std::collections::BTreeMap;
use std::f64::consts::SQRT_2;

/// Widths of the half-normal priors of the effect, as logarithms of a ratio: from changes that are hardly worth a
/// search to those that double a time. Equally likely, so that no size is a surprise.
pub const EFFECT_SCALES: [f64; 4] = [0.01, 0.03, 0.1, 0.5];

/// The prior probability that nothing became slower between the ends.
pub const PRIOR_NONE: f64 = 0.5;

/// A normal distribution that the effect is drawn from if it is above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct EffectPrior {
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
}

impl EffectPrior {
    /// What is believed of effects in general.
    pub(super) fn general() -> Vec<Self> {
        let half = |deviation| Self {
            mean: 0.0,
            deviation,
        };
        EFFECT_SCALES.into_iter().map(half).collect()
    }

    /// What is believed where the effect is known by `seen`, but only a part of it may be here: half of it that, half
    /// the general prior.
    pub(super) fn of(seen: Effect) -> Vec<Self> {
        let deviation = ((seen.high - seen.low) / 3.92).max(1e-6);
        let known = Self {
            mean: seen.median,
            deviation,
        };
        let mut both = Self::general();
        both.extend(vec![known; both.len()]);
        both
    }

    fn precision(self) -> f64 {
        1.0 / (self.deviation * self.deviation)
    }
}

/// Grid points whose likelihood is this far (as a logarithm) below the best one's say nothing.
const NEGLIGIBLE: f64 = 18.0;

/// How the figures of one kind of metric scatter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Times: σ from 0.02 % to 30 %, τ from 0.01 % to 4 %.
    Clocked,
    /// Counts: exact, but for what unrelated commits change; σ is 0.001 %, τ from there to 0.2 %.
    Counted,
}

impl Noise {
    /// The grid over (σ, τ).
    fn grid(self) -> Vec<(f64, f64)> {
        let (sigmas, taus) = match self {
            Self::Clocked => (logarithmic(2e-4, 0.3, 34), logarithmic(1e-4, 0.04, 13)),
            Self::Counted => (vec![1e-5], logarithmic(1e-5, 2e-3, 14)),
        };
        let pairs = |sigma: &f64| taus.iter().map(|tau| (*sigma, *tau)).collect::<Vec<_>>();
        sigmas.iter().flat_map(pairs).collect()
    }
}

/// What was measured of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Link {
    /// How many times.
    pub runs: u32,
    /// The mean of the figures.
    pub mean: f64,
    /// The sum of the squared deviations from it.
    pub squares: f64,
}

impl Link {
    /// Takes one more figure in (Welford).
    pub fn add(&mut self, figure: f64) {
        self.runs += 1;
        let delta = figure - self.mean;
        self.mean += delta / f64::from(self.runs);
        self.squares += delta * (figure - self.mean);
    }
}

/// All measured links by commit and number.
pub(super) type Links = BTreeMap<(usize, u32), Link>;

/// What the measurements say of every commit, of the effect, and of the noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// The probability of each commit, by position; position 0 is the good end and stands for "none of them".
    pub(super) of: Vec<f64>,
    /// The probability of each grid point.
    hyper: Vec<f64>,
    /// The expected variances of a measurement and of a link, for planning.
    pub(super) variances: (f64, f64),
    /// Per measured interval: what would be predicted if the culprit were in it.
    pub(super) gaps: Vec<Gap>,
    pieces: Vec<Piece>,
}

/// Commits between two that were measured: nothing tells them apart. Levels are relative to one that all gaps share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gap {
    /// The last position, which is measured unless it is the end.
    pub last: usize,
    /// Mean and variance of the level before the culprit.
    pub low: (f64, f64),
    /// Mean and variance of the level from the culprit on.
    pub high: (f64, f64),
}

/// A normal distribution of the effect, cut at zero, and its share of the posterior.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    gap: usize,
    share: f64,
    mean: f64,
    deviation: f64,
}

/// How much slower, as logarithms of a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// The median of the posterior.
    pub median: f64,
    /// The lower end of the central 95 % of it.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Posterior {
    /// The posterior of `links`. `prior` weighs positions, the first being "none"; `hyper` weighs the grid of `noise`,
    /// evenly if it is `None`; `effects` are equally likely. With a `reference`, figures are relative to a link of the
    /// good end, which is off the level of its commit by its layout and by something of this standard deviation.
    pub(super) fn of(
        links: &Links,
        prior: &[f64],
        noise: Noise,
        hyper: Option<&[f64]>,
        effects: &[EffectPrior],
        reference: Option<f64>,
    ) -> Self {
        let grid = noise.grid();
        let centre = links.values().map(|link| link.mean).sum::<f64>() / links.len().max(1) as f64;
        let sums = Sums::of(links, centre);
        let tables: Vec<Table> = grid
            .iter()
            .map(|&(sigma, tau)| {
                let known = reference.map(|off| (-centre, tau * tau + off * off));
                Table::of(&sums, sigma, tau, known)
            })
            .collect();
        let spans = spans(links, prior);

        // The likelihood of everything at one grid point, as a logarithm, summed over where the culprit may be.
        let rough = |table: &Table, at: usize| {
            let weight = hyper.map_or(0.0, |hyper| hyper[at].max(1e-300).ln());
            let best = table
                .splits(&spans)
                .map(|(a, b)| b * b / (2.0 * (a + 1.0)))
                .fold(0.0, f64::max);
            weight + table.evidence + best
        };
        let rough: Vec<f64> = tables
            .iter()
            .enumerate()
            .map(|(at, t)| rough(t, at))
            .collect();
        let best = rough.iter().copied().fold(f64::NEG_INFINITY, f64::max);

        // The mass that the cut at zero leaves of each prior is the same at every grid point.
        let effects: Vec<(EffectPrior, f64)> = effects
            .iter()
            .map(|effect| (*effect, log_normal_cdf(effect.mean / effect.deviation)))
            .collect();
        let mut none = 0.0;
        let mut found = Vec::new();
        let mut mass = vec![0.0; spans.len()];
        let mut of_grid = vec![0.0; grid.len()];
        for (at, table) in tables.iter().enumerate() {
            if rough[at] < best - NEGLIGIBLE {
                continue;
            }
            let weight = hyper.map_or(0.0, |hyper| hyper[at].max(1e-300).ln());
            let level = weight + table.evidence - best;
            let here = prior[0] * level.exp();
            none += here;
            of_grid[at] += here;
            for (gap, (a, b)) in table.splits(&spans).enumerate() {
                for &(effect, uncut) in &effects {
                    let (own, precision) = (effect.precision(), a + effect.precision());
                    let mean = (b + effect.mean * own) / precision;
                    let deviation = 1.0 / precision.sqrt();
                    let whole = level
                        + 0.5 * (own / precision).ln()
                        + 0.5 * (precision * mean * mean - own * effect.mean * effect.mean)
                        - uncut;
                    // The tail of the normal distribution, which takes the time, can only make it less. Twice, because
                    // a narrow likelihood may leave the best piece far below the best point.
                    if whole < -2.0 * NEGLIGIBLE {
                        continue;
                    }
                    let log = whole + log_normal_cdf(mean / deviation);
                    let share = spans[gap].1 * log.exp() / effects.len() as f64;
                    mass[gap] += share;
                    of_grid[at] += share;
                    found.push(Piece {
                        gap,
                        share,
                        mean,
                        deviation,
                    });
                }
            }
        }

        let total = none + mass.iter().sum::<f64>();
        let mut of = vec![none / total];
        for (gap, (last, weight)) in spans.iter().enumerate() {
            while of.len() <= *last {
                of.push(prior[of.len()] / weight.max(f64::MIN_POSITIVE) * mass[gap] / total);
            }
        }
        let heaviest = found.iter().map(|piece| piece.share).fold(0.0, f64::max);
        found.retain(|piece| piece.share > 1e-9 * heaviest);
        for piece in &mut found {
            piece.share /= total;
        }
        for share in &mut of_grid {
            *share /= total;
        }
        let mode = (0..grid.len())
            .max_by(|a, b| of_grid[*a].total_cmp(&of_grid[*b]))
            .unwrap_or(0);
        let gaps = tables[mode].gaps(&spans, &found);
        let variance = |pick: fn(&(f64, f64)) -> f64| {
            let of = grid
                .iter()
                .zip(&of_grid)
                .map(|(point, share)| share * pick(point).powi(2));
            of.sum::<f64>()
        };
        Self {
            of,
            variances: (variance(|point| point.0), variance(|point| point.1)),
            hyper: of_grid,
            gaps,
            pieces: found,
        }
    }

    /// The probability of each position; that of position 0 is the probability that no commit is slower.
    pub fn probabilities(&self) -> &[f64] {
        &self.of
    }

    /// How much is still unknown, in bits.
    pub fn entropy_bits(&self) -> f64 {
        let of = |p: &f64| if *p > 0.0 { -p * p.log2() } else { 0.0 };
        self.of.iter().map(of).sum()
    }

    /// The noise of one measurement and of one link: standard deviations of the logarithm of a ratio.
    pub fn noise(&self) -> (f64, f64) {
        (self.variances.0.sqrt(), self.variances.1.sqrt())
    }

    /// How much slower it became, granted that it did.
    pub fn effect(&self) -> Effect {
        self.effect_within(|_| true)
    }

    /// How much slower it became, granted that it did at `position`.
    pub fn effect_at(&self, position: usize) -> Effect {
        let gap = self.gaps.iter().position(|gap| position <= gap.last);
        self.effect_within(|piece| Some(piece.gap) == gap)
    }

    fn effect_within(&self, keep: impl Fn(&Piece) -> bool) -> Effect {
        let pieces: Vec<Piece> = self
            .pieces
            .iter()
            .copied()
            .filter(|piece| keep(piece))
            .collect();
        let total: f64 = pieces.iter().map(|piece| piece.share).sum();
        let below = |x: f64| {
            let of = |piece: &Piece| piece.share * piece.below(x);
            pieces.iter().map(of).sum::<f64>() / total
        };
        let top = pieces
            .iter()
            .map(|piece| piece.mean.max(0.0) + 8.0 * piece.deviation)
            .fold(0.0, f64::max);
        let quantile = |p: f64| {
            let (mut low, mut high) = (0.0, top);
            for _ in 0..50 {
                let middle = 0.5 * (low + high);
                if below(middle) < p {
                    low = middle
                } else {
                    high = middle
                }
            }
            high
        };
        Effect {
            median: quantile(0.5),
            low: quantile(0.025),
            high: quantile(0.975),
        }
    }

    /// The probability that nothing became slower, or not by as much as `effect`.
    pub fn share_below(&self, effect: f64) -> f64 {
        let below = |piece: &Piece| piece.share * piece.below(effect);
        self.of[0] + self.pieces.iter().map(below).sum::<f64>()
    }

    /// The probabilities of the noise, as the `hyper` of another posterior.
    pub(super) fn hyper(&self) -> &[f64] {
        &self.hyper
    }
}

impl Piece {
    /// The share of the cut distribution below `x`.
    fn below(&self, x: f64) -> f64 {
        // Counted from above, both factors keep their digits however far below zero the mean is.
        let above = log_normal_cdf((self.mean - x) / self.deviation);
        let all = log_normal_cdf(self.mean / self.deviation);
        1.0 - (above - all).exp()
    }
}

/// Runs of positions that no measurement separates: the last of each, and the prior weight of all of them. A culprit
/// in `(previous, last]` makes exactly the measurements from `last` on slow.
fn spans(links: &Links, prior: &[f64]) -> Vec<(usize, f64)> {
    let end = prior.len() - 1;
    let mut lasts: Vec<usize> = links
        .keys()
        .map(|(commit, _)| *commit)
        .filter(|c| *c > 0)
        .collect();
    lasts.dedup();
    if lasts.last() != Some(&end) {
        lasts.push(end);
    }
    let mut first = 1;
    let span = |last: usize| {
        let weight = prior[first..=last].iter().sum();
        first = last + 1;
        (last, weight)
    };
    lasts.into_iter().map(span).collect()
}

/// The measurements as far as they matter: links of one commit that were run equally often are alike.
struct Sums {
    /// Commit and runs of a link; how many such links, the sum of their means and of the squares of those.
    alike: Vec<(usize, u32, [f64; 3])>,
    /// Degrees of freedom within links, and the squares that belong to them.
    within: (f64, f64),
}

impl Sums {
    fn of(links: &Links, centre: f64) -> Self {
        let mut alike: BTreeMap<(usize, u32), [f64; 3]> = BTreeMap::new();
        let mut within = (0.0, 0.0);
        for ((commit, _), link) in links {
            let y = link.mean - centre;
            let sums = alike.entry((*commit, link.runs)).or_default();
            *sums = [sums[0] + 1.0, sums[1] + y, sums[2] + y * y];
            within.0 += f64::from(link.runs - 1);
            within.1 += link.squares;
        }
        let alike = alike
            .into_iter()
            .map(|((commit, runs), sums)| (commit, runs, sums));
        Self {
            alike: alike.collect(),
            within,
        }
    }
}

/// Weighted sums of the measurements at one grid point.
struct Table {
    /// Positions that were measured, and the sums of weights and weighted means up to and with them.
    upto: Vec<(usize, f64, f64)>,
    /// The sums over all.
    weight: f64,
    first: f64,
    /// The logarithm of the likelihood if nothing became slower, up to what all grid points share.
    evidence: f64,
}

impl Table {
    /// The sums of the measurements and of `known`, the good end's level as its reference tells it: mean, variance.
    fn of(sums: &Sums, sigma: f64, tau: f64, known: Option<(f64, f64)>) -> Self {
        let (noise, layout) = (sigma * sigma, tau * tau);
        let (mut weight, mut first, mut second) = (0.0, 0.0, 0.0);
        let mut logs = -sums.within.0 * sigma.ln() - 0.5 * sums.within.1 / noise;
        let mut upto: Vec<(usize, f64, f64)> = Vec::with_capacity(sums.alike.len() + 1);
        if let Some((mean, variance)) = known {
            weight += 1.0 / variance;
            first += mean / variance;
            second += mean * mean / variance;
            logs -= 0.5 * variance.ln();
            upto.push((0, weight, first));
        }
        for &(commit, runs, [count, mean, square]) in &sums.alike {
            let variance = layout + noise / f64::from(runs);
            weight += count / variance;
            first += mean / variance;
            second += square / variance;
            logs -= 0.5 * count * variance.ln();
            match upto.last_mut().filter(|last| last.0 == commit) {
                Some(last) => *last = (commit, weight, first),
                None => upto.push((commit, weight, first)),
            }
        }
        let evidence = if weight > 0.0 {
            logs - 0.5 * (weight.ln() + second - first * first / weight)
        } else {
            0.0
        };
        Self {
            upto,
            weight,
            first,
            evidence,
        }
    }

    /// For each span the quadratic of the effect's log likelihood, `b δ − a δ² / 2`, against no effect at all.
    fn splits(&self, spans: &[(usize, f64)]) -> impl Iterator<Item = (f64, f64)> {
        let mut at = 0;
        spans.iter().map(move |(last, _)| {
            while at < self.upto.len() && self.upto[at].0 < *last {
                at += 1;
            }
            let (before, sum) = at
                .checked_sub(1)
                .map_or((0.0, 0.0), |at| (self.upto[at].1, self.upto[at].2));
            let (after, rest) = (self.weight - before, self.first - sum);
            if before <= 0.0 || after <= 0.0 {
                return (0.0, 0.0);
            }
            (
                before * after / self.weight,
                rest - after * self.first / self.weight,
            )
        })
    }

    /// What would be predicted of a commit before and after the culprit, for each span that the culprit may be in.
    fn gaps(&self, spans: &[(usize, f64)], pieces: &[Piece]) -> Vec<Gap> {
        let mut sums = vec![(0.0, 0.0); spans.len()];
        for piece in pieces {
            let (share, effect) = &mut sums[piece.gap];
            *share += piece.share;
            *effect += piece.share * piece.mean.max(0.0);
        }
        let gap = |gap: usize, last: usize, (a, b): (f64, f64)| {
            let (share, sum) = sums[gap];
            let effect = if share > 0.0 {
                sum / share
            } else {
                (b / (a + 100.0)).max(0.0)
            };
            let spread = 1.0 / (a + 100.0);
            let total = self.weight.max(1e-9);
            // `a` is before · after / total; the level is the weighted mean of all less the effect's part in it.
            let before = spans_before(&self.upto, last);
            let fraction = ((total - before) / total).clamp(0.0, 1.0);
            let level = self.first / total - fraction * effect;
            let common = 1.0 / total;
            Gap {
                last,
                low: (level, common + fraction * fraction * spread),
                high: (
                    level + effect,
                    common + (1.0 - fraction) * (1.0 - fraction) * spread,
                ),
            }
        };
        let splits: Vec<(f64, f64)> = self.splits(spans).collect();
        let all = spans.iter().zip(splits).enumerate();
        all.map(|(at, ((last, _), split))| gap(at, *last, split))
            .collect()
    }
}

/// The weight of what was measured before position `last`.
fn spans_before(upto: &[(usize, f64, f64)], last: usize) -> f64 {
    let before = upto.iter().rev().find(|(commit, ..)| *commit < last);
    before.map_or(0.0, |(_, weight, _)| *weight)
}

/// The logarithm of the standard normal distribution's cumulative function.
pub(super) fn log_normal_cdf(x: f64) -> f64 {
    if x > 6.0 {
        return 0.0;
    }
    if x > -30.0 {
        return (0.5 * libm::erfc(-x / SQRT_2)).ln();
    }
    // Mills' ratio to second order: its relative error is below 1e-5 here.
    -0.5 * x * x - (-x).ln() - 0.5 * (2.0 * std::f64::consts::PI).ln() + (-1.0 / (x * x)).ln_1p()
}

/// `count` figures from `low` to `high`, evenly spread over their logarithms.
fn logarithmic(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = (high / low).ln() / (count - 1) as f64;
    (0..count)
        .map(|at| low * (step * at as f64).exp())
        .collect()
}
