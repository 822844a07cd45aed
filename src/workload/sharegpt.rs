//! Requests of a ShareGPT file, sampled as vLLM's `bench serve --dataset-name sharegpt` does, for the same seed the same
//! ones in the same order.
//!
//! FILE. JSON `[{conversations: [{value}, {value}, …]}, …]`: the first turn is the prompt, the second the answer that
//! tells how many tokens are asked for.
//!
//! DEFINITION.
//! ```text
//! conversations with two turns at least, shuffled as CPython's random.seed(seed); random.shuffle does
//! one after the other, until there are enough:
//!     taken if  4 ≤ prompt ≤ 1024,  answer ≥ 4,  prompt + answer ≤ 2048     tokens, with those the model puts around
//! too few: random.seed(seed) again, and random.choice among those taken, until there are enough
//! ```
//! A length of answers that is given stands for all answers, and may then be below 4.

use serde::Deserialize;

use super::python::Random;
use super::requests::Request;

/// The largest file that is read; the sets in use have 60 to 700 MB.
pub const MAX_FILE_BYTES: u64 = 2 << 30;

const MIN_TOKENS: u64 = 4;
const MAX_PROMPT: u64 = 1024;
const MAX_TOTAL: u64 = 2048;

/// What to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Requests.
    pub count: usize,
    /// Seed.
    pub seed: u64,
    /// Tokens of each answer, instead of those of the file's.
    pub output: Option<u64>,
}

/// The conversations of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversations(Vec<[String; 2]>);

/// Why a file has no conversations.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No list of conversations.
    #[error(
        "no ShareGPT file, which is JSON [{{\"conversations\": [{{\"value\": …}}, …]}}, …]: {0}"
    )]
    Json(#[from] serde_json::Error),
    /// A turn without a text.
    #[error("conversation {0} has a turn without a \"value\"")]
    NoText(usize),
}

/// Why nothing can be sampled.
#[derive(Debug, thiserror::Error)]
pub enum SamplingError<E> {
    /// None of the conversations can be asked.
    #[error(
        "none of the {0} conversations has a prompt of {MIN_TOKENS} to {MAX_PROMPT} tokens and an answer of at least \
         {MIN_TOKENS}, {MAX_TOTAL} together at most"
    )]
    NoneFits(usize),
    /// Tokens could not be counted.
    #[error("the tokens of a text cannot be counted")]
    Count(E),
}

