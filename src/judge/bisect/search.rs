//! The course of a search: ends, commits, verification.

use serde::Serialize;

use super::choose::{self, Costs, Field};
use super::model::{Effect, EffectPrior, Link, Links, Noise, PRIOR_NONE, Posterior};

/// What a search is to reach, and what it may spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The posterior probability at which commits are named. Where fresh links can be had, they are called for when
    /// twice the doubt is left, and have to leave a fifth of it.
    pub confidence: f64,
    /// The probability that the ends differ from which on the commits between them are measured.
    pub ends: f64,
    /// The effect, as a logarithm of a ratio, below which a difference would not matter.
    pub least_effect: f64,
    /// How the figures scatter.
    pub noise: Noise,
    /// Whether another link of a commit can be had.
    pub relinks: bool,
    /// How far, beside its layout, the level that figures are relative to may be from the good end's: a standard
    /// deviation. `None` if they are not relative to a link of the good end.
    pub reference: Option<f64>,
    /// The fewest runs of the bad end: figures that agree by chance are no proof of a quiet machine.
    pub least_end_runs: u32,
    /// The most runs of the bad end before the search gives up on a difference between them.
    pub most_end_runs: u32,
    /// The most fresh links of the culprit and of its parent.
    pub most_fresh_links: u32,
    /// The most runs altogether.
    pub most_runs: u32,
}

impl Settings {
    /// The usual settings for a kind of metric.
    pub const fn of(noise: Noise) -> Self {
        Self {
            confidence: 0.95,
            ends: 0.6,
            least_effect: 0.01,
            noise,
            relinks: matches!(noise, Noise::Clocked),
            reference: match noise {
                Noise::Clocked => Some(REFERENCE_OFF),
                Noise::Counted => None,
            },
            least_end_runs: match noise {
                Noise::Clocked => 5,
                Noise::Counted => 1,
            },
            most_end_runs: 48,
            most_fresh_links: 24,
            most_runs: 2000,
        }
    }

    /// The probability at which fresh links are called for: twice the doubt is left. The search goes on from there
    /// with the links that tell the most, so that to wait for more before them only costs runs.
    fn suspicion(&self) -> f64 {
        if self.relinks {
            (1.0 - 2.0 * (1.0 - self.confidence)).max(0.5)
        } else {
            self.confidence
        }
    }

    /// The probability, of all measurements, that fresh links have to raise a suspect to: a fifth of the doubt is left.
    /// A commit that is called verified is told to people, who will not measure again.
    fn certainty(&self) -> f64 {
        1.0 - 0.2 * (1.0 - self.confidence)
    }

    /// How often the good end is measured beside so many runs of the bad one: half as often where figures are relative
    /// to it, because they tell where it is.
    fn good_runs(&self, bad: u32) -> u32 {
        match self.reference {
            Some(_) => bad.div_ceil(2),
            None => bad,
        }
    }
}

/// One measurement to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The position of the commit; 0 is the good end.
    pub commit: usize,
    /// Which of its links, from 0; each has another order of sections.
    pub link: u32,
    /// How often it is to be run.
    pub runs: u32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Measure, and tell the search by [`Search::observe`] or [`Search::cannot_build`].
    Measure(Request),
    /// Nothing: this is the answer.
    Done(Ending),
}

/// How far a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Whether the ends differ at all.
    Ends,
    /// Which commit it was.
    Commits,
    /// Whether the step is there between fresh links of the culprit and its parent.
    Verification {
        /// The position of the culprit.
        culprit: usize,
        /// That of the nearest commit before it that builds.
        parent: usize,
        /// The first fresh link of either.
        fresh: [u32; 2],
    },
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// One of the ends does not build: its position.
    EndDoesNotBuild(usize),
    /// The ends do not differ, or not by what would matter.
    NoDifference {
        /// The probability that there is none at all.
        none: f64,
        /// With 97.5 % probability the effect is below this logarithm of a ratio.
        below: f64,
    },
    /// Nothing was decided about the ends with all the runs that were allowed.
    EndsUndecided {
        /// The probability that there is no difference.
        none: f64,
        /// The effect, if there is one.
        effect: Effect,
    },
    /// The bad end is the faster one.
    Reversed,
    /// A commit, or several that cannot be told apart, verified or not.
    Found(Answer),
    /// The runs were used up.
    OutOfRuns(Answer),
}

