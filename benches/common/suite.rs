//! The loop of a target: select, prepare, check, pace, time, report.

use std::cell::Cell;
use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use tokgate::session::Session;

use super::args::{Args, Mode};
use super::inputs;
use super::runtimes::{Runtimes, Threads};

/// Benches of more work than this are left out where code is not optimised.
const SMOKE_ELEMENTS: u64 = 8 << 20;

/// No CPU does more elements than this in a nanosecond and thread: whoever seems to has been optimised away. 64 bytes
/// of the smallest element, twice a cycle at 4 GHz.
const MAX_ELEMENTS_PER_NS: u64 = 512;

/// Resamples of criterion's bootstrap. Its default takes longer than the measuring, for intervals that nothing here is
/// judged by.
const RESAMPLES: usize = 2_000;

/// Changes that criterion keeps quiet about. It compares with whatever ran last, in one process each, and calls one and
/// the same binary regressed more often than not; the table at the end compares with the baseline.
const CRITERION_NOISE: f64 = 1.0;

/// What one call of a bench's routine works through.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Multiply-accumulates where the operation is made of them, otherwise elements, or tokens.
    pub elements: u64,
    /// Bytes of the operands, each counted once.
    pub bytes: u64,
}

/// The routine to time; its inputs are made, its answer is checked.
pub type Routine = Box<dyn FnMut()>;

type Prepare = Box<dyn FnOnce(&Context) -> anyhow::Result<Routine>>;

/// What a bench is prepared in.
pub struct Context {
    /// One runtime a level.
    pub runtimes: Rc<Runtimes>,
    /// Whether times will be taken.
    pub measures: bool,
    /// What a call works through, where only preparing it tells.
    pub work: Cell<Option<Work>>,
}

impl Context {
    /// How many copies of weights of `bytes` a routine is to go through in turn, so that they come from memory.
    pub fn copies(&self, bytes: usize) -> usize {
        if self.measures {
            inputs::copies(bytes)
        } else {
            1
        }
    }
}

struct Bench {
    op: String,
    variant: String,
    shape: String,
    work: Work,
    seconds: f64,
    /// Too much for code that is not optimised.
    heavy: bool,
    prepare: Prepare,
}

impl Bench {
    fn id(&self) -> String {
        format!("{}/{}/{}", self.op, self.variant, self.shape)
    }
}

/// The benches of a target.
pub struct Suite {
    target: &'static str,
    threads: Threads,
    benches: Vec<Bench>,
}

