//! What exchanges cost on a network, and so how fast a model runs on n machines; pure.
//!
//! MODEL. A message of B bytes arrives `latency + B / bandwidth` after it was sent; those that a rank sends in one round
//! share its link, and their latencies pass together. A token costs
//!
//! ```text
//! compute   = GMAC of a token / Σ GMAC/s of the machines · imbalance of the plan
//! exchanges = 2 · layers · sum(n_embd · 4 bytes) + broadcast(4 bytes) + gather(8 · candidates bytes)
//! token     = compute + exchanges
//! ```
//!
//! For machines that are not there ([`table`]), `compute` is what a token takes on one machine times the share of it that
//! the busiest one's part was measured to take: norms, embedding, the router and starting threads are not divided, so that
//! half of the products take more than half of the time. Each exchange waits for whoever is slowest just then, so that the
//! share is made of stretches between exchanges, of each what the [`slowest`] of so many machines takes.
//!
//! Left out: attention's own growth with the context; and what each message costs a rank's own CPU, of which n machines send and take n − 1 a round: large clusters are slower
//! than this says.
//!
//! A machine's speed is to be measured as they will be used. Two ranks that try a cluster on one machine share its
//! memory, so that half of what one does alone is not what each does beside the other: `.github/proof/cluster.sh` has both
//! run alone at the same time, and compares the forecast that follows with the two together.

use serde::{Deserialize, Serialize};

use super::plan::{ExpertSplit, Macs, Plan, PlanError};
use crate::engine::config::ModelConfig;
use crate::engine::weights::part::Part;

/// Bytes of the candidate for a token that a rank sends home: id and logit.
pub const CANDIDATE_BYTES: usize = 8;

/// A network between machines, all alike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// From the start of sending a short message to its arrival.
    pub latency_us: f64,
    /// Gigabits a second of each machine's link, each way.
    pub gbit_s: f64,
}

impl Network {
    /// Gigabit Ethernet through a switch: assumed until it was measured.
    pub const ETHERNET: Self = Self::new(160.0, 1.0);

    /// A network of this latency and bandwidth.
    pub const fn new(latency_us: f64, gbit_s: f64) -> Self {
        Self { latency_us, gbit_s }
    }

    /// The line through two measured times of messages, both one way.
    pub fn through(short: (usize, f64), long: (usize, f64)) -> Self {
        let bytes = (long.0 - short.0) as f64;
        // Noise can make the long one faster: then its bytes cost nothing that can be seen.
        let us = (long.1 - short.1).max(1e-3);
        let gbit_s = bytes * 8e-3 / us;
        Self::new((short.1 - short.0 as f64 * 8e-3 / gbit_s).max(0.0), gbit_s)
    }

    /// Microseconds that a round takes in which each rank sends `bytes`.
    pub fn round_us(self, bytes: f64) -> f64 {
        self.latency_us + bytes * 8e-3 / self.gbit_s
    }

    /// Whether a sum of `bytes` is faster if everyone sends all of it to everyone, see [`super::exchange`].
    pub fn is_direct(self, ranks: usize, bytes: usize) -> bool {
        ranks <= 2 || self.direct_us(ranks, bytes) <= self.scattered_us(ranks, bytes)
    }

    fn direct_us(self, ranks: usize, bytes: usize) -> f64 {
        self.round_us((ranks - 1) as f64 * bytes as f64)
    }

    fn scattered_us(self, ranks: usize, bytes: usize) -> f64 {
        2.0 * self.round_us((ranks - 1) as f64 / ranks as f64 * bytes as f64)
    }

    /// Microseconds of a sum of `bytes` over `ranks`.
    pub fn sum_us(self, ranks: usize, bytes: usize) -> f64 {
        match ranks {
            0 | 1 => 0.0,
            _ if self.is_direct(ranks, bytes) => self.direct_us(ranks, bytes),
            _ => self.scattered_us(ranks, bytes),
        }
    }

    /// Microseconds in which one rank sends `bytes` to all others, or they to it.
    pub fn star_us(self, ranks: usize, bytes: usize) -> f64 {
        match ranks {
            0 | 1 => 0.0,
            _ => self.round_us((ranks - 1) as f64 * bytes as f64),
        }
    }

    /// Microseconds of a token's exchanges, with `candidates` for the next token from each rank.
    pub fn token_us(self, config: &ModelConfig, ranks: usize, candidates: usize) -> f64 {
        let sums = 2.0 * config.n_layer as f64;
        sums * self.sum_us(ranks, config.n_embd * size_of::<f32>())
            + self.star_us(ranks, size_of::<u32>())
            + self.star_us(ranks, candidates * CANDIDATE_BYTES)
    }
}

/// Exchanges of a token: two a layer, one to tell the token and one to learn of candidates.
pub const fn exchanges(config: &ModelConfig) -> usize {
    2 * config.n_layer + 2
}

