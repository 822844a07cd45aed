//! moe
use crate::level::Tier;
/// Variants of the router.
pub const VARIANTS_ROUTE: &[Tier] = &[Tier::Scalar];
