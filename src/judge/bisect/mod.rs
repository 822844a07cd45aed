//! Which commit made it slower, asked of a noisy clock: a search that keeps a probability for every commit.
//!
//! `git bisect` believes each answer. One wrong answer, and it ends at a commit that has nothing to do with it. Here
//! every measurement only shifts probabilities, and the search goes where the next one is worth most.
//!
//! MODEL. Commits `1 ..= n` follow the good end, which is commit 0; commit `n` is the bad end. Either nothing became
//! slower, or exactly one commit `k` did, and all from `k` on cost `exp(δ)` as much. Repetition `r` of link `l` of
//! commit `c` shows the logarithm of a cost,
//!
//! ```text
//! y[c, l, r] = μ + δ·[c ≥ k] + b[c, l] + e[c, l, r]     b ~ N(0, τ²)     e ~ N(0, σ²)
//! ```
//!
//! `b` is what the layout of one link does to the code: it does not go away by measuring that link again, only by
//! linking again. `e` is the noise of one measurement.
//!
//! PRIORS. `μ` is close to 0 where figures are ratios to a link of the good end ([`Settings::reference`]), and flat
//! otherwise. `δ` is positive; half of a normal distribution whose width is one of [`EFFECT_SCALES`], all
//! equally likely. `σ` and `τ` are spread evenly over the logarithms of a grid ([`Noise`]). `k` is uniform over the
//! commits, or by weights; "nothing became slower" has [`PRIOR_NONE`].
//!
//! POSTERIOR. `μ` and `δ` are integrated out in closed form and `σ` and `τ` over their grid ([`Posterior`]), so that no
//! estimate of the noise is ever taken for the truth. Commits that were not measured between two that were share their
//! probability by their prior; so do commits that cannot be built, which is how a culprit among them is not lost.
//!
//! COURSE ([`Search`]). Both ends first, until they differ with the probability [`Settings::ends`], or cannot differ by
//! what would matter. Then whatever measurement has the largest expected information about `k` for its cost: another link
//! and another commit cost more than another run. When a single commit, or several that cannot be told apart because all
//! but the last do not build, has all but twice the doubt that [`Settings::confidence`] leaves, it and the one before it
//! are linked anew. They bear it out if the step between them is as probable from these links alone, and the commit has
//! all but a fifth of that doubt from everything; if another becomes likelier, the search goes on. Without other links, it
//! ends at the confidence.
//!
//! Everything is a function of the measurements in their order: a search is resumed by showing them to it again.

mod choose;
mod model;
mod search;
pub mod simulation;

pub use choose::Costs;
pub use model::{EFFECT_SCALES, Effect, Noise, PRIOR_NONE, Posterior};
pub use search::{Answer, Ending, Phase, Request, Search, Settings, Step, Verification};

#[cfg(test)]
mod tests;
