//! attention
use crate::level::Tier;
/// Variants over an f32 cache.
pub const VARIANTS_F32: &[Tier] = &[Tier::Scalar];
/// Variants over a bf16 cache.
pub const VARIANTS_BF16: &[Tier] = &[Tier::Scalar];
