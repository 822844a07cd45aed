//! The tensor types of GGML, by number: names and block sizes.
//!
//! Source: `enum ggml_type` in ggml.h and the block structs in ggml-common.h.

use std::fmt;

use tokgate_kernels::DType;

/// A tensor type that GGML knows or knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType(&'static Info);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Info {
    number: u32,
    name: &'static str,
    /// Elements of a block, or 0 for types that were removed from GGML.
    block_len: u16,
    block_bytes: u16,
}

const fn info(number: u32, name: &'static str, block_len: u16, block_bytes: u16) -> Info {
    Info {
        number,
        name,
        block_len,
        block_bytes,
    }
}

/// Ordered by number.
static TYPES: &[Info] = &[
    info(0, "F32", 1, 4),
    info(1, "F16", 1, 2),
    info(2, "Q4_0", 32, 18),
    info(3, "Q4_1", 32, 20),
    info(4, "Q4_2", 0, 0),
    info(5, "Q4_3", 0, 0),
    info(6, "Q5_0", 32, 22),
    info(7, "Q5_1", 32, 24),
    info(8, "Q8_0", 32, 34),
    info(9, "Q8_1", 32, 36),
    info(10, "Q2_K", 256, 84),
    info(11, "Q3_K", 256, 110),
    info(12, "Q4_K", 256, 144),
    info(13, "Q5_K", 256, 176),
    info(14, "Q6_K", 256, 210),
    info(15, "Q8_K", 256, 292),
    info(16, "IQ2_XXS", 256, 66),
    info(17, "IQ2_XS", 256, 74),
    info(18, "IQ3_XXS", 256, 98),
    info(19, "IQ1_S", 256, 50),
    info(20, "IQ4_NL", 32, 18),
    info(21, "IQ3_S", 256, 110),
    info(22, "IQ2_S", 256, 82),
    info(23, "IQ4_XS", 256, 136),
    info(24, "I8", 1, 1),
    info(25, "I16", 1, 2),
    info(26, "I32", 1, 4),
    info(27, "I64", 1, 8),
    info(28, "F64", 1, 8),
    info(29, "IQ1_M", 256, 56),
    info(30, "BF16", 1, 2),
    info(31, "Q4_0_4_4", 0, 0),
    info(32, "Q4_0_4_8", 0, 0),
    info(33, "Q4_0_8_8", 0, 0),
    info(34, "TQ1_0", 256, 54),
    info(35, "TQ2_0", 256, 66),
    info(36, "IQ4_NL_4_4", 0, 0),
    info(37, "IQ4_NL_4_8", 0, 0),
    info(38, "IQ4_NL_8_8", 0, 0),
    info(39, "MXFP4", 32, 17),
    info(40, "NVFP4", 64, 36),
    info(41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// The type with this number in a tensor table, if GGML has or had one.
    pub fn from_number(number: u32) -> Option<Self> {
        TYPES
            .get(usize::try_from(number).ok()?)
            .filter(|info| info.number == number)
            .map(Self)
    }

    /// The number that stands for it in a tensor table.
    pub const fn number(self) -> u32 {
        self.0.number
    }

    /// GGML's name, as in `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Elements and bytes of a block; `None` for types that GGML no longer has.
    pub fn block(self) -> Option<(usize, usize)> {
        (self.0.block_len > 0).then_some((
            usize::from(self.0.block_len),
            usize::from(self.0.block_bytes),
        ))
    }

    /// The kernels' type of the same layout; `None` where there are no kernels.
    pub const fn dtype(self) -> Option<DType> {
        match self.0.number {
            0 => Some(DType::F32),
            1 => Some(DType::F16),
            8 => Some(DType::Q8_0),
            30 => Some(DType::Bf16),
            _ => None,
        }
    }
}

impl From<DType> for GgmlType {
    fn from(dtype: DType) -> Self {
        Self(match dtype {
            DType::F32 => &TYPES[0],
            DType::F16 => &TYPES[1],
            DType::Q8_0 => &TYPES[8],
            DType::Bf16 => &TYPES[30],
        })
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, info) in TYPES.iter().enumerate() {
            assert_eq!(info.number as usize, position);
        }
        assert_eq!(GgmlType::from_number(TYPES.len() as u32), None);
        assert_eq!(GgmlType::from_number(u32::MAX), None);
    }

    #[test]
    fn types_of_the_kernels_have_the_kernels_sizes() {
        for dtype in DType::ALL {
            let ggml = GgmlType::from(dtype);
            assert_eq!(ggml.dtype(), Some(dtype));
            assert_eq!(ggml.block(), Some((dtype.block_len(), dtype.block_bytes())));
            assert_eq!(ggml.name().to_lowercase(), dtype.name());
        }
    }
}
