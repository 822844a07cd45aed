//! Seeded numbers for weights, made a row at a time.
//!
//! DEFINITION. Word `i` of a row is `mix(key(seed, tensor, row) + i · GOLDEN)`: a counter through a hash, so that any
//! thread makes any row, and every machine the same bytes.
//! ```text
//! f32    word → 2 elements: i32 · spread / 2³¹
//! f16    word → 4 elements: i16 · spread / 2¹⁵, rounded
//! bf16   word → 4 elements: i16 · spread / 2¹⁵, cut to 16 bits
//! q8_0   word → 8 elements of int8, −128 replaced by 0; scale = spread / 127 · (0.75 … 1.25) in 8 steps, by one
//!        more word per block
//! ```
//! Elements are spread evenly over (−spread, spread), which is a standard deviation of spread / √3.
//!
//! WHY not a normal distribution, quantised: the speed of a kernel does not depend on it, and files of gigabytes are to
//! be made as fast as the disk takes them.

use half::f16;
use tokgate_kernels::{DType, q8_0};

/// 2⁶⁴ over the golden ratio: consecutive counters end far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// How the numbers of a tensor are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// Middle of the numbers; 0 for all but norms, which are never quantised.
    pub center: f32,
    /// Largest distance from it.
    pub spread: f32,
}

/// Appends a row of `cols` elements to `out`.
///
/// # Panics
/// If `cols` is no multiple of the type's block.
pub(super) fn row(out: &mut Vec<u8>, dtype: DType, cols: usize, key: u64, numbers: Spread) {
    let word = |index: usize| mix(key.wrapping_add((index as u64).wrapping_mul(GOLDEN)));
    let Spread { center, spread } = numbers;
    match dtype {
        DType::F32 => {
            let scale = spread / (1_u32 << 31) as f32;
            for index in 0..cols.div_ceil(2) {
                let word = word(index);
                let pair = [word as i32, (word >> 32) as i32];
                let pair = pair.map(|integer| (center + integer as f32 * scale).to_le_bytes());
                let wanted = (cols - 2 * index).min(2);
                out.extend_from_slice(pair[..wanted].as_flattened());
            }
        }
        DType::F16 => halves(out, cols, word, |integer| {
            f16::from_f32(center + f32::from(integer) * (spread / 32768.0)).to_bits()
        }),
        DType::Bf16 => halves(out, cols, word, |integer| {
            ((center + f32::from(integer) * (spread / 32768.0)).to_bits() >> 16) as u16
        }),
        DType::Q8_0 => {
            assert!(cols.is_multiple_of(q8_0::BLOCK_LEN));
            let scales = scales(spread);
            for block in 0..cols / q8_0::BLOCK_LEN {
                let words: [u64; 5] = std::array::from_fn(|index| word(5 * block + index));
                let mut bytes = [0; 34];
                bytes[..2].copy_from_slice(&scales[(words[4] >> 61) as usize]);
                for (eight, word) in bytes[2..].chunks_exact_mut(8).zip(words) {
                    eight.copy_from_slice(&word.to_le_bytes());
                }
                // Quantisers do not make −128; 0 in its place makes the mean zero.
                for byte in &mut bytes[2..] {
                    *byte = if *byte == 0x80 { 0 } else { *byte };
                }
                out.extend_from_slice(&bytes);
            }
        }
    }
}

/// The key of a row.
pub(super) fn key(seed: u64, tensor: &str, row: u64) -> u64 {
    // FNV-1a: any stable hash of the name will do.
    let name = tensor
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    mix(mix(seed ^ name).wrapping_add(row.wrapping_mul(GOLDEN)))
}

fn halves(
    out: &mut Vec<u8>,
    cols: usize,
    word: impl Fn(usize) -> u64,
    narrow: impl Fn(i16) -> u16,
) {
    for index in 0..cols.div_ceil(4) {
        let word = word(index);
        let four = [0, 16, 32, 48].map(|shift| narrow((word >> shift) as i16).to_le_bytes());
        let wanted = (cols - 4 * index).min(4);
        out.extend_from_slice(four[..wanted].as_flattened());
    }
}

/// Blocks of a real model differ in scale, and a kernel that takes the neighbour's should be found out.
fn scales(spread: f32) -> [[u8; 2]; 8] {
    std::array::from_fn(|step| {
        let factor = 0.75 + step as f32 / 14.0;
        f16::from_f32(spread / 127.0 * factor).to_le_bytes()
    })
}

/// MurmurHash3's finaliser: every bit of the input moves every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::weights::{Shape, Tensor};

    #[test]
    fn rows_have_the_mean_and_deviation_they_should() {
        let numbers = Spread {
            center: 0.0,
            spread: 0.5,
        };
        for dtype in DType::ALL {
            let cols = 1 << 16;
            let mut bytes = Vec::new();
            row(&mut bytes, dtype, cols, key(7, "a", 3), numbers);
            let tensor = Tensor::copied(dtype, Shape::matrix(1, cols), &bytes);
            let mut values = vec![0.0; cols];
            tensor.unwrap().view().widen_row(0, &mut values);
            let mean = values.iter().sum::<f32>() / cols as f32;
            let square = values.iter().map(|v| v * v).sum::<f32>() / cols as f32;
            let largest = values.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
            assert!(mean.abs() < 0.003, "{dtype}: {mean}");
            let deviation = square.sqrt() * 3.0_f32.sqrt();
            assert!((deviation - 0.5).abs() < 0.01, "{dtype}: {deviation}");
            assert!((0.49..0.65).contains(&largest), "{dtype}: {largest}");
        }
    }

    #[test]
    fn odd_rows_are_whole_and_prefixes_of_longer_ones() {
        let numbers = Spread {
            center: 1.0,
            spread: 0.1,
        };
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let mut long = Vec::new();
            row(&mut long, dtype, 64, 1, numbers);
            for cols in 0..64 {
                let mut short = Vec::new();
                row(&mut short, dtype, cols, 1, numbers);
                assert_eq!(short, long[..cols * dtype.block_bytes()]);
            }
        }
    }

    #[test]
    fn keys_differ_by_seed_tensor_and_row() {
        let keys = [
            key(0, "a", 0),
            key(1, "a", 0),
            key(0, "b", 0),
            key(0, "a", 1),
            key(1, "a", 1),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one));
        }
    }
}
