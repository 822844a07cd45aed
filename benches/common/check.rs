//! Answers are checked once before they are timed: a fast wrong answer must not become a baseline.

use anyhow::ensure;
use half::bf16;
use tokgate_kernels::q8_0::BLOCK_LEN;
use tokgate_kernels::{BlockQ8_0, DType, MatRef, Weights};

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
        let activations = as_seen(x.row(row), w.dtype());
        let products = activations
            .iter()
            .zip(&weights)
            .map(|(a, b)| a * f64::from(*b));
        let (want, scale) = products.fold((0.0, 0.0), |(sum, scale), p| (sum + p, scale + p.abs()));
        close(
            &format!("output [{row}, {col}]"),
            y.row(row)[col],
            want,
            scale,
            tolerance,
        )?;
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

/// Activations as the kernels round them for weights of `dtype`.
pub fn as_seen(x: &[f32], dtype: DType) -> Vec<f64> {
    match dtype {
        DType::F32 | DType::F16 => x.iter().map(|v| f64::from(*v)).collect(),
        DType::Bf16 => x.iter().map(|v| bf16::from_f32(*v).to_f64()).collect(),
        DType::Q8_0 => {
            let (blocks, _) = x.as_chunks::<BLOCK_LEN>();
            let seen = blocks.iter().flat_map(|block| {
                let max = block.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
                let d = f64::from(max / 127.0);
                BlockQ8_0::quantize(block).qs.map(|q| d * f64::from(q))
            });
            seen.collect()
        }
    }
}
