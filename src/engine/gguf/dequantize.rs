//! From GGML's block types without kernels to f32.
//!
//! DEFINITION: ggml-quants.c's `dequantize_row_*`, in its order of operations: products and sums are rounded to f32 one
//! by one, so that the values are GGML's to the bit. WHY scalar: a model is converted once, at load, on all cores; what
//! counts is that a reader can hold each loop against its definition.

use half::f16;

use super::GgmlType;

/// A block type that can be turned into f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are GGML's own")]
pub enum BlockQuant {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl BlockQuant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
    ];

    /// The block type of this tensor type; `None` where there are kernels for it, or nothing here reads it.
    pub fn of(kind: GgmlType) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|quant| quant.name() == kind.name())
    }

    /// GGML's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_1 => "Q8_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q8K => "Q8_K",
        }
    }

    /// Elements of a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_1 => SMALL,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K => SUPER,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_1 => 36,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8K => 292,
        }
    }

    /// Bytes of a row of `elements`, or `None` where they do not fill whole blocks or the size overflows.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Writes the values of `blocks` to `out`.
    ///
    /// # Panics
    /// If `blocks` are not as many bytes as `out` has elements for.
    pub fn dequantize(self, blocks: &[u8], out: &mut [f32]) {
        assert!(
            self.row_bytes(out.len()) == Some(blocks.len()),
            "{} bytes of {} for {} elements",
            blocks.len(),
            self.name(),
            out.len()
        );
        match self {
            Self::Q4_0 => each(blocks, out, q4_0),
            Self::Q4_1 => each(blocks, out, q4_1),
            Self::Q5_0 => each(blocks, out, q5_0),
            Self::Q5_1 => each(blocks, out, q5_1),
            Self::Q8_1 => each(blocks, out, q8_1),
            Self::Q2K => each(blocks, out, q2_k),
            Self::Q3K => each(blocks, out, q3_k),
            Self::Q4K => each(blocks, out, q4_k),
            Self::Q5K => each(blocks, out, q5_k),
            Self::Q6K => each(blocks, out, q6_k),
            Self::Q8K => each(blocks, out, q8_k),
        }
    }
}

/// Elements of a block of the older types.
const SMALL: usize = 32;

/// Elements of a super-block of the K types, GGML's `QK_K`.
const SUPER: usize = 256;

fn each<const BYTES: usize, const LEN: usize>(
    blocks: &[u8],
    out: &mut [f32],
    dequantize: fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, out) = (blocks.as_chunks().0, out.as_chunks_mut().0);
    for (block, out) in blocks.iter().zip(out) {
        dequantize(block, out);
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low nibbles of 16 bytes are the first half of a block, the high ones the second.
fn nibble(bytes: &[u8], element: usize) -> u8 {
    (bytes[element % 16] >> (element / 16 * 4)) & 15
}

/// Bit `element` of 32.
fn fifth_bit(bytes: &[u8], element: usize) -> u8 {
    (bytes[element / 8] >> (element % 8)) & 1
}

/// `{ d: f16, qs: [u8; 16] }`, 8 is zero.
fn q4_0(block: &[u8; 18], out: &mut [f32; SMALL]) {
    let d = half(block, 0);
    for (at, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[2..], at) as i8 - 8);
    }
}

/// `{ d: f16, m: f16, qs: [u8; 16] }`.
fn q4_1(block: &[u8; 20], out: &mut [f32; SMALL]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (at, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[4..], at)) + m;
    }
}

/// `{ d: f16, qh: [u8; 4], qs: [u8; 16] }`, 16 is zero.
fn q5_0(block: &[u8; 22], out: &mut [f32; SMALL]) {
    let d = half(block, 0);
    for (at, out) in out.iter_mut().enumerate() {
        let q = nibble(&block[6..], at) | (fifth_bit(&block[2..6], at) << 4);
        *out = d * f32::from(q as i8 - 16);
    }
}

/// `{ d: f16, m: f16, qh: [u8; 4], qs: [u8; 16] }`.
fn q5_1(block: &[u8; 24], out: &mut [f32; SMALL]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (at, out) in out.iter_mut().enumerate() {
        let q = nibble(&block[8..], at) | (fifth_bit(&block[4..8], at) << 4);
        *out = d * f32::from(q) + m;
    }
}

/// `{ d: f16, s: f16, qs: [i8; 32] }`; s is d times the sum of qs, which the values do without.
fn q8_1(block: &[u8; 36], out: &mut [f32; SMALL]) {
    let d = half(block, 0);
    for (out, q) in out.iter_mut().zip(&block[4..]) {
        *out = d * f32::from(*q as i8);
    }
}

