//! elementwise
use crate::level::Tier;
/// Variants of [`rms_norm`].
pub const VARIANTS_RMS_NORM: &[Tier] = &[Tier::Scalar];
/// Variants of [`swiglu`].
pub const VARIANTS_SWIGLU: &[Tier] = &[Tier::Scalar];
/// Variants of [`add`].
pub const VARIANTS_ADD: &[Tier] = &[Tier::Scalar];
/// Variants of [`softmax`].
pub const VARIANTS_SOFTMAX: &[Tier] = &[Tier::Scalar];
