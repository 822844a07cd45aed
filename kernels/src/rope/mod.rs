//! Rotary position embedding, with the frequency scalings of long-context models.
//!
//! SHAPES. `x: [tokens, n_heads · head_dim]` f32; `cos, sin: [tokens, n_dims / 2]`, `n_dims ≤ head_dim`.
//!
//! DEFINITION, for token t at position p, each head, each pair i of `0..n_dims / 2` at elements (a, b):
//! ```text
//! x[a], x[b] = x[a] · cos − x[b] · sin, x[a] · sin + x[b] · cos      cos = m · cos(p · f[i]), sin alike
//! Normal: a, b = 2i, 2i + 1       NeoX: a, b = i, i + n_dims / 2     elements from n_dims on stay as they are
//!
//! g[i] = theta^(−2i / n_dims) / freq_factors[i]
//! None      f = g                m = 1
//! Linear    f = g / factor       m = 1
//! Llama3    w = 2π / g
//!           f = g                               where w < original_context / high_freq_factor
//!           f = g / factor                      where w > original_context / low_freq_factor
//!           f = (1 − s) · g / factor + s · g    else, s = (original_context / w − low) / (high − low)
//! Yarn      f = (1 − r) · g / factor + r · g    r = ext_factor · (1 − clamp((i − lo) / max(0.001, hi − lo), 0, 1))
//!           lo = max(0, ⌊d(beta_fast)⌋), hi = min(n_dims − 1, ⌈d(beta_slow)⌉)
//!           d(β) = n_dims · ln(original_context / (2π β)) / (2 ln theta)
//!           m = attn_factor · (1 + 0.1 ln factor), or attn_factor where ext_factor = 0
//! ```
//! Sources: `ggml_rope_yarn_corr_dims` and `rope_yarn` in llama.cpp's ggml (after Peng et al., arXiv:2309.00071) for
//! Yarn and the frequency factors, `_compute_llama3_parameters` in transformers' `modeling_rope_utils.py` for Llama3;
//! its `_compute_yarn_parameters` is the Yarn above with ext_factor = 1 and m = `attention_factor`.
//!
//! NUMERICS. Frequencies and angles in f64, since at position 131,071 an f32 angle is off by 0.008 rad; cos and sin are
//! rounded to f32 once. Variants differ by the one rounding that a fused multiply-add saves.
//!
//! WHY. Angles depend on the position alone: they are made once per forward pass, and every layer reads the same table.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::f64::consts::TAU;

use crate::elementwise::in_rows;
use crate::level::Tier;
use crate::op::Op;
use crate::runtime::Runtime;
use crate::view::MatMut;

/// Variants of [`rope`].
pub const VARIANTS: &[Tier] = &[Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni];

/// More dimensions than this are a mistake in a file: heads have 64 to 576.
const MAX_DIMS: usize = 1 << 16;

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Neighbours, `(2i, 2i + 1)`: Llama models in GGUF files.
    Normal,
    /// Halves, `(i, i + n_dims / 2)`: Qwen in GGUF files, and all models in safetensors files.
    NeoX,
}

/// How frequencies are scaled for contexts longer than those of the first training; formulas at the [module](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by a factor.
    Linear {
        /// Context now over context then.
        factor: f64,
    },
    /// Llama 3.1: slow frequencies are divided, fast ones are kept.
    Llama3 {
        /// Divisor of the slow frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are slow.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are fast.
        high_freq_factor: f64,
        /// Positions of the first training.
        original_context: u32,
    },
    /// YaRN: as Llama 3, but by the dimension's index, and with longer vectors.
    Yarn {
        /// Divisor of the slow frequencies.
        factor: f64,
        /// Positions of the first training.
        original_context: u32,
        /// Share of the unscaled frequency among fast ones: 1, or 0 for linear scaling.
        ext_factor: f64,
        /// Multiplies the length, on top of YaRN's own 1 + 0.1 ln factor: 1. For a `config.json` with an
        /// `attention_factor` a, it is a / (1 + 0.1 ln factor).
        attn_factor: f64,
        /// Turns over the original context above which a dimension is fast: 32.
        beta_fast: f64,
        /// Turns over the original context below which a dimension is slow: 1.
        beta_slow: f64,
    },
}

