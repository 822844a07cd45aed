//! What was measured, under which name, and where the figures come from; baselines on disk; other harnesses' formats.
//!
//! [`BenchId`] names a bench, [`Metric`] what was measured of it, [`Measurement`] holds the raw samples, [`Record`] a
//! set of them with the [`Provenance`] of every run. [`store`] keeps records as baselines, [`git`] finds those of
//! other commits and [`history`] those of all commits, [`trial`] is what one run of the gate measured, [`adapters`] read
//! what other harnesses leave behind.

pub mod adapters;
pub mod calibration;
pub mod git;
pub mod history;
pub mod llama_bench;
pub mod prompts;
pub mod results;
pub mod serving;
pub mod store;
pub mod trial;

mod figures;
mod files;
mod id;
mod measurement;
mod metric;
mod project;
mod remote;
mod run;
mod stat;

pub use figures::{Better, FIGURES_SCHEMA, Figure};
pub use files::FileError;
pub(crate) use files::{read_text, write_whole};
pub use id::{BenchId, IdError, IdParts, MAX_ID_LEN};
pub use measurement::{MAX_SAMPLES, Measurement, SampleError, Samples, Throughput, TimedSamples};
pub use metric::{Direction, Metric, MetricKind, UnknownMetric};
pub use project::{NoProject, Project};
pub use remote::Remote;
pub use run::{MachineKey, NameError, Provenance, Record, RunId, UnknownRun, Witness};
pub use stat::Statistic;
