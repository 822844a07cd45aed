//! Guesses of a smaller model with the same vocabulary.

use tokgate_kernels::{DType, Runtime};

use crate::engine::forward::{Chunk, ForwardError, LogitRows, Model, Work};
use crate::engine::kv_cache::{KvCache, KvCacheError};
use crate::engine::tokenizer::Tokenizer;

/// How to guess.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DraftOptions {
    /// Tokens of a guess at most.
    pub most: usize,
    /// Shorter guesses are not checked.
    pub least: usize,
    /// A guess ends before a token that the smaller model holds less likely than this.
    pub p_min: f32,
    /// Rows of a pass that reads what was not read yet.
    pub rows: usize,
    /// Element type of its keys and values.
    pub kv: DType,
}

/// A smaller model that guesses.
#[derive(Debug)]
pub struct Drafter<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    options: DraftOptions,
    /// Tokens of the model that checks.
    n_vocab: usize,
    logits: Vec<f32>,
}

/// A text to be continued.
#[derive(Debug)]
pub struct Guess<'a> {
    /// All of it.
    pub text: &'a [u32],
    /// What the drafter read of it, a beginning of `text`. It has room for the text and the guess.
    pub cache: &'a mut KvCache,
    /// Tokens to guess at most.
    pub most: usize,
    /// The guess. It stays empty while there is more to read than a pass takes.
    pub tokens: Vec<u32>,
    /// Rows that were computed for it.
    pub rows: usize,
}

impl<'a> Drafter<'a> {
    /// A drafter for a model of `n_vocab` tokens.
    pub fn new(model: &'a Model, rt: &'a Runtime, n_vocab: usize, options: DraftOptions) -> Self {
        Self {
            model,
            rt,
            options,
            n_vocab,
            logits: Vec::new(),
        }
    }

    /// How it guesses.
    pub fn options(&self) -> DraftOptions {
        self.options
    }

    /// A cache for a text of up to `capacity` tokens.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn cache(&self, capacity: usize) -> Result<KvCache, KvCacheError> {
        KvCache::new(self.model.config(), self.options.kv, capacity)
    }

    /// Reads what is new of all texts and guesses on, all in the same passes.
    ///
    /// # Errors
    /// If a pass fails, which texts that fit their caches cannot make happen.
    pub fn guess(&mut self, guesses: &mut [Guess<'_>]) -> Result<(), ForwardError> {
        let n_vocab = self.model.config().n_vocab;
        let mut room = self.options.rows.max(1);
        // Which of `guesses` go on, and what they feed next.
        let mut active: Vec<(usize, Vec<u32>, bool)> = Vec::new();
        for (at, guess) in guesses.iter().enumerate() {
            let new = &guess.text[guess.cache.len().min(guess.text.len())..];
            let rows = new.len().min(room);
            // A token that only the larger model has cannot be read.
            if guess.most == 0 || rows == 0 || new.iter().any(|token| *token as usize >= n_vocab) {
                continue;
            }
            room -= rows;
            active.push((at, new[..rows].to_vec(), rows == new.len()));
        }
        while !active.is_empty() {
            let mut chunks = Vec::with_capacity(active.len());
            let mut feeds = active.iter().peekable();
            for (at, guess) in guesses.iter_mut().enumerate() {
                let Some((_, tokens, is_last)) = feeds.next_if(|(of, ..)| *of == at) else {
                    continue;
                };
                guess.rows += tokens.len();
                let logits = match is_last {
                    true => LogitRows::Last,
                    false => LogitRows::None,
                };
                chunks.push(Chunk {
                    tokens,
                    cache: guess.cache,
                    logits,
                });
            }
            self.model
                .forward(self.rt, &mut chunks, &mut self.logits, &mut Work::default())?;
            drop(chunks);
            active.retain(|(.., is_last)| *is_last);
            let mut rows = self.logits.chunks_exact(n_vocab);
            active.retain_mut(|(at, tokens, _)| {
                let guess = &mut guesses[*at];
                let likeliest = rows.next().and_then(likeliest).filter(|(token, p)| {
                    *p >= self.options.p_min && (*token as usize) < self.n_vocab
                });
                let Some((token, _)) = likeliest else {
                    return false;
                };
                guess.tokens.push(token);
                *tokens = vec![token];
                guess.tokens.len() < guess.most && guess.cache.len() < guess.cache.capacity()
            });
        }
        for guess in guesses {
            if guess.tokens.len() < self.options.least {
                guess.tokens.clear();
            }
        }
        Ok(())
    }
}

/// The likeliest token and its probability; `None` if no logit is a number.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let token = crate::engine::sampler::greedy(logits).ok()?;
    let max = logits[token as usize];
    // What is e⁻²⁰ times as likely adds nothing that counts, even a hundred thousand times; most of a vocabulary is.
    let near = logits.iter().filter(|logit| **logit > max - 20.0);
    let sum: f32 = near.map(|logit| (logit - max).exp()).sum();
    Some((token, 1.0 / sum))
}

/// Tokens that one of two vocabularies may have more than the other: models of a family fill them up to different sizes.
const MAX_EXTRA: usize = 128;

/// Why a model cannot guess for another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyMismatch {
    /// Too different in size.
    #[error(
        "the draft model has {draft} tokens and the model {target}: take a draft model of the same family"
    )]
    Size {
        /// Tokens of the draft model.
        draft: usize,
        /// Tokens of the model.
        target: usize,
    },
    /// A token differs.
    #[error(
        "token {token} is '{draft}' in the draft model and '{target}' in the model: take a draft model of the same family"
    )]
    Token {
        /// Its number.
        token: u32,
        /// In the draft model.
        draft: String,
        /// In the model.
        target: String,
    },
    /// Texts begin otherwise.
    #[error(
        "the draft model and the model begin texts in different ways: take a draft model of the same family"
    )]
    Beginning,
}

/// Whether a model can guess for another: the same number means the same token.
///
/// # Errors
/// The first difference.
pub fn same_vocabulary(draft: &Tokenizer, target: &Tokenizer) -> Result<(), VocabularyMismatch> {
    let sizes = (draft.vocab_size(), target.vocab_size());
    if sizes.0.abs_diff(sizes.1) > MAX_EXTRA {
        return Err(VocabularyMismatch::Size {
            draft: sizes.0,
            target: sizes.1,
        });
    }
    let common = u32::try_from(sizes.0.min(sizes.1)).unwrap_or(u32::MAX);
    for token in 0..common {
        let pair = (draft.token(token), target.token(token));
        if pair.0 != pair.1 {
            let text = |bytes: Option<&[u8]>| {
                String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
            };
            return Err(VocabularyMismatch::Token {
                token,
                draft: text(pair.0),
                target: text(pair.1),
            });
        }
    }
    let begins = |tokenizer: &Tokenizer| (tokenizer.adds_bos(), tokenizer.bos());
    if begins(draft) != begins(target) {
        return Err(VocabularyMismatch::Beginning);
    }
    Ok(())
}
