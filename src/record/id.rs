//! The one id grammar of tests, benches, baselines and reports.
//!
//! ```text
//! id      = op "/" dtype "/" variant "/" shape      matmul/q8_0/avx512vnni/m1_k4096_n11008
//! op      = word          the operation:            matmul, attention, moe, model
//! dtype   = word          the weights' type:        f32, bf16, q8_0
//! variant = name          what really ran:          scalar, avx2, avx512vnni, candle
//! shape   = field *( "_" field )                    m1_k4096_n11008, qwen3-0.6b_pp512_t2
//! word    = a-z *( a-z | 0-9 | "_" )
//! name    = a-z *( a-z | 0-9 | "_" | "-" )
//! field   = ( a-z | 0-9 ) *( a-z | 0-9 | "-" | "." )
//! ```
//!
//! Other projects name their benches as they like. Their names are *foreign* ids: kept to the byte, compared and
//! sorted like any other, without parts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest id, in bytes: far above what any harness prints, far below what could hurt.
pub const MAX_ID_LEN: usize = 1024;

/// The name of one benchmark, the same wherever it appears; the module has the grammar.
///
/// Ids that follow the grammar have [`parts`](Self::parts); all others are foreign and round-trip as they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BenchId(String);

/// The parts of an id that follows the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdParts<'a> {
    /// The operation, such as `matmul`.
    pub op: &'a str,
    /// The element type of the weights or the cache, such as `q8_0`.
    pub dtype: &'a str,
    /// The variant that ran, such as `avx512vnni`: a kernel level, or the name of a peer.
    pub variant: &'a str,
    /// The shape, such as `m1_k4096_n11008`.
    pub shape: &'a str,
}

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing to name a bench by.
    #[error("a bench id must not be empty")]
    Empty,
    /// Longer than [`MAX_ID_LEN`].
    #[error("a bench id of {0} bytes is longer than {MAX_ID_LEN}")]
    TooLong(usize),
    /// A part that the grammar does not allow.
    #[error("'{text}' cannot be the {part} of a bench id op/dtype/variant/shape")]
    Part {
        /// Which part: `op`, `dtype`, `variant` or `shape`.
        part: &'static str,
        /// What was given for it.
        text: String,
    },
}

impl BenchId {
    /// The id of our own bench, from its parts.
    ///
    /// # Errors
    /// [`IdError`] where a part is outside the grammar: an id that we make ourselves is never foreign by accident.
    pub fn new(op: &str, dtype: &str, variant: &str, shape: &str) -> Result<Self, IdError> {
        let part = |part, text: &str, valid: bool| {
            if valid {
                Ok(())
            } else {
                let text = text.chars().take(MAX_ID_LEN).collect();
                Err(IdError::Part { part, text })
            }
        };
        part("op", op, is_word(op))?;
        part("dtype", dtype, is_word(dtype))?;
        part("variant", variant, is_name(variant))?;
        part("shape", shape, is_shape(shape))?;
        Self::try_from(format!("{op}/{dtype}/{variant}/{shape}"))
    }

    /// The id of a kernel's bench: `op` is the name of a `tokgate_kernels::Op` (`matmul/q8_0`), `fields` the
    /// dimensions in the order in which they are read (`[("m", 1), ("k", 4096), ("n", 11008)]`).
    ///
    /// # Errors
    /// [`IdError`] where a part is outside the grammar.
    pub fn kernel(op: &str, variant: &str, fields: &[(&str, u64)]) -> Result<Self, IdError> {
        let (op, dtype) = op.split_once('/').ok_or_else(|| IdError::Part {
            part: "op",
            text: op.to_owned(),
        })?;
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, size)| format!("{name}{size}"))
            .collect();
        Self::new(op, dtype, variant, &fields.join("_"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts, or `None` for a foreign id.
    pub fn parts(&self) -> Option<IdParts<'_>> {
        let mut parts = self.0.split('/');
        let found = IdParts {
            op: parts.next()?,
            dtype: parts.next()?,
            variant: parts.next()?,
            shape: parts.next()?,
        };
        let valid = parts.next().is_none()
            && is_word(found.op)
            && is_word(found.dtype)
            && is_name(found.variant)
            && is_shape(found.shape);
        valid.then_some(found)
    }
}

impl<'a> IdParts<'a> {
    /// The dimensions of the shape in order, `("m", 1)`, `("k", 4096)`, …; fields without a number behind a name are
    /// left out.
    pub fn dimensions(self) -> impl Iterator<Item = (&'a str, u64)> {
        self.shape.split('_').filter_map(|field| {
            let digits = field.find(|c: char| c.is_ascii_digit())?;
            let (name, size) = field.split_at(digits);
            (!name.is_empty()).then_some((name, size.parse().ok()?))
        })
    }
}

