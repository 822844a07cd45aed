//! Fixed prompts, one after the other, several times each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Answer, Api, Client, Failure, Model, Question};
use crate::record::prompts::{
    AnswerFigures, PromptRun, PromptRuns, PromptStats, RunError, ServerFigures,
};
use crate::workload::prompts::Prompt;

/// Runs in a row that may find no server before it is taken for dead: the rest then fails at once, instead of after a
/// wait each.
const PATIENCE: usize = 3;

/// An answer whose pieces all came within this share of its time was held back by something on the way: when its tokens
/// were made cannot be seen.
const BURST: f64 = 0.01;

/// Tokens of the warm-up's answer.
const WARM_UP_TOKENS: usize = 16;

/// How often a wait looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// What a server is asked, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub client: Client,
    /// What it serves.
    pub model: Model,
    /// How it is asked.
    pub api: Api,
    /// Whether [`Plan::warm_up`] may turn to completions where there is no chat.
    pub may_change_api: bool,
    /// The prompts, in their order.
    pub prompts: Vec<Prompt>,
    /// Runs of each.
    pub runs: usize,
    /// How long an answer may take.
    pub limit: Duration,
}

/// How a plan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All runs were made.
    Whole,
    /// Somebody asked to stop.
    Interrupted,
}

impl Plan {
    /// Asks once without counting it, so that the server has read its weights and made its buffers. A server that has
    /// no chat is asked for completions from then on.
    ///
    /// # Errors
    /// [`Failure`] if there was no answer, which the runs to come may still get.
    pub fn warm_up(&mut self, stop: &AtomicBool) -> Result<End, Failure> {
        let Some(prompt) = self.prompts.first().copied() else {
            return Ok(End::Whole);
        };
        let prompt = Prompt {
            max_tokens: WARM_UP_TOKENS.min(prompt.max_tokens),
            ..prompt
        };
        loop {
            return match (self.ask(prompt, stop), self.api) {
                (None, _) => Ok(End::Interrupted),
                (Some(Ok(_)), _) => Ok(End::Whole),
                (
                    Some(Err(Failure::Status {
                        code: 404 | 405 | 501,
                        ..
                    })),
                    Api::Chat,
                ) if self.may_change_api => {
                    self.api = Api::Completions;
                    continue;
                }
                (Some(Err(failure)), _) => Err(failure),
            };
        }
    }

    /// Runs all prompts. `see` is told of each run.
    pub fn run(
        &self,
        stop: &AtomicBool,
        mut see: impl FnMut(&Prompt, &PromptRun),
    ) -> (Vec<PromptRuns>, End) {
        let mut done = Vec::with_capacity(self.prompts.len());
        let mut end = End::Whole;
        let mut missed = 0;
        for prompt in &self.prompts {
            let mut results = Vec::with_capacity(self.runs);
            while results.len() < self.runs && end == End::Whole {
                let outcome = if missed >= PATIENCE {
                    Some(Err(Failure::NotTried))
                } else {
                    self.ask(*prompt, stop)
                };
                let Some(outcome) = outcome else {
                    end = End::Interrupted;
                    break;
                };
                match &outcome {
                    Err(failure) if failure.is_of_the_connection() => missed += 1,
                    Err(Failure::NotTried) => {}
                    _ => missed = 0,
                }
                let run = figures(outcome);
                see(prompt, &run);
                results.push(run);
            }
            if results.is_empty() {
                break;
            }
            done.push(PromptRuns {
                key: prompt.key,
                prompt_text: prompt.text,
                max_tokens: prompt.max_tokens,
                stats: PromptStats::of(&results),
                results,
            });
        }
        (done, end)
    }

    /// Asks on a thread of its own, which is left behind if `stop` is set meanwhile: a read cannot be interrupted, and
    /// whoever stops is about to end the process. `None` after a stop.
    fn ask(&self, prompt: Prompt, stop: &AtomicBool) -> Option<Result<Answer, Failure>> {
        let (sender, receiver) = mpsc::channel();
        let (client, model) = (self.client.clone(), self.model.clone());
        let (api, limit) = (self.api, self.limit);
        thread::spawn(move || {
            let question = Question {
                api,
                model: &model,
                text: prompt.text,
                max_tokens: prompt.max_tokens,
            };
            // Nobody listens any more after a stop.
            let _ = sender.send(client.ask(&question, limit));
        });
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(outcome) => return Some(outcome),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Err(Failure::Garbage(
                        "its answer broke this client".to_owned(),
                    )));
                }
            }
        }
    }
}

fn figures(outcome: Result<Answer, Failure>) -> PromptRun {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(failure) => {
            return PromptRun {
                success: false,
                error: Some(RunError {
                    kind: failure.kind(),
                    message: failure.to_string(),
                }),
                answer: None,
            };
        }
    };
    let tokens = answer.token_count();
    let decode = (answer.last - answer.first).as_secs_f64();
    let total = answer.total.as_secs_f64();
    let answer = AnswerFigures {
        tokens,
        tokens_counted_by: answer.counted_by(),
        prompt_tokens: answer.prompt_tokens,
        chunks: answer.chunks,
        first_token_ms: answer.first.as_secs_f64() * 1e3,
        total_ms: total * 1e3,
        tokens_per_second: (tokens > 1 && decode > BURST * total)
            .then(|| (tokens - 1) as f64 / decode),
        end_to_end_tokens_per_second: tokens as f64 / total.max(1e-9),
        server: answer.timings.map(|timings| ServerFigures {
            prompt_tokens: timings.prompt_n,
            prompt_ms: timings.prompt_ms,
            tokens: timings.predicted_n,
            decode_ms: timings.predicted_ms,
            tokens_per_second: timings.predicted_per_second,
        }),
    };
    PromptRun {
        success: true,
        error: None,
        answer: Some(answer),
    }
}
