//! The list of operations: what there is to test, to bench and to name in an id.

use std::fmt;

use crate::level::{Level, Tier};
use crate::{attention, elementwise, matmul, moe, rope};

/// An operation on one element type: the first two parts of an id such as
/// `matmul/q8_0/avx512vnni/m1_k4096_n11008`.
///
/// The grid test and the benches match on it without a wildcard, so that an operation which they do not cover does not
/// compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`matmul()`] with f32 weights.
    MatmulF32,
    /// [`matmul()`] with f16 weights.
    MatmulF16,
    /// [`matmul()`] with bf16 weights.
    MatmulBf16,
    /// [`matmul()`] with Q8_0 weights.
    MatmulQ8_0,
    /// [`attention()`] over an f32 cache.
    AttentionF32,
    /// [`attention()`] over a bf16 cache.
    AttentionBf16,
    /// [`route()`](crate::route).
    MoeRoute,
    /// [`moe_ffn()`](crate::moe_ffn) with f32 experts.
    MoeF32,
    /// [`moe_ffn()`](crate::moe_ffn) with f16 experts.
    MoeF16,
    /// [`moe_ffn()`](crate::moe_ffn) with bf16 experts.
    MoeBf16,
    /// [`moe_ffn()`](crate::moe_ffn) with Q8_0 experts.
    MoeQ8_0,
    /// [`rms_norm()`](crate::rms_norm).
    RmsNorm,
    /// [`rope()`](crate::rope()).
    Rope,
    /// [`swiglu()`](crate::swiglu).
    Swiglu,
    /// [`add()`](crate::add).
    Add,
    /// [`softmax()`](crate::softmax).
    Softmax,
}

impl Op {
    /// All operations, in the order of ids.
    pub const ALL: [Self; 16] = [
        Self::MatmulF32,
        Self::MatmulF16,
        Self::MatmulBf16,
        Self::MatmulQ8_0,
        Self::AttentionF32,
        Self::AttentionBf16,
        Self::MoeRoute,
        Self::MoeF32,
        Self::MoeF16,
        Self::MoeBf16,
        Self::MoeQ8_0,
        Self::RmsNorm,
        Self::Rope,
        Self::Swiglu,
        Self::Add,
        Self::Softmax,
    ];

    /// The first two parts of an id, `operation/dtype`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MatmulF32 => "matmul/f32",
            Self::MatmulF16 => "matmul/f16",
            Self::MatmulBf16 => "matmul/bf16",
            Self::MatmulQ8_0 => "matmul/q8_0",
            Self::AttentionF32 => "attention/f32",
            Self::AttentionBf16 => "attention/bf16",
            Self::MoeRoute => "moe_route/f32",
            Self::MoeF32 => "moe/f32",
            Self::MoeF16 => "moe/f16",
            Self::MoeBf16 => "moe/bf16",
            Self::MoeQ8_0 => "moe/q8_0",
            Self::RmsNorm => "rms_norm/f32",
            Self::Rope => "rope/f32",
            Self::Swiglu => "swiglu/f32",
            Self::Add => "add/f32",
            Self::Softmax => "softmax/f32",
        }
    }

    /// The tiers that have a variant of their own, lowest first; the first is [`Tier::Scalar`].
    pub const fn variants(self) -> &'static [Tier] {
        match self {
            Self::MatmulF32 => matmul::VARIANTS_F32,
            Self::MatmulF16 => matmul::VARIANTS_F16,
            Self::MatmulBf16 => matmul::VARIANTS_BF16,
            Self::MatmulQ8_0 => matmul::VARIANTS_Q8_0,
            Self::AttentionF32 => attention::VARIANTS_F32,
            Self::AttentionBf16 => attention::VARIANTS_BF16,
            Self::MoeRoute => moe::VARIANTS_ROUTE,
            Self::MoeF32 => matmul::VARIANTS_F32,
            Self::MoeF16 => matmul::VARIANTS_F16,
            Self::MoeBf16 => matmul::VARIANTS_BF16,
            Self::MoeQ8_0 => matmul::VARIANTS_Q8_0,
            Self::RmsNorm => elementwise::VARIANTS_RMS_NORM,
            Self::Rope => rope::VARIANTS,
            Self::Swiglu => elementwise::VARIANTS_SWIGLU,
            Self::Add => elementwise::VARIANTS_ADD,
            Self::Softmax => elementwise::VARIANTS_SOFTMAX,
        }
    }

    /// The variant that runs at `level`: the highest one that the level can run.
    pub fn variant(self, level: Level) -> Tier {
        let usable = self
            .variants()
            .iter()
            .rev()
            .find(|tier| **tier <= level.tier());
        usable.copied().unwrap_or(Tier::Scalar)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_listed_once_with_its_scalar_oracle() {
        for (at, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, at);
            assert_eq!(op.variants()[0], Tier::Scalar);
            assert!(op.variants().is_sorted());
            assert_eq!(op.variant(Level::SCALAR), Tier::Scalar);
        }
    }
}
