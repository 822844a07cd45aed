//! The forward pass: tokens in, logits out.
//!
//! One pass takes any number of [`Chunk`]s, each the next tokens of a sequence of its own. Their rows are stacked, so
//! that every weight is read once a pass, however many sequences there are; attention alone looks at each by itself.
//! A prompt may be cut into chunks anywhere: the logits do not depend on where, beyond the order of additions.
//! In a [batch-invariant](Runtime::batch_invariant) runtime they do not depend on it at all.
//!
//! A model may be a [`Part`] of one: then the products behind attention and feed-forward are parts of a sum, which
//! whoever called [`Model::forward_part`] adds up with the other parts', twice a layer.

mod pass;

use std::num::NonZero;
use std::ops::Range;

use tokgate_kernels::{AttentionSpec, MoeError, MoeSpec, Rope, RopeError, Runtime};

use crate::engine::config::ModelConfig;
use crate::engine::kv_cache::KvCache;
use crate::engine::weights::ModelWeights;
use crate::engine::weights::part::{HeadRun, Part};
use pass::Pass;

/// Why a pass did not run. Nothing was written to any cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// A token that the model does not have.
    #[error("token {token} is not in the vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// A cache is too small for the tokens.
    #[error(
        "{tokens} more tokens do not fit a context of {capacity} of which {len} are used; use a larger context"
    )]
    Context {
        /// Tokens of the chunk.
        tokens: usize,
        /// Positions in use.
        len: usize,
        /// Positions of the cache.
        capacity: usize,
    },
    /// The sum over the parts of a model did not come.
    #[error("the other parts of the model cannot be reached")]
    Apart,
}

/// The other parts of a model cannot be reached; whoever joins them knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart;

impl From<Apart> for ForwardError {
    fn from(_: Apart) -> Self {
        Self::Apart
    }
}

/// Where parts of a sum meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    /// The layer.
    pub layer: usize,
    /// What it comes after.
    pub after: Sublayer,
}

/// Half of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sublayer {
    /// Attention and its output matrix.
    Attention,
    /// The feed-forward.
    FeedForward,
}

/// What joins the parts of a model.
pub trait Join {
    /// Replaces this part of a sum, `[rows, n_embd]`, by the sum over all parts.
    ///
    /// # Errors
    /// [`Apart`] if another part's did not come.
    fn sum(&mut self, joint: Joint, part: &mut [f32]) -> Result<(), Apart>;
}

/// The only part.
struct Whole;

impl Join for Whole {
    fn sum(&mut self, _: Joint, _: &mut [f32]) -> Result<(), Apart> {
        Ok(())
    }
}

/// Which rows of a chunk are to have logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the chunk is not the prompt's last.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Tokens; they take the positions from `cache.len()` on.
    pub tokens: &'a [u32],
    /// The sequence's keys and values so far.
    pub cache: &'a mut KvCache,
    /// Rows that are to have logits.
    pub logits: LogitRows,
}

/// What passes did: the honest numerator of every rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply–accumulates: Σ m·k·n over the matmuls that ran, and two per element of each visible (query, key) pair.
    pub macs: u64,
    /// Bytes of weights and of keys and values read, each counted once a pass; of experts, only those that were hit.
    pub bytes: u64,
    /// Tokens sent to each expert, `[layer][expert]`; empty for a dense model.
    pub experts: Vec<u64>,
}

/// A model ready to run: its sizes, its weights, and what is derived from them.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    weights: ModelWeights,
    rope: Rope,
    /// All heads in one run, or those of a part.
    runs: Vec<HeadRun>,
    /// `None` for a dense model.
    moe: Option<MoeSpec>,
    /// All experts, or those of a part.
    experts: Range<usize>,
}

/// Why sizes and weights do not make a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// The rotary embedding's parameters make no sense.
    #[error(transparent)]
    Rope(#[from] RopeError),
    /// The router's parameters make no sense.
    #[error(transparent)]
    Moe(#[from] MoeError),
}

impl Model {
    /// Joins sizes and weights, which were checked against each other when they were loaded.
    ///
    /// # Errors
    /// [`BuildError`] if the parameters of the rotary embedding or of the router make no sense.
    pub fn new(config: ModelConfig, weights: ModelWeights) -> Result<Self, BuildError> {
        let whole = Part::whole(&config);
        Self::build(&config, &whole, weights)
    }

    /// A part of the model that has these sizes and weights.
    ///
    /// # Errors
    /// See [`Model::new`].
    ///
    /// # Panics
    /// If the part is not one of this model's, or cuts blocks of Q8_0.
    pub fn part(
        config: &ModelConfig,
        weights: &ModelWeights,
        part: &Part,
    ) -> Result<Self, BuildError> {
        Self::build(config, part, weights.part(config, part))
    }

    /// `config` has the whole model's sizes, `weights` are the part's.
    fn build(config: &ModelConfig, part: &Part, weights: ModelWeights) -> Result<Self, BuildError> {
        let rope = Rope::new(&config.rope_spec(weights.rope_freqs.as_deref()))?;
        let attention = AttentionSpec {
            n_head: config.n_head,
            n_kv_head: config.n_kv_head,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: config.sliding_window.and_then(NonZero::new),
        };
        let (n_expert, used) = (config.n_expert, config.n_expert_used);
        let moe = config
            .is_moe()
            .then(|| MoeSpec::new(n_expert, used, config.norm_topk_prob));
        Ok(Self {
            rope,
            runs: part.runs(config, attention),
            moe: moe.transpose()?,
            experts: part.experts.clone(),
            config: part.config(config),
            weights,
        })
    }

    /// Sizes and parameters.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Weights.
    pub fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    /// Runs all chunks through the model.
    ///
    /// `logits` becomes `[rows, n_vocab]`, the rows in the chunks' order; `work` is added to.
    ///
    /// # Errors
    /// [`ForwardError`] if a token or the room in a cache is off; then nothing ran.
    pub fn forward(
        &self,
        rt: &Runtime,
        chunks: &mut [Chunk<'_>],
        logits: &mut Vec<f32>,
        work: &mut Work,
    ) -> Result<(), ForwardError> {
        self.forward_part(rt, chunks, logits, work, &mut Whole)
    }

    /// [`Model::forward`] of a part: `join` adds up the parts' sums, and `logits` are those of the part's tokens.
    ///
    /// # Errors
    /// [`ForwardError`]; no cache is longer for it.
    pub fn forward_part(
        &self,
        rt: &Runtime,
        chunks: &mut [Chunk<'_>],
        logits: &mut Vec<f32>,
        work: &mut Work,
        join: &mut dyn Join,
    ) -> Result<(), ForwardError> {
        self.check(chunks)?;
        logits.clear();
        Pass::new(self, rt, chunks, work).run(chunks, logits, join)?;
        for chunk in chunks {
            chunk.cache.advance(chunk.tokens.len());
        }
        Ok(())
    }

    fn check(&self, chunks: &[Chunk<'_>]) -> Result<(), ForwardError> {
        let vocab = self.config.n_vocab;
        for chunk in chunks {
            let (len, capacity) = (chunk.cache.len(), chunk.cache.capacity());
            if chunk.tokens.len() > capacity - len {
                return Err(ForwardError::Context {
                    tokens: chunk.tokens.len(),
                    len,
                    capacity,
                });
            }
            if let Some(&token) = chunk.tokens.iter().find(|token| **token as usize >= vocab) {
                return Err(ForwardError::Token { token, vocab });
            }
        }
        Ok(())
    }
}
