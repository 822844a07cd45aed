//! Answers in the protocol's JSON.

use serde_json::{Map, Value, json};

use super::piece::{Finish, Piece, Scored};
use crate::engine::tokenizer::Tokenizer;

/// What all parts of an answer have in common.
#[derive(Clone, Debug)]
pub struct Answer {
    pub chat: bool,
    pub id: String,
    pub created: u64,
    pub model: String,
}

impl Answer {
    /// The whole answer; `piece` is all its pieces joined.
    pub fn whole(&self, piece: &Piece, finish: &Finish, tokenizer: &Tokenizer) -> Value {
        let mut choice = json!({"index": 0});
        if self.chat {
            choice["message"] = json!({"role": "assistant", "content": piece.text});
        } else {
            choice["text"] = piece.text.as_str().into();
        }
        choice["logprobs"] = self.logprobs(&piece.scored, 0, tokenizer);
        choice["finish_reason"] = finish.end.reason().into();
        let mut body = self.body(false, vec![choice]);
        body["usage"] = usage(finish);
        body["timings"] = timings(finish);
        body
    }

    /// One piece of a stream, `at` so many characters of its text. The role comes with the first token, because clients take
    /// the first piece for it.
    pub fn chunk(&self, piece: &Piece, is_first: bool, at: usize, tokenizer: &Tokenizer) -> Value {
        let mut choice = json!({"index": 0});
        if self.chat {
            choice["delta"] = json!({"content": piece.text});
            if is_first {
                choice["delta"]["role"] = "assistant".into();
            }
        } else {
            choice["text"] = piece.text.as_str().into();
        }
        choice["logprobs"] = self.logprobs(&piece.scored, at, tokenizer);
        choice["finish_reason"] = piece
            .finish
            .as_ref()
            .map_or(Value::Null, |finish| finish.end.reason().into());
        let mut body = self.body(true, vec![choice]);
        if let Some(finish) = &piece.finish {
            body["timings"] = timings(finish);
        }
        body
    }

    /// The count of tokens at a stream's end.
    pub fn usage(&self, finish: &Finish) -> Value {
        let mut body = self.body(true, Vec::new());
        body["usage"] = usage(finish);
        body
    }

    fn body(&self, is_chunk: bool, choices: Vec<Value>) -> Value {
        let object = match (self.chat, is_chunk) {
            (true, true) => "chat.completion.chunk",
            (true, false) => "chat.completion",
            (false, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn logprobs(&self, scored: &[Scored], at: usize, tokenizer: &Tokenizer) -> Value {
        if scored.is_empty() {
            return Value::Null;
        }
        let bytes = |id: u32| tokenizer.token(id).unwrap_or_default();
        let text = |id: u32| String::from_utf8_lossy(bytes(id)).into_owned();
        if self.chat {
            let entry = |&(id, log): &(u32, f32)| json!({"token": text(id), "logprob": finite(log), "bytes": bytes(id)});
            let content = scored.iter().map(|token| {
                let mut row = entry(&token.chosen);
                row["top_logprobs"] = token.top.iter().map(entry).collect();
                row
            });
            return json!({"content": content.collect::<Value>()});
        }
        let mut offset = at;
        let offsets = scored.iter().map(|token| {
            let start = offset;
            offset += text(token.chosen.0).chars().count();
            start
        });
        let offsets: Vec<usize> = offsets.collect();
        let top = scored.iter().map(|token| {
            let pairs = token
                .top
                .iter()
                .map(|&(id, log)| (text(id), finite(log).into()));
            Value::Object(pairs.collect::<Map<_, _>>())
        });
        json!({
            "tokens": scored.iter().map(|token| text(token.chosen.0)).collect::<Vec<_>>(),
            "token_logprobs": scored.iter().map(|token| finite(token.chosen.1)).collect::<Vec<_>>(),
            "top_logprobs": top.collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

/// JSON has no infinity; OpenAI writes this for what is as good as impossible.
fn finite(log: f32) -> f32 {
    log.max(-9999.0)
}

fn usage(finish: &Finish) -> Value {
    json!({
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    })
}

/// What llama.cpp's server tells, by its names.
fn timings(finish: &Finish) -> Value {
    let prompt_n = finish.prompt_tokens - finish.cached_tokens;
    let part = |n: usize, ms: f64| {
        let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        (per(ms, n as f64), per(n as f64 * 1e3, ms))
    };
    let (prompt_ms, predicted_ms) = (
        finish.prefill.as_secs_f64() * 1e3,
        finish.decode.as_secs_f64() * 1e3,
    );
    let (prompt_each, prompt_rate) = part(prompt_n, prompt_ms);
    // The first token belongs to the prompt's pass.
    let (predicted_each, predicted_rate) =
        part(finish.completion_tokens.saturating_sub(1), predicted_ms);
    let mut timings = json!({
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_each,
        "prompt_per_second": prompt_rate,
        "predicted_n": finish.completion_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_each,
        "predicted_per_second": predicted_rate,
    });
    let drafts = &finish.drafts;
    if drafts.drafts > 0 {
        let of_drafts = |count: usize| count as f64 / drafts.drafts as f64;
        timings["draft_n"] = drafts.drafted.into();
        timings["draft_n_accepted"] = drafts.accepted.into();
        // As vLLM tells them: tokens accepted of those drafted, tokens of a pass that checked a draft, and drafts
        // accepted up to each place.
        timings["draft_passes"] = drafts.drafts.into();
        timings["draft_acceptance_rate"] = (drafts.accepted as f64 / drafts.drafted as f64).into();
        timings["draft_acceptance_length"] = (1.0 + of_drafts(drafts.accepted)).into();
        let places = drafts.accepted_at.iter().map(|&count| of_drafts(count));
        timings["draft_per_position_acceptance_rates"] = places.collect();
    }
    timings
}

/// The text of a server-sent event.
pub fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// An error as OpenAI writes it.
pub fn error(code: u16, message: &str) -> Value {
    let kind = match code {
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
