//! Metadata values and their typed access.

use std::fmt;

use super::cursor::Cursor;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are GGUF's own")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this number in a file.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The name in messages and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of a value, or of the shortest one where the length varies.
    pub(super) const fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }

    /// Whether any bytes of that length are a value.
    pub(super) const fn is_plain(self) -> bool {
        !matches!(self, Self::Bool | Self::Str | Self::Array)
    }
}

/// A metadata value, as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are GGUF's own")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value<'_> {
    /// The value's type.
    pub const fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Any integer, widened.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }
}

/// The type, with the value where it is short: for messages that say what was found.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Array(array) => write!(f, "{kind} of {} {}", array.len(), array.kind()),
            Self::Str(text) if text.len() > 40 => write!(f, "{kind} of {} bytes", text.len()),
            Self::Str(text) => write!(f, "{kind} {text:?}"),
            Self::Bool(v) => write!(f, "{kind} {v}"),
            Self::F32(v) => write!(f, "{kind} {v}"),
            Self::F64(v) => write!(f, "{kind} {v}"),
            _ => write!(f, "{kind} {}", self.integer().unwrap_or_default()),
        }
    }
}

/// An array value: elements of one type, still in the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) const fn new(kind: ValueType, len: usize, bytes: &'a [u8]) -> Self {
        Self { kind, len, bytes }
    }

    /// The elements' type.
    pub const fn kind(&self) -> ValueType {
        self.kind
    }

    /// Elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order, decoded as they are asked for.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Self { kind, len, bytes } = *self;
        let mut cursor = Cursor::new(bytes);
        // The bytes were checked when the file was opened; should someone have changed the file since, the elements end
        // early.
        (0..len).map_while(move |_| cursor.value(kind).ok())
    }

    /// The elements as `T`, or `None` if one of them is not.
    pub fn collect<T: FromValue<'a>>(&self) -> Option<Vec<T>> {
        let mut elements = Vec::with_capacity(self.len);
        for value in self.iter() {
            elements.push(T::from_value(value)?);
        }
        Some(elements)
    }
}

/// A type that metadata values can be read as.
pub trait FromValue<'a>: Sized {
    /// What a message says was expected.
    const EXPECTED: &'static str;
    /// What a message says was expected of an array.
    const EXPECTED_ARRAY: &'static str;

    /// Reads `value`; `None` if it is something else.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty, $range:literal;)*) => {$(
        /// Reads an integer of any width that fits.
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = concat!("an integer ", $range);
            const EXPECTED_ARRAY: &'static str = concat!("an array of integers ", $range);

            fn from_value(value: Value<'a>) -> Option<Self> {
                value.integer()?.try_into().ok()
            }
        }
    )*};
}

integers! {
    u32, "from 0 to 2^32 - 1";
    u64, "from 0 to 2^64 - 1";
    usize, "from 0 to 2^64 - 1";
    i32, "from -2^31 to 2^31 - 1";
}

/// Reads a float of either width.
impl<'a> FromValue<'a> for f32 {
    const EXPECTED: &'static str = "a float";
    const EXPECTED_ARRAY: &'static str = "an array of floats";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as Self),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for bool {
    const EXPECTED: &'static str = "a boolean";
    const EXPECTED_ARRAY: &'static str = "an array of booleans";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    const EXPECTED_ARRAY: &'static str = "an array of strings";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Str(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for String {
    const EXPECTED: &'static str = <&str>::EXPECTED;
    const EXPECTED_ARRAY: &'static str = <&str>::EXPECTED_ARRAY;

    fn from_value(value: Value<'a>) -> Option<Self> {
        <&str>::from_value(value).map(Self::from)
    }
}

impl<'a> FromValue<'a> for Array<'a> {
    const EXPECTED: &'static str = "an array";
    const EXPECTED_ARRAY: &'static str = "an array of arrays";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// Reads an array whose every element is a `T`; `Vec<&str>` points into the file.
impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED_ARRAY;
    const EXPECTED_ARRAY: &'static str = "an array of arrays";

    fn from_value(value: Value<'a>) -> Option<Self> {
        Array::from_value(value)?.collect()
    }
}
