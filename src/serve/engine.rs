//! The thread that computes: sequences in slots, all in the same passes.
//!
//! A slot keeps keys and values of what it computed last, so that a prompt which begins in the same way finds them.
//! Memory is claimed once, before the first request: `slots × context` positions.
//!
//! BITS. A pass that checks guesses is [batch-invariant](Runtime::batch_invariant): a text that runs alone is the same,
//! token for token, with guesses and without. What other texts and prompts there are in a pass may change last bits
//! still, and with them a token that was as likely as another, unless [`Layout::batch_invariant`] is asked for. Then
//! texts go through passes of their own, prompts one by one and always cut at the same places, and what is computed of
//! an earlier prompt serves up to such a place.

use std::time::Instant;

use tokgate_kernels::{DType, Runtime};

use super::place::{Outcome, Place};
use super::queue::{Job, Queue, TOO_LONG};
use super::scheduler::{self, Want};
use super::stats::{Stats, add};
use crate::engine::draft::{Costs, Drafter, Pace};
use crate::engine::forward::{Chunk, ForwardError, LogitRows, Model, Work};
use crate::engine::kv_cache::{KvCache, KvCacheError};
use crate::engine::tokenizer::Tokenizer;
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
    /// Whether answers must not depend, to the bit, on what else is computed.
    pub batch_invariant: bool,
}

/// The engine.
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    /// As `rt`, with the same bits for a text whatever else there is.
    invariant: Runtime,
    tokenizer: &'a Tokenizer,
    layout: Layout,
    drafter: Option<Drafter<'a>>,
    places: Vec<Place<'a>>,
    costs: Costs,
    logits: Vec<f32>,
    arrivals: u64,
}

