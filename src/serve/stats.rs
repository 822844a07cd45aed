//! What the server counts, and how Prometheus reads it. Where vLLM has a name for it, it is that name, so that tools
//! made for vLLM find it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Places of a draft that are counted one by one.
pub const POSITIONS: usize = 32;

/// Counters; each only grows, except the number that runs.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) running: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) drafts: AtomicU64,
    pub(super) draft_tokens: AtomicU64,
    pub(super) accepted_tokens: AtomicU64,
    pub(super) accepted_at: [AtomicU64; POSITIONS],
    first_token: (AtomicU64, AtomicU64),
}

pub(super) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Relaxed);
}

impl Stats {
    /// Counts a first token that came so long after its request.
    pub(super) fn first_token(&self, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.first_token.0.fetch_add(micros, Relaxed);
        self.first_token.1.fetch_add(1, Relaxed);
    }

    /// Counts a draft of which the first tokens were accepted.
    pub(super) fn draft(&self, drafted: usize, accepted: usize) {
        add(&self.drafts, 1);
        add(&self.draft_tokens, drafted);
        add(&self.accepted_tokens, accepted);
        for counter in self.accepted_at.iter().take(accepted) {
            add(counter, 1);
        }
    }

    /// What was done, in a sentence.
    pub fn summary(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let mut text = format!(
            "{} requests answered, {} given up by their clients, {} refused; {} tokens generated",
            of(&self.finished),
            of(&self.cancelled),
            of(&self.refused),
            of(&self.generated_tokens)
        );
        let (drafts, drafted) = (of(&self.drafts), of(&self.draft_tokens));
        if drafts > 0 {
            let accepted = of(&self.accepted_tokens) as f64;
            let _ = write!(
                text,
                "; of {drafted} guessed, {:.1} % stood, {:.2} a guess",
                100.0 * accepted / drafted as f64,
                accepted / drafts as f64
            );
        }
        text
    }

    /// Prometheus' text format.
    pub fn text(&self, waiting: usize) -> String {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let mut text = String::new();
        let mut put = |kind: &str, name: &str, help: &str, value: u64| {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            );
        };
        put(
            "gauge",
            "vllm:num_requests_running",
            "Requests in a slot.",
            of(&self.running),
        );
        put(
            "gauge",
            "vllm:num_requests_waiting",
            "Requests that wait for a slot.",
            waiting as u64,
        );
        for (name, help, counter) in [
            (
                "tokgate:requests_finished_total",
                "Requests that were answered.",
                &self.finished,
            ),
            (
                "tokgate:requests_cancelled_total",
                "Requests whose client went away.",
                &self.cancelled,
            ),
            (
                "tokgate:requests_refused_total",
                "Requests beyond the queue's limit.",
                &self.refused,
            ),
            (
                "vllm:prompt_tokens_total",
                "Tokens of prompts.",
                &self.prompt_tokens,
            ),
            (
                "vllm:prefix_cache_hits_total",
                "Tokens of prompts found computed.",
                &self.cached_tokens,
            ),
            (
                "vllm:generation_tokens_total",
                "Tokens that were generated.",
                &self.generated_tokens,
            ),
            ("tokgate:passes_total", "Passes of the model.", &self.passes),
            ("vllm:spec_decode_num_drafts_total", "Drafts.", &self.drafts),
            (
                "vllm:spec_decode_num_draft_tokens_total",
                "Tokens of drafts.",
                &self.draft_tokens,
            ),
            (
                "vllm:spec_decode_num_accepted_tokens_total",
                "Tokens of drafts accepted.",
                &self.accepted_tokens,
            ),
        ] {
            put("counter", name, help, of(counter));
        }
        let name = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
        let _ = write!(
            text,
            "# HELP {name} Drafts accepted up to here.\n# TYPE {name} counter\n"
        );
        for (at, counter) in self.accepted_at.iter().enumerate() {
            let _ = writeln!(text, "{name}{{position=\"{at}\"}} {}", of(counter));
        }
        let (drafts, drafted, accepted) = (
            of(&self.drafts),
            of(&self.draft_tokens),
            of(&self.accepted_tokens),
        );
        let ratio = |a: u64, b: u64| if b > 0 { a as f64 / b as f64 } else { 0.0 };
        for (name, help, value) in [
            (
                "tokgate:draft_acceptance_rate",
                "Tokens of drafts accepted, of all of them.",
                ratio(accepted, drafted),
            ),
            (
                "tokgate:draft_acceptance_length",
                "Tokens of a pass that checks a draft, on average.",
                1.0 + ratio(accepted, drafts),
            ),
        ] {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
            );
        }
        let name = "vllm:time_to_first_token_seconds";
        let (micros, count) = (of(&self.first_token.0), of(&self.first_token.1));
        let _ = write!(
            text,
            "# HELP {name} From request to first token.\n# TYPE {name} summary\n{name}_sum {}\n{name}_count {count}\n",
            micros as f64 / 1e6
        );
        text
    }
}
