//! A pool of worker threads for work that is forked and joined hundreds of times a token.
//!
//! WHY a pool of its own: a token of a small model takes 20 ms and forks some 200 times, so a fork must cost about a
//! microsecond. Workers therefore spin on one counter for a short while after each job, and park only when nothing
//! came: a general work-stealing pool goes to sleep earlier, and pays a futex wake, 5–50 µs, at each of these forks.
//! The caller is worker 0; a pool of one thread spawns nothing and calls the job directly.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Pauses before a worker parks: about 0.1 ms where a pause takes 45 ns (Intel since Skylake), 0.03 ms on Zen 4. Longer
/// than the serial gaps of a forward pass, far shorter than the pause between two requests.
const SPINS: u32 = 2048;

/// More threads than this is a mistake in a configuration file, not a machine.
const MAX_THREADS: usize = 4096;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Zero threads, or implausibly many.
    #[error("a pool has 1 to {MAX_THREADS} threads, not {0}")]
    Threads(usize),
    /// The system refused a thread.
    #[error("worker thread {worker} could not be started")]
    Spawn {
        /// The worker's number.
        worker: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system does not tell which cores there are, or refused to pin to one.
    #[error("threads cannot be pinned to cores on this system; run without pinning")]
    Pin,
}

/// How to make a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads, the caller included.
    pub threads: usize,
    /// Pins worker `i` to the `i`-th core that the process may use, round robin. Worker 0 is the thread that makes the
    /// pool; it stays pinned when the pool is gone.
    pub pin: bool,
}

