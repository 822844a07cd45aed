//! From measurements to verdicts. Pure: no file, no clock, no machine; all of it is a function of data.
//!
//! [`compare`] weighs records against records by the limits of a [`Gate`]. How a verdict on times is reached:
//!
//! 1. A measurement stands for itself by a low quantile of its samples ([`stats`]), because neighbours only ever add
//!    time. The effect is the logarithm of the ratio of both sides' figures.
//! 2. Around the effect lies what the figures cannot tell apart from it: how far each side's figure wandered while it
//!    was taken, and what the *machine* did between the two sessions. The latter is seen in the controls, or in all
//!    benches together: their common movement, and their scatter around it. Too few benches show nothing, and the
//!    gate's allowance stands in.
//! 3. Regressed if all of that lies above the threshold, improved if all lies below its negative, unchanged if none
//!    lies above the threshold, and otherwise inconclusive. A slow-down that only the median shows has a wider
//!    threshold of its own; one that only the tail shows is said, never red.
//!
//! [`trial`] weighs two commits that were measured in one session, which shows far smaller differences. [`bisect`] says
//! which of many commits it was.
//!
//! Counts are exact: beyond the threshold and the floor is beyond.
//!
//! [`trend`] puts what many commits measured in their order, and [`mod@changes`] finds where the level of a series changed.

pub mod bisect;
pub mod calibrate;
pub mod changes;
pub mod evidence;
pub mod gate;
pub mod policy;
pub mod side_by_side;
pub mod stats;
pub mod trend;
pub mod trial;

mod compare;
mod verdict;

pub use changes::{ChangePoint, Level, change_points};
pub use compare::{Comparison, Coverage, Drift, Row, Seen, compare};
pub use gate::{Gate, GateError};
pub use stats::{Statistic, Summary};
pub use trend::{Trend, TrendBuilder};
pub use verdict::{Reason, Verdict};

#[cfg(test)]
mod tests;
