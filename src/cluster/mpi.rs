//! Ranks that are processes, started by `mpirun`: the wire over MPI, and the watch over the others.
//!
//! LIFE. A thread of each rank sends every other rank a beat each second, and looks when it last heard of each. A rank
//! that is silent for [`PATIENCE`] is named on standard error by every rank, and the job is ended by `MPI_Abort`, which
//! also kills stopped processes. A rank that computes for long keeps beating; one that was stopped, or whose machine
//! slept, forgives the silence of that time. A rank that is done beats on until all are: rank 0 may still forecast and
//! write for long. Where a process dies, `mpirun` ends the others itself: they say so.
//!
//! THREADS. MPI is asked for calls from several threads, one at a time (`MPI_THREAD_SERIALIZED`): a lock sees to it.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mpi::datatype::Equivalence;
use mpi::point_to_point::Status;
use mpi::request::{LocalScope, Request, StaticScope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};
use mpi::{Count, Threading};

use super::wire::{Lost, PATIENCE, Wire};

/// Exchanges and beats do not meet.
const DATA: i32 = 1;
const BEAT: i32 = 2;

const BEAT_EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);
/// A tick that took longer means that this process, not another, stood still.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// The others' time to say what they know before all are ended.
const GRACE: Duration = Duration::from_secs(1);
/// How long a wait spins before it sleeps a little between looks: exchanges are over by then.
const SPIN: Duration = Duration::from_millis(20);
const DOZE: Duration = Duration::from_micros(200);

/// Why MPI cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MpiError {
    /// It was used before.
    #[error("MPI is in use already")]
    Twice,
    /// Calls from several threads are not possible.
    #[error(
        "this MPI allows no calls from more than one thread; take one built with thread support"
    )]
    Threads,
}

/// Runs `job` as one of the ranks that `mpirun` started, and ends all of them if it fails on one.
///
/// # Errors
/// [`MpiError`]; the job's own errors end the process, unless it is the only one.
pub fn launch<T, E: Display>(
    job: impl FnOnce(&mut MpiWire) -> Result<T, E>,
) -> Result<Result<T, E>, MpiError> {
    let (universe, threading) =
        mpi::initialize_with_threading(Threading::Serialized).ok_or(MpiError::Twice)?;
    if !matches!(threading, Threading::Serialized | Threading::Multiple) {
        return Err(MpiError::Threads);
    }
    let mut wire = MpiWire::new(universe.world());
    let watch = Watch::start(&wire);
    let outcome = job(&mut wire);
    if wire.size() > 1 {
        let trouble = match &outcome {
            Ok(_) => wire.meet().err().map(|lost| lost.to_string()),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(trouble) = trouble {
            wire.shared.end(&trouble);
        }
    }
    watch.stop();
    drop(universe);
    Ok(outcome)
}

/// One of the processes that `mpirun` started.
pub struct MpiWire {
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

/// What the rank and its watch share.
struct Shared {
    rank: usize,
    /// Held during every call of MPI.
    lock: Mutex<()>,
    /// Somebody waits for the lock: whoever takes it again and again should pause.
    wanted: AtomicBool,
    /// The rank that is waited for, plus one; 0 for none.
    waiting: AtomicU64,
    /// The work is done: silence means nothing any more.
    done: AtomicBool,
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all ranks, saying why.
    fn end(&self, why: &str) -> ! {
        let text: String = why
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        super::tell(self.rank, &text);
        thread::sleep(GRACE);
        let _calls = self.locked();
        SimpleCommunicator::world().abort(2)
    }
}

impl MpiWire {
    fn new(world: SimpleCommunicator) -> Self {
        let index = |number: i32| usize::try_from(number).unwrap_or(0);
        let (rank, size) = (index(world.rank()), index(world.size()));
        Self {
            world,
            rank,
            size,
            shared: Arc::new(Shared {
                rank,
                lock: Mutex::new(()),
                wanted: AtomicBool::new(false),
                waiting: AtomicU64::new(0),
                done: AtomicBool::new(false),
            }),
        }
    }

    /// Waits until all ranks have come here.
    fn meet(&mut self) -> Result<(), Lost> {
        if self.rank > 0 {
            self.swap(&[(0, &SIGN)], &mut [])?;
            return self.swap(&[], &mut [(0, &mut [0])]);
        }
        let mut signs = vec![SIGN; self.size];
        let mut others: Vec<(usize, &mut [u8])> = Vec::with_capacity(self.size);
        for (rank, sign) in signs.iter_mut().enumerate().skip(1) {
            others.push((rank, sign));
        }
        self.swap(&[], &mut others)?;
        let others: Vec<(usize, &[u8])> = (1..self.size).map(|rank| (rank, &SIGN[..])).collect();
        self.swap(&others, &mut [])
    }

    /// Waits for `pending`, and tells which message had another length than was due.
    fn wait<'a>(&self, mut pending: Vec<Pending<'a, '_>>) -> Result<(), Lost> {
        let started = Instant::now();
        let mut lost = None;
        loop {
            {
                let _calls = self.shared.locked();
                pending = pending
                    .into_iter()
                    .filter_map(|pending| pending.test(&mut lost))
                    .collect();
            }
            let Some(next) = pending.first() else {
                break;
            };
            let waiting = next.rank as u64 + 1;
            self.shared.waiting.store(waiting, Ordering::Relaxed);
            if started.elapsed() > SPIN {
                thread::sleep(DOZE);
            } else if self.shared.wanted.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(5));
            } else {
                // Where ranks share cores, the one that is waited for may need this one's.
                thread::yield_now();
            }
        }
        self.shared.waiting.store(0, Ordering::Relaxed);
        lost.map_or(Ok(()), Err)
    }
}

