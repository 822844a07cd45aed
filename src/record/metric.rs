//! What can be measured of a bench: name, unit, direction, and whether a change of it may turn a gate red.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A quantity that a bench is judged or described by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Metric {
    /// Wall-clock nanoseconds of one iteration.
    Time,
    /// Tokens per second, where a source tells no times.
    TokensPerSecond,
    /// Instructions that callgrind counted (`Ir`).
    Instructions,
    /// Data and instruction accesses that callgrind's model answers from the first level (`L1hits`).
    L1Hits,
    /// Accesses answered from the last level (`LLhits`).
    LlHits,
    /// Accesses answered from memory (`RamHits`).
    RamHits,
    /// Callgrind's weighted sum of the hits: a description, too crude to gate on.
    EstimatedCycles,
    /// Bytes of memory.
    Bytes,
}

/// Which way a metric gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Times, counts, sizes.
    LowerIsBetter,
    /// Rates.
    HigherIsBetter,
}

/// What a metric's figures depend on, and therefore under which machine key they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetricKind {
    /// Taken with a clock: comparable on one machine only.
    Clocked,
    /// Counted: comparable within a CPU family and toolchain.
    Counted,
}

/// A name that is no metric of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a metric that this version of tokgate knows; update tokgate or correct the name"
)]
pub struct UnknownMetric(String);

impl Metric {
    /// All metrics, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Time,
        Self::TokensPerSecond,
        Self::Instructions,
        Self::L1Hits,
        Self::LlHits,
        Self::RamHits,
        Self::EstimatedCycles,
        Self::Bytes,
    ];

    /// The metric's name in files, in `gate.toml` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::TokensPerSecond => "tokens_per_s",
            Self::Instructions => "instructions",
            Self::L1Hits => "l1_hits",
            Self::LlHits => "ll_hits",
            Self::RamHits => "ram_hits",
            Self::EstimatedCycles => "estimated_cycles",
            Self::Bytes => "bytes",
        }
    }

    /// The unit of one figure, as it is printed behind a number.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Time => "ns",
            Self::TokensPerSecond => "tok/s",
            Self::Instructions => "Ir",
            Self::L1Hits | Self::LlHits | Self::RamHits => "hits",
            Self::EstimatedCycles => "cycles",
            Self::Bytes => "B",
        }
    }

    /// Which way the metric gets better.
    pub const fn direction(self) -> Direction {
        match self {
            Self::TokensPerSecond => Direction::HigherIsBetter,
            _ => Direction::LowerIsBetter,
        }
    }

    /// Whether a regression of it turns a gate red, unless `gate.toml` says otherwise.
    pub const fn gates(self) -> bool {
        matches!(
            self,
            Self::Time | Self::TokensPerSecond | Self::Instructions
        )
    }

    /// What the figures depend on.
    pub const fn kind(self) -> MetricKind {
        match self {
            Self::Time | Self::TokensPerSecond | Self::Bytes => MetricKind::Clocked,
            Self::Instructions
            | Self::L1Hits
            | Self::LlHits
            | Self::RamHits
            | Self::EstimatedCycles => MetricKind::Counted,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| UnknownMetric(name.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Metric {
    type Error = UnknownMetric;

    fn try_from(name: String) -> Result<Self, UnknownMetric> {
        name.parse()
    }
}

impl From<Metric> for &'static str {
    fn from(metric: Metric) -> Self {
        metric.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_named() {
        for (at, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, at);
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        let error = "joules".parse::<Metric>().unwrap_err();
        assert!(error.to_string().contains("'joules'"), "{error}");
    }

    #[test]
    fn only_what_can_be_proven_gates() {
        assert!(Metric::Time.gates() && Metric::Instructions.gates());
        assert!(!Metric::EstimatedCycles.gates());
        assert_eq!(
            Metric::TokensPerSecond.direction(),
            Direction::HigherIsBetter
        );
    }
}
