//! Made-up vocabularies for made-up models: byte-level BPE of any size whose merges really compose.
//!
//! DEFINITION
//! ```text
//! tokens = the 256 bytes
//! until there are n − 2: draw a made-up word, encode it with the merges so far,
//!                        and add the join of its first two tokens as a token and as a merge
//! tokens += <|endoftext|>, <|im_end|>
//! ```
//! Neighbours of an encoding encode to themselves, so every token made this way is what its own text encodes to, and no
//! text is made twice.

use std::collections::HashMap;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{
    bytes::BYTE_TO_CHAR,
    vocab::{GgufVocab, TokenKind},
};

/// The smallest vocabulary that [`synthetic`] makes: the bytes, some merges, the control tokens.
pub const SYNTHETIC_MIN: usize = 320;

/// The largest: beyond Qwen's, which is the largest of the presets.
pub const SYNTHETIC_MAX: usize = 1 << 18;

const CONTROL: [&str; 2] = ["<|endoftext|>", "<|im_end|>"];

/// A byte-level BPE vocabulary of `n` tokens, clamped to [`SYNTHETIC_MIN`]`..=`[`SYNTHETIC_MAX`]; the same seed gives
/// the same vocabulary on every machine.
///
/// Ids 0–255 are the bytes in order, then come the merges, and the last two are the beginning and end of a text
/// (`<|endoftext|>`) and the end of a turn (`<|im_end|>`). The pre-tokenizer is `qwen2`.
pub fn synthetic(n: usize, seed: u64) -> GgufVocab {
    let n = n.clamp(SYNTHETIC_MIN, SYNTHETIC_MAX);
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
    let mut ranks: HashMap<(u32, u32), u32> = HashMap::with_capacity(n);
    let mut merges = Vec::with_capacity(n);
    let mut words = Words::new(seed);
    while tokens.len() < n - CONTROL.len() {
        let word = words.next(tokens.len());
        let ids = encode(&word, &ranks);
        let &[left, right, ..] = ids.as_slice() else {
            continue;
        };
        let (first, second) = (&tokens[left as usize], &tokens[right as usize]);
        merges.push(format!("{} {}", spelled(first), spelled(second)));
        ranks.insert((left, right), tokens.len() as u32);
        tokens.push([first.as_slice(), second].concat());
    }
    let texts: Vec<String> = tokens
        .iter()
        .map(|t| spelled(t))
        .chain(CONTROL.map(String::from))
        .collect();
    let control = n - CONTROL.len();
    let kind = |id| {
        if id < control {
            TokenKind::Normal
        } else {
            TokenKind::Control
        }
    };
    let end_of_text = Some(control as u32);
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: Some("qwen2".to_owned()),
        token_types: Some((0..n).map(|id| kind(id).number()).collect()),
        tokens: texts,
        merges: Some(merges),
        bos: end_of_text,
        eos: end_of_text,
        eot: Some(control as u32 + 1),
        add_bos: Some(false),
        ..GgufVocab::default()
    }
}

fn spelled(token: &[u8]) -> String {
    token.iter().map(|&b| BYTE_TO_CHAR[b as usize]).collect()
}

/// BPE by definition: the lowest rank first, leftmost first. Words are short, so the plain loop is the fast one.
fn encode(word: &[u8], ranks: &HashMap<(u32, u32), u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = word.iter().map(|&b| u32::from(b)).collect();
    loop {
        let best = ids
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| Some((*ranks.get(&(pair[0], pair[1]))?, at)))
            .min();
        let Some((id, at)) = best else {
            return ids;
        };
        ids[at] = id;
        ids.remove(at + 1);
    }
}

/// Made-up words: a space in front of most, then syllables, weighted so that some letters are common.
struct Words {
    rng: ChaCha8Rng,
}

const ONSETS: &[u8] = b"ttnnsshhrrddllccmmffppggwwbbyvkjxqz";
const VOWELS: &[u8] = b"eeeaaaoooiiiuuy";

impl Words {
    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        // The bias of a remainder is far below what a made-up word could show.
        (self.rng.next_u64() % n as u64) as usize
    }

    fn pick(&mut self, from: &[u8]) -> u8 {
        from[self.below(from.len())]
    }

    /// Longer words as the vocabulary grows, so that there is always a pair left to merge.
    fn next(&mut self, tokens: usize) -> Vec<u8> {
        let syllables = 1 + self.below(2 + tokens / 16_384);
        let mut word = Vec::with_capacity(3 * syllables + 1);
        if self.below(4) > 0 {
            word.push(b' ');
        }
        for _ in 0..syllables {
            word.push(self.pick(ONSETS));
            word.push(self.pick(VOWELS));
            if self.below(3) == 0 {
                word.push(self.pick(ONSETS));
            }
        }
        if self.below(16) == 0 {
            let at = word.iter().position(|&b| b != b' ').unwrap_or(0);
            word[at] = word[at].to_ascii_uppercase();
        }
        word
    }
}
