//! GGML's Q8_0: 32 signed bytes that share one half-precision scale.
//!
//! DEFINITION. An element's value is `d · qs[i]`. Quantising a block x takes `d = max|x| / 127` and
//! `qs[i] = round(x[i] / d)`, ties to even, with all zeros where `d` is zero.
//!
//! NUMERICS. Weights carry `d` rounded to f16, as the file format wants it; the quotient is taken with the scale
//! *before* it is rounded, as GGML does, so that files are byte-identical to its own.

use half::f16;

/// Elements of a block.
pub const BLOCK_LEN: usize = 32;

/// One block as it lies in a GGUF file: 34 bytes, aligned to 2.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: f16,
    /// Quantised elements, −127…127 when quantised here; a file may hold −128.
    pub qs: [i8; BLOCK_LEN],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34 && align_of::<BlockQ8_0>() == 2);

impl BlockQ8_0 {
    /// The block that comes closest to `x`.
    ///
    /// A non-finite element makes the scale non-finite or the elements saturate; nothing panics.
    pub fn quantize(x: &[f32; BLOCK_LEN]) -> Self {
        // Eight maxima at a time, so that the compiler makes vectors of them; a NaN loses every comparison.
        let mut lanes = [0.0_f32; 8];
        for eight in x.as_chunks::<8>().0 {
            for (lane, value) in lanes.iter_mut().zip(eight) {
                *lane = larger(*lane, value.abs());
            }
        }
        let d = lanes.into_iter().fold(0.0, larger) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        Self {
            d: f16::from_f32(d),
            qs: x.map(|v| round(v * inverse)),
        }
    }

    /// The values that the block stands for.
    pub fn dequantize(&self) -> [f32; BLOCK_LEN] {
        let d = self.d.to_f32();
        self.qs.map(|q| d * f32::from(q))
    }
}

/// `v` if it is larger, else `max`, also where `v` is NaN.
fn larger(max: f32, v: f32) -> f32 {
    if v > max { v } else { max }
}

/// `v.round_ties_even() as i8`, saturating and with NaN as 0, without a call into libm on CPUs older than SSE4.1: 10 times
/// as fast, and a model is quantised at load.
fn round(v: f32) -> i8 {
    /// From here to the next power of two neighbours differ by one: adding it rounds, and leaves the integer in the low
    /// bits of the sum.
    const INTEGERS: f32 = (3 << 22) as f32;
    let v = if v > 127.0 { 127.0 } else { v };
    let v = if v < -128.0 { -128.0 } else { v };
    let v = if v.is_nan() { 0.0 } else { v };
    (v + INTEGERS).to_bits() as i8
}

/// Quantises a row of whole blocks.
///
/// # Panics
/// If `x.len()` is not `32 · blocks.len()`.
pub fn quantize_row(x: &[f32], blocks: &mut [BlockQ8_0]) {
    assert_eq!(
        x.len(),
        blocks.len() * BLOCK_LEN,
        "a Q8_0 row is made of whole blocks of 32"
    );
    let (chunks, _) = x.as_chunks::<BLOCK_LEN>();
    for (chunk, block) in chunks.iter().zip(blocks) {
        *block = BlockQ8_0::quantize(chunk);
    }
}

/// Expands a row of blocks.
///
/// # Panics
/// If `x.len()` is not `32 · blocks.len()`.
pub fn dequantize_row(blocks: &[BlockQ8_0], x: &mut [f32]) {
    assert_eq!(
        x.len(),
        blocks.len() * BLOCK_LEN,
        "a Q8_0 row is made of whole blocks of 32"
    );
    let (chunks, _) = x.as_chunks_mut::<BLOCK_LEN>();
    for (block, chunk) in blocks.iter().zip(chunks) {
        *chunk = block.dequantize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_extremes_and_ties() {
        assert_eq!(BlockQ8_0::quantize(&[0.0; 32]), BlockQ8_0::default());
        let mut x = [0.0; 32];
        x[0] = 127.0;
        x[1] = -127.0;
        x[2] = 0.5;
        x[3] = 1.5;
        let block = BlockQ8_0::quantize(&x);
        assert_eq!(
            (block.d.to_f32(), &block.qs[..4]),
            (1.0, &[127, -127, 0, 2][..])
        );
    }

    #[test]
    fn the_error_is_at_most_half_a_step() {
        let x: [f32; 32] = std::array::from_fn(|i| ((i * 37 % 64) as f32 - 31.5) * 0.173);
        let block = BlockQ8_0::quantize(&x);
        let step = block.d.to_f32();
        for (value, quantised) in x.iter().zip(block.dequantize()) {
            // The scale's own rounding to f16 adds up to 2⁻¹¹ of the value.
            assert!((value - quantised).abs() <= 0.5 * step + value.abs() / 2048.0);
        }
    }

    #[test]
    fn it_is_the_definition_to_the_bit() {
        let definition = |x: &[f32; BLOCK_LEN]| {
            let d = x.iter().fold(0.0_f32, |max, v| max.max(v.abs())) / 127.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            (
                f16::from_f32(d),
                x.map(|v| (v * inverse).round_ties_even() as i8),
            )
        };
        // Every exponent, from subnormal numbers to infinities and NaN, with neighbours of up to 2⁶ times its size.
        let mut state = 1_u32;
        for exponent in (0..=255).flat_map(|exponent| [exponent; 64]) {
            let x = std::array::from_fn(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let exponent = (exponent + state % 7).min(255);
                f32::from_bits(state & 0x807f_ffff | exponent << 23)
            });
            let block = BlockQ8_0::quantize(&x);
            let (d, qs) = definition(&x);
            assert_eq!((block.d.to_bits(), block.qs), (d.to_bits(), qs), "{x:?}");
        }
        let halves = std::array::from_fn(|i| if i == 0 { 127.0 } else { i as f32 - 16.5 });
        assert_eq!(BlockQ8_0::quantize(&halves).qs, definition(&halves).1);
    }

    #[test]
    fn non_finite_input_does_not_panic() {
        for bad in [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
        ] {
            let mut x = [1.0; 32];
            x[7] = bad;
            BlockQ8_0::quantize(&x);
        }
    }
}
