//! The thread that computes: sequences in slots, all in the same passes.
//!
//! A slot keeps keys and values of what it computed last, so that a prompt which begins in the same way finds them.
//! Memory is claimed once, before the first request: `slots × context` positions.

use std::time::{Duration, Instant};

use tokgate_kernels::{DType, Runtime};

use super::draft::{Pace, look_up};
use super::queue::{Job, Queue, TOO_LONG};
use super::scheduler::{self, Want};
use super::stats::{Stats, add};
use super::stop::StopFinder;
use crate::engine::forward::{Chunk, LogitRows, Model, Work};
use crate::engine::kv_cache::{KvCache, KvCacheError};
use crate::engine::sampler::SamplerError;
use crate::engine::tokenizer::{Decoder, Tokenizer};
use crate::generation::GenerationError;

/// How the engine is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Sequences at a time, at least 1.
    pub slots: usize,
    /// Positions of a slot.
    pub context: usize,
    /// Rows of a pass, unless more sequences generate.
    pub rows: usize,
    /// Element type of keys and values.
    pub kv: DType,
    /// Tokens that are guessed from the text at most; 0 for none.
    pub look_up: usize,
}

/// What an answer is made of.
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
    pub finish: Option<Finish>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// Tokens that were guessed.
    pub drafted: usize,
    /// Of these, those that stood.
    pub accepted: usize,
}

/// The engine.
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    tokenizer: &'a Tokenizer,
    layout: Layout,
    places: Vec<Place<'a>>,
    logits: Vec<f32>,
    arrivals: u64,
}

#[derive(Debug)]
struct Place<'a> {
    cache: KvCache,
    /// The text: those that are computed, as many as the cache has, and then those that are not.
    tokens: Vec<u32>,
    used: u64,
    running: Option<Running<'a>>,
}

#[derive(Debug)]
struct Running<'a> {
    job: Job,
    decoder: Decoder<'a>,
    stop: StopFinder,
    arrival: u64,
    cached: usize,
    generated: usize,
    pace: Pace,
    draft: Vec<u32>,
    started: Instant,
    first: Instant,
    drafted: usize,
    accepted: usize,
}

impl<'a> Engine<'a> {
    /// Claims the memory.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn new(
        model: &'a Model,
        rt: &'a Runtime,
        tokenizer: &'a Tokenizer,
        layout: Layout,
    ) -> Result<Self, KvCacheError> {
        let place = || {
            Ok(Place {
                cache: KvCache::new(model.config(), layout.kv, layout.context)?,
                tokens: Vec::new(),
                used: 0,
                running: None,
            })
        };
        Ok(Self {
            model,
            rt,
            tokenizer,
            places: (0..layout.slots.max(1))
                .map(|_| place())
                .collect::<Result<_, _>>()?,
            layout,
            logits: Vec::new(),
            arrivals: 0,
        })
    }

    /// Computes what comes through `queue` until that is closed and empty.
    ///
    /// # Errors
    /// If a pass fails, which checked jobs cannot make happen.
    pub fn run(mut self, queue: &Queue, stats: &Stats) -> Result<(), GenerationError> {
        loop {
            self.give_up(queue, stats);
            while self.places.iter().any(|place| place.running.is_none()) {
                let idle = self.places.iter().all(|place| place.running.is_none());
                match queue.next(idle) {
                    Some(job) => self.admit(job, stats),
                    None if idle => return Ok(()),
                    None => break,
                }
            }
            self.pass(stats)?;
        }
    }

    /// Ends what nobody waits for any more, and what has taken too long.
    fn give_up(&mut self, queue: &Queue, stats: &Stats) {
        let now = Instant::now();
        queue.sweep(now);
        for place in &mut self.places {
            let Some(running) = &mut place.running else {
                continue;
            };
            if running.job.events.is_closed() {
                add(&stats.cancelled, 1);
            } else if now >= running.job.deadline {
                running.job.events.fail(TOO_LONG.to_owned());
            } else {
                continue;
            }
            place.release(stats);
        }
    }

    fn admit(&mut self, job: Job, stats: &Stats) {
        let slots: Vec<_> = self
            .places
            .iter()
            .map(|place| scheduler::Slot {
                busy: place.running.is_some(),
                cached: &place.tokens,
                used: place.used,
            })
            .collect();
        let Some((at, cached)) = scheduler::choose(&slots, &job.prompt) else {
            unreachable!("the caller saw a free slot");
        };
        self.arrivals += 1;
        let place = &mut self.places[at];
        place.cache.truncate(cached);
        place.tokens.clone_from(&job.prompt);
        place.used = self.arrivals;
        add(&stats.running, 1);
        add(&stats.prompt_tokens, job.prompt.len());
        add(&stats.cached_tokens, cached);
        let now = Instant::now();
        let mut job = job;
        for &token in &job.prompt {
            job.sampler.accept(token);
        }
        place.running = Some(Running {
            decoder: self.tokenizer.decoder(false).continuing(),
            stop: StopFinder::new(job.stops.clone()),
            arrival: self.arrivals,
            cached,
            generated: 0,
            pace: Pace::new(self.layout.look_up),
            draft: Vec::new(),
            started: now,
            first: now,
            drafted: 0,
            accepted: 0,
            job,
        });
    }

    fn pass(&mut self, stats: &Stats) -> Result<(), GenerationError> {
        let wants: Vec<Want> = self.places.iter_mut().map(Place::want).collect();
        let planned = scheduler::plan(&wants, self.layout.rows);
        let mut feeds = Vec::with_capacity(planned.len());
        for (place, &rows) in self.places.iter().zip(&planned) {
            feeds.push(place.feed(rows));
        }
        let mut chunks = Vec::new();
        let fed = self.places.iter_mut().zip(&feeds);
        for (place, (tokens, logits)) in fed.filter(|(_, (tokens, _))| !tokens.is_empty()) {
            chunks.push(Chunk {
                tokens,
                cache: &mut place.cache,
                logits: *logits,
            });
        }
        self.model
            .forward(self.rt, &mut chunks, &mut self.logits, &mut Work::default())?;
        drop(chunks);
        add(&stats.passes, 1);
        let mut rows = self.logits.chunks_exact(self.model.config().n_vocab);
        for (place, (tokens, logits)) in self.places.iter_mut().zip(&feeds) {
            let count = match logits {
                LogitRows::None => continue,
                LogitRows::Last => 1,
                LogitRows::All => tokens.len(),
            };
            let rows: Vec<&[f32]> = rows.by_ref().take(count).collect();
            place.take(&rows, self.tokenizer, stats);
        }
        Ok(())
    }
}

