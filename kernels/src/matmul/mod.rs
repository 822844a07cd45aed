//! Products of activations with weight matrices, for every element type that weights come in.
//!
//! SHAPES. `x: [m, k]` f32 activations, one row a token; `w: [n, k]` weights, row `n` those of output `n`, as GGUF
//! stores them; `y: [m, n]` f32. A [`Job`] may name the rows of `x` that it takes: experts gather their tokens so.
//!
//! DEFINITION.
//!
//! ```text
//! y[i][n] = Σ_k a(x[i][k]) · w[n][k]
//! ```
//!
//! NUMERICS. `a` depends on the type of the weights alone, never on the variant:
//! - f32, f16: `a(x) = x`; weights are widened to f32.
//! - bf16: `a` rounds to bf16, to nearest, ties to even.
//! - Q8_0: `a` quantises each block of 32 activations to int8: `d = max|x| / 127`, `q = round(x / d)`, ties to even. A
//!   block's integer products are summed exactly, and `(d_w · d_x) · Σ` is added up in f32. The activations' `d` stays
//!   f32: as f16, as GGML has it, it would overflow beyond 8.3·10⁶ and lose bits below 7.8·10⁻³.
//!
//! Products are added up in f32, in an order that may differ between variants, but not with the number of threads, nor
//! with what else is in the call.
//!
//! WHY one call takes several jobs: products that share their activations (queries, keys and values; gate and up)
//! prepare them once, and all of a layer's experts are spread over the threads with one fork and join.

mod scalar;

use crate::level::Tier;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef, Weights};

/// Variants with f32 weights.
pub const VARIANTS_F32: &[Tier] = &[Tier::Scalar];
/// Variants with f16 weights.
pub const VARIANTS_F16: &[Tier] = &[Tier::Scalar];
/// Variants with bf16 weights.
pub const VARIANTS_BF16: &[Tier] = &[Tier::Scalar];
/// Variants with Q8_0 weights.
pub const VARIANTS_Q8_0: &[Tier] = &[Tier::Scalar];

/// One product of a [`matmul_all`].
#[derive(Debug)]
pub struct Job<'a> {
    /// Activations, `[_, k]`.
    pub x: MatRef<'a, f32>,
    /// The rows of `x` that are row 0, 1, … of the product; `None` takes all of them as they come.
    pub rows: Option<&'a [u32]>,
    /// Weights, `[n, k]`.
    pub w: Weights<'a>,
    /// Outputs, `[m, n]`, where `m` is the number of rows taken.
    pub y: MatMut<'a, f32>,
}

/// `y[i][n] = Σ_k x[i][k] · w[n][k]`: `x [m, k]`, `w [n, k]`, `y [m, n]`.
///
/// # Panics
/// If the shapes do not belong together.
pub fn matmul(rt: &Runtime, x: MatRef<f32>, w: Weights, y: MatMut<f32>) {
    matmul_all(
        rt,
        &mut [Job {
            x,
            rows: None,
            w,
            y,
        }],
    );
}

/// Several products that do not depend on each other.
///
/// # Panics
/// If the shapes of a job do not belong together, or a job names a row that `x` does not have.
pub fn matmul_all(rt: &Runtime, jobs: &mut [Job]) {
    for Job { x, rows, w, y } in jobs.iter() {
        let m = rows.map_or(x.rows(), <[u32]>::len);
        assert!(
            x.cols() == w.cols() && y.rows() == m && y.cols() == w.rows(),
            "matmul: x is {m} × {}, w {} × {}, y {} × {}",
            x.cols(),
            w.rows(),
            w.cols(),
            y.rows(),
            y.cols()
        );
        for &row in rows.unwrap_or_default() {
            assert!(
                (row as usize) < x.rows(),
                "matmul: row {row} of {}",
                x.rows()
            );
        }
    }
    scalar::matmul_all(rt, jobs);
}
