//! What clients ask, checked. Unknown fields are ignored, because clients send what other servers know; what OpenAI's
//! protocol defines and is not done here is refused, because an answer that ignores it is not what was asked for.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::template::Turn;
use crate::engine::sampler::SamplerParams;

/// The most alternatives that may be asked for.
const MAX_TOP: usize = 20;

/// The most stop strings, and their longest length in bytes.
const MAX_STOPS: (usize, usize) = (16, 256);

/// A request for a text, of both ways of asking.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ask {
    pub messages: Option<Vec<Message>>,
    pub prompt: Option<Prompt>,
    pub model: Option<String>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    logprobs: Option<Logprobs>,
    top_logprobs: Option<usize>,
    ignore_eos: Option<bool>,
    n: Option<usize>,
    best_of: Option<usize>,
    echo: Option<bool>,
    suffix: Option<String>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<HashMap<String, IgnoredAny>>,
    response_format: Option<ResponseFormat>,
    tools: Option<Vec<IgnoredAny>>,
    tool_choice: Option<Choice>,
    functions: Option<Vec<IgnoredAny>>,
    function_call: Option<Choice>,
    /// Variables for the chat template.
    pub chat_template_kwargs: Value,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    r#type: String,
}

/// Which tool is to be called: a word, or one of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Choice {
    Word(String),
    One(IgnoredAny),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    pub include_usage: bool,
}

/// A turn as clients write it.
#[derive(Debug, Deserialize)]
pub struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// A text, or tokens, or a list of one of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// A switch in chat, a number in completions.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Logprobs {
    Switch(bool),
    Number(usize),
}

/// What is computed for a request, beside its prompt.
#[derive(Debug)]
pub struct Wishes {
    pub max_tokens: Option<usize>,
    pub params: SamplerParams,
    pub stops: Vec<String>,
    pub logprobs: Option<usize>,
    pub ignore_eos: bool,
}

