//! The kernels that run large language models on CPUs: matmul over Q8_0, bf16, f16 and f32 weights, attention over a
//! KV cache, mixture-of-experts dispatch, and the small operations between them.
//!
//! # How it is built
//! - An operation is a folder: `mod.rs` opens with SHAPES, DEFINITION, NUMERICS and WHY, and holds the safe entry that
//!   checks shapes and dispatches once; `scalar.rs` is the definition as plain loops, which shares no code with the
//!   variants and is their oracle; `avx2.rs`, `avx512.rs` … are the variants.
//! - A [`Level`] is the proof that the CPU has a tier's instructions; only `level.rs` asks the CPU.
//! - A [`Runtime`] bundles threads ([`Pool`]), level and working memory ([`Scratch`]), and is every operation's first
//!   argument.
//! - Views ([`MatRef`], [`MatMut`], [`Weights`]) hold all bounds. Making one over foreign sizes returns an error; an
//!   operation that is given views of shapes that do not belong together panics, for that is a bug of the caller.
//! - Weights stay as the file has them. Kernels interleave them into cache-sized panels as they go.
//!
//! # Numerics
//! Accumulation is in f32, in an order that differs between variants and thread counts only where an operation's
//! NUMERICS says so. Activations are rounded to bf16 for bf16 weights, and quantised per block of 32 to int8 for Q8_0
//! weights, in every variant: what a model answers does not depend on the CPU beyond the order of additions. That order may
//! depend on how many tokens there are, but not in a [batch-invariant](Runtime::batch_invariant) runtime.
//!
//! # Variants
//! [`Op`] lists the operations; [`Op::variants`] the tiers that have code of their own. `TOKGATE_LEVEL` forces a tier.

pub mod attention;
mod dtype;
pub mod elementwise;
mod level;
pub mod limits;
pub mod matmul;
pub mod moe;
mod op;
mod pool;
pub mod q8_0;
pub mod rope;
mod runtime;
mod scratch;
mod simd;
mod view;

pub use attention::{AttentionSpec, Cache, CacheMut, KvMut, KvRef, Segment, attention, store_kv};
pub use dtype::DType;
pub use elementwise::{add, add_bias, add_rms_norm, rms_norm, rms_norm_in_place, softmax, swiglu};
pub use level::{LEVEL_ENV, Level, LevelError, Tier};
pub use matmul::{Job, matmul, matmul_all};
pub use moe::{Experts, MoeError, MoeSpec, Routing, moe_ffn, moe_ffn_part, route};
pub use op::Op;
pub use pool::{Pool, PoolError, PoolOptions, share};
pub use q8_0::BlockQ8_0;
pub use rope::{Rope, RopeAngles, RopeError, RopeKind, RopeScaling, RopeSpec, rope};
pub use runtime::{Runtime, RuntimeError};
pub use scratch::{Buffer, Plain, Scratch};
pub use view::{MatMut, MatRef, ShapeError, Weights};
