//! A slot: what is computed in it, and the sequence that runs there.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::piece::{DraftTally, End, Finish, Piece, score};
use super::queue::Job;
use super::scheduler::Want;
use super::stats::{Stats, add};
use super::stop::StopFinder;
use crate::engine::draft::{Guess, Pace, check, look_up};
use crate::engine::forward::LogitRows;
use crate::engine::kv_cache::KvCache;
use crate::engine::sampler::SamplerError;
use crate::engine::tokenizer::{Decoder, Tokenizer};

/// A slot.
#[derive(Debug)]
pub struct Place<'a> {
    pub cache: KvCache,
    /// What a draft model read of the text, a beginning of it.
    pub read: Option<KvCache>,
    /// The text: those that are computed, as many as the cache has, and then those that are not.
    pub tokens: Vec<u32>,
    /// Of these, those that whole passes of a prompt computed, or will.
    pub whole: usize,
    /// When it was last given to a sequence; larger is later.
    pub used: u64,
    /// How much is guessed.
    pub pace: Pace,
    /// What became of the last guess.
    pub outcome: Outcome,
    pub running: Option<Running<'a>>,
}

/// What became of a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tokens that were guessed.
    pub drafted: usize,
    /// Of these, those that stood.
    pub accepted: usize,
    /// Rows that were computed for it, by the draft model and by the model.
    pub rows: usize,
    /// Whether the draft model had to catch up with the text first, as it has to after a prompt.
    pub caught_up: bool,
    /// Tokens that the pass brought.
    pub tokens: usize,
}

/// A sequence.
#[derive(Debug)]
pub struct Running<'a> {
    pub job: Job,
    decoder: Decoder<'a>,
    stop: StopFinder,
    arrival: u64,
    cached: usize,
    generated: usize,
    draft: Vec<u32>,
    draft_rows: usize,
    started: Instant,
    first: Instant,
    drafts: DraftTally,
}

impl<'a> Place<'a> {
    /// Begins a sequence, of whose prompt the first `cached` tokens are computed here.
    pub fn begin(
        &mut self,
        mut job: Job,
        cached: usize,
        arrival: u64,
        tokenizer: &'a Tokenizer,
        stats: &Stats,
    ) {
        self.cache.truncate(cached);
        if let Some(read) = &mut self.read {
            read.truncate(cached);
        }
        self.tokens.clone_from(&job.prompt);
        self.used = arrival;
        self.outcome = Outcome::default();
        add(&stats.running, 1);
        add(&stats.prompt_tokens, job.prompt.len());
        add(&stats.cached_tokens, cached);
        for &token in &job.prompt {
            job.sampler.accept(token);
        }
        let now = Instant::now();
        self.running = Some(Running {
            decoder: tokenizer.decoder(false).continuing(),
            stop: StopFinder::new(job.stops.clone()),
            arrival,
            cached,
            generated: 0,
            draft: Vec::new(),
            draft_rows: 0,
            started: now,
            first: now,
            drafts: DraftTally::default(),
            job,
        });
    }