impl<'a> Place<'a> {
    /// What the sequence wants of the next pass; guesses what comes if it generates.
    fn want(&mut self) -> Want {
        let Some(running) = &mut self.running else {
            return Want::Nothing;
        };
        if running.generated == 0 {
            return Want::Prefill {
                left: self.tokens.len() - self.cache.len(),
                arrival: running.arrival,
            };
        }
        // A guess beyond the last token would be computed for nothing, and beyond the cache not at all.
        let room = self.cache.capacity() - self.cache.len() - 1;
        let left = running.job.max_tokens - running.generated - 1;
        let most = running.pace.next().min(room).min(left);
        running.draft = look_up(&self.tokens, most).to_vec();
        Want::Decode(1 + running.draft.len())
    }

    /// The next `rows` tokens to compute, and which of them are to have logits.
    fn feed(&self, rows: usize) -> (Vec<u32>, LogitRows) {
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
    fn take(&mut self, rows: &[&[f32]], tokenizer: &'a Tokenizer, stats: &Stats) {
        let Some(running) = &mut self.running else {
            return;
        };
        let draft = std::mem::take(&mut running.draft);
        let mut piece = Piece::default();
        let mut drawn = 0;
        let mut outcome = Ok(None);
        for (at, logits) in rows.iter().enumerate() {
            outcome = running.draw(logits, tokenizer, &mut self.tokens, &mut piece, stats);
            drawn += 1;
            let guessed = draft
                .get(at)
                .is_some_and(|guess| self.tokens.last() == Some(guess));
            if !matches!(outcome, Ok(None)) || !guessed {
                break;
            }
        }
        if !draft.is_empty() {
            let accepted = drawn - 1;
            running.pace.learn(draft.len(), accepted);
            running.drafted += draft.len();
            running.accepted += accepted;
            stats.draft(draft.len(), accepted);
        }
        // Of the guesses that were computed, those stay that stood; the last that was drawn is not computed.
        let stale = rows.len() - drawn;
        self.cache.truncate(self.cache.len() - stale);
        let heard = match outcome {
            Ok(None) => running.job.events.send(piece),
            Ok(Some(end)) => {
                piece.text += &running.rest(end, tokenizer);
                piece.finish = Some(running.finish(end));
                add(&stats.finished, 1);
                running.job.events.send(piece);
                return self.release(stats);
            }
            Err(error) => {
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
    fn release(&mut self, stats: &Stats) {
        self.running = None;
        self.cache.truncate(self.tokens.len());
        self.tokens.truncate(self.cache.len());
        stats
            .running
            .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
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

    /// Draws one token; how the answer ends if it ends with it.
    fn draw(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        tokens: &mut Vec<u32>,
        piece: &mut Piece,
        stats: &Stats,
    ) -> Result<Option<End>, SamplerError> {
        let token = self.job.sampler.sample(logits)?;
        self.job.sampler.accept(token);
        if self.generated == 0 {
            self.first = Instant::now();
            stats.first_token(self.job.submitted.elapsed());
        }
        if tokenizer.ends_generation(token) && !self.job.ignore_eos {
            return Ok(Some(End::Token));
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
        Ok(if stopped {
            Some(End::StopString)
        } else if self.generated == self.job.max_tokens {
            Some(End::Length)
        } else {
            None
        })
    }

    fn finish(&self, end: End) -> Finish {
        Finish {
            end,
            prompt_tokens: self.job.prompt.len(),
            cached_tokens: self.cached,
            completion_tokens: self.generated,
            prefill: self.first - self.started,
            decode: self.first.elapsed(),
            drafted: self.drafted,
            accepted: self.accepted,
        }
    }
}

/// The logarithms of the softmax for `token` and the `top` likeliest.
fn score(logits: &[f32], token: u32, top: usize) -> Scored {
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
