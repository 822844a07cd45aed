//! One runtime a level, made when the first bench at that level runs.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context, ensure};
use tokgate_kernels::{Level, Op, PoolOptions, Runtime, Tier};

/// Environment variable that sets the threads of the kernel benches; their ids then end in `_t` and the number.
pub const THREADS_ENV: &str = "TOKGATE_BENCH_THREADS";

/// Threads that all benches of this process use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// How many.
    pub count: usize,
    /// Whether the user chose them; otherwise it is every CPU that the process may use.
    pub chosen: bool,
}

impl Threads {
    /// What the environment asks for.
    ///
    /// # Errors
    /// If the variable is no positive number.
    pub fn from_env() -> anyhow::Result<Self> {
        match std::env::var(THREADS_ENV) {
            Ok(text) if !text.is_empty() => {
                let count = text.parse().ok().filter(|count| (1..=4096).contains(count));
                let count = count.with_context(|| {
                    format!("{THREADS_ENV} is '{text}'; set it to a number of threads, or unset it")
                })?;
                Ok(Self {
                    count,
                    chosen: true,
                })
            }
            _ => Ok(Self {
                count: available()?,
                chosen: false,
            }),
        }
    }

    /// The ending of ids: without it an id means all CPUs of the machine whose key the baseline carries.
    pub fn suffix(self) -> String {
        if self.chosen {
            format!("_t{}", self.count)
        } else {
            String::new()
        }
    }

    /// Whether peers, which thread by rayon, run on as many threads; a comparison would be unfair otherwise.
    pub fn match_rayon(self) -> bool {
        let set = std::env::var("RAYON_NUM_THREADS").ok();
        let set = set
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|count| *count > 0);
        set.or_else(|| available().ok()) == Some(self.count)
    }
}

fn available() -> anyhow::Result<usize> {
    let count = std::thread::available_parallelism();
    Ok(count
        .with_context(|| format!("the number of CPUs is unknown; set {THREADS_ENV}"))?
        .get())
}

/// The runtimes of a target.
pub struct Runtimes {
    threads: Threads,
    made: std::cell::RefCell<BTreeMap<Tier, Rc<Runtime>>>,
}

impl Runtimes {
    /// No runtime yet.
    pub fn new(threads: Threads) -> Rc<Self> {
        Rc::new(Self {
            threads,
            made: std::cell::RefCell::default(),
        })
    }

    /// Threads of each runtime.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// The runtime at which `op` runs its variant `tier` and no other.
    ///
    /// # Errors
    /// If the CPU lacks the tier, the operation has no such variant, or the threads cannot be started.
    pub fn get(&self, op: Op, tier: Tier) -> anyhow::Result<Rc<Runtime>> {
        let level = Level::new(tier)?;
        ensure!(
            op.variant(level) == tier,
            "{op} has no variant {tier}; an id must name the variant that runs"
        );
        let mut made = self.made.borrow_mut();
        if let Some(rt) = made.get(&tier) {
            return Ok(Rc::clone(rt));
        }
        let options = PoolOptions {
            threads: self.threads.count,
            pin: false,
        };
        let rt = Rc::new(Runtime::with_level(level, options)?);
        made.insert(tier, Rc::clone(&rt));
        Ok(rt)
    }
}

/// The variants of `op` that this CPU can run, highest first; what it cannot run is said once.
pub fn variants(op: Op) -> Vec<Tier> {
    let (can, cannot): (Vec<Tier>, Vec<Tier>) = op
        .variants()
        .iter()
        .rev()
        .partition(|tier| Level::new(**tier).is_ok());
    for tier in cannot {
        eprintln!("{op}/{tier}: not on this CPU");
    }
    can
}
