//! What a cluster does in a second, and where the rest of the second went: what every rank runs, in step.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokgate_kernels::{DType, Runtime};

use super::agree::{AgreeError, Hello, agree};
use super::alone::{Timed, speed};
use super::exchange::{Exchange, Purpose};
use super::member::{Member, MemberError};
use super::network::{self, MACHINES, Network, Prediction};
use super::plan::{ExpertSplit, Macs, Plan, PlanError};
use super::report::{Rank, Report, Sample, Test};
use super::timing::{self, RankLog, Spent};
use super::wire::Lost;
use crate::engine::config::ModelConfig;
use crate::engine::forward::{LogitRows, Model, Work};
use crate::engine::weights::ModelWeights;
use crate::engine::weights::part::Part;
use crate::throughput::{self, Case, ThroughputError};

/// Candidates for the next token that each rank sends home.
pub const CANDIDATES: usize = 40;

/// Round trips and sums without computing, of which the median counts.
const TRIES: usize = 101;

/// A message that is long for a network, and yet sent at once: from 64 KiB on, MPI asks the receiver first, which would
/// pass for a lack of bandwidth.
const LONG: usize = 60 << 10;

/// How long ranks measure their speed.
const SPEED_SECONDS: f64 = 0.6;

/// Passes of the whole model and of a part, at least, from which the part's share of the time is told; and seconds.
const LEAST_PASSES: usize = 5;
const SHARE_SECONDS: f64 = 0.3;

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Shares of the ranks; `None` for what they measure of themselves.
    pub shares: Option<Vec<f64>>,
    /// How experts are divided; `None` for the way that is faster.
    pub experts: Option<ExpertSplit>,
    /// Prompt tokens; 0 leaves the prompt out.
    pub n_prompt: usize,
    /// Generated tokens; 0 leaves them out.
    pub n_gen: usize,
    /// Prompt tokens of a pass.
    pub ubatch: usize,
    /// Repetitions.
    pub repetitions: usize,
    /// Of the random tokens.
    pub seed: u64,
    /// Element type of the cache.
    pub kv: DType,
    /// Whether rank 0 runs the whole model too, to compare with.
    pub baseline: bool,
    /// What each round of messages was made to take longer.
    pub inject: Duration,
    /// The network to predict for.
    pub model_network: Option<Network>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// See [`AgreeError`].
    #[error(transparent)]
    Agree(#[from] AgreeError),
    /// See [`Lost`].
    #[error(transparent)]
    Lost(#[from] Lost),
    /// See [`MemberError`].
    #[error(transparent)]
    Member(#[from] MemberError),
    /// See [`PlanError`].
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// See [`ThroughputError`].
    #[error(transparent)]
    Baseline(#[from] ThroughputError),
    /// There are other shares than ranks.
    #[error("{shares} shares for {ranks} ranks: give one for each, or auto")]
    Shares {
        /// How many were given.
        shares: usize,
        /// How many ranks there are.
        ranks: usize,
    },
    /// Something was sent that nobody sends.
    #[error("a rank sent what is no JSON of this version: {0}")]
    Json(#[from] serde_json::Error),
}

/// A model that a rank has open.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Sizes.
    pub config: &'a ModelConfig,
    /// Weights, of the whole model.
    pub weights: &'a ModelWeights,
    /// What runs it.
    pub rt: &'a Runtime,
}

/// The plan that all ranks follow, and each one's speed if shares follow from it.
///
/// # Errors
/// [`BenchError`].
pub fn plan(
    opened: Opened<'_>,
    exchange: &mut Exchange<'_>,
    shares: Option<&[f64]>,
    experts: Option<ExpertSplit>,
    kv: DType,
    measure: bool,
) -> Result<(Plan, Vec<f64>), BenchError> {
    let ranks = exchange.size();
    let mut speeds = Vec::new();
    if measure || (shares.is_none() && ranks > 1) {
        // All at the same time: ranks on one machine share what it has.
        exchange.broadcast(Purpose::Setup, &mut [0])?;
        let own = speed(opened.config, opened.weights, opened.rt, kv, SPEED_SECONDS)?;
        let all = exchange.gather(Purpose::Setup, &own.to_le_bytes())?;
        let mut all: Vec<u8> = all.concat();
        all.resize(ranks * size_of::<f64>(), 0);
        exchange.broadcast(Purpose::Setup, &mut all)?;
        let numbers = all.as_chunks().0.iter();
        speeds = numbers.map(|bytes| f64::from_le_bytes(*bytes)).collect();
    }
    let even = vec![1.0; ranks];
    let weights = match shares {
        Some(shares) => shares,
        None if speeds.is_empty() => &even,
        None => &speeds,
    };
    if weights.len() != ranks {
        return Err(BenchError::Shares {
            shares: weights.len(),
            ranks,
        });
    }
    let unit = opened.weights.column_unit();
    let plan = Plan::choose(opened.config, unit, weights, experts)?;
    Ok((plan, speeds))
}

/// The report, and what each rank spent on every exchange of the last repetition of the last test.
pub type Measured = (Report, Vec<Vec<Spent>>);

/// Measures; rank 0 gets the report and every exchange, the others nothing.
///
/// # Errors
/// [`BenchError`], also on ranks that did nothing wrong.
pub fn run(
    settings: &Settings,
    opened: Opened<'_>,
    hello: &Hello,
    exchange: &mut Exchange<'_>,
) -> Result<Option<Measured>, BenchError> {
    let hellos = agree(exchange, hello)?;
    let shares = settings.shares.as_deref();
    let experts = settings.experts;
    let (plan, speeds) = plan(opened, exchange, shares, experts, settings.kv, true)?;
    let before = round_trips(exchange, opened.config.n_embd)?;
    let network = network_of(exchange, &before, opened.config.n_embd)?;
    let baseline = baseline(settings, opened, exchange)?;

    let started = Instant::now();
    let positions = settings.n_prompt.max(settings.n_gen).max(1);
    let mut member = Member::new(
        opened.config,
        opened.weights,
        &plan,
        opened.rt,
        exchange,
        settings.kv,
        positions,
    )?;
    let cut_ms = started.elapsed().as_secs_f64() * 1e3;
    let dry_us = dry_token(&mut member, opened.config)?;
    let mut tests = Vec::new();
    let mut spent = Vec::new();
    for (n_prompt, n_gen) in [(settings.n_prompt, 0), (0, settings.n_gen)] {
        if n_prompt + n_gen == 0 {
            continue;
        }
        let (samples, logs, macs) = test(settings, &mut member, n_prompt, n_gen)?;
        if let Some(logs) = logs {
            let of_test = timing::spent(&logs);
            tests.push(Test::new(n_prompt, n_gen, samples, &of_test, &macs));
            spent = of_test;
        }
    }
    let facts = facts(&mut member, cut_ms)?;
    let after = round_trips(member.exchange(), opened.config.n_embd)?;
    if member.exchange().rank() != 0 {
        return Ok(None);
    }
    let ranks = hellos.into_iter().zip(&plan.parts).enumerate();
    let ranks = ranks.map(|(rank, (hello, part))| Rank {
        rank,
        init_ms: hello.open_ms as f64 + facts[rank].0,
        bytes: facts[rank].1,
        copied_bytes: facts[rank].2,
        share: plan.shares[rank],
        gmacs: speeds[rank],
        macs_of_token: Macs::of(opened.config, part).total(),
        heads: part.heads.clone(),
        experts: part.experts.clone(),
        inner: part.ff.clone(),
        vocabulary: part.vocab.clone(),
        round_trip_us: [before[rank].short_us, after[rank].short_us],
        payload_us: [before[rank].payload_us, after[rank].payload_us],
        hello,
    });
    let unit = opened.weights.column_unit();
    // The rates of the generation itself: a machine's drift by half within a minute, and what is asked here is what
    // exchanges cost.
    let generation: &[_] = tests.last().map_or(&[], |test: &Test| &test.ranks);
    let rates: Vec<f64> = generation.iter().map(|spent| spent.gmacs).collect();
    let expected = network::predict(
        opened.config,
        unit,
        &plan.shares_of(&rates),
        network,
        CANDIDATES,
        Some(plan.experts),
    )?;
    let whole = Macs::of(opened.config, &Part::whole(opened.config)).total();
    // Alone, a machine's own generation says it best; beside others, what it did while they waited.
    let machine = match (&rates[..], &baseline) {
        ([alone], _) => *alone,
        (_, Some((_, gmacs))) => *gmacs,
        (_, None) => speeds[0],
    };
    let alone_ms = whole as f64 / 1e6 / machine;
    let table: Vec<Prediction> = match settings.model_network {
        Some(network) => {
            let shares = busiest(settings, opened)?;
            network::table(opened.config, alone_ms, &shares, network, CANDIDATES)
        }
        None => Vec::new(),
    };
    let report = Report {
        model_macs: whole,
        layers: opened.config.n_layer,
        payload_bytes: payload(opened.config.n_embd),
        ranks: ranks.collect(),
        network,
        whole_experts: plan.experts == ExpertSplit::Whole,
        inject_us: settings.inject.as_secs_f64() * 1e6,
        given_shares: settings.shares.is_some(),
        kv: settings.kv.name(),
        imbalance: plan.imbalance(opened.config),
        dry_token_us: dry_us,
        baseline: baseline.map(|(samples, gmacs)| super::report::Baseline { samples, gmacs }),
        tests,
        expected,
        model_network: settings.model_network,
        table,
    };
    Ok(Some((report, spent)))
}

/// Of what a token takes on this machine, the share that so many machines take, each for its part, timed here: the whole and
/// the busiest one's part in turn. Between one sum and the next all wait for the slowest, so of each stretch counts what the
/// slowest of so many draws from this machine's passes takes.
fn busiest(settings: &Settings, opened: Opened<'_>) -> Result<[f64; MACHINES.len()], BenchError> {
    let Opened {
        config,
        weights,
        rt,
    } = opened;
    let whole = Model::new(config.clone(), weights.clone()).map_err(MemberError::from)?;
    let mut whole = Timed::new(&whole, rt, settings.kv)?;
    let mut shares = [1.0; MACHINES.len()];
    for (share, machines) in shares.iter_mut().zip(MACHINES).skip(1) {
        let even = vec![1.0; machines];
        let plan = Plan::choose(config, weights.column_unit(), &even, settings.experts)?;
        let macs = |part: &&Part| Macs::of(config, part).total();
        let Some(part) = plan.parts.iter().max_by_key(macs) else {
            continue;
        };
        let part = Model::part(config, weights, part).map_err(MemberError::from)?;
        let mut part = Timed::new(&part, rt, settings.kv)?;
        let started = Instant::now();
        let mut stretches: Vec<Vec<f64>> = Vec::new();
        let mut passes = 0;
        while passes < LEAST_PASSES || started.elapsed().as_secs_f64() < SHARE_SECONDS {
            let all: f64 = whole.pass()?.iter().sum();
            let seconds = part.pass()?;
            stretches.resize(seconds.len(), Vec::new());
            for (stretch, seconds) in stretches.iter_mut().zip(seconds) {
                stretch.push(seconds / all);
            }
            passes += 1;
        }
        let slowest = |stretch: &mut Vec<f64>| network::slowest(stretch, machines);
        *share = stretches.iter_mut().map(slowest).sum();
    }
    Ok(shares)
}

/// Round trips to a rank.
#[derive(Clone, Copy, Debug, Default)]
struct Trip {
    /// Of 8 bytes, in µs.
    short_us: f64,
    /// Of a sum's bytes.
    payload_us: f64,
    /// Of long messages, see [`long`].
    long_us: f64,
    /// What the rank's clock shows more than rank 0's, in ns.
    ahead: i64,
}

/// Round trips to each rank, on rank 0; other ranks answer.
fn round_trips(exchange: &mut Exchange<'_>, n_embd: usize) -> Result<Vec<Trip>, Lost> {
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let mut trips = vec![Trip::default(); ranks];
    for other in (1..ranks).filter(|other| rank == 0 || rank == *other) {
        let trip = &mut trips[other];
        (trip.short_us, trip.ahead) = exchange.round_trip(other, 8, TRIES)?;
        (trip.payload_us, _) = exchange.round_trip(other, payload(n_embd), TRIES)?;
        (trip.long_us, _) = exchange.round_trip(other, long(n_embd), TRIES)?;
    }
    Ok(trips)
}

/// Bytes of one token's sum.
fn payload(n_embd: usize) -> usize {
    n_embd * size_of::<f32>()
}

/// Bytes of a message that is longer than a sum's.
fn long(n_embd: usize) -> usize {
    LONG.max(2 * payload(n_embd))
}

/// The slowest link, told to all ranks, which then all add up the same way.
fn network_of(
    exchange: &mut Exchange<'_>,
    trips: &[Trip],
    n_embd: usize,
) -> Result<Network, BenchError> {
    // Exact for what most messages have; what next to nothing costs would say less of them.
    let links = trips.iter().skip(1).map(|trip| {
        let sum = (payload(n_embd), trip.payload_us / 2.0);
        Network::through(sum, (long(n_embd), trip.long_us / 2.0))
    });
    let cost = |network: &Network| network.round_us(16_384.0);
    let slowest = links.max_by(|a, b| cost(a).total_cmp(&cost(b)));
    let network = slowest.unwrap_or(Network::ETHERNET);
    let mut bytes = [network.latency_us, network.gbit_s].map(f64::to_le_bytes);
    exchange.broadcast(Purpose::Setup, bytes.as_flattened_mut())?;
    let [latency_us, gbit_s] = bytes.map(f64::from_le_bytes);
    let network = Network::new(latency_us, gbit_s);
    exchange.set_network(network);
    Ok(network)
}

/// Tokens a second of the whole model on rank 0, while the others wait, and its GMAC/s.
type Alone = Option<(Vec<f64>, f64)>;

fn baseline(
    settings: &Settings,
    opened: Opened<'_>,
    exchange: &mut Exchange<'_>,
) -> Result<Alone, BenchError> {
    if !settings.baseline || settings.n_gen == 0 {
        return Ok(None);
    }
    let mut alone = None;
    if exchange.rank() == 0 {
        let model = Model::new(opened.config.clone(), opened.weights.clone());
        let model = model.map_err(MemberError::from)?;
        let case = Case {
            n_prompt: 0,
            n_gen: settings.n_gen,
            n_depth: 0,
            ubatch: settings.ubatch,
            kv: settings.kv,
        };
        let mut bench = throughput::Bench::new(&model, opened.rt, case, settings.seed)?;
        bench.warm_up()?;
        let samples = (0..settings.repetitions).map(|_| bench.repeat());
        let samples = samples.collect::<Result<Vec<_>, _>>()?;
        let rates = samples
            .iter()
            .map(|s| 1e9 * settings.n_gen as f64 / s.ns.max(1) as f64);
        let macs: u64 = samples.iter().map(|s| s.work.macs).sum();
        let ns: u64 = samples.iter().map(|s| s.ns).sum();
        alone = Some((rates.collect(), macs as f64 / ns.max(1) as f64));
    }
    exchange.broadcast(Purpose::Setup, &mut [0])?;
    Ok(alone)
}

/// Microseconds of a token's exchanges where nobody computes: the median of some.
fn dry_token(member: &mut Member<'_, '_>, config: &ModelConfig) -> Result<f64, Lost> {
    let exchange = member.exchange();
    let mut part = vec![0.0; config.n_embd];
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        exchange.broadcast(Purpose::Tokens, &mut [0; 4])?;
        for layer in 0..config.n_layer {
            exchange.sum(Purpose::Attention, layer, &mut part)?;
            exchange.sum(Purpose::FeedForward, layer, &mut part)?;
        }
        exchange.gather(Purpose::Logits, &[0; CANDIDATES * network::CANDIDATE_BYTES])?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    exchange.take_log();
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Samples, the logs of the last repetition, and multiply–accumulates of each rank in it; rank 0 gets all of them.
type Tested = (Vec<Sample>, Option<Vec<RankLog>>, Vec<u64>);

fn test(
    settings: &Settings,
    member: &mut Member<'_, '_>,
    n_prompt: usize,
    n_gen: usize,
) -> Result<Tested, BenchError> {
    let vocab = u32::try_from(member.model().config().n_vocab).unwrap_or(u32::MAX);
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let mut samples = Vec::new();
    let (mut start, mut macs) = (0, 0);
    // One to warm up.
    for repetition in 0..=settings.repetitions {
        member.truncate(0);
        member.work = Work::default();
        // They start together.
        member.exchange().gather(Purpose::Setup, &[])?;
        member.exchange().broadcast(Purpose::Setup, &mut [0])?;
        member.exchange().take_log();
        start = member.exchange().now();
        let mut prompt: Vec<u32> = (0..n_prompt).map(|_| rng.random_range(0..vocab)).collect();
        let pieces = n_prompt.div_ceil(settings.ubatch);
        for (at, piece) in prompt.chunks_mut(settings.ubatch).enumerate() {
            let last = at + 1 == pieces;
            member.pass(
                piece,
                if last {
                    LogitRows::Last
                } else {
                    LogitRows::None
                },
            )?;
            if last {
                member.candidates(CANDIDATES)?;
            }
        }
        let tokens = if repetition == 0 { n_gen.min(2) } else { n_gen };
        for _ in 0..tokens {
            member.pass(&mut [rng.random_range(0..vocab)], LogitRows::Last)?;
            member.candidates(CANDIDATES)?;
        }
        let ns = member.exchange().now() - start;
        macs = member.work.macs;
        if repetition > 0 {
            samples.push(Sample {
                ns,
                tokens_per_second: 1e9 * (n_prompt + n_gen) as f64 / ns.max(1) as f64,
            });
        }
    }
    let entries = member.exchange().take_log();
    let exchange = member.exchange();
    // The clocks of now, for they drift.
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let mut ahead = vec![0; ranks];
    for other in (1..ranks).filter(|other| rank == 0 || rank == *other) {
        ahead[other] = exchange.round_trip(other, 8, TRIES)?.1;
    }
    let log = RankLog {
        ahead: 0,
        start,
        entries,
    };
    let all = exchange.gather_any(&serde_json::to_vec(&(log, macs))?)?;
    if exchange.rank() != 0 {
        return Ok((samples, None, Vec::new()));
    }
    let all = all.iter().map(|text| serde_json::from_slice(text));
    let all = all.collect::<Result<Vec<(RankLog, u64)>, _>>()?;
    let (mut logs, macs): (Vec<RankLog>, Vec<u64>) = all.into_iter().unzip();
    for (log, ahead) in logs.iter_mut().zip(ahead) {
        log.ahead = ahead;
    }
    Ok((samples, Some(logs), macs))
}

/// Of each rank: milliseconds of cutting its part, bytes of its weights, and those of them that are copies.
fn facts(member: &mut Member<'_, '_>, cut_ms: f64) -> Result<Vec<(f64, u64, u64)>, BenchError> {
    let weights = member.model().weights();
    let own = (cut_ms, weights.total().bytes, weights.copied_bytes());
    let all = member.exchange().gather_any(&serde_json::to_vec(&own)?)?;
    let all = all.iter().map(|text| serde_json::from_slice(text));
    Ok(all.collect::<Result<_, _>>()?)
}
