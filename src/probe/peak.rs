//! The multiply–accumulate rates of the machine, from registers, and its clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokgate_kernels::limits::{MacLoop, spend_cycles};
use tokgate_kernels::{Level, Pool};

use super::Rate;
use super::bandwidth::Effort;

/// Multiply–accumulates of a sample on each thread: a fast core's millisecond.
const MACS: u64 = 200_000_000;

/// Cycles of a sample of the clock: a millisecond or less.
const CYCLES: u64 = 3_000_000;

/// The rate of `macs`, all workers at the same time: 10⁹ multiply–accumulates a second.
pub fn macs(pool: &Pool, level: Level, macs: MacLoop, effort: Effort) -> Rate {
    samples(effort, || macs_once(pool, level, macs))
}

/// One sample of a millisecond or so, see [`macs`].
pub fn macs_once(pool: &Pool, level: Level, macs: MacLoop) -> f64 {
    let rounds = u32::try_from(MACS / macs.run(level, 1).max(1)).unwrap_or(u32::MAX);
    let rounds = rounds.min(MacLoop::MAX_ROUNDS);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    pool.run(|_| {
        done.fetch_add(macs.run(level, rounds), Ordering::Relaxed);
    });
    done.into_inner() as f64 / nanoseconds(start.elapsed())
}

/// The clock of the slowest of the workers, all at the same time, in GHz; `None` where additions take nobody knows how
/// long.
pub fn clock(pool: &Pool, effort: Effort) -> Option<Rate> {
    spend_cycles(1)?;
    Some(samples(effort, || {
        let cycles = AtomicU64::new(0);
        let start = Instant::now();
        pool.run(|_| {
            cycles.fetch_max(spend_cycles(CYCLES).unwrap_or(0), Ordering::Relaxed);
        });
        cycles.into_inner() as f64 / nanoseconds(start.elapsed())
    }))
}

fn samples(effort: Effort, mut one: impl FnMut() -> f64) -> Rate {
    let start = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < effort.least
        || (samples.len() < effort.most && start.elapsed() < effort.time)
    {
        samples.push(one());
    }
    Rate::of(&samples)
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_at_every_level() {
        let pool = Pool::new(2).unwrap();
        let effort = Effort {
            time: Duration::ZERO,
            least: 1,
            most: 1,
        };
        for level in Level::available() {
            for one in MacLoop::ALL
                .into_iter()
                .filter(|one| one.tier() <= level.tier())
            {
                assert!(macs(&pool, level, one, effort).median > 0.0);
            }
        }
        assert!(clock(&pool, effort).is_none_or(|clock| clock.median > 0.0));
    }
}
