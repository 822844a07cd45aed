//! The load generator: many requests at their times, each on a thread of its own that blocks.
//!
//! WHY threads: what is measured is when pieces come, and a thread that sleeps in `read` is woken by the kernel for its
//! own socket alone; nothing else runs before the time is taken. A few hundred of them cost some stack each.
//!
//! A worker takes the next request, sleeps until its time, sends it and reads the answer. With a limit of concurrency
//! there are as many workers; without one, there are always some that wait for the next arrivals, so that a slow server
//! does not delay what comes after (an open loop). What a request waited on this side, and how late it was sent by a
//! worker that was free, is kept apart from the server's times.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{Api, Client, Failure};
use crate::workload::requests::Request;

/// The most streams at once; more requests than that wait on this side, and it is told.
pub const MAX_STREAMS: usize = 4096;

/// Workers that wait for the next arrivals of an open loop.
const AHEAD: usize = 8;

/// The stack of a worker, most of which is never touched.
const STACK: usize = 512 << 10;

/// How often a wait looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// How long before a request is due its connection is looked after: a server may end one that waits for seconds.
const CONNECT_AHEAD: Duration = Duration::from_millis(200);

/// Connections in a row, for each stream, that may find nobody before the server is taken for dead.
const PATIENCE: usize = 3;

/// Bytes of an answer's stream for each token that was asked for, at most; and bytes beside them.
const BYTES_A_TOKEN: u64 = 8 << 10;
const BYTES_BESIDE: u64 = 256 << 10;

/// Pieces of an answer for each token at most, and pieces beside them: servers send some without a token.
const PIECES_A_TOKEN: usize = 2;
const PIECES_BESIDE: usize = 64;

/// Bytes of text that are kept for each token.
const TEXT_A_TOKEN: usize = 128;

/// What a server is loaded with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub client: Client,
    /// Whom it is asked for.
    pub model: String,
    /// How.
    pub api: Api,
    /// The path, which may be another than the API's own.
    pub path: String,
    /// What is asked.
    pub requests: Vec<Request>,
    /// When, from the start; as long as `requests`, and ascending.
    pub arrivals: Vec<Duration>,
    /// Requests at once at most.
    pub concurrency: Option<usize>,
    /// Fields of every request's body beside the usual ones.
    pub extra: Map<String, Value>,
    /// How long an answer may take.
    pub limit: Duration,
}

/// An answer that came whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// From the request to its first piece.
    pub first: Duration,
    /// From the request to its last piece.
    pub last: Duration,
    /// Between one piece and the next.
    pub gaps: Vec<Duration>,
    /// The text, as far as it is kept.
    pub text: String,
    /// Tokens of the prompt, by the server's count.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer: by the server's count, or else its pieces with text.
    pub tokens: u64,
    /// Whose count that is: `usage`, `timings` or `chunks`.
    pub counted_by: &'static str,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// When it was sent, from the start.
    pub sent: Duration,
    /// From its arrival until then.
    pub queued: Duration,
    /// The part of `queued` in which somebody was free to send it.
    pub late: Duration,
    /// The answer.
    pub reply: Result<Reply, Failure>,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// By request; `None` for those that an interrupt kept from being answered.
    pub asked: Vec<Option<Asked>>,
    /// From the start to the last answer, or to the interrupt.
    pub duration: Duration,
    /// Whether somebody asked to stop.
    pub interrupted: bool,
    /// Streams that could be open at once.
    pub streams: usize,
}

