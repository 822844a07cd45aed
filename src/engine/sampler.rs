//! Choosing the next token from the model's logits.
//!
//! DEFINITION (the order is llama.cpp's)
//! ```text
//! repetition penalty   logits of tokens seen in the last `repeat_last` ones: divided by the penalty above 0, else multiplied
//! greedy               temperature 0: the largest logit; done
//! top-k                the k largest logits are candidates, largest first (0: all of them)
//! top-p                the shortest row of candidates whose softmax sums to p or more
//! min-p                of these, the ones with at least min_p times the probability of the first
//! temperature          logits / temperature, softmax over what is left
//! draw                 one number from the seeded generator
//! ```
//! Equal logits count as ordered by id, so that a choice never depends on how the candidates were found.
//!
//! REPRODUCIBLE: the generator is ChaCha8 and `exp` is `libm`'s in Rust, so that the same logits, parameters and seed
//! give the same token on every machine. Logits themselves differ in the last bits between CPUs.
//!
//! WHY no full sort: a vocabulary has 152,000 tokens and a decode step a few milliseconds. Top-k keeps a buffer of
//! twice k and lets only logits pass that beat the k-th best so far; top-p sorts the best 256, and more only where
//! their probabilities do not reach p.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// How tokens are chosen. [`Default`] is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerParams {
    /// 0 is greedy; 1 leaves the model's distribution as it is.
    pub temperature: f32,
    /// How many of the largest logits stay; 0 keeps all.
    pub top_k: usize,
    /// The probability that the candidates reach together, above 0; 1 keeps all.
    pub top_p: f32,
    /// The least probability of a candidate, as a share of the first one's; 0 keeps all.
    pub min_p: f32,
    /// Above 0; 1 changes nothing, more makes repeating less likely.
    pub repeat_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repeat_last: usize,
    /// Start of the generator.
    pub seed: u64,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last: 64,
            seed: 0,
        }
    }
}

/// Why no token can be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A parameter outside its range.
    #[error("{name} is {value}, but must be {must}")]
    Parameter {
        /// The field of [`SamplerParams`].
        name: &'static str,
        /// What it is.
        value: f32,
        /// What it has to be.
        must: &'static str,
    },
    /// No logit is a number above minus infinity.
    #[error(
        "none of {0} logits is a number that can be chosen: the model's weights or a kernel are broken"
    )]
    NoCandidate(usize),
}

/// Chooses tokens, one stream of text at a time.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplerParams,
    rng: ChaCha8Rng,
    recent: VecDeque<u32>,
    /// Kept between calls for its memory.
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Largest logit first, then lowest id.
    fn order(&self, other: &Self) -> Ordering {
        // Neither is NaN: `usable` has seen to that.
        other
            .logit
            .partial_cmp(&self.logit)
            .unwrap_or(Ordering::Equal)
            .then(self.id.cmp(&other.id))
    }
}

