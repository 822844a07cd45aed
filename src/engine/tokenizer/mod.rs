//! Text to token ids and back, with the vocabulary that a model file brings.
//!
//! | source | kind | how |
//! |---|---|---|
//! | GGUF, `tokenizer.ggml.model = gpt2` | byte-level BPE | words by the pre-tokenizer that `tokenizer.ggml.pre` names, merges by the `tokenizers` library |
//! | GGUF, `tokenizer.ggml.model = llama` | SentencePiece BPE | own: pairs by score, leftmost first; bytes as a last resort |
//! | `tokenizer.json` | whatever it says | the `tokenizers` library |
//!
//! Ids from a GGUF agree with llama.cpp's, which its own vocabularies and their expected ids prove (`tests/tokenizer.rs`).
//!
//! TEXT IS BYTES. A GGUF vocabulary takes any bytes: what is not UTF-8 is encoded byte by byte and comes back from
//! [`Tokenizer::decode`] unchanged, or as U+FFFD where the vocabulary has no token for such a byte (llama.cpp puts
//! U+FFFD in its place for every byte-level BPE). A `tokenizer.json` takes UTF-8 only.
//!
//! SPECIAL TOKENS are not made from plain text: control tokens in it (`<|im_end|>`) are matched only where
//! [`EncodeOptions::parse_special`] asks for it, and beginning and end are added only where
//! [`EncodeOptions::add_special`] does. User-defined tokens are matched always, longest first.
//!
//! NORMALISATION: none for a GGUF, as in llama.cpp; a `tokenizer.json` may ask for it (Qwen's for NFC), so that the two
//! differ on text that is not in that form.

mod bpe;
mod bytes;
mod error;
mod json;
mod metadata;
mod pre;
mod special;
mod spm;
mod stream;
mod synthetic;
mod vocab;

use std::path::Path;

pub use error::TokenizerError;
pub use stream::Decoder;
pub use synthetic::{SYNTHETIC_MAX, SYNTHETIC_MIN, synthetic};
pub use vocab::{GgufVocab, TokenKind, VocabWarning};

use special::{Part, WholeTokens};
use vocab::{Spelling, Vocab};

/// What [`Tokenizer::encode`] does beyond the plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the beginning (and end) tokens that the model was trained with.
    pub add_special: bool,
    /// Take control tokens that are written out in the text (`<|im_end|>`) as such.
    pub parse_special: bool,
}

impl EncodeOptions {
    /// Both: what a prompt typed by the model's user gets.
    pub const SPECIAL: Self = Self {
        add_special: true,
        parse_special: true,
    };
}

/// A vocabulary with all that is needed to encode and decode. Immutable, so that threads can share it.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    kind: Kind,
    add_bos: bool,
    add_eos: bool,
    /// Encoding puts a space in front of a text, so decoding takes it away.
    space_prefix: bool,
}

#[derive(Debug)]
enum Kind {
    Gguf(WholeTokens, Model),
    Json(Box<json::JsonTokenizer>),
}

#[derive(Debug)]
enum Model {
    ByteLevel(Box<bpe::ByteLevelBpe>),
    SentencePiece(Box<spm::SentencePiece>),
}

impl Tokenizer {
    /// The tokenizer of a GGUF file's vocabulary.
    ///
    /// # Errors
    /// A file without a vocabulary, a model or pre-tokenizer that is not implemented, and every contradiction between
    /// the arrays; nothing in `gguf` is trusted.
    pub fn from_gguf(mut gguf: GgufVocab) -> Result<Self, TokenizerError> {
        let (add_bos, add_eos) = (gguf.add_bos, gguf.add_eos);
        let space_prefix = gguf.add_space_prefix;
        let (vocab, model, bos_by_default) = match gguf.model.as_str() {
            "gpt2" => {
                let merges = gguf
                    .merges
                    .take()
                    .ok_or(TokenizerError::Missing("tokenizer.ggml.merges"))?;
                let pre = pre::find(gguf.pre.as_deref())?;
                let unnamed = gguf.pre.is_none();
                let mut vocab = Vocab::new(gguf, &merges, Spelling::ByteLevel)?;
                if unnamed {
                    vocab.warnings.push(VocabWarning::NoPreTokenizer);
                }
                let bpe = bpe::ByteLevelBpe::new(&vocab, &merges, pre)?;
                (vocab, Model::ByteLevel(Box::new(bpe)), pre.add_bos)
            }
            "llama" => {
                let scores = gguf.scores.take();
                let vocab = Vocab::new(gguf, &[], Spelling::Meta)?;
                let spm = spm::SentencePiece::new(&vocab, scores)?;
                (vocab, Model::SentencePiece(Box::new(spm)), true)
            }
            "no_vocab" | "none" => return Err(TokenizerError::NoVocabulary(gguf.model)),
            other => return Err(TokenizerError::UnknownModel(error::excerpt(other))),
        };
        let mut tokenizer = Self {
            add_bos: add_bos.unwrap_or(bos_by_default),
            add_eos: add_eos.unwrap_or(false),
            // Byte-level BPE never adds one, whatever the file says.
            space_prefix: matches!(model, Model::SentencePiece(_)) && space_prefix.unwrap_or(true),
            kind: Kind::Gguf(WholeTokens::new(&vocab), model),
            vocab,
        };
        tokenizer.check_added();
        Ok(tokenizer)
    }

