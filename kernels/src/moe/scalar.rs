//! The router's definition as plain loops: the oracle of the variants.

/// The largest of `logits` and their weights, best first.
pub(super) fn route(
    logits: &[f32],
    renormalise: bool,
    _: &mut [i32],
    experts: &mut [u32],
    weights: &mut [f32],
) {
    // A NaN counts as −∞ here; an index not yet taken always remains, since there are at least top_k logits.
    let value = |e: usize| {
        if logits[e].is_nan() {
            f32::NEG_INFINITY
        } else {
            logits[e]
        }
    };
    for j in 0..experts.len() {
        let (taken, rest) = experts.split_at_mut(j);
        let mut best = None;
        for e in 0..logits.len() {
            let better = best.is_none_or(|best| value(e) > value(best));
            if better && !taken.contains(&(e as u32)) {
                best = Some(e);
            }
        }
        rest[0] = best.unwrap_or(0) as u32;
    }

    let max = value(experts[0] as usize);
    if logits.iter().any(|v| v.is_nan()) {
        weights.fill(f32::NAN);
        return;
    }
    if max == f32::NEG_INFINITY {
        weights.fill(0.0);
        return;
    }
    let mut sum = 0.0_f64;
    if renormalise {
        for e in experts.iter() {
            sum += f64::from((logits[*e as usize] - max).exp());
        }
    } else {
        for logit in logits {
            sum += f64::from((logit - max).exp());
        }
    }
    for (weight, e) in weights.iter_mut().zip(experts.iter()) {
        *weight = (f64::from((logits[*e as usize] - max).exp()) / sum) as f32;
    }
}
