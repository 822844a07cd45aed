//! Byte-level BPE: words are cut out by the [pre-tokenizer](super::pre), written in GPT-2's byte alphabet and merged
//! by the `tokenizers` library.

use std::collections::{HashMap, HashSet};

use tokenizers::{
    Model,
    models::bpe::{BPE, Vocab as Ids},
};

use super::{
    bytes::BYTE_TO_CHAR,
    error::{TokenizerError, excerpt},
    pre::{Pre, Splitter},
    vocab::{TokenKind, Vocab, halves},
};

#[derive(Debug)]
pub(super) struct ByteLevelBpe {
    model: BPE,
    splitter: Splitter,
}

/// Words whose tokens are remembered, per thread.
const CACHED_WORDS: usize = 10_000;

impl ByteLevelBpe {
    /// Checks the merges against the vocabulary, which the library does not do without a panic.
    ///
    /// Only normal tokens, and those that merges name, are text of this alphabet: `ÿ` as a user-defined token is that
    /// character, not the byte 0xFF.
    pub fn new(vocab: &Vocab, merges: &[String], pre: &Pre) -> Result<Self, TokenizerError> {
        let all: HashMap<&str, usize> = vocab
            .texts
            .iter()
            .enumerate()
            .filter(|(_, text)| !text.is_empty())
            .map(|(id, text)| (text.as_str(), id))
            .collect();
        let mut usable: Vec<bool> = vocab
            .kinds
            .iter()
            .map(|&kind| kind == TokenKind::Normal)
            .collect();
        let mut pairs = Vec::with_capacity(merges.len());
        let mut seen = HashSet::with_capacity(merges.len());
        let mut joined = String::new();
        for (index, merge) in merges.iter().enumerate() {
            let (left, right) = halves(merge).ok_or_else(|| TokenizerError::BadMerge {
                index,
                text: excerpt(merge),
            })?;
            joined.clear();
            joined.extend([left, right]);
            let mut parts = [0; 3];
            for (part, text) in parts.iter_mut().zip([left, right, &joined]) {
                *part = *all
                    .get(text)
                    .ok_or_else(|| TokenizerError::MergeOutOfVocabulary {
                        index,
                        token: excerpt(text),
                    })?;
                usable[*part] = true;
            }
            // The library would keep the last rank of a repeated pair; the first is the one that counts.
            if seen.insert((parts[0], parts[1])) {
                pairs.push((left.to_owned(), right.to_owned()));
            }
        }
        let ids: Ids = all
            .into_iter()
            .filter(|&(_, id)| usable[id])
            .map(|(text, id)| (text.to_owned(), id as u32))
            .collect();
        let model = BPE::builder()
            .vocab_and_merges(ids, pairs)
            .ignore_merges(pre.ignore_merges)
            .cache_capacity(CACHED_WORDS)
            .build()
            .map_err(|e| TokenizerError::Library(e.to_string()))?;
        Ok(Self {
            model,
            splitter: Splitter::new(pre)?,
        })
    }

    /// Appends the ids of `text`; `offset` is where it starts, for messages.
    ///
    /// Bytes that are not UTF-8 are words of their own, one word a run, so that nothing is lost. Vocabularies that were
    /// trained without tokens for such bytes get U+FFFD in their place.
    pub fn encode(
        &self,
        text: &[u8],
        mut offset: usize,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut rest = text;
        while !rest.is_empty() {
            let valid = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            self.splitter.split(valid, &mut |word| {
                self.word(word.as_bytes(), offset, ids)?;
                offset += word.len();
                Ok::<_, TokenizerError>(())
            })?;
            rest = &rest[valid.len()..];
            let invalid: usize = rest
                .utf8_chunks()
                .take_while(|chunk| chunk.valid().is_empty())
                .map(|chunk| chunk.invalid().len())
                .sum();
            if invalid > 0 && self.word(&rest[..invalid], offset, ids).is_err() {
                self.word("\u{fffd}".as_bytes(), offset, ids)?;
            }
            offset += invalid;
            rest = &rest[invalid..];
        }
        Ok(())
    }

    fn word(&self, bytes: &[u8], offset: usize, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let spelled: String = bytes.iter().map(|&b| BYTE_TO_CHAR[b as usize]).collect();
        let tokens = self
            .model
            .tokenize(&spelled)
            .map_err(|e| TokenizerError::Library(e.to_string()))?;
        // The library leaves out characters that it does not know.
        if tokens.iter().map(|t| t.value.len()).sum::<usize>() != spelled.len()
            && let Some((i, &byte)) = bytes.iter().enumerate().find(|(_, b)| {
                let text = BYTE_TO_CHAR[**b as usize].to_string();
                self.model.token_to_id(&text).is_none()
            })
        {
            return Err(TokenizerError::NoTokenForByte {
                byte,
                offset: offset + i,
            });
        }
        ids.extend(tokens.iter().map(|t| t.id));
        Ok(())
    }
}
