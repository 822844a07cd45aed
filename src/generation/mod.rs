//! Generating text with a model, one sequence or many at a time, and when each token came.

pub mod batch;
pub mod chat;
pub mod single;

use crate::engine::forward::{ForwardError, LogitRows, Model, Work};
use crate::engine::kv_cache::KvCacheError;
use crate::engine::sampler::SamplerError;

/// Why generating stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// See [`KvCacheError`].
    #[error(transparent)]
    Cache(#[from] KvCacheError),
    /// See [`ForwardError`].
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// See [`SamplerError`].
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A prompt without a token.
    #[error(
        "the prompt is empty and the model has no token to begin a text with; give it a prompt"
    )]
    EmptyPrompt,
}

/// Selections of experts that passes over `tokens` tokens make, of which `with_logits` had logits wanted:
/// `top_k · ((layers − 1) · tokens + with_logits)`, because the last layer runs only for rows whose output is wanted.
/// In decoding every token's is, and the sum is `layers · tokens · top_k`.
pub fn expert_selections(model: &Model, tokens: u64, with_logits: u64) -> u64 {
    let config = model.config();
    if !config.is_moe() {
        return 0;
    }
    config.n_expert_used as u64 * ((config.n_layer as u64 - 1) * tokens + with_logits)
}

/// The logits that the last piece of a prompt needs, and the pieces before it do not.
fn rows(is_last: bool) -> LogitRows {
    if is_last {
        LogitRows::Last
    } else {
        LogitRows::None
    }
}

/// Adds what passes did.
fn add(to: &mut Work, work: &Work) {
    to.macs += work.macs;
    to.bytes += work.bytes;
    to.experts
        .resize(work.experts.len().max(to.experts.len()), 0);
    for (sum, count) in to.experts.iter_mut().zip(&work.experts) {
        *sum += count;
    }
}
