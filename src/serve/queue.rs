//! What waits for a slot: a bounded queue between the connections and the engine.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::outbox::Outbox;
use super::stats::{Stats, add};
use crate::engine::sampler::Sampler;

/// One request, ready to be computed.
#[derive(Debug)]
pub struct Job {
    /// Tokens of the prompt, at least one and fewer than a slot has positions.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most, at least 1; prompt and they fit a slot.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: Sampler,
    /// Texts that end the answer.
    pub stops: Vec<String>,
    /// Tell each token's probability, and those of so many alternatives.
    pub logprobs: Option<usize>,
    /// Go on after the model's end of text.
    pub ignore_eos: bool,
    /// When the request came.
    pub submitted: Instant,
    /// When it is given up.
    pub deadline: Instant,
    /// Where the answer goes; that nobody listens any more cancels the job.
    pub events: Outbox,
}

/// What a request is told that was not answered in time.
pub(super) const TOO_LONG: &str = "the request took longer than the server's time limit";

/// Why a job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many wait.
    #[error("the queue is full: {0} requests wait already; try again later")]
    Full(usize),
    /// The server ends.
    #[error("the server is stopping")]
    Closed,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// For at most `limit` jobs; `stats` counts those that are refused, and those whose clients left while they waited.
    pub fn new(limit: usize, stats: Arc<Stats>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            limit,
            stats,
        }
    }

    /// Takes a job, which the engine will compute as soon as a slot is free.
    ///
    /// # Errors
    /// If too many wait already, or the server ends.
    pub fn push(&self, job: Job) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        // Whoever went away while waiting keeps nobody out.
        state.jobs.retain(|job| self.is_wanted(job));
        if state.jobs.len() >= self.limit {
            add(&self.stats.refused, 1);
            return Err(Refused::Full(self.limit));
        }
        state.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes no more jobs; those that wait are still computed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Ends what waited in vain until `now`.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().jobs.retain_mut(|job| {
            let is_late = now >= job.deadline;
            if is_late {
                job.events.fail(TOO_LONG.to_owned());
            }
            !is_late && self.is_wanted(job)
        });
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.lock().jobs.len()
    }

    /// The next job that somebody still wants; `None` if there is none. If the engine is `idle` this waits for one,
    /// and `None` is the end of the server.
    pub(super) fn next(&self, idle: bool) -> Option<Job> {
        let mut state = self.lock();
        loop {
            while let Some(job) = state.jobs.pop_front() {
                if self.is_wanted(&job) {
                    return Some(job);
                }
            }
            if !idle || state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_wanted(&self, job: &Job) -> bool {
        let is_closed = job.events.is_closed();
        add(&self.stats.cancelled, usize::from(is_closed));
        !is_closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
