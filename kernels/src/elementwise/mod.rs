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

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::ops::Range;

use crate::level::Tier;
use crate::op::Op;
use crate::pool::share;
use crate::runtime::Runtime;
use crate::view::{MatMut, MatRef};

/// Variants of [`rms_norm()`].
pub const VARIANTS_RMS_NORM: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];
/// Variants of [`swiglu`].
pub const VARIANTS_SWIGLU: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];
/// Variants of [`add`].
pub const VARIANTS_ADD: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];
/// Variants of [`softmax`].
pub const VARIANTS_SOFTMAX: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];

/// Elements to add below which a fork costs more than it saves: some 3 µs of work at 10 elements a nanosecond.
const MIN_FORK: usize = 32 * 1024;

/// What an element costs, in elements to add, from the cache on Emerald Rapids.
const NORM_COST: usize = 2;
/// The same for what takes an exponential.
const EXP_COST: usize = 5;

/// `y = x / √(mean(x²) + eps) · weight`, row by row.
///
/// # Panics
/// If `y` has another shape than `x`, or `weight` another length than a row.
pub fn rms_norm(rt: &Runtime, x: MatRef<f32>, weight: &[f32], eps: f32, mut y: MatMut<f32>) {
    let shape = (x.rows(), x.cols());
    same_shape("rms_norm: x", shape, "y", (y.rows(), y.cols()));
    same_len("rms_norm: weight", weight.len(), x.cols());
    let norm = norm(rt);
    each_row(rt, &mut y, NORM_COST, |r, y| {
        let x = x.row(r);
        // SAFETY: the runtime's level proves the instructions of what `norm` chose.
        unsafe { (norm.scale)(x, inverse_rms((norm.squares)(x), x.len(), eps), weight, y) };
    });
}

/// [`rms_norm`] of `x` into itself. With the heads of a token as rows, this is the norm of queries and keys.
///
/// # Panics
/// If `weight` has another length than a row.
pub fn rms_norm_in_place(rt: &Runtime, mut x: MatMut<f32>, weight: &[f32], eps: f32) {
    same_len("rms_norm_in_place: weight", weight.len(), x.cols());
    let norm = norm(rt);
    each_row(rt, &mut x, NORM_COST, |_, x| {
        // SAFETY: the runtime's level proves the instructions of what `norm` chose.
        unsafe {
            let scale = inverse_rms((norm.squares)(x), x.len(), eps);
            (norm.scale_in_place)(x, scale, weight);
        }
    });
}

/// `x += y`: the residual connection.
///
/// # Panics
/// If the shapes differ.
pub fn add(rt: &Runtime, mut x: MatMut<f32>, y: MatRef<f32>) {
    same_shape("add: x", (x.rows(), x.cols()), "y", (y.rows(), y.cols()));
    let kernel = add_kernel(rt);
    each_row(rt, &mut x, 1, |r, x| {
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
    let norm = norm(rt);
    let out = out.shared();
    each_row(rt, &mut x, NORM_COST, |r, x| {
        // SAFETY: `each_row` hands each row to one worker.
        let out = unsafe { out.tile(r, 0, out.cols()) };
        // SAFETY: the runtime's level proves the instructions of what `norm` chose.
        unsafe {
            let scale = inverse_rms((norm.add_squares)(x, y.row(r)), x.len(), eps);
            (norm.scale)(x, scale, weight, out);
        }
    });
}

/// Adds `bias` to each row.
///
/// # Panics
/// If `bias` has another length than a row.
pub fn add_bias(rt: &Runtime, mut x: MatMut<f32>, bias: &[f32]) {
    same_len("add_bias: bias", bias.len(), x.cols());
    let kernel = add_kernel(rt);
    each_row(rt, &mut x, 1, |_, x| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(x, bias) };
    });
}

/// `gate = silu(gate) · up`.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu(rt: &Runtime, mut gate: MatMut<f32>, up: MatRef<f32>) {
    let shape = (gate.rows(), gate.cols());
    same_shape("swiglu: gate", shape, "up", (up.rows(), up.cols()));
    let kernel = swiglu_kernel(rt);
    each_row(rt, &mut gate, EXP_COST, |r, gate| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(gate, up.row(r)) };
    });
}

