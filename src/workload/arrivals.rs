//! When requests arrive, as vLLM's `bench serve` draws it.
//!
//! DEFINITION.
//! ```text
//! gap[i]      gamma(shape = burstiness, scale = 1 / (rate · burstiness));  1 is a Poisson process
//! at[i]       gap[0] + … + gap[i]
//! at[i]      *= (n / rate) / at[n − 1]:  the last one comes at n / rate, so that seeds do not differ in their rate
//! ```
//! The gaps are those of `numpy.random.seed(seed)` and `numpy.random.gamma` (its legacy generator: Marsaglia and Tsang
//! 2000 from a shape of 1 on, Ahrens and Dieter's GS below), up to the last bits of the platform's logarithm.

use std::time::Duration;

use super::mersenne::Mersenne;

/// When each of `count` requests arrives, from the start; all at once for a rate of infinity.
///
/// `rate` (requests a second) and `burstiness` are above 0; a burstiness of infinity makes all gaps the same.
pub fn arrivals(count: usize, rate: f64, burstiness: f64, seed: u32) -> Vec<Duration> {
    if rate.is_infinite() {
        return vec![Duration::ZERO; count];
    }
    let mut legacy = Legacy::new(seed);
    let mut at = 0.0;
    let mut times: Vec<f64> = Vec::with_capacity(count);
    for _ in 0..count {
        at += if burstiness.is_infinite() {
            1.0 / rate
        } else {
            legacy.gamma(burstiness) / (rate * burstiness)
        };
        times.push(at);
    }
    let stretch = if at > 0.0 {
        count as f64 / rate / at
    } else {
        1.0
    };
    times
        .into_iter()
        .map(|time| Duration::try_from_secs_f64(time * stretch).unwrap_or(Duration::MAX))
        .collect()
}

/// `numpy.random.RandomState(seed)`.
struct Legacy {
    bits: Mersenne,
    /// The second of a pair of normal numbers.
    spare: Option<f64>,
}

impl Legacy {
    fn new(seed: u32) -> Self {
        Self {
            bits: Mersenne::of_word(seed),
            spare: None,
        }
    }

    /// `standard_gamma(shape)`.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape == 1.0 {
            return self.exponential();
        }
        if shape < 1.0 {
            return self.small_gamma(shape);
        }
        let b = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * b).sqrt();
        loop {
            let (x, v) = loop {
                let x = self.normal();
                let v = 1.0 + c * x;
                if v > 0.0 {
                    break (x, v * v * v);
                }
            };
            let u = self.bits.next_f64();
            if u < 1.0 - 0.0331 * (x * x) * (x * x) || u.ln() < 0.5 * x * x + b * (1.0 - v + v.ln())
            {
                return b * v;
            }
        }
    }

    fn small_gamma(&mut self, shape: f64) -> f64 {
        loop {
            let u = self.bits.next_f64();
            let v = self.exponential();
            if u <= 1.0 - shape {
                let x = u.powf(1.0 / shape);
                if x <= v {
                    return x;
                }
            } else {
                let y = -((1.0 - u) / shape).ln();
                let x = (1.0 - shape + shape * y).powf(1.0 / shape);
                if x <= v + y {
                    return x;
                }
            }
        }
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - self.bits.next_f64()).ln()
    }

    /// Marsaglia's polar method.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let x1 = 2.0 * self.bits.next_f64() - 1.0;
            let x2 = 2.0 * self.bits.next_f64() - 1.0;
            let square = x1 * x1 + x2 * x2;
            if square < 1.0 && square != 0.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(factor * x1);
                return factor * x2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_those_that_numpy_draws() {
        // NumPy 2.4.6: a Poisson process, burstier, and more even than one; 10 a second.
        let cases = [
            (
                0,
                1.0,
                [
                    0.089_232_980_448_865_28,
                    0.230_047_196_845_265_87,
                    0.333_558_431_436_273_34,
                    0.421_818_960_343_244,
                    0.483_602_192_156_749_9,
                    0.6,
                ],
            ),
            (
                1,
                0.5,
                [
                    0.185_242_332_973_545_9,
                    0.185_242_346_907_780_74,
                    0.208_183_401_821_509_77,
                    0.245_137_489_212_862_08,
                    0.412_822_569_911_196,
                    0.6,
                ],
            ),
            (
                7,
                4.0,
                [
                    0.171_943_422_407_789_62,
                    0.233_473_812_023_708_31,
                    0.284_386_533_800_235_43,
                    0.363_776_657_856_285_9,
                    0.493_135_217_924_844_6,
                    0.6,
                ],
            ),
        ];
        for (seed, burstiness, wanted) in cases {
            let drawn = arrivals(6, 10.0, burstiness, seed);
            for (drawn, wanted) in drawn.iter().zip(wanted) {
                let difference = (drawn.as_secs_f64() - wanted).abs();
                assert!(difference < 2e-9, "{seed}: {drawn:?} {wanted}");
            }
        }
    }

    #[test]
    fn the_last_request_comes_when_the_rate_says() {
        let even = arrivals(4, 2.0, f64::INFINITY, 0);
        let millis: Vec<u128> = even.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [500, 1000, 1500, 2000]);
        assert_eq!(arrivals(2, f64::INFINITY, 1.0, 0), [Duration::ZERO; 2]);
        assert_eq!(arrivals(0, 1.0, 1.0, 0), []);
    }
}
