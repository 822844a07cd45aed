//! rope
use crate::level::Tier;
/// Variants.
pub const VARIANTS: &[Tier] = &[Tier::Scalar];