/// What a search knows of the commits.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The smallest set of positions that holds the confidence, the most probable first.
    pub credible: Vec<(usize, f64)>,
    /// The probability that no commit is slower.
    pub none: f64,
    /// The first slow commit that builds, of the most probable run of commits that cannot be told apart.
    pub culprit: usize,
    /// The last commit before that run.
    pub parent: usize,
    /// How much slower the bad end is than the good one.
    pub effect: Effect,
    /// The step between fresh links of the culprit and its parent, if it was looked for.
    pub verification: Option<Verification>,
}

/// What fresh links of the culprit and its parent say, and they alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verification {
    /// Fresh links of each.
    pub links: u32,
    /// The probability that the culprit is slower than its parent, from even odds.
    pub probability: f64,
    /// By how much.
    pub effect: Effect,
    /// Whether that and the probability of the culprit from all measurements are enough.
    pub verified: bool,
}

/// A search at work.
#[derive(Clone, Debug)]
pub struct Search {
    settings: Settings,
    prior: Vec<f64>,
    unbuildable: Vec<bool>,
    links: Links,
    runs: u32,
    phase: Phase,
    attempts: u32,
    posterior: Posterior,
    /// What was known of the noise when the verification began.
    before: Option<Posterior>,
    ending: Option<Ending>,
}

/// [`Settings::reference`] of a clock. The linker's own order of sections, which the reference has, need not be an
/// average one. Half a percent is as good as knowing the level where the noise is 2 %, and leaves two layouts that
/// differ by 1 % possible.
const REFERENCE_OFF: f64 = 0.005;

/// How often a culprit may fail its verification before that is the answer.
const MOST_ATTEMPTS: u32 = 3;

/// The probability that the bad end is faster at which a search stops.
const REVERSED: f64 = 0.99;

impl Search {
    /// A search among `weights.len()` commits after the good end; their weights are prior odds, usually all 1.
    ///
    /// # Panics
    /// Without a commit, or with a weight that is not positive.
    pub fn new(weights: &[f64], settings: Settings) -> Self {
        assert!(
            !weights.is_empty(),
            "a search needs a commit after the good one"
        );
        assert!(
            weights.iter().all(|weight| *weight > 0.0),
            "weights are positive"
        );
        let total: f64 = weights.iter().sum();
        let scaled = weights
            .iter()
            .map(|weight| weight / total * (1.0 - PRIOR_NONE));
        let prior: Vec<f64> = [PRIOR_NONE].into_iter().chain(scaled).collect();
        let links = Links::new();
        Self {
            posterior: posterior_of(&links, &prior, settings),
            unbuildable: vec![false; prior.len()],
            prior,
            settings,
            links,
            runs: 0,
            phase: Phase::Ends,
            attempts: 0,
            before: None,
            ending: None,
        }
    }

    /// Takes in what was measured of a link: logarithms of costs, the larger the slower.
    ///
    /// # Panics
    /// If there is no such commit, or a figure is not finite.
    pub fn observe(&mut self, commit: usize, link: u32, figures: &[f64]) {
        assert!(commit < self.prior.len() && figures.iter().all(|figure| figure.is_finite()));
        let known = self.links.entry((commit, link)).or_default();
        figures.iter().for_each(|figure| known.add(*figure));
        if known.runs == 0 {
            self.links.remove(&(commit, link));
        }
        self.runs += figures.len() as u32;
        self.advance();
    }

