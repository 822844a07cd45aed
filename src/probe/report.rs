//! The whole of `tokgate probe`: what is measured in which order, and what comes out.

use std::time::Duration;

use serde::Serialize;
use tokgate_kernels::limits::MacLoop;
use tokgate_kernels::{Level, Pool, PoolOptions};

use super::activity::{Activity, Snapshot};
use super::bandwidth::{Arrays, Effort, Pages, Stream};
use super::system::System;
use super::{ProbeError, Rate, peak};

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// The smallest working set that is read; all of it fits every first-level cache.
const SMALLEST_SET: usize = 16 << 10;

/// An array is at least this large, whatever the caches.
const LEAST_ARRAY: usize = 256 << 20;

/// Share of the available memory that arrays may have.
const SHARE_OF_MEMORY: u64 = 4;

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Thread counts.
    pub threads: Vec<usize>,
    /// Bytes of each array, of all threads together; chosen by the caches if `None`.
    pub array_bytes: Option<usize>,
    /// The time that it should take, about.
    pub time: Duration,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this JSON.
    pub tokgate_probe: u32,
    /// When.
    pub measured_at: String,
    /// The machine.
    pub system: System,
    /// The level of the loops.
    pub level: String,
    /// Bandwidth of memory.
    pub memory: Vec<MemoryRow>,
    /// Read bandwidth by what each thread reads again and again.
    pub working_sets: Vec<SetRow>,
    /// Multiply–accumulates from registers.
    pub peaks: Vec<PeakRow>,
    /// The clock, in GHz, that a chain of additions tells.
    pub clock: Vec<ClockRow>,
    /// What else ran meanwhile.
    pub activity: Activity,
}

/// Bandwidth of memory at a thread count, in 10⁹ bytes a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryRow {
    /// Threads, each pinned to a CPU.
    pub threads: usize,
    /// Bytes of each array, of all threads together.
    pub array_bytes: usize,
    /// With transparent huge pages, where the system gives them.
    pub read: Rate,
    /// Read and written.
    pub copy: Rate,
    /// Two read and one written.
    pub triad: Rate,
    /// With the smallest pages.
    pub read_small_pages: Rate,
}

/// Read bandwidth of a working set, in 10⁹ bytes a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetRow {
    /// Threads.
    pub threads: usize,
    /// Bytes of each thread.
    pub bytes: usize,
    /// Where all threads' sets fit: `L1`, `L2`, `L3`, or `DRAM`.
    pub fits: String,
    /// All threads together.
    pub read: Rate,
}

/// Multiply–accumulates from registers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeakRow {
    /// Threads.
    pub threads: usize,
    /// Element type of the factors.
    pub factor: String,
    /// The tier whose instructions they are.
    pub tier: String,
    /// The instructions.
    pub instructions: String,
    /// 10⁹ multiply–accumulates a second.
    pub macs: Rate,
}

/// The clock of the slowest thread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClockRow {
    /// Threads that were busy.
    pub threads: usize,
    /// GHz.
    pub ghz: Rate,
}

impl Report {
    /// The memory row of `threads`.
    pub fn memory_at(&self, threads: usize) -> Option<&MemoryRow> {
        self.memory.iter().find(|row| row.threads == threads)
    }
}

/// Measures what `plan` says; `step` is told what comes next, and how much of it is done.
///
/// # Errors
/// [`ProbeError`] if threads or memory cannot be had.
pub fn measure(plan: &Plan, step: &mut dyn FnMut(&str, f64)) -> Result<Report, ProbeError> {
    let system = System::detect();
    let level = super::level();
    let loops: Vec<MacLoop> = MacLoop::ALL
        .into_iter()
        .filter(|one| one.tier() <= level.tier())
        .collect();
    let ends = ends(&plan.threads);
    let effort = effort(plan, loops.len(), &ends);
    let before = Snapshot::now();
    let mut report = Report {
        tokgate_probe: SCHEMA,
        measured_at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        level: level.to_string(),
        memory: Vec::new(),
        working_sets: Vec::new(),
        peaks: Vec::new(),
        clock: Vec::new(),
        activity: Activity::default(),
        system,
    };
    for (at, &threads) in plan.threads.iter().enumerate() {
        let name = |what: &str| {
            let plural = if threads == 1 { "" } else { "s" };
            format!("{what}, {threads} thread{plural}")
        };
        let done = |part: f64| (at as f64 + part) / plan.threads.len() as f64;
        let pool = Pool::with_options(PoolOptions { threads, pin: true })?;
        step(&name("peaks"), done(0.0));
        for &one in &loops {
            report.peaks.push(PeakRow {
                threads,
                factor: one.factor().to_string(),
                tier: one.tier().to_string(),
                instructions: one.instructions().to_owned(),
                macs: peak::macs(&pool, level, one, effort),
            });
        }
        if let Some(ghz) = peak::clock(&pool, effort) {
            report.clock.push(ClockRow { threads, ghz });
        }
        step(&name("memory"), done(0.2));
        let bytes = plan
            .array_bytes
            .unwrap_or_else(|| default_array_bytes(&report.system, threads));
        let bytes = bytes.max(threads) / threads;
        let arrays = Arrays::new(&pool, bytes, Stream::ALL.len(), Pages::Huge)?;
        report.memory.push(measured(&pool, level, &arrays, effort)?);
        if ends.contains(&threads) {
            step(&name("working sets"), done(0.7));
            let sets = working_sets(&report.system, &arrays, &pool, level, effort);
            report.working_sets.extend(sets);
        }
    }
    step("done", 1.0);
    report.activity = before.until_now();
    Ok(report)
}

