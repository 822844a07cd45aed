//! Searches among commits that only exist as seeded random numbers: how often the answer is right, and what it costs.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Answer, Costs, Ending, Search, Settings, Step};

/// A kind of history, and of machine to measure it on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct World {
    /// Commits after the good end.
    pub commits: usize,
    /// How much slower the culprit is, as a ratio less 1; 0 for a history without one.
    pub slower: f64,
    /// The standard deviation of one measurement, as a logarithm.
    pub noise: f64,
    /// The standard deviation that a link adds for as long as it is the same link.
    pub layout: f64,
    /// The share of commits that do not build, in runs of four on average.
    pub broken: f64,
    /// The share of measurements that a neighbour disturbs, by 10 % on average. The model knows no such thing.
    pub bursts: f64,
}

impl World {
    /// 128 commits, 3 %, noise of 2 %, and nothing else.
    pub const PLAIN: Self = Self {
        commits: 128,
        slower: 0.03,
        noise: 0.02,
        layout: 0.0,
        broken: 0.0,
        bursts: 0.0,
    };
}

/// What one search came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which commit is slower; `None` if none is.
    pub truth: Option<usize>,
    /// The commit that is accused.
    pub accused: Option<usize>,
    /// Whether the culprit is the accused, or one of those that nobody could tell from it.
    pub right: bool,
    /// Whether the first accusation, before any verification, was right; false if there was none.
    pub right_at_first: bool,
    /// Whether the credible set, if there is one, holds the culprit.
    pub covered: Option<bool>,
    /// Measurements until the accusation, and with its verification.
    pub runs: [u32; 2],
    /// Links, the first of each commit included.
    pub links: u32,
    /// Commits that were built, or tried in vain.
    pub builds: u32,
    /// What fresh links said of the accused; `None` if it did not come to that.
    pub verified: Option<bool>,
    /// The probability of the accused before its verification, and after.
    pub probability: [f64; 2],
    /// Whether the interval of the verification holds the true effect.
    pub effect_covered: Option<bool>,
}

/// One history of a [`World`] with the random numbers of its measurements.
struct Place {
    world: World,
    truth: Option<usize>,
    broken: Vec<bool>,
    offsets: BTreeMap<(usize, u32), f64>,
    tried: Vec<bool>,
    rng: StdRng,
    /// The offset of the link that all figures are relative to.
    reference: f64,
}

impl Place {
    fn new(world: World, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let n = world.commits;
        let truth = (world.slower > 0.0).then(|| rng.random_range(1..=n));
        let mut broken = vec![false; n + 1];
        while (broken.iter().filter(|b| **b).count() as f64) < world.broken * n as f64 {
            let from = rng.random_range(1..n);
            let length = rng.random_range(1..=7);
            broken[from..(from + length).min(n)].fill(true);
        }
        // From a generator of its own: without layouts, the other draws are what they would be without it.
        let mut own = StdRng::seed_from_u64(!seed);
        let reference = world.layout * normal(&mut own);
        Self {
            world,
            truth,
            broken,
            offsets: BTreeMap::new(),
            tried: vec![false; n + 1],
            rng,
            reference,
        }
    }

    fn level(&self, commit: usize) -> f64 {
        match self.truth {
            Some(culprit) if commit >= culprit => self.world.slower.ln_1p(),
            _ => 0.0,
        }
    }

    fn measure(&mut self, commit: usize, link: u32) -> f64 {
        self.tried[commit] = true;
        let offset = match self.offsets.get(&(commit, link)) {
            Some(offset) => *offset,
            None => {
                let offset = self.world.layout * normal(&mut self.rng);
                self.offsets.insert((commit, link), offset);
                offset
            }
        };
        let noise = self.world.noise * normal(&mut self.rng);
        let burst = if self.rng.random_bool(self.world.bursts) {
            -0.1 * (1.0 - self.rng.random::<f64>()).ln()
        } else {
            0.0
        };
        self.level(commit) - self.reference + offset + noise + burst
    }

    /// Whether nobody can tell the culprit from `accused`: all commits between them do not build.
    fn is_right(&self, accused: usize) -> bool {
        self.truth.is_some_and(|culprit| {
            culprit <= accused && self.broken[culprit..accused].iter().all(|broken| *broken)
        })
    }

