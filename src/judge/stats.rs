//! The statistics that verdicts stand on: robust, because neighbours only ever add time.

use serde::{Deserialize, Deserializer, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

pub use crate::record::Statistic;
use crate::record::{Direction, Measurement};

/// Parts that a measurement is cut into, to see how far its statistic wanders while it is taken.
const BATCHES: usize = 5;

/// Fewer samples than this make no batch.
const MIN_BATCH: usize = 5;

/// What the samples of one measurement say, in the metric's unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many samples there are.
    pub samples: usize,
    /// The figure that is compared: the statistic [`of`] the samples.
    #[serde(deserialize_with = "number_or_nan")]
    pub value: f64,
    /// The median.
    #[serde(deserialize_with = "number_or_nan")]
    pub median: f64,
    /// The 90 % quantile, counted from the best.
    #[serde(deserialize_with = "number_or_nan")]
    pub tail: f64,
    /// The median absolute deviation of the samples, scaled to a standard deviation, in percent of the median.
    #[serde(deserialize_with = "number_or_nan")]
    pub spread_pct: f64,
    /// How far the parts of the measurement disagree on the compared figure: ±, as a logarithm.
    #[serde(deserialize_with = "number_or_nan")]
    pub wander: f64,
}

/// JSON has no `NaN`; what is none was written as null.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Summary {
    /// Summarises a measurement.
    pub fn of(measurement: &Measurement, statistic: Statistic) -> Self {
        Self::of_figures(
            &measurement.figures(),
            measurement.metric().direction(),
            statistic,
        )
    }

    /// Summarises figures that are given in the order in which they were taken.
    pub fn of_figures(figures: &[f64], direction: Direction, statistic: Statistic) -> Self {
        let sorted = best_first(figures, direction);
        let median = quantile(&sorted, 0.5);
        let deviations: Vec<f64> = figures
            .iter()
            .map(|figure| (figure - median).abs())
            .collect();
        let deviation = quantile(&best_first(&deviations, Direction::LowerIsBetter), 0.5);
        Self {
            samples: figures.len(),
            value: of(statistic, &sorted),
            median,
            tail: quantile(&sorted, 0.9),
            spread_pct: NORMAL_MAD * deviation / median * 100.0,
            wander: wander(figures, direction, statistic),
        }
    }
}

/// The `statistic` of `sorted` figures, the best first; `NaN` if there are none.
pub fn of(statistic: Statistic, sorted: &[f64]) -> f64 {
    match statistic {
        Statistic::Best => quantile(sorted, 0.0),
        Statistic::Low => quantile(sorted, 0.1),
        Statistic::Median => quantile(sorted, 0.5),
    }
}

/// The standard deviation of a normal distribution over its median absolute deviation.
const NORMAL_MAD: f64 = 1.482_602_218_505_602;

/// The quantile `p` of `sorted` figures by linear interpolation, as R's type 7 and NumPy do it; `NaN` for none.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = p.clamp(0.0, 1.0) * last as f64;
    let below = sorted[place as usize];
    let above = sorted[(place as usize + 1).min(last)];
    below + (above - below) * place.fract()
}

/// The median of `figures` and their median absolute deviation, scaled to a standard deviation; `None` for none.
pub fn median_and_deviation(figures: &[f64]) -> Option<(f64, f64)> {
    if figures.is_empty() {
        return None;
    }
    let median = quantile(&best_first(figures, Direction::LowerIsBetter), 0.5);
    let deviations: Vec<f64> = figures
        .iter()
        .map(|figure| (figure - median).abs())
        .collect();
    let deviation = quantile(&best_first(&deviations, Direction::LowerIsBetter), 0.5);
    Some((median, NORMAL_MAD * deviation))
}

/// How likely it is, if all groups come from one distribution, that their ranks differ like this or more (Kruskal and
/// Wallis 1952, with their correction for ties; χ² with one degree of freedom less than there are groups). Groups without
/// a figure do not count; 1 where there are fewer than two.
pub fn kruskal_wallis(groups: &[Vec<f64>]) -> f64 {
    let groups: Vec<&Vec<f64>> = groups.iter().filter(|group| !group.is_empty()).collect();
    let mut all: Vec<(f64, usize)> = groups
        .iter()
        .enumerate()
        .flat_map(|(at, group)| group.iter().map(move |figure| (*figure, at)))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = all.len() as f64;
    let mut rank_sums = vec![0.0; groups.len()];
    let (mut seen, mut ties) = (0, 0.0);
    for equal in all.chunk_by(|a, b| a.0 == b.0) {
        let count = equal.len();
        let rank = seen as f64 + (count as f64 + 1.0) / 2.0;
        equal.iter().for_each(|(_, at)| rank_sums[*at] += rank);
        ties += (count as f64).powi(3) - count as f64;
        seen += count;
    }
    let untied = 1.0 - ties / (n.powi(3) - n);
    let tells = groups.len() > 1 && untied > 0.0;
    if !tells {
        return 1.0;
    }
    let squares: f64 = groups
        .iter()
        .zip(&rank_sums)
        .map(|(group, sum)| sum * sum / group.len() as f64)
        .sum();
    let h = (12.0 / (n * (n + 1.0)) * squares - 3.0 * (n + 1.0)) / untied;
    ChiSquared::new((groups.len() - 1) as f64)
        .expect("at least one degree of freedom")
        .sf(h.max(0.0))
}

fn best_first(figures: &[f64], direction: Direction) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    if direction == Direction::HigherIsBetter {
        sorted.reverse();
    }
    sorted
}

/// How well consecutive parts of a measurement agree on its statistic: the logarithm of the ratio between the median
/// part's and the best part's. A disturbed part does no harm as long as most are not.
fn wander(figures: &[f64], direction: Direction, statistic: Statistic) -> f64 {
    let batches = (figures.len() / MIN_BATCH).clamp(1, BATCHES);
    let length = figures.len().div_ceil(batches).max(1);
    let values: Vec<f64> = figures
        .chunks(length)
        .map(|batch| of(statistic, &best_first(batch, direction)))
        .collect();
    let sorted = best_first(&values, direction);
    (quantile(&sorted, 0.5) / quantile(&sorted, 0.0)).ln().abs()
}
