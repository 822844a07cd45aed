//! What a cluster was measured to do; each figure with its formula. Pure.

use std::ops::Range;

use serde::Serialize;

use super::agree::Hello;
use super::network::{Network, Prediction};
use super::timing::{Spent, Sums};
use crate::judge::stats::quantile;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Multiply–accumulates of a token in the model's matrices.
    pub model_macs: u64,
    /// Layers.
    pub layers: usize,
    /// Bytes of one token's sum: what an exchange carries.
    pub payload_bytes: usize,
    /// Ranks.
    pub ranks: Vec<Rank>,
    /// The slowest link, from round trips with the bytes of a sum and with more.
    pub network: Network,
    /// Whether experts are divided whole.
    pub whole_experts: bool,
    /// What each round of messages was made to take longer.
    pub inject_us: f64,
    /// Whether shares were given, as opposed to measured.
    pub given_shares: bool,
    /// Element type of the cache.
    pub kv: &'static str,
    /// See [`Plan::imbalance`](super::plan::Plan::imbalance).
    pub imbalance: f64,
    /// All exchanges of a token where nobody computes.
    pub dry_token_us: f64,
    /// The whole model on rank 0.
    pub baseline: Option<Baseline>,
    /// Prompt, generation.
    pub tests: Vec<Test>,
    /// What the model of the network says of the last repetition, from the ranks' GMAC/s in it.
    pub expected: Prediction,
    /// The network of the table.
    pub model_network: Option<Network>,
    /// What more machines like rank 0's would do.
    pub table: Vec<Prediction>,
}

/// One rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rank {
    /// Its number.
    pub rank: usize,
    /// What it said of itself.
    pub hello: Hello,
    /// Its share of the work, of 1.
    pub share: f64,
    /// 10⁹ multiply–accumulates a second in generating, measured on the first layers while all ranks did so.
    pub gmacs: f64,
    /// Of a token, in its matrices.
    pub macs_of_token: u64,
    /// Query heads.
    pub heads: Range<usize>,
    /// Experts.
    pub experts: Range<usize>,
    /// Inner elements of the feed-forward.
    pub inner: Range<usize>,
    /// Rows of the output head.
    pub vocabulary: Range<usize>,
    /// Opening the model and cutting out the part.
    pub init_ms: f64,
    /// Bytes of its weights.
    pub bytes: u64,
    /// Those that are copies: cut from rows of the file.
    pub copied_bytes: u64,
    /// Round trip of 8 bytes from rank 0, before and after the tests.
    pub round_trip_us: [f64; 2],
    /// The same with a sum's bytes both ways.
    pub payload_us: [f64; 2],
}

/// The whole model on rank 0 alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// Generated tokens a second, of each repetition.
    pub samples: Vec<f64>,
    /// 10⁹ multiply–accumulates a second.
    pub gmacs: f64,
}

/// One repetition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Wall-clock time on rank 0.
    pub ns: u64,
    /// Tokens over it.
    pub tokens_per_second: f64,
}

/// A prompt or a generation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Test {
    /// Prompt tokens.
    pub n_prompt: usize,
    /// Generated tokens.
    pub n_gen: usize,
    /// Repetitions.
    pub samples: Vec<Sample>,
    /// Of each rank, a token's mean over the last repetition; of a rank alone, the median of all.
    pub ranks: Vec<Spending>,
}

/// Where a rank's time went, per token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spending {
    /// All of it.
    pub all: Sums,
    /// Of each layer, both exchanges.
    pub layers: Vec<Sums>,
    /// 10⁹ multiply–accumulates a second of the time in which it computed.
    pub gmacs: f64,
    /// Exchanges of a token.
    pub exchanges: f64,
    /// Bytes that it sends for a token.
    pub bytes: f64,
}

impl Test {
    /// From what each rank spent on each exchange, and its multiply–accumulates.
    pub fn new(
        n_prompt: usize,
        n_gen: usize,
        samples: Vec<Sample>,
        spent: &[Vec<Spent>],
        macs: &[u64],
    ) -> Self {
        let tokens = (n_prompt + n_gen) as f64;
        let median_ns = median(samples.iter().map(|sample| sample.ns as f64));
        let ranks = spent.iter().zip(macs).map(|(spent, macs)| {
            let mut all = Sums::of(spent.iter());
            if spent.is_empty() {
                // A rank alone exchanges nothing, and computes all the time.
                all.compute_us = median_ns / 1e3;
            }
            let sums = spent.iter().filter(|one| one.is_sum());
            let layers = sums.clone().map(|one| one.layer + 1).max().unwrap_or(0);
            let layers = (0..layers).map(|layer| {
                let of_layer = sums.clone().filter(|one| one.layer == layer);
                Sums::of(of_layer).over(tokens)
            });
            Spending {
                layers: layers.collect(),
                gmacs: *macs as f64 / 1e3 / all.compute_us.max(1e-3),
                exchanges: all.exchanges as f64 / tokens,
                bytes: all.sent as f64 / tokens,
                all: all.over(tokens),
            }
        });
        Self {
            n_prompt,
            n_gen,
            samples,
            ranks: ranks.collect(),
        }
    }

    /// The median of the repetitions.
    pub fn tokens_per_second(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.tokens_per_second))
    }

    /// As llama-bench names it.
    pub fn name(&self) -> String {
        match self.n_gen {
            0 => format!("pp{}", self.n_prompt),
            n_gen => format!("tg{n_gen}"),
        }
    }
}

/// What the ranks make of it together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Σ of the ranks' GMAC/s.
    pub total_gmacs: f64,
    /// Total GMAC/s over a token's GMAC.
    pub theoretical: f64,
    /// Generated tokens a second, the median.
    pub measured: f64,
    /// Of rank 0 alone, the median.
    pub baseline: Option<f64>,
    /// measured / baseline − 1.
    pub speedup: Option<f64>,
    /// measured / theoretical.
    pub efficiency: f64,
    /// predicted / last repetition − 1.
    pub prediction_error: f64,
}

impl Report {
    /// Of the generation, if there was one.
    pub fn summary(&self) -> Option<Summary> {
        let test = self.tests.iter().find(|test| test.n_gen > 0)?;
        let total_gmacs = self.ranks.iter().map(|rank| rank.gmacs).sum::<f64>();
        let theoretical = total_gmacs * 1e9 / self.model_macs as f64;
        let measured = test.tokens_per_second();
        let last = test
            .samples
            .last()
            .map_or(measured, |s| s.tokens_per_second);
        let baseline = self.baseline.as_ref();
        let baseline = baseline.map(|alone| median(alone.samples.iter().copied()));
        Some(Summary {
            total_gmacs,
            theoretical,
            measured,
            baseline,
            speedup: baseline.map(|alone| measured / alone - 1.0),
            efficiency: measured / theoretical,
            prediction_error: self.expected.tokens_per_second / last - 1.0,
        })
    }
}

/// The median.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.is_empty() {
        true => 0.0,
        false => quantile(&sorted, 0.5),
    }
}