impl Conversations {
    /// Understands a file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn parse(text: &[u8]) -> Result<Self, FileError> {
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            conversations: Vec<Turn>,
        }
        #[derive(Deserialize)]
        struct Turn {
            #[serde(default)]
            value: Option<String>,
        }
        let entries: Vec<Entry> = serde_json::from_slice(text)?;
        let long = entries.into_iter().map(|entry| entry.conversations);
        let long = long.enumerate().filter(|(_, turns)| turns.len() >= 2);
        long.map(|(at, turns)| {
            let mut turns = turns.into_iter().map_while(|turn| turn.value);
            match (turns.next(), turns.next()) {
                (Some(prompt), Some(answer)) => Ok([prompt, answer]),
                _ => Err(FileError::NoText(at)),
            }
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// Samples requests; `count` tells the tokens of a text.
    ///
    /// # Errors
    /// [`SamplingError`] if no conversation fits, or tokens cannot be counted.
    pub fn sample<E>(
        self,
        sampling: Sampling,
        mut count: impl FnMut(&str) -> Result<u64, E>,
    ) -> Result<Vec<Request>, SamplingError<E>> {
        let Self(mut conversations) = self;
        let total = conversations.len();
        Random::new(sampling.seed).shuffle(&mut conversations);
        let mut requests: Vec<Request> = Vec::new();
        for [prompt, answer] in conversations {
            if requests.len() == sampling.count {
                break;
            }
            let input = count(&prompt).map_err(SamplingError::Count)?;
            let output = match sampling.output {
                Some(output) => output,
                None => count(&answer).map_err(SamplingError::Count)?,
            };
            let long_enough =
                input >= MIN_TOKENS && (sampling.output.is_some() || output >= MIN_TOKENS);
            if long_enough && input <= MAX_PROMPT && input.saturating_add(output) <= MAX_TOTAL {
                requests.push(Request {
                    text: prompt,
                    prompt_tokens: Some(input),
                    max_tokens: output,
                });
            }
        }
        let mut random = Random::new(sampling.seed);
        let taken = requests.len();
        while requests.len() < sampling.count {
            let again = random.choice(&requests[..taken]).cloned();
            requests.push(again.ok_or(SamplingError::NoneFits(total))?);
        }
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Twelve conversations, every fourth of one turn: prompts of 3 + i words, answers of 2 + 5 i mod 7.
    fn file() -> Vec<u8> {
        let turn = |word: &str, count: usize| serde_json::json!({"from": "x", "value": vec![word; count].join(" ")});
        let entries: Vec<serde_json::Value> = (0..12)
            .map(|i| {
                let mut turns = vec![turn("w", 3 + i), turn("v", 2 + 5 * i % 7)];
                turns.truncate(if i % 4 == 0 { 1 } else { 2 });
                serde_json::json!({"id": i.to_string(), "conversations": turns})
            })
            .chain([serde_json::json!({"id": "no conversations"})])
            .collect();
        serde_json::to_vec(&entries).unwrap()
    }

    fn words(text: &str) -> Result<u64, Infallible> {
        Ok(text.split(' ').count() as u64)
    }

    #[test]
    fn samples_are_those_that_vllms_rules_give_in_cpython() {
        // Prompt and answer lengths by CPython 3.11: six fit, and four more are drawn among them.
        let cases: [(u64, [(u64, u64); 10]); 2] = [
            (
                0,
                [
                    (5, 5),
                    (8, 6),
                    (9, 4),
                    (4, 7),
                    (14, 8),
                    (12, 5),
                    (4, 7),
                    (4, 7),
                    (5, 5),
                    (9, 4),
                ],
            ),
            (
                1,
                [
                    (12, 5),
                    (9, 4),
                    (8, 6),
                    (4, 7),
                    (14, 8),
                    (5, 5),
                    (9, 4),
                    (14, 8),
                    (12, 5),
                    (8, 6),
                ],
            ),
        ];
        for (seed, wanted) in cases {
            let sampling = Sampling {
                count: 10,
                seed,
                output: None,
            };
            let conversations = Conversations::parse(&file()).unwrap();
            let requests = conversations.sample(sampling, words).unwrap();
            let lens = requests
                .iter()
                .map(|r| (r.prompt_tokens.unwrap(), r.max_tokens));
            assert_eq!(lens.collect::<Vec<_>>(), wanted, "seed {seed}");
        }
    }

    #[test]
    fn a_given_length_of_answers_may_be_short() {
        let sampling = Sampling {
            count: 9,
            seed: 0,
            output: Some(1),
        };
        let conversations = Conversations::parse(&file()).unwrap();
        let requests = conversations.sample(sampling, words).unwrap();
        assert!(requests.iter().all(|request| request.max_tokens == 1));
    }

    #[test]
    fn files_that_cannot_be_sampled_are_told() {
        let parse = |text: &str| {
            Conversations::parse(text.as_bytes())
                .map(|c| c.0.len())
                .map_err(|error| error.to_string())
        };
        assert!(parse("{}").unwrap_err().contains("no ShareGPT file"));
        let mute = r#"[{"conversations": [{"value": "a"}, {"from": "gpt"}]}]"#;
        assert_eq!(
            parse(mute).unwrap_err(),
            "conversation 0 has a turn without a \"value\""
        );
        let sampling = Sampling {
            count: 1,
            seed: 0,
            output: None,
        };
        let short = br#"[{"conversations": [{"value": "a"}, {"value": "b"}]}]"#;
        let error = Conversations::parse(short).unwrap().sample(sampling, words);
        assert!(error.unwrap_err().to_string().contains("none of the 1 "));
    }
}