/// A message under way.
struct Pending<'a, 's> {
    rank: usize,
    /// Bytes that are due; `None` for one that is sent.
    due: Option<usize>,
    request: Request<'a, [u8], &'s LocalScope<'a>>,
}

impl Pending<'_, '_> {
    /// Itself, if it is not done yet.
    fn test(self, lost: &mut Option<Lost>) -> Option<Self> {
        let Self { rank, due, request } = self;
        match request.test() {
            Err(request) => Some(Self { rank, due, request }),
            Ok(status) => {
                let found = count(&status);
                if let Some(wanted) = due.filter(|wanted| *wanted != found) {
                    *lost = Some(Lost::Length {
                        rank,
                        found,
                        wanted,
                    });
                }
                None
            }
        }
    }
}

fn count(status: &Status) -> usize {
    let count: Count = status.count(u8::equivalent_datatype());
    usize::try_from(count).unwrap_or(0)
}

impl Wire for MpiWire {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn swap(
        &mut self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), Lost> {
        mpi::request::scope(|scope| {
            let mut pending = Vec::with_capacity(sends.len() + receives.len());
            {
                let _calls = self.shared.locked();
                for (rank, buffer) in receives.iter_mut() {
                    let due = Some(buffer.len());
                    let other = self.world.process_at_rank(*rank as i32);
                    let request = other.immediate_receive_into_with_tag(scope, &mut **buffer, DATA);
                    pending.push(Pending {
                        rank: *rank,
                        due,
                        request,
                    });
                }
                for (rank, data) in sends {
                    let other = self.world.process_at_rank(*rank as i32);
                    pending.push(Pending {
                        rank: *rank,
                        due: None,
                        request: other.immediate_send_with_tag(scope, *data, DATA),
                    });
                }
            }
            self.wait(pending)
        })
    }
}

