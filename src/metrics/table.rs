//! The figures: name, unit, direction, formula, and the code of the formula beside it.

use std::fmt::Write;

use super::Observed;
use crate::judge::stats::quantile;
use crate::record::{Better, Figure};

/// A figure's name, meaning and computation.
pub struct Definition {
    /// Its name in files.
    pub key: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way it gets better; `None` for a description.
    pub better: Option<Better>,
    /// How it is computed, from other keys where it can be.
    pub formula: &'static str,
    /// The computation; `None` where the system does not tell, or nothing of the kind happened.
    pub value: fn(&Observed) -> Option<f64>,
}

impl Definition {
    /// The figure with its value.
    pub fn figure(&self, value: f64) -> Figure {
        Figure {
            key: self.key.to_owned(),
            value,
            unit: self.unit.to_owned(),
            better: self.better,
            samples: Vec::new(),
            formula: self.formula.to_owned(),
        }
    }
}

const LOWER: Option<Better> = Some(Better::Lower);
const HIGHER: Option<Better> = Some(Better::Higher);

macro_rules! table {
    ($($key:literal $unit:literal $better:expr, $formula:literal, $value:expr;)*) => {
        /// All figures, in the order of reports.
        pub const TABLE: &[Definition] = &[$(Definition {
            key: $key,
            unit: $unit,
            better: $better,
            formula: $formula,
            value: $value,
        }),*];
    };
}

