//! What `tokgate load` measured of a server, written as vLLM's `bench serve` writes it: the same names in the same
//! order, with what is ours alone under the key `tokgate` at the end.
//!
//! FORMULAS, all of requests that were answered whole; times by this side's clock:
//! ```text
//! ttft   first piece − request sent
//! e2el   last piece − request sent
//! tpot   (e2el − ttft) / (n − 1)        n tokens of the answer; answers of one token have none
//! itl    gaps between pieces, of all requests together: where a piece has several tokens (speculative decoding), or
//!        several pieces come at once, that is not the time of a token
//! itl_per_token    tpot of all requests together, each as often as it has tokens after its first
//! client_queue_time    request sent − its arrival: how long it waited here, which no server can help
//! ```
//! A deviation is that of a population; percentiles are interpolated (NumPy's `linear`). A rate is over the duration from
//! the start to the last answer.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// The version of what stands under `tokgate`; it changes when a field goes or changes its meaning.
pub const SERVING_SCHEMA: u32 = 1;

/// The key under which our own part stands.
pub const OWN_KEY: &str = "tokgate";

/// One run of a load against a server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServingResult {
    /// Who was asked for what.
    pub setup: Setup,
    /// Seconds from the start to the last answer.
    pub duration: f64,
    /// Answers that came whole.
    pub completed: usize,
    /// Requests that got none.
    pub failed: usize,
    /// Tokens of the prompts that were answered.
    pub total_input_tokens: u64,
    /// Tokens of their answers.
    pub total_output_tokens: u64,
    /// Requests a second that met every limit, if there are limits.
    pub request_goodput: Option<f64>,
    /// By request that was sent, in the order of arrival.
    pub requests: Vec<RequestFigures>,
    /// Most pieces that came in one second.
    pub max_output_tokens_per_s: f64,
    /// Most requests that were open at once.
    pub max_concurrent_requests: usize,
    /// What the server tells of its drafts.
    pub spec_decode: Option<SpecDecode>,
    /// Times, those that were asked for.
    pub latencies: Vec<Latency>,
    /// What vLLM does not tell.
    pub own: Own,
}

/// Who was asked for what; vLLM's names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setup {
    /// `20261125-143000`.
    pub date: String,
    /// As `backend`.
    pub endpoint_type: &'static str,
    /// `openai` or `openai-chat`.
    pub backend: &'static str,
    /// A name that the user gave.
    pub label: Option<String>,
    /// The model.
    pub model_id: String,
    /// What counted tokens.
    pub tokenizer_id: Option<String>,
    /// Requests that were to be sent.
    pub num_prompts: usize,
    /// Requests a second, or `inf`.
    #[serde(serialize_with = "rate")]
    pub request_rate: f64,
    /// Shape of the gaps' distribution.
    #[serde(serialize_with = "rate")]
    pub burstiness: f64,
    /// Requests at once at most.
    pub max_concurrency: Option<usize>,
}

/// One request; times in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestFigures {
    /// Tokens of the prompt.
    pub input_len: u64,
    /// Tokens of the answer; 0 if there is none.
    pub output_len: u64,
    /// To the first piece.
    pub ttft: f64,
    /// Between pieces.
    pub itl: Vec<f64>,
    /// To the last piece.
    pub latency: f64,
    /// When it was sent, from the start.
    pub start_time: f64,
    /// How long it waited on this side.
    pub queue_time: f64,
    /// The answer.
    pub generated_text: String,
    /// Why there is none; empty if there is one.
    pub error: String,
}

/// Acceptance of drafts during the run, from the server's metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecDecode {
    /// Drafts.
    pub num_drafts: u64,
    /// Tokens of the drafts.
    pub draft_tokens: u64,
    /// Those that were accepted.
    pub accepted_tokens: u64,
    /// By place in the draft, the share of drafts whose token was accepted there.
    pub per_position: Vec<f64>,
}

/// Statistics of a time, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Which time: `ttft`, `tpot`, `itl`, `e2el`, `client_queue_time`, …
    #[serde(skip)]
    pub metric: &'static str,
    /// How many values there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their median.
    pub median: f64,
    /// Their standard deviation.
    pub std: f64,
    /// Percentiles, each with its percentage.
    pub percentiles: Vec<(f64, f64)>,
}