    /// The tokenizer of a `tokenizer.json`, or of the model folder that has one; in a folder, the special tokens come
    /// from `tokenizer_config.json`, `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// A file that cannot be read, that the `tokenizers` library refuses, or whose decoder is neither byte-level nor
    /// SentencePiece-like.
    pub fn from_json(path: &Path) -> Result<Self, TokenizerError> {
        let (vocab, json) = json::load(path)?;
        Ok(Self {
            add_bos: json.adds(vocab.special.bos),
            add_eos: json.adds(vocab.special.eos),
            space_prefix: json.space_prefix,
            vocab,
            kind: Kind::Json(Box::new(json)),
        })
    }

    fn check_added(&mut self) {
        for (add, id, key) in [
            (
                &mut self.add_bos,
                self.vocab.special.bos,
                "tokenizer.ggml.add_bos_token",
            ),
            (
                &mut self.add_eos,
                self.vocab.special.eos,
                "tokenizer.ggml.add_eos_token",
            ),
        ] {
            if *add && id.is_none() {
                *add = false;
                self.vocab.warnings.push(VocabWarning::NothingToAdd(key));
            }
        }
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// A byte that no token of the vocabulary can stand for; text that is too long; for a `tokenizer.json`, text that
    /// is not UTF-8.
    pub fn encode(&self, text: &[u8], options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizerError::TextTooLong(text.len()));
        }
        let (whole, model) = match &self.kind {
            Kind::Json(json) => return json.encode(text, options),
            Kind::Gguf(whole, model) => (whole, model),
        };
        // A guess that is right for English and cheap where it is wrong.
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        ids.extend(self.bos().filter(|_| options.add_special && self.add_bos));
        let mut after_token = true;
        for part in whole.split(text, options.parse_special) {
            match part {
                Part::Token(id) => {
                    ids.push(id);
                    after_token = true;
                }
                Part::Text(range) => {
                    let start = range.start;
                    match model {
                        Model::ByteLevel(bpe) => bpe.encode(&text[range], start, &mut ids)?,
                        Model::SentencePiece(spm) => {
                            let space_first = self.space_prefix && after_token;
                            spm.encode(&text[range], space_first, start, &mut ids)?;
                        }
                    }
                    after_token = false;
                }
            }
        }
        ids.extend(self.eos().filter(|_| options.add_special && self.add_eos));
        Ok(ids)
    }

    /// The bytes that `ids` stand for, as the beginning of a text: the space that encoding put in front is taken away.
    /// Control tokens are left out unless `special`; bytes need not be UTF-8.
    ///
    /// # Errors
    /// [`TokenizerError::IdOutOfRange`].
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<Vec<u8>, TokenizerError> {
        let mut strip = self.space_prefix;
        let mut text = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            text.extend_from_slice(self.piece(id, special, &mut strip)?);
        }
        Ok(text)
    }

    /// A decoder for ids as they come; see [`Decoder`].
    pub fn decoder(&self, special: bool) -> Decoder<'_> {
        Decoder::new(self, special)
    }

    /// What `id` adds to a text. `strip`: the next text that comes is the first, and loses the space in front.
    fn piece(&self, id: u32, special: bool, strip: &mut bool) -> Result<&[u8], TokenizerError> {
        let piece = self.vocab.piece(id).ok_or(TokenizerError::IdOutOfRange {
            id,
            size: self.vocab.len(),
        })?;
        match self.vocab.kinds[id as usize] {
            TokenKind::Control | TokenKind::Unknown if special => Ok(piece),
            TokenKind::Control | TokenKind::Unknown => Ok(&[]),
            TokenKind::UserDefined => Ok(piece),
            _ if std::mem::take(strip) => Ok(piece.strip_prefix(b" ").unwrap_or(piece)),
            _ => Ok(piece),
        }
    }

    /// The number of tokens; a model may have a few more rows, to round it up.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The bytes of one token, control tokens as they are written; `None` past the end.
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        self.vocab.piece(id)
    }

    /// What `id` is for; `None` past the end.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kinds.get(id as usize).copied()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.special.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.special.eos
    }

    /// The token that ends a turn of a conversation.
    pub fn eot(&self) -> Option<u32> {
        self.vocab.special.eot
    }

    /// Whether generation stops after `id`.
    pub fn ends_generation(&self, id: u32) -> bool {
        self.vocab.special.ends.contains(&id)
    }

    /// Whether [`EncodeOptions::add_special`] puts [`bos`](Self::bos) in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`EncodeOptions::add_special`] puts [`eos`](Self::eos) at the end.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// What is odd in the file, for the user to read.
    pub fn warnings(&self) -> &[VocabWarning] {
        &self.vocab.warnings
    }
}

/// Positions inside are 32-bit, and ▁ makes three bytes of one.
const MAX_TEXT: usize = 1 << 30;
