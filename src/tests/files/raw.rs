//! A writer of GGUF files that shares no code with the engine's and can write nonsense; it remembers where each number is.

use tokgate::engine::gguf::{Gguf, Value};
use tokgate::engine::synth::{Plan, Preset, Synth};
use tokgate_kernels::DType;

pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// A file to be written.
#[derive(Clone, Debug, Default)]
pub struct File {
    pub entries: Vec<Entry>,
    pub tensors: Vec<Tensor>,
}

/// A metadata entry: its type's number, and its value as bytes.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Vec<u8>,
    pub kind: u32,
    pub value: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// Where a number is in the written file.
#[derive(Clone, Debug)]
pub struct Mark {
    pub what: String,
    pub at: usize,
    /// Bytes: 4 or 8.
    pub width: usize,
}

impl Mark {
    /// The file with another number here.
    pub fn set(&self, file: &[u8], number: u64) -> Vec<u8> {
        let mut file = file.to_vec();
        file[self.at..][..self.width].copy_from_slice(&number.to_le_bytes()[..self.width]);
        file
    }

    pub fn get(&self, file: &[u8]) -> u64 {
        let mut number = [0; 8];
        number[..self.width].copy_from_slice(&file[self.at..][..self.width]);
        u64::from_le_bytes(number)
    }
}

pub fn str_value(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub fn array_value(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

impl File {
    /// A file of a few hundred bytes that has everything: each kind of value, arrays of strings and of arrays, tensors
    /// of three types and of one to three dimensions.
    pub fn small() -> Self {
        let mut file = Self::default();
        file.add("general.architecture", STR, str_value(b"llama"));
        file.add("a.u8", U8, vec![7]);
        file.add("a.u64", U64, 7_u64.to_le_bytes().to_vec());
        file.add("a.bool", BOOL, vec![1]);
        file.add("a.f32", F32, 0.5_f32.to_le_bytes().to_vec());
        let strings = [str_value(b"x"), str_value("ü".as_bytes()), str_value(b"")].concat();
        file.add("a.strings", ARRAY, array_value(STR, 3, &strings));
        file.add(
            "a.numbers",
            ARRAY,
            array_value(U32, 2, &[1, 0, 0, 0, 2, 0, 0, 0]),
        );
        let inner = [array_value(U8, 1, &[9]), array_value(U8, 0, &[])].concat();
        file.add("a.nested", ARRAY, array_value(ARRAY, 2, &inner));
        file.tensor("one", &[5], 0, vec![1; 20]);
        file.tensor("two", &[64, 2], 8, vec![2; 4 * 34]);
        file.tensor("three", &[4, 3, 2], 30, vec![3; 48]);
        file
    }

    /// A synthesised model, taken apart. Small presets only.
    pub fn synth(preset: Preset, dtype: DType) -> Self {
        let plan = Plan::new(Synth {
            preset,
            dtype,
            seed: 5,
            layers: Some(2),
            vocabulary: false,
        });
        let mut bytes = Vec::new();
        plan.write(&mut bytes, 1, |_| {}).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let mut file = Self::default();
        for (key, value) in gguf.metadata() {
            let (kind, value) = match value {
                Value::U32(v) => (U32, v.to_le_bytes().to_vec()),
                Value::F32(v) => (F32, v.to_le_bytes().to_vec()),
                Value::Str(v) => (STR, str_value(v.as_bytes())),
                other => panic!("{key}: {other}"),
            };
            file.add(key, kind, value);
        }
        for tensor in gguf.tensors() {
            let dims: Vec<u64> = tensor.dims.iter().map(|&dim| dim as u64).collect();
            let data = bytes[tensor.data.clone()].to_vec();
            file.tensor(&tensor.name, &dims, tensor.kind.number(), data);
        }
        file
    }

    pub fn add(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.entries.push(Entry {
            key: key.as_bytes().to_vec(),
            kind,
            value,
        });
    }

    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: u32, data: Vec<u8>) {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dims: dims.to_vec(),
            kind,
            data,
        });
    }

    pub fn entry_mut(&mut self, key: &str) -> &mut Entry {
        let found = self
            .entries
            .iter_mut()
            .find(|entry| entry.key == key.as_bytes());
        found.unwrap_or_else(|| panic!("no {key}"))
    }

    pub fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.marked().0
    }

    /// The file, and where its numbers are.
    pub fn marked(&self) -> (Vec<u8>, Vec<Mark>) {
        let mut out = Out::default();
        out.bytes.extend(b"GGUF");
        out.u32("version", 3);
        out.u64("tensor count", self.tensors.len() as u64);
        out.u64("entry count", self.entries.len() as u64);
        for entry in &self.entries {
            let key = String::from_utf8_lossy(&entry.key);
            out.str(&format!("key {key}"), &entry.key);
            out.u32(&format!("type of {key}"), entry.kind);
            match entry.kind {
                STR => out.mark(&format!("length of {key}"), 8),
                ARRAY => {
                    out.mark(&format!("element type of {key}"), 4);
                    out.bytes.extend(&entry.value[..4]);
                    out.mark(&format!("count of {key}"), 8);
                    out.bytes.extend(&entry.value[4..12]);
                    if u32::from(entry.value[0]) == STR {
                        out.mark(&format!("first length in {key}"), 8);
                    }
                    out.bytes.extend(&entry.value[12..]);
                    continue;
                }
                _ => {}
            }
            out.bytes.extend(&entry.value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            let name = &tensor.name;
            out.str(&format!("name {name}"), name.as_bytes());
            out.u32(&format!("dimensions of {name}"), tensor.dims.len() as u32);
            for (index, &dim) in tensor.dims.iter().enumerate() {
                out.u64(&format!("dimension {index} of {name}"), dim);
            }
            out.u32(&format!("tensor type of {name}"), tensor.kind);
            out.u64(&format!("offset of {name}"), offset);
            offset += (tensor.data.len() as u64).next_multiple_of(32);
        }
        let mut bytes = out.bytes;
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(&tensor.data);
        }
        (bytes, out.marks)
    }
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

impl Out {
    /// Remembers that a number comes next.
    fn mark(&mut self, what: &str, width: usize) {
        self.marks.push(Mark {
            what: what.to_owned(),
            at: self.bytes.len(),
            width,
        });
    }

    fn u32(&mut self, what: &str, number: u32) {
        self.mark(what, 4);
        self.bytes.extend(number.to_le_bytes());
    }

    fn u64(&mut self, what: &str, number: u64) {
        self.mark(what, 8);
        self.bytes.extend(number.to_le_bytes());
    }

    fn str(&mut self, what: &str, text: &[u8]) {
        self.mark(&format!("length of {what}"), 8);
        self.bytes.extend(str_value(text));
    }
}
