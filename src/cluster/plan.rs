//! Who computes what: shares of a model by the speeds of ranks; pure.
//!
//! A layer has stretches between two exchanges, each of which takes as long as its slowest rank: attention, and the
//! feed-forward. So each is divided by itself. What one cannot be divided evenly in (heads are few), another cannot make
//! good.
//!
//! DIVISION. Units go one by one to the rank that would be done with it first, `(units + 1) / speed` being least: that
//! makes the largest `units / speed` as small as can be (it is D'Hondt's method for seats in a parliament).

use std::ops::Range;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;

use crate::engine::config::ModelConfig;
use crate::engine::weights::part::{Part, inner};

/// Tokens of the vocabulary in a unit: enough for a kernel's panel of rows.
const VOCABULARY_UNIT: usize = 32;

/// How experts are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertSplit {
    /// Every rank has rows of every expert.
    Rows,
    /// Every rank has some experts whole.
    Whole,
}

/// What each rank has.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How experts are divided; rows in a dense model.
    pub experts: ExpertSplit,
    /// Shares that were asked for, adding up to one.
    pub shares: Vec<f64>,
    /// Parts, by rank.
    pub parts: Vec<Part>,
}

/// Why a model cannot be divided so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Nobody, or one of the shares makes no sense.
    #[error("shares must be positive numbers, one a rank, such as 50,50: found {0:?}")]
    Shares(Vec<f64>),
}

impl Plan {
    /// Divides a model by `weights`, one a rank: speeds, or shares in any unit. Columns are cut at multiples of `unit`, see
    /// [`ModelWeights::column_unit`](crate::engine::weights::ModelWeights::column_unit).
    ///
    /// # Errors
    /// [`PlanError`] if a weight is not a positive number.
    pub fn new(
        config: &ModelConfig,
        unit: usize,
        weights: &[f64],
        experts: ExpertSplit,
    ) -> Result<Self, PlanError> {
        let sum: f64 = weights.iter().sum();
        if weights.is_empty() || !sum.is_finite() || weights.iter().any(|w| w.is_nan() || *w <= 0.0)
        {
            return Err(PlanError::Shares(weights.to_vec()));
        }
        let heads = divide_heads(config, unit, weights);
        let vocab = divide(config.n_vocab, VOCABULARY_UNIT, weights);
        let all = |total| vec![0..total; weights.len()];
        let is_whole = experts == ExpertSplit::Whole && config.is_moe();
        let (experts, ff, some) = match is_whole {
            true => {
                let some = divide(config.n_expert, 1, weights);
                (ExpertSplit::Whole, all(inner(config)), some)
            }
            false => {
                let ff = divide(inner(config), unit, weights);
                (ExpertSplit::Rows, ff, all(config.n_expert))
            }
        };
        let parts = heads.into_iter().zip(ff).zip(some).zip(vocab);
        Ok(Self {
            experts,
            shares: weights.iter().map(|weight| weight / sum).collect(),
            parts: parts
                .map(|(((heads, ff), experts), vocab)| Part {
                    heads,
                    ff,
                    experts,
                    vocab,
                })
                .collect(),
        })
    }

    /// [`Plan::new`] with experts divided as asked, or `None` for the way by which the slowest rank is done first.
    /// Exchanges cost the same in both ways.
    ///
    /// # Errors
    /// See there.
    pub fn choose(
        config: &ModelConfig,
        unit: usize,
        weights: &[f64],
        experts: Option<ExpertSplit>,
    ) -> Result<Self, PlanError> {
        if let Some(experts) = experts {
            return Self::new(config, unit, weights, experts);
        }
        let rows = Self::new(config, unit, weights, ExpertSplit::Rows)?;
        let whole = Self::new(config, unit, weights, ExpertSplit::Whole)?;
        let whole_is_faster = whole.imbalance(config) < rows.imbalance(config);
        Ok(if whole_is_faster { whole } else { rows })
    }

    /// Ranks that have nothing to do in some stretch.
    pub fn idle(&self) -> Vec<usize> {
        let ranks = 0..self.parts.len();
        ranks
            .filter(|rank| {
                let part = &self.parts[*rank];
                let no_expert = self.experts == ExpertSplit::Whole && part.experts.is_empty();
                part.heads.is_empty() || part.ff.is_empty() || no_expert
            })
            .collect()
    }

    /// What the ranks do in a second where each does its share, and none does more than its speed allows: as much as the
    /// one lets through that is the slowest for its share.
    pub fn shares_of(&self, speeds: &[f64]) -> Vec<f64> {
        let pairs = self.shares.iter().zip(speeds);
        let all = pairs
            .map(|(share, speed)| speed / share)
            .fold(f64::INFINITY, f64::min);
        self.shares.iter().map(|share| share * all).collect()
    }

