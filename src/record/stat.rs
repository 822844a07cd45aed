//! Which figure stands for many samples.

use serde::{Deserialize, Serialize};

/// Which figure of a measurement's samples stands for the measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The best sample.
    Best,
    /// The 10 % quantile of the samples, counted from the best: what the code costs when nobody disturbs it.
    #[default]
    Low,
    /// The median, for code whose best moments are luck, such as bursts of memory bandwidth.
    Median,
}

impl Statistic {
    /// The word for it in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Low => "low",
            Self::Median => "median",
        }
    }
}