    /// Takes in that a commit does not build.
    ///
    /// # Panics
    /// If there is no such commit.
    pub fn cannot_build(&mut self, commit: usize) {
        self.unbuildable[commit] = true;
        if commit == 0 || commit == self.last() {
            self.ending = Some(Ending::EndDoesNotBuild(commit));
        } else {
            self.advance();
        }
    }

    /// What to do next, where things cost `costs`.
    pub fn step(&self, costs: Costs) -> Step {
        if let Some(ending) = &self.ending {
            return Step::Done(ending.clone());
        }
        let request = match self.phase {
            Phase::Ends => self.end(costs),
            Phase::Commits => {
                let field = Field {
                    links: &self.links,
                    unbuildable: &self.unbuildable,
                    costs,
                    relinks: self.settings.relinks,
                };
                match choose::best(&self.posterior, &field) {
                    Some(request) => request,
                    None => return Step::Done(Ending::OutOfRuns(self.answer())),
                }
            }
            Phase::Verification {
                culprit,
                parent,
                fresh,
            } => self.either(costs, [(parent, fresh[0]), (culprit, fresh[1])]),
        };
        Step::Measure(request)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What the measurements say so far.
    pub fn posterior(&self) -> &Posterior {
        &self.posterior
    }

    /// The answer as it stands, whether or not the search is over.
    pub fn answer(&self) -> Answer {
        let of = self.posterior.probabilities();
        let some = (1.0 - of[0]).max(f64::MIN_POSITIVE);
        let mut sorted: Vec<(usize, f64)> =
            of.iter().map(|p| p / some).enumerate().skip(1).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut held = 0.0;
        let mut credible = Vec::new();
        for (position, probability) in sorted {
            credible.push((position, probability));
            held += probability;
            if held >= self.settings.confidence {
                break;
            }
        }
        let group = self.likeliest();
        Answer {
            credible,
            none: of[0],
            culprit: group.culprit,
            parent: group.parent,
            effect: self.posterior.effect_at(group.culprit),
            verification: self.verification(),
        }
    }

    fn last(&self) -> usize {
        self.prior.len() - 1
    }

    fn advance(&mut self) {
        self.posterior = posterior_of(&self.links, &self.prior, self.settings);
        match self.phase {
            Phase::Ends => self.after_end(),
            Phase::Commits => self.after_commit(),
            Phase::Verification { .. } => self.after_fresh_link(),
        }
        if self.ending.is_none() && self.runs >= self.settings.most_runs {
            self.ending = Some(Ending::OutOfRuns(self.answer()));
        }
    }

    fn after_end(&mut self) {
        let [good, bad] = [0, self.last()].map(|end| self.runs_of(end, 0));
        if bad < self.settings.least_end_runs || good < self.settings.good_runs(bad) {
            return;
        }
        let none = self.posterior.of[0];
        if 1.0 - none >= self.settings.ends {
            self.phase = Phase::Commits;
            return self.after_commit();
        }
        if self.is_reversed() {
            self.ending = Some(Ending::Reversed);
        } else if self.is_too_small() {
            self.ending = Some(self.no_difference());
        } else if bad >= self.settings.most_end_runs {
            let effect = self.posterior.effect();
            self.ending = Some(Ending::EndsUndecided { none, effect });
        }
    }

    /// Whether the ends differ the other way round.
    fn is_reversed(&self) -> bool {
        let mean = |end: usize| {
            let links = self.links.range((end, 0)..=(end, u32::MAX));
            let (sum, runs) = links.fold((0.0, 0.0), |(sum, runs), (_, link)| {
                (
                    sum + link.mean * f64::from(link.runs),
                    runs + f64::from(link.runs),
                )
            });
            sum / runs
        };
        if mean(0) <= mean(self.last()) {
            return false;
        }
        let negated = |(place, link): (&(usize, u32), &Link)| {
            (
                *place,
                Link {
                    mean: -link.mean,
                    ..*link
                },
            )
        };
        let links: Links = self.links.iter().map(negated).collect();
        let reversed = posterior_of(&links, &self.prior, self.settings);
        1.0 - reversed.of[0] >= REVERSED
    }

    /// Whether the effect is below what would matter, with the confidence.
    fn is_too_small(&self) -> bool {
        let small = self.posterior.share_below(self.settings.least_effect);
        small >= self.settings.confidence
    }

    fn no_difference(&self) -> Ending {
        let effect = self.posterior.effect();
        Ending::NoDifference {
            none: self.posterior.of[0],
            below: effect.high,
        }
    }

    fn after_commit(&mut self) {
        let group = self.likeliest();
        let doubtful = self.posterior.of[0] > 1.0 - self.settings.ends;
        if group.probability < self.settings.suspicion() || doubtful {
            if self.posterior.of[0] >= self.settings.confidence || self.is_too_small() {
                self.ending = Some(self.no_difference());
            }
            return;
        }
        // Nothing in the group is known to build but its last commit, which must have been seen to.
        if self.runs_of(group.culprit, 0) == 0 || self.runs_of(group.parent, 0) == 0 {
            return;
        }
        if self.settings.relinks {
            let next = |commit| {
                let links = self.links.range((commit, 0)..=(commit, u32::MAX));
                links.last().map_or(0, |((_, link), _)| link + 1)
            };
            self.attempts += 1;
            self.before = Some(self.posterior.clone());
            self.phase = Phase::Verification {
                culprit: group.culprit,
                parent: group.parent,
                fresh: [next(group.parent), next(group.culprit)],
            };
        } else {
            self.ending = Some(Ending::Found(self.answer()));
        }
    }

    fn after_fresh_link(&mut self) {
        let Phase::Verification {
            culprit,
            parent,
            fresh,
        } = self.phase
        else {
            return;
        };
        let runs = [
            self.runs_of(parent, fresh[0]),
            self.runs_of(culprit, fresh[1]),
        ];
        if runs[0] != runs[1] {
            return;
        }
        let Some(verification) = self.verification() else {
            return;
        };
        let group = self.likeliest();
        let lost = group.culprit != culprit || group.probability < 0.5 * self.settings.confidence;
        let used_up = verification.links >= self.settings.most_fresh_links
            || (lost && self.attempts >= MOST_ATTEMPTS);
        if used_up || verification.verified {
            self.ending = Some(Ending::Found(self.answer()));
        } else if lost {
            self.phase = Phase::Commits;
            self.after_commit();
        }
    }

    /// What the fresh links of the verification say; the noise is known from everything before them. They bear the
    /// culprit out if they alone would raise a suspicion, and it is certain with everything else.
    fn verification(&self) -> Option<Verification> {
        let Phase::Verification {
            culprit,
            parent,
            fresh,
        } = self.phase
        else {
            return None;
        };
        let is_fresh = |(commit, link): (usize, u32)| {
            (commit == parent && link >= fresh[0]) || (commit == culprit && link >= fresh[1])
        };
        let fresh = |(place, _): &(&(usize, u32), &Link)| is_fresh(**place);
        let moved = |(place, link): (&(usize, u32), &Link)| {
            ((usize::from(place.0 == culprit), place.1), *link)
        };
        let news: Links = self.links.iter().filter(fresh).map(moved).collect();
        let links = news.keys().filter(|(commit, _)| *commit == 1).count() as u32;
        if links == 0 {
            return None;
        }
        let known = self.before.as_ref()?;
        let (even, noise) = ([0.5, 0.5], self.settings.noise);
        let expected = EffectPrior::of(known.effect_at(culprit));
        let seen = Posterior::of(&news, &even, noise, Some(known.hyper()), &expected, None);
        let unbiased = Posterior::of(
            &news,
            &even,
            noise,
            Some(known.hyper()),
            &EffectPrior::general(),
            None,
        );
        let group = self.likeliest();
        let certain = group.culprit == culprit && group.probability >= self.settings.certainty();
        let probability = seen.of[1];
        Some(Verification {
            links,
            probability,
            effect: unbiased.effect(),
            verified: certain && probability >= self.settings.suspicion(),
        })
    }

    /// Commits that cannot be told apart because all but the last do not build: the likeliest such run.
    fn likeliest(&self) -> Group {
        let mut parent = 0;
        let mut probability = 0.0;
        let some = (1.0 - self.posterior.of[0]).max(f64::MIN_POSITIVE);
        let mut best = Group {
            parent: 0,
            culprit: self.last(),
            probability: -1.0,
        };
        for at in 1..self.prior.len() {
            probability += self.posterior.of[at] / some;
            if self.unbuildable[at] {
                continue;
            }
            if probability > best.probability {
                best = Group {
                    parent,
                    culprit: at,
                    probability,
                };
            }
            (parent, probability) = (at, 0.0);
        }
        best
    }

    fn runs_of(&self, commit: usize, from_link: u32) -> u32 {
        let links = self.links.range((commit, from_link)..=(commit, u32::MAX));
        links.map(|(_, link)| link.runs).sum()
    }

    /// The next measurement of the ends: the bad one, unless the good one is behind.
    fn end(&self, costs: Costs) -> Request {
        let [good, bad] = [0, self.last()].map(|end| self.runs_of(end, 0));
        let behind = self.settings.good_runs(bad).saturating_sub(good);
        if behind > 0 {
            self.another(0, 0, behind)
        } else {
            self.another(self.last(), 0, self.runs_a_link(costs))
        }
    }

    /// The next measurement of two commits that are measured alike, each from a link on: the less measured one.
    fn either(&self, costs: Costs, sides: [(usize, u32); 2]) -> Request {
        let runs = sides.map(|(commit, from)| self.runs_of(commit, from));
        let (commit, from) = sides[usize::from(runs[1] < runs[0])];
        // The second side catches up with the first, so that both are measured alike.
        let behind = runs[0].abs_diff(runs[1]);
        let runs = if behind > 0 {
            behind
        } else {
            self.runs_a_link(costs)
        };
        self.another(commit, from, runs)
    }

    /// `runs` of the link after those of `commit` that were measured, counted from link `from`, or of the same one
    /// where there is no other.
    fn another(&self, commit: usize, from: u32, runs: u32) -> Request {
        let links = self.links.range((commit, from)..=(commit, u32::MAX));
        let link = match links.last() {
            None => from,
            Some(((_, link), _)) if self.settings.relinks => link + 1,
            Some(((_, link), _)) => *link,
        };
        Request { commit, link, runs }
    }

    /// How often a link is best run before it is linked again: the number that leaves the least variance for the time,
    /// `√(cost of a link ∕ cost of a run) · σ ∕ τ` (the classical allocation of two-stage sampling).
    fn runs_a_link(&self, costs: Costs) -> u32 {
        if !self.settings.relinks || costs.link <= 0.0 {
            return 1;
        }
        if self.links.len() < 4 {
            return 2;
        }
        let (sigma, tau) = self.posterior.noise();
        let best = (costs.link / costs.run.max(1e-9)).sqrt() * sigma / tau;
        best.round().clamp(1.0, 6.0) as u32
    }
}

/// Commits that cannot be told apart: those after `parent`, up to and with `culprit`.
#[derive(Clone, Copy)]
struct Group {
    parent: usize,
    culprit: usize,
    probability: f64,
}

fn posterior_of(links: &Links, prior: &[f64], settings: Settings) -> Posterior {
    let effects = EffectPrior::general();
    Posterior::of(
        links,
        prior,
        settings.noise,
        None,
        &effects,
        settings.reference,
    )
}
