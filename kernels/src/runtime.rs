//! What a kernel needs besides its operands: threads, a level, working memory.

use crate::level::{Level, LevelError};
use crate::pool::{Pool, PoolError, PoolOptions};
use crate::scratch::Scratch;

/// Why a runtime could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// See [`LevelError`].
    #[error(transparent)]
    Level(#[from] LevelError),
    /// See [`PoolError`].
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Threads, level and working memory; the first argument of every operation.
#[derive(Debug)]
pub struct Runtime {
    pool: Pool,
    level: Level,
    scratch: Scratch,
}

impl Runtime {
    /// A runtime of `threads` at the level that `TOKGATE_LEVEL` names, or else the
    /// [preferred](Level::preferred) one.
    ///
    /// # Errors
    /// [`RuntimeError`] if the variable is off, the CPU lacks the level, or the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self, RuntimeError> {
        Ok(Self::with_level(
            Level::from_env()?,
            PoolOptions {
                threads,
                pin: false,
            },
        )?)
    }

    /// A runtime at a given level.
    ///
    /// # Errors
    /// [`PoolError`] if the threads cannot be started.
    pub fn with_level(level: Level, options: PoolOptions) -> Result<Self, PoolError> {
        let pool = Pool::with_options(options)?;
        Ok(Self {
            pool,
            level,
            scratch: Scratch::default(),
        })
    }

    /// The worker threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The level at which operations run.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Working memory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}