/// The thread that looks after the other ranks.
struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(wire: &MpiWire) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::new(AtomicBool::new(false));
        // Without the handler the process ends as it always did, only silently.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&told));
        let (size, shared, stopped) = (wire.size, Arc::clone(&wire.shared), Arc::clone(&stop));
        let thread = (size > 1)
            .then(|| thread::spawn(move || Beats::new(size, shared, told).until(&stopped)));
        Self {
            shared: Arc::clone(&wire.shared),
            thread,
            stop,
        }
    }

    fn stop(self) {
        self.shared.done.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

/// Sends and receives signs of life.
struct Beats {
    shared: Arc<Shared>,
    told: Arc<AtomicBool>,
    heard: Vec<Instant>,
    /// The last beat to each rank, until it has left.
    under_way: Vec<Option<Request<'static, [u8; 1], StaticScope>>>,
}

static SIGN: [u8; 1] = [1];

impl Beats {
    fn new(size: usize, shared: Arc<Shared>, told: Arc<AtomicBool>) -> Self {
        Self {
            shared,
            told,
            heard: vec![Instant::now(); size],
            under_way: (0..size).map(|_| None).collect(),
        }
    }

    fn until(mut self, stop: &AtomicBool) {
        let world = SimpleCommunicator::world();
        let mut last_beat: Option<Instant> = None;
        let mut last_tick = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if self.told.load(Ordering::Relaxed) {
                self.ended();
            }
            if last_tick.elapsed() > STOOD_STILL {
                self.heard.fill(Instant::now());
            }
            last_tick = Instant::now();
            let beat = last_beat.is_none_or(|last| last.elapsed() > BEAT_EVERY);
            self.shared.wanted.store(true, Ordering::Relaxed);
            {
                let shared = Arc::clone(&self.shared);
                let _calls = shared.locked();
                self.listen(&world);
                if beat {
                    self.beat(&world);
                }
            }
            self.shared.wanted.store(false, Ordering::Relaxed);
            if beat {
                last_beat = Some(last_tick);
            }
            self.judge();
            thread::sleep(TICK);
        }
        // What is still under way concerns nobody; a request that is dropped would end the process.
        let shared = Arc::clone(&self.shared);
        let _calls = shared.locked();
        self.listen(&world);
        self.under_way.into_iter().for_each(std::mem::forget);
    }

    fn listen(&mut self, world: &SimpleCommunicator) {
        let anyone = world.any_process();
        while let Some(status) = anyone.immediate_probe_with_tag(BEAT) {
            let from = status.source_rank();
            let mut sign = [0_u8; 1];
            world
                .process_at_rank(from)
                .receive_into_with_tag(&mut sign, BEAT);
            if let Some(heard) = usize::try_from(from)
                .ok()
                .and_then(|r| self.heard.get_mut(r))
            {
                *heard = Instant::now();
            }
        }
    }

    fn beat(&mut self, world: &SimpleCommunicator) {
        for (rank, under_way) in self.under_way.iter_mut().enumerate() {
            if rank == self.shared.rank {
                continue;
            }
            *under_way = match under_way.take().map(Request::test) {
                // It does not take them any more; it need not be sent another.
                Some(Err(request)) => Some(request),
                None | Some(Ok(_)) => {
                    let other = world.process_at_rank(rank as i32);
                    Some(other.immediate_send_with_tag(StaticScope, &SIGN, BEAT))
                }
            };
        }
    }

    /// Ends the job if a rank was silent for too long.
    fn judge(&self) {
        if self.shared.done.load(Ordering::Relaxed) {
            return;
        }
        let ranks = self.heard.iter().enumerate();
        let silent: Vec<String> = ranks
            .filter(|(rank, heard)| *rank != self.shared.rank && heard.elapsed() > PATIENCE)
            .map(|(rank, _)| format!("rank {rank}"))
            .collect();
        if !silent.is_empty() {
            let (who, seconds) = (silent.join(", "), PATIENCE.as_secs());
            self.shared.end(&format!(
                "{who} has shown no sign of life for {seconds} s: it hangs, or its machine or network is gone; \
                 all ranks are ended"
            ));
        }
    }

    /// `mpirun` wants this rank to end.
    fn ended(&self) -> ! {
        let waiting = match self.shared.waiting.load(Ordering::Relaxed) {
            0 => "while it computed".to_owned(),
            rank => format!("while it waited for rank {}", rank - 1),
        };
        let now = Instant::now();
        let ranks = self
            .heard
            .iter()
            .enumerate()
            .filter(|(rank, _)| *rank != self.shared.rank);
        let quietest = ranks.max_by_key(|(_, heard)| now.duration_since(**heard));
        let quietest = quietest.map_or_else(String::new, |(rank, heard)| {
            let seconds = now.duration_since(*heard).as_secs_f64();
            format!("; rank {rank} was heard last, {seconds:.1} s ago")
        });
        let what = format!(
            "mpirun ended it {waiting}{quietest}: another rank has died, mpirun says which"
        );
        super::tell(self.shared.rank, &what);
        std::process::exit(2)
    }
}
