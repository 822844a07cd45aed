//! GGUF, the model file of llama.cpp: metadata, a table of tensors, and their data, mapped.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Versions 2 and 3 are read, which differ only in
//! that 3 allows big-endian files, and those are refused.
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 entries:u64
//! entry:  key:str type:u32 value                       str = length:u64 bytes
//! tensor: name:str n_dims:u32 dims:u64… type:u32 offset:u64
//! padding to general.alignment, then the data; offsets count from here
//! ```
//!
//! Nothing in the file is trusted: counts, lengths and offsets are checked against the bytes that are there before they
//! are used or allocated for, and every error names the place.

mod cursor;
mod dequantize;
mod error;
mod split;
mod types;
mod value;
mod writer;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use dequantize::BlockQuant;
pub use error::{GgufError, Place, Problem};
pub use split::{Parts, SplitError};
pub use types::GgmlType;
pub use value::{Array, FromValue, Value, ValueType};
pub use writer::{Layout, MetaValue, Writer};

use crate::engine::mapping::Mapping;
use cursor::Cursor;

/// Most dimensions of a tensor, GGML's limit.
pub const MAX_DIMS: usize = 4;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: usize = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// Most rows to claim memory for before they are read. A count is checked against the file's size, but the size of a
/// sparse file says nothing of what is in it: beyond this, tables grow with the rows that are really there.
const MAX_ROWS_AHEAD: usize = 1 << 16;

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    mapping: Arc<Mapping>,
    version: u32,
    alignment: usize,
    entries: Vec<Entry>,
    entry_of: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    tensor_of: HashMap<String, usize>,
}

/// Where a metadata value lies.
#[derive(Debug)]
struct Entry {
    key: String,
    kind: ValueType,
    start: usize,
}

/// A row of the tensor table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Sizes, the fastest-running dimension first: `[cols, rows]`, `[cols, rows, experts]`. None is zero.
    pub dims: Vec<usize>,
    /// Element type.
    pub kind: GgmlType,
    /// Where the data are, in bytes from the start of the file; within it, and disjoint from all other tensors.
    pub data: Range<usize>,
}

impl TensorInfo {
    /// Elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

impl Gguf {
    /// Opens and checks a file; its data stay on disk until they are used.
    ///
    /// # Errors
    /// [`GgufError`] if it cannot be mapped or anything in its header is wrong.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::from_mapping(Arc::new(Mapping::open(path)?))
    }

    /// Reads a file that is in memory.
    ///
    /// # Errors
    /// [`GgufError`] if anything in its header is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        Self::from_mapping(Arc::new(Mapping::from(bytes.to_vec())))
    }

    fn from_mapping(mapping: Arc<Mapping>) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(&mapping);
        let (version, tensor_count) = header(&mut cursor)?;
        let entry_count = cursor
            .count("metadata entries", 8 + 4 + 1)
            .map_err(|problem| damaged(Place::Header, &cursor, problem))?;
        let (entries, entry_of) = entries(&mut cursor, entry_count)?;
        let mut gguf = Self {
            mapping: Arc::clone(&mapping),
            version,
            alignment: DEFAULT_ALIGNMENT,
            entries,
            entry_of,
            tensors: Vec::new(),
            tensor_of: HashMap::new(),
        };
        gguf.alignment = gguf.read_alignment()?;
        (gguf.tensors, gguf.tensor_of) = tensors(&mut cursor, tensor_count, gguf.alignment)?;
        Ok(gguf)
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What data offsets are multiples of.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The bytes of the whole file.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// All metadata in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries
            .iter()
            .map(|entry| (entry.key.as_str(), self.decode(entry)))
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        let &index = self.entry_of.get(key)?;
        Some(self.decode(&self.entries[index]))
    }

    /// The value of a key as a `T`: `u32`, `u64`, `usize`, `i32`, `f32`, `bool`, `&str`, [`Array`], or a `Vec` of these.
    /// `None` where there is no such key.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it is something else.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(read) => Ok(Some(read)),
            None => Err(GgufError::wrong_type(key, T::EXPECTED, value)),
        }
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], or as [`Self::get`].
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get(key)?.ok_or_else(|| GgufError::MissingKey {
            key: key.to_owned(),
        })
    }

    /// The tensor table in the file's order; empty for a file that holds a vocabulary only.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let &index = self.tensor_of.get(name)?;
        self.tensors.get(index)
    }

    fn decode(&self, entry: &Entry) -> Value<'_> {
        // It was checked when the file was opened; only a file that was changed since can fail here.
        Cursor::at(&self.mapping, entry.start)
            .value(entry.kind)
            .unwrap_or(Value::Str("\u{fffd}"))
    }

    fn read_alignment(&self) -> Result<usize, GgufError> {
        let Some(alignment) = self.get::<u64>(ALIGNMENT_KEY)? else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        if alignment.is_power_of_two() && alignment <= 1 << 30 {
            return Ok(alignment as usize);
        }
        Err(GgufError::Damaged {
            place: Place::Value(ALIGNMENT_KEY.to_owned()),
            offset: self.entries[self.entry_of[ALIGNMENT_KEY]].start,
            problem: Problem::Alignment(alignment),
        })
    }
}

