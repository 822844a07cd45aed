//! What lies between the matmuls: norms, residual adds, biases, gates, softmax.
//!
//! SHAPES. Matrices `[rows, cols]` of f32, a row per token (or per head); all operands of a call have the same shape,
//! a weight or bias has `cols` elements.
//!
//! DEFINITION, for each row:
//! ```text
//! rms_norm       y[i] = x[i] · s · weight[i]       s = 1 / √(Σ x[i]² / cols + eps)
//! add            x[i] = x[i] + y[i]
//! add_rms_norm   add, then rms_norm of the sum
//! add_bias       x[i] = x[i] + bias[i]
//! swiglu         gate[i] = gate[i] / (1 + exp(−gate[i])) · up[i]
//! softmax        x[i] = exp(x[i] − m) / Σ exp(x[j] − m)       m = max x[j]
//! ```
//! softmax of a row that is −∞ throughout is 0 throughout: nothing was allowed, so nothing is chosen. A NaN or a +∞
//! makes the whole row NaN.
//!
//! NUMERICS. The sum of squares is taken in f64 by every variant: it cannot overflow, and variants agree to the last
//! bits whatever their order of addition. `s` is rounded to f32 once. The exponential of the variants is off by less
//! than 1.1 units in the last place. A row of zeros under `eps = 0` is NaN, as is a gate of −∞. Results do not depend on
//! the number of threads: a row is never split.
//!
//! WHY. These operations read and write more than they compute, so they are forked to the workers only where there is
//! more to move than a fork costs, and residual add and norm share one pass while the row is in the cache.

mod scalar;

use std::ops::Range;

use crate::level::Tier;
use crate::pool::share;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef, SharedMat};

/// Variants of [`rms_norm`].
pub const VARIANTS_RMS_NORM: &[Tier] = &[Tier::Scalar];
/// Variants of [`swiglu`].
pub const VARIANTS_SWIGLU: &[Tier] = &[Tier::Scalar];
/// Variants of [`add`].
pub const VARIANTS_ADD: &[Tier] = &[Tier::Scalar];
/// Variants of [`softmax`].
pub const VARIANTS_SOFTMAX: &[Tier] = &[Tier::Scalar];

/// Elements below which a fork costs more than it saves: some 3 µs of work at 10 elements a nanosecond.
const MIN_FORK: usize = 32 * 1024;

/// `y = x / √(mean(x²) + eps) · weight`, row by row.
///
/// # Panics
/// If `y` has another shape than `x`, or `weight` another length than a row.
pub fn rms_norm(rt: &Runtime, x: MatRef<f32>, weight: &[f32], eps: f32, mut y: MatMut<f32>) {
    same_shape(
        "rms_norm: y",
        (y.rows(), y.cols()),
        "x",
        (x.rows(), x.cols()),
    );
    same_len("rms_norm: weight", weight.len(), x.cols());
    let kernel = rms_norm_kernel(rt);
    let y = y.shared();
    in_rows(rt, x.rows(), x.cols(), |rows| {
        for r in rows {
            // SAFETY: each row belongs to one range, and each range to one worker.
            let y = unsafe { y.tile(r, 0, y.cols()) };
            y.copy_from_slice(x.row(r));
            // SAFETY: the runtime's level proves the kernel's instructions.
            unsafe { kernel(y, weight, eps) };
        }
    });
}

/// [`rms_norm`] of `x` into itself. With the heads of a token as rows, this is the norm of queries and keys.
///
/// # Panics
/// If `weight` has another length than a row.
pub fn rms_norm_in_place(rt: &Runtime, mut x: MatMut<f32>, weight: &[f32], eps: f32) {
    same_len("rms_norm_in_place: weight", weight.len(), x.cols());
    let kernel = rms_norm_kernel(rt);
    each_row(rt, &mut x, |_, x| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(x, weight, eps) };
    });
}

/// `x += y`: the residual connection.
///
/// # Panics
/// If the shapes differ.
pub fn add(rt: &Runtime, mut x: MatMut<f32>, y: MatRef<f32>) {
    same_shape("add: x", (x.rows(), x.cols()), "y", (y.rows(), y.cols()));
    let kernel = add_kernel(rt);
    each_row(rt, &mut x, |r, x| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(x, y.row(r)) };
    });
}

