//! Safetensors: a JSON table of tensors and their data, mapped; and the folder that a model comes in.
//!
//! ```text
//! length:u64  {"name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [start, end]}, …}  data
//! ```
//! Source: <https://github.com/huggingface/safetensors#format>. Offsets count from the end of the table.
//!
//! WHY not the `safetensors` crate: its errors do not name the tensor that is wrong, the last of two entries of the same
//! name wins silently, and its sum of sizes overflows on a hostile table.

mod folder;
mod quantized;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

pub use folder::{Folder, FolderError};
pub use quantized::Quantized;

use super::mapping::{Mapping, MappingError};

/// Longest table that is read, the format's own limit.
const MAX_TABLE: u64 = 100_000_000;

/// Bytes of the length before the table.
const LENGTH_BYTES: usize = 8;

/// Why a file could not be read as safetensors.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file could not be mapped.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The file is shorter than its own table.
    #[error(
        "the file has {found} bytes, but its header alone takes {wanted} (a download that was cut short?)"
    )]
    Truncated {
        /// Bytes that length and table take.
        wanted: u64,
        /// Bytes of the file.
        found: usize,
    },
    /// A length that no table has.
    #[error(
        "the header claims a length of {0} bytes, more than the format's limit of {MAX_TABLE}: not a safetensors file?"
    )]
    Length(u64),
    /// The table is no JSON object.
    #[error("the header is not a JSON object")]
    Table(#[source] serde_json::Error),
    /// The same name twice.
    #[error("tensor {0:?} is listed twice")]
    Duplicate(String),
    /// A row of the table that is not as the format wants it.
    #[error("tensor {name:?}")]
    Row {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Offsets outside of the data, or in the wrong order.
    #[error(
        "tensor {name:?}: its data offsets {start}..{end} are not within the {section} bytes of data (a download that was cut short?)"
    )]
    Offsets {
        /// The tensor.
        name: String,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes of data in the file.
        section: usize,
    },
    /// Offsets that do not fit shape and type.
    #[error("tensor {name:?}: shape {shape:?} of {dtype:?} does not take {bytes} bytes")]
    Size {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: String,
        /// Bytes by the offsets.
        bytes: usize,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Sizes, the fastest-running dimension last: `[rows, cols]`.
    pub shape: Vec<usize>,
    /// Element type by the format's name, as in `BF16`; possibly one that is not known here.
    pub dtype: String,
    /// Where the data are, in bytes from the start of the file; within it, and disjoint from all other tensors.
    pub data: Range<usize>,
}

/// An opened safetensors file.
#[derive(Debug)]
pub struct Safetensors {
    mapping: Arc<Mapping>,
    tensors: Vec<TensorInfo>,
}

impl Safetensors {
    /// Opens and checks a file; its data stay on disk until they are used.
    ///
    /// # Errors
    /// [`SafetensorsError`] if it cannot be mapped or anything in its table is wrong.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        Self::from_mapping(Arc::new(Mapping::open(path)?))
    }

    /// Reads a file that is in memory.
    ///
    /// # Errors
    /// [`SafetensorsError`] if anything in its table is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, SafetensorsError> {
        Self::from_mapping(Arc::new(Mapping::from(bytes.to_vec())))
    }

    fn from_mapping(mapping: Arc<Mapping>) -> Result<Self, SafetensorsError> {
        let (table, data) = split(&mapping)?;
        let Table(rows) = serde_json::from_slice(table).map_err(SafetensorsError::Table)?;
        let data_start = mapping.len() - data.len();
        let mut names = HashSet::with_capacity(rows.len());
        let mut tensors = Vec::with_capacity(rows.len());
        for (name, row) in rows {
            if !names.insert(name.clone()) {
                return Err(SafetensorsError::Duplicate(name));
            }
            if name != "__metadata__" {
                tensors.push(tensor(name, row, data_start, data.len())?);
            }
        }
        overlaps(&tensors)?;
        Ok(Self { mapping, tensors })
    }

    /// The bytes of the whole file.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The table in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }
}

/// The table and the data.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), SafetensorsError> {
    let truncated = |wanted| SafetensorsError::Truncated {
        wanted,
        found: bytes.len(),
    };
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| truncated(LENGTH_BYTES as u64))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_TABLE {
        return Err(SafetensorsError::Length(length));
    }
    rest.split_at_checked(length as usize)
        .ok_or_else(|| truncated(LENGTH_BYTES as u64 + length))
}

/// A JSON object with its keys in order and repeated ones kept, so that they can be refused.
struct Table(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;

        impl<'de> Visitor<'de> for Rows {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(Table(rows))
            }
        }

        deserializer.deserialize_map(Rows)
    }
}

#[derive(serde::Deserialize)]
struct Row {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

fn tensor(
    name: String,
    row: Value,
    data_start: usize,
    section: usize,
) -> Result<TensorInfo, SafetensorsError> {
    let Row {
        dtype,
        shape,
        data_offsets: (start, end),
    } = match serde_json::from_value(row) {
        Ok(row) => row,
        Err(source) => return Err(SafetensorsError::Row { name, source }),
    };
    if start > end || end > section as u64 {
        return Err(SafetensorsError::Offsets {
            name,
            start,
            end,
            section,
        });
    }
    // Both are below the section's size now, which is a usize.
    let (start, end) = (start as usize, end as usize);
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    let fits = match (element_bytes(&dtype), elements) {
        (Some(size), Some(elements)) => elements.checked_mul(size) == Some(end - start),
        // A type that came later: nobody will read its data.
        (None, Some(_)) => true,
        (_, None) => false,
    };
    if !fits {
        return Err(SafetensorsError::Size {
            name,
            shape,
            dtype,
            bytes: end - start,
        });
    }
    Ok(TensorInfo {
        name,
        shape,
        dtype,
        data: data_start + start..data_start + end,
    })
}

fn element_bytes(dtype: &str) -> Option<usize> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

fn overlaps(tensors: &[TensorInfo]) -> Result<(), SafetensorsError> {
    let mut by_start: Vec<&TensorInfo> = tensors
        .iter()
        .filter(|tensor| !tensor.data.is_empty())
        .collect();
    by_start.sort_by_key(|tensor| tensor.data.start);
    for pair in by_start.windows(2) {
        if pair[0].data.end > pair[1].data.start {
            return Err(SafetensorsError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
            });
        }
    }
    Ok(())
}
