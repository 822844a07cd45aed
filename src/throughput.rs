//! How many tokens a second a model processes, as llama-bench measures it: random tokens straight into the forward
//! pass, neither tokenisation nor sampling in the time.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokgate_kernels::{DType, Runtime};

use crate::engine::forward::{Chunk, ForwardError, LogitRows, Model, Work};
use crate::engine::kv_cache::{KvCache, KvCacheError};

/// What one repetition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Prompt tokens, processed [`Case::ubatch`] at a time.
    pub n_prompt: usize,
    /// Tokens generated after them, one a pass.
    pub n_gen: usize,
    /// Tokens that the cache holds before the clock starts.
    pub n_depth: usize,
    /// Prompt tokens of one pass.
    pub ubatch: usize,
    /// Element type of the KV cache.
    pub kv: DType,
}

impl Case {
    /// Positions that the cache must have.
    pub fn positions(&self) -> usize {
        self.n_depth
            .saturating_add(self.n_prompt)
            .saturating_add(self.n_gen)
    }
}

/// Why a case could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum ThroughputError {
    /// See [`KvCacheError`].
    #[error(transparent)]
    Cache(#[from] KvCacheError),
    /// See [`ForwardError`].
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

/// One repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Wall-clock time.
    pub ns: u64,
    /// What was computed and read in it.
    pub work: Work,
    /// The part of it that the prompt took; generation took the rest.
    pub prompt: Work,
}

/// A case that is set up: its cache is filled to the depth, and each repetition starts from there.
#[derive(Debug)]
pub struct Bench<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    case: Case,
    cache: KvCache,
    tokens: StdRng,
    logits: Vec<f32>,
}

impl<'a> Bench<'a> {
    /// Claims the cache and fills it to the depth.
    ///
    /// # Errors
    /// [`ThroughputError`] if the cache does not fit the memory.
    pub fn new(
        model: &'a Model,
        rt: &'a Runtime,
        case: Case,
        seed: u64,
    ) -> Result<Self, ThroughputError> {
        let cache = KvCache::new(model.config(), case.kv, case.positions())?;
        let tokens = StdRng::seed_from_u64(seed);
        let mut bench = Self {
            model,
            rt,
            case,
            cache,
            tokens,
            logits: Vec::new(),
        };
        bench.prompt(case.n_depth, &mut Work::default())?;
        Ok(bench)
    }

    /// Touches what a repetition will touch: one prompt if there is one, one generated token if there are any.
    ///
    /// # Errors
    /// [`ThroughputError`] if the forward pass refuses.
    pub fn warm_up(&mut self) -> Result<(), ThroughputError> {
        self.prompt(self.case.n_prompt, &mut Work::default())?;
        self.generate(self.case.n_gen.min(1), &mut Work::default())?;
        self.cache.truncate(self.case.n_depth);
        Ok(())
    }

    /// Runs and times one repetition.
    ///
    /// # Errors
    /// [`ThroughputError`] if the forward pass refuses.
    pub fn repeat(&mut self) -> Result<Sample, ThroughputError> {
        let mut work = Work::default();
        let start = Instant::now();
        self.prompt(self.case.n_prompt, &mut work)?;
        let prompt = work.clone();
        self.generate(self.case.n_gen, &mut work)?;
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.cache.truncate(self.case.n_depth);
        Ok(Sample { ns, work, prompt })
    }

    /// Runs and times the next pass of a repetition: a generated token, or a batch of the prompt where there is one to
    /// read. What comes after the last pass is the first one again.
    ///
    /// # Errors
    /// [`ThroughputError`] if the forward pass refuses.
    pub fn step(&mut self) -> Result<Sample, ThroughputError> {
        if self.cache.len() >= self.case.positions() {
            self.cache.truncate(self.case.n_depth);
        }
        let read = self.cache.len() - self.case.n_depth;
        let batch = self.case.n_prompt.saturating_sub(read);
        let batch = batch.min(self.case.ubatch.max(1));
        let mut work = Work::default();
        let start = Instant::now();
        if batch > 0 {
            self.prompt(batch, &mut work)?;
        } else {
            self.generate(1, &mut work)?;
        }
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let prompt = if batch > 0 {
            work.clone()
        } else {
            Work::default()
        };
        Ok(Sample { ns, work, prompt })
    }

    fn prompt(&mut self, tokens: usize, work: &mut Work) -> Result<(), ThroughputError> {
        let prompt: Vec<u32> = (0..tokens).map(|_| self.token()).collect();
        let mut batches = prompt.chunks(self.case.ubatch.max(1)).peekable();
        while let Some(batch) = batches.next() {
            let rows = if batches.peek().is_none() {
                LogitRows::Last
            } else {
                LogitRows::None
            };
            self.pass(batch, rows, work)?;
        }
        Ok(())
    }

    fn generate(&mut self, tokens: usize, work: &mut Work) -> Result<(), ThroughputError> {
        for _ in 0..tokens {
            let token = self.token();
            self.pass(&[token], LogitRows::Last, work)?;
        }
        Ok(())
    }

    fn pass(
        &mut self,
        tokens: &[u32],
        logits: LogitRows,
        work: &mut Work,
    ) -> Result<(), ThroughputError> {
        let chunk = Chunk {
            tokens,
            cache: &mut self.cache,
            logits,
        };
        self.model
            .forward(self.rt, &mut [chunk], &mut self.logits, work)?;
        Ok(())
    }

    fn token(&mut self) -> u32 {
        let vocab = u32::try_from(self.model.config().n_vocab).unwrap_or(u32::MAX);
        self.tokens.random_range(0..vocab)
    }
}
