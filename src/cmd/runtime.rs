//! Threads and kernel level from the command line.

use std::num::NonZero;

use tokgate_kernels::{Level, PoolOptions, Runtime};

use crate::cli::RuntimeArgs;

/// Cores that the process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The runtime that `args` ask for.
///
/// # Errors
/// See [`new`].
pub fn from_args(args: &RuntimeArgs) -> anyhow::Result<Runtime> {
    new(
        args.threads.unwrap_or_else(cores),
        args.pin,
        args.level.as_deref(),
    )
}

/// A runtime of `threads`, at `level` or the one that the environment or the CPU tells.
///
/// # Errors
/// If the level is unknown or beyond this CPU, or the threads cannot be started.
pub fn new(threads: usize, pin: bool, level: Option<&str>) -> anyhow::Result<Runtime> {
    let level = match level {
        Some(name) => Level::new(name.parse()?)?,
        None => Level::from_env()?,
    };
    Ok(Runtime::with_level(level, PoolOptions { threads, pin })?)
}
