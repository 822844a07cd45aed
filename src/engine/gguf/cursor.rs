//! A reader that cannot leave its bytes: every length is checked against what is left before it is used.

use super::error::Problem;
use super::value::{Array, Value, ValueType};

/// Deepest nesting of arrays; real files have none, and a limit keeps hostile ones from exhausting the stack.
const MAX_NESTING: usize = 4;

/// A position in bytes that only moves forward. A read that fails leaves it at the item that could not be read.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// A cursor that starts inside the bytes, or at their end.
    pub fn at(bytes: &'a [u8], position: usize) -> Self {
        Self {
            bytes,
            position: position.min(bytes.len()),
        }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub fn take(&mut self, wanted: u64) -> Result<&'a [u8], Problem> {
        let left = self.left();
        match usize::try_from(wanted) {
            Ok(len) if len <= left => {
                let taken = &self.bytes[self.position..][..len];
                self.position += len;
                Ok(taken)
            }
            _ => Err(Problem::Truncated { wanted, left }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    /// Text with its length before it.
    pub fn str(&mut self) -> Result<&'a str, Problem> {
        let start = self.position;
        let len = self.u64()?;
        let text = self
            .take(len)
            .and_then(|text| {
                std::str::from_utf8(text).map_err(|error| Problem::Utf8(error.valid_up_to()))
            })
            .inspect_err(|_| self.position = start)?;
        Ok(text)
    }

    pub fn value_type(&mut self) -> Result<ValueType, Problem> {
        let start = self.position;
        let number = self.u32()?;
        ValueType::from_number(number).ok_or_else(|| {
            self.position = start;
            Problem::ValueType(number)
        })
    }

    /// A count of items that take at least `item_bytes` each; one that the rest of the bytes cannot hold is an error.
    pub fn count(&mut self, what: &'static str, item_bytes: usize) -> Result<usize, Problem> {
        let start = self.position;
        let count = self.u64()?;
        let left = self.left();
        match usize::try_from(count) {
            Ok(fits) if fits <= left / item_bytes => Ok(fits),
            _ => {
                self.position = start;
                Err(Problem::Count { count, what, left })
            }
        }
    }

    /// A value of the given type, all of it checked.
    pub fn value(&mut self, kind: ValueType) -> Result<Value<'a>, Problem> {
        self.nested_value(kind, 0)
    }

    fn nested_value(&mut self, kind: ValueType, depth: usize) -> Result<Value<'a>, Problem> {
        Ok(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.array()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.array()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            ValueType::Bool => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    self.position -= 1;
                    return Err(Problem::Bool(other));
                }
            },
            ValueType::Str => Value::Str(self.str()?),
            ValueType::Array => {
                if depth == MAX_NESTING {
                    return Err(Problem::Nesting(MAX_NESTING));
                }
                Value::Array(self.values(depth + 1)?)
            }
        })
    }

    fn values(&mut self, depth: usize) -> Result<Array<'a>, Problem> {
        let kind = self.value_type()?;
        let len = self.count("array elements", kind.min_bytes())?;
        let start = self.position;
        if kind.is_plain() {
            // `count` made sure that the product fits.
            self.position += len * kind.min_bytes();
        } else {
            for _ in 0..len {
                self.nested_value(kind, depth)?;
            }
        }
        Ok(Array::new(kind, len, &self.bytes[start..self.position]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_read_stays_at_its_item() {
        let mut cursor = Cursor::new(&[5, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(cursor.str(), Err(Problem::Truncated { wanted: 5, left: 2 }));
        assert_eq!(cursor.position(), 0);
        assert_eq!(cursor.u32(), Ok(5));
        assert_eq!(cursor.left(), 6);
    }

    #[test]
    fn lengths_that_overflow_are_truncations() {
        let mut cursor = Cursor::new(&[0xff; 16]);
        assert_eq!(
            cursor.str(),
            Err(Problem::Truncated {
                wanted: u64::MAX,
                left: 8
            })
        );
        assert!(matches!(
            cursor.count("things", 1),
            Err(Problem::Count {
                count: u64::MAX,
                what: "things",
                left: 8
            })
        ));
    }

    #[test]
    fn nesting_ends_somewhere() {
        // Array of one array of one array … : type 9, count 1, again and again.
        let level: Vec<u8> = [9_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes()].concat();
        let bytes = level.repeat(100_000);
        assert_eq!(
            Cursor::new(&bytes).value(ValueType::Array).unwrap_err(),
            Problem::Nesting(MAX_NESTING)
        );
    }
}