/// Worker threads that run one job at a time, together with the caller.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// let pool = tokgate_kernels::Pool::new(2)?;
/// let sum = AtomicUsize::new(0);
/// pool.for_each(100, |_worker, task| { sum.fetch_add(task, Ordering::Relaxed); });
/// assert_eq!(sum.into_inner(), 4950);
/// # Ok::<(), tokgate_kernels::PoolError>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs, so that calls from several threads queue up.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads`, the caller included, not pinned.
    ///
    /// # Errors
    /// [`PoolError`] if `threads` is zero or too many, or a thread cannot be started.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        Self::with_options(PoolOptions {
            threads,
            pin: false,
        })
    }

    /// A pool as `options` say.
    ///
    /// # Errors
    /// [`PoolError`] if the number of threads is off, a thread cannot be started, or pinning was asked for and refused.
    pub fn with_options(options: PoolOptions) -> Result<Self, PoolError> {
        let PoolOptions { threads, pin } = options;
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(PoolError::Threads(threads));
        }
        let cores = if pin {
            let cores = cores().ok_or(PoolError::Pin)?;
            if !core_affinity::set_for_current(cores[0]) {
                return Err(PoolError::Pin);
            }
            cores
        } else {
            &[]
        };
        let mut pool = Self {
            shared: Arc::new(Shared::new(threads)),
            workers: Vec::with_capacity(threads - 1),
            turn: Mutex::new(()),
        };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = cores.get(worker % cores.len().max(1)).copied();
            let handle = thread::Builder::new()
                .name(format!("tokgate-{worker}"))
                .spawn(move || {
                    if let Some(core) = core {
                        // A core that went away since is no reason to fail: the worker runs unpinned.
                        core_affinity::set_for_current(core);
                    }
                    shared.work(worker);
                })
                .map_err(|source| PoolError::Spawn { worker, source })?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(worker)` once for each worker `0..threads`, at the same time, and returns when all are done.
    ///
    /// Called from inside a job it runs all workers' shares on the calling thread, one after the other: jobs must not
    /// wait for each other.
    ///
    /// # Panics
    /// If a worker's share panics; the first panic is passed on, after all shares have ended.
    pub fn run(&self, job: impl Fn(usize) + Sync) {
        let threads = self.threads();
        if threads == 1 || INSIDE.get() {
            (0..threads).for_each(job);
            return;
        }
        let _turn = lock(&self.turn);
        self.shared.start(&job, &self.workers);
        // The caller's own panic must wait too: the workers still borrow the job.
        let own = inside(|| catch_unwind(AssertUnwindSafe(|| job(0))));
        self.shared.wait();
        let theirs = lock(&self.shared.panic).take();
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Calls `job(worker, task)` once for each task `0..tasks`; each worker takes the next task as it becomes free, so
    /// that a worker whose core is taken away for a while holds up no more than one task.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn for_each(&self, tasks: usize, job: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.threads() == 1 {
            (0..tasks).for_each(|task| job(0, task));
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(|worker| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                job(worker, task);
            }
        });
    }

    /// As [`Self::for_each`], of tasks that lie side by side in memory and take about as long: each worker takes a run of
    /// neighbours, one after the other, and the last ones of others' runs when it is through.
    ///
    /// WHY: a worker reads one stream, whose next part it knows, and shares no counter with others while it does.
    ///
    /// # Panics
    /// As [`Self::run`], and if there are more tasks than fit an u32.
    pub fn for_each_in_runs(&self, tasks: usize, job: impl Fn(usize, usize) + Sync) {
        let threads = self.threads();
        if tasks <= 1 || threads == 1 || INSIDE.get() {
            (0..tasks).for_each(|task| job(0, task));
            return;
        }
        let runs: Vec<Padded<Run>> = (0..threads)
            .map(|worker| Padded(Run::new(share(tasks, 1, threads, worker))))
            .collect();
        self.run(|worker| {
            while let Some(task) = runs[worker].0.first() {
                job(worker, task);
            }
            for other in (worker + 1..threads).chain(0..worker) {
                while let Some(task) = runs[other].0.last() {
                    job(worker, task);
                }
            }
        });
    }
}

/// Tasks of a worker that nobody has taken yet: the first one in the low half, the one after the last in the high half.
#[derive(Debug)]
struct Run(AtomicU64);

impl Run {
    fn new(tasks: Range<usize>) -> Self {
        let half = |at: usize| u64::from(u32::try_from(at).expect("tasks fit an u32"));
        Self(AtomicU64::new(half(tasks.start) | half(tasks.end) << 32))
    }

    fn halves(tasks: u64) -> (u32, u32) {
        (tasks as u32, (tasks >> 32) as u32)
    }

    /// Takes the first task; for its owner only, who stops when there is none.
    fn first(&self) -> Option<usize> {
        let (first, end) = Self::halves(self.0.fetch_add(1, Ordering::Relaxed));
        (first < end).then_some(first as usize)
    }

    /// Takes the last task.
    fn last(&self) -> Option<usize> {
        let taken = self
            .0
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |tasks| {
                let (first, end) = Self::halves(tasks);
                (first < end).then(|| tasks - (1 << 32))
            });
        taken.ok().map(|tasks| Self::halves(tasks).1 as usize - 1)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.announce(&self.workers);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so that joining cannot fail.
            let _ = worker.join();
        }
    }
}

/// The cores that the process may use, asked for once: the thread that makes a pinned pool stays on its core, and would
/// be told of no other when it makes the next one.
fn cores() -> Option<&'static [core_affinity::CoreId]> {
    static CORES: OnceLock<Vec<core_affinity::CoreId>> = OnceLock::new();
    let cores = CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default());
    (!cores.is_empty()).then_some(cores)
}

/// The `part`-th of `parts` nearly equal consecutive ranges of `0..n`, each a multiple of `granule` but the last.
///
/// # Panics
/// If `parts` or `granule` is zero.
pub fn share(n: usize, granule: usize, parts: usize, part: usize) -> Range<usize> {
    let granules = n.div_ceil(granule);
    let (whole, rest) = (granules / parts, granules % parts);
    let start = part * whole + part.min(rest);
    let end = start + whole + usize::from(part < rest);
    (start * granule).min(n)..(end * granule).min(n)
}

thread_local! {
    /// Whether this thread is inside a job.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn inside<R>(f: impl FnOnce() -> R) -> R {
    INSIDE.set(true);
    let result = f();
    INSIDE.set(false);
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing behind these locks is left half-written by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps what different threads write on cache lines of their own; 128, because adjacent lines are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// A job whose borrow was erased; [`Pool::run`] returns only when no worker uses it any more.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

struct Shared {
    /// Counts jobs; workers wait for it to change.
    epoch: Padded<AtomicU32>,
    /// Workers that have not finished the current job.
    pending: Padded<AtomicUsize>,
    /// Whether each worker is parked, or about to.
    parked: Vec<Padded<AtomicBool>>,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: `job` is written by the holder of the pool's turn while no worker reads it (`pending` is zero), and read by
// workers only after the epoch announced it; all else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: the job's pointee is `Sync`, so that any thread may call it.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("epoch", &self.epoch.0)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            epoch: Padded::default(),
            pending: Padded::default(),
            parked: (0..threads).map(|_| Padded::default()).collect(),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        }
    }

    fn start<'a>(&self, job: &'a (dyn Fn(usize) + Sync + 'a), workers: &[JoinHandle<()>]) {
        // SAFETY: only the lifetime changes; `Pool::run` waits for all workers before the borrow ends.
        let job: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(job) };
        // SAFETY: `pending` is zero and the turn is held, so that nobody else looks at the cell.
        unsafe { *self.job.get() = Some(Job(job)) };
        self.pending.0.store(workers.len(), Ordering::Relaxed);
        self.announce(workers);
    }

    /// Lets the workers see what was written, and wakes those that sleep.
    fn announce(&self, workers: &[JoinHandle<()>]) {
        // Sequentially consistent on both sides: either the worker sees the new epoch before it parks, or we see here
        // that it is about to park.
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (handle, parked) in workers
            .iter()
            .map(JoinHandle::thread)
            .zip(&self.parked[1..])
        {
            if parked.0.load(Ordering::SeqCst) {
                Thread::unpark(handle);
            }
        }
    }

    fn wait(&self) {
        let mut spins = 0;
        while self.pending.0.load(Ordering::Acquire) != 0 {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                // A worker lost its core: it may be this one that it needs.
                thread::yield_now();
            }
        }
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(worker, seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the epoch changed, so `start` has written the job, and writes no other before `pending` is zero.
            let job = unsafe { *self.job.get() };
            if let Some(Job(job)) = job {
                // SAFETY: `Pool::run` keeps the job alive until `pending` is zero.
                let job = unsafe { &*job };
                let result = inside(|| catch_unwind(AssertUnwindSafe(|| job(worker))));
                if let Err(payload) = result {
                    lock(&self.panic).get_or_insert(payload);
                }
                self.pending.0.fetch_sub(1, Ordering::Release);
            }
        }
    }

    fn next_epoch(&self, worker: usize, seen: u32) -> u32 {
        for _ in 0..SPINS {
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        let parked = &self.parked[worker].0;
        parked.store(true, Ordering::SeqCst);
        loop {
            let epoch = self.epoch.0.load(Ordering::SeqCst);
            if epoch != seen {
                parked.store(false, Ordering::SeqCst);
                return epoch;
            }
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 1000] {
                let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let job = |worker: usize, task: usize| {
                    assert!(worker < threads);
                    seen[task].fetch_add(1, Ordering::Relaxed);
                };
                pool.for_each(tasks, job);
                assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                pool.for_each_in_runs(tasks, job);
                assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 2));
            }
        }
    }

    #[test]
    fn runs_are_neighbours_and_end_with_others_tasks() {
        let pool = Pool::new(2).unwrap();
        let done = AtomicUsize::new(0);
        let of_worker = [const { Mutex::new(Vec::new()) }; 2];
        pool.for_each_in_runs(20, |worker, task| {
            // Whoever has task 3 is held up until all others are done, which takes the other worker to do them.
            while task == 3 && done.load(Ordering::Acquire) < 19 {
                std::hint::spin_loop();
            }
            lock(&of_worker[worker]).push(task);
            done.fetch_add(1, Ordering::Release);
        });
        let of_worker = of_worker.map(|tasks| tasks.into_inner().unwrap());
        for (worker, tasks) in of_worker.iter().enumerate() {
            let own = share(20, 1, 2, worker);
            assert!(tasks.iter().filter(|task| own.contains(task)).is_sorted());
        }
        let mut all = of_worker.concat();
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(0..20));
    }

    #[test]
    fn wakes_parked_workers() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            let count = AtomicUsize::new(0);
            pool.run(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 3);
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_panic_is_passed_on_and_the_pool_lives() {
        let pool = Pool::new(3).unwrap();
        for culprit in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|worker| assert_ne!(worker, culprit, "the culprit"));
            }));
            assert!(result.is_err());
        }
        pool.run(|_| {});
    }

    #[test]
    fn nested_jobs_run_in_place() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        pool.run(|_| {
            pool.for_each(10, |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 20);
    }

    #[test]
    fn calls_from_several_threads_queue_up() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.for_each(10, |_, _| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 2000);
    }

    #[test]
    fn odd_thread_counts_are_errors() {
        assert!(matches!(Pool::new(0), Err(PoolError::Threads(0))));
        assert!(matches!(Pool::new(usize::MAX), Err(PoolError::Threads(_))));
    }

    #[test]
    fn shares_cover_the_range() {
        for (n, granule, parts) in [(0, 1, 3), (10, 4, 3), (100, 16, 7), (5, 8, 2)] {
            let mut at = 0;
            for part in 0..parts {
                let range = share(n, granule, parts, part);
                assert_eq!(range.start, at);
                assert!(range.end == n || range.end.is_multiple_of(granule));
                at = range.end;
            }
            assert_eq!(at, n);
        }
    }
}