impl Suite {
    /// No benches yet of the target `target`.
    ///
    /// # Errors
    /// If the environment asks for threads in a way that makes no sense.
    pub fn new(target: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            target,
            threads: Threads::from_env()?,
            benches: Vec::new(),
        })
    }

    /// Threads of the benches.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Adds the bench `op/variant/shape`, where `op` includes the element type. `prepare` is called only if the bench
    /// is selected: it makes the inputs, runs the routine once and checks the answer.
    pub fn add(
        &mut self,
        op: &str,
        variant: &str,
        shape: &str,
        work: Work,
        prepare: impl FnOnce(&Context) -> anyhow::Result<Routine> + 'static,
    ) {
        // A rough guess, for the progress only, which corrects it as it goes.
        let rate = if variant == "scalar" { 2e9 } else { 60e9 };
        self.benches.push(Bench {
            op: op.to_owned(),
            variant: variant.to_owned(),
            shape: format!("{shape}{}", self.threads.suffix()),
            work,
            seconds: 0.8 + 12.0 * work.elements as f64 / rate,
            heavy: work.elements > SMOKE_ELEMENTS,
            prepare: Box::new(prepare),
        });
    }

    /// Adds the bench of a whole model, which takes about `seconds`; its shape always tells the threads.
    pub fn add_model(
        &mut self,
        op: &str,
        variant: &str,
        shape: &str,
        seconds: f64,
        prepare: impl FnOnce(&Context) -> anyhow::Result<Routine> + 'static,
    ) {
        self.benches.push(Bench {
            op: op.to_owned(),
            variant: variant.to_owned(),
            shape: format!("{shape}_t{}", self.threads.count),
            work: Work {
                elements: 0,
                bytes: 0,
            },
            seconds,
            heavy: true,
            prepare: Box::new(prepare),
        });
    }

    /// Runs the selected benches and prints the table.
    pub fn run(self) -> ExitCode {
        let mut criterion = Criterion::default()
            .nresamples(RESAMPLES)
            .noise_threshold(CRITERION_NOISE)
            .configure_from_args();
        let args = Args::from_env();
        let total = self.benches.len();
        let mut benches = self.benches;
        benches.retain(|bench| args.selects(&bench.id()));
        if args.mode == Mode::Smoke {
            benches.retain(|bench| !bench.heavy);
        }
        if total == 0 {
            eprintln!("error: this target has no benches");
            return ExitCode::FAILURE;
        }
        let context = Context {
            runtimes: Runtimes::new(self.threads),
            measures: args.mode == Mode::Measure,
            work: Cell::new(None),
        };
        let session =
            (context.measures && !benches.is_empty()).then(|| Session::begin(self.target));
        let mut progress = Progress::new(&benches, args.mode);
        let mut failures = 0_usize;
        for bench in benches {
            progress.announce(&bench.id());
            let (id, seconds) = (bench.id(), bench.seconds);
            if let Err(error) = measure(&mut criterion, &args, &context, bench) {
                eprintln!("error: {id}: {error:#}");
                failures += 1;
            }
            progress.done(seconds);
        }
        if let Some(session) = session {
            session.finish();
        }
        if failures > 0 {
            eprintln!("error: {failures} benches gave no result");
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

/// Hands one bench to criterion, which names it, times it, and keeps its samples.
fn measure(
    criterion: &mut Criterion,
    args: &Args,
    context: &Context,
    bench: Bench,
) -> anyhow::Result<()> {
    let (op, dtype) = bench.op.split_once('/').unwrap_or((&bench.op, ""));
    let id = BenchmarkId::new(format!("{dtype}/{}", bench.variant), &bench.shape);
    let mut group = criterion.benchmark_group(op);
    if args.mode == Mode::List {
        group.bench_function(id, |_| {});
        return Ok(());
    }
    let mut routine = (bench.prepare)(context)?;
    let Work { elements, bytes } = context.work.take().unwrap_or(bench.work);
    group.throughput(Throughput::ElementsAndBytes { elements, bytes });
    let mut warm = None;
    if context.measures {
        let pace = Pace::of(&mut routine);
        let threads = context.runtimes.threads().count as u64;
        ensure!(
            (pace.call.as_nanos() as u64 + 1) * MAX_ELEMENTS_PER_NS * threads >= elements,
            "{elements} elements in {:?}: the work was optimised away",
            pace.call
        );
        group.sampling_mode(SamplingMode::Flat);
        if !args.own_sampling {
            group
                .sample_size(pace.samples)
                .warm_up_time(pace.warm_up)
                .measurement_time(pace.measure);
            warm = pace.is_long().then_some(pace.call);
        }
    }
    let mut calls = 0_u64;
    group.bench_function(id, |bencher| {
        calls += 1;
        match warm.take() {
            // A call takes so long that criterion would warm up with a single one: the one just made serves as well.
            Some(call) => bencher.iter_custom(|iterations| call * iterations as u32),
            None => bencher.iter(&mut routine),
        }
    });
    group.finish();
    ensure!(calls > 0, "criterion did not run it");
    Ok(())
}

/// A call of this length is measured one by one.
const LONG: Duration = Duration::from_millis(15);

/// How long and how often a bench is sampled, by how long one call takes.
struct Pace {
    call: Duration,
    samples: usize,
    warm_up: Duration,
    measure: Duration,
}

impl Pace {
    fn is_long(&self) -> bool {
        self.call >= LONG
    }

    /// Calls the routine until the clock can be trusted.
    fn of(routine: &mut Routine) -> Self {
        const LONG_ENOUGH: Duration = Duration::from_millis(5);
        let start = Instant::now();
        let mut calls = 0;
        while calls == 0 || start.elapsed() < LONG_ENOUGH {
            black_box(&mut *routine)();
            calls += 1;
        }
        let call = start.elapsed() / calls;
        let ms = Duration::from_millis;
        if call < ms(1) {
            // Neighbours only ever add time to code that runs from cache: many short samples find the gaps.
            Self {
                call,
                samples: 100,
                warm_up: ms(50),
                measure: ms(300),
            }
        } else if call < LONG {
            let samples = (ms(400).as_nanos() / call.as_nanos()).clamp(20, 100) as usize;
            Self {
                call,
                samples,
                warm_up: ms(50),
                measure: ms(400),
            }
        } else {
            // Criterion's fewest samples. Half of the time that they take keeps it from two calls each, unless its own
            // estimate of a call is less than half of this one, at the price of a warning.
            Self {
                call,
                samples: 10,
                warm_up: ms(1),
                measure: call * 5,
            }
        }
    }
}

/// Says on stderr where the run is, and how long it is going to take.
struct Progress {
    mode: Mode,
    count: usize,
    at: usize,
    start: Instant,
    expected_done: f64,
    expected_left: f64,
}

impl Progress {
    fn new(benches: &[Bench], mode: Mode) -> Self {
        Self {
            mode,
            count: benches.len(),
            at: 0,
            start: Instant::now(),
            expected_done: 0.0,
            expected_left: benches.iter().map(|bench| bench.seconds).sum(),
        }
    }

    fn announce(&mut self, id: &str) {
        self.at += 1;
        if self.mode == Mode::Measure {
            // The guesses count as much as what was seen so far, until a good part of them has been tested.
            let trust = 10.0;
            let pace = (self.start.elapsed().as_secs_f64() + trust) / (self.expected_done + trust);
            let left = (self.expected_left * pace).ceil() as u64;
            eprintln!(
                "[{}/{}, {}:{:02} left] {id}",
                self.at,
                self.count,
                left / 60,
                left % 60
            );
        }
    }

    fn done(&mut self, seconds: f64) {
        self.expected_done += seconds;
        self.expected_left -= seconds;
    }
}