impl fmt::Display for BenchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for BenchId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        check_length(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for BenchId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        check_length(&text)?;
        Ok(Self(text))
    }
}

impl From<BenchId> for String {
    fn from(id: BenchId) -> Self {
        id.0
    }
}

fn check_length(text: &str) -> Result<(), IdError> {
    match text.len() {
        0 => Err(IdError::Empty),
        length if length > MAX_ID_LEN => Err(IdError::TooLong(length)),
        _ => Ok(()),
    }
}

fn is_word(text: &str) -> bool {
    starts_with_letter(text) && text.bytes().all(|b| is_lower(b) || b == b'_')
}

fn is_name(text: &str) -> bool {
    starts_with_letter(text) && text.bytes().all(|b| is_lower(b) || b == b'_' || b == b'-')
}

fn is_shape(text: &str) -> bool {
    text.split('_').all(|field| {
        field.bytes().next().is_some_and(is_lower)
            && field.bytes().all(|b| is_lower(b) || b == b'-' || b == b'.')
    })
}

fn starts_with_letter(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ids_of_this_repository_have_parts() {
        let id: BenchId = "matmul/q8_0/avx512vnni/m1_k4096_n11008".parse().unwrap();
        let parts = id.parts().unwrap();
        assert_eq!(
            (parts.op, parts.dtype, parts.variant),
            ("matmul", "q8_0", "avx512vnni")
        );
        assert_eq!(
            parts.dimensions().collect::<Vec<_>>(),
            [("m", 1), ("k", 4096), ("n", 11008)]
        );
        assert_eq!(
            id,
            BenchId::kernel(
                "matmul/q8_0",
                "avx512vnni",
                &[("m", 1), ("k", 4096), ("n", 11008)]
            )
            .unwrap()
        );

        let model = BenchId::new("model", "q8_0", "avx512vnni", "qwen3-0.6b_pp512_t2").unwrap();
        let dimensions: Vec<_> = model.parts().unwrap().dimensions().collect();
        assert_eq!(dimensions, [("pp", 512), ("t", 2)]);
    }

    #[test]
    fn foreign_ids_have_no_parts() {
        for foreign in [
            "parse",
            "parse/json/twitter.json",
            "a/b/c/d/e",
            "Sort/u64/std/n1000",
            "matmul/q8_0//m1",
            "matmul/q8_0/avx2/m1__k2",
            "matmul/q8_0/avx2/m1_k2_",
            "icount::group::bench id",
            "größe/f32/avx2/m1",
            " ",
        ] {
            let id: BenchId = foreign.parse().unwrap();
            assert_eq!(id.parts(), None, "{foreign}");
            assert_eq!(id.to_string(), foreign);
        }
    }

    #[test]
    fn what_is_no_id_is_said() {
        assert_eq!("".parse::<BenchId>(), Err(IdError::Empty));
        let long = "x".repeat(MAX_ID_LEN + 1);
        assert_eq!(
            long.parse::<BenchId>(),
            Err(IdError::TooLong(MAX_ID_LEN + 1))
        );
        let error = BenchId::new("matmul", "q8_0", "AVX2", "m1").unwrap_err();
        assert!(error.to_string().contains("variant"), "{error}");
        assert!(BenchId::kernel("matmul", "avx2", &[("m", 1)]).is_err());
        assert!(BenchId::kernel("matmul/f32", "avx2", &[]).is_err());
    }

    proptest! {
        #[test]
        fn ids_of_the_grammar_round_trip(
            op in "[a-z][a-z0-9_]{0,8}",
            dtype in "[a-z][a-z0-9_]{0,8}",
            variant in "[a-z][a-z0-9_-]{0,8}",
            shape in "[a-z0-9][a-z0-9.-]{0,8}(_[a-z0-9][a-z0-9.-]{0,8}){0,4}",
        ) {
            let id = BenchId::new(&op, &dtype, &variant, &shape).unwrap();
            let back: BenchId = id.to_string().parse().unwrap();
            prop_assert_eq!(&back, &id);
            let parts = back.parts().unwrap();
            prop_assert_eq!(
                (parts.op, parts.dtype, parts.variant, parts.shape),
                (op.as_str(), dtype.as_str(), variant.as_str(), shape.as_str())
            );
            prop_assert!(parts.dimensions().count() <= 5);
        }

        #[test]
        fn any_text_round_trips_through_display_and_json(text in "\\PC{1,64}|[\\x00-\\x7f]{1,64}") {
            let id: BenchId = text.parse().unwrap();
            prop_assert_eq!(id.to_string(), text);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<BenchId>(&json).unwrap(), id);
        }
    }
}
