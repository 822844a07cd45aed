//! What each operation is benched as.

use tokgate_kernels::{DType, Op};

use super::elementwise::{ADD, Kernel, RMS_NORM, ROPE, SOFTMAX, SWIGLU};

/// A family of operations that are benched alike.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A product with weights of this type.
    Matmul(DType),
    /// Attention over a cache of this type.
    Attention(DType),
    /// The choice of experts.
    Router,
    /// The feed-forward of experts of this type.
    Experts(DType),
    /// An operation on rows.
    Elementwise(Kernel),
}

/// How `op` is benched. Without a wildcard: an operation that has no benches does not compile.
pub fn kind(op: Op) -> Kind {
    match op {
        Op::MatmulF32 => Kind::Matmul(DType::F32),
        Op::MatmulF16 => Kind::Matmul(DType::F16),
        Op::MatmulBf16 => Kind::Matmul(DType::Bf16),
        Op::MatmulQ8_0 => Kind::Matmul(DType::Q8_0),
        Op::AttentionF32 => Kind::Attention(DType::F32),
        Op::AttentionBf16 => Kind::Attention(DType::Bf16),
        Op::MoeRoute => Kind::Router,
        Op::MoeF32 => Kind::Experts(DType::F32),
        Op::MoeF16 => Kind::Experts(DType::F16),
        Op::MoeBf16 => Kind::Experts(DType::Bf16),
        Op::MoeQ8_0 => Kind::Experts(DType::Q8_0),
        Op::RmsNorm => Kind::Elementwise(RMS_NORM),
        Op::Rope => Kind::Elementwise(ROPE),
        Op::Swiglu => Kind::Elementwise(SWIGLU),
        Op::Add => Kind::Elementwise(ADD),
        Op::Softmax => Kind::Elementwise(SOFTMAX),
    }
}
