//! How fast memory and caches are read and written, as STREAM measures it: by threads that are each given an array of
//! their own, which they touched first, so that it lies near their core.
//!
//! BYTES. A read counts what is read; a copy what is read and written; a triad `a = b + s · c` the two arrays that are
//! read and the one that is written. Writes go past the caches, so that nothing is read which is not counted.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use serde::Serialize;
use tokgate_kernels::{Level, Pool, limits};

use super::{ProbeError, Rate};

/// What is done with the arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// One array is read.
    Read,
    /// One array is copied to another.
    Copy,
    /// `a = b + s · c`.
    Triad,
}

impl Stream {
    /// All of them, in the order of the arrays that they need.
    pub const ALL: [Self; 3] = [Self::Read, Self::Copy, Self::Triad];

    /// Arrays that take part.
    pub const fn arrays(self) -> usize {
        match self {
            Self::Read => 1,
            Self::Copy => 2,
            Self::Triad => 3,
        }
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Copy => "copy",
            Self::Triad => "triad",
        }
    }
}

/// Which pages the system is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Transparent huge pages, where the system grants them to who asks.
    Huge,
    /// The smallest.
    Small,
}

/// How long something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Samples are taken until this time has passed,
    pub time: Duration,
    /// but not fewer than these,
    pub least: usize,
    /// and not more than these.
    pub most: usize,
}

/// A sample takes this long at least, so that neither the clock nor the start of the threads matter.
const LONG_ENOUGH: Duration = Duration::from_millis(2);

/// Arrays for the workers of a pool.
#[derive(Debug)]
pub struct Arrays {
    parts: Vec<Mutex<Vec<MmapMut>>>,
    bytes: usize,
}

impl Arrays {
    /// `arrays` of `bytes`, rounded up to [`limits::STREAM_GRANULE`], for each worker of `pool`.
    ///
    /// # Errors
    /// [`ProbeError::Memory`] if there is no room for them.
    pub fn new(pool: &Pool, bytes: usize, arrays: usize, pages: Pages) -> Result<Self, ProbeError> {
        let bytes = bytes.max(1).next_multiple_of(limits::STREAM_GRANULE);
        let map = || -> Result<MmapMut, ProbeError> {
            let map =
                MmapMut::map_anon(bytes).map_err(|source| ProbeError::Memory { bytes, source })?;
            // A system without transparent huge pages says that it has none; then there are small ones either way.
            let _ = map.advise(match pages {
                Pages::Huge => Advice::HugePage,
                Pages::Small => Advice::NoHugePage,
            });
            Ok(map)
        };
        let part = || (0..arrays).map(|_| map()).collect::<Result<Vec<_>, _>>();
        let parts = (0..pool.threads())
            .map(|_| Ok(Mutex::new(part()?)))
            .collect::<Result<Vec<_>, ProbeError>>()?;
        let arrays = Self { parts, bytes };
        pool.run(|worker| {
            for (at, map) in arrays.part(worker).iter_mut().enumerate() {
                // As f32 neither subnormal nor growing beyond all bounds.
                map.fill(0x3e + at as u8);
            }
        });
        Ok(arrays)
    }

    /// Bytes of one array of one worker.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rate of `stream` over the first `bytes` of each worker's arrays, all workers at the same time: 10⁹ bytes a
    /// second.
    pub fn measure(
        &self,
        pool: &Pool,
        level: Level,
        stream: Stream,
        bytes: usize,
        effort: Effort,
    ) -> Rate {
        let mut passes = 1_u32;
        let start = Instant::now();
        while self.time(pool, level, stream, bytes, passes) < LONG_ENOUGH && passes < 1 << 24 {
            passes *= 2;
        }
        let mut samples = Vec::new();
        while samples.len() < effort.least
            || (samples.len() < effort.most && start.elapsed() < effort.time)
        {
            samples.push(self.sample(pool, level, stream, bytes, passes));
        }
        Rate::of(&samples)
    }

    /// One sample of `passes` over the first `bytes` of each worker's arrays: 10⁹ bytes a second.
    pub fn sample(
        &self,
        pool: &Pool,
        level: Level,
        stream: Stream,
        bytes: usize,
        passes: u32,
    ) -> f64 {
        let time = self.time(pool, level, stream, bytes, passes);
        let moved = self.len(bytes) * stream.arrays() * pool.threads() * passes as usize;
        moved as f64 / time.as_nanos().max(1) as f64
    }

    fn time(
        &self,
        pool: &Pool,
        level: Level,
        stream: Stream,
        bytes: usize,
        passes: u32,
    ) -> Duration {
        assert_eq!(
            pool.threads(),
            self.parts.len(),
            "the arrays are another pool's"
        );
        let len = self.len(bytes);
        let start = Instant::now();
        pool.run(|worker| {
            let mut part = self.part(worker);
            for _ in 0..passes {
                match (stream, &mut part[..]) {
                    (Stream::Read, [a, ..]) => {
                        black_box(limits::read(level, black_box(&a[..len])));
                    }
                    (Stream::Copy, [a, b, ..]) => {
                        limits::copy(level, black_box(&mut a[..len]), &b[..len]);
                    }
                    (Stream::Triad, [a, b, c, ..]) => {
                        limits::triad(level, black_box(&mut a[..len]), &b[..len], &c[..len]);
                    }
                    _ => panic!("{} arrays are needed", stream.arrays()),
                }
            }
        });
        start.elapsed()
    }

    /// What of each array takes part.
    fn len(&self, bytes: usize) -> usize {
        bytes
            .clamp(1, self.bytes)
            .next_multiple_of(limits::STREAM_GRANULE)
    }

    fn part(&self, worker: usize) -> std::sync::MutexGuard<'_, Vec<MmapMut>> {
        self.parts[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_move_the_bytes_that_they_count() {
        let pool = Pool::new(2).unwrap();
        let arrays = Arrays::new(&pool, 10_000, 3, Pages::Small).unwrap();
        assert_eq!(arrays.bytes(), 10_240);
        let effort = Effort {
            time: Duration::ZERO,
            least: 2,
            most: 3,
        };
        for level in Level::available() {
            for stream in Stream::ALL {
                let rate = arrays.measure(&pool, level, stream, usize::MAX, effort);
                assert!(rate.median > 0.0 && rate.samples == 2, "{rate:?}");
            }
        }
        let part = arrays.part(1);
        let float = |array: usize| f32::from_ne_bytes(part[array][10_236..].try_into().unwrap());
        assert_eq!(float(0), float(1) + 3.0 * float(2));
    }
}
