//! Loads, stores and an exponential that the variants of several operations share, a file per instruction set.
//!
//! Whole registers come from arrays, whose length the type proves; the rest of a row comes as a shorter slice through
//! the `_part` functions, which neither read nor write past it.
//!
//! NUMERICS of `exp`. x = n · ln 2 + r with |r| ≤ ½ ln 2, the product with ln 2 split in two so that r is exact to
//! 2⁻²⁶; e^r by the polynomial of degree 6 with the smallest largest relative error, 2⁻²⁸ (found by Remez exchange with
//! the first two coefficients held at 1); then n goes into the exponent. Less than 1.1 units in the last place off,
//! gradual underflow included; +∞ above 88.73, 0 below −104, NaN for NaN.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

/// Coefficients of r² to r⁶.
#[cfg(target_arch = "x86_64")]
const EXP: [f32; 5] = [
    0.499_999_94,
    0.166_665_21,
    0.041_668_39,
    0.008_368_717,
    0.001_381_459_9,
];
/// ln 2 rounded to f32, which leaves enough zero bits that a product with n is exact under FMA.
#[cfg(target_arch = "x86_64")]
const LN_2_HIGH: f32 = std::f32::consts::LN_2;
/// What is left of ln 2.
#[cfg(target_arch = "x86_64")]
const LN_2_LOW: f32 = -1.904_654_3e-9;
/// Beyond these bounds the result is 0 or +∞, and n would leave the range of exponents.
#[cfg(target_arch = "x86_64")]
const EXP_RANGE: (f32, f32) = (-105.0, 89.0);

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use crate::level::{Level, Tier};

    /// Holds `exp`, 16 values at a time, to f64 on a sweep of its whole range.
    fn sweep(exp: impl Fn(&[f32; 16]) -> [f32; 16]) {
        let mut worst = 0.0_f64;
        let x: Vec<f32> = (0..4_000_000).map(|i| -106.0 + i as f32 * 4.9e-5).collect();
        for chunk in x.as_chunks::<16>().0 {
            for (x, got) in chunk.iter().zip(exp(chunk)) {
                let want = f64::from(*x).exp();
                if want > f64::from(f32::MAX) {
                    assert!(got == f32::INFINITY || got > 3.402e38, "exp({x}) = {got}");
                    continue;
                }
                let exponent = want.log2().floor().max(-126.0);
                let error = (f64::from(got) - want).abs() / (exponent - 23.0).exp2();
                worst = worst.max(error);
            }
        }
        assert!(worst < 1.1, "{worst} units in the last place");

        let special = [
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            1e-45,
        ];
        let mut x = [0.0; 16];
        x[..8].copy_from_slice(&special);
        let got = exp(&x);
        assert_eq!(got[..2], [1.0, 1.0]);
        assert!(got[2].is_nan());
        assert_eq!(got[3..8], [f32::INFINITY, 0.0, f32::INFINITY, 0.0, 1.0]);
    }

    #[test]
    fn avx2_exp_is_accurate() {
        if Level::new(Tier::Avx2).is_err() {
            eprintln!("skipped: this CPU lacks avx2");
            return;
        }
        #[target_feature(enable = "avx2,fma")]
        fn exp(x: &[f32; 16]) -> [f32; 16] {
            let mut y = [0.0; 16];
            let halves = x.as_chunks::<8>().0.iter();
            for (x, y) in halves.zip(y.as_chunks_mut::<8>().0) {
                super::avx2::store(y, super::avx2::exp(super::avx2::load(x)));
            }
            y
        }
        // SAFETY: the level proves AVX2 and FMA.
        sweep(|x| unsafe { exp(x) });
    }

    #[test]
    fn avx512_exp_is_accurate() {
        if Level::new(Tier::Avx512Vnni).is_err() {
            eprintln!("skipped: this CPU lacks avx512vnni");
            return;
        }
        #[target_feature(enable = "avx512f")]
        fn exp(x: &[f32; 16]) -> [f32; 16] {
            let mut y = [0.0; 16];
            super::avx512::store(&mut y, super::avx512::exp(super::avx512::load(x)));
            y
        }
        // SAFETY: the level proves AVX-512 F.
        sweep(|x| unsafe { exp(x) });
    }
}
