//! Lists of requests that a server is loaded with.
//!
//! RANDOM, as vLLM's `bench serve --dataset-name random` makes it, given a vocabulary:
//! ```text
//! lengths   integers of [⌊len · (1 − r)⌋, ⌈len · (1 + r)⌉], less the tokens that the model puts around a prompt
//! tokens    (offset + index + 0, 1, 2 …) mod the number of tokens, special ones left out
//! text      the tokens decoded, encoded again, cut or filled up, until the length is right (ten times at most)
//! ```
//! The numbers are NumPy's `default_rng(seed)`. Without a vocabulary the text is of common words, one a token in most
//! vocabularies; how long it really is, the server tells.

use std::ops::RangeInclusive;

use super::numpy::Generator;
use super::prompts::Prompt;
use super::sort::{SortTask, Task, TooLarge};

/// How often the text of random tokens is made again.
const RETRIES: usize = 10;

/// Tokens that an answer of the sort task takes for a number, its comma and space, at most.
const TOKENS_A_NUMBER: u64 = 8;

/// Short words of English that most vocabularies have as one token with the space before it.
const WORDS: [&str; 64] = [
    "the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as", "with",
    "his", "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but",
    "what", "all", "were", "when", "we", "there", "can", "an", "your", "which", "their", "said",
    "if", "do", "will", "each", "about", "how", "up", "out", "them", "then", "she", "many", "some",
    "so", "these", "would", "other", "into", "has", "more", "her", "two", "like", "him", "see",
];

/// What is asked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The prompt.
    pub text: String,
    /// Its tokens, where somebody counted them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer at most.
    pub max_tokens: u64,
}

/// The fixed prompts in turn.
pub fn of_prompts(prompts: &[Prompt], count: usize) -> Vec<Request> {
    let prompts = prompts.iter().cycle().take(count);
    prompts
        .map(|prompt| Request {
            text: prompt.text.to_owned(),
            prompt_tokens: None,
            max_tokens: prompt.max_tokens as u64,
        })
        .collect()
}

/// The sort task: one batch of `count` conversations of `ints` numbers.
///
/// # Errors
/// [`TooLarge`], as of [`SortTask::json`].
pub fn of_sort(count: usize, ints: usize, seed: u64) -> Result<Vec<Request>, TooLarge> {
    let task = SortTask {
        batches: 1,
        per_batch: count,
        ints,
        below: super::sort::BELOW,
        seed,
    };
    let batches: Task = serde_json::from_str(&task.json()?).expect("the text of a task");
    let messages = batches.into_iter().flatten().flatten();
    Ok(messages
        .map(|message| Request {
            text: message.content,
            prompt_tokens: None,
            max_tokens: ints as u64 * TOKENS_A_NUMBER,
        })
        .collect())
}

/// What random requests are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Random {
    /// How many.
    pub count: usize,
    /// Tokens of a prompt.
    pub input: u32,
    /// Tokens of an answer.
    pub output: u32,
    /// How far lengths go from these, as a share of [0, 1).
    pub range_ratio: f64,
    /// Seed.
    pub seed: u64,
}

/// What is needed of a vocabulary.
pub trait Vocabulary {
    /// Tokens that may stand in a text, special ones left out.
    fn plain(&self) -> Vec<u32>;
    /// Tokens that the model puts around a prompt.
    fn around(&self) -> u32;
    /// The text of tokens.
    fn decode(&self, tokens: &[u32]) -> String;
    /// The tokens of a text, none added.
    fn encode(&self, text: &str) -> Vec<u32>;
}