/// No thread could be had.
#[derive(Debug, thiserror::Error)]
#[error("no thread to send requests from: {0}")]
pub struct NoThread(#[from] std::io::Error);

impl Plan {
    /// Sends all requests. `see` is told of each that was answered.
    ///
    /// Workers that still read when `stop` is set are left behind: a read cannot be interrupted, and whoever stops is
    /// about to end the process.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn run(
        self: &Arc<Self>,
        stop: &AtomicBool,
        mut see: impl FnMut(&Asked),
    ) -> Result<Run, NoThread> {
        let count = self.requests.len();
        let most = self
            .concurrency
            .unwrap_or(count)
            .min(count)
            .min(MAX_STREAMS);
        let all_at_once = self.arrivals.last().is_none_or(Duration::is_zero);
        let first = if all_at_once { most } else { most.min(AHEAD) };
        let (sender, events) = mpsc::channel();
        let crew = Arc::new(Crew {
            plan: Arc::clone(self),
            next: AtomicUsize::new(0),
            missed: AtomicUsize::new(0),
            patience: PATIENCE * most.max(1),
            over: AtomicBool::new(false),
            start: Mutex::new(None),
            started: Condvar::new(),
        });
        let mut alive = 0;
        for _ in 0..first {
            match crew.hire(&sender) {
                Ok(()) => alive += 1,
                Err(error) if alive == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        let start = crew.begin();
        let mut most = if all_at_once { alive } else { most };
        let streams = most;
        let (mut busy, mut interrupted) = (0, false);
        let mut asked: Vec<Option<Asked>> = vec![None; count];
        while alive > 0 {
            match events.recv_timeout(TICK) {
                Ok(Event::Sends) => {
                    busy += 1;
                    let waits = alive - busy;
                    let remain = crew.next.load(Ordering::Relaxed) < count;
                    if remain && waits < AHEAD && alive < most {
                        match crew.hire(&sender) {
                            Ok(()) => alive += 1,
                            // There will be no more than now.
                            Err(_) => most = alive,
                        }
                    }
                }
                Ok(Event::Has(at, outcome)) => {
                    busy -= 1;
                    see(&outcome);
                    asked[at] = Some(outcome);
                }
                Ok(Event::Leaves) => alive -= 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if stop.load(Ordering::Relaxed) {
                crew.over.store(true, Ordering::Relaxed);
                interrupted = asked.iter().any(Option::is_none);
                break;
            }
        }
        Ok(Run {
            asked,
            duration: start.elapsed(),
            interrupted,
            streams: streams.min(most),
        })
    }

    /// The bytes of a request.
    fn bytes(&self, request: &Request) -> Vec<u8> {
        let mut body = json!({
            "model": self.model,
            "max_tokens": request.max_tokens,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        match self.api {
            Api::Completions => body["prompt"] = request.text.as_str().into(),
            Api::Chat => {
                body["messages"] = json!([{"role": "user", "content": request.text}]);
                body["max_completion_tokens"] = request.max_tokens.into();
            }
        }
        for (key, value) in &self.extra {
            body[key] = value.clone();
        }
        self.client.request(&self.path, &body)
    }
}

enum Event {
    /// A worker sends its request now.
    Sends,
    /// It has the answer.
    Has(usize, Asked),
    /// It is gone.
    Leaves,
}

/// What workers share.
struct Crew {
    plan: Arc<Plan>,
    next: AtomicUsize,
    /// Requests in a row that found no server.
    missed: AtomicUsize,
    /// After how many of these the rest is not tried.
    patience: usize,
    over: AtomicBool,
    start: Mutex<Option<Instant>>,
    started: Condvar,
}

/// Tells that a worker is gone, however it went.
struct Leaving(Sender<Event>);

impl Drop for Leaving {
    fn drop(&mut self) {
        // Nobody listens any more after a stop.
        let _ = self.0.send(Event::Leaves);
    }
}

impl Crew {
    fn hire(self: &Arc<Self>, sender: &Sender<Event>) -> std::io::Result<()> {
        let (crew, leaving) = (Arc::clone(self), Leaving(sender.clone()));
        let builder = thread::Builder::new().stack_size(STACK);
        let hired = builder.spawn(move || crew.work(&leaving.0));
        hired.map(drop)
    }

    fn begin(&self) -> Instant {
        let now = Instant::now();
        *self.start.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.started.notify_all();
        now
    }

    fn wait_for_start(&self) -> Instant {
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(start) = *start {
                return start;
            }
            start = self
                .started
                .wait(start)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, events: &Sender<Event>) {
        let client = self.plan.client.apart();
        let start = self.wait_for_start();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = self.plan.requests.get(at) else {
                return;
            };
            let arrival = start + self.plan.arrivals[at];
            let free = Instant::now();
            // Ready before it is due, so that it is sent when it is.
            let bytes = self.plan.bytes(request);
            if !self.sleep_until(arrival.checked_sub(CONNECT_AHEAD).unwrap_or(free)) {
                return;
            }
            let left = arrival.saturating_duration_since(Instant::now());
            if left >= TICK {
                client.connect_ahead(left - TICK / 2);
            }
            if !self.sleep_until(arrival) || events.send(Event::Sends).is_err() {
                return;
            }
            let sent = Instant::now();
            let reply = self.ask(&client, request, &bytes);
            let asked = Asked {
                sent: sent - start,
                queued: sent.saturating_duration_since(arrival),
                late: sent.saturating_duration_since(arrival.max(free)),
                reply,
            };
            if events.send(Event::Has(at, asked)).is_err() {
                return;
            }
        }
    }

    /// Whether it is time, rather than over.
    fn sleep_until(&self, time: Instant) -> bool {
        loop {
            if self.over.load(Ordering::Relaxed) {
                return false;
            }
            match time.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return true,
                left => thread::sleep(left.min(TICK)),
            }
        }
    }

    fn ask(&self, client: &Client, request: &Request, bytes: &[u8]) -> Result<Reply, Failure> {
        if self.missed.load(Ordering::Relaxed) >= self.patience {
            return Err(Failure::NotTried);
        }
        let tokens = usize::try_from(request.max_tokens).unwrap_or(usize::MAX);
        let most_pieces = tokens
            .saturating_mul(PIECES_A_TOKEN)
            .saturating_add(PIECES_BESIDE);
        let most_text = tokens.saturating_mul(TEXT_A_TOKEN);
        let most_bytes = request.max_tokens.saturating_mul(BYTES_A_TOKEN);
        let most_bytes = most_bytes.saturating_add(BYTES_BESIDE);
        let (mut times, mut text) = (Vec::new(), String::new());
        let answer = client.stream(bytes, most_bytes, self.plan.limit, |piece| {
            if times.len() == most_pieces {
                return Err(Failure::TooMany(most_pieces));
            }
            times.push(piece.at);
            if text.len() + piece.text.len() <= most_text {
                text.push_str(piece.text);
            }
            Ok(())
        });
        match &answer {
            Err(Failure::NoConnection(_)) => self.missed.fetch_add(1, Ordering::Relaxed),
            _ => self.missed.swap(0, Ordering::Relaxed),
        };
        let answer = answer?;
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return Err(Failure::Empty);
        };
        Ok(Reply {
            first: *first,
            last: *last,
            gaps: times.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            text,
            prompt_tokens: answer.prompt_tokens,
            tokens: answer.token_count(),
            counted_by: answer.counted_by(),
        })
    }
}
