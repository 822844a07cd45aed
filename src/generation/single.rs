//! One sequence.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tokgate_kernels::{DType, Runtime};

use super::{GenerationError, rows};
use crate::engine::forward::{Chunk, Model, Work};
use crate::engine::kv_cache::KvCache;
use crate::engine::sampler::Sampler;

/// How to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens to generate at most.
    pub max_new: usize,
    /// Positions of the cache; as many as prompt and generation need if `None`.
    pub context: Option<usize>,
    /// Prompt tokens of one pass.
    pub ubatch: usize,
    /// Element type of the cache.
    pub kv: DType,
}

/// When things happened, from the start of the prompt's first pass, and what was computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// When the prompt's passes were done; the first token's logits are there.
    pub prefill: Duration,
    /// When each token was sampled, the one that ends the text (which is not kept) included.
    pub sampled: Vec<Duration>,
    /// Tokens that were kept.
    pub generated: usize,
    /// When the last pass or sampling was done.
    pub total: Duration,
    /// What the prompt's passes did.
    pub prefill_work: Work,
    /// What the passes of single tokens did.
    pub decode_work: Work,
    /// Bytes of keys and values per position.
    pub kv_bytes_per_position: usize,
    /// Positions that the cache has.
    pub kv_positions: usize,
}

/// Continues `prompt`; `sink` gets each token that is kept and may end it, and `ends` says which tokens end a text.
///
/// # Errors
/// [`GenerationError`]; what `sink` got by then stands.
pub fn generate(
    model: &Model,
    rt: &Runtime,
    prompt: &[u32],
    options: Options,
    sampler: &mut Sampler,
    ends: impl Fn(u32) -> bool,
    mut sink: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Timeline, GenerationError> {
    if prompt.is_empty() {
        return Err(GenerationError::EmptyPrompt);
    }
    let positions = prompt.len().saturating_add(options.max_new);
    let capacity = options.context.unwrap_or(positions);
    let mut cache = KvCache::new(model.config(), options.kv, capacity)?;
    let mut timeline = Timeline {
        prompt_tokens: prompt.len(),
        kv_bytes_per_position: cache.bytes_per_position(),
        kv_positions: capacity,
        ..Timeline::default()
    };
    let mut logits = Vec::new();
    let started = Instant::now();
    let mut pieces = prompt.chunks(options.ubatch.max(1)).peekable();
    while let Some(tokens) = pieces.next() {
        let chunk = Chunk {
            tokens,
            cache: &mut cache,
            logits: rows(pieces.peek().is_none()),
        };
        model.forward(rt, &mut [chunk], &mut logits, &mut timeline.prefill_work)?;
    }
    timeline.prefill = started.elapsed();
    while timeline.generated < options.max_new {
        let token = sampler.sample(&logits)?;
        sampler.accept(token);
        timeline.sampled.push(started.elapsed());
        if ends(token) {
            break;
        }
        timeline.generated += 1;
        let full = cache.len() == cache.capacity();
        if sink(token).is_break() || timeline.generated == options.max_new || full {
            break;
        }
        let chunk = Chunk {
            tokens: &[token],
            cache: &mut cache,
            logits: rows(true),
        };
        model.forward(rt, &mut [chunk], &mut logits, &mut timeline.decode_work)?;
    }
    timeline.total = started.elapsed();
    Ok(timeline)
}

impl Timeline {
    /// From the start to the first sampled token.
    pub fn first_token(&self) -> Option<Duration> {
        self.sampled.first().copied()
    }

    /// Times between neighbouring sampled tokens: one less than there are tokens.
    pub fn gaps(&self) -> Vec<Duration> {
        let pairs = self.sampled.windows(2);
        pairs.map(|pair| pair[1] - pair[0]).collect()
    }

    /// From the first sampled token to the last.
    pub fn decode(&self) -> Duration {
        match self.sampled[..] {
            [first, .., last] => last - first,
            _ => Duration::ZERO,
        }
    }
}