impl<'a> Engine<'a> {
    /// Claims the memory. The `drafter` guesses what the text itself does not tell.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn new(
        model: &'a Model,
        rt: &'a Runtime,
        tokenizer: &'a Tokenizer,
        layout: Layout,
        drafter: Option<Drafter<'a>>,
    ) -> Result<Self, KvCacheError> {
        let drafted = drafter.as_ref().map_or(0, |drafter| drafter.options().most);
        let place = |_| {
            let read = drafter
                .as_ref()
                .map(|drafter| drafter.cache(layout.context));
            Ok(Place {
                cache: KvCache::new(model.config(), layout.kv, layout.context)?,
                read: read.transpose()?,
                tokens: Vec::new(),
                whole: 0,
                used: 0,
                pace: Pace::new(drafted.max(layout.look_up)),
                outcome: Outcome::default(),
                running: None,
            })
        };
        let places = (0..layout.slots.max(1)).map(place);
        Ok(Self {
            model,
            rt,
            invariant: rt.batch_invariant(),
            tokenizer,
            places: places.collect::<Result<_, _>>()?,
            layout,
            drafter,
            costs: Costs::default(),
            logits: Vec::new(),
            arrivals: 0,
        })
    }

    /// Bytes of keys and values of all slots when they are full.
    pub fn kv_bytes(&self) -> usize {
        let caches = self.places.iter().flat_map(|place| {
            let read = place.read.iter();
            std::iter::once(&place.cache).chain(read)
        });
        caches
            .map(|cache| cache.bytes_per_position() * cache.capacity())
            .sum()
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
                cached: match self.layout.batch_invariant {
                    true => &place.tokens[..place.whole.min(place.tokens.len())],
                    false => &place.tokens,
                },
                used: place.used,
            })
            .collect();
        let Some((at, cached)) = scheduler::choose(&slots, &job.prompt) else {
            unreachable!("the caller saw a free slot");
        };
        let rows = self.layout.rows;
        let cached = match self.layout.batch_invariant {
            true => cached / rows * rows,
            false => cached,
        };
        self.arrivals += 1;
        let place = &mut self.places[at];
        place.begin(job, cached, self.arrivals, self.tokenizer, stats);
        place.whole = place.tokens.len() / rows * rows;
    }

    fn pass(&mut self, stats: &Stats) -> Result<(), GenerationError> {
        let started = Instant::now();
        let running = self.places.iter().filter(|place| place.running.is_some());
        let (texts, prompts): (Vec<_>, Vec<_>) = running.partition(|place| place.generates());
        // Beside a prompt, what guessing costs could not be told.
        let (texts, is_decode) = (texts.len(), prompts.is_empty());
        if is_decode && self.costs.is_known(texts) {
            self.guess()?;
        }
        self.compute(stats)?;
        if is_decode {
            self.settle(texts, started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Guesses how the texts go on.
    fn guess(&mut self) -> Result<(), ForwardError> {
        let mut slots = Vec::new();
        let mut guesses = Vec::new();
        for (slot, place) in self.places.iter_mut().enumerate() {
            if let Some(guess) = place.guess(self.layout.look_up) {
                slots.push(slot);
                guesses.push(guess);
            }
        }
        let Some(drafter) = &mut self.drafter else {
            return Ok(());
        };
        drafter.guess(&mut guesses)?;
        let made: Vec<_> = guesses
            .into_iter()
            .map(|guess| (guess.tokens, guess.rows))
            .collect();
        for (slot, (tokens, rows)) in slots.into_iter().zip(made) {
            self.places[slot].draft(tokens, rows);
        }
        Ok(())
    }

    /// Learns from a pass over `texts` texts and no prompt, which took so long.
    fn settle(&mut self, texts: usize, seconds: f64) {
        let rows: usize = self.places.iter().map(|place| place.outcome.rows).sum();
        let stood = self.places.iter().map(|place| place.outcome.accepted);
        let stood: usize = stood.sum();
        if rows == 0 {
            self.costs.plain(texts, seconds);
        }
        let extra = match rows {
            0 => 0.0,
            _ => self.costs.extra(texts, stood, seconds) / rows as f64,
        };
        let caught_up = self.places.iter().any(|place| place.outcome.caught_up);
        for place in &mut self.places {
            let outcome = std::mem::take(&mut place.outcome);
            place.pace.earn(outcome.tokens);
            if outcome.rows > 0 {
                let cost = (extra * outcome.rows as f64) as f32;
                let (drafted, accepted) = (outcome.drafted, outcome.accepted);
                place.pace.learn(drafted, accepted, cost, caught_up);
            }
        }
    }

    fn compute(&mut self, stats: &Stats) -> Result<(), ForwardError> {
        let wants: Vec<Want> = self.places.iter().map(Place::want).collect();
        let slots = 0..wants.len();
        if !self.layout.batch_invariant {
            let guessed = |want: &Want| matches!(want, Want::Decode(rows) if *rows > 1);
            let invariant = wants.iter().any(guessed);
            let planned = scheduler::plan(&wants, self.layout.rows);
            return self.feed(slots, &planned, invariant, stats);
        }
        let planned = scheduler::plan_apart(&wants, self.layout.rows);
        let (texts, prompts): (Vec<_>, Vec<_>) = slots
            .filter(|slot| planned[*slot] > 0)
            .partition(|slot| matches!(wants[*slot], Want::Decode(_)));
        for slot in prompts {
            self.feed([slot], &planned, false, stats)?;
        }
        self.feed(texts, &planned, true, stats)
    }

    /// Computes the planned rows of some slots in one pass, and draws from what has logits.
    fn feed(
        &mut self,
        slots: impl IntoIterator<Item = usize>,
        planned: &[usize],
        invariant: bool,
        stats: &Stats,
    ) -> Result<(), ForwardError> {
        let mut feeds = vec![(Vec::new(), LogitRows::None); self.places.len()];
        for slot in slots {
            feeds[slot] = self.places[slot].feed(planned[slot]);
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
        if chunks.is_empty() {
            return Ok(());
        }
        let rt = match invariant {
            true => &self.invariant,
            false => self.rt,
        };
        self.model
            .forward(rt, &mut chunks, &mut self.logits, &mut Work::default())?;
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