/// A token's time, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Token {
    /// Milliseconds of arithmetic.
    pub compute_ms: f64,
    /// Milliseconds of exchanges.
    pub exchange_ms: f64,
}

impl Token {
    /// A token that takes `compute_ms`, and `exchanges` of `exchange_ms` each.
    pub fn new(compute_ms: f64, exchanges: f64, exchange_ms: f64) -> Self {
        Self {
            compute_ms,
            exchange_ms: exchanges * exchange_ms,
        }
    }

    /// Tokens a second.
    pub fn per_second(self) -> f64 {
        1e3 / (self.compute_ms + self.exchange_ms)
    }

    /// The share of the time that is arithmetic: measured over theoretical tokens a second.
    pub fn efficiency(self) -> f64 {
        self.compute_ms / (self.compute_ms + self.exchange_ms)
    }
}

/// What a number of machines is expected to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// How many.
    pub machines: usize,
    /// A token's time.
    pub token: Token,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Times as fast as one machine.
    pub speedup: f64,
    /// Tokens a second over those of so many machines without any exchange and divided evenly.
    pub efficiency: f64,
}

/// What machines with these rates would do with a model; `unit` as in [`Plan::new`], `experts` as in [`Plan::choose`].
///
/// # Errors
/// [`PlanError`] if a rate is not a positive number.
pub fn predict(
    config: &ModelConfig,
    unit: usize,
    gmacs: &[f64],
    network: Network,
    candidates: usize,
    experts: Option<ExpertSplit>,
) -> Result<Prediction, PlanError> {
    let plan = Plan::choose(config, unit, gmacs, experts)?;
    let macs = Macs::of(config, &Part::whole(config)).total() as f64;
    let ideal_ms = macs / 1e6 / gmacs.iter().sum::<f64>();
    let token = Token {
        compute_ms: ideal_ms * plan.imbalance(config),
        exchange_ms: network.token_us(config, gmacs.len(), candidates) / 1e3,
    };
    let alone_ms = macs / 1e6 / gmacs[0];
    Ok(Prediction {
        machines: gmacs.len(),
        token,
        tokens_per_second: token.per_second(),
        speedup: alone_ms * token.per_second() / 1e3,
        efficiency: ideal_ms * token.per_second() / 1e3,
    })
}

/// Numbers of machines in a table: all small ones, then fewer.
pub const MACHINES: [usize; 14] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64];

/// The table to 64 machines like one on which a token takes `alone_ms`; of that, the busiest of each of [`MACHINES`] takes
/// such a share for its part.
pub fn table(
    config: &ModelConfig,
    alone_ms: f64,
    shares: &[f64; MACHINES.len()],
    network: Network,
    candidates: usize,
) -> Vec<Prediction> {
    let rows = MACHINES.iter().zip(shares).map(|(&machines, share)| {
        let token = Token {
            compute_ms: alone_ms * share,
            exchange_ms: network.token_us(config, machines, candidates) / 1e3,
        };
        let speedup = alone_ms * token.per_second() / 1e3;
        Prediction {
            machines,
            token,
            tokens_per_second: token.per_second(),
            speedup,
            efficiency: speedup / machines as f64,
        }
    });
    rows.collect()
}

/// What the slowest of `machines` takes on the average if each takes one of `seen`, any of them equally likely: the greatest
/// of n draws is the i-th smallest of m with probability (i / m)ⁿ − ((i − 1) / m)ⁿ. Sorts `seen`; 0 if there are none.
pub fn slowest(seen: &mut [f64], machines: usize) -> f64 {
    seen.sort_by(f64::total_cmp);
    let below = |i: usize| (i as f64 / seen.len() as f64).powf(machines as f64);
    let seen = seen.iter().enumerate();
    seen.map(|(i, seconds)| seconds * (below(i + 1) - below(i)))
        .sum()
}