impl Sampler {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`SamplerError::Parameter`].
    pub fn new(params: SamplerParams) -> Result<Self, SamplerError> {
        let SamplerParams {
            temperature,
            top_p,
            min_p,
            repeat_penalty,
            ..
        } = params;
        let checks = [
            (
                "temperature",
                temperature,
                temperature >= 0.0 && temperature.is_finite(),
                "0 (greedy) or more, and finite",
            ),
            (
                "top_p",
                top_p,
                top_p > 0.0 && top_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "min_p",
                min_p,
                (0.0..=1.0).contains(&min_p),
                "between 0 and 1",
            ),
            (
                "repeat_penalty",
                repeat_penalty,
                repeat_penalty > 0.0 && repeat_penalty.is_finite(),
                "above 0 and finite",
            ),
        ];
        for (name, value, good, must) in checks {
            if !good {
                return Err(SamplerError::Parameter { name, value, must });
            }
        }
        Ok(Self {
            params,
            rng: ChaCha8Rng::seed_from_u64(params.seed),
            recent: VecDeque::new(),
            candidates: Vec::new(),
        })
    }

    /// Tells the repetition penalty of a token that is part of the text: those of the prompt, and those that were
    /// chosen and kept.
    pub fn accept(&mut self, id: u32) {
        if self.params.repeat_penalty == 1.0 || self.params.repeat_last == 0 {
            return;
        }
        if self.recent.len() >= self.params.repeat_last {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// The next token; `logits` has one for each id. NaN counts as impossible, and plus infinity as certain.
    ///
    /// # Errors
    /// [`SamplerError::NoCandidate`].
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        let penalised;
        let logits = if self.recent.is_empty() {
            logits
        } else {
            penalised = self.penalised(logits);
            &penalised
        };
        if self.params.temperature == 0.0 {
            greedy(logits)
        } else {
            self.draw(logits)
        }
    }

    fn penalised(&self, logits: &[f32]) -> Vec<f32> {
        let mut changed = logits.to_vec();
        let seen: HashSet<u32> = self.recent.iter().copied().collect();
        for id in seen {
            if let Some(logit) = changed.get_mut(id as usize) {
                *logit = if *logit > 0.0 {
                    *logit / self.params.repeat_penalty
                } else {
                    *logit * self.params.repeat_penalty
                };
            }
        }
        changed
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        let SamplerParams {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.params;
        let found = &mut self.candidates;
        largest(logits, top_k, found);
        let first = first(found).ok_or(SamplerError::NoCandidate(logits.len()))?;
        if first.logit == f32::INFINITY {
            return Ok(first.id);
        }
        keep_top_p(found, first.logit, top_p);
        if min_p > 0.0 {
            // p ≥ min_p · p_first is logit ≥ logit_first + ln(min_p).
            let least = f64::from(first.logit) + libm::log(f64::from(min_p));
            found.retain(|candidate| f64::from(candidate.logit) >= least);
        }
        let weight = |candidate: &Candidate| weight(candidate.logit, first.logit, temperature);
        let total: f64 = found.iter().map(weight).sum();
        let mut left = uniform(&mut self.rng) * total;
        for candidate in found.iter() {
            left -= weight(candidate);
            if left < 0.0 {
                return Ok(candidate.id);
            }
        }
        // Only rounding can get here; the first is the likeliest.
        Ok(first.id)
    }
}

/// The id of the largest logit, the lowest of equals.
///
/// # Errors
/// [`SamplerError::NoCandidate`].
pub fn greedy(logits: &[f32]) -> Result<u32, SamplerError> {
    // Independent maxima, so that the compiler can use the widest registers; a NaN is larger than nothing.
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let rows = logits.chunks_exact(LANES);
    let rest = rows.remainder();
    for row in rows.chain(std::iter::once(rest)) {
        for (max, &logit) in maxima.iter_mut().zip(row) {
            if logit > *max {
                *max = logit;
            }
        }
    }
    let max = maxima.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let first = logits.iter().position(|&logit| logit == max);
    match first {
        Some(id) if max > f32::NEG_INFINITY => Ok(id as u32),
        _ => Err(SamplerError::NoCandidate(logits.len())),
    }
}

/// Logits that are looked at together.
const LANES: usize = 32;

fn usable(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(id, &logit)| Candidate {
            id: id as u32,
            logit,
        })
}

/// Puts the `k` largest logits into `found`, largest first; all of them in the order of ids where `k` is 0.
fn largest(logits: &[f32], k: usize, found: &mut Vec<Candidate>) {
    found.clear();
    if k == 0 || k >= logits.len() {
        found.extend(usable(logits));
        if k > 0 {
            found.sort_unstable_by(Candidate::order);
        }
        return;
    }
    let room = (2 * k).max(64);
    let mut least = f32::NEG_INFINITY;
    for (row, logits) in logits.chunks(LANES).enumerate() {
        // Nearly every row fails this as a whole, without a branch inside; NaN is above nothing.
        if !logits
            .iter()
            .fold(false, |any, &logit| any | (logit > least))
        {
            continue;
        }
        for (at, &logit) in logits.iter().enumerate() {
            // An equal logit further on has the higher id and loses.
            if logit > least {
                let id = (row * LANES + at) as u32;
                found.push(Candidate { id, logit });
                if found.len() >= room {
                    found.select_nth_unstable_by(k - 1, Candidate::order);
                    found.truncate(k);
                    least = found[k - 1].logit;
                }
            }
        }
    }
    found.sort_unstable_by(Candidate::order);
    found.truncate(k);
}

fn first(found: &[Candidate]) -> Option<Candidate> {
    found.iter().copied().min_by(Candidate::order)
}

