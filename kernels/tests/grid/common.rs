//! What the grid tests share: seeded inputs, the table of tolerances, and the comparator, which has tests of its own.

use half::bf16;
use tokgate_kernels::{BlockQ8_0, Level, Op, PoolOptions, Runtime, Tier, q8_0};

/// The largest |variant − oracle| that an operation may show at an output, relative to that output's Σ|a·b| (the sum of
/// the absolute products that it is made of; for operations that are no sums, the absolute value).
///
/// Variants round their inputs alike, so what remains is the order of additions in f32: about √k · 2⁻²⁴ where errors
/// are random, at most k · 2⁻²⁴. The softmax inside attention and SwiGLU adds the error of its exponential. Experts round their inner activations again: a
/// last bit may tip one of them to the next bf16 or int8.
pub fn tolerance(op: Op) -> f64 {
    match op {
        Op::MatmulF32 | Op::MatmulF16 => 2e-6,
        Op::MatmulBf16 => 2e-6,
        Op::MatmulQ8_0 => 2e-6,
        Op::AttentionF32 => 1e-6,
        // A score that differs in its last bit may round its probability to the other neighbour, 2⁻⁸ of one key's share.
        Op::AttentionBf16 => 1e-3,
        Op::MoeRoute => 1e-6,
        Op::MoeF32 | Op::MoeF16 => 2e-6,
        Op::MoeBf16 | Op::MoeQ8_0 => 5e-3,
        Op::RmsNorm => 2e-6,
        Op::Rope => 1e-6,
        Op::Swiglu => 2e-6,
        Op::Add => 0.0,
        Op::Softmax => 2e-6,
    }
}

/// Every level at which `op` has a variant of its own and that this CPU can run; what it cannot run is printed.
pub fn levels(op: Op) -> Vec<Level> {
    let (can, cannot): (Vec<Tier>, Vec<Tier>) = op
        .variants()
        .iter()
        .partition(|tier| Level::new(**tier).is_ok());
    for tier in cannot {
        // A machine that promises a level must run it, lest a variant goes untested unnoticed.
        let promised = std::env::var("TOKGATE_REQUIRE_LEVEL").ok();
        let promised = promised.and_then(|name| name.parse::<Tier>().ok());
        assert!(
            promised.is_none_or(|promised| tier > promised),
            "{op}: {tier} was promised"
        );
        eprintln!("skipped: {op} at {tier}, which this CPU lacks");
    }
    can.into_iter()
        .filter_map(|tier| Level::new(tier).ok())
        .collect()
}

/// A runtime of `threads` at `level`.
pub fn runtime(level: Level, threads: usize) -> Runtime {
    Runtime::with_level(
        level,
        PoolOptions {
            threads,
            pin: false,
        },
    )
    .expect("threads")
}

/// SplitMix64: small, seeded, the same everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// Uniform in −1…1.
    pub fn f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }

    pub fn bf16s(&mut self, n: usize) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.f32())).collect()
    }

    /// Blocks from random values, with an all-zero block and blocks of ±127 strewn in.
    pub fn blocks(&mut self, n: usize) -> Vec<BlockQ8_0> {
        (0..n)
            .map(|_| {
                let x: [f32; q8_0::BLOCK_LEN] = std::array::from_fn(|_| self.f32());
                let mut block = BlockQ8_0::quantize(&x);
                match self.below(16) {
                    0 => block = BlockQ8_0::default(),
                    1 => block.qs = [127; 32],
                    2 => block.qs = [-127; 32],
                    _ => {}
                }
                block
            })
            .collect()
    }
}

/// Holds `got` to `want` within `tolerance · scale[i]`.
///
/// # Panics
/// On a difference beyond it, on a NaN where there should be none (and the other way round), on unequal lengths.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], scale: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    assert_eq!(got.len(), scale.len(), "{what}: length of the scale");
    for (i, ((&got, &want), &scale)) in got.iter().zip(want).zip(scale).enumerate() {
        if got == want || (got.is_nan() && want.is_nan()) {
            continue;
        }
        let error = (f64::from(got) - f64::from(want)).abs();
        // Written so that a NaN on either side fails.
        assert!(
            error <= tolerance * scale,
            "{what}: element {i} is {got:e}, not {want:e}; off by {error:e} at a scale of {scale:e}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(got: &[f32], want: &[f32], scale: &[f64]) -> bool {
        std::panic::catch_unwind(|| assert_close("", got, want, scale, 1e-6)).is_err()
    }

    #[test]
    fn the_comparator_tells_right_from_wrong() {
        assert!(!fails(&[1.0, 0.0], &[1.0, -0.0], &[1.0, 0.0]));
        assert!(!fails(
            &[f32::NAN, f32::INFINITY],
            &[f32::NAN, f32::INFINITY],
            &[1.0, 1.0]
        ));
        assert!(!fails(&[1.0 + f32::EPSILON], &[1.0], &[1.0]));
        assert!(fails(&[1.0], &[1.0, 2.0], &[1.0]));
        assert!(fails(&[f32::NAN], &[1.0], &[1.0]));
        assert!(fails(&[1.0], &[f32::NAN], &[1.0]));
        assert!(
            fails(&[1e-30], &[0.0], &[0.0]),
            "nothing is close to zero but zero"
        );
        assert!(fails(&[1.001], &[1.0], &[1.0]));
        assert!(fails(&[f32::INFINITY], &[1.0], &[1.0]));
    }
}
