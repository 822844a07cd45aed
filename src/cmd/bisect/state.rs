//! What a search has seen, on disk: enough to go on after an interruption, and to draw the answer again.

use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::record::{read_text, write_whole};

const SCHEMA: u32 = 1;
const MAX_BYTES: u64 = 64 << 20;

/// A search with everything that was measured, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    schema: u32,
    /// What the search is of; another state is another search.
    pub of: Subject,
    /// One search after the other: the first parents, then the branch that the culprit merged.
    pub stages: Vec<Stage>,
    /// What things cost so far.
    pub spent: Spent,
}

/// What is searched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The good end, in full.
    pub good: String,
    /// The bad end, in full.
    pub bad: String,
    /// The bench.
    pub bench: String,
    /// `wall` or `ir`.
    pub metric: String,
    /// The compiler, since other compilers give other figures.
    pub compiler: String,
}

/// The search in one row of commits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The good end, in full.
    pub good: String,
    /// The commits after it, the oldest first.
    pub commits: Vec<String>,
    /// What was seen, in its order.
    pub events: Vec<Event>,
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A link was measured: logarithms of the cost against the reference's.
    Measured {
        /// The position of the commit; 0 is the good end.
        commit: usize,
        /// Which of its links.
        link: u32,
        /// One figure a run.
        figures: Vec<f64>,
    },
    /// A commit does not build, or its bench does not run.
    Unbuildable {
        /// The position of the commit.
        commit: usize,
        /// What was said.
        why: String,
    },
}

/// Seconds and how often, of each kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// First links of a commit.
    pub builds: (u32, f64),
    /// Further links.
    pub links: (u32, f64),
    /// Measurements, the reference's part included.
    pub runs: (u32, f64),
}

impl State {
    /// A search that has seen nothing.
    pub fn new(of: Subject, good: String, commits: Vec<String>) -> Self {
        let stage = Stage {
            good,
            commits,
            events: Vec::new(),
        };
        Self {
            schema: SCHEMA,
            of,
            stages: vec![stage],
            spent: Spent::default(),
        }
    }

    /// Reads a state, `None` if there is none.
    pub fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(path, MAX_BYTES)?;
        let remedy = || {
            format!(
                "{}: cannot be resumed; search again without --resume",
                path.display()
            )
        };
        let state: Self = serde_json::from_str(&text).with_context(remedy)?;
        let sound = |stage: &Stage| {
            !stage.commits.is_empty()
                && stage.events.iter().all(|event| match event {
                    Event::Measured {
                        commit, figures, ..
                    } => *commit <= stage.commits.len() && figures.iter().all(|f| f.is_finite()),
                    Event::Unbuildable { commit, .. } => *commit <= stage.commits.len(),
                })
        };
        if state.schema != SCHEMA || state.stages.is_empty() || !state.stages.iter().all(sound) {
            bail!("{}", remedy());
        }
        Ok(Some(state))
    }

    /// Replaces the state on disk.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(self).context("the state of the search")?;
        Ok(write_whole(path, &text)?)
    }
}