/// What a model file says about its rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Which elements form a pair.
    pub kind: RopeKind,
    /// Elements of a head that turn; the rest stays.
    pub n_dims: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Scaling for long contexts.
    pub scaling: RopeScaling,
    /// Divisors of the `n_dims / 2` frequencies (`rope_freqs.weight` in a GGUF file).
    pub freq_factors: Option<Vec<f32>>,
}

/// Why a [`RopeSpec`] makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RopeError {
    /// Odd, zero, or implausibly many.
    #[error("{0} rotary dimensions: an even number from 2 to {MAX_DIMS} is needed")]
    Dims(usize),
    /// A parameter is out of its range.
    #[error("rotary parameter {name} is {value}: it must be {wanted}")]
    Parameter {
        /// The field's name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range.
        wanted: &'static str,
    },
    /// Another number of factors than of frequencies.
    #[error("{got} rotary frequency factors for {want} frequencies")]
    FreqFactors {
        /// Factors.
        got: usize,
        /// Frequencies, half the dimensions.
        want: usize,
    },
}

/// The frequencies of a model, computed once.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    kind: RopeKind,
    inv_freq: Vec<f64>,
    magnitude: f64,
}

/// Cosines and sines of the tokens of one forward pass, used by all layers.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeAngles {
    tokens: usize,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// The frequencies that `spec` describes.
    ///
    /// # Errors
    /// [`RopeError`] if a parameter is missing, not finite or out of its range.
    pub fn new(spec: &RopeSpec) -> Result<Self, RopeError> {
        let n = spec.n_dims;
        if n == 0 || !n.is_multiple_of(2) || n > MAX_DIMS {
            return Err(RopeError::Dims(n));
        }
        above("theta", spec.theta, 1.0, "finite and above 1")?;
        let factors = spec.freq_factors.as_deref();
        if let Some(factors) = factors {
            if factors.len() != n / 2 {
                return Err(RopeError::FreqFactors {
                    got: factors.len(),
                    want: n / 2,
                });
            }
            for factor in factors {
                positive("freq_factors", f64::from(*factor))?;
            }
        }
        let mut inv_freq: Vec<f64> = (0..n / 2)
            .map(|i| {
                let factor = factors.map_or(1.0, |factors| f64::from(factors[i]));
                spec.theta.powf(-2.0 * i as f64 / n as f64) / factor
            })
            .collect();
        let magnitude = scale(&spec.scaling, n, spec.theta, &mut inv_freq)?;
        Ok(Self {
            kind: spec.kind,
            inv_freq,
            magnitude,
        })
    }

    /// Elements of a head that turn.
    pub fn n_dims(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Radians per position of each pair.
    pub fn inv_freq(&self) -> &[f64] {
        &self.inv_freq
    }

    /// By how much a turned vector is longer: 1 but for YaRN.
    pub fn magnitude(&self) -> f64 {
        self.magnitude
    }

    /// Cosines and sines for tokens at `positions`.
    pub fn angles(&self, positions: &[u32]) -> RopeAngles {
        let half = self.inv_freq.len();
        let mut angles = RopeAngles {
            tokens: positions.len(),
            half,
            cos: Vec::with_capacity(positions.len() * half),
            sin: Vec::with_capacity(positions.len() * half),
        };
        for position in positions {
            for frequency in &self.inv_freq {
                let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                angles.cos.push((cos * self.magnitude) as f32);
                angles.sin.push((sin * self.magnitude) as f32);
            }
        }
        angles
    }
}