    /// How long a token's products take in all, in units of what one rank with the whole model and all the speed takes:
    /// 1 where everything is divided as asked, more where units are too coarse or something is done by every rank. Whole
    /// experts take as long as the rank that has most of a token's: the mean over tokens whose experts are any.
    pub fn imbalance(&self, config: &ModelConfig) -> f64 {
        let whole = Macs::of(config, &Part::whole(config)).total() as f64;
        let macs: Vec<Macs> = self.parts.iter().map(|p| Macs::of(config, p)).collect();
        let slowest = |stretch: fn(&Macs) -> u64| {
            let times = macs.iter().zip(&self.shares);
            times
                .map(|(macs, share)| stretch(macs) as f64 / share)
                .fold(0.0, f64::max)
        };
        let feed_forward = match self.experts {
            ExpertSplit::Rows => slowest(|m| m.feed_forward),
            ExpertSplit::Whole => self.slowest_with_experts(config),
        };
        (slowest(|m| m.attention) + feed_forward + slowest(|m| m.head)) / whole
    }

    /// Multiply–accumulates of the feed-forwards over the share of the rank that they take longest, for whole experts.
    fn slowest_with_experts(&self, config: &ModelConfig) -> f64 {
        /// Tokens that are looked at: their mean is within a percent of the true one.
        const TOKENS: usize = 2000;
        let one = Macs::of_expert(config, config.n_ff_expert) as f64;
        let router = (config.n_expert * config.n_embd) as f64;
        let mut rng = StdRng::seed_from_u64(1);
        let times = (0..TOKENS).map(|_| {
            let picked = index::sample(&mut rng, config.n_expert, config.n_expert_used);
            let ranks = self.parts.iter().zip(&self.shares).map(|(part, share)| {
                let here = picked.iter().filter(|one| part.experts.contains(one));
                (here.count() as f64 * one + router) / share
            });
            ranks.fold(0.0, f64::max)
        });
        config.n_layer as f64 * times.sum::<f64>() / TOKENS as f64
    }
}

/// Multiply–accumulates of one token in a part's matrices, over all layers; attention's own, which grow with the
/// context, are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// q, k, v and the output of attention.
    pub attention: u64,
    /// Feed-forwards; of experts, those that serve a token, and the router. Of a part with some experts whole, what it
    /// does of a token in the mean.
    pub feed_forward: u64,
    /// The output head.
    pub head: u64,
}

impl Macs {
    /// Of a part.
    pub fn of(config: &ModelConfig, part: &Part) -> Self {
        let product = |factors: &[usize]| factors.iter().map(|f| *f as u64).product::<u64>();
        let (layers, d) = (config.n_layer, config.n_embd);
        let feed_forward = Self::of_expert(config, part.ff.len());
        let served = |macs: u64| match part.experts.len() == config.n_expert {
            true => macs,
            false => (macs as f64 * part.experts.len() as f64 / config.n_expert as f64) as u64,
        };
        Self {
            attention: product(&[layers]) * attention(config, part) as u64,
            feed_forward: product(&[layers])
                * match config.is_moe() {
                    true => {
                        let router = product(&[config.n_expert, d]);
                        served(config.n_expert_used as u64 * feed_forward) + router
                    }
                    false => feed_forward,
                },
            head: product(&[part.vocab.len(), d]),
        }
    }

    /// Of one feed-forward with so many inner elements: gate, up and down.
    const fn of_expert(config: &ModelConfig, inner: usize) -> u64 {
        3 * inner as u64 * config.n_embd as u64
    }

    /// All of them.
    pub const fn total(&self) -> u64 {
        self.attention + self.feed_forward + self.head
    }
}

/// Multiply–accumulates of a token in the matrices of one layer's attention.
fn attention(config: &ModelConfig, part: &Part) -> usize {
    let heads = 2 * part.heads.len() + 2 * part.kv_heads(config).len();
    heads * config.head_dim * config.n_embd
}

