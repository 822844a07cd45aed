//! One bench, one metric, and every raw sample of it.

use serde::{Deserialize, Serialize};

use super::id::BenchId;
use super::metric::Metric;
use super::run::RunId;

/// The most samples that one measurement may hold; no harness takes as many.
pub const MAX_SAMPLES: usize = 100_000;

/// The raw samples of one bench for one metric, taken by one process, and the run that vouches for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    id: BenchId,
    metric: Metric,
    run: RunId,
    samples: Samples,
    throughput: Throughput,
}

/// Raw samples in the order in which they were taken; there is at least one.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// A clock around a number of iterations.
    Timed(TimedSamples),
    /// Exact counts, one a process that counted.
    Counts(Vec<u64>),
    /// Rates as a source reports them, all finite and positive.
    Rates(Vec<f64>),
}

impl Samples {
    /// The samples of several runs of the same thing, of which each run becomes one: what varies between requests of a
    /// load says little of how much the next load would vary. The times of a run become their mean, weighted by
    /// iterations.
    ///
    /// # Errors
    /// [`SampleError`] if the runs are too many, their times too long, or not of one kind.
    pub fn of_runs(runs: &[Self]) -> Result<Self, SampleError> {
        let sum = |parts: &[u64]| {
            let add = |sum: u64, part: &u64| sum.checked_add(*part);
            parts.iter().try_fold(0, add).ok_or(SampleError::Mixed)
        };
        let mut all = Self::Rates(Vec::new());
        for (at, run) in runs.iter().enumerate() {
            match (&mut all, run) {
                (all, Self::Timed(times)) if at == 0 => {
                    let (iters, total) = (sum(&times.iters)?, sum(&times.total_ns)?);
                    *all = Self::Timed(TimedSamples::new(vec![iters], vec![total])?);
                }
                (all, Self::Counts(counts)) if at == 0 => *all = Self::Counts(counts.clone()),
                (Self::Timed(all), Self::Timed(times)) => {
                    all.iters.push(sum(&times.iters)?);
                    all.total_ns.push(sum(&times.total_ns)?);
                }
                (Self::Counts(all), Self::Counts(counts)) => all.extend(counts),
                (Self::Rates(all), Self::Rates(rates)) => all.extend(rates),
                _ => return Err(SampleError::Mixed),
            }
        }
        let count = match &all {
            Self::Timed(times) => times.iters.len(),
            Self::Counts(counts) => counts.len(),
            Self::Rates(rates) => rates.len(),
        };
        check_count(count)?;
        Ok(all)
    }
}

/// Wall-clock samples: `total_ns[i]` nanoseconds went by during `iters[i]` iterations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedSamples {
    iters: Vec<u64>,
    total_ns: Vec<u64>,
}

/// Iterations of the samples, in the shortest of the forms that they have in practice.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Iters {
    Same(u64),
    Linear { linear: u64 },
    Each(Vec<u64>),
}

/// What one iteration works through; rates are this over the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throughput {
    /// Elements, such as multiply-accumulates or tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<u64>,
    /// Bytes read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bits, where a harness counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u64>,
}

/// Why samples are no measurement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// A measurement without a sample.
    #[error("there is no sample")]
    Empty,
    /// Runs that are to be put together and cannot be.
    #[error("the runs are not of one kind, or their times are too long")]
    Mixed,
    /// More than [`MAX_SAMPLES`].
    #[error("{0} samples are more than {MAX_SAMPLES}")]
    TooMany(usize),
    /// Two columns of different length.
    #[error("{iters} iteration counts do not fit {times} times")]
    Columns {
        /// Entries of `iters`.
        iters: usize,
        /// Entries of `total_ns`.
        times: usize,
    },
    /// A sample of no iteration.
    #[error("sample {0} ran no iteration")]
    NoIterations(usize),
    /// A rate that is not a positive number.
    #[error("sample {0} is not a positive number")]
    Rate(usize),
    /// Samples of another kind than the metric's.
    #[error("'{0}' does not come in samples of this kind")]
    Kind(Metric),
}