/// What vLLM does not tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Own {
    /// See [`SERVING_SCHEMA`].
    pub schema: u32,
    /// This program's version.
    pub version: &'static str,
    /// The server.
    pub url: String,
    /// The path that was asked.
    pub endpoint: String,
    /// What was asked.
    pub dataset: String,
    /// The seed of the data set and of the arrivals.
    pub seed: u64,
    /// What counted the tokens of prompts before they were sent, and of answers after they came.
    pub tokens_counted_by: String,
    /// Requests before the measurement.
    pub warm_ups: usize,
    /// Requests that were sent; fewer than were to be after an interrupt.
    pub sent: usize,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// Pieces over tokens, of all answers.
    pub tokens_per_chunk: Option<f64>,
    /// The time of a token after the first, each as often as there are such tokens.
    pub itl_per_token_ms: Latency,
    /// How long requests waited on this side.
    pub client_queue_ms: Latency,
    /// How late requests were sent although somebody was free to send them.
    pub late_ms: Latency,
    /// Cores that this program used while it measured.
    pub client_cores: Option<f64>,
    /// The peak of the server's resident memory in GiB, if its process was named.
    pub server_peak_gib: Option<f64>,
    /// Limits of the goodput, in milliseconds.
    pub goodput: Map<String, Value>,
    /// Reasons to doubt the figures.
    pub doubts: Vec<Doubt>,
}

/// A reason to doubt figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// A word for programs.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
}

impl ServingResult {
    /// `amount` a second.
    pub fn rate(&self, amount: f64) -> f64 {
        if self.duration > 0.0 {
            amount / self.duration
        } else {
            0.0
        }
    }

    /// The statistics of a metric, if they were asked for.
    pub fn latency(&self, metric: &str) -> Option<&Latency> {
        self.latencies
            .iter()
            .find(|latency| latency.metric == metric)
    }

    /// The file.
    pub fn json(&self) -> Value {
        let mut json = match serde_json::to_value(&self.setup) {
            Ok(Value::Object(setup)) => setup,
            _ => unreachable!("a struct of numbers and texts"),
        };
        let (input, output) = (self.total_input_tokens, self.total_output_tokens);
        let column = |value: fn(&RequestFigures) -> Value| -> Value {
            self.requests.iter().map(value).collect()
        };
        let results = json!({
            "duration": self.duration,
            "completed": self.completed,
            "failed": self.failed,
            "total_input_tokens": input,
            "total_output_tokens": output,
            "request_throughput": self.rate(self.completed as f64),
            "request_goodput": self.request_goodput,
            "output_throughput": self.rate(output as f64),
            "total_token_throughput": self.rate((input + output) as f64),
            "input_lens": column(|request| request.input_len.into()),
            "output_lens": column(|request| request.output_len.into()),
            "ttfts": column(|request| request.ttft.into()),
            "itls": column(|request| request.itl.clone().into()),
            "latencies": column(|request| request.latency.into()),
            "start_times": column(|request| request.start_time.into()),
            "queue_times": column(|request| request.queue_time.into()),
            "generated_texts": column(|request| request.generated_text.as_str().into()),
            "errors": column(|request| request.error.as_str().into()),
            "max_output_tokens_per_s": self.max_output_tokens_per_s,
            "max_concurrent_requests": self.max_concurrent_requests,
            "rtfx": 0.0,
        });
        if let Value::Object(results) = results {
            json.extend(results);
        }
        if let Some(drafts) = &self.spec_decode {
            let mut push =
                |key: &str, value: Value| json.insert(format!("spec_decode_{key}"), value);
            push("acceptance_rate", drafts.acceptance_rate().into());
            push("acceptance_length", drafts.acceptance_length().into());
            push("num_drafts", drafts.num_drafts.into());
            push("draft_tokens", drafts.draft_tokens.into());
            push("accepted_tokens", drafts.accepted_tokens.into());
            push(
                "per_position_acceptance_rates",
                drafts.per_position.clone().into(),
            );
        }
        for latency in &self.latencies {
            let metric = latency.metric;
            let mut push = |statistic: &str, value: f64| {
                json.insert(format!("{statistic}_{metric}_ms"), value.into())
            };
            push("mean", latency.mean);
            push("median", latency.median);
            push("std", latency.std);
            for (percent, value) in &latency.percentiles {
                push(&format!("p{percent}"), *value);
            }
        }
        let own = serde_json::to_value(&self.own).expect("numbers and texts");
        json.insert(OWN_KEY.to_owned(), own);
        Value::Object(json)
    }
}

impl SpecDecode {
    /// Accepted tokens in percent of those drafted.
    pub fn acceptance_rate(&self) -> f64 {
        self.accepted_tokens as f64 / self.draft_tokens.max(1) as f64 * 100.0
    }

    /// Tokens of a step: the accepted ones and the one after them.
    pub fn acceptance_length(&self) -> f64 {
        1.0 + self.accepted_tokens as f64 / self.num_drafts.max(1) as f64
    }
}

fn rate<S: serde::Serializer>(rate: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match rate.is_finite() {
        true => serializer.serialize_f64(*rate),
        false => serializer.serialize_str("inf"),
    }
}
