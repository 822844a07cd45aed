//! Instruction counts, by the harness that a bench target brings along.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::process::run;
use super::{BenchTarget, Lab, LabError, Worktree};
use crate::record::adapters::callgrind;
use crate::record::{BenchId, Metric, Samples};
use crate::session::NO_TABLE;

/// A call is some fifty times slower under valgrind.
const COUNT_LIMIT: Duration = Duration::from_secs(3600);

/// The programs that such a target needs, either of the runners.
const RUNNERS: [&str; 2] = ["iai-callgrind-runner", "gungraun-runner"];

impl Lab {
    /// What is missing for counting, in words; `None` if all is there.
    pub fn counting_needs(&self) -> Option<String> {
        if !self.finds("valgrind") {
            return Some("valgrind is not installed".to_owned());
        }
        if !RUNNERS.iter().any(|runner| self.finds(runner)) {
            return Some(format!("neither {} is installed", RUNNERS.join(" nor ")));
        }
        None
    }

    /// Counts the instructions of the benches of a callgrind target once, by `cargo bench` in the worktree.
    ///
    /// # Errors
    /// [`LabError`] if that fails or its results cannot be read.
    pub fn count(
        &self,
        tree: &Worktree<'_>,
        target: &BenchTarget,
    ) -> Result<Vec<(BenchId, u64)>, LabError> {
        let results = self.folder().join("results");
        fs::create_dir_all(&results).map_err(LabError::io(&results))?;
        let home = tempfile::tempdir_in(&results).map_err(LabError::io(&results))?;
        let mut cargo = self.cargo(tree);
        cargo
            .args([
                "bench",
                "--package",
                &target.package_id(&tree.root())?,
                "--bench",
                &target.name,
            ])
            .env(NO_TABLE, "1");
        if !target.features.is_empty() {
            cargo.args(["--features", &target.features.join(",")]);
        }
        for prefix in ["IAI_CALLGRIND", "GUNGRAUN"] {
            cargo
                .env(format!("{prefix}_HOME"), home.path())
                .env(format!("{prefix}_SAVE_SUMMARY"), "json");
        }
        if let Ok(path) = env::join_paths(self.program_folders()) {
            cargo.env("PATH", path);
        }
        run(&mut cargo, COUNT_LIMIT, self.interrupt())?;
        let mut counts = Vec::new();
        for finding in callgrind::read(home.path())? {
            for (metric, samples) in finding.figures {
                if let (Metric::Instructions, Samples::Counts(found)) = (metric, samples) {
                    counts.extend(found.first().map(|count| (finding.id.clone(), *count)));
                }
            }
        }
        Ok(counts)
    }

    fn finds(&self, program: &str) -> bool {
        self.program_folders()
            .iter()
            .any(|folder| folder.join(program).is_file())
    }

    /// Where programs are looked for: first where a project may keep tools of its own.
    fn program_folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.project().target().join("tools/bin")];
        let path = env::var_os("PATH").unwrap_or_default();
        folders.extend(env::split_paths(&path));
        folders
    }
}
