//! Which measurement is worth most for what it costs.

use super::model::{Gap, Links, Posterior};
use super::search::Request;

/// What things cost, in one unit, such as seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Building a commit for the first time, its first link included.
    pub build: f64,
    /// Linking a built commit again.
    pub link: f64,
    /// One measurement.
    pub run: f64,
}

/// How many runs of one link are weighed as one step.
const RUNS: [u32; 5] = [1, 2, 3, 5, 8];

/// What a nat about how fast either side is counts beside a nat about the culprit. Without it, a search whose ends were
/// soon told apart goes on with levels that it hardly knows, and no number of measurements in the middle makes up for
/// that. The simulation is flat around 1.
const LEVELS: f64 = 1.0;

/// What is known of the commits besides the measurements.
pub(super) struct Field<'a> {
    /// What was measured.
    pub links: &'a Links,
    /// Per position, whether it turned out that it does not build.
    pub unbuildable: &'a [bool],
    /// What things cost.
    pub costs: Costs,
    /// Whether another link of a commit can be had.
    pub relinks: bool,
}

/// The request with the largest expected information about the culprit for its cost, or `None` if no commit is left
/// that could be measured.
pub(super) fn best(posterior: &Posterior, field: &Field<'_>) -> Option<Request> {
    let mut sides = Sides::of(posterior);
    let mut best: Option<(f64, Request)> = None;
    for commit in 0..posterior.of.len() {
        let outcome = sides.advance(commit);
        if field.unbuildable[commit] {
            continue;
        }
        for (request, cost, share) in requests(commit, field) {
            let worth = share * information(posterior, &outcome, field.links, request) / cost;
            if best.as_ref().is_none_or(|(most, _)| worth > *most) {
                best = Some((worth, request));
            }
        }
    }
    best.map(|(_, request)| request)
}

/// What can be asked of a commit: the least measured link again, or a new one; with its cost and the probability that
/// it comes to pass.
fn requests(commit: usize, field: &Field<'_>) -> Vec<(Request, f64, f64)> {
    let links = || field.links.range((commit, 0)..=(commit, u32::MAX));
    let least = links()
        .min_by_key(|(_, link)| link.runs)
        .map(|((_, number), _)| *number);
    let next = links().next_back().map(|((_, number), _)| number + 1);
    let (fresh, overhead) = match next {
        None => (Some(0), field.costs.build),
        Some(number) => (field.relinks.then_some(number), field.costs.link),
    };
    let share = if next.is_some() {
        1.0
    } else {
        chance_to_build(commit, field)
    };
    // Where a link costs nothing, more than one run of it is never better.
    let most = if overhead > 0.0 { RUNS.len() } else { 1 };
    let mut requests = Vec::new();
    for &runs in &RUNS[..most] {
        let time = field.costs.run * f64::from(runs);
        if let Some(link) = fresh {
            requests.push((Request { commit, link, runs }, overhead + time, share));
        }
    }
    if let Some(link) = least {
        let runs = 1;
        requests.push((Request { commit, link, runs }, field.costs.run, 1.0));
    }
    requests
}

/// Commits that do not build come in runs: beside one, the next is doubtful, and more so beside two.
fn chance_to_build(commit: usize, field: &Field<'_>) -> f64 {
    let built = |at: usize| field.links.range((at, 0)..=(at, u32::MAX)).next().is_some();
    let mut chance = 1.0;
    let mut look = |at: usize, away: usize| {
        if field.unbuildable[at] {
            chance *= 1.0 - 1.0 / (away + 1) as f64;
        }
        field.unbuildable[at] || built(at)
    };
    for away in 1..=commit {
        if look(commit - away, away) {
            break;
        }
    }
    for away in 1..field.unbuildable.len() - commit {
        if look(commit + away, away) {
            break;
        }
    }
    chance
}

/// Both answers that a commit may give: the probability that it is slow, and what either would look like.
struct Outcome {
    slow: f64,
    low: (f64, f64),
    high: (f64, f64),
}

/// Sums over the positions of the culprit before and after a commit, kept while the commit moves on.
struct Sides<'a> {
    posterior: &'a Posterior,
    gap: usize,
    high: Moments,
    low: Moments,
}

/// Sums of the probabilities, means and second moments of a mixture.
#[derive(Clone, Copy, Default)]
struct Moments {
    share: f64,
    first: f64,
    second: f64,
}

impl Moments {
    fn add(&mut self, share: f64, (mean, variance): (f64, f64)) {
        self.share += share;
        self.first += share * mean;
        self.second += share * (variance + mean * mean);
    }

