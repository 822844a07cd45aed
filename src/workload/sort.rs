//! The sort task: conversations that ask for numbers in order, in batches, and whether an answer is right.
//!
//! FILE. JSON `[batch][conversation][message]`, each message `{role, content}`, as Python's `json.dump(…, indent="")`
//! writes it: a line break after each bracket and comma, no indentation, none at the end. For the same arguments the
//! bytes are those of the generator that this format comes from, which draws with NumPy (see [`super::numpy`]).

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::numpy::Generator;

/// What the original draws below.
pub const BELOW: u32 = 10_000;

/// The most numbers of a task in all; a file of them has some 60 MB.
pub const MAX_NUMBERS: usize = 10_000_000;

/// The largest task file that is read.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortTask {
    /// Batches.
    pub batches: usize,
    /// Conversations of a batch.
    pub per_batch: usize,
    /// Numbers of a conversation.
    pub ints: usize,
    /// Numbers are below this; [`BELOW`] in the original.
    pub below: u32,
    /// Seed.
    pub seed: u64,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `user`, `assistant` or `system`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// `[batch][conversation][message]`.
pub type Task = Vec<Vec<Vec<Message>>>;

/// A task that is too large to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{batches} batches of {per_batch} conversations of {ints} numbers are more than {MAX_NUMBERS} numbers; ask for fewer"
)]
pub struct TooLarge {
    batches: usize,
    per_batch: usize,
    ints: usize,
}

impl SortTask {
    /// The text of the file.
    ///
    /// # Errors
    /// [`TooLarge`] beyond [`MAX_NUMBERS`] numbers, where a conversation counts for one at least.
    pub fn json(&self) -> Result<String, TooLarge> {
        let Self {
            batches,
            per_batch,
            ints,
            ..
        } = *self;
        let numbers = [per_batch.max(1), ints.max(1)]
            .into_iter()
            .try_fold(batches, usize::checked_mul);
        if numbers.is_none_or(|numbers| numbers > MAX_NUMBERS) {
            return Err(TooLarge {
                batches,
                per_batch,
                ints,
            });
        }
        let mut generator = Generator::new(self.seed);
        let mut out = String::new();
        list(&mut out, batches, |out| {
            list(out, per_batch, |out| {
                list(out, 1, |out| self.message(&mut generator, out));
            });
        });
        Ok(out)
    }

    fn message(&self, generator: &mut Generator, out: &mut String) {
        out.push_str("{\n\"role\": \"user\",\n\"content\": \"");
        out.push_str("Sort the following numbers from smallest to largest: ");
        for at in 0..self.ints {
            let comma = if at > 0 { ", " } else { "" };
            let _ = write!(out, "{comma}{}", generator.below(self.below));
        }
        out.push_str("\"\n}");
    }
}

/// A JSON list of `len` elements as Python indents it with nothing.
fn list(out: &mut String, len: usize, mut element: impl FnMut(&mut String)) {
    if len == 0 {
        out.push_str("[]");
        return;
    }
    for at in 0..len {
        out.push_str(if at == 0 { "[\n" } else { ",\n" });
        element(out);
    }
    out.push_str("\n]");
}

/// Whether `answer` ends with the numbers of `question` in ascending order: what comes before them (a model that thinks
/// aloud) does not matter. `None` if the question has no numbers behind its last colon.
pub fn is_right(question: &str, answer: &str) -> Option<bool> {
    let (_, asked) = question.rsplit_once(':')?;
    let mut wanted = numbers(asked);
    wanted.sort_unstable();
    let found = numbers(answer);
    (!wanted.is_empty()).then(|| found.ends_with(&wanted))
}

/// The whole numbers of a text; one that is too long for 64 bits is none that was asked for.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(batches: usize, per_batch: usize, ints: usize) -> SortTask {
        SortTask {
            batches,
            per_batch,
            ints,
            below: BELOW,
            seed: 2_025_001,
        }
    }

    /// What Python 3.11 and NumPy 2.4 write.
    #[test]
    fn files_are_pythons_byte_for_byte() {
        let files = [
            (
                (2, 2, 3),
                concat!(
                    "[\n",
                    "[\n",
                    "[\n",
                    "{\n",
                    "\"role\": \"user\",\n",
                    "\"content\": \"Sort the following numbers from smallest to largest: 1852, 7088, 1219\"\n",
                    "}\n",
                    "],\n",
                    "[\n",
                    "{\n",
                    "\"role\": \"user\",\n",
                    "\"content\": \"Sort the following numbers from smallest to largest: 7766, 3028, 5683\"\n",
                    "}\n",
                    "]\n",
                    "],\n",
                    "[\n",
                    "[\n",
                    "{\n",
                    "\"role\": \"user\",\n",
                    "\"content\": \"Sort the following numbers from smallest to largest: 8836, 5386, 7808\"\n",
                    "}\n",
                    "],\n",
                    "[\n",
                    "{\n",
                    "\"role\": \"user\",\n",
                    "\"content\": \"Sort the following numbers from smallest to largest: 4378, 985, 5267\"\n",
                    "}\n",
                    "]\n",
                    "]\n",
                    "]",
                ),
            ),
            (
                (1, 1, 0),
                concat!(
                    "[\n",
                    "[\n",
                    "[\n",
                    "{\n",
                    "\"role\": \"user\",\n",
                    "\"content\": \"Sort the following numbers from smallest to largest: \"\n",
                    "}\n",
                    "]\n",
                    "]\n",
                    "]",
                ),
            ),
            ((2, 0, 3), concat!("[\n", "[],\n", "[]\n", "]",)),
            ((0, 5, 3), "[]"),
        ];
        for ((batches, per_batch, ints), file) in files {
            assert_eq!(task(batches, per_batch, ints).json().unwrap(), file);
        }
    }

    #[test]
    fn a_file_reads_back_as_the_conversations_it_holds() {
        let task: Task = serde_json::from_str(&task(3, 2, 4).json().unwrap()).unwrap();
        assert_eq!((task.len(), task[2].len(), task[2][1].len()), (3, 2, 1));
        assert_eq!(task[0][0][0].role, "user");
    }

    #[test]
    fn sizes_that_no_memory_holds_are_refused() {
        for (batches, per_batch, ints) in [
            (usize::MAX, 1, 1),
            (usize::MAX, usize::MAX, usize::MAX),
            (MAX_NUMBERS + 1, 0, 0),
        ] {
            let error = task(batches, per_batch, ints).json().unwrap_err();
            assert!(error.to_string().contains("ask for fewer"));
        }
    }

    #[test]
    fn an_answer_is_right_when_it_ends_in_order() {
        let question = "Sort the following numbers from smallest to largest: 30, 4, 4, 12";
        for (answer, right) in [
            ("4, 4, 12, 30", true),
            ("Of 30, 4, 4 and 12, in order:\n4 4 12 30.", true),
            ("4, 12, 30", false),
            ("4, 4, 30, 12", false),
            ("4, 4, 12, 30, 31", false),
            ("", false),
        ] {
            assert_eq!(is_right(question, answer), Some(right), "{answer}");
        }
        assert_eq!(is_right("Tell me a story", "12"), None);
        assert_eq!(is_right("Sort: nothing", "12"), None);
    }
}
