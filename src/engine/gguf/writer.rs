//! Laying out a GGUF file: its header as bytes, and where each tensor's data go.

use std::ops::Range;

use super::{DEFAULT_ALIGNMENT, GgmlType, MAGIC, ValueType};

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are GGUF's own")]
pub enum MetaValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Strs(Vec<String>),
}

/// Collects metadata and tensors of a file to come.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    entries: Vec<u8>,
    entry_count: u64,
    table: Vec<u8>,
    /// Where each tensor's data lie in the data section.
    data: Vec<Range<u64>>,
}

/// A file's header, and where its tensors' data belong.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Everything before the data, padded.
    pub header: Vec<u8>,
    /// Where each tensor's data belong, in bytes from the start of the file and in the order they were added; zeros
    /// fill the gaps.
    pub tensors: Vec<Range<u64>>,
    /// Bytes of the whole file.
    pub len: u64,
}

impl Writer {
    /// Adds a metadata entry.
    pub fn entry(&mut self, key: &str, value: &MetaValue) {
        let out = &mut self.entries;
        put_str(out, key);
        match value {
            MetaValue::U32(v) => {
                put_type(out, ValueType::U32);
                out.extend(v.to_le_bytes());
            }
            MetaValue::F32(v) => {
                put_type(out, ValueType::F32);
                out.extend(v.to_le_bytes());
            }
            MetaValue::Bool(v) => {
                put_type(out, ValueType::Bool);
                out.push(u8::from(*v));
            }
            MetaValue::Str(v) => {
                put_type(out, ValueType::Str);
                put_str(out, v);
            }
            MetaValue::I32s(v) => {
                put_array(out, ValueType::I32, v.len());
                v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            MetaValue::F32s(v) => {
                put_array(out, ValueType::F32, v.len());
                v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            MetaValue::Strs(v) => {
                put_array(out, ValueType::Str, v.len());
                v.iter().for_each(|v| put_str(out, v));
            }
        }
        self.entry_count += 1;
    }

    /// Adds a tensor; `dims` run fastest first.
    ///
    /// # Panics
    /// If the rows are not made of whole blocks of the type.
    pub fn tensor(&mut self, name: &str, dims: &[usize], kind: GgmlType) {
        let (block, block_bytes) = kind.block().expect("only types that GGML still has");
        assert!(
            dims[0].is_multiple_of(block),
            "{name}: rows of {} are not made of blocks of {block}",
            dims[0]
        );
        let elements: u64 = dims.iter().map(|&dim| dim as u64).product();
        let start = self.data.last().map_or(0, |before| before.end);
        let start = start.next_multiple_of(DEFAULT_ALIGNMENT as u64);
        let bytes = elements / block as u64 * block_bytes as u64;

        let out = &mut self.table;
        put_str(out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter()
            .for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
        out.extend(kind.number().to_le_bytes());
        out.extend(start.to_le_bytes());
        self.data.push(start..start + bytes);
    }

    /// The finished layout, of GGUF version 3.
    pub fn finish(self) -> Layout {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3_u32.to_le_bytes());
        header.extend((self.data.len() as u64).to_le_bytes());
        header.extend(self.entry_count.to_le_bytes());
        header.extend(self.entries);
        header.extend(self.table);
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        let start = header.len() as u64;
        let tensors: Vec<Range<u64>> = self
            .data
            .into_iter()
            .map(|data| data.start + start..data.end + start)
            .collect();
        // GGML pads the last tensor, too.
        let len = tensors.last().map_or(start, |last| {
            last.end.next_multiple_of(DEFAULT_ALIGNMENT as u64)
        });
        Layout {
            header,
            tensors,
            len,
        }
    }
}

fn put_type(out: &mut Vec<u8>, kind: ValueType) {
    out.extend((kind as u32).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_array(out: &mut Vec<u8>, kind: ValueType, len: usize) {
    put_type(out, ValueType::Array);
    put_type(out, kind);
    out.extend((len as u64).to_le_bytes());
}
