//! The stream of an answer: server-sent events of JSON, the last of which is `[DONE]`.

use std::io::{self, BufRead, Read};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Failure;

/// The longest answer that is read: a thousand times what the prompts ask for.
pub(super) const MAX_ANSWER: u64 = 32 << 20;

/// The longest line.
const MAX_LINE: u64 = 1 << 20;

/// What came back, and when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// From the question to the first piece with text.
    pub first: Duration,
    /// From the question to the last piece with text.
    pub last: Duration,
    /// From the question to the end of the stream.
    pub total: Duration,
    /// Pieces with text.
    pub chunks: usize,
    /// Tokens of the prompt, by the server's count.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, by the server's count.
    pub tokens: Option<u64>,
    /// The server's own timings, which llama.cpp sends.
    pub timings: Option<Timings>,
}

/// What llama.cpp's server says of itself: no network, no template, no tokenising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// Tokens of the prompt that were processed.
    pub prompt_n: u64,
    /// Milliseconds for them.
    pub prompt_ms: f64,
    /// Their rate.
    pub prompt_per_second: f64,
    /// Tokens that were generated.
    pub predicted_n: u64,
    /// Milliseconds for them.
    pub predicted_ms: f64,
    /// Their rate.
    pub predicted_per_second: f64,
}

pub(super) enum Error {
    Io(io::Error),
    Failure(Failure),
}

/// An event with a choice, whether it has text or not: the way in which vLLM counts and times them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// From the question to it.
    pub at: Duration,
    /// Its part of the answer.
    pub text: &'a str,
}

/// Reads a stream to its end, and shows each piece to `see`. An error comes with the number of pieces before it.
pub(super) fn read(
    reader: &mut impl BufRead,
    started: Instant,
    mut see: impl FnMut(Piece<'_>) -> Result<(), Failure>,
) -> Result<Answer, (Error, usize)> {
    let mut answer = Answer::default();
    let mut line = Vec::new();
    let (mut finished, mut events) = (false, 0);
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let now = started.elapsed();
        let failed = |failure| (Error::Failure(failure), answer.chunks);
        match read {
            Ok(0) => break,
            Ok(_) if line.len() as u64 == MAX_LINE => {
                return Err(failed(Failure::Garbage("a line without an end".to_owned())));
            }
            Ok(_) => {}
            Err(error) => return Err((Error::Io(error), answer.chunks)),
        }
        let Some(data) = data(&line) else {
            // Comments, names of events, blank lines; but a stream begins with one of them or with data.
            if events == 0 && !line.trim_ascii().is_empty() && !is_field(&line) {
                return Err(failed(Failure::Garbage(shown(&line))));
            }
            continue;
        };
        if data == b"[DONE]" {
            finished = true;
            break;
        }
        events += 1;
        let Ok(event) = serde_json::from_slice::<Value>(data) else {
            return Err(failed(Failure::Garbage(shown(data))));
        };
        if let Some(error) = event.get("error") {
            let text = message(error).unwrap_or_else(|| shown(data));
            return Err(failed(Failure::Server(text)));
        }
        if let Some(piece) = piece(&event, now) {
            see(piece).map_err(|failure| (Error::Failure(failure), answer.chunks))?;
        }
        finished |= answer.take(&event, now);
    }
    answer.total = started.elapsed();
    if !finished {
        let chunks = answer.chunks;
        return Err((Error::Failure(Failure::Died { chunks }), chunks));
    }
    if answer.chunks == 0 {
        return Err((Error::Failure(Failure::Empty), 0));
    }
    Ok(answer)
}

impl Answer {
    /// Takes an event that came at `now`; whether it is the last with text.
    fn take(&mut self, event: &Value, now: Duration) -> bool {
        let choice = event.get("choices").and_then(|choices| choices.get(0));
        let text = |at: Option<&Value>| {
            at.and_then(Value::as_str)
                .is_some_and(|text| !text.is_empty())
        };
        let delta = choice.and_then(|choice| choice.get("delta"));
        // What a model thinks is generated as what it says is.
        let has_text = ["content", "reasoning_content", "reasoning"]
            .iter()
            .any(|key| text(delta.and_then(|delta| delta.get(key))))
            || text(choice.and_then(|choice| choice.get("text")));
        if has_text {
            if self.chunks == 0 {
                self.first = now;
            }
            self.last = now;
            self.chunks += 1;
        }
        let count = |key: &str| event.get("usage")?.get(key)?.as_u64();
        self.prompt_tokens = count("prompt_tokens").or(self.prompt_tokens);
        self.tokens = count("completion_tokens").or(self.tokens);
        if let Some(timings) = event.get("timings") {
            self.timings = serde_json::from_value(timings.clone()).ok();
        }
        choice
            .and_then(|choice| choice.get("finish_reason"))
            .is_some_and(|reason| !reason.is_null())
    }

