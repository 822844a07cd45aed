//! tokgate: a CPU engine for large language models on [`tokgate_kernels`], and the suite that catches the commit
//! which made them slower.
//!
//! Data runs one way, and so do the imports:
//!
//! ```text
//! kernels → engine → (benches, cmd) → record → judge → render → terminal
//! ```
//!
//! `.github/ARCHITECTURE.md` says who may import whom.

#[cfg(feature = "candle")]
pub mod candle;
pub mod cli;
pub mod cluster;
pub mod cmd;
pub mod engine;
pub mod generation;
pub mod github;
pub mod judge;
pub mod lab;
pub mod load;
pub mod metrics;
pub mod probe;
pub mod record;
pub mod render;
#[cfg(feature = "serve")]
pub mod serve;
pub mod session;
pub mod throughput;
pub mod workload;

mod whole;
