//! What can be wrong with a GGUF file, and where.

use std::fmt;

use super::value::ValueType;
use crate::engine::mapping::MappingError;

/// Why a file could not be read as GGUF.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be mapped.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// It does not start with `GGUF`.
    #[error(
        "not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"; safetensors models are given as their folder"
    )]
    Magic {
        /// The first bytes, up to four.
        found: Vec<u8>,
    },
    /// Written for a big-endian machine.
    #[error(
        "big-endian GGUF (version {version}): convert it with gguf-py's gguf_convert_endian.py FILE little"
    )]
    BigEndian {
        /// The version, read in the file's byte order.
        version: u32,
    },
    /// A version that is not read.
    #[error("GGUF version {found} is not supported, only 2 and 3: convert the model again")]
    Version {
        /// What the file says.
        found: u32,
    },
    /// Something is wrong at a place of the file.
    #[error("{place}, at byte {offset}: {problem}")]
    Damaged {
        /// Which part of the file.
        place: Place,
        /// Where the offending item starts, from the beginning of the file.
        offset: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The metadata lack something that is needed.
    #[error("the metadata have no key {key:?}, which is needed")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value has another type than its key is to have.
    #[error("metadata key {key:?} is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What the file has.
        found: String,
    },
}

/// A part of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Magic, version and counts.
    Header,
    /// The key of the n-th metadata entry, counted from 0.
    Key(u64),
    /// The value of a key.
    Value(String),
    /// The name of the n-th tensor, counted from 0.
    TensorName(u64),
    /// The rest of the table entry of a tensor.
    Tensor(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "GGUF header"),
            Self::Key(index) => write!(f, "GGUF metadata entry {index}"),
            Self::Value(key) => write!(f, "GGUF metadata key {key:?}"),
            Self::TensorName(index) => write!(f, "GGUF tensor {index}"),
            Self::Tensor(name) => write!(f, "GGUF tensor {name:?}"),
        }
    }
}

/// What is wrong at a place of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file ends too early.
    #[error(
        "the file ends here: {wanted} bytes wanted, {left} left (a download that was cut short?)"
    )]
    Truncated {
        /// Bytes that the item takes.
        wanted: u64,
        /// Bytes up to the end of the file.
        left: usize,
    },
    /// More entries than the rest of the file could hold.
    #[error("{count} {what} cannot fit the {left} bytes that are left")]
    Count {
        /// How many the file claims.
        count: u64,
        /// Of what.
        what: &'static str,
        /// Bytes up to the end of the file.
        left: usize,
    },
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8 (byte {0} of it)")]
    Utf8(usize),
    /// A number that stands for no value type.
    #[error("unknown value type {0}")]
    ValueType(u32),
    /// A boolean that is neither 0 nor 1.
    #[error("a boolean is {0}, neither 0 nor 1")]
    Bool(u8),
    /// Arrays in arrays in arrays.
    #[error("arrays are nested more than {0} deep")]
    Nesting(usize),
    /// The same key or tensor name twice.
    #[error("the same name was there before")]
    Duplicate,
    /// An alignment that cannot be.
    #[error("the alignment {0} is not a power of two up to 2^30")]
    Alignment(u64),
    /// Too many dimensions.
    #[error("{0} dimensions, but a tensor has at most {max}", max = super::MAX_DIMS)]
    Dimensions(u32),
    /// A dimension of size zero, or a product that overflows.
    #[error("its dimensions {0:?} are empty or too large")]
    Size(Vec<u64>),
    /// A number that stands for no tensor type.
    #[error(
        "unknown tensor type {0}: convert the model to Q8_0 with a current llama-quantize, or update tokgate"
    )]
    TensorType(u32),
    /// A type that GGML gave up.
    #[error("its type {0} was removed from GGML: convert the model again from its source")]
    RemovedType(&'static str),
    /// Rows that are not made of whole blocks.
    #[error("rows of {row} elements are not made of {name}'s blocks of {block}")]
    Blocks {
        /// Elements of a row.
        row: u64,
        /// The type.
        name: &'static str,
        /// Elements of a block.
        block: usize,
    },
    /// An offset that is not a multiple of the alignment.
    #[error("its data offset {offset} is not a multiple of the alignment {alignment}")]
    Unaligned {
        /// From the start of the data section.
        offset: u64,
        /// The file's alignment.
        alignment: usize,
    },
    /// Data past the end of the file.
    #[error(
        "its {bytes} bytes of data at offset {offset} end past the data section of {section} bytes (a download that was cut short?)"
    )]
    PastEnd {
        /// From the start of the data section.
        offset: u64,
        /// Size of the tensor.
        bytes: u64,
        /// Size of the data section.
        section: usize,
    },
    /// Two tensors that share bytes.
    #[error("its data overlap those of tensor {0:?}")]
    Overlap(String),
}

impl GgufError {
    pub(super) fn wrong_type(key: &str, expected: &'static str, found: impl fmt::Display) -> Self {
        Self::WrongType {
            key: key.to_owned(),
            expected,
            found: found.to_string(),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