    /// Tokens of the answer: as the server counts them, or else its pieces.
    pub fn token_count(&self) -> u64 {
        let timed = self.timings.map(|timings| timings.predicted_n);
        let counted = self.tokens.or(timed.filter(|tokens| *tokens > 0));
        counted.unwrap_or(self.chunks as u64)
    }

    /// Whose count [`Self::token_count`] is.
    pub fn counted_by(&self) -> &'static str {
        match (self.tokens, self.timings) {
            (Some(_), _) => "usage",
            (None, Some(timings)) if timings.predicted_n > 0 => "timings",
            _ => "chunks",
        }
    }
}

fn piece(event: &Value, at: Duration) -> Option<Piece<'_>> {
    let choice = event.get("choices")?.get(0)?;
    let delta = choice.get("delta").and_then(|delta| delta.get("content"));
    let text = delta.or_else(|| choice.get("text"));
    Some(Piece {
        at,
        text: text.and_then(Value::as_str).unwrap_or_default(),
    })
}

/// The text of an error, in the ways in which servers write it.
pub(super) fn message(error: &Value) -> Option<String> {
    let text = error.as_str().or_else(|| error.get("message")?.as_str())?;
    Some(text.chars().take(200).collect())
}

/// What stands behind `data:`, or nothing.
fn data(line: &[u8]) -> Option<&[u8]> {
    Some(line.strip_prefix(b"data:")?.trim_ascii())
}

fn is_field(line: &[u8]) -> bool {
    [&b":"[..], b"event:", b"id:", b"retry:"]
        .iter()
        .any(|field| line.starts_with(field))
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Answer, (Failure, usize)> {
        read(&mut text.as_bytes(), Instant::now(), |_| Ok(())).map_err(
            |(error, chunks)| match error {
                Error::Io(error) => panic!("{error}"),
                Error::Failure(failure) => (failure, chunks),
            },
        )
    }

    #[test]
    fn both_kinds_of_streams_are_read() {
        let chat = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            : a comment\n\
            data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3},\
            \"timings\":{\"predicted_n\":3,\"predicted_ms\":30.0,\"predicted_per_second\":100.0,\"new\":1}}\n\n\
            data: [DONE]\n\n";
        let answer = read_text(chat).unwrap();
        assert_eq!((answer.chunks, answer.token_count()), (2, 3));
        assert_eq!(
            (answer.prompt_tokens, answer.counted_by()),
            (Some(9), "usage")
        );
        assert_eq!(answer.timings.unwrap().predicted_per_second, 100.0);

        let completions = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\r\n\r\n\
            data: {\"choices\":[{\"text\":\"b\",\"finish_reason\":\"length\"}]}\r\n\r\n";
        let answer = read_text(completions).unwrap();
        assert_eq!((answer.token_count(), answer.counted_by()), (2, "chunks"));
    }

    #[test]
    fn what_is_no_whole_answer_is_told() {
        let piece = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
        let cases = [
            ("".to_owned(), Failure::Died { chunks: 0 }, 0),
            (piece.to_owned(), Failure::Died { chunks: 1 }, 1),
            ("data: [DONE]\n".to_owned(), Failure::Empty, 0),
            (
                format!("{piece}data: {{\"error\":{{\"message\":\"out of memory\"}}}}\n"),
                Failure::Server("out of memory".to_owned()),
                1,
            ),
            (
                format!("{piece}data: {{\"choices\":\n"),
                Failure::Garbage("{\"choices\":".to_owned()),
                1,
            ),
            (
                "<!DOCTYPE html>\n<html>\n".to_owned(),
                Failure::Garbage("<!DOCTYPE html>".to_owned()),
                0,
            ),
            (
                format!("data: {}", "x".repeat(3 << 20)),
                Failure::Garbage("a line without an end".to_owned()),
                0,
            ),
        ];
        for (text, failure, chunks) in cases {
            assert_eq!(read_text(&text), Err((failure, chunks)));
        }
        // Any JSON is borne, whatever stands where.
        for odd in [
            "1",
            "[]",
            "{\"choices\":{}}",
            "{\"choices\":[1]}",
            "{\"usage\":[]}",
        ] {
            let text = format!("data: {odd}\n{piece}data: [DONE]\n");
            assert_eq!(read_text(&text).unwrap().chunks, 1, "{odd}");
        }
    }
}