impl Ask {
    /// Checks everything but the prompt; `random` is the seed where none is given.
    ///
    /// # Errors
    /// What is wrong, for the client.
    pub fn wishes(&mut self, random: u64) -> Result<Wishes, String> {
        for (name, value) in [("n", self.n), ("best_of", self.best_of)] {
            if value.is_some_and(|value| value != 1) {
                return Err(format!(
                    "{name} must be 1: ask several times for several answers"
                ));
            }
        }
        self.refuse_what_is_not_done()?;
        let logprobs = match (&self.logprobs, self.top_logprobs) {
            (None | Some(Logprobs::Switch(false)), None | Some(0)) => None,
            (None | Some(Logprobs::Switch(false)), Some(_)) => {
                return Err("top_logprobs needs logprobs: true".to_owned());
            }
            (Some(Logprobs::Switch(true)), top) => Some(top.unwrap_or(0)),
            (Some(Logprobs::Number(number)), _) => Some(*number),
        };
        if logprobs.is_some_and(|top| top > MAX_TOP) {
            return Err(format!("at most {MAX_TOP} logprobs can be asked for"));
        }
        let stops = match self.stop.take() {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        if stops.len() > MAX_STOPS.0 || stops.iter().any(|stop| stop.len() > MAX_STOPS.1) {
            return Err(format!(
                "at most {} stop strings of {} bytes can be given",
                MAX_STOPS.0, MAX_STOPS.1
            ));
        }
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        if max_tokens == Some(0) {
            return Err("max_tokens must be at least 1".to_owned());
        }
        Ok(Wishes {
            max_tokens,
            params: SamplerParams {
                temperature: self.temperature.unwrap_or(1.0),
                // Both -1 and 0 mean all.
                top_k: usize::try_from(self.top_k.unwrap_or(0)).unwrap_or(0),
                top_p: self.top_p.unwrap_or(1.0),
                min_p: self.min_p.unwrap_or(0.0),
                repeat_penalty: self.repetition_penalty.unwrap_or(1.0),
                seed: self.seed.map_or(random, |seed| seed as u64),
                ..SamplerParams::default()
            },
            stops,
            logprobs,
            ignore_eos: self.ignore_eos.unwrap_or(false),
        })
    }

    /// Refuses what would change the answer and is not done; what changes nothing, such as an empty list of tools, is
    /// what some clients always send.
    fn refuse_what_is_not_done(&self) -> Result<(), String> {
        let is_penalty = |penalty: Option<f32>| penalty.is_some_and(|penalty| penalty != 0.0);
        let is_called = |tools: &Option<Vec<IgnoredAny>>, choice: &Option<Choice>| match choice {
            Some(Choice::Word(word)) if word == "none" => false,
            Some(Choice::Word(word)) if word != "auto" => true,
            Some(Choice::One(_)) => true,
            _ => tools.as_ref().is_some_and(|tools| !tools.is_empty()),
        };
        let asked = [
            ("echo", self.echo == Some(true)),
            (
                "suffix",
                self.suffix
                    .as_ref()
                    .is_some_and(|suffix| !suffix.is_empty()),
            ),
            ("frequency_penalty", is_penalty(self.frequency_penalty)),
            ("presence_penalty", is_penalty(self.presence_penalty)),
            (
                "logit_bias",
                self.logit_bias
                    .as_ref()
                    .is_some_and(|bias| !bias.is_empty()),
            ),
            ("tools", is_called(&self.tools, &self.tool_choice)),
            ("functions", is_called(&self.functions, &self.function_call)),
        ];
        if let Some((name, _)) = asked.iter().find(|(_, is_asked)| *is_asked) {
            return Err(format!("{name} is not supported: leave it out"));
        }
        match &self.response_format {
            Some(format) if format.r#type != "text" => Err(format!(
                "response_format of type '{}' is not supported: text only",
                format.r#type
            )),
            _ => Ok(()),
        }
    }

    /// Whether the answer is to come in pieces, and with a count of tokens at its end.
    pub fn streaming(&self) -> Option<bool> {
        let usage = self
            .stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage);
        (self.stream == Some(true)).then_some(usage)
    }
}

impl Message {
    /// The turn, if it is text alone.
    ///
    /// # Errors
    /// What is wrong, for the client.
    pub fn turn(self) -> Result<Turn, String> {
        if self.tool_calls.is_some_and(|calls| !calls.is_empty()) {
            return Err("tool_calls in messages are not supported: text only".to_owned());
        }
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut all = String::new();
                for part in parts {
                    match part.text.filter(|_| part.r#type == "text") {
                        Some(text) => all += &text,
                        None => {
                            return Err(format!(
                                "content of type '{}' is not supported: text only",
                                part.r#type
                            ));
                        }
                    }
                }
                all
            }
        };
        Ok(Turn {
            role: self.role,
            content,
        })
    }
}

/// A request to `/tokenize`, by vLLM's names or llama.cpp's.
#[derive(Debug, Deserialize)]
pub struct TokenizeAsk {
    pub messages: Option<Vec<Message>>,
    prompt: Option<String>,
    content: Option<String>,
    #[serde(alias = "add_special")]
    pub add_special_tokens: Option<bool>,
}

impl TokenizeAsk {
    /// The text, by either name: clients that do not know which server answers send it by both.
    ///
    /// # Errors
    /// If there is none, or there are two.
    pub fn text(self) -> Result<String, String> {
        match (self.prompt, self.content) {
            (Some(prompt), Some(content)) if prompt != content => {
                Err("prompt and content are two names of the text, and here they differ".to_owned())
            }
            (Some(text), _) | (None, Some(text)) => Ok(text),
            (None, None) => Err("prompt is missing".to_owned()),
        }
    }
}

/// A request to `/detokenize`.
#[derive(Debug, Deserialize)]
pub struct DetokenizeAsk {
    pub tokens: Vec<u32>,
}
