//! What a kernel needs besides its operands: threads, a level, working memory.

use crate::level::{Level, LevelError};
use crate::pool::{Pool, PoolError, PoolOptions};
use crate::scratch::Scratch;

use std::sync::Arc;

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
    pool: Arc<Pool>,
    level: Level,
    scratch: Arc<Scratch>,
    batch_invariant: bool,
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
            pool: Arc::new(pool),
            level,
            scratch: Arc::default(),
            batch_invariant: false,
        })
    }

    /// A runtime over the same threads and memory in which every token gets the bits that it gets alone, whatever other
    /// tokens there are: an operation on `m` tokens then gives what `m` calls with one token each give in *any* runtime
    /// of this level. Weights are still read from memory once for all tokens.
    ///
    /// That costs time where there are many tokens, for which the other forms of matmul and attention are made: it is
    /// for the few tokens of a generation step, and not for prompts.
    pub fn batch_invariant(&self) -> Self {
        Self {
            pool: Arc::clone(&self.pool),
            level: self.level,
            scratch: Arc::clone(&self.scratch),
            batch_invariant: true,
        }
    }

    /// Whether this is a [batch-invariant](Self::batch_invariant) runtime.
    pub fn is_batch_invariant(&self) -> bool {
        self.batch_invariant
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