fn damaged(place: Place, cursor: &Cursor<'_>, problem: Problem) -> GgufError {
    GgufError::Damaged {
        place,
        offset: cursor.position(),
        problem,
    }
}

/// Magic and version, then the number of tensors, which is checked once their table is reached.
fn header(cursor: &mut Cursor<'_>) -> Result<(u32, u64), GgufError> {
    let left = cursor.left();
    let magic = cursor.take(left.min(MAGIC.len()) as u64);
    let magic = magic.map_err(|problem| damaged(Place::Header, cursor, problem))?;
    if magic != MAGIC && !(magic.len() < MAGIC.len() && MAGIC.starts_with(magic)) {
        return Err(GgufError::Magic {
            found: magic.to_vec(),
        });
    }
    let version = cursor
        .u32()
        .map_err(|problem| damaged(Place::Header, cursor, problem))?;
    match version {
        2 | 3 => {}
        // Small numbers with their bytes swapped: no version will ever be that large.
        _ if version != 0 && version & 0xffff == 0 => {
            return Err(GgufError::BigEndian {
                version: version.swap_bytes(),
            });
        }
        found => return Err(GgufError::Version { found }),
    }
    let tensors = cursor
        .u64()
        .map_err(|problem| damaged(Place::Header, cursor, problem))?;
    Ok((version, tensors))
}

type Indexed<T> = (Vec<T>, HashMap<String, usize>);

fn entries(cursor: &mut Cursor<'_>, count: usize) -> Result<Indexed<Entry>, GgufError> {
    let ahead = count.min(MAX_ROWS_AHEAD);
    let mut entries = Vec::with_capacity(ahead);
    let mut entry_of = HashMap::with_capacity(ahead);
    for index in 0..count {
        let start = cursor.clone();
        let in_key =
            |cursor: &Cursor<'_>, problem| damaged(Place::Key(index as u64), cursor, problem);
        let key = cursor.str().map_err(|problem| in_key(cursor, problem))?;
        match entry_of.entry(key.to_owned()) {
            Slot::Vacant(slot) => slot.insert(index),
            Slot::Occupied(_) => {
                return Err(damaged(
                    Place::Value(key.to_owned()),
                    &start,
                    Problem::Duplicate,
                ));
            }
        };
        let in_value =
            |cursor: &Cursor<'_>, problem| damaged(Place::Value(key.to_owned()), cursor, problem);
        let kind = cursor
            .value_type()
            .map_err(|problem| in_value(cursor, problem))?;
        let start = cursor.position();
        cursor
            .value(kind)
            .map_err(|problem| in_value(cursor, problem))?;
        entries.push(Entry {
            key: key.to_owned(),
            kind,
            start,
        });
    }
    Ok((entries, entry_of))
}

fn tensors(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: usize,
) -> Result<Indexed<TensorInfo>, GgufError> {
    /// Name length, number of dimensions, type and offset.
    const MIN_ROW_BYTES: usize = 8 + 4 + 4 + 8;
    let left = cursor.left();
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= left / MIN_ROW_BYTES)
        .ok_or_else(|| {
            let what = "tensors";
            damaged(Place::Header, cursor, Problem::Count { count, what, left })
        })?;

    let ahead = count.min(MAX_ROWS_AHEAD);
    let mut rows = Vec::with_capacity(ahead);
    let mut tensor_of = HashMap::with_capacity(ahead);
    for index in 0..count {
        let start = cursor.clone();
        let name = cursor
            .str()
            .map_err(|problem| damaged(Place::TensorName(index as u64), cursor, problem))?;
        let in_tensor =
            |cursor: &Cursor<'_>, problem| damaged(Place::Tensor(name.to_owned()), cursor, problem);
        match tensor_of.entry(name.to_owned()) {
            Slot::Vacant(slot) => slot.insert(index),
            Slot::Occupied(_) => return Err(in_tensor(&start, Problem::Duplicate)),
        };
        let row = Row::read(cursor, alignment).map_err(|problem| in_tensor(cursor, problem))?;
        rows.push((name, start, row));
    }

    let data_start = cursor.position().next_multiple_of(alignment);
    let section = (cursor.position() + cursor.left()).saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(rows.len());
    for (name, start, row) in rows {
        let end = row.offset.checked_add(row.bytes);
        if end.is_none_or(|end| end > section as u64) {
            let problem = Problem::PastEnd {
                offset: row.offset,
                bytes: row.bytes,
                section,
            };
            return Err(damaged(Place::Tensor(name.to_owned()), &start, problem));
        }
        // Both are below the section's size now, which is a usize.
        let at = data_start + row.offset as usize;
        tensors.push(TensorInfo {
            name: name.to_owned(),
            dims: row.dims,
            kind: row.kind,
            data: at..at + row.bytes as usize,
        });
    }
    overlaps(&tensors)?;
    Ok((tensors, tensor_of))
}