/// `{ scales: [u8; 16], qs: [u8; 64], d: f16, dmin: f16 }`: 16 sub-blocks of 16, scale and minimum of 4 bits each.
fn q2_k(block: &[u8; 84], out: &mut [f32; SUPER]) {
    let (d, dmin) = (half(block, 80), half(block, 82));
    let qs = &block[16..80];
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[sub] & 15);
        let minimum = dmin * f32::from(block[sub] >> 4);
        for (at, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(two_bits(qs, sub * 16 + at)) - minimum;
        }
    }
}

/// `{ hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: f16 }`: 16 sub-blocks of 16, scales of 6 bits around 32; a
/// mask bit that is *not* set takes 4 off.
fn q3_k(block: &[u8; 110], out: &mut [f32; SUPER]) {
    let (hmask, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = (scales[sub % 8] >> (sub / 8 * 4)) & 15;
        let high = (scales[8 + sub % 4] >> (sub / 4 * 2)) & 3;
        let scale = d * f32::from((low | (high << 4)) as i8 - 32);
        for (at, out) in out.iter_mut().enumerate() {
            let element = sub * 16 + at;
            let is_set = (hmask[element % 32] >> (element / 32)) & 1 == 1;
            let offset = if is_set { 0 } else { 4 };
            *out = scale * f32::from(two_bits(qs, element) as i8 - offset);
        }
    }
}

/// `{ d: f16, dmin: f16, scales: [u8; 12], qs: [u8; 128] }`: 8 sub-blocks of 32, scale and minimum of 6 bits each.
fn q4_k(block: &[u8; 144], out: &mut [f32; SUPER]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let qs = &block[16..];
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], sub);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (at, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(four_bits(qs, sub, at)) - minimum;
        }
    }
}