    fn builds(&self) -> u32 {
        self.tried.iter().filter(|tried| **tried).count() as u32
    }
}

/// A draw from the standard normal distribution.
fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// Searches a history of `world` made from `seed`.
pub fn search(world: World, settings: Settings, costs: Costs, seed: u64) -> Outcome {
    let mut place = Place::new(world, seed);
    let mut search = Search::new(&vec![1.0; world.commits], settings);
    let mut runs = 0;
    let mut first: Option<(u32, f64, bool)> = None;
    let ending = loop {
        let request = match search.step(costs) {
            Step::Done(ending) => break ending,
            Step::Measure(request) => request,
        };
        if place.broken[request.commit] {
            place.tried[request.commit] = true;
            search.cannot_build(request.commit);
        } else {
            let measure = |_| place.measure(request.commit, request.link);
            let figures: Vec<f64> = (0..request.runs).map(measure).collect();
            runs += request.runs;
            search.observe(request.commit, request.link, &figures);
        }
        if let (
            None,
            super::Phase::Verification {
                culprit, parent, ..
            },
        ) = (first, search.phase())
        {
            first = Some((
                runs,
                conditional(&search, parent, culprit),
                place.is_right(culprit),
            ));
        }
    };
    let answer: Option<Answer> = match ending {
        Ending::Found(answer) => Some(answer),
        _ => None,
    };
    let accused = answer.as_ref().map(|answer| answer.culprit);
    let (before, probability, right_at_first) = first.unwrap_or((runs, 0.0, false));
    let holds = |answer: &Answer| {
        let culprit = place.truth?;
        Some(
            answer
                .credible
                .iter()
                .any(|(position, _)| *position == culprit),
        )
    };
    let verification = answer.as_ref().and_then(|answer| answer.verification);
    let last = answer.as_ref().map_or(0.0, |answer| {
        conditional(&search, answer.parent, answer.culprit)
    });
    let right = match place.truth {
        Some(_) => accused.is_some_and(|accused| place.is_right(accused)),
        None => accused.is_none(),
    };
    Outcome {
        truth: place.truth,
        accused,
        right,
        right_at_first,
        covered: answer.as_ref().and_then(holds),
        runs: [before, runs],
        links: place.offsets.len() as u32,
        builds: place.builds(),
        verified: verification.map(|verification| verification.verified),
        probability: [probability, last],
        effect_covered: verification.filter(|_| right).map(|verification| {
            let effect = world.slower.ln_1p();
            (verification.effect.low..=verification.effect.high).contains(&effect)
        }),
    }
}

/// The probability of the commits after `parent`, up to `culprit`, granted that there is a culprit.
fn conditional(search: &Search, parent: usize, culprit: usize) -> f64 {
    let of = search.posterior().probabilities();
    of[parent + 1..=culprit].iter().sum::<f64>() / (1.0 - of[0])
}

/// `git bisect run` with a script that runs each commit `runs_a_step` times and compares their mean with the middle
/// between both levels. The script is given that middle for nothing and exactly; a commit that does not build is
/// skipped for its nearest neighbour.
pub fn git_bisect(world: World, runs_a_step: u32, seed: u64) -> Outcome {
    let mut place = Place::new(world, seed);
    let middle = 0.5 * world.slower.ln_1p() - place.reference;
    let (mut good, mut bad) = (0, world.commits);
    let mut runs = 0;
    loop {
        let centre = usize::midpoint(good, bad);
        let inside = (good + 1..bad).filter(|at| !place.broken[*at]);
        let Some(next) = inside.min_by_key(|at| (at.abs_diff(centre), *at)) else {
            break;
        };
        for at in good + 1..bad {
            if at.abs_diff(centre) < next.abs_diff(centre) {
                place.tried[at] = true;
            }
        }
        let sum: f64 = (0..runs_a_step).map(|_| place.measure(next, 0)).sum();
        runs += runs_a_step;
        if sum / f64::from(runs_a_step) > middle {
            bad = next;
        } else {
            good = next;
        }
    }
    Outcome {
        truth: place.truth,
        accused: Some(bad),
        right: place.is_right(bad),
        right_at_first: place.is_right(bad),
        covered: None,
        runs: [runs, runs],
        links: place.builds(),
        builds: place.builds(),
        verified: None,
        probability: [0.0, 0.0],
        effect_covered: None,
    }
}
