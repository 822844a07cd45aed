//! The definition as plain loops: the oracle of the variants.

/// Σ x².
pub(super) fn squares(x: &[f32]) -> f64 {
    let mut sum = 0.0;
    for v in x {
        sum += f64::from(*v) * f64::from(*v);
    }
    sum
}

/// `x += y`, then Σ x².
pub(super) fn add_squares(x: &mut [f32], y: &[f32]) -> f64 {
    add(x, y);
    squares(x)
}

/// `y = x · scale · weight`.
pub(super) fn scale(x: &[f32], scale: f32, weight: &[f32], y: &mut [f32]) {
    for i in 0..x.len() {
        y[i] = x[i] * scale * weight[i];
    }
}

/// `x = x · scale · weight`.
pub(super) fn scale_in_place(x: &mut [f32], scale: f32, weight: &[f32]) {
    for i in 0..x.len() {
        x[i] = x[i] * scale * weight[i];
    }
}

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for i in 0..x.len() {
        x[i] += y[i];
    }
}

/// `x += y · scale`.
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    for i in 0..x.len() {
        x[i] += y[i] * scale;
    }
}

/// `gate = silu(gate) · up`.
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for i in 0..gate.len() {
        gate[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
    }
}

/// Softmax in place.
pub(super) fn softmax(x: &mut [f32]) {
    // `f32::max` passes over NaN; the sum below brings it back in.
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        let nan = x.iter().any(|v| v.is_nan());
        x.fill(if nan { f32::NAN } else { 0.0 });
        return;
    }
    let mut sum = 0.0_f64;
    for v in x.iter_mut() {
        *v = (*v - max).exp();
        sum += f64::from(*v);
    }
    let scale = (1.0 / sum) as f32;
    for v in x.iter_mut() {
        *v *= scale;
    }
}
