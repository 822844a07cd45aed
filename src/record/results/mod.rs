//! Result files of any kind as lists of named figures, so that any two of one kind can be put side by side.
//!
//! One file a format: the project's own JSON, vLLM's JSON and printed table, llama-bench's JSON and Markdown.

mod llama_bench;
mod own;
mod vllm;

use serde::Serialize;
use serde_json::Value;

/// The longest file that is read: results with every token's time have some megabytes.
pub const MAX_RESULT_BYTES: u64 = 64 << 20;

/// Most figures of a file.
const MAX_FIGURES: usize = 10_000;

/// What one file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// What made it: `prompts`, `vLLM bench serve`, `llama-bench`, or the project's own word.
    pub kind: String,
    /// Its figures, in its order; no two of one name.
    pub figures: Vec<ResultFigure>,
}

/// A named figure.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultFigure {
    /// Its name, with its unit if the format has it there.
    pub name: String,
    /// The figure, unrounded where the file has it so.
    pub value: f64,
    /// The standard deviation of what it was computed from, if the file has it or the samples.
    pub deviation: Option<f64>,
    /// Which way it gets better; a description has none.
    pub better: Option<Better>,
}

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, sizes.
    Lower,
    /// Rates.
    Higher,
}

/// Why a file's figures cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultsError {
    /// A version that is not read.
    #[error(
        "it is of version {found} of '{kind}' results, and this program reads version {}: measure again, or use the \
         program that wrote it",
        own::SCHEMA
    )]
    Version {
        /// What made it.
        kind: String,
        /// The version it says.
        found: String,
    },
    /// A known format without a figure in it.
    #[error("these are {0} results without a single figure")]
    Nothing(String),
    /// More than anybody could look at.
    #[error("it has more than {MAX_FIGURES} figures")]
    TooMany,
}

impl Results {
    /// Reads a file of any known format; `None` where it is of none.
    pub fn read(text: &str) -> Option<Result<Self, ResultsError>> {
        let read = match serde_json::from_str::<Value>(text) {
            Ok(value) => vllm::json(&value)
                .or_else(|| llama_bench::json(&value))
                .map(Ok)
                .or_else(|| own::json(&value))?,
            Err(_) => llama_bench::json_lines(text)
                .or_else(|| vllm::table(text))
                .or_else(|| llama_bench::markdown(text))
                .map(Ok)?,
        };
        Some(read.and_then(Self::checked))
    }

    fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            figures: Vec::new(),
        }
    }

    /// Adds a figure, unless it is not a number or one of that name is there.
    fn push(&mut self, figure: ResultFigure) {
        let is_new = |of: &Self| of.figures.iter().all(|seen| seen.name != figure.name);
        if figure.value.is_finite() && self.figures.len() <= MAX_FIGURES && is_new(self) {
            self.figures.push(figure);
        }
    }

    fn checked(self) -> Result<Self, ResultsError> {
        match self.figures.len() {
            0 => Err(ResultsError::Nothing(self.kind)),
            1..=MAX_FIGURES => Ok(self),
            _ => Err(ResultsError::TooMany),
        }
    }
}

impl ResultFigure {
    fn new(name: impl Into<String>, value: f64, better: Option<Better>) -> Self {
        Self {
            name: name.into(),
            value,
            deviation: None,
            better,
        }
    }

    /// With the deviation of these samples, if there are two of them at least.
    fn with_samples(mut self, samples: &[f64]) -> Self {
        self.deviation = deviation(samples);
        self
    }
}

/// The standard deviation of a sample (n − 1); `None` for fewer than two figures.
fn deviation(samples: &[f64]) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    Some((squares / (samples.len() - 1) as f64).sqrt())
}

/// The numbers in an array; nothing of what is none.
fn numbers(value: Option<&Value>) -> Vec<f64> {
    let array = value.and_then(Value::as_array);
    array.map_or_else(Vec::new, |array| {
        array.iter().filter_map(Value::as_f64).collect()
    })
}

#[cfg(test)]
mod tests;
