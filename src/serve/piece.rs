//! What an answer is made of.

use std::time::Duration;

/// What a connection is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// More of it.
    Piece(Piece),
    /// There will be no more, for this reason.
    Failed(String),
}

/// A part of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Text, which may be empty: a character or a stop string may not be complete.
    pub text: String,
    /// The tokens, where probabilities were asked for.
    pub scored: Vec<Scored>,
    /// Set in the last part.
    pub finish: Option<Box<Finish>>,
}

/// A token with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token and the logarithm of its probability.
    pub chosen: (u32, f32),
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// The model ended the text.
    Token,
    /// A stop string came.
    StopString,
    /// It is as long as it may be.
    #[default]
    Length,
}

impl End {
    /// OpenAI's word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Token | Self::StopString => "stop",
            Self::Length => "length",
        }
    }
}

/// How an answer ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub end: End,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, found computed.
    pub cached_tokens: usize,
    /// Tokens of the answer; one that ends a text is not part of it.
    pub completion_tokens: usize,
    /// From the start of the prompt's first pass to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// What was guessed.
    pub drafts: DraftTally,
}

/// What became of guesses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DraftTally {
    /// Guesses.
    pub drafts: usize,
    /// Their tokens.
    pub drafted: usize,
    /// Of these, those that stood.
    pub accepted: usize,
    /// Of these, those at each place of the guess.
    pub accepted_at: Vec<usize>,
}

impl DraftTally {
    /// Counts a guess of `drafted` tokens of which the first `accepted` stood.
    pub fn add(&mut self, drafted: usize, accepted: usize) {
        self.drafts += 1;
        self.drafted += drafted;
        self.accepted += accepted;
        let places = self.accepted_at.len().max(accepted);
        self.accepted_at.resize(places, 0);
        self.accepted_at[..accepted]
            .iter_mut()
            .for_each(|count| *count += 1);
    }
}

/// The logarithms of the softmax for `token` and the `top` likeliest.
pub fn score(logits: &[f32], token: u32, top: usize) -> Scored {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps = logits
        .iter()
        .filter(|logit| !logit.is_nan())
        .map(|logit| f64::from(logit - max).exp());
    let sum = f64::from(max) + exps.sum::<f64>().ln();
    let log = |id: usize| (f64::from(logits[id]) - sum) as f32;
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut ids: Vec<usize> = (0..logits.len())
        .filter(|&id| !logits[id].is_nan())
        .collect();
    let top = top.min(ids.len());
    if top > 0 && top < ids.len() {
        ids.select_nth_unstable_by(top - 1, order);
    }
    ids.truncate(top);
    ids.sort_unstable_by(order);
    Scored {
        chosen: (token, log(token as usize)),
        top: ids.into_iter().map(|id| (id as u32, log(id))).collect(),
    }
}
