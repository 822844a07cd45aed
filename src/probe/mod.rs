//! What the machine is and what it does: its name in records, its parts, what else runs on it, and the bandwidth and
//! multiply–accumulate rates that it reaches.

pub mod activity;
pub mod bandwidth;
pub mod dmi;
pub mod limits;
pub mod machine;
pub mod peak;
pub mod process;
pub mod report;
pub mod system;
pub mod transfer;

use serde::Serialize;
use tokgate_kernels::{Level, PoolError};

use crate::judge::stats;

/// A rate that was measured several times, in 10⁹ a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// The median.
    pub median: f64,
    /// The median absolute deviation, scaled to a standard deviation, in percent of the median.
    pub spread_pct: f64,
    /// The best, which on a shared machine tells what it could do if it were alone.
    pub best: f64,
    /// How often it was measured.
    pub samples: usize,
}

impl Rate {
    /// What `samples`, each a rate in 10⁹ a second, say together.
    pub fn of(samples: &[f64]) -> Self {
        let Some((median, deviation)) = stats::median_and_deviation(samples) else {
            return Self::default();
        };
        Self {
            median,
            spread_pct: 100.0 * deviation / median.max(f64::MIN_POSITIVE),
            best: samples.iter().copied().fold(0.0, f64::max),
            samples: samples.len(),
        }
    }
}

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No memory for the arrays.
    #[error("{bytes} bytes for the arrays could not be had; give a smaller --size")]
    Memory {
        /// Bytes that were asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// See [`PoolError`].
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Powers of two up to `cores`, and `cores`.
pub fn thread_counts(cores: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = std::iter::successors(Some(1_usize), |count| count.checked_mul(2))
        .take_while(|count| *count < cores)
        .collect();
    counts.push(cores.max(1));
    counts
}

/// The level at which limits are measured: the CPU's highest, whatever the kernels are told to run at.
pub fn level() -> Level {
    Level::highest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_counts_end_with_all_cores() {
        assert_eq!(thread_counts(0), [1]);
        assert_eq!(thread_counts(1), [1]);
        assert_eq!(thread_counts(2), [1, 2]);
        assert_eq!(thread_counts(12), [1, 2, 4, 8, 12]);
    }

    #[test]
    fn a_rate_has_a_median_a_spread_and_a_best() {
        let rate = Rate::of(&[10.0, 12.0, 11.0, 10.0, 30.0]);
        assert_eq!((rate.median, rate.best, rate.samples), (11.0, 30.0, 5));
        assert!((rate.spread_pct - 100.0 * 1.4826 / 11.0).abs() < 0.01);
        assert_eq!(Rate::of(&[]), Rate::default());
    }
}