impl Random {
    /// The requests; see the module for how.
    pub fn requests(&self, vocabulary: Option<&dyn Vocabulary>) -> Vec<Request> {
        let mut generator = Generator::new(self.seed);
        let around = vocabulary.map_or(0, Vocabulary::around);
        let plain = vocabulary.map_or_else(Vec::new, Vocabulary::plain);
        let tokens = if plain.is_empty() {
            WORDS.len()
        } else {
            plain.len()
        };
        let inputs = self.around_mean(self.input.saturating_sub(around));
        let outputs = self.around_mean(self.output);
        let mut draw = |range: &RangeInclusive<u32>| -> Vec<u32> {
            let (low, spread) = (*range.start(), range.end() - range.start());
            let count = 0..self.count;
            count
                .map(|_| low + generator.below(spread.saturating_add(1)))
                .collect()
        };
        let input_lens = draw(&inputs);
        let output_lens = draw(&outputs);
        let offsets = draw(&(0..=tokens as u32 - 1));
        let lens = input_lens.iter().zip(&output_lens).zip(&offsets);
        lens.enumerate()
            .map(|(index, ((input, output), offset))| {
                let at = |i: u32| (*offset as usize + index + i as usize) % tokens;
                let (text, prompt_tokens) = match vocabulary {
                    Some(vocabulary) if !plain.is_empty() => {
                        let tokens = (0..*input).map(|i| plain[at(i)]).collect();
                        let (text, len) =
                            fitted(vocabulary, tokens, &plain, *input as usize, &mut generator);
                        (text, Some(len))
                    }
                    _ => {
                        let words: Vec<&str> = (0..*input)
                            .map(|_| WORDS[generator.below(64) as usize])
                            .collect();
                        (words.join(" "), None)
                    }
                };
                Request {
                    text,
                    prompt_tokens,
                    max_tokens: u64::from(*output),
                }
            })
            .collect()
    }

    /// Lengths around `mean`, at least 1.
    fn around_mean(&self, mean: u32) -> RangeInclusive<u32> {
        let mean = f64::from(mean);
        let low = (mean * (1.0 - self.range_ratio)).floor().max(1.0);
        let high = (mean * (1.0 + self.range_ratio)).ceil().max(1.0);
        low as u32..=high as u32
    }
}

/// The text of `tokens`, and how many it has when it is encoded again, which is `target` if that can be had.
fn fitted(
    vocabulary: &dyn Vocabulary,
    mut tokens: Vec<u32>,
    plain: &[u32],
    target: usize,
    generator: &mut Generator,
) -> (String, u64) {
    let mut left = RETRIES;
    loop {
        let text = vocabulary.decode(&tokens);
        tokens = vocabulary.encode(&text);
        if left == 0 || tokens.len() == target {
            return (text, tokens.len() as u64);
        }
        while tokens.len() < target {
            tokens.push(plain[generator.below(plain.len() as u32) as usize]);
        }
        tokens.truncate(target);
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::prompts::PROMPTS;

    /// A token a letter, of which `q` cannot follow another `q`.
    struct Letters;

    impl Vocabulary for Letters {
        fn plain(&self) -> Vec<u32> {
            (0..26).collect()
        }
        fn around(&self) -> u32 {
            1
        }
        fn decode(&self, tokens: &[u32]) -> String {
            let letters = tokens.iter().map(|token| char::from(b'a' + *token as u8));
            letters.collect::<String>().replace("qr", "q")
        }
        fn encode(&self, text: &str) -> Vec<u32> {
            text.bytes().map(|byte| u32::from(byte - b'a')).collect()
        }
    }

    #[test]
    fn random_requests_have_the_lengths_that_were_asked_for() {
        let random = Random {
            count: 20,
            input: 30,
            output: 7,
            range_ratio: 0.0,
            seed: 3,
        };
        let requests = random.requests(Some(&Letters));
        assert_eq!(requests.len(), 20);
        for request in &requests {
            assert_eq!((request.prompt_tokens, request.max_tokens), (Some(29), 7));
            assert_eq!(request.text.len(), 29);
        }
        assert_eq!(requests, random.requests(Some(&Letters)));
        assert_ne!(requests[0], requests[1]);
        let words = random.requests(None);
        assert_eq!(words[0].text.split(' ').count(), 30);
        let spread = Random {
            range_ratio: 0.5,
            ..random
        };
        let lens: Vec<usize> = spread
            .requests(None)
            .iter()
            .map(|request| request.text.split(' ').count())
            .collect();
        assert!(lens.iter().all(|len| (15..=45).contains(len)), "{lens:?}");
        assert!(lens.iter().min() < lens.iter().max());
    }

    #[test]
    fn prompts_come_in_turn_and_sorting_is_asked_for() {
        let requests = of_prompts(&PROMPTS, 8);
        assert_eq!(
            (requests.len(), requests[6].clone()),
            (8, requests[0].clone())
        );
        let sort = of_sort(3, 5, 1).unwrap();
        assert_eq!((sort.len(), sort[0].max_tokens), (3, 40));
        assert!(sort[0].text.starts_with("Sort the following numbers"));
    }
}
