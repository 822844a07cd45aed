//! Text as it comes: ids in, whole characters out.

use super::{Tokenizer, TokenizerError};

/// Turns ids into text one by one, and holds back the bytes of a character that is not complete yet.
///
/// ```text
/// "🦀" = [id of F0 9F] [id of A6 80]:  push → "", push → "🦀", finish → ""
/// ```
#[derive(Debug)]
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    special: bool,
    strip: bool,
    /// At most three bytes: the start of a character.
    held: Vec<u8>,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, special: bool) -> Self {
        Self {
            tokenizer,
            special,
            strip: tokenizer.space_prefix,
            held: Vec::new(),
        }
    }

    /// Says that the ids continue a text (a prompt), so that a space in front of the first is part of it.
    #[must_use]
    pub fn continuing(mut self) -> Self {
        self.strip = false;
        self
    }

    /// The text that `id` completes; empty while a character is incomplete. Bytes that cannot become UTF-8 come out
    /// as U+FFFD, as [`String::from_utf8_lossy`] has it.
    ///
    /// # Errors
    /// [`TokenizerError::IdOutOfRange`]; the decoder can go on after it.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let piece = self.tokenizer.piece(id, self.special, &mut self.strip)?;
        self.held.extend_from_slice(piece);
        let keep = incomplete(&self.held);
        let rest = self.held.split_off(self.held.len() - keep);
        let whole = std::mem::replace(&mut self.held, rest);
        Ok(String::from_utf8_lossy(&whole).into_owned())
    }

    /// The end of the text: what was held back is U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// How many bytes at the end of `bytes` may be the start of a character.
fn incomplete(bytes: &[u8]) -> usize {
    match bytes.utf8_chunks().last() {
        // An invalid end that the next byte could still complete is what `from_utf8` has no error length for.
        Some(chunk) if !chunk.invalid().is_empty() => match std::str::from_utf8(chunk.invalid()) {
            Err(e) if e.error_len().is_none() => chunk.invalid().len(),
            _ => 0,
        },
        _ => 0,
    }
}