/// Softmax of each row, in place.
pub fn softmax(rt: &Runtime, mut x: MatMut<f32>) {
    let kernel = match Op::Softmax.variant(rt.level()) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::softmax as unsafe fn(&mut [f32]),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => avx512::softmax,
        _ => scalar::softmax,
    };
    each_row(rt, &mut x, EXP_COST, |_, x| {
        // SAFETY: the runtime's level proves the kernel's instructions.
        unsafe { kernel(x) };
    });
}

/// The parts of a norm; residual add and in-place norm need them in other combinations.
#[derive(Clone, Copy)]
struct Norm {
    /// Σ x².
    squares: unsafe fn(&[f32]) -> f64,
    /// `x += y`, then Σ x².
    add_squares: unsafe fn(&mut [f32], &[f32]) -> f64,
    /// `y = x · scale · weight`.
    scale: unsafe fn(&[f32], f32, &[f32], &mut [f32]),
    /// `x = x · scale · weight`.
    scale_in_place: unsafe fn(&mut [f32], f32, &[f32]),
}

fn norm(rt: &Runtime) -> Norm {
    match Op::RmsNorm.variant(rt.level()) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => Norm {
            squares: avx2::squares,
            add_squares: avx2::add_squares,
            scale: avx2::scale,
            scale_in_place: avx2::scale_in_place,
        },
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => Norm {
            squares: avx512::squares,
            add_squares: avx512::add_squares,
            scale: avx512::scale,
            scale_in_place: avx512::scale_in_place,
        },
        _ => Norm {
            squares: scalar::squares,
            add_squares: scalar::add_squares,
            scale: scalar::scale,
            scale_in_place: scalar::scale_in_place,
        },
    }
}

fn inverse_rms(squares: f64, len: usize, eps: f32) -> f32 {
    (1.0 / (squares / len as f64 + f64::from(eps)).sqrt()) as f32
}

fn add_kernel(rt: &Runtime) -> unsafe fn(&mut [f32], &[f32]) {
    match Op::Add.variant(rt.level()) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::add,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => avx512::add,
        _ => scalar::add,
    }
}

fn swiglu_kernel(rt: &Runtime) -> unsafe fn(&mut [f32], &[f32]) {
    match Op::Swiglu.variant(rt.level()) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::swiglu,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => avx512::swiglu,
        _ => scalar::swiglu,
    }
}

/// `x += y · scale`, whose call takes the instructions of the runtime's level.
pub(crate) fn add_scaled_kernel(rt: &Runtime) -> unsafe fn(&mut [f32], &[f32], f32) {
    match Op::Add.variant(rt.level()) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::add_scaled,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512Vnni => avx512::add_scaled,
        _ => scalar::add_scaled,
    }
}

/// Softmax of a row without a largest element.
#[cfg(target_arch = "x86_64")]
fn no_maximum(x: &mut [f32]) {
    let nan = x.iter().any(|v| v.is_nan());
    x.fill(if nan { f32::NAN } else { 0.0 });
}

/// Calls `job(r, row r of x)` for each row, on the workers where that pays.
fn each_row(
    rt: &Runtime,
    x: &mut MatMut<f32>,
    element_cost: usize,
    job: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (rows, cols) = (x.rows(), x.cols());
    let x = x.shared();
    in_rows(rt, rows, cols.saturating_mul(element_cost), |rows| {
        for r in rows {
            // SAFETY: each row belongs to one range, and each range to one worker.
            job(r, unsafe { x.tile(r, 0, cols) });
        }
    });
}

/// Calls `job` with ranges that make up `0..rows`: one range where `rows · cost` additions are too few for a fork,
/// otherwise a few for each worker, so that one whose core is taken away does not hold up the rest.
pub(crate) fn in_rows(rt: &Runtime, rows: usize, cost: usize, job: impl Fn(Range<usize>) + Sync) {
    // Rows of nothing may be any number.
    if cost == 0 {
        return;
    }
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
