//! Named figures with their unit and formula: the part that all result files of model runs have in common, so that
//! any two of them can be put side by side.

use serde::{Deserialize, Serialize};

/// Version of the result files that hold figures; it changes when a field goes or changes its meaning.
pub const FIGURES_SCHEMA: u32 = 1;

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, sizes.
    Lower,
    /// Rates.
    Higher,
}

/// A named figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name, the same in all files.
    pub key: String,
    /// The figure: the median where there are samples.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Which way it gets better; a description has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// The figure of each repetition, in the order in which they were run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<f64>,
    /// How it is computed.
    pub formula: String,
}
