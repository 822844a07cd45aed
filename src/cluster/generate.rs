//! A text from a cluster: rank 0 chooses tokens, the others follow.

use std::ops::ControlFlow;
use std::time::Instant;

use super::member::{Member, MemberError};
use crate::engine::forward::LogitRows;
use crate::engine::sampler::{Sampler, SamplerError};

/// What rank 0 sends in place of a token where the text ends.
const END: u32 = u32::MAX;

/// How to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens to generate at most.
    pub max_new: usize,
    /// Prompt tokens of one pass.
    pub ubatch: usize,
    /// Candidates for a token from each rank; 0 for the logits of the whole vocabulary.
    pub candidates: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Generated {
    /// Tokens that were kept.
    pub tokens: usize,
    /// Seconds until the first was chosen.
    pub first_s: f64,
    /// Seconds from there to the last.
    pub decode_s: f64,
}

/// Why a text broke off.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// See [`MemberError`].
    #[error(transparent)]
    Member(#[from] MemberError),
    /// See [`SamplerError`].
    #[error(transparent)]
    Sampler(#[from] SamplerError),
}

/// Continues `prompt`, which has the same length on all ranks; `choose` is asked on rank 0 alone.
///
/// # Errors
/// [`GenerateError`].
pub fn generate(
    member: &mut Member<'_, '_>,
    prompt: &[u32],
    options: Options,
    sampler: &mut Sampler,
    ends: impl Fn(u32) -> bool,
    mut sink: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated, GenerateError> {
    let n_vocab = member.model().config().n_vocab;
    let leads = member.exchange().rank() == 0;
    let started = Instant::now();
    let mut prompt = prompt.to_vec();
    let mut pieces = prompt.chunks_mut(options.ubatch.max(1)).peekable();
    while let Some(piece) = pieces.next() {
        let rows = match pieces.peek() {
            None => LogitRows::Last,
            Some(_) => LogitRows::None,
        };
        member.pass(piece, rows)?;
    }
    let mut generated = Generated::default();
    let mut first = None;
    let mut last = started;
    loop {
        let logits = logits(member, options.candidates, n_vocab)?;
        let mut next = END;
        if leads && generated.tokens < options.max_new {
            let token = sampler.sample(&logits)?;
            sampler.accept(token);
            last = Instant::now();
            first.get_or_insert(last);
            if !ends(token) {
                generated.tokens += 1;
                if sink(token).is_continue() && generated.tokens < options.max_new {
                    next = token;
                }
            }
        }
        let mut bytes = next.to_le_bytes();
        member
            .exchange()
            .broadcast(super::exchange::Purpose::Tokens, &mut bytes)
            .map_err(MemberError::from)?;
        next = u32::from_le_bytes(bytes);
        if next == END {
            break;
        }
        member.local_pass(&[next], LogitRows::Last)?;
    }
    let first = first.unwrap_or(last);
    generated.first_s = (first - started).as_secs_f64();
    generated.decode_s = (last - first).as_secs_f64();
    Ok(generated)
}

/// The logits of the next token, on rank 0: of all tokens, or of the candidates, with −∞ for all others, which no
/// sampler with as many candidates or fewer would have looked at.
fn logits(
    member: &mut Member<'_, '_>,
    candidates: usize,
    n_vocab: usize,
) -> Result<Vec<f32>, MemberError> {
    if candidates == 0 {
        return Ok(member.all_logits()?);
    }
    let best = member.candidates(candidates)?;
    let mut logits = vec![f32::NEG_INFINITY; n_vocab];
    for (token, logit) in best {
        if let Some(place) = logits.get_mut(token as usize) {
            *place = logit;
        }
    }
    Ok(logits)
}
