//! The vocabulary, and batches of tasks with their answers.

use rand::Rng;
use rand::rngs::StdRng;
use tokgate::engine::tokenizer::{GgufVocab, TokenKind};

/// Numbers are below this; each is one token.
pub const NUMBERS: u32 = 100;

const START: u32 = 1;
const END: u32 = 2;
const BYTES: u32 = 3;
const USER: u32 = BYTES + 256;
const ASSISTANT: u32 = USER + 1;
const SORT: u32 = USER + 2;
const COMMA: u32 = USER + 3;
const FIRST_NUMBER: u32 = USER + 4;

/// The number that a token is, if it is one.
pub fn number(token: usize) -> Option<usize> {
    token.checked_sub(FIRST_NUMBER as usize)
}

/// Tokens of the vocabulary.
pub const VOCAB: usize = (FIRST_NUMBER + NUMBERS) as usize;

/// A SentencePiece vocabulary whose words are whole tokens; any other text falls back to bytes, which no training saw.
pub fn vocabulary() -> GgufVocab {
    let mut tokens: Vec<(String, TokenKind)> = vec![
        ("<unk>".to_owned(), TokenKind::Unknown),
        ("<|im_start|>".to_owned(), TokenKind::Control),
        ("<|im_end|>".to_owned(), TokenKind::Control),
    ];
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), TokenKind::Byte)));
    let words = [
        "user\n",
        "assistant\n",
        "Sort the following numbers from smallest to largest:",
        ",",
    ];
    let words = words.map(str::to_owned).into_iter();
    let numbers = (0..NUMBERS).map(|number| format!(" {number}"));
    tokens.extend(
        words
            .chain(numbers)
            .map(|word| (word, TokenKind::UserDefined)),
    );
    assert_eq!(tokens.len(), VOCAB);
    let (tokens, kinds): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
    GgufVocab {
        model: "llama".to_owned(),
        scores: Some(vec![0.0; VOCAB]),
        token_types: Some(kinds.into_iter().map(TokenKind::number).collect()),
        tokens,
        eos: Some(END),
        eot: Some(END),
        unknown: Some(0),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..GgufVocab::default()
    }
}

/// Tasks of the same number of numbers, one sequence each: the prompt, the answer, the end. Commas stand in the prompt
/// only, so that each token of the answer is a number that has to be found.
pub struct Batch {
    /// `[sequences, length]`.
    pub tokens: Vec<u32>,
    /// Sequences.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Tokens of the prompt; what follows is to be predicted.
    pub prompt: usize,
}

impl Batch {
    /// Tasks of two to eight numbers, longer ones more often.
    pub fn random(sequences: usize, rng: &mut StdRng) -> Self {
        let count = rng.random_range(2..=8_usize).max(rng.random_range(2..=8));
        Self::of(count, sequences, rng)
    }

    /// Tasks of `count` numbers.
    pub fn of(count: usize, sequences: usize, rng: &mut StdRng) -> Self {
        let mut tokens = Vec::new();
        let mut prompt = 0;
        for _ in 0..sequences {
            let start = tokens.len();
            let mut numbers: Vec<u32> = (0..count).map(|_| rng.random_range(0..NUMBERS)).collect();
            tokens.extend([START, USER, SORT]);
            for (at, number) in numbers.iter().enumerate() {
                tokens.extend((at > 0).then_some(COMMA));
                tokens.push(FIRST_NUMBER + number);
            }
            tokens.extend([END, BYTES + u32::from(b'\n'), START, ASSISTANT]);
            prompt = tokens.len() - start;
            numbers.sort_unstable();
            tokens.extend(numbers.iter().map(|number| FIRST_NUMBER + number));
            tokens.push(END);
        }
        Self {
            sequences,
            length: tokens.len() / sequences,
            prompt,
            tokens,
        }
    }
}
