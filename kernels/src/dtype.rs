//! Element types of weights and caches, and the arithmetic of their sizes.

use std::fmt;

use crate::q8_0;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// GGML's Q8_0: blocks of 32 int8 with one f16 scale, 34 bytes a block.
    Q8_0,
}

impl DType {
    /// All element types.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0];

    /// The type's name in ids, options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Elements in the smallest unit that can be stored: 32 for [`DType::Q8_0`], otherwise 1.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q8_0 => q8_0::BLOCK_LEN,
            _ => 1,
        }
    }

    /// Bytes of that unit.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => size_of::<q8_0::BlockQ8_0>(),
        }
    }

    /// Bytes of a row of `elements`, or `None` where they do not fill whole blocks or the size overflows.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