/// `{ d: f16, dmin: f16, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128] }`: Q4_K with a fifth bit.
fn q5_k(block: &[u8; 176], out: &mut [f32; SUPER]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (qh, qs) = (&block[16..48], &block[48..]);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], sub);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (at, out) in out.iter_mut().enumerate() {
            let q = four_bits(qs, sub, at) | (((qh[at] >> sub) & 1) << 4);
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// `{ ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16 }`: 16 sub-blocks of 16, 32 is zero.
fn q6_k(block: &[u8; 210], out: &mut [f32; SUPER]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[sub] as i8);
        for (at, out) in out.iter_mut().enumerate() {
            let element = sub * 16 + at;
            let (part, quarter, lane) = (element / 128, element % 128 / 32, element % 32);
            let low = (ql[part * 64 + quarter % 2 * 32 + lane] >> (quarter / 2 * 4)) & 15;
            let q = low | (two_bits(qh, element) << 4);
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}

/// `{ d: f32, qs: [i8; 256], bsums: [i16; 16] }`; the sums are for products, and the values do without.
fn q8_k(block: &[u8; 292], out: &mut [f32; SUPER]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (out, q) in out.iter_mut().zip(&block[4..260]) {
        *out = d * f32::from(*q as i8);
    }
}

/// Two bits of an element of a super-block: each half of 128 lies in 32 bytes, its quarters from the low bits up.
fn two_bits(bytes: &[u8], element: usize) -> u8 {
    let (part, quarter, lane) = (element / 128, element % 128 / 32, element % 32);
    (bytes[part * 32 + lane] >> (quarter * 2)) & 3
}

/// Four bits of an element of a sub-block of 32: two neighbours share 32 bytes, the first has the low nibbles.
fn four_bits(bytes: &[u8], sub: usize, at: usize) -> u8 {
    (bytes[sub / 2 * 32 + at] >> (sub % 2 * 4)) & 15
}

/// GGML's `get_scale_min_k4`: eight scales and eight minima of 6 bits in 12 bytes. The first four of each lie in the low
/// bits of bytes 0–3 and 4–7; the others have their low nibbles in bytes 8–11 and their high bits on top of the former.
fn scale_and_minimum(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        return (packed[sub] & 63, packed[sub + 4] & 63);
    }
    let (scale_top, minimum_top) = (packed[sub - 4] >> 6, packed[sub] >> 6);
    let low = packed[sub + 4];
    (
        (low & 15) | (scale_top << 4),
        (low >> 4) | (minimum_top << 4),
    )
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    use candle_core::{Device, Shape};
    use rand::{RngCore, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Blocks of seeded bits, and the values that gguf-py 0.19 (llama.cpp's own Python reader, which shares no code with
    /// GGML) makes of them. The script is in the fixture's README.
    const BLOCKS: &[u8] = include_bytes!("../../tests/fixtures/ggml-blocks/blocks.bin");
    const VALUES: &[u8] = include_bytes!("../../tests/fixtures/ggml-blocks/values.bin");

    /// Blocks of each type in the fixture.
    const COUNT: usize = 4;

    #[test]
    fn sizes_are_the_tensor_types() {
        for number in 0..100 {
            let Some(kind) = GgmlType::from_number(number) else {
                continue;
            };
            if let Some(quant) = BlockQuant::of(kind) {
                let sizes = (quant.block_len(), quant.block_bytes());
                assert_eq!(kind.block(), Some(sizes), "{kind}");
                assert_eq!(kind.dtype(), None);
            }
        }
        let known = (0..100).filter_map(GgmlType::from_number);
        assert_eq!(
            known.filter_map(BlockQuant::of).count(),
            BlockQuant::ALL.len()
        );
    }

    #[test]
    fn values_are_those_of_gguf_py_to_the_bit() {
        let (mut blocks, mut values) = (BLOCKS, VALUES);
        // It has no Q8_1 and no Q8_K, which candle has.
        let its = |quant: &&BlockQuant| !matches!(quant, BlockQuant::Q8_1 | BlockQuant::Q8K);
        for quant in BlockQuant::ALL.iter().filter(its) {
            let (these, those) = (COUNT * quant.block_bytes(), COUNT * quant.block_len());
            let mut out = vec![0.0; those];
            quant.dequantize(&blocks[..these], &mut out);
            for (at, (found, wanted)) in out.iter().zip(values.as_chunks().0).enumerate() {
                let wanted = f32::from_le_bytes(*wanted);
                assert_eq!(
                    found.to_bits(),
                    wanted.to_bits(),
                    "{} at {at}",
                    quant.name()
                );
            }
            (blocks, values) = (&blocks[these..], &values[those * 4..]);
        }
        assert!(blocks.is_empty() && values.is_empty());
    }

    #[test]
    fn values_are_those_of_candle() {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        for quant in BlockQuant::ALL {
            let dtype = match quant {
                BlockQuant::Q4_0 => GgmlDType::Q4_0,
                BlockQuant::Q4_1 => GgmlDType::Q4_1,
                BlockQuant::Q5_0 => GgmlDType::Q5_0,
                BlockQuant::Q5_1 => GgmlDType::Q5_1,
                // candle does not implement it.
                BlockQuant::Q8_1 => continue,
                BlockQuant::Q2K => GgmlDType::Q2K,
                BlockQuant::Q3K => GgmlDType::Q3K,
                BlockQuant::Q4K => GgmlDType::Q4K,
                BlockQuant::Q5K => GgmlDType::Q5K,
                BlockQuant::Q6K => GgmlDType::Q6K,
                BlockQuant::Q8K => GgmlDType::Q8K,
            };
            let len = 64 * quant.block_len();
            let mut blocks = vec![0; 64 * quant.block_bytes()];
            random.fill_bytes(&mut blocks);
            for block in blocks.chunks_mut(quant.block_bytes()) {
                scales(quant, block, &mut random);
            }
            let storage = QStorage::from_data(blocks.clone().into(), &Device::Cpu, dtype);
            let tensor = QTensor::new(storage.unwrap(), Shape::from(len)).unwrap();
            let wanted: Vec<f32> = tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap();
            let mut out = vec![0.0; len];
            quant.dequantize(&blocks, &mut out);
            for (at, (found, wanted)) in out.iter().zip(&wanted).enumerate() {
                let close = (found - wanted).abs() <= 1e-6 * wanted.abs().max(1e-3);
                assert!(close, "{} at {at}: {found} {wanted}", quant.name());
            }
        }
    }

    /// Puts finite scales where any bits would make infinities and NaNs.
    fn scales(quant: BlockQuant, block: &mut [u8], random: &mut ChaCha8Rng) {
        let mut number = || (random.next_u32() % 2000) as f32 / 1e5 - 0.01;
        let halves: &[usize] = match quant {
            BlockQuant::Q4_0 | BlockQuant::Q5_0 => &[0],
            BlockQuant::Q4_1 | BlockQuant::Q5_1 | BlockQuant::Q8_1 => &[0, 2],
            BlockQuant::Q4K | BlockQuant::Q5K => &[0, 2],
            BlockQuant::Q2K => &[80, 82],
            BlockQuant::Q3K => &[108],
            BlockQuant::Q6K => &[208],
            BlockQuant::Q8K => {
                block[..4].copy_from_slice(&number().to_le_bytes());
                &[]
            }
        };
        for at in halves {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(number()).to_le_bytes());
        }
    }

    #[test]
    fn q8_1_is_its_scale_times_its_bytes() {
        let mut block = [0; 36];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[4..].copy_from_slice(&std::array::from_fn::<u8, 32, _>(|at| at as u8 * 8));
        let mut out = [0.0; 32];
        BlockQuant::Q8_1.dequantize(&block, &mut out);
        let wanted: [f32; 32] = std::array::from_fn(|at| 0.5 * f32::from((at * 8) as u8 as i8));
        assert_eq!(out, wanted);
    }

    #[test]
    #[should_panic(expected = "143 bytes of Q4_K for 256 elements")]
    fn half_a_block_is_refused() {
        BlockQuant::Q4K.dequantize(&[0; 143], &mut [0.0; 256]);
    }
}
