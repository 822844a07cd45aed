//! matmul
use crate::level::Tier;
/// Variants with f32 weights.
pub const VARIANTS_F32: &[Tier] = &[Tier::Scalar];
/// Variants with f16 weights.
pub const VARIANTS_F16: &[Tier] = &[Tier::Scalar];
/// Variants with bf16 weights.
pub const VARIANTS_BF16: &[Tier] = &[Tier::Scalar];
/// Variants with Q8_0 weights.
pub const VARIANTS_Q8_0: &[Tier] = &[Tier::Scalar];