/// The fastest row: more machines are slower, unless it is the last.
pub fn fastest(table: &[Prediction]) -> Option<&Prediction> {
    let rate = |row: &&Prediction| row.tokens_per_second;
    table.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::synth::Preset;

    #[test]
    fn the_slowest_of_many_is_what_all_wait_for() {
        let mut dice = [3.0, 1.0, 2.0, 6.0, 5.0, 4.0];
        let seen = [1, 2, 3, 1000].map(|machines| slowest(&mut dice, machines));
        // One, two and three dice: 7/2, 161/36, 119/24.
        for (seen, expected) in seen.iter().zip([3.5, 161.0 / 36.0, 119.0 / 24.0, 6.0]) {
            assert!((seen - expected).abs() < 1e-9, "{seen} {expected}");
        }
        assert_eq!(slowest(&mut [], 2), 0.0);
    }

    /// Two laptops of 24.3 and 24.1 GMAC/s run Llama 2 7B: 3.1 tok/s alone, 3.84 together over a farm of matmul workers,
    /// which is 62 % of the theoretical 6.17. Messages have Q8_0 of 36 bytes for 32 elements. What one exchange costs was
    /// measured with those of gate and up (4,608 bytes there, 6,192 back: half of 11,008 rows), and a round trip of next
    /// to nothing beside it; both before and after the run, of which the means are taken. The other products have other
    /// sizes, so latency and bandwidth follow first, and then each exchange by its own bytes: to charge all of them what
    /// gate and up cost would make 59 %.
    #[test]
    fn two_laptops_get_what_was_measured_on_them() {
        let theoretical = 3.1 * (24.3 + 24.1) / 24.3;
        assert!((theoretical - 6.17_f64).abs() < 0.01);
        let compute_ms = 1e3 / theoretical;
        let round_trip_us = (163.663 + 320.759) / 2.0;
        let gate_us = (511.345 + 495.679) / 2.0;
        let bytes = |elements: usize| elements / 32 * 36;
        // One way: half of it, with the mean of what went there and back.
        let (there, back) = (bytes(4096), bytes(11_008 / 2));
        assert_eq!((there, back), (4608, 6192));
        let network = Network::through(
            (0, round_trip_us / 2.0),
            ((there + back) / 2, gate_us / 2.0),
        );

        // q, k, v, wo; gate, up; down. All of the inputs go there, half of the outputs come back.
        let products = [(4, 4096, 4096), (2, 4096, 11_008), (1, 11_008, 4096)];
        let layer_us = products.map(|(products, inputs, outputs)| {
            let there = network.round_us(bytes(inputs) as f64);
            let back = network.round_us(bytes(outputs / 2) as f64);
            f64::from(products) * (there + back)
        });
        let seven = Token::new(compute_ms, 32.0, layer_us.iter().sum::<f64>() / 1e3);
        assert!((seven.per_second() / 3.84 - 1.0).abs() < 0.025, "{seven:?}");
        assert!((seven.efficiency() - 0.62).abs() < 0.015, "{seven:?}");

        // Two sums of 4,096 f32, on the same network.
        let sum_ms = network.sum_us(2, 4096 * size_of::<f32>()) / 1e3;
        let two = Token::new(compute_ms, 2.0 * 32.0, sum_ms);
        assert!((two.efficiency() - 0.83).abs() < 0.005, "{two:?}");
    }

    #[test]
    fn a_sum_takes_the_faster_way() {
        let network = Network::new(100.0, 1.0);
        // 16 KiB are 131 µs a message.
        assert!(network.is_direct(2, 16 << 10) && network.is_direct(2, 1 << 30));
        assert!(network.is_direct(3, 16 << 10));
        assert!(!network.is_direct(8, 16 << 10));
        assert!((network.sum_us(2, 16 << 10) - 231.072).abs() < 1e-9);
        assert_eq!(network.sum_us(1, 16 << 10), 0.0);
        let scattered = 2.0 * (100.0 + 131.072 * 7.0 / 8.0);
        assert!((network.sum_us(8, 16 << 10) - scattered).abs() < 1e-9);
    }

    #[test]
    fn a_network_is_found_from_two_messages() {
        let wanted = Network::new(50.0, 2.5);
        let at = |bytes: usize| (bytes, wanted.round_us(bytes as f64));
        let found = Network::through(at(64), at(1 << 20));
        assert!((found.latency_us - 50.0).abs() < 1e-9 && (found.gbit_s - 2.5).abs() < 1e-9);
        let noise = Network::through((64, 5.0), (4096, 4.0));
        assert!(noise.gbit_s > 0.0 && noise.gbit_s.is_finite());
    }

    #[test]
    fn more_machines_pay_until_they_do_not() {
        let table = |preset: Preset| {
            let (config, network) = (preset.config(), Network::new(160.0, 1.0));
            let macs = Macs::of(&config, &Part::whole(&config)).total() as f64;
            let divided = MACHINES.map(|machines| 1.0 / machines as f64);
            table(&config, macs / 1e6 / 24.3, &divided, network, 40)
        };
        let (large, small) = (table(Preset::Llama2_7b), table(Preset::Qwen3_0_6b));
        assert_eq!(large[0].machines, 1);
        assert!((large[0].efficiency - 1.0).abs() < 1e-9);
        assert!((large[0].tokens_per_second - 3.68).abs() < 0.01);
        // A token of the small model is over in 25 ms: exchanges soon cost more than they save.
        assert_eq!(fastest(&small).unwrap().machines, 4);
        // The large one's sums cost two rounds however many add up, and still save a little at 64.
        assert_eq!(fastest(&large).unwrap().machines, 64);
        let half = large.iter().find(|row| row.efficiency < 0.5);
        assert_eq!(half.unwrap().machines, 8);
        for row in large.iter().chain(&small) {
            assert!(row.efficiency <= 1.0 + 1e-9 && row.speedup > 0.0);
        }
    }
}
