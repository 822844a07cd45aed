//! What can go wrong between a file's vocabulary and token ids.

use std::path::PathBuf;

use crate::engine::gguf::GgufError;

/// Why a vocabulary cannot be used, or a text or id list cannot be converted with it.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file declares that it has no vocabulary.
    #[error(
        "the file has no vocabulary (tokenizer.ggml.model is \"{0}\"): give token ids instead of text, \
         or name a file that has one"
    )]
    NoVocabulary(String),
    /// A metadata key without which the vocabulary means nothing.
    #[error(
        "the file has no {0}: it is no model with a vocabulary, or it is damaged; convert it again"
    )]
    Missing(&'static str),
    /// A tokenizer family that this engine does not implement.
    #[error(
        "tokenizer.ggml.model {0} is not supported: \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece BPE) are"
    )]
    UnknownModel(String),
    /// A pre-tokenizer that this engine does not implement: a guess would split words wrongly without a sign of it.
    #[error(
        "tokenizer.ggml.pre {name} is not a pre-tokenizer known here, and guessing would give wrong ids; known: {known}"
    )]
    UnknownPre {
        /// What the file says, quoted and shortened.
        name: String,
        /// The names that would have been understood.
        known: String,
    },
    /// An array that must run parallel to the tokens does not.
    #[error("{key} has {found} entries for {tokens} tokens: the file is damaged; convert it again")]
    LengthMismatch {
        /// The metadata key of the array.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The length of `tokenizer.ggml.tokens`.
        tokens: usize,
    },
    /// More tokens than a 32-bit signed id can number.
    #[error("the vocabulary has {0} tokens, more than ids can number")]
    TooManyTokens(usize),
    /// The same text stands for two ids, so that encoding would not be a function.
    #[error("tokens {first} and {second} are both {text}: the file is damaged; convert it again")]
    DuplicateToken {
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
        /// Their text, quoted and shortened.
        text: String,
    },
    /// A score that cannot be compared.
    #[error("the score of token {0} is not a number: the file is damaged; convert it again")]
    BadScore(u32),
    /// A token of type byte whose text does not name a byte.
    #[error("token {id} has the type byte, but its text {text} is not of the form <0x41>")]
    BadByteToken {
        /// The token.
        id: u32,
        /// Its text, quoted and shortened.
        text: String,
    },
    /// A merge that is not two texts with a space between them.
    #[error("merge {index} is {text}, not two tokens with a space between them")]
    BadMerge {
        /// Position in `tokenizer.ggml.merges`.
        index: usize,
        /// The merge, quoted and shortened.
        text: String,
    },
    /// A merge whose part or result is not in the vocabulary.
    #[error("merge {index} needs the token {token}, which the vocabulary does not have")]
    MergeOutOfVocabulary {
        /// Position in the list of merges.
        index: usize,
        /// The missing token, quoted and shortened.
        token: String,
    },
    /// A byte of the text that no token of this vocabulary can stand for.
    #[error("byte 0x{byte:02X} at offset {offset} of the text has no token in this vocabulary")]
    NoTokenForByte {
        /// The byte.
        byte: u8,
        /// Its position in the text.
        offset: usize,
    },
    /// A text longer than positions can number.
    #[error("the text has {0} bytes: give at most 1 GiB at once")]
    TextTooLong(usize),
    /// Text that is not UTF-8, for a `tokenizer.json`, whose library takes characters only.
    #[error(
        "the text is not UTF-8 at byte {0}: a tokenizer.json takes UTF-8 only (a GGUF vocabulary takes any bytes)"
    )]
    InvalidUtf8(usize),
    /// An id past the end of the vocabulary.
    #[error("token id {id} is out of range: the vocabulary has {size} tokens")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// The number of tokens.
        size: usize,
    },
    /// A `tokenizer.json` that the `tokenizers` library refuses or this engine cannot undo.
    #[error("tokenizer.json: {0}")]
    Json(String),
    /// The `tokenizers` library failed on a text.
    #[error("the tokenizers library failed: {0}")]
    Library(String),
    /// A GGUF file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A model folder without a tokenizer.
    #[error("{0} has no tokenizer.json: put the model's there (a tokenizer.model is not read)")]
    NoTokenizerJson(PathBuf),
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Quotes `text` for a message: control characters escaped, cut after 40 characters.
pub(super) fn excerpt(text: &str) -> String {
    let mut quoted: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}
