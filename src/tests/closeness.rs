//! How close logits must be to others that were computed in another way.

use tokgate_kernels::DType;

/// The root mean square of the difference, over that of the reference around its mean.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let n = want.len() as f64;
    let mean = want.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let square = |v: f64| v * v;
    let spread: f64 = want.iter().map(|v| square(f64::from(*v) - mean)).sum();
    let error: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(*g) - f64::from(*w)))
        .sum();
    (error / spread).sqrt()
}

/// Where weights are the same on both sides, what differs is the rounding of activations: none for f32, 2⁻⁹ of each for
/// bf16, half a step of 1/127 of the block's largest for Q8_0; it adds up over the layers. Another order of additions
/// differs by no more: an activation falls to the other side of such a step, or a token goes to another expert.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F16 => 1e-5,
        DType::Bf16 => 1e-2,
        DType::Q8_0 => 3e-2,
    }
}