/// Divides heads so that the slowest rank is done soonest: in whole groups, or in pieces of groups, whose keys and values
/// several ranks then compute.
fn divide_heads(config: &ModelConfig, unit: usize, weights: &[f64]) -> Vec<Range<usize>> {
    // Columns of the output matrix come in blocks, which must not be cut.
    let whole_blocks = |heads: usize| (heads * config.head_dim).is_multiple_of(unit);
    let units = (1..=config.n_head).filter(|unit| config.n_head.is_multiple_of(*unit));
    let slowest = |heads: &[Range<usize>]| {
        let times = heads.iter().zip(weights).map(|(heads, weight)| {
            let part = Part {
                heads: heads.clone(),
                ..Part::whole(config)
            };
            attention(config, &part) as f64 / weight
        });
        times.fold(0.0, f64::max)
    };
    units
        .filter(|unit| whole_blocks(*unit))
        .map(|unit| divide(config.n_head, unit, weights))
        .min_by(|a, b| slowest(a).total_cmp(&slowest(b)))
        // Not even all heads together are whole blocks: the matrices hold no blocks then.
        .unwrap_or_else(|| divide(config.n_head, 1, weights))
}

/// Divides `total` in pieces of `unit`, the last of which may be shorter; some ranks may get none.
fn divide(total: usize, unit: usize, weights: &[f64]) -> Vec<Range<usize>> {
    let mut units = vec![0_usize; weights.len()];
    for _ in 0..total.div_ceil(unit) {
        let done = |rank: usize| (units[rank] + 1) as f64 / weights[rank];
        let first = (0..weights.len()).min_by(|a, b| done(*a).total_cmp(&done(*b)));
        units[first.unwrap_or(0)] += 1;
    }
    let mut at = 0;
    let ends = units.into_iter().map(|units| {
        let start = at;
        at = total.min(at + units * unit);
        start..at
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::synth::Preset;
    use crate::engine::weights::part::BLOCKS;

    fn plan(preset: Preset, weights: &[f64]) -> (ModelConfig, Plan) {
        let config = preset.config();
        let plan = Plan::new(&config, BLOCKS, weights, ExpertSplit::Rows).unwrap();
        (config, plan)
    }

    /// The ranges follow each other and make up the whole.
    fn makes_up(ranges: impl Iterator<Item = Range<usize>>, total: usize, unit: usize) {
        let mut at = 0;
        for range in ranges {
            assert_eq!(range.start, at);
            assert!(
                range.end.is_multiple_of(unit) || range.end == total,
                "{range:?}"
            );
            at = range.end;
        }
        assert_eq!(at, total);
    }

    #[test]
    fn parts_make_up_the_model_in_whole_blocks() {
        for preset in Preset::ALL {
            for ranks in 1..=9 {
                for weights in [vec![1.0; ranks], (1..=ranks).map(|r| r as f64).collect()] {
                    let (config, plan) = plan(preset, &weights);
                    let parts = plan.parts.iter();
                    let blocks = BLOCKS.div_ceil(config.head_dim);
                    makes_up(
                        parts.clone().map(|p| p.heads.clone()),
                        config.n_head,
                        blocks,
                    );
                    makes_up(parts.clone().map(|p| p.ff.clone()), inner(&config), 32);
                    makes_up(parts.clone().map(|p| p.vocab.clone()), config.n_vocab, 32);
                    assert!((plan.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                    let macs = parts
                        .map(|part| Macs::of(&config, part).total())
                        .sum::<u64>();
                    assert!(macs >= Macs::of(&config, &Part::whole(&config)).total());
                }
            }
        }
    }

    #[test]
    fn even_ranks_get_even_parts_and_shares_are_met_to_a_unit() {
        let (config, even) = plan(Preset::Llama2_7b, &[50.0, 50.0]);
        assert_eq!(even.parts[1].heads, 16..32);
        assert_eq!(even.parts[1].ff, 5504..11_008);
        assert_eq!(even.imbalance(&config), 1.0);
        let (_, uneven) = plan(Preset::Llama2_7b, &[24.3, 24.1, 5.6]);
        for (part, share) in uneven.parts.iter().zip(&uneven.shares) {
            let units = part.ff.len() as f64 / 32.0;
            assert!((units - 344.0 * share).abs() < 1.0, "{units} {share}");
        }
    }

    #[test]
    fn with_more_ranks_than_kv_heads_several_ranks_have_the_same_kv_head() {
        let (config, plan) = plan(Preset::Qwen3_30bA3b, &[1.0; 8]);
        let kv = plan.parts.iter().map(|part| part.kv_heads(&config));
        let wanted = [0..1, 0..1, 1..2, 1..2, 2..3, 2..3, 3..4, 3..4];
        assert_eq!(kv.collect::<Vec<_>>(), wanted);
        assert!(plan.idle().is_empty());
    }

    #[test]
    fn a_group_is_cut_only_where_that_is_faster() {
        // 8 KV heads for 2 ranks: whole groups.
        let (config, two) = plan(Preset::Qwen3_4b, &[1.0, 1.0]);
        assert_eq!(two.parts[0].kv_heads(&config), 0..4);
        // 4 groups of 8 for 3 ranks: whole groups would leave one rank with half of all.
        let (config, three) = plan(Preset::Qwen3_30bA3b, &[1.0; 3]);
        assert!(three.parts.iter().all(|part| part.heads.len() <= 12));
        assert!(three.imbalance(&config) < 1.15);
    }

    /// How much longer the slowest rank takes than its share, by rows and by whole experts.
    fn imbalances(preset: Preset, ranks: usize) -> [f64; 2] {
        let config = preset.config();
        [ExpertSplit::Rows, ExpertSplit::Whole].map(|experts| {
            let plan = Plan::new(&config, BLOCKS, &vec![1.0; ranks], experts).unwrap();
            let parts = plan.parts.iter();
            match experts {
                ExpertSplit::Rows => {
                    assert!(parts.clone().all(|p| p.experts.len() == config.n_expert))
                }
                ExpertSplit::Whole => {
                    makes_up(parts.clone().map(|p| p.experts.clone()), config.n_expert, 1);
                    assert!(parts.clone().all(|p| p.ff == (0..config.n_ff_expert)));
                }
            }
            plan.imbalance(&config)
        })
    }

    /// The table of the module's documentation in `cluster`.
    #[test]
    fn whole_experts_wait_for_the_rank_that_has_most_of_them() {
        // All 2 experts of a token are on one of 2 ranks in 3 of 7 cases: 10/7 as long in feed-forwards.
        let [rows, whole] = imbalances(Preset::Mixtral8x7b, 2);
        let macs = Macs::of(
            &Preset::Mixtral8x7b.config(),
            &Part::whole(&Preset::Mixtral8x7b.config()),
        );
        let wanted = 1.0 + 3.0 / 7.0 * macs.feed_forward as f64 / macs.total() as f64;
        assert!(
            (rows - 1.0).abs() < 0.01 && (whole / wanted - 1.0).abs() < 0.02,
            "{whole} {wanted}"
        );
        for (preset, ranks) in [
            (Preset::Qwen3_30bA3b, 2),
            (Preset::Qwen3_30bA3b, 4),
            (Preset::Qwen3_30bA3b, 8),
            (Preset::Mixtral8x7b, 4),
            (Preset::Mixtral8x7b, 8),
        ] {
            let [rows, whole] = imbalances(preset, ranks);
            eprintln!(
                "{} on {ranks}: rows {rows:.2}, whole {whole:.2}",
                preset.name()
            );
            assert!(whole > rows, "{} on {ranks}: {rows} {whole}", preset.name());
        }
    }

    #[test]
    fn whole_experts_are_chosen_where_rows_are_too_few() {
        let config = Preset::Qwen3_30bA3b.config();
        let rows = Plan::choose(&config, BLOCKS, &[1.0; 2], None).unwrap();
        assert_eq!(rows.experts, ExpertSplit::Rows);
        // One block of rows an expert: one rank would do all feed-forwards.
        let narrow = ModelConfig {
            n_ff_expert: BLOCKS,
            ..config
        };
        let whole = Plan::choose(&narrow, BLOCKS, &[1.0; 4], None).unwrap();
        assert_eq!(whole.experts, ExpertSplit::Whole);
        assert!(whole.idle().is_empty());
        let dense = Plan::choose(&Preset::TinyDense.config(), BLOCKS, &[1.0; 2], None).unwrap();
        assert_eq!(dense.experts, ExpertSplit::Rows);
        let asked = Plan::new(
            &Preset::TinyDense.config(),
            BLOCKS,
            &[1.0; 2],
            ExpertSplit::Whole,
        );
        assert_eq!(asked.unwrap(), dense, "there are none to divide");
    }

    #[test]
    fn ranks_beyond_the_heads_have_none() {
        let (_, plan) = plan(Preset::TinyDense, &[1.0; 6]);
        let heads: Vec<usize> = plan.parts.iter().map(|p| p.heads.len()).collect();
        assert_eq!(heads, [1, 1, 1, 1, 0, 0]);
        assert_eq!(plan.idle(), [4, 5]);
    }

    #[test]
    fn shares_that_make_no_sense_are_refused() {
        let config = Preset::TinyDense.config();
        for weights in [&[][..], &[1.0, 0.0], &[-1.0, 2.0], &[f64::NAN, 1.0]] {
            for experts in [ExpertSplit::Rows, ExpertSplit::Whole] {
                let plan = Plan::new(&config, BLOCKS, weights, experts);
                assert!(plan.is_err(), "{weights:?}");
            }
            assert!(Plan::choose(&config, BLOCKS, weights, None).is_err());
        }
    }
}
