//! What can be said of a bench, and why no more than that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::MachineKey;

/// What a comparison says of one bench and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The measurement itself is wrong.
    Failed,
    /// Worse beyond the threshold, with all that could excuse it granted.
    Regressed,
    /// The figures cannot carry a claim either way.
    Inconclusive,
    /// The figures must not be compared at all.
    NotMeasurable,
    /// The baseline has it, the other side does not.
    Missing,
    /// Only the new side has it.
    New,
    /// Not worse beyond the threshold, nor proven better.
    Unchanged,
    /// Better beyond the threshold, with all that could feign it granted.
    Improved,
}

/// Why a verdict is what it is, where the figures alone do not say it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// The two sides were measured on different machines, or counted with different toolchains.
    OtherMachine {
        /// Where the baseline comes from.
        base: MachineKey,
    },
    /// Too few samples to know their spread.
    FewSamples {
        /// The fewer of the two sides.
        samples: usize,
        /// How many a verdict needs.
        needed: usize,
    },
    /// The difference is within what the samples wander, or what the machine itself moved between the sessions.
    WithinNoise,
    /// The usual call is as fast as it was, the median call is not.
    Median {
        /// The change of the median in percent.
        delta_pct: f64,
    },
    /// Only the slowest calls are slower.
    Tail {
        /// The change of the 90 % quantile in percent.
        delta_pct: f64,
    },
    /// Counts of one and the same code differ between processes.
    CountsDiffer,
    /// Too little to have done the work that the bench names.
    Implausible {
        /// The least that is plausible.
        least: f64,
    },
    /// More instructions in less time.
    TradeOff,
    /// Code that this project does not change, measured to know what the machine did.
    Control,
    /// The machine code of both sides is the same, so it was not timed.
    SameCode,
    /// Links of one and the same code differ by more than what would be a regression.
    Layout {
        /// How much one link of a side differs from its others, in percent.
        null_pct: f64,
        /// How much they may differ, in percent.
        floor_pct: f64,
    },
    /// Beyond the threshold, but with so many benches one such is no surprise.
    ByChance {
        /// How many benches were judged.
        benches: usize,
    },
    /// Too few blocks to know how much they scatter.
    FewBlocks {
        /// How many there are.
        blocks: usize,
        /// How many a verdict needs.
        needed: usize,
    },
    /// More instructions are executed.
    Instructions {
        /// The change in percent.
        delta_pct: f64,
    },
    /// Agreed to: not gated, within the bound.
    Accepted {
        /// How much worse it may be, in percent; absent where it may vanish.
        bound_pct: Option<f64>,
        /// The last day on which that holds.
        expires: String,
        /// Why.
        reason: String,
    },
    /// The harness did not give what was asked of it.
    Broken {
        /// What it said.
        what: String,
    },
}

impl Verdict {
    /// All verdicts, the worst first.
    pub const ALL: [Self; 8] = [
        Self::Failed,
        Self::Regressed,
        Self::Inconclusive,
        Self::NotMeasurable,
        Self::Missing,
        Self::New,
        Self::Unchanged,
        Self::Improved,
    ];

    /// The word for it in tables and summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Regressed => "regressed",
            Self::Inconclusive => "inconclusive",
            Self::NotMeasurable => "not measurable",
            Self::Missing => "missing",
            Self::New => "new",
            Self::Unchanged => "unchanged",
            Self::Improved => "improved",
        }
    }

    /// Whether the two sides were really weighed against each other.
    pub const fn is_judgement(self) -> bool {
        matches!(
            self,
            Self::Regressed | Self::Inconclusive | Self::Unchanged | Self::Improved
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherMachine { base } => write!(f, "the baseline is of {base}"),
            Self::FewSamples { samples, needed } => {
                write!(f, "{samples} samples, a verdict needs {needed}")
            }
            Self::WithinNoise => f.write_str("within what machine and samples wander"),
            Self::Median { delta_pct } => write!(f, "the median is {delta_pct:+.1} %"),
            Self::Tail { delta_pct } => write!(f, "the 90 % quantile is {delta_pct:+.1} %"),
            Self::CountsDiffer => f.write_str("counting twice gave different counts"),
            Self::Implausible { least } => {
                write!(
                    f,
                    "less than the plausible {least:.0}: was the work optimised away?"
                )
            }
            Self::TradeOff => f.write_str("more instructions, but proven faster"),
            Self::Control => f.write_str("a control: not gated"),
            Self::SameCode => f.write_str("the same machine code on both sides"),
            Self::Layout {
                null_pct,
                floor_pct,
            } => write!(
                f,
                "re-linking the same code moves it by {null_pct:.1} %, more than {floor_pct:.1} %"
            ),
            Self::ByChance { benches } => {
                write!(
                    f,
                    "beyond the threshold, but one of {benches} may be by chance"
                )
            }
            Self::FewBlocks { blocks, needed } => {
                write!(f, "{blocks} blocks, a verdict needs {needed}")
            }
            Self::Instructions { delta_pct } => write!(f, "{delta_pct:+.2} % instructions"),
            Self::Accepted {
                bound_pct,
                expires,
                reason,
            } => {
                match bound_pct {
                    Some(bound) => write!(f, "accepted up to {bound:+} %")?,
                    None => f.write_str("accepted")?,
                }
                write!(f, " until {expires}: {reason}")
            }
            Self::Broken { what } => f.write_str(what),
        }
    }
}
