//! The vocabulary as a file states it, and the same vocabulary once it has been checked.

use std::collections::{HashMap, HashSet};

use super::{
    bytes::CHAR_TO_BYTE,
    error::{TokenizerError, excerpt},
};

/// The tokenizer metadata of a GGUF file (`tokenizer.ggml.*`), as it stands there and unchecked.
///
/// `None` means that the file has no such key; the defaults depend on the model kind and are chosen by
/// [`Tokenizer::from_gguf`](super::Tokenizer::from_gguf).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2`, `llama`, …
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer of a byte-level BPE.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`; the position is the id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, parallel to the tokens.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`, parallel to the tokens; see [`TokenKind`].
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`, best first, each `left right`.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: ends a turn.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: ends a message.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// What a token is for; the numbers are GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// 1: text, found by merging.
    Normal,
    /// 2: stands for what cannot be encoded.
    Unknown,
    /// 3: steers the model (`<s>`, `<|im_end|>`); never made from plain text, and invisible in plain output.
    Control,
    /// 4: text that is always matched as a whole, before anything else.
    UserDefined,
    /// 5, and every other number: a hole in the numbering.
    Unused,
    /// 6: one byte, written `<0x0A>`.
    Byte,
}

impl TokenKind {
    /// GGUF's number for it.
    pub fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

impl From<i32> for TokenKind {
    fn from(number: i32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }
}

/// Something odd in a file that can be worked with all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabWarning {
    /// A byte-level BPE without a pre-tokenizer: older converters did not write it.
    #[error(
        "the file names no pre-tokenizer (tokenizer.ggml.pre); \"default\" is used, and ids may be worse than the \
         model deserves: convert it again"
    )]
    NoPreTokenizer,
    /// A special token id past the end of the vocabulary.
    #[error("{key} is {id}, but the vocabulary has {size} tokens: it is ignored")]
    SpecialOutOfRange {
        /// The metadata key.
        key: &'static str,
        /// What it says.
        id: u32,
        /// The number of tokens.
        size: usize,
    },
    /// A beginning or end token is to be added, but the file does not say which.
    #[error("{0} is true, but the file does not say which token that is: none is added")]
    NothingToAdd(&'static str),
}

/// How the text of a normal token is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: plain text with ▁ for the space.
    Meta,
}

/// The special ids of a vocabulary.
#[derive(Clone, Debug, Default)]
pub(super) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    /// Every id after which generation stops.
    pub ends: HashSet<u32>,
}

/// A token list that has been checked: kinds, what each token decodes to, and the special ids.
#[derive(Clone, Debug)]
pub(super) struct Vocab {
    pub texts: Vec<String>,
    pub kinds: Vec<TokenKind>,
    pub special: SpecialIds,
    pub warnings: Vec<VocabWarning>,
    /// All decoded tokens end to end; token `i` is `pieces[ends[i - 1]..ends[i]]`.
    pieces: Vec<u8>,
    ends: Vec<usize>,
}

/// Texts that mark the end of a turn, best guess first, for files that do not name one.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// Further texts after which generation stops whatever the file says.
const OTHER_ENDS: &[&str] = &[
    "<|return|>",
    "<|call|>",
    "</s>",
    "<|eom_id|>",
    "[EOS]",
    "<eos>",
    "<|fim_pad|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

impl Vocab {
    /// Checks the tokens of `gguf` and works out what each decodes to. `merges` are those of a byte-level BPE.
    ///
    /// # Errors
    /// Array lengths that differ, duplicate tokens, byte tokens that name no byte.
    pub fn new(
        gguf: GgufVocab,
        merges: &[String],
        spelling: Spelling,
    ) -> Result<Self, TokenizerError> {
        let size = gguf.tokens.len();
        if size == 0 {
            return Err(TokenizerError::Missing("tokenizer.ggml.tokens"));
        }
        if size > i32::MAX as usize {
            return Err(TokenizerError::TooManyTokens(size));
        }
        let mut kinds = match &gguf.token_types {
            None => vec![TokenKind::Normal; size],
            Some(types) if types.len() == size => {
                types.iter().map(|&t| TokenKind::from(t)).collect()
            }
            Some(types) => {
                return Err(TokenizerError::LengthMismatch {
                    key: "tokenizer.ggml.token_type",
                    found: types.len(),
                    tokens: size,
                });
            }
        };
        let ids = ids_by_text(&gguf.tokens)?;
        let ends = ends_by_text(&ids, merges);
        for &id in ends.values() {
            // Older converters typed such tokens as normal text, which would show them and let plain text forge them.
            if kinds[id as usize] == TokenKind::Normal {
                kinds[id as usize] = TokenKind::Control;
            }
        }
        let mut warnings = Vec::new();
        let special = special_ids(&gguf, &ends, &kinds, spelling, &mut warnings);
        Self::assemble(gguf.tokens, kinds, special, warnings, spelling)
    }

    /// The same from parts that another file format gave.
    pub fn assemble(
        texts: Vec<String>,
        kinds: Vec<TokenKind>,
        special: SpecialIds,
        warnings: Vec<VocabWarning>,
        spelling: Spelling,
    ) -> Result<Self, TokenizerError> {
        let mut pieces = Vec::with_capacity(texts.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(texts.len());
        for (id, (text, kind)) in texts.iter().zip(&kinds).enumerate() {
            match kind {
                TokenKind::Normal => spell(text, spelling, &mut pieces),
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                    pieces.extend_from_slice(text.as_bytes());
                }
                TokenKind::Byte => {
                    pieces.push(byte_of(text).ok_or_else(|| TokenizerError::BadByteToken {
                        id: id as u32,
                        text: excerpt(text),
                    })?);
                }
                TokenKind::Unused => {}
            }
            ends.push(pieces.len());
        }
        Ok(Self {
            texts,
            kinds,
            special,
            warnings,
            pieces,
            ends,
        })
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// What token `id` stands for; control tokens as they are written.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.pieces[start..end])
    }
}

/// Ids by text. Empty texts are holes in the numbering and may repeat.
fn ids_by_text(tokens: &[String]) -> Result<HashMap<&str, u32>, TokenizerError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, text) in tokens.iter().enumerate() {
        if text.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(text.as_str(), id as u32) {
            return Err(TokenizerError::DuplicateToken {
                first,
                second: id as u32,
                text: excerpt(text),
            });
        }
    }
    Ok(ids)
}

/// The tokens after which generation stops by their text, whatever the file says about them. A token that merges make
/// is text after all: Llama 3 has a `</s>` that is nothing but markup.
fn ends_by_text<'t>(ids: &HashMap<&'t str, u32>, merges: &[String]) -> HashMap<&'t str, u32> {
    let mut ends: HashMap<&str, u32> = TURN_ENDS
        .iter()
        .chain(OTHER_ENDS)
        .filter_map(|text| ids.get_key_value(text).map(|(&text, &id)| (text, id)))
        .collect();
    let longest = ends.keys().map(|text| text.len()).max().unwrap_or(0);
    for merge in merges.iter().filter(|merge| merge.len() <= longest + 1) {
        if let Some((left, right)) = halves(merge) {
            ends.remove([left, right].concat().as_str());
        }
    }
    // Harmony-style vocabularies use <|end|> between the parts of one answer.
    if ends.contains_key("<|return|>") && ends.contains_key("<|call|>") {
        ends.remove("<|end|>");
    }
    ends
}

/// The two sides of a merge: a token may start with a space, but has none further on.
pub(super) fn halves(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    (!right.is_empty()).then_some((left, right))
}

/// The special ids that the file names, those of its kind where it names none, and those that their text gives away.
fn special_ids(
    gguf: &GgufVocab,
    ends: &HashMap<&str, u32>,
    kinds: &[TokenKind],
    spelling: Spelling,
    warnings: &mut Vec<VocabWarning>,
) -> SpecialIds {
    let size = kinds.len();
    let mut named = |key, id: Option<u32>| match id {
        Some(id) if id as usize >= size => {
            warnings.push(VocabWarning::SpecialOutOfRange { key, id, size });
            None
        }
        id => id,
    };
    let bos = named("tokenizer.ggml.bos_token_id", gguf.bos);
    let eos = named("tokenizer.ggml.eos_token_id", gguf.eos);
    let eot = named("tokenizer.ggml.eot_token_id", gguf.eot);
    let eom = named("tokenizer.ggml.eom_token_id", gguf.eom);
    let unknown = named("tokenizer.ggml.unknown_token_id", gguf.unknown);
    let usual = |id: u32| match spelling {
        Spelling::Meta => ((id as usize) < size).then_some(id),
        // Only Falcon's end of text was ever number 11; anywhere else that is a comma.
        Spelling::ByteLevel => (kinds.get(11) == Some(&TokenKind::Control)).then_some(11),
    };
    let mut special = SpecialIds {
        bos: bos.or_else(|| usual(1)),
        eos: eos.or_else(|| usual(2)),
        eot: eot.or_else(|| TURN_ENDS.iter().find_map(|text| ends.get(text).copied())),
        unknown: unknown.or(match spelling {
            Spelling::Meta => usual(0),
            Spelling::ByteLevel => None,
        }),
        ends: ends.values().copied().collect(),
    };
    special
        .ends
        .extend([special.eos, special.eot, eom].iter().flatten());
    special
}

/// Appends the bytes that the text of a normal token stands for.
pub(super) fn spell(text: &str, spelling: Spelling, out: &mut Vec<u8>) {
    match spelling {
        Spelling::ByteLevel => {
            let start = out.len();
            for c in text.chars() {
                match CHAR_TO_BYTE.get(c as usize).copied().flatten() {
                    Some(byte) => out.push(byte),
                    None => {
                        // A token that is not in the byte alphabet was added as plain text.
                        out.truncate(start);
                        out.extend_from_slice(text.as_bytes());
                        return;
                    }
                }
            }
        }
        Spelling::Meta => {
            for (i, part) in text.split('▁').enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
}

/// The byte that `<0x41>` names.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}