table! {
    "prompt_tokens" "tok" None, "tokens of the prompt",
        |o| Some(o.timeline.prompt_tokens as f64);
    "generated_tokens" "tok" None, "sampled and kept; the end token is not",
        |o| Some(o.timeline.generated as f64);
    "total_tokens" "tok" None, "prompt_tokens + generated_tokens",
        |o| Some(tokens(o));

    "load" "s" LOWER, "opening the model, starting the threads",
        |o| Some(o.load_s);
    "first_token" "s" LOWER, "from the first pass to the first sample",
        |o| Some(o.timeline.first_token()?.as_secs_f64());
    "prefill" "s" LOWER, "the passes over the prompt",
        |o| Some(prefill(o));
    "decode" "s" LOWER, "from the first sampled token to the last",
        |o| positive(decode(o));
    "total" "s" LOWER, "from the first pass to the last token",
        |o| Some(o.timeline.total.as_secs_f64());

    "overall_rate" "tok/s" HIGHER, "total_tokens / total",
        |o| per(tokens(o), o.timeline.total.as_secs_f64());
    "prefill_rate" "tok/s" HIGHER, "prompt_tokens / prefill",
        |o| per(o.timeline.prompt_tokens as f64, prefill(o));
    "decode_rate" "tok/s" HIGHER, "(n − 1) / decode, n tokens sampled",
        |o| per(o.timeline.sampled.len().saturating_sub(1) as f64, decode(o));

    "gap_mean" "ms" LOWER, "decode / (n − 1)",
        |o| per(decode(o) * 1e3, o.timeline.sampled.len().saturating_sub(1) as f64);
    "gap_p50" "ms" LOWER, "median of the n − 1 gaps between samples",
        |o| gap(o, 0.5);
    "gap_p90" "ms" LOWER, "their 90 % quantile, interpolated",
        |o| gap(o, 0.9);
    "gap_p99" "ms" LOWER, "their 99 % quantile, interpolated",
        |o| gap(o, 0.99);
    "gap_max" "ms" LOWER, "the longest of them",
        |o| gap(o, 1.0);

    "prefill_gmac_rate" "GMAC/s" HIGHER, "Σ m·k·n of matmuls, attention / prefill",
        |o| per(o.timeline.prefill_work.macs as f64 / 1e9, prefill(o));
    "decode_gmac_rate" "GMAC/s" HIGHER, "the same of single tokens / decode",
        |o| per(o.timeline.decode_work.macs as f64 / 1e9, decode(o));
    "decode_bandwidth" "GB/s" HIGHER, "bytes of weights, keys, values / decode",
        achieved;
    "memory_bandwidth" "GB/s" None, "reading as many bytes, right afterwards",
        |o| o.bandwidth_gb_s;
    "bandwidth_share" "%" HIGHER, "100 · decode_bandwidth / memory_bandwidth",
        |o| per(100.0 * achieved(o)?, o.bandwidth_gb_s?);

    "rss" "MiB" LOWER, "VmRSS after the last token",
        |o| Some(mebi(o.memory.rss?));
    "peak_rss" "MiB" LOWER, "VmHWM: the most since the process began",
        |o| Some(mebi(o.memory.hwm?));
    "weights" "MiB" LOWER, "bytes of all weights, mapped or copied",
        |o| Some(mebi(o.weights()));
    "kv_used" "MiB" LOWER, "positions written · bytes of one",
        |o| Some(mebi(o.kv_bytes()));
    "system_memory_used" "%" None, "100 · (1 − MemAvailable / MemTotal)",
        |o| per(100.0 * (o.memory.total?.saturating_sub(o.memory.available?)) as f64, o.memory.total? as f64);

    "cores_used" "cores" None, "Δ(utime + stime) / total; ticks of 10 ms",
        |o| per(o.usage.cpu_s()?, o.usage.wall_s);
    "threads" "" None, "threads that compute",
        |o| Some(o.threads as f64);
    "cpus" "" None, "CPUs that the process may run on",
        |o| Some(o.cpus as f64);
    "frequency" "MHz" None, "mean of all CPUs after the last token",
        |o| o.mhz;
    "steal" "%" None, "CPU time given to other machines / all",
        |o| o.usage.steal_pct;

    "disk_read" "MiB" None, "Δ read_bytes; pages of mapped files count",
        |o| Some(mebi(o.usage.read_bytes?));
    "disk_write" "MiB" None, "Δ write_bytes",
        |o| Some(mebi(o.usage.write_bytes?));
    "read_calls" "" None, "Δ syscr: calls, also those without a disk",
        |o| Some(o.usage.reads? as f64);
    "write_calls" "" None, "Δ syscw: calls, also those without a disk",
        |o| Some(o.usage.writes? as f64);
    "major_faults" "" None, "Δ majflt: faults that waited for a disk",
        |o| Some(o.usage.major_faults? as f64);

    "energy" "J" LOWER, "Δ of RAPL's packages, whoever used them",
        |o| o.usage.joules;
    "energy_rate" "tok/J" HIGHER, "total_tokens / energy",
        |o| per(tokens(o), o.usage.joules?);
}

/// The table as text, for `--help`.
pub fn help() -> String {
    let mut text = String::from("Figures of --metrics (n tokens were sampled):\n");
    for row in TABLE {
        let _ = writeln!(text, "  {:18} {:6}  {}", row.key, row.unit, row.formula);
    }
    text
}

fn tokens(o: &Observed) -> f64 {
    (o.timeline.prompt_tokens + o.timeline.generated) as f64
}

fn prefill(o: &Observed) -> f64 {
    o.timeline.prefill.as_secs_f64()
}

fn decode(o: &Observed) -> f64 {
    o.timeline.decode().as_secs_f64()
}

/// Between the first sample and the last lie exactly the passes of single tokens.
fn achieved(o: &Observed) -> Option<f64> {
    per(o.timeline.decode_work.bytes as f64 / 1e9, decode(o))
}

fn gap(o: &Observed, p: f64) -> Option<f64> {
    let mut gaps: Vec<f64> = o
        .timeline
        .gaps()
        .iter()
        .map(|gap| gap.as_secs_f64() * 1e3)
        .collect();
    gaps.sort_by(f64::total_cmp);
    (!gaps.is_empty()).then(|| quantile(&gaps, p))
}

fn mebi(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn positive(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

fn per(amount: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| amount / of)
}