/// Turns the heads of `x: [tokens, n_heads · head_dim]` to their positions.
///
/// # Panics
/// If `angles` were made for another number of tokens or by a [`Rope`] of other dimensions, if a row is not made of
/// whole heads, or if a head is shorter than the dimensions that turn.
pub fn rope(rt: &Runtime, rope: &Rope, angles: &RopeAngles, head_dim: usize, mut x: MatMut<f32>) {
    let (tokens, cols, half) = (x.rows(), x.cols(), angles.half);
    assert!(
        angles.tokens == tokens && half == rope.inv_freq.len(),
        "rope: angles for {} tokens of {} dimensions, x has {tokens} tokens, the rope {} dimensions",
        angles.tokens,
        2 * half,
        rope.n_dims(),
    );
    assert!(
        rope.n_dims() <= head_dim && cols.is_multiple_of(head_dim),
        "rope: rows of {cols} elements, heads of {head_dim}, {} of them turn",
        rope.n_dims(),
    );
    let kernel = kernel(rt, rope.kind);
    let x = x.shared();
    in_rows(rt, tokens, cols, |range| {
        for t in range {
            let (cos, sin) = (
                &angles.cos[t * half..][..half],
                &angles.sin[t * half..][..half],
            );
            // SAFETY: each row belongs to one range, and each range to one worker.
            let row = unsafe { x.tile(t, 0, cols) };
            // SAFETY: the runtime's level proves the kernel's instructions.
            unsafe { kernel(row, head_dim, cos, sin) };
        }
    });
}

/// A token's heads, elements of a head, cosines and sines.
type Kernel = unsafe fn(&mut [f32], usize, &[f32], &[f32]);

fn kernel(rt: &Runtime, kind: RopeKind) -> Kernel {
    match (Op::Rope.variant(rt.level()), kind) {
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx2, RopeKind::Normal) => avx2::normal,
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx2, RopeKind::NeoX) => avx2::neox,
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx512Vnni, RopeKind::Normal) => avx512::normal,
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx512Vnni, RopeKind::NeoX) => avx512::neox,
        (_, RopeKind::Normal) => scalar::normal,
        (_, RopeKind::NeoX) => scalar::neox,
    }
}

/// Scales the frequencies in place, and returns the magnitude.
fn scale(
    scaling: &RopeScaling,
    n_dims: usize,
    theta: f64,
    inv_freq: &mut [f64],
) -> Result<f64, RopeError> {
    match *scaling {
        RopeScaling::None => Ok(1.0),
        RopeScaling::Linear { factor } => {
            positive("factor", factor)?;
            inv_freq.iter_mut().for_each(|f| *f /= factor);
            Ok(1.0)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_context,
        } => {
            positive("factor", factor)?;
            positive("low_freq_factor", low)?;
            above(
                "high_freq_factor",
                high,
                low,
                "finite and above low_freq_factor",
            )?;
            let context = f64::from(original_context);
            positive("original_context", context)?;
            for f in inv_freq {
                let wavelength = TAU / *f;
                if wavelength > context / low {
                    *f /= factor;
                } else if wavelength >= context / high {
                    let smooth = (context / wavelength - low) / (high - low);
                    *f = (1.0 - smooth) * *f / factor + smooth * *f;
                }
            }
            Ok(1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            ext_factor,
            attn_factor,
            beta_fast,
            beta_slow,
        } => {
            positive("factor", factor)?;
            let context = f64::from(original_context);
            positive("original_context", context)?;
            above(
                "ext_factor",
                ext_factor,
                -f64::MIN_POSITIVE,
                "finite and at least 0",
            )?;
            positive("attn_factor", attn_factor)?;
            positive("beta_slow", beta_slow)?;
            above(
                "beta_fast",
                beta_fast,
                beta_slow,
                "finite and above beta_slow",
            )?;
            let n = n_dims as f64;
            let dimension = |turns: f64| n * (context / (turns * TAU)).ln() / (2.0 * theta.ln());
            let low = dimension(beta_fast).floor().max(0.0);
            let high = dimension(beta_slow).ceil().min(n - 1.0);
            for (i, f) in inv_freq.iter_mut().enumerate() {
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let kept = ext_factor * (1.0 - ramp);
                *f = (1.0 - kept) * *f / factor + kept * *f;
            }
            let longer = if ext_factor == 0.0 {
                1.0
            } else {
                1.0 + 0.1 * factor.ln()
            };
            Ok(attn_factor * longer)
        }
    }
}

fn positive(name: &'static str, value: f64) -> Result<(), RopeError> {
    above(name, value, 0.0, "finite and above 0")
}

fn above(
    name: &'static str,
    value: f64,
    bound: f64,
    wanted: &'static str,
) -> Result<(), RopeError> {
    if value.is_finite() && value > bound {
        Ok(())
    } else {
        Err(RopeError::Parameter {
            name,
            value,
            wanted,
        })
    }
}