impl TimedSamples {
    /// Pairs iteration counts with the times that they took.
    ///
    /// # Errors
    /// [`SampleError`] for columns that are empty, too long or of different length, or a sample without iterations.
    pub fn new(iters: Vec<u64>, total_ns: Vec<u64>) -> Result<Self, SampleError> {
        if iters.len() != total_ns.len() {
            return Err(SampleError::Columns {
                iters: iters.len(),
                times: total_ns.len(),
            });
        }
        check_count(iters.len())?;
        match iters.iter().position(|count| *count == 0) {
            Some(at) => Err(SampleError::NoIterations(at)),
            None => Ok(Self { iters, total_ns }),
        }
    }

    /// Iterations of each sample, all at least 1.
    pub fn iters(&self) -> &[u64] {
        &self.iters
    }

    /// Nanoseconds of each sample.
    pub fn total_ns(&self) -> &[u64] {
        &self.total_ns
    }

    /// Nanoseconds per iteration of each sample.
    pub fn per_iteration_ns(&self) -> impl Iterator<Item = f64> {
        self.iters
            .iter()
            .zip(&self.total_ns)
            .map(|(iters, total)| *total as f64 / *iters as f64)
    }
}

impl Iters {
    pub(super) fn of(iters: &[u64]) -> Self {
        let first = iters[0];
        let linear = |(at, count): (u64, &u64)| first.checked_mul(at) == Some(*count);
        if iters.iter().all(|count| *count == first) {
            Self::Same(first)
        } else if (1..).zip(iters).all(linear) {
            Self::Linear { linear: first }
        } else {
            Self::Each(iters.to_vec())
        }
    }

    pub(super) fn expand(self, count: usize) -> Result<Vec<u64>, SampleError> {
        if count > MAX_SAMPLES {
            return Err(SampleError::TooMany(count));
        }
        Ok(match self {
            Self::Same(iters) => vec![iters; count],
            Self::Linear { linear } => (1..=count as u64)
                .map(|at| linear.saturating_mul(at))
                .collect(),
            Self::Each(iters) => iters,
        })
    }
}

impl Measurement {
    /// Holds `samples` to be `metric` of the bench `id`, taken in `run`.
    ///
    /// # Errors
    /// [`SampleError`] if there is no sample, too many, one without a meaning, or samples that the metric does not
    /// come in.
    pub fn new(
        id: BenchId,
        metric: Metric,
        run: RunId,
        samples: Samples,
        throughput: Throughput,
    ) -> Result<Self, SampleError> {
        match (metric, &samples) {
            (Metric::Time, Samples::Timed(_)) => {}
            (Metric::TokensPerSecond, Samples::Rates(rates)) => {
                check_count(rates.len())?;
                let bad = |rate: &f64| !(rate.is_finite() && *rate > 0.0);
                if let Some(at) = rates.iter().position(bad) {
                    return Err(SampleError::Rate(at));
                }
            }
            (Metric::Time | Metric::TokensPerSecond, _) => return Err(SampleError::Kind(metric)),
            (_, Samples::Counts(counts)) => check_count(counts.len())?,
            _ => return Err(SampleError::Kind(metric)),
        }
        Ok(Self {
            id,
            metric,
            run,
            samples,
            throughput,
        })
    }

    /// The bench.
    pub fn id(&self) -> &BenchId {
        &self.id
    }

    /// What was measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The run whose provenance holds for it.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The raw samples.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The work of one iteration.
    pub fn throughput(&self) -> Throughput {
        self.throughput
    }

    /// Each sample as one figure in the metric's unit, in the order in which they were taken.
    pub fn figures(&self) -> Vec<f64> {
        match &self.samples {
            Samples::Timed(timed) => timed.per_iteration_ns().collect(),
            Samples::Counts(counts) => counts.iter().map(|count| *count as f64).collect(),
            Samples::Rates(rates) => rates.clone(),
        }
    }

