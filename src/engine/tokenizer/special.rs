//! Finding whole tokens in a text before the rest of it is tokenized.

use std::ops::Range;

use memchr::memmem::Finder;

use super::vocab::{TokenKind, Vocab};

/// A part of a text: still to be tokenized, or one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(Range<usize>),
    Token(u32),
}

/// The tokens that are matched as a whole, longest first.
#[derive(Debug)]
pub(super) struct WholeTokens {
    tokens: Vec<WholeToken>,
}

#[derive(Debug)]
struct WholeToken {
    id: u32,
    /// Matched in any text; the others only where special tokens are asked for.
    always: bool,
    finder: Finder<'static>,
}

impl WholeTokens {
    pub fn new(vocab: &Vocab) -> Self {
        let mut tokens: Vec<_> = vocab
            .texts
            .iter()
            .zip(&vocab.kinds)
            .enumerate()
            .filter(|(_, (text, _))| !text.is_empty())
            .filter_map(|(id, (text, kind))| {
                let always = match kind {
                    TokenKind::UserDefined => true,
                    TokenKind::Control | TokenKind::Unknown => false,
                    _ => return None,
                };
                Some(WholeToken {
                    id: id as u32,
                    always,
                    finder: Finder::new(text.as_bytes()).into_owned(),
                })
            })
            .collect();
        tokens.sort_by_key(|t| (std::cmp::Reverse(t.finder.needle().len()), t.id));
        Self { tokens }
    }

    /// Cuts `text` at the tokens that it contains: longer tokens first, and each from left to right.
    pub fn split(&self, text: &[u8], special: bool) -> Vec<Part> {
        if text.is_empty() {
            return Vec::new();
        }
        let pairs = BytePairs::of(text);
        let mut parts = vec![Part::Text(0..text.len())];
        for token in &self.tokens {
            if !(token.always || special) || !pairs.may_contain(token.finder.needle()) {
                continue;
            }
            if token.finder.find(text).is_none() {
                continue;
            }
            let mut next = Vec::with_capacity(parts.len() + 2);
            for part in parts {
                match part {
                    Part::Text(range) => token.split(text, range, &mut next),
                    token => next.push(token),
                }
            }
            parts = next;
        }
        parts
    }
}

impl WholeToken {
    fn split(&self, text: &[u8], range: Range<usize>, parts: &mut Vec<Part>) {
        let mut start = range.start;
        for found in self.finder.find_iter(&text[range.clone()]) {
            let found = range.start + found;
            if start < found {
                parts.push(Part::Text(start..found));
            }
            parts.push(Part::Token(self.id));
            start = found + self.finder.needle().len();
        }
        if start < range.end {
            parts.push(Part::Text(start..range.end));
        }
    }
}

/// Which pairs of bytes a text has: one look rules most tokens out, and vocabularies have thousands of them.
struct BytePairs(Vec<u64>);

impl BytePairs {
    fn of(text: &[u8]) -> Self {
        let mut bits = vec![0u64; 1 << 10];
        for pair in text.windows(2) {
            let n = usize::from(pair[0]) << 8 | usize::from(pair[1]);
            bits[n >> 6] |= 1 << (n & 63);
        }
        Self(bits)
    }

    fn may_contain(&self, needle: &[u8]) -> bool {
        needle.windows(2).all(|pair| {
            let n = usize::from(pair[0]) << 8 | usize::from(pair[1]);
            self.0[n >> 6] & 1 << (n & 63) != 0
        })
    }
}