/// The memory row of `threads`, on arrays of `array_bytes` or of what the caches ask for; `time` for each stream.
///
/// # Errors
/// [`ProbeError`] if threads or memory cannot be had.
pub fn memory_row(
    system: &System,
    threads: usize,
    array_bytes: Option<usize>,
    time: Duration,
) -> Result<MemoryRow, ProbeError> {
    let pool = Pool::with_options(PoolOptions { threads, pin: true })?;
    let bytes = array_bytes.unwrap_or_else(|| default_array_bytes(system, threads)) / threads;
    let effort = Effort {
        time,
        least: 7,
        most: 100,
    };
    let arrays = Arrays::new(&pool, bytes, Stream::ALL.len(), Pages::Huge)?;
    measured(&pool, super::level(), &arrays, effort)
}

/// All streams over all of `arrays`, and the read of small pages after them.
fn measured(
    pool: &Pool,
    level: Level,
    arrays: &Arrays,
    effort: Effort,
) -> Result<MemoryRow, ProbeError> {
    let [read, copy, triad] =
        Stream::ALL.map(|stream| arrays.measure(pool, level, stream, arrays.bytes(), effort));
    let small = Arrays::new(pool, arrays.bytes(), 1, Pages::Small)?;
    Ok(MemoryRow {
        threads: pool.threads(),
        array_bytes: arrays.bytes() * pool.threads(),
        read,
        copy,
        triad,
        read_small_pages: small.measure(pool, level, Stream::Read, small.bytes(), effort),
    })
}

/// The thread counts for which everything is measured: the first and the last.
fn ends(threads: &[usize]) -> Vec<usize> {
    let mut ends: Vec<usize> = threads
        .first()
        .into_iter()
        .chain(threads.last())
        .copied()
        .collect();
    ends.dedup();
    ends
}

/// The time of each of the things that are measured.
fn effort(plan: &Plan, loops: usize, ends: &[usize]) -> Effort {
    // Four streams for each thread count count three times: they take longest, and matter most.
    let items = plan.threads.len() * (loops + 1 + 3 * 4) + ends.len() * 16;
    Effort {
        time: plan.time / u32::try_from(items).unwrap_or(u32::MAX),
        least: 7,
        most: 100,
    }
}

/// Four times the last-level cache that the threads have, as STREAM's rules want it, within reason.
fn default_array_bytes(system: &System, threads: usize) -> usize {
    let bytes = system.last_cache(threads).saturating_mul(4);
    let bytes = bytes.max(LEAST_ARRAY);
    let room = system.memory.available / SHARE_OF_MEMORY / Stream::ALL.len() as u64;
    match usize::try_from(room) {
        Ok(room) if room > 0 => bytes.min(room),
        _ => bytes,
    }
}

fn working_sets(
    system: &System,
    arrays: &Arrays,
    pool: &Pool,
    level: Level,
    effort: Effort,
) -> Vec<SetRow> {
    let sizes = std::iter::successors(Some(SMALLEST_SET), |size| size.checked_mul(2));
    let sizes = sizes.take_while(|size| *size <= arrays.bytes());
    let row = |bytes| SetRow {
        threads: pool.threads(),
        bytes,
        fits: fits(system, bytes, pool.threads()),
        read: arrays.measure(pool, level, Stream::Read, bytes, effort),
    };
    sizes.map(row).collect()
}

/// The nearest level of the hierarchy that holds `bytes` of each of `threads`.
fn fits(system: &System, bytes: usize, threads: usize) -> String {
    let holds = |cache: &&super::system::Cache| {
        // Threads spread over the instances first.
        let sharing = threads.div_ceil(cache.instances.max(1));
        bytes.saturating_mul(sharing) <= cache.bytes
    };
    let nearest = system.caches.iter().find(holds);
    nearest.map_or("DRAM".to_owned(), |cache| format!("L{}", cache.level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::system::Cache;

    #[test]
    fn working_sets_are_named_after_the_cache_that_holds_them() {
        let mut system = System::detect();
        let cache = |level, bytes, shared_by, instances| Cache {
            level,
            bytes,
            shared_by,
            instances,
        };
        system.caches = vec![
            cache(1, 32 << 10, 1, 2),
            cache(2, 512 << 10, 1, 2),
            cache(3, 32 << 20, 2, 1),
        ];
        assert_eq!(fits(&system, 32 << 10, 2), "L1");
        assert_eq!(fits(&system, 64 << 10, 1), "L2");
        assert_eq!(fits(&system, 32 << 20, 1), "L3");
        assert_eq!(fits(&system, 32 << 20, 2), "DRAM");
        system.memory.available = 24 << 30;
        assert_eq!(default_array_bytes(&system, 2), 256 << 20);
        system.memory.available = 24 << 20;
        assert_eq!(default_array_bytes(&system, 2), 2 << 20);
    }

    #[test]
    fn a_small_plan_measures_everything() {
        let plan = Plan {
            threads: vec![1, 2],
            array_bytes: Some(64 << 10),
            time: Duration::ZERO,
        };
        let mut last = 0.0;
        let report = measure(&plan, &mut |_, done| {
            assert!(done >= last);
            last = done;
        })
        .unwrap();
        assert_eq!((report.memory.len(), last), (2, 1.0));
        assert!(
            report
                .memory_at(2)
                .is_some_and(|row| row.triad.median > 0.0)
        );
        assert_eq!(report.working_sets.len(), 3 + 2);
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .starts_with("{\"tokgate_probe\":1")
        );
    }
}
