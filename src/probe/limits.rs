//! The machine's limits beside a measurement, in the same minute and on the same threads: what bytes and
//! multiply–accumulates must have cost at least.
//!
//! BOUND. A phase of work (a prompt, a generation) that reads b bytes and does c multiply–accumulates takes at least
//! max(b / bandwidth, c / peak). The larger of the two names the resource that limits it.
//!
//! WHY around each repetition. Bandwidth drifts by a half within minutes on shared machines, and has bursts. A limit
//! from another minute would call good code bad, or find more than 100 %.

use serde::Serialize;
use tokgate_kernels::limits::{Factor, MacLoop};
use tokgate_kernels::{DType, Level, Runtime};

use super::bandwidth::{Arrays, Pages, Stream};
use super::system::System;
use super::{ProbeError, peak};

/// What is read in all, if the work reads as much: far more than caches hold.
const LEAST_ARRAY: usize = 256 << 20;

/// Samples of which the best counts: neighbours only ever take away.
const TRIES: usize = 3;

/// What a thing costs at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Bytes read.
    Read,
    /// Multiply–accumulates of a type.
    Int8,
    /// See [`Self::Int8`].
    Bf16,
    /// See [`Self::Int8`].
    F32,
}

impl Resource {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Int8 => Factor::Int8.name(),
            Self::Bf16 => Factor::Bf16.name(),
            Self::F32 => Factor::F32.name(),
        }
    }

    const fn of(factor: Factor) -> Self {
        match factor {
            Factor::Int8 => Self::Int8,
            Factor::Bf16 => Self::Bf16,
            Factor::F32 => Self::F32,
        }
    }
}

/// A part of some work with a limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Bytes of weights and of keys and values.
    pub bytes: u64,
    /// Multiply–accumulates.
    pub macs: u64,
}

/// What the machine reached at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reached {
    /// 10⁹ bytes read a second.
    pub gbs: f64,
    /// 10⁹ multiply–accumulates a second, and of which type; `None` where the level has no instruction for them.
    pub macs: Option<(Resource, f64)>,
}

impl Reached {
    /// Half way between two moments.
    pub fn between(self, other: Self) -> Self {
        let half = |a: f64, b: f64| (a + b) / 2.0;
        Self {
            gbs: half(self.gbs, other.gbs),
            macs: self
                .macs
                .zip(other.macs)
                .map(|((factor, a), (_, b))| (factor, half(a, b))),
        }
    }

    /// The least nanoseconds that `phases` take one after the other, and the resource that takes most of it; `None` if a
    /// phase does arithmetic whose peak is not known, beyond what reading hides.
    pub fn bound(&self, phases: &[Phase]) -> Option<(f64, Resource)> {
        let mut shares: Vec<(f64, Resource)> = Vec::new();
        for phase in phases.iter().filter(|phase| **phase != Phase::default()) {
            let read = (phase.bytes as f64 / self.gbs, Resource::Read);
            let (factor, gmacs) = self.macs?;
            let macs = (phase.macs as f64 / gmacs, factor);
            shares.push(if macs.0 > read.0 { macs } else { read });
        }
        let all = shares.iter().map(|(ns, _)| ns).sum();
        let most = shares.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((all, most.1))
    }
}

/// What measures limits on the threads of a runtime.
#[derive(Debug)]
pub struct Limits {
    arrays: Arrays,
    level: Level,
    macs: Option<MacLoop>,
}

impl Limits {
    /// For work on `rt` that reads `bytes` again and again, of weights of `dtype`.
    ///
    /// Work that fits a cache is held to the cache's bandwidth: as much is read here as the work reads, up to four times
    /// the last-level cache.
    ///
    /// # Errors
    /// [`ProbeError`] if there is no memory for it.
    pub fn new(rt: &Runtime, dtype: DType, bytes: u64) -> Result<Self, ProbeError> {
        let threads = rt.pool().threads();
        let most = System::detect().last_cache(threads).saturating_mul(4);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let bytes = bytes.min(most.max(LEAST_ARRAY)).div_ceil(threads);
        Ok(Self {
            arrays: Arrays::new(rt.pool(), bytes, Stream::Read.arrays(), Pages::Huge)?,
            level: super::level(),
            macs: mac_loop(dtype, rt.level()),
        })
    }

    /// What the machine reaches now; takes some tens of milliseconds.
    pub fn now(&self, rt: &Runtime) -> Reached {
        let best = |one: &dyn Fn() -> f64| (0..TRIES).map(|_| one()).fold(0.0, f64::max);
        // A set that a cache holds is read often enough that the clock can be trusted.
        let all = self.arrays.bytes() * rt.pool().threads();
        let passes = u32::try_from((LEAST_ARRAY / 4).div_ceil(all)).unwrap_or(1);
        let read = || {
            let (pool, level) = (rt.pool(), self.level);
            let bytes = self.arrays.bytes();
            self.arrays.sample(pool, level, Stream::Read, bytes, passes)
        };
        Reached {
            gbs: best(&read),
            macs: self.macs.map(|one| {
                let gmacs = best(&|| peak::macs_once(rt.pool(), rt.level(), one));
                (Resource::of(one.factor()), gmacs)
            }),
        }
    }
}

/// The fastest multiply–accumulates by which a product with weights of `dtype` can be taken at `level`: their own type's,
/// or f32's where the level has none for it.
fn mac_loop(dtype: DType, level: Level) -> Option<MacLoop> {
    let own = match dtype {
        DType::Q8_0 => Factor::Int8,
        DType::Bf16 => Factor::Bf16,
        DType::F32 | DType::F16 => Factor::F32,
    };
    MacLoop::of(own, level).or_else(|| MacLoop::of(Factor::F32, level))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Phase = Phase {
        bytes: 100,
        macs: 10_000,
    };
    const GENERATION: Phase = Phase {
        bytes: 1000,
        macs: 1000,
    };

    #[test]
    fn the_slower_resource_is_the_limit() {
        let reached = Reached {
            gbs: 10.0,
            macs: Some((Resource::Int8, 50.0)),
        };
        assert_eq!(reached.bound(&[PROMPT]), Some((200.0, Resource::Int8)));
        assert_eq!(reached.bound(&[GENERATION]), Some((100.0, Resource::Read)));
        assert_eq!(
            reached.bound(&[PROMPT, GENERATION]),
            Some((300.0, Resource::Int8))
        );
        assert_eq!(reached.bound(&[Phase::default()]), None);
        let unknown = Reached {
            macs: None,
            ..reached
        };
        assert_eq!(unknown.bound(&[GENERATION]), None);
        let faster = Reached {
            gbs: 20.0,
            macs: Some((Resource::Int8, 100.0)),
        };
        let between = reached.between(faster);
        assert_eq!(
            (between.gbs, between.macs),
            (15.0, Some((Resource::Int8, 75.0)))
        );
    }

    #[test]
    fn a_small_set_is_read_from_cache() {
        let rt = Runtime::new(2).unwrap();
        let limits = Limits::new(&rt, DType::Q8_0, 100_000).unwrap();
        assert_eq!(limits.arrays.bytes(), 50_176);
        let reached = limits.now(&rt);
        assert!(reached.gbs > 0.0);
        assert_eq!(reached.macs.is_some(), rt.level() > Level::SCALAR);
    }
}
