//! Answers are checked once before they are timed: a fast wrong answer must not become a baseline.

use anyhow::ensure;
use half::bf16;
use tokgate_kernels::q8_0::BLOCK_LEN;
use tokgate_kernels::{DType, MatRef, Weights};

use super::inputs::Rng;

/// Outputs of a matrix that are looked at.
const SPOTS: usize = 24;

/// Holds some outputs of `y = x · wᵀ` to a product taken in f64, within `tolerance · Σ|x·w|`. Activations are rounded
/// first as the kernels' numerics say for the type of `w`.
///
/// # Errors
/// If an output is off.
pub fn matmul(x: MatRef<f32>, w: Weights, y: MatRef<f32>, tolerance: f64) -> anyhow::Result<()> {
    let (m, n) = (y.rows(), y.cols());
    ensure!(m > 0 && n > 0, "nothing was computed");
    let mut rng = Rng::new(1);
    let mut weights = vec![0.0; w.cols()];
    for spot in 0..SPOTS {
        // The first and the last output, where loops end; the others anywhere.
        let (row, col) = match spot {
            0 => (0, 0),
            1 => (m - 1, n - 1),
            _ => (rng.below(m), rng.below(n)),
        };
        w.widen_row(col, &mut weights);
        let (mut want, mut terms, mut doubt) = (0.0, 0.0, 0.0);
        for (seen, weight) in as_seen(x.row(row), w.dtype()).iter().zip(&weights) {
            let weight = f64::from(*weight);
            want += seen.value * weight;
            terms += (seen.value * weight).abs();
            doubt += seen.doubt * weight.abs();
        }
        let what = format!("output [{row}, {col}]");
        let scale = terms + doubt / tolerance;
        close(&what, y.row(row)[col], want, scale, tolerance)?;
    }
    Ok(())
}

/// Holds `got` to `want` within `tolerance · scale`.
///
/// # Errors
/// If it is off, or no number.
pub fn close(what: &str, got: f32, want: f64, scale: f64, tolerance: f64) -> anyhow::Result<()> {
    let error = (f64::from(got) - want).abs();
    // Written so that a NaN is an error.
    ensure!(
        error <= tolerance * scale,
        "wrong answer: {what} is {got:e} and should be {want:e} within {:e}",
        tolerance * scale
    );
    Ok(())
}

/// An activation as the kernels take it.
pub struct Seen {
    /// Its value after rounding.
    pub value: f64,
    /// By how much a kernel may be off it: a step, where the value was too close to a tie for f32 to tell.
    pub doubt: f64,
}

/// Activations as the kernels round them for weights of `dtype`.
pub fn as_seen(x: &[f32], dtype: DType) -> Vec<Seen> {
    let exact = |value: f64| Seen { value, doubt: 0.0 };
    match dtype {
        DType::F32 | DType::F16 => x.iter().map(|v| exact(f64::from(*v))).collect(),
        DType::Bf16 => x
            .iter()
            .map(|v| exact(bf16::from_f32(*v).to_f64()))
            .collect(),
        DType::Q8_0 => {
            let (blocks, _) = x.as_chunks::<BLOCK_LEN>();
            blocks.iter().flat_map(quantised).collect()
        }
    }
}

fn quantised(block: &[f32; BLOCK_LEN]) -> [Seen; BLOCK_LEN] {
    let max = block.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    let d = f64::from(max / 127.0);
    block.map(|v| {
        let steps = if max == 0.0 {
            0.0
        } else {
            f64::from(v) * 127.0 / f64::from(max)
        };
        let nearest = steps.round_ties_even();
        let is_close_call = (steps - nearest).abs() > 0.4999;
        Seen {
            value: d * nearest,
            doubt: if is_close_call { d } else { 0.0 },
        }
    })
}