    /// The same measurement with at most `limit` samples (at least one), evenly picked over its duration.
    #[must_use]
    pub fn thinned(mut self, limit: usize) -> Self {
        match &mut self.samples {
            Samples::Timed(timed) => {
                thin(&mut timed.iters, limit);
                thin(&mut timed.total_ns, limit);
            }
            Samples::Counts(counts) => thin(counts, limit),
            Samples::Rates(rates) => thin(rates, limit),
        }
        self
    }
}

fn check_count(count: usize) -> Result<(), SampleError> {
    match count {
        0 => Err(SampleError::Empty),
        count if count > MAX_SAMPLES => Err(SampleError::TooMany(count)),
        _ => Ok(()),
    }
}

/// Keeps `limit` evenly spread entries, the first among them, in their order.
fn thin<T: Copy>(samples: &mut Vec<T>, limit: usize) {
    let (limit, count) = (limit.max(1), samples.len());
    if count > limit {
        *samples = (0..limit).map(|at| samples[at * count / limit]).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(metric: Metric, samples: Samples) -> Result<Measurement, SampleError> {
        Measurement::new(
            "parse".parse().unwrap(),
            metric,
            RunId::new("parse@then").unwrap(),
            samples,
            Throughput::default(),
        )
    }

    #[test]
    fn runs_become_samples() {
        let timed = |iters: &[u64], total: &[u64]| {
            Samples::Timed(TimedSamples::new(iters.to_vec(), total.to_vec()).unwrap())
        };
        let runs = [timed(&[1, 3], &[10, 90]), timed(&[2], &[30])];
        assert_eq!(Samples::of_runs(&runs), Ok(timed(&[4, 2], &[100, 30])));
        let rates = [2.0, 3.0].map(|rate| Samples::Rates(vec![rate]));
        assert_eq!(Samples::of_runs(&rates), Ok(Samples::Rates(vec![2.0, 3.0])));
        let mixed = [rates[0].clone(), runs[0].clone()];
        assert_eq!(Samples::of_runs(&mixed), Err(SampleError::Mixed));
        let long = timed(&[1, 1], &[u64::MAX, 1]);
        assert_eq!(Samples::of_runs(&[long]), Err(SampleError::Mixed));
        assert_eq!(Samples::of_runs(&[]), Err(SampleError::Empty));
    }

    #[test]
    fn samples_must_mean_something() {
        let columns = TimedSamples::new(vec![1, 2], vec![1]);
        assert_eq!(columns, Err(SampleError::Columns { iters: 2, times: 1 }));
        assert_eq!(TimedSamples::new(vec![], vec![]), Err(SampleError::Empty));
        assert_eq!(
            TimedSamples::new(vec![1, 0], vec![1, 1]),
            Err(SampleError::NoIterations(1))
        );
        let rates = Samples::Rates(vec![1.0, f64::NAN]);
        assert_eq!(
            measure(Metric::TokensPerSecond, rates),
            Err(SampleError::Rate(1))
        );
        let counts = Samples::Counts(vec![7]);
        assert_eq!(
            measure(Metric::Time, counts.clone()),
            Err(SampleError::Kind(Metric::Time))
        );
        assert!(measure(Metric::Instructions, counts).is_ok());
    }

    #[test]
    fn figures_are_per_iteration() {
        let timed = TimedSamples::new(vec![1, 4], vec![10, 20]).unwrap();
        let measurement = measure(Metric::Time, Samples::Timed(timed)).unwrap();
        assert_eq!(measurement.figures(), [10.0, 5.0]);
    }

    #[test]
    fn thinning_keeps_the_spread_over_time() {
        let counts = (0..1000).collect();
        let measurement = measure(Metric::Bytes, Samples::Counts(counts)).unwrap();
        let thinned = measurement.clone().thinned(4);
        assert_eq!(thinned.figures(), [0.0, 250.0, 500.0, 750.0]);
        assert_eq!(measurement.clone().thinned(1000), measurement);
    }
}