    /// Whether the sequence is behind its prompt.
    pub fn generates(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.generated > 0)
    }

    /// Tokens that are worth guessing. One beyond the last token would be computed for nothing, and beyond the cache not
    /// at all.
    fn worth(&self) -> usize {
        let Some(running) = self.running.as_ref().filter(|_| self.generates()) else {
            return 0;
        };
        let room = self.cache.capacity() - self.cache.len() - 1;
        let left = running.job.max_tokens - running.generated - 1;
        self.pace.next().min(room).min(left)
    }

    /// Looks up to `most` tokens up in the text; what a draft model may guess for want of that.
    pub fn guess(&mut self, most: usize) -> Option<Guess<'_>> {
        let worth = self.worth();
        let running = self.running.as_mut().filter(|_| worth > 0)?;
        running.draft = look_up(&self.tokens, worth.min(most)).to_vec();
        let cache = self.read.as_mut().filter(|_| running.draft.is_empty())?;
        Some(Guess {
            text: &self.tokens,
            cache,
            most: worth,
            tokens: Vec::new(),
            rows: 0,
        })
    }

    /// Takes a draft model's guess, for which it computed so many rows.
    pub fn draft(&mut self, tokens: Vec<u32>, rows: usize) {
        if let Some(running) = &mut self.running {
            running.draft = tokens;
            running.draft_rows = rows;
        }
    }

    /// What the sequence wants of the next pass.
    pub fn want(&self) -> Want {
        match &self.running {
            None => Want::Nothing,
            Some(running) if running.generated > 0 => Want::Decode(1 + running.draft.len()),
            Some(running) => Want::Prefill {
                left: self.tokens.len() - self.cache.len(),
                arrival: running.arrival,
            },
        }
    }

    /// The next `rows` tokens to compute, and which of them are to have logits.
    pub fn feed(&self, rows: usize) -> (Vec<u32>, LogitRows) {
        let Some(running) = self.running.as_ref().filter(|_| rows > 0) else {
            return (Vec::new(), LogitRows::None);
        };
        let pending = &self.tokens[self.cache.len()..];
        if running.generated > 0 {
            return ([pending, &running.draft].concat(), LogitRows::All);
        }
        let logits = match rows == pending.len() {
            true => LogitRows::Last,
            false => LogitRows::None,
        };
        (pending[..rows].to_vec(), logits)
    }

    /// Draws tokens from `rows`, as long as they are what was guessed, and sends them.
    pub fn take(&mut self, rows: &[&[f32]], tokenizer: &'a Tokenizer, stats: &Stats) {
        let Some(running) = &mut self.running else {
            return;
        };
        let draft = std::mem::take(&mut running.draft);
        let mut piece = Piece::default();
        let (mut drawn, mut end) = (0, None);
        let checked = check(&draft, rows.iter().copied(), |logits| {
            let token;
            (token, end) = running.draw(logits, tokenizer, &mut self.tokens, &mut piece, stats)?;
            drawn += 1;
            Ok::<_, SamplerError>((token, end.is_some()))
        });
        let accepted = *checked.as_ref().unwrap_or(&0);
        let draft_rows = std::mem::take(&mut running.draft_rows);
        self.outcome = Outcome {
            drafted: draft.len(),
            accepted,
            rows: draft.len() + draft_rows,
            // Before it guesses it reads what was drawn last, and the last guess if that stood.
            caught_up: draft_rows > draft.len() + 2,
            tokens: drawn,
        };
        if !draft.is_empty() {
            running.drafts.add(draft.len(), accepted);
            stats.draft(draft.len(), accepted);
        }
        // Of the guesses that were computed, those stay that stood; the last that was drawn is not computed.
        let stale = rows.len() - drawn;
        self.cache.truncate(self.cache.len() - stale);
        if let Some(read) = &mut self.read {
            read.truncate(self.cache.len());
        }
        let heard = match (checked, end) {
            (Ok(_), None) => running.job.events.send(piece),
            (Ok(_), Some(end)) => {
                piece.text += &running.rest(end, tokenizer);
                piece.finish = Some(Box::new(running.finish(end)));
                add(&stats.finished, 1);
                running.job.events.send(piece);
                return self.release(stats);
            }
            (Err(error), _) => {
                running.job.events.fail(error.to_string());
                return self.release(stats);
            }
        };
        if !heard {
            add(&stats.cancelled, 1);
            self.release(stats);
        }
    }

    /// Frees the slot; what is computed stays for whom it may serve.
    pub fn release(&mut self, stats: &Stats) {
        self.running = None;
        self.cache.truncate(self.tokens.len());
        self.tokens.truncate(self.cache.len());
        stats.running.fetch_sub(1, Relaxed);
    }
}

impl<'a> Running<'a> {
    /// Text that was held back, where it is part of an answer that ends so.
    fn rest(&mut self, end: End, tokenizer: &'a Tokenizer) -> String {
        if end == End::StopString {
            return String::new();
        }
        let decoder = std::mem::replace(&mut self.decoder, tokenizer.decoder(false));
        let (text, is_stop) = self.stop.push(&decoder.finish());
        match is_stop {
            true => text,
            false => text + &self.stop.finish(),
        }
    }

    /// Draws one token; tells it, and how the answer ends if it ends with it.
    fn draw(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        tokens: &mut Vec<u32>,
        piece: &mut Piece,
        stats: &Stats,
    ) -> Result<(u32, Option<End>), SamplerError> {
        let token = self.job.sampler.sample(logits)?;
        self.job.sampler.accept(token);
        if self.generated == 0 {
            self.first = Instant::now();
            stats.first_token(self.job.submitted.elapsed());
        }
        if tokenizer.ends_generation(token) && !self.job.ignore_eos {
            return Ok((token, Some(End::Token)));
        }
        self.generated += 1;
        tokens.push(token);
        add(&stats.generated_tokens, 1);
        if let Some(top) = self.job.logprobs {
            piece.scored.push(score(logits, token, top));
        }
        // A model may have rows for more tokens than the vocabulary; they say nothing.
        let text = self.decoder.push(token).unwrap_or_default();
        let (text, stopped) = self.stop.push(&text);
        piece.text += &text;
        let end = if stopped {
            Some(End::StopString)
        } else {
            (self.generated == self.job.max_tokens).then_some(End::Length)
        };
        Ok((token, end))
    }

    fn finish(&self, end: End) -> Finish {
        Finish {
            end,
            prompt_tokens: self.job.prompt.len(),
            cached_tokens: self.cached,
            completion_tokens: self.generated,
            prefill: self.first - self.started,
            decode: self.first.elapsed(),
            drafts: self.drafts.clone(),
        }
    }
}
