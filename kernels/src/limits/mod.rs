//! What the machine can do at most: loops that do one thing and nothing else, to hold the kernels' figures against.
//!
//! They have no clock. Each says how much it did; whoever calls it knows how long that took.
//!
//! NUMERICS. All factors are 1, so that the accumulators of a [`MacLoop`] end as the number of multiply–accumulates that
//! were executed: the count is the result of the arithmetic itself, and an optimiser that left some out would be seen.
//!
//! WHY. A product runs from registers at the rate at which its instructions start, which the tables of a vendor tell for
//! the nominal clock of a machine that has it for itself. On shared and throttled machines the rate is what is measured.
//! Streams write past the caches, since a cache line that is read before it is overwritten is traffic nobody asked for.

use std::fmt;

use crate::level::{Level, Tier};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Element type of the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// Bytes, summed in i32.
    Int8,
    /// bfloat16, summed in f32.
    Bf16,
    /// binary32.
    F32,
}

impl Factor {
    /// All types, narrowest first.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Bf16, Self::F32];

    /// The type's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Multiply–accumulates from registers, by the shortest sequence of instructions that a tier has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MacLoop {
    /// 32 MACs in three 256-bit instructions.
    Int8Avx2,
    /// 64 MACs in one 512-bit instruction.
    Int8Vnni,
    /// 32 MACs in one 512-bit instruction.
    Bf16Dot,
    /// 8 MACs in one 256-bit instruction.
    F32Avx2,
    /// 16 MACs in one 512-bit instruction.
    F32Avx512,
}

impl MacLoop {
    /// All loops, by element type and then by tier.
    pub const ALL: [Self; 5] = [
        Self::Int8Avx2,
        Self::Int8Vnni,
        Self::Bf16Dot,
        Self::F32Avx2,
        Self::F32Avx512,
    ];

    /// The most rounds of one call: beyond them an f32 could not count on.
    pub const MAX_ROUNDS: u32 = 1 << 22;

    /// Element type of its factors.
    pub const fn factor(self) -> Factor {
        match self {
            Self::Int8Avx2 | Self::Int8Vnni => Factor::Int8,
            Self::Bf16Dot => Factor::Bf16,
            Self::F32Avx2 | Self::F32Avx512 => Factor::F32,
        }
    }

    /// The lowest tier that has its instructions.
    pub const fn tier(self) -> Tier {
        match self {
            Self::Int8Avx2 | Self::F32Avx2 => Tier::Avx2,
            Self::Int8Vnni | Self::F32Avx512 => Tier::Avx512Vnni,
            Self::Bf16Dot => Tier::Avx512Bf16,
        }
    }

    /// Its instructions.
    pub const fn instructions(self) -> &'static str {
        match self {
            Self::Int8Avx2 => "vpmaddubsw+vpmaddwd+vpaddd",
            Self::Int8Vnni => "vpdpbusd zmm",
            Self::Bf16Dot => "vdpbf16ps zmm",
            Self::F32Avx2 => "vfmadd ymm",
            Self::F32Avx512 => "vfmadd zmm",
        }
    }

    /// The loop for `factor` at `level`: that of its highest tier; `None` where no instruction multiplies this type.
    pub fn of(factor: Factor, level: Level) -> Option<Self> {
        let usable = |one: &Self| one.factor() == factor && one.tier() <= level.tier();
        Self::ALL.into_iter().rfind(usable)
    }

    /// Executes `rounds` of the loop on this thread, and returns the multiply–accumulates: about a hundred a round.
    ///
    /// # Panics
    /// If `rounds` is above [`Self::MAX_ROUNDS`], or the level is below the loop's tier.
    pub fn run(self, level: Level, rounds: u32) -> u64 {
        assert!(
            rounds <= Self::MAX_ROUNDS,
            "{rounds} rounds cannot be counted"
        );
        assert!(self.tier() <= level.tier(), "{self:?} at level {level}");
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: the level proves the tier, as was asserted.
            unsafe {
                match self {
                    Self::Int8Avx2 => avx2::int8(rounds),
                    Self::F32Avx2 => avx2::f32(rounds),
                    Self::Int8Vnni => avx512::int8(rounds),
                    Self::Bf16Dot => avx512::bf16(rounds),
                    Self::F32Avx512 => avx512::f32(rounds),
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no level of this architecture has {self:?}")
    }
}

/// What the parts of a stream must be a multiple of, and aligned to.
pub const STREAM_GRANULE: usize = 256;

/// Reads `data` once, front to back, and returns a checksum of it.
///
/// One stream and no prefetch: asking ahead of the hardware's prefetchers cost a fifth of the bandwidth on Zen 3.
///
/// # Panics
/// If `data` is not aligned to, or no multiple of, [`STREAM_GRANULE`].
pub fn read(level: Level, data: &[u8]) -> u64 {
    assert_granules(data);
    match level.tier() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves AVX-512 F.
        Tier::Avx512Vnni | Tier::Avx512Bf16 => unsafe { avx512::read(data) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves AVX2.
        Tier::Avx2 => unsafe { avx2::read(data) },
        _ => words(data).fold(0, |sum, word| sum ^ word),
    }
}

/// Copies `from` to `to`, past the caches where the level has AVX2.
///
/// # Panics
/// If the lengths differ, or a slice is not aligned to, or no multiple of, [`STREAM_GRANULE`].
pub fn copy(level: Level, to: &mut [u8], from: &[u8]) {
    assert_granules(to);
    assert_granules(from);
    assert_eq!(to.len(), from.len());
    match level.tier() {
        Tier::Scalar => to.copy_from_slice(from),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves AVX2; lengths and alignment were asserted.
        _ => unsafe { avx2::copy(to, from) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => to.copy_from_slice(from),
    }
}

/// `a = b + 3 · c` on slices of f32, as bytes, past the caches where the level has AVX2.
///
/// # Panics
/// If the lengths differ, or a slice is not aligned to, or no multiple of, [`STREAM_GRANULE`].
pub fn triad(level: Level, a: &mut [u8], b: &[u8], c: &[u8]) {
    assert_granules(a);
    assert_granules(b);
    assert_granules(c);
    assert!(a.len() == b.len() && a.len() == c.len());
    match level.tier() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level proves AVX2 and FMA; lengths and alignment were asserted.
        Tier::Avx2 | Tier::Avx512Vnni | Tier::Avx512Bf16 => unsafe { avx2::triad(a, b, c) },
        _ => {
            let factors = b.as_chunks::<4>().0.iter().zip(c.as_chunks::<4>().0);
            for (a, (b, c)) in a.as_chunks_mut::<4>().0.iter_mut().zip(factors) {
                *a = (f32::from_ne_bytes(*b) + 3.0 * f32::from_ne_bytes(*c)).to_ne_bytes();
            }
        }
    }
}

/// Spends about `cycles` cycles of the core's clock in a chain of additions, each of which waits for the one before, and
/// returns how many; `None` where that is not known.
///
/// An addition of registers takes one cycle on every x86-64 core, so that the time tells the frequency.
pub fn spend_cycles(cycles: u64) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        const CHAIN: u64 = 64;
        let (rounds, one) = (cycles.div_ceil(CHAIN), 1_u64);
        let mut sum = 0_u64;
        for _ in 0..rounds {
            // SAFETY: it adds one register to another, 64 times.
            unsafe {
                std::arch::asm!(
                    ".rept 64",
                    "add {sum}, {one}",
                    ".endr",
                    sum = inout(reg) sum,
                    one = in(reg) one,
                    options(pure, nomem, nostack)
                );
            }
        }
        Some(sum)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = cycles;
        None
    }
}