/// Keeps the shortest row of the largest that reaches `p` of the softmax over `found`; `p` = 1 keeps all.
fn keep_top_p(found: &mut Vec<Candidate>, max: f32, p: f32) {
    if p >= 1.0 {
        return;
    }
    let total: f64 = found.iter().map(|c| weight(c.logit, max, 1.0)).sum();
    let enough = f64::from(p) * total;
    let (mut sum, mut sorted) = (0.0, 0);
    let mut block = 256;
    while sorted < found.len() {
        let rest = &mut found[sorted..];
        if block < rest.len() {
            rest.select_nth_unstable_by(block - 1, Candidate::order);
        }
        let end = block.min(rest.len());
        rest[..end].sort_unstable_by(Candidate::order);
        for (at, candidate) in rest[..end].iter().enumerate() {
            sum += weight(candidate.logit, max, 1.0);
            if sum >= enough {
                found.truncate(sorted + at + 1);
                return;
            }
        }
        sorted += end;
        block *= 4;
    }
}

/// exp((logit − max) / temperature), in f64 and the same everywhere.
fn weight(logit: f32, max: f32, temperature: f32) -> f64 {
    libm::exp((f64::from(logit) - f64::from(max)) / f64::from(temperature))
}

/// A number in 0..1 with 53 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DRAW: SamplerParams = SamplerParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last: 64,
        seed: 7,
    };

    fn draws(params: SamplerParams, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(params).unwrap();
        let mut next = || {
            let id = sampler.sample(logits).unwrap();
            sampler.accept(id);
            id
        };
        (0..n).map(|_| next()).collect()
    }

    fn kept(params: SamplerParams, logits: &[f32]) -> Vec<u32> {
        let mut ids = draws(params, logits, 4000);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let default = SamplerParams::default();
        assert_eq!(draws(default, &[1.0, 3.0, 2.0, 3.0], 2), [1, 1]);
        assert_eq!(draws(default, &[f32::NAN, -5.0, f32::NEG_INFINITY], 1), [1]);
        assert_eq!(draws(default, &[0.0, f32::INFINITY, f32::NAN], 1), [1]);
    }

    #[test]
    fn nothing_to_choose_is_an_error() {
        for logits in [&[][..], &[f32::NAN; 3], &[f32::NEG_INFINITY; 3]] {
            for temperature in [0.0, 1.0] {
                for top_k in [0, 1, 2, 9] {
                    let params = SamplerParams {
                        temperature,
                        top_k,
                        ..DRAW
                    };
                    let chosen = Sampler::new(params).unwrap().sample(logits);
                    assert_eq!(chosen, Err(SamplerError::NoCandidate(logits.len())));
                }
            }
        }
    }

    #[test]
    fn parameters_are_checked() {
        let bad = [
            SamplerParams {
                temperature: -1.0,
                ..DRAW
            },
            SamplerParams {
                temperature: f32::NAN,
                ..DRAW
            },
            SamplerParams {
                temperature: f32::INFINITY,
                ..DRAW
            },
            SamplerParams { top_p: 0.0, ..DRAW },
            SamplerParams { top_p: 1.1, ..DRAW },
            SamplerParams {
                top_p: f32::NAN,
                ..DRAW
            },
            SamplerParams {
                min_p: -0.1,
                ..DRAW
            },
            SamplerParams {
                min_p: f32::NAN,
                ..DRAW
            },
            SamplerParams {
                repeat_penalty: 0.0,
                ..DRAW
            },
        ];
        for params in bad {
            let error = Sampler::new(params).unwrap_err();
            assert!(
                matches!(error, SamplerError::Parameter { .. }),
                "{params:?}"
            );
        }
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        // Probabilities 0.4, 0.1, 0.3, 0.2.
        let logits: Vec<f32> = [0.4_f32, 0.1, 0.3, 0.2].map(f32::ln).to_vec();
        assert_eq!(kept(DRAW, &logits), [0, 1, 2, 3]);
        assert_eq!(kept(SamplerParams { top_k: 2, ..DRAW }, &logits), [0, 2]);
        assert_eq!(
            kept(
                SamplerParams {
                    top_p: 0.65,
                    ..DRAW
                },
                &logits
            ),
            [0, 2]
        );
        assert_eq!(
            kept(
                SamplerParams {
                    top_p: 0.75,
                    ..DRAW
                },
                &logits
            ),
            [0, 2, 3]
        );
        assert_eq!(
            kept(
                SamplerParams {
                    top_p: 1e-9,
                    ..DRAW
                },
                &logits
            ),
            [0]
        );
        assert_eq!(
            kept(
                SamplerParams {
                    min_p: 0.45,
                    ..DRAW
                },
                &logits
            ),
            [0, 2, 3]
        );
        assert_eq!(kept(SamplerParams { min_p: 1.0, ..DRAW }, &logits), [0]);
        // top-p before the temperature: a hot temperature must not let more through.
        let hot = SamplerParams {
            top_p: 0.65,
            temperature: 50.0,
            ..DRAW
        };
        assert_eq!(kept(hot, &logits), [0, 2]);
        let cold = SamplerParams {
            temperature: 1e-30,
            ..DRAW
        };
        assert_eq!(kept(cold, &logits), [0]);
    }

    #[test]
    fn frequencies_are_the_softmax() {
        let logits: Vec<f32> = [0.4_f32, 0.1, 0.3, 0.2].map(f32::ln).to_vec();
        let n = 100_000;
        let mut counts = [0.0; 4];
        for id in draws(DRAW, &logits, n) {
            counts[id as usize] += 1.0 / n as f64;
        }
        for (count, p) in counts.iter().zip([0.4, 0.1, 0.3, 0.2]) {
            // Five standard deviations; the seed is fixed, so this cannot flicker.
            assert!((count - p).abs() < 0.008, "{counts:?}");
        }
    }

    #[test]
    fn infinite_logits_are_certain() {
        let logits = [0.0, f32::INFINITY, 1e30, f32::INFINITY, f32::NAN];
        for top_k in [0, 1, 3] {
            assert_eq!(
                kept(
                    SamplerParams {
                        top_k,
                        top_p: 0.5,
                        min_p: 0.5,
                        ..DRAW
                    },
                    &logits
                ),
                [1]
            );
        }
        assert_eq!(kept(DRAW, &[f32::MAX, f32::MIN, f32::NAN]), [0]);
    }

    #[test]
    fn a_repeated_token_becomes_less_likely() {
        let params = SamplerParams {
            repeat_penalty: 2.0,
            repeat_last: 2,
            ..SamplerParams::default()
        };
        assert_eq!(draws(params, &[3.0, 2.0, 1.9], 6), [0, 1, 2, 0, 1, 2]);
        let mut sampler = Sampler::new(params).unwrap();
        sampler.accept(1);
        sampler.accept(u32::MAX);
        assert_eq!(sampler.sample(&[-1.0, -0.6]), Ok(0));
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_everywhere() {
        let logits: Vec<f32> = (0..1000_i32).map(|i| (i * 37 % 101) as f32 / 8.0).collect();
        let params = SamplerParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            ..DRAW
        };
        assert_eq!(
            draws(params, &logits, 8),
            [434, 535, 494, 595, 90, 161, 232, 19]
        );
        assert_ne!(
            draws(params, &logits, 8),
            draws(SamplerParams { seed: 8, ..params }, &logits, 8)
        );
    }

    /// The filters by full sorting, as their definitions read.
    fn by_definition(params: SamplerParams, logits: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = usable(logits).collect();
        all.sort_by(Candidate::order);
        if params.top_k > 0 {
            all.truncate(params.top_k);
        }
        let max = all[0].logit;
        let total: f64 = all.iter().map(|c| weight(c.logit, max, 1.0)).sum();
        let mut sum = 0.0;
        if let Some(last) = all.iter().position(|c| {
            sum += weight(c.logit, max, 1.0);
            sum >= f64::from(params.top_p) * total
        }) && params.top_p < 1.0
        {
            all.truncate(last + 1);
        }
        all.retain(|c| weight(c.logit, max, 1.0) >= f64::from(params.min_p));
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn candidates_are_those_of_a_full_sort(
            logits in prop::collection::vec(prop_oneof![Just(f32::NAN), (-64i32..64).prop_map(|n| n as f32 / 16.0)], 1..1200),
            top_k in prop_oneof![Just(0usize), 1usize..8, 1usize..1300],
            top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
            min_p in prop_oneof![Just(0.0f32), 0.01f32..1.0],
        ) {
            prop_assume!(logits.iter().any(|logit| !logit.is_nan()));
            let params = SamplerParams { top_k, top_p, min_p, ..DRAW };
            let mut sampler = Sampler::new(params).unwrap();
            let chosen = sampler.sample(&logits).unwrap();
            let expected = by_definition(params, &logits);
            sampler.candidates.sort_by(Candidate::order);
            prop_assert_eq!(&sampler.candidates, &expected);
            prop_assert!(expected.iter().any(|candidate| candidate.id == chosen));
        }
    }
}
