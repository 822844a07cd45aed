//! The only place that asks the CPU what it can do.
//!
//! A [`Level`] can be had from this module alone, and only for a tier that the running CPU has: holding one *is* the
//! proof that the instructions of its tier, and of every tier below, may be executed. Kernels take the proof as an
//! argument, dispatch on it once at their outermost call, and need no further check.
//!
//! Tiers form a ladder, because that is how CPUs ship: whoever has AVX-512 bf16 has VNNI, whoever has VNNI has AVX2.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Environment variable that forces a tier for [`Level::from_env`].
pub const LEVEL_ENV: &str = "TOKGATE_LEVEL";

/// A rung of the instruction-set ladder; a name only, which says nothing about the running CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Portable Rust without intrinsics: the oracle that every other variant is tested against.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, CD, DQ, VL and VNNI.
    Avx512Vnni,
    /// [`Tier::Avx512Vnni`] with AVX-512 BF16.
    Avx512Bf16,
}

impl Tier {
    /// All tiers, lowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512Vnni, Self::Avx512Bf16];

    /// The tier's name in ids, in `TOKGATE_LEVEL` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Tier {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Self, LevelError> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| LevelError::Unknown(name.to_owned()))
    }
}

/// Why a level could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// The name is not that of a tier.
    #[error("'{0}' is not a kernel level; the levels are scalar, avx2, avx512vnni and avx512bf16")]
    Unknown(String),
    /// The running CPU lacks instructions of the tier.
    #[error(
        "this CPU cannot run kernel level '{wanted}'; the highest that it can run is '{highest}'"
    )]
    Unavailable {
        /// The tier that was asked for.
        wanted: Tier,
        /// The highest tier of this CPU.
        highest: Tier,
    },
}

/// Proof that the running CPU executes the instructions of a [`Tier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(Tier);

impl Level {
    /// The level that every CPU has.
    pub const SCALAR: Self = Self(Tier::Scalar);

    /// The highest level of the running CPU; detected once, then remembered.
    pub fn highest() -> Self {
        static HIGHEST: OnceLock<Level> = OnceLock::new();
        *HIGHEST.get_or_init(|| Self(detect()))
    }

    /// The level for `tier`.
    ///
    /// # Errors
    /// [`LevelError::Unavailable`] if the CPU lacks it. There is no fallback to a lower one: whoever forces a level
    /// wants that level's figures.
    pub fn new(tier: Tier) -> Result<Self, LevelError> {
        let highest = Self::highest().0;
        if tier <= highest {
            Ok(Self(tier))
        } else {
            Err(LevelError::Unavailable {
                wanted: tier,
                highest,
            })
        }
    }

    /// The level to run at unless told otherwise: the fastest, which is the highest but for one case.
    ///
    /// Zen 4 and later start a `vdpbf16ps` of a whole register every cycle, which is twice the MACs of an f32 FMA.
    /// Intel's cores take the slots of four FMA for it: measured from registers on Emerald Rapids, 43 GMAC/s a thread
    /// against 88. Widening bf16 to f32 is twice as fast there, so that the bf16 tier runs only where it is asked for.
    pub fn preferred() -> Self {
        static PREFERRED: OnceLock<Level> = OnceLock::new();
        *PREFERRED.get_or_init(|| {
            let slow_bf16 = !has_fast_bf16();
            let chosen =
                Self::available().filter(|level| !(slow_bf16 && level.0 == Tier::Avx512Bf16));
            chosen.last().unwrap_or(Self::SCALAR)
        })
    }

    /// The level that `TOKGATE_LEVEL` forces, or the preferred one where the variable is unset or empty.
    ///
    /// # Errors
    /// [`LevelError`] if the variable names no tier, or one that the CPU lacks.
    pub fn from_env() -> Result<Self, LevelError> {
        match std::env::var_os(LEVEL_ENV) {
            Some(name) if !name.is_empty() => Self::new(name.to_string_lossy().parse()?),
            _ => Ok(Self::preferred()),
        }
    }

    /// Every level of the running CPU, lowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let highest = Self::highest();
        Tier::ALL
            .into_iter()
            .map(Self)
            .filter(move |level| *level <= highest)
    }

    /// The tier whose instructions this level proves.
    pub const fn tier(self) -> Tier {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Tier {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let vnni = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    if vnni && is_x86_feature_detected!("avx512bf16") {
        Tier::Avx512Bf16
    } else if vnni {
        Tier::Avx512Vnni
    } else if avx2 {
        Tier::Avx2
    } else {
        Tier::Scalar
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Tier {
    Tier::Scalar
}

/// Whether the CPU, if it has bf16 instructions at all, gains from them.
#[cfg(target_arch = "x86_64")]
fn has_fast_bf16() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    let vendor = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    vendor.as_flattened() != b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn has_fast_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_named() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
        let error = "avx1024".parse::<Tier>().unwrap_err();
        assert!(error.to_string().contains("'avx1024'"), "{error}");
    }

    #[test]
    fn a_tier_above_the_highest_is_an_error() {
        for tier in Tier::ALL {
            assert_eq!(Level::new(tier).is_ok(), tier <= Level::highest().tier());
        }
        assert_eq!(Level::available().next(), Some(Level::SCALAR));
        assert_eq!(Level::available().last(), Some(Level::highest()));
        assert!(Level::available().any(|level| level == Level::preferred()));
    }
}
