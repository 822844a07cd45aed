//! One bench in one fresh process.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::process::run;
use super::{Binary, Lab, LabError};
use crate::record::adapters::criterion;
use crate::record::{BenchId, Metric, Samples, TimedSamples};
use crate::session::NO_TABLE;

/// Names are told at once; a target that takes longer is doing something else.
const LIST_LIMIT: Duration = Duration::from_secs(120);

/// How a process measures. Code that sets these for a group of its benches has its own way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// What is thrown away first.
    pub warm_up: Duration,
    /// What is kept.
    pub measure: Duration,
    /// In how many samples; criterion takes no fewer than 10.
    pub samples: usize,
    /// When the process is killed.
    pub limit: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            warm_up: Duration::from_millis(20),
            measure: Duration::from_millis(100),
            samples: 30,
            limit: Duration::from_secs(300),
        }
    }
}

impl Lab {
    /// The benches of a criterion binary, in its own order.
    ///
    /// # Errors
    /// [`LabError`] if it does not tell them.
    pub fn list(&self, binary: &Binary) -> Result<Vec<BenchId>, LabError> {
        let mut command = command(binary);
        command.args(["--bench", "--list"]);
        let answer = run(&mut command, LIST_LIMIT, self.interrupt())?;
        let name = |line: &str| {
            let line = line.trim_end();
            let name = line
                .strip_suffix(": benchmark")
                .or_else(|| line.strip_suffix(": bench"))?;
            name.parse().ok()
        };
        Ok(answer.lines().filter_map(name).collect())
    }

    /// Runs one bench of a criterion binary in a process of its own and returns its raw samples.
    ///
    /// # Errors
    /// [`LabError`] if it fails, takes too long, or leaves no result.
    pub fn measure(
        &self,
        binary: &Binary,
        bench: &BenchId,
        pace: Pace,
    ) -> Result<TimedSamples, LabError> {
        let results = self.folder().join("results");
        fs::create_dir_all(&results).map_err(LabError::io(&results))?;
        // A folder of its own: criterion compares with whatever it finds.
        let home = tempfile::tempdir_in(&results).map_err(LabError::io(&results))?;
        let seconds = |duration: Duration| format!("{:.4}", duration.as_secs_f64().max(0.001));
        let mut command = command(binary);
        command
            .env("CRITERION_HOME", home.path())
            .args(["--bench", "--noplot", "--color", "never"])
            .args(["--warm-up-time", &seconds(pace.warm_up)])
            .args(["--measurement-time", &seconds(pace.measure)])
            .args(["--sample-size", &pace.samples.max(10).to_string()])
            .args(["--nresamples", "1001"])
            .arg(exactly(bench.as_str()));
        run(&mut command, pace.limit, self.interrupt())?;
        let found = criterion::read(home.path(), criterion::LAST_RUN)?;
        let figures = found
            .into_iter()
            .find(|finding| finding.id == *bench)
            .map(|finding| finding.figures);
        figures
            .into_iter()
            .flatten()
            .find_map(|(metric, samples)| match (metric, samples) {
                (Metric::Time, Samples::Timed(timed)) => Some(timed),
                _ => None,
            })
            .ok_or_else(|| LabError::NoResult(bench.to_string()))
    }
}

fn command(binary: &Binary) -> Command {
    let mut command = Command::new(&binary.path);
    command
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        .env(NO_TABLE, "1");
    command
}

/// The regular expression that lets `name` through and nothing else.
fn exactly(name: &str) -> String {
    let mut pattern = String::from("^");
    for c in name.chars() {
        if c.is_ascii_punctuation() && c != '_' && c != '/' && c != '-' {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('$');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lets_one_name_through() {
        for name in [
            "matmul/q8_0/avx2/m1_k4096",
            "a.b(c) [d] {e}|f*+?^$\\",
            "Größe 1,5×",
        ] {
            let pattern = regex::Regex::new(&exactly(name)).unwrap();
            assert!(pattern.is_match(name), "{name}");
            assert!(
                !pattern.is_match(&format!("{name}0")) && !pattern.is_match(&format!("x{name}"))
            );
        }
    }
}
