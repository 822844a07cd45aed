//! candle, gemm and the memory, in turn with the kernels here: the same products on the same weights, both answers
//! checked, or a loop that only reads as many bytes, and the ratio as the result.
//!
//! A pair is a block of calls here and a block there; pairs go A B, B A, A B …, so that a machine that becomes faster or
//! slower does so for both. candle takes Q8_0 by `QMatMul` and bf16 by `Tensor::matmul`, gemm knows f32 and f16 only.
//! Peers thread by rayon; set `RAYON_NUM_THREADS` and `TOKGATE_BENCH_THREADS` alike to choose other thread counts.

#[path = "../common/mod.rs"]
mod common;
mod products;
mod reading;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::args::{Args, Mode};
use common::runtimes::{self, Runtimes, Threads};
use common::suite::{Context, Routine, Work};
use tokgate::judge::stats::median_and_deviation;
use tokgate_kernels::{Op, Tier};

/// A block takes at least this long.
const BLOCK: Duration = Duration::from_millis(20);

/// Pairs of blocks where a block is no longer than that.
const PAIRS: usize = 15;

/// Pairs where a call alone takes longer than a block should.
const FEW_PAIRS: usize = 7;

/// Products of more work than this are left out where code is not optimised.
const SMOKE_ELEMENTS: u64 = 8 << 20;

/// Makes what is to be timed, checked where there is an answer.
type Prepare = Box<dyn FnOnce(&Context) -> anyhow::Result<Routine>>;

/// An operation here beside a peer's.
struct Duel {
    op: Op,
    tier: Tier,
    peer: &'static str,
    shape: String,
    work: Work,
    ours: Prepare,
    theirs: Prepare,
}

impl Duel {
    /// Names the peer where the id of a bench names the variant.
    fn id(&self, threads: Threads) -> String {
        let suffix = threads.suffix();
        format!("{}/{}/{}{suffix}", self.op, self.peer, self.shape)
    }
}

/// What came out.
struct Outcome {
    /// 10⁹ multiply–accumulates a second, medians.
    ours: f64,
    theirs: f64,
    ratios: Vec<f64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let (args, threads) = (Args::from_env(), Threads::from_env()?);
    let mut duels = duels();
    duels.retain(|duel| args.selects(&duel.id(threads)));
    if args.mode == Mode::List {
        duels
            .iter()
            .for_each(|duel| println!("{}: bench", duel.id(threads)));
        return Ok(ExitCode::SUCCESS);
    }
    if args.mode == Mode::Smoke {
        duels.retain(|duel| duel.work.elements <= SMOKE_ELEMENTS);
    }
    if !threads.match_rayon() {
        eprintln!("error: peers would run on another number of threads; set RAYON_NUM_THREADS too");
        return Ok(ExitCode::FAILURE);
    }
    let context = Context {
        runtimes: Runtimes::new(threads),
        measures: args.mode == Mode::Measure,
        work: Cell::new(None),
    };
    if context.measures {
        println!(
            "{} threads; GMAC/s, medians of blocks in turn",
            threads.count
        );
        println!(
            "{:<47} {:<10} {:>6} {:>6} ours/theirs",
            "operation/type/peer/shape", "ours", "ours", "theirs"
        );
    }
    let mut failures = 0;
    for duel in duels {
        let (id, tier) = (duel.id(threads), duel.tier);
        match run(duel, &context) {
            Ok(Some(outcome)) => println!("{}", line(&id, tier, &outcome)),
            Ok(None) => {}
            Err(error) => {
                eprintln!("error: {id}: {error:#}");
                failures += 1;
            }
        }
    }
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("error: {failures} comparisons gave no result");
        ExitCode::FAILURE
    })
}

/// All operations with the peers that know them.
fn duels() -> Vec<Duel> {
    let mut duels = Vec::new();
    for op in Op::ALL {
        if let Some(tier) = runtimes::variants(op).first().copied() {
            duels.extend(products::duels(op, tier));
            duels.extend(reading::duels(op, tier));
        }
    }
    duels
}

/// Both sides, checked, and then timed in turn if times are wanted.
fn run(duel: Duel, context: &Context) -> anyhow::Result<Option<Outcome>> {
    let mut ours = (duel.ours)(context)?;
    let mut theirs = (duel.theirs)(context)?;
    if !context.measures {
        return Ok(None);
    }
    let slower = pace(&mut ours).max(pace(&mut theirs));
    let pairs = if slower > BLOCK { FEW_PAIRS } else { PAIRS };
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let (a, b) = if pair % 2 == 0 {
            let a = block(&mut ours);
            (a, block(&mut theirs))
        } else {
            let b = block(&mut theirs);
            (block(&mut ours), b)
        };
        times.push((a, b));
        ratios.push(b / a);
    }
    let elements = duel.work.elements as f64;
    let rate = |of: fn(&(f64, f64)) -> f64| {
        let times: Vec<f64> = times.iter().map(of).collect();
        median_and_deviation(&times).map_or(0.0, |(median, _)| elements / median)
    };
    Ok(Some(Outcome {
        ours: rate(|times| times.0),
        theirs: rate(|times| times.1),
        ratios,
    }))
}

/// How long a call takes; what is prepared at the first ones is not counted.
fn pace(routine: &mut Routine) -> Duration {
    routine();
    let start = Instant::now();
    routine();
    start.elapsed()
}

/// Nanoseconds of a call, over as many as fill a block.
fn block(routine: &mut Routine) -> f64 {
    let start = Instant::now();
    let mut calls = 0_u32;
    while calls == 0 || start.elapsed() < BLOCK {
        routine();
        calls += 1;
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn line(id: &str, tier: Tier, outcome: &Outcome) -> String {
    let (ratio, _) = median_and_deviation(&outcome.ratios).unwrap_or_default();
    let least = outcome.ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = outcome.ratios.iter().copied().fold(0.0, f64::max);
    format!(
        "{:<47} {:<10} {:>6.1} {:>6.1} {ratio:.2} [{least:.2}..{most:.2}]",
        id,
        tier.name(),
        outcome.ours,
        outcome.theirs
    )
}