/// `x += y`, then `out = rms_norm(x)`: the end of one sublayer and the start of the next.
///
/// # Panics
/// If the shapes differ, or `weight` has another length than a row.
pub fn add_rms_norm(
    rt: &Runtime,
    mut x: MatMut<f32>,
    y: MatRef<f32>,
    weight: &[f32],
    eps: f32,
    mut out: MatMut<f32>,
) {
    let shape = (x.rows(), x.cols());
    same_shape("add_rms_norm: x", shape, "y", (y.rows(), y.cols()));
    same_shape("add_rms_norm: x", shape, "out", (out.rows(), out.cols()));
    same_len("add_rms_norm: weight", weight.len(), x.cols());
    let (add, norm) = (add_kernel(rt), rms_norm_kernel(rt));
    let out = out.shared();
    each_row(rt, &mut x, |r, x| {
        // SAFETY: `each_row` hands each row to one worker.
        let out = unsafe { out.tile(r, 0, out.cols()) };
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { add(x, y.row(r)) };
        out.copy_from_slice(x);
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { norm(out, weight, eps) };
    });
}

/// Adds `bias` to each row.
///
/// # Panics
/// If `bias` has another length than a row.
pub fn add_bias(rt: &Runtime, mut x: MatMut<f32>, bias: &[f32]) {
    same_len("add_bias: bias", bias.len(), x.cols());
    let kernel = add_kernel(rt);
    each_row(rt, &mut x, |_, x| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(x, bias) };
    });
}

/// `gate = silu(gate) · up`.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu(rt: &Runtime, mut gate: MatMut<f32>, up: MatRef<f32>) {
    same_shape(
        "swiglu: gate",
        (gate.rows(), gate.cols()),
        "up",
        (up.rows(), up.cols()),
    );
    let kernel = swiglu_kernel(rt);
    each_row(rt, &mut gate, |r, gate| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(gate, up.row(r)) };
    });
}

/// Softmax of each row, in place.
pub fn softmax(rt: &Runtime, mut x: MatMut<f32>) {
    let kernel = softmax_kernel(rt);
    each_row(rt, &mut x, |_, x| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(x) };
    });
}

fn rms_norm_kernel(_: &Runtime) -> unsafe fn(&mut [f32], &[f32], f32) {
    scalar::rms_norm
}

fn add_kernel(_: &Runtime) -> unsafe fn(&mut [f32], &[f32]) {
    scalar::add
}

fn swiglu_kernel(_: &Runtime) -> unsafe fn(&mut [f32], &[f32]) {
    scalar::swiglu
}

fn softmax_kernel(_: &Runtime) -> unsafe fn(&mut [f32]) {
    scalar::softmax
}

/// Calls `job(r, row r of x)` for each row, on the workers where that pays.
fn each_row(rt: &Runtime, x: &mut MatMut<f32>, job: impl Fn(usize, &mut [f32]) + Sync) {
    let (rows, cols) = (x.rows(), x.cols());
    let x: SharedMat<f32> = x.shared();
    in_rows(rt, rows, cols, |rows| {
        for r in rows {
            // SAFETY: each row belongs to one range, and each range to one worker.
            job(r, unsafe { x.tile(r, 0, cols) });
        }
    });
}

/// Calls `job` with ranges that make up `0..rows`: one range where `rows · cost` elements are too few for a fork,
/// otherwise a few for each worker, so that one whose core is taken away does not hold up the rest.
pub(crate) fn in_rows(rt: &Runtime, rows: usize, cost: usize, job: impl Fn(Range<usize>) + Sync) {
    let threads = rt.pool().threads();
    if threads == 1 || rows.saturating_mul(cost) < MIN_FORK {
        job(0..rows);
        return;
    }
    let tasks = rows.min(4 * threads);
    rt.pool()
        .for_each(tasks, |_, task| job(share(rows, 1, tasks, task)));
}

fn same_shape(left: &str, a: (usize, usize), right: &str, b: (usize, usize)) {
    assert!(
        a == b,
        "{left} is {} × {}, {right} is {} × {}",
        a.0,
        a.1,
        b.0,
        b.1
    );
}

fn same_len(what: &str, len: usize, cols: usize) {
    assert!(len == cols, "{what} has {len} elements for rows of {cols}");
}
