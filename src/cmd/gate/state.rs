//! What an interrupted run leaves for the next one.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::prepare::Sides;
use crate::cli::MeasuringArgs;
use crate::lab::Lab;
use crate::record::trial::Trial;
use crate::record::{read_text, write_whole};

/// The largest state that is read.
const MAX_STATE_BYTES: u64 = 256 << 20;

/// Where a run's state is kept.
pub(crate) struct State {
    path: PathBuf,
}

/// A run that was interrupted.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Seconds of its budget that are spent.
    pub elapsed_s: f64,
    /// What it measured, as a trial's text.
    pub trial: String,
}

/// A run that goes on.
pub(crate) struct Earlier {
    pub elapsed_s: f64,
    pub trial: Trial,
}

impl State {
    /// The state of runs that measure the same in the same way.
    pub fn of(lab: &Lab, sides: &Sides, measuring: &MeasuringArgs) -> Self {
        let mut hasher = DefaultHasher::new();
        (&sides.base.id, &sides.head.id, sides.even_if_same).hash(&mut hasher);
        (
            &measuring.bench,
            &measuring.target,
            measuring.budget,
            measuring.links,
            measuring.seed,
        )
            .hash(&mut hasher);
        lab.toolchain().hash(&mut hasher);
        let name = format!("interrupted-{:016x}.json", hasher.finish());
        Self {
            path: lab.folder().join(name),
        }
    }

    /// The run that was interrupted, if one was; one that cannot be read is as good as none.
    pub fn load(&self) -> Option<Earlier> {
        let text = read_text(&self.path, MAX_STATE_BYTES).ok()?;
        let saved: Saved = serde_json::from_str(&text).ok()?;
        Some(Earlier {
            elapsed_s: saved.elapsed_s,
            trial: Trial::from_text(&saved.trial, "the interrupted run").ok()?,
        })
    }

    /// Keeps a run as far as it is; to go on is a comfort, so that trouble is no reason to stop.
    pub fn save(&self, elapsed_s: f64, trial: &Trial) {
        let saved = Saved {
            elapsed_s,
            trial: trial.to_text(),
        };
        if let Ok(text) = serde_json::to_string(&saved) {
            let _ = write_whole(&self.path, &text);
        }
    }

    /// Forgets a run that has ended.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }
}
