//! The prompts that a model or a server is timed with.
//!
//! Six keys with fixed texts, so that results taken at different times are of the same work. What a key claims to
//! stress is what its text makes *likely*: short answers and long ones, repetition and structure. A prompt cannot
//! choose how memory is accessed; every decode step reads all weights once, whatever the text says.

/// A text to continue, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its name in options and results.
    pub key: &'static str,
    /// What it is meant to show, in a few words.
    pub about: &'static str,
    /// The text.
    pub text: &'static str,
    /// Tokens that an answer may have at most.
    pub max_tokens: usize,
}

/// All prompts, in the order of reports.
pub const PROMPTS: [Prompt; 6] = [
    Prompt {
        key: "memory_sequential",
        about: "a plain sequence",
        text: "Count from 1 to 20, one number on each line.",
        max_tokens: 100,
    },
    Prompt {
        key: "cache_loops",
        about: "the same few tokens again and again",
        text: "Write the line \"the same words again\" twelve times, numbering each line.",
        max_tokens: 120,
    },
    Prompt {
        key: "compute_arithmetic",
        about: "short calculations",
        text: "Work these out and show each step: 27 + 48, 15 * 12, 144 / 9, 250 - 87.",
        max_tokens: 120,
    },
    Prompt {
        key: "memory_structured",
        about: "structured text",
        text: "Write a JSON array of five books, each an object with the fields title, author, year and pages.",
        max_tokens: 200,
    },
    Prompt {
        key: "throughput_sustained",
        about: "a long list",
        text: "List thirty animals, one on each line, with a word on where each of them lives.",
        max_tokens: 250,
    },
    Prompt {
        key: "memory_bandwidth",
        about: "a long answer to a longer prompt",
        text: "A program adds up the numbers of an array that is far larger than the caches of the processor. It first \
               runs on one core, then on all of them, and gets faster only up to a point. Explain in several \
               paragraphs what happens in the caches, the memory controller and the memory modules while it runs, why \
               more cores stop helping, and how one would measure the limit.",
        max_tokens: 300,
    },
];

/// A name that is no prompt's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no prompt; there are {all}", all = PROMPTS.map(|prompt| prompt.key).join(", "))]
pub struct UnknownPrompt(String);

impl Prompt {
    /// The prompt of that name.
    ///
    /// # Errors
    /// [`UnknownPrompt`], which lists the names.
    pub fn of_key(key: &str) -> Result<Self, UnknownPrompt> {
        PROMPTS
            .into_iter()
            .find(|prompt| prompt.key == key)
            .ok_or_else(|| UnknownPrompt(key.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_find_their_prompts_and_a_stranger_is_told_all_of_them() {
        for prompt in PROMPTS {
            assert_eq!(Prompt::of_key(prompt.key), Ok(prompt));
            assert!(prompt.max_tokens > 0 && !prompt.text.is_empty());
        }
        let error = Prompt::of_key("memory").unwrap_err().to_string();
        assert!(error.contains("'memory'") && error.contains("cache_loops"));
    }
}
