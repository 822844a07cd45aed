//! What one generation is described by: each figure with its unit and its formula, in one table that computes,
//! explains and prints; and what makes figures doubtful.
//!
//! Pure: [`Observed`] is data, whoever observed it.

pub mod experts;
mod flags;
pub mod sweep;
mod table;

use serde::Serialize;

use crate::generation::single::Timeline;
use crate::probe::process::{Memory, Usage};
use crate::record::Figure;

pub use flags::{Flag, flags};
pub use table::{Definition, TABLE, help};

/// What was seen of one generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// When tokens came, and what was computed.
    pub timeline: Timeline,
    /// Seconds that loading the model took.
    pub load_s: f64,
    /// What the process used from the prompt's first pass to the last token.
    pub usage: Usage,
    /// Memory after the last token.
    pub memory: Memory,
    /// Bytes of the model's weights by component.
    pub components: Vec<(&'static str, u64)>,
    /// Threads that computed.
    pub threads: usize,
    /// CPUs that the process may run on.
    pub cpus: usize,
    /// Mean frequency right after the last token.
    pub mhz: Option<f64>,
    /// The frequency governor, where there is one.
    pub governor: Option<String>,
    /// Bandwidth that the memory reaches with as many threads, in 10⁹ bytes a second.
    pub bandwidth_gb_s: Option<f64>,
}

/// Selections of experts that passes must have made: what the counts are checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selections {
    /// In the prompt's passes.
    pub prefill: u64,
    /// In the passes of single tokens.
    pub decode: u64,
}

/// Memory of one part, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it holds.
    pub component: String,
    /// Bytes.
    pub bytes: u64,
}

impl Observed {
    /// All figures that could be observed, in the table's order.
    pub fn figures(&self) -> Vec<Figure> {
        let finite = |value: &f64| value.is_finite();
        TABLE
            .iter()
            .filter_map(|row| Some(row.figure((row.value)(self).filter(finite)?)))
            .collect()
    }

    /// Bytes of the weights by component, of the keys and values, and of everything else that is resident. Weights are
    /// mapped: what was not used yet may not be resident, and the rest is then not known.
    pub fn parts(&self) -> Vec<Part> {
        let part = |component: &str, bytes| Part {
            component: component.to_owned(),
            bytes,
        };
        let weights = self.components.iter().filter(|(_, bytes)| *bytes > 0);
        let mut parts: Vec<Part> = weights.map(|(name, bytes)| part(name, *bytes)).collect();
        parts.push(part("keys and values", self.kv_bytes()));
        let known: u64 = parts.iter().map(|part| part.bytes).sum();
        if let Some(rest) = self.memory.rss.and_then(|rss| rss.checked_sub(known)) {
            parts.push(part("all else resident", rest));
        }
        parts
    }

    /// Bytes of the keys and values that were written.
    fn kv_bytes(&self) -> u64 {
        let timeline = &self.timeline;
        // The last sampled token is not computed.
        let positions = timeline.prompt_tokens + timeline.sampled.len().saturating_sub(1);
        (positions.min(timeline.kv_positions) * timeline.kv_bytes_per_position) as u64
    }

    fn weights(&self) -> u64 {
        self.components.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests;
