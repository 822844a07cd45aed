//! SentencePiece's BPE, as `llama` vocabularies use it: no words, scores in place of merge ranks, bytes as a last resort.
//!
//! DEFINITION
//! ```text
//! symbols = characters of the text, with ▁ for each space
//! while some neighbouring pair joins to a token: join the pair whose token has the highest score, leftmost first
//! output: each symbol's token; a symbol that is none: the byte tokens <0xXX> of its bytes
//! ```
//!
//! WHY own code: the `tokenizers` library's BPE works by merge ranks, which such files do not have, and its Unigram
//! finds another segmentation. A queue of candidate pairs makes it O(n log n); a popped pair whose symbols have changed
//! since is stale and skipped. Where no token has ▁ behind another character, nothing is ever joined across such a
//! place, so each word is joined by itself, with a queue that fits the cache and the same result.
//!
//! Control, unknown and byte tokens take no part in the joining, as in SentencePiece: plain text must not forge them.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
};

use super::{
    error::TokenizerError,
    vocab::{TokenKind, Vocab, byte_of},
};

#[derive(Debug)]
pub(super) struct SentencePiece {
    ids: HashMap<Box<[u8]>, u32>,
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    /// The longest text that can be a token: longer pairs need no look-up.
    longest: usize,
    /// No token has ▁ behind another character.
    words: bool,
    unknown: Option<u32>,
}

/// A stretch of the text that is one symbol; a joined-away symbol has length 0.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// What joining one word needs, kept for the next.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

/// In [`Symbol`]'s links: no neighbour.
const NONE: u32 = u32::MAX;