/// A row of the tensor table without its name, checked as far as it can be by itself.
struct Row {
    dims: Vec<usize>,
    kind: GgmlType,
    offset: u64,
    bytes: u64,
}

impl Row {
    fn read(cursor: &mut Cursor<'_>, alignment: usize) -> Result<Self, Problem> {
        let n_dims = cursor.u32()?;
        if n_dims as usize > MAX_DIMS {
            return Err(Problem::Dimensions(n_dims));
        }
        let mut dims = Vec::with_capacity(MAX_DIMS);
        for _ in 0..n_dims {
            dims.push(cursor.u64()?);
        }
        let number = cursor.u32()?;
        let kind = GgmlType::from_number(number).ok_or(Problem::TensorType(number))?;
        let (block, block_bytes) = kind.block().ok_or(Problem::RemovedType(kind.name()))?;
        let offset = cursor.u64()?;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(Problem::Unaligned { offset, alignment });
        }

        let row = dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(block as u64) {
            let name = kind.name();
            return Err(Problem::Blocks { row, name, block });
        }
        let elements = dims.iter().try_fold(1_u64, |product, &dim| {
            product.checked_mul(dim).filter(|&product| product > 0)
        });
        let bytes = elements.and_then(|n| (n / block as u64).checked_mul(block_bytes as u64));
        let sizes: Option<Vec<usize>> = dims.iter().map(|&dim| dim.try_into().ok()).collect();
        match (bytes, sizes) {
            (Some(bytes), Some(sizes)) => Ok(Self {
                dims: sizes,
                kind,
                offset,
                bytes,
            }),
            _ => Err(Problem::Size(dims)),
        }
    }
}

fn overlaps(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut by_start: Vec<&TensorInfo> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.data.start);
    for pair in by_start.windows(2) {
        if pair[0].data.end > pair[1].data.start {
            return Err(GgufError::Damaged {
                place: Place::Tensor(pair[1].name.clone()),
                offset: pair[1].data.start,
                problem: Problem::Overlap(pair[0].name.clone()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokgate_kernels::DType;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        let metadata = [
            ("general.architecture", MetaValue::Str("llama".to_owned())),
            ("llama.block_count", MetaValue::U32(32)),
            ("llama.rope.freq_base", MetaValue::F32(1e6)),
            ("tokenizer.ggml.add_bos_token", MetaValue::Bool(true)),
            (
                "tokenizer.ggml.tokens",
                MetaValue::Strs(vec!["<s>".to_owned(), String::new(), "▁a".to_owned()]),
            ),
            ("tokenizer.ggml.scores", MetaValue::F32s(vec![0.5, -1.0])),
            ("tokenizer.ggml.token_type", MetaValue::I32s(vec![3, 1, -1])),
        ];
        for (key, value) in &metadata {
            writer.entry(key, value);
        }
        writer.tensor("a", &[3], DType::F32.into());
        writer.tensor("b", &[64, 2], DType::Q8_0.into());
        let layout = writer.finish();
        let mut file = layout.header.clone();
        file.resize(layout.len as usize, 0);

        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (3, 32));
        let keys: Vec<&str> = gguf.metadata().map(|(key, _)| key).collect();
        assert_eq!(keys, metadata.map(|(key, _)| key));
        assert_eq!(
            gguf.require::<&str>("general.architecture").unwrap(),
            "llama"
        );
        assert_eq!(gguf.require::<u64>("llama.block_count").unwrap(), 32);
        assert_eq!(gguf.require::<f32>("llama.rope.freq_base").unwrap(), 1e6);
        let tokens: Vec<&str> = gguf.require("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens, ["<s>", "", "▁a"]);
        let scores: Vec<f32> = gguf.require("tokenizer.ggml.scores").unwrap();
        assert_eq!(scores, [0.5, -1.0]);
        let types: Vec<i32> = gguf.require("tokenizer.ggml.token_type").unwrap();
        assert_eq!(types, [3, 1, -1]);
        assert_eq!(gguf.get::<u64>("missing").unwrap(), None);
        assert_eq!(
            gguf.get::<Vec<u32>>("tokenizer.ggml.token_type")
                .unwrap_err()
                .to_string(),
            "metadata key \"tokenizer.ggml.token_type\" is array of 3 i32, \
             expected an array of integers from 0 to 2^32 - 1"
        );

        let found: Vec<_> = gguf.tensors().iter().map(|t| t.data.clone()).collect();
        let wanted = layout.tensors.iter();
        let wanted: Vec<_> = wanted.map(|t| t.start as usize..t.end as usize).collect();
        assert_eq!(found, wanted);
        let b = gguf.tensor("b").unwrap();
        assert_eq!((b.dims.as_slice(), b.elements()), (&[64, 2][..], 128));
        assert_eq!(b.data.len(), 4 * 34);
    }
}
