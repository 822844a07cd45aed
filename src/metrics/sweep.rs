//! Rates at several thread counts, and which count to take.

use serde::Serialize;

use crate::judge::stats::{median_and_deviation, quantile};

/// Rates at one thread count, in tokens a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Threads.
    pub threads: usize,
    /// Whether they are more than the CPUs.
    pub oversubscribed: bool,
    /// Prompt processing.
    pub prefill: Rate,
    /// Generation of one sequence.
    pub decode: Rate,
}

/// A rate that was measured several times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// The median.
    pub median: f64,
    /// The median absolute deviation, scaled to a standard deviation, in percent of the median.
    pub spread_pct: f64,
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
    /// Of each repetition, in the order in which they were run.
    pub samples: Vec<f64>,
}

/// Thread counts to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recommended {
    /// For prompt processing.
    pub prefill: usize,
    /// For generation.
    pub decode: usize,
}

/// Differences below this do not matter, however sure they are.
const INDIFFERENT: f64 = 0.01;

impl Rate {
    /// What `samples` say; there is at least one.
    pub fn of(samples: Vec<f64>) -> Self {
        let (median, deviation) = median_and_deviation(&samples).unwrap_or((0.0, 0.0));
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            median,
            spread_pct: 100.0 * deviation / median.max(f64::MIN_POSITIVE),
            min: quantile(&sorted, 0.0),
            max: quantile(&sorted, 1.0),
            samples,
        }
    }

    /// The standard error of the median, as a share of it: that of a normal distribution.
    fn error(&self) -> f64 {
        let n = self.samples.len().max(1) as f64;
        1.2533 * self.spread_pct / 100.0 / n.sqrt()
    }
}

/// For each phase the smallest thread count whose median is within two standard errors of the best one's, or within
/// one percent: threads that bring nothing are better left to others. `None` without rows.
pub fn recommend(rows: &[Row]) -> Option<Recommended> {
    let smallest = |rate: fn(&Row) -> &Rate| {
        let best = rows
            .iter()
            .max_by(|a, b| rate(a).median.total_cmp(&rate(b).median))?;
        let best = rate(best);
        let near = |row: &&Row| {
            let noise = 2.0 * best.error().hypot(rate(row).error());
            rate(row).median >= best.median * (1.0 - noise.max(INDIFFERENT))
        };
        rows.iter().filter(near).map(|row| row.threads).min()
    };
    Some(Recommended {
        prefill: smallest(|row| &row.prefill)?,
        decode: smallest(|row| &row.decode)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(threads: usize, prefill: [f64; 3], decode: [f64; 3]) -> Row {
        Row {
            threads,
            oversubscribed: threads > 4,
            prefill: Rate::of(prefill.to_vec()),
            decode: Rate::of(decode.to_vec()),
        }
    }

    #[test]
    fn each_phase_has_a_count_of_its_own() {
        let rows = [
            row(1, [100.0; 3], [20.0; 3]),
            row(2, [198.0; 3], [38.0, 38.4, 37.9]),
            row(4, [390.0; 3], [38.1, 38.0, 38.2]),
            row(8, [300.0; 3], [10.0, 12.0, 11.0]),
        ];
        let wanted = Recommended {
            prefill: 4,
            decode: 2,
        };
        assert_eq!(recommend(&rows), Some(wanted));
        assert_eq!(recommend(&[]), None);
    }

    #[test]
    fn noise_does_not_recommend_more_threads() {
        let rows = [
            row(2, [90.0, 100.0, 110.0], [1.0; 3]),
            row(4, [92.0, 104.0, 112.0], [1.02; 3]),
        ];
        assert_eq!(recommend(&rows).unwrap().prefill, 2);
        assert_eq!(recommend(&rows).unwrap().decode, 4);
    }
}