/// A pair that could be joined; it is stale once the length of either side has changed.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    len: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are no NaN (checked at load), and -0 equals 0 as in the original.
        self.score
            .partial_cmp(&other.score)
            .unwrap_or(Ordering::Equal)
            .then_with(|| Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// Checks the scores, which must be parallel to the tokens; none at all are all 0.
    pub fn new(vocab: &Vocab, scores: Option<Vec<f32>>) -> Result<Self, TokenizerError> {
        let scores = scores.unwrap_or_else(|| vec![0.0; vocab.len()]);
        if scores.len() != vocab.len() {
            return Err(TokenizerError::LengthMismatch {
                key: "tokenizer.ggml.scores",
                found: scores.len(),
                tokens: vocab.len(),
            });
        }
        if let Some(id) = scores.iter().position(|s| s.is_nan()) {
            return Err(TokenizerError::BadScore(id as u32));
        }
        let mut ids: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(vocab.len());
        let mut bytes = [None; 256];
        for (id, (text, kind)) in vocab.texts.iter().zip(&vocab.kinds).enumerate() {
            match kind {
                TokenKind::Control | TokenKind::Unknown => {}
                TokenKind::Byte => {
                    if let Some(byte) = byte_of(text) {
                        bytes[byte as usize] = Some(id as u32);
                    }
                }
                _ if text.is_empty() => {}
                _ => {
                    ids.insert(text.as_bytes().into(), id as u32);
                }
            }
        }
        for byte in 0..=255u8 {
            // Files without token types have the byte tokens as plain text.
            let spelled = format!("<0x{byte:02X}>");
            bytes[byte as usize] = bytes[byte as usize]
                .or_else(|| ids.get(spelled.as_bytes()).copied())
                .or_else(|| ids.get([byte].as_slice()).copied());
        }
        Ok(Self {
            words: ids.keys().all(|text| first_word(text).len() == text.len()),
            longest: ids.keys().map(|text| text.len()).max().unwrap_or(0),
            ids,
            scores,
            bytes,
            unknown: vocab.special.unknown,
        })
    }

    /// Appends the ids of `text`, in which each space counts as ▁; `space_first` puts one more in front.
    /// `offset` is where the text starts, for messages. Bytes that are not UTF-8 become byte tokens.
    pub fn encode(
        &self,
        text: &[u8],
        space_first: bool,
        offset: usize,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let escaped = escape(text, space_first);
        // Positions are 32-bit, and the last number means "none".
        if escaped.len() >= NONE as usize {
            return Err(TokenizerError::TextTooLong(text.len()));
        }
        let mut scratch = Scratch::default();
        let mut start = 0;
        while start < escaped.len() {
            let rest = &escaped[start..];
            let word = if self.words { first_word(rest) } else { rest };
            self.join(word, &mut scratch);
            for symbol in scratch.symbols.iter().filter(|s| s.len > 0) {
                let at = symbol.start as usize;
                let piece = &word[at..at + symbol.len as usize];
                match self.ids.get(piece) {
                    Some(&id) => ids.push(id),
                    None => self.push_bytes(piece, ids).map_err(|byte| {
                        TokenizerError::NoTokenForByte {
                            byte,
                            offset: offset + unescaped(text, space_first, start + at),
                        }
                    })?,
                }
            }
            start += word.len();
        }
        Ok(())
    }

    /// Makes the symbols of `word` and joins them until no pair is a token.
    fn join(&self, word: &[u8], Scratch { symbols, queue }: &mut Scratch) {
        symbols_of(word, symbols);
        for left in 1..symbols.len() as u32 {
            self.consider(left - 1, left, symbols, word, queue);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (symbols[pair.left as usize], symbols[pair.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            symbols[pair.left as usize].len = pair.len;
            symbols[pair.left as usize].next = right.next;
            symbols[pair.right as usize].len = 0;
            if right.next != NONE {
                symbols[right.next as usize].prev = pair.left;
            }
            self.consider(left.prev, pair.left, symbols, word, queue);
            self.consider(pair.left, right.next, symbols, word, queue);
        }
    }

    fn consider(
        &self,
        left: u32,
        right: u32,
        symbols: &[Symbol],
        text: &[u8],
        queue: &mut BinaryHeap<Pair>,
    ) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (symbols[left as usize], symbols[right as usize]);
        let len = a.len + b.len;
        if len as usize > self.longest {
            return;
        }
        let start = a.start as usize;
        if let Some(&id) = self.ids.get(&text[start..start + len as usize]) {
            queue.push(Pair {
                score: self.scores[id as usize],
                left,
                right,
                len,
            });
        }
    }

    /// Appends the byte tokens of a symbol that is no token, or the unknown token where those are missing.
    fn push_bytes(&self, symbol: &[u8], ids: &mut Vec<u32>) -> Result<(), u8> {
        let before = ids.len();
        for &byte in symbol {
            match (self.bytes[byte as usize], self.unknown) {
                (Some(id), _) => ids.push(id),
                (None, Some(unknown)) => {
                    ids.truncate(before);
                    ids.push(unknown);
                    return Ok(());
                }
                (None, None) => return Err(byte),
            }
        }
        Ok(())
    }
}

/// ▁, which stands for the space.
const META: [u8; 3] = [0xe2, 0x96, 0x81];

fn escape(text: &[u8], space_first: bool) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len() + text.len() / 4 + META.len());
    if space_first {
        escaped.extend_from_slice(&META);
    }
    for &byte in text {
        if byte == b' ' {
            escaped.extend_from_slice(&META);
        } else {
            escaped.push(byte);
        }
    }
    escaped
}

/// The position in `text` that became position `at` of the escaped text.
fn unescaped(text: &[u8], space_first: bool, at: usize) -> usize {
    let mut end = if space_first { META.len() } else { 0 };
    text.iter()
        .take_while(|&&byte| {
            end += if byte == b' ' { META.len() } else { 1 };
            end <= at
        })
        .count()
}

/// The start of `text` up to the first ▁ behind another character; all of it if there is none.
fn first_word(text: &[u8]) -> &[u8] {
    let spaces = text.chunks(META.len()).take_while(|c| **c == META).count() * META.len();
    let end = memchr::memmem::find(&text[spaces..], &META);
    &text[..end.map_or(text.len(), |end| spaces + end)]
}

/// One symbol a character, or a byte where there is no character.
fn symbols_of(text: &[u8], symbols: &mut Vec<Symbol>) {
    symbols.clear();
    let mut start = 0u32;
    let mut push = |len: usize| {
        let index = symbols.len() as u32;
        symbols.push(Symbol {
            start,
            len: len as u32,
            prev: index.checked_sub(1).unwrap_or(NONE),
            next: index + 1,
        });
        start += len as u32;
    };
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(c.len_utf8()));
        chunk.invalid().iter().for_each(|_| push(1));
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
}
