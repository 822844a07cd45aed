//! A conversation as the text that a chat model was trained to continue.
//!
//! Models tell their form in a template of a small language of its own, which is not interpreted here. Where the
//! vocabulary has ChatML's marks (Qwen's form, and that of many others) the text is ChatML without a system message:
//! ```text
//! <|im_start|>user\nCONTENT<|im_end|>\n<|im_start|>assistant\n
//! ```
//! and otherwise just the contents, one after the other, for the model to continue.

use crate::engine::tokenizer::{EncodeOptions, Tokenizer};
use crate::workload::sort::Message;

/// The form of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// Turns between `<|im_start|>` and `<|im_end|>`.
    ChatMl,
    /// The contents alone.
    Plain,
}

impl Template {
    /// The form that the marks in the vocabulary suggest.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let is_token = |mark: &str| {
            let ids = tokenizer.encode(
                mark.as_bytes(),
                EncodeOptions {
                    add_special: false,
                    parse_special: true,
                },
            );
            ids.is_ok_and(|ids| ids.len() == 1)
        };
        if ["<|im_start|>", "<|im_end|>"].into_iter().all(is_token) {
            Self::ChatMl
        } else {
            Self::Plain
        }
    }

    /// The text, up to where the model is to answer.
    pub fn prompt(self, messages: &[Message]) -> String {
        match self {
            Self::Plain => {
                let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                contents.join("\n")
            }
            Self::ChatMl => {
                let turns = messages.iter().map(|message| {
                    let Message { role, content } = message;
                    format!("<|im_start|>{role}\n{content}<|im_end|>\n")
                });
                turns
                    .chain(["<|im_start|>assistant\n".to_owned()])
                    .collect()
            }
        }
    }

    /// The text for one message of the user.
    pub fn ask(self, content: &str) -> String {
        self.prompt(&[Message {
            role: "user".to_owned(),
            content: content.to_owned(),
        }])
    }
}