fn assert_granules(data: &[u8]) {
    assert!(
        data.len().is_multiple_of(STREAM_GRANULE)
            && data.as_ptr().addr().is_multiple_of(STREAM_GRANULE),
        "a stream's slices come in granules of {STREAM_GRANULE} bytes"
    );
}

fn words(data: &[u8]) -> impl Iterator<Item = u64> {
    data.as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accumulators_count_every_mac() {
        for level in Level::available() {
            for one in MacLoop::ALL {
                if one.tier() > level.tier() {
                    continue;
                }
                let a_round = one.run(level, 1);
                assert!(a_round >= 64, "{one:?}: {a_round}");
                assert_eq!(one.run(level, 0), 0);
                assert_eq!(one.run(level, 1000), 1000 * a_round, "{one:?}");
                assert_eq!(
                    one.run(level, MacLoop::MAX_ROUNDS),
                    u64::from(MacLoop::MAX_ROUNDS) * a_round,
                    "{one:?}"
                );
            }
        }
        let highest = Level::highest();
        for factor in Factor::ALL {
            let one = MacLoop::of(factor, highest);
            assert!(one.is_none_or(|one| one.factor() == factor && one.tier() <= highest.tier()));
            assert_eq!(MacLoop::of(factor, Level::SCALAR), None);
        }
    }

    #[test]
    #[should_panic(expected = "at level scalar")]
    fn a_loop_above_the_level_is_refused() {
        MacLoop::F32Avx2.run(Level::SCALAR, 1);
    }

    #[test]
    fn streams_do_the_same_at_every_level() {
        // Rows of granules, of which one is aligned.
        #[repr(align(256))]
        struct Aligned([u8; 4096]);
        let mut b = Aligned([0; 4096]);
        let mut c = Aligned([0; 4096]);
        for (i, (b, c)) in b.0.chunks_mut(4).zip(c.0.chunks_mut(4)).enumerate() {
            b.copy_from_slice(&(i as f32).to_ne_bytes());
            c.copy_from_slice(&(0.5 * i as f32).to_ne_bytes());
        }
        let want = words(&b.0).fold(0, |sum, word| sum ^ word);
        for level in Level::available() {
            for bytes in [0, 256, 768, 4096] {
                let mut a = Aligned([7; 4096]);
                copy(level, &mut a.0[..bytes], &b.0[..bytes]);
                assert_eq!(a.0[..bytes], b.0[..bytes], "{level}");
                triad(level, &mut a.0[..bytes], &b.0[..bytes], &c.0[..bytes]);
                for (i, a) in a.0[..bytes].as_chunks::<4>().0.iter().enumerate() {
                    assert_eq!(f32::from_ne_bytes(*a), 2.5 * i as f32, "{level}");
                }
                assert!(a.0[bytes..].iter().all(|byte| *byte == 7), "{level}");
            }
            assert_eq!(read(level, &b.0), want, "{level}");
        }
    }

    #[test]
    #[should_panic(expected = "granules")]
    fn an_odd_length_is_refused() {
        read(Level::SCALAR, &[0; 3]);
    }

    #[test]
    fn a_chain_has_the_links_that_were_asked_for() {
        if let Some(cycles) = spend_cycles(6400) {
            assert_eq!(cycles, 6400);
        }
    }
}