    /// Mean and variance, or those of `fallback` where there is nothing to sum.
    fn normal(self, fallback: (f64, f64)) -> (f64, f64) {
        if self.share < 1e-12 {
            return fallback;
        }
        let mean = self.first / self.share;
        (mean, (self.second / self.share - mean * mean).max(0.0))
    }
}

impl<'a> Sides<'a> {
    fn of(posterior: &'a Posterior) -> Self {
        let mut low = Moments::default();
        let none = posterior.gaps.last().map_or((0.0, 0.0), |gap| gap.low);
        low.add(posterior.of[0], none);
        for (at, probability) in posterior.of.iter().enumerate().skip(1) {
            low.add(*probability, gap_of(posterior, at).low);
        }
        Self {
            posterior,
            gap: 0,
            high: Moments::default(),
            low,
        }
    }

    /// Moves the commit that is asked to `commit`, one after the last: culprits up to it make it slow.
    fn advance(&mut self, commit: usize) -> Outcome {
        let gaps = &self.posterior.gaps;
        while self.gap + 1 < gaps.len() && gaps[self.gap].last < commit {
            self.gap += 1;
        }
        let gap = gaps.get(self.gap).copied().unwrap_or(Gap {
            last: 0,
            low: (0.0, 0.0),
            high: (0.0, 0.0),
        });
        if commit > 0 {
            let probability = self.posterior.of[commit];
            self.high.add(probability, gap.high);
            self.low.add(-probability, gap.low);
        }
        Outcome {
            slow: self.high.share.clamp(0.0, 1.0),
            low: self.low.normal(gap.low),
            high: self.high.normal(gap.high),
        }
    }
}

fn gap_of(posterior: &Posterior, position: usize) -> Gap {
    let at = posterior.gaps.partition_point(|gap| gap.last < position);
    posterior.gaps[at]
}

/// The information, in nats, that `request` is expected to bring about whether its commit is slow.
fn information(posterior: &Posterior, outcome: &Outcome, links: &Links, request: Request) -> f64 {
    let (noise, layout) = posterior.variances;
    let runs = f64::from(request.runs);
    let known = links.get(&(request.commit, request.link));
    // A link that was measured has shown a part of its own offset, under either answer: only the rest is news.
    let (kept, fresh) = match known {
        None => (1.0, layout + noise / runs),
        Some(link) => {
            let seen = layout / (layout + noise / f64::from(link.runs));
            (1.0 - seen, layout * (1.0 - seen) + noise / runs)
        }
    };
    let side =
        |(mean, variance): (f64, f64)| (mean * kept, (kept * kept * variance + fresh).sqrt());
    let about_levels = |(_, variance): (f64, f64)| 0.5 * (kept * kept * variance / fresh).ln_1p();
    let slow = outcome.slow;
    two_normals(slow, side(outcome.low), side(outcome.high))
        + LEVELS * ((1.0 - slow) * about_levels(outcome.low) + slow * about_levels(outcome.high))
}

/// The information of a draw from one of two normal distributions (mean, deviation) about which one it was, in nats;
/// the second has the probability `p`.
fn two_normals(p: f64, low: (f64, f64), high: (f64, f64)) -> f64 {
    const STEPS: usize = 40;
    // There is less than a thousandth of a nat left to learn.
    if p <= 1e-4 || p >= 1.0 - 1e-4 {
        return 0.0;
    }
    if (high.0 - low.0).abs() > 8.0 * (low.1 + high.1) {
        return -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
    }
    let from = (low.0 - 5.0 * low.1).min(high.0 - 5.0 * high.1);
    let to = (low.0 + 5.0 * low.1).max(high.0 + 5.0 * high.1);
    let step = (to - from) / STEPS as f64;
    let density = |y: f64, (mean, deviation): (f64, f64)| {
        let z = (y - mean) / deviation;
        (-0.5 * z * z).exp() / (deviation * (2.0 * std::f64::consts::PI).sqrt())
    };
    let mut sum = 0.0;
    for at in 0..=STEPS {
        let y = from + step * at as f64;
        let (a, b) = ((1.0 - p) * density(y, low), p * density(y, high));
        let log = |part: f64, prior: f64| {
            if part > 0.0 {
                part * (part / (prior * (a + b))).ln()
            } else {
                0.0
            }
        };
        sum += log(a, 1.0 - p) + log(b, p);
    }
    (sum * step).max(0.0)
}
