//! Where ranks come from: `mpirun`, or threads of this process, or there is only one.

use std::thread;
use std::time::Duration;

use crate::cluster::wire::{ThreadWire, Wire};

/// Threads of one process end together: how long they wait for each other matters only where one panicked.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What a rank does.
type Job<'a> = &'a (dyn Fn(&mut dyn Wire) -> anyhow::Result<()> + Sync);

/// Runs `job` on `in_process` threads, or on the ranks that `mpirun` started.
///
/// # Errors
/// The first rank's error that says most.
pub fn ranks(in_process: Option<usize>, job: Job<'_>) -> anyhow::Result<()> {
    match in_process {
        Some(ranks) => threads(ranks, job),
        None => processes(job),
    }
}

fn threads(ranks: usize, job: Job<'_>) -> anyhow::Result<()> {
    let wires = ThreadWire::all(ranks, PATIENCE);
    let outcomes: Vec<anyhow::Result<()>> = thread::scope(|scope| {
        let threads = wires
            .into_iter()
            .map(|mut wire| scope.spawn(move || job(&mut wire)));
        let threads: Vec<_> = threads.collect();
        let outcomes = threads.into_iter().map(|thread| {
            let outcome = thread.join();
            outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("a rank panicked")))
        });
        outcomes.collect()
    });
    // Whoever failed first made the others lose it: its reason is the one that is no consequence.
    let lost = |error: &anyhow::Error| {
        error
            .chain()
            .any(|cause| cause.to_string().ends_with("has ended"))
    };
    let mut errors: Vec<anyhow::Error> = outcomes.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(lost);
    errors.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(feature = "mpi")]
fn processes(job: Job<'_>) -> anyhow::Result<()> {
    match started_by_mpirun() {
        true => crate::cluster::mpi::launch(|wire| job(wire))?,
        false => threads(1, job),
    }
}

#[cfg(not(feature = "mpi"))]
fn processes(job: Job<'_>) -> anyhow::Result<()> {
    if started_by_mpirun() {
        anyhow::bail!(
            "this tokgate was built without MPI; `cargo install --features mpi` has it, or run threads with \
             --in-process"
        );
    }
    threads(1, job)
}

/// Whether a launcher of Open MPI, MPICH or Slurm started this process.
fn started_by_mpirun() -> bool {
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}
