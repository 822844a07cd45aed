//! Arguments of `tokgate gate` and `tokgate calibrate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::positive;

/// Arguments of `tokgate gate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate gate --base main                   what is checked out, changes and all, against the merge base
  tokgate gate --base HEAD~1 --bench q8_0 --budget 1m
  tokgate gate --base v1.2 --head feature -o md > report.md
  tokgate gate --from gate.json              draws a report again; measures nothing

Builds both commits in worktrees of its own and measures their criterion benches in turn, a fresh process each
time; instruction counts where the project has iai-callgrind or gungraun benches and valgrind is there. Works in
any cargo repository. What is checked out is never touched. Started again after an interruption, it goes on.

Exit code: 0 nothing got worse, 1 a regression beyond baselines/gate.toml, 2 trouble, which includes a bench that
failed or vanished.")]
pub struct GateArgs {
    /// The revision to compare with; measured is its merge base with the head.
    #[arg(
        long,
        value_name = "REV",
        required_unless_present = "from",
        conflicts_with = "from"
    )]
    pub base: Option<String>,
    /// The revision to judge [default: the working tree as it is].
    #[arg(long, value_name = "REV", conflicts_with = "from")]
    pub head: Option<String>,
    /// Draw the report of an earlier run again.
    #[arg(long, value_name = "RECORD")]
    pub from: Option<PathBuf>,
    /// What is measured, and how.
    #[command(flatten)]
    pub measuring: MeasuringArgs,
    /// How to print the report.
    #[arg(short, long, value_enum, default_value_t = GateFormat::Text)]
    pub output: GateFormat,
    /// Keep everything that was measured in this file [default: gate.json below the target folder].
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub record: Option<PathBuf>,
    /// The policy [default: baselines/gate.toml of the head].
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    /// Begin anew where an earlier run was interrupted.
    #[arg(long)]
    pub fresh: bool,
    /// Leave out what gate.toml has checked beside the clock.
    #[arg(long)]
    pub no_checks: bool,
    /// Measure also what is the same machine code on both sides.
    #[arg(long)]
    pub even_if_same: bool,
}

/// Arguments of `tokgate calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tokgate calibrate --rounds 20 --budget 3m

Gates a commit against itself, round after round, and writes baselines/<machine key>/calibration.json: how often the
gate cried wolf on this machine, which statistic serves each bench best, how far identical code comes out apart and
what the smallest slow-down is that would have been found. `tokgate gate` judges by it and quotes it.")]
pub struct CalibrateArgs {
    /// Gate runs of the commit against itself.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub rounds: usize,
    /// The revision to measure [default: the working tree as it is].
    #[arg(long, value_name = "REV")]
    pub head: Option<String>,
    /// What is measured, and how.
    #[command(flatten)]
    pub measuring: MeasuringArgs,
    /// Keep the record of each round in this folder.
    #[arg(long, value_name = "DIR")]
    pub records: Option<PathBuf>,
}

/// What is measured, and how.
#[derive(Clone, Debug, Args)]
pub struct MeasuringArgs {
    /// Only benches whose id contains this text; several with commas.
    #[arg(long, value_name = "FILTER", value_delimiter = ',')]
    pub bench: Vec<String>,
    /// Only these targets: bench targets, and programs that take turns; several with commas. The others are not built.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub target: Vec<String>,
    /// Time for measuring, building not counted: 90s, 10m, 1h.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub budget: Duration,
    /// Draw orders and layouts from this, to repeat a run [default: from the clock; always printed].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Layouts of each side's code [default: 3, and up to 24 while linking takes less than a quarter of the budget].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub links: Option<usize>,
}

/// How a gate's report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GateFormat {
    /// A table for the terminal.
    Text,
    /// The project's own JSON: the report without the samples, which are in the record.
    Json,
    /// What a pull request is told, as Markdown for GitHub.
    Md,
    /// JUnit XML for other continuous-integration servers: a regression is a failure, what broke an error.
    Junit,
}

impl MeasuringArgs {
    /// Whether a target is asked for.
    pub fn takes(&self, target: &str) -> bool {
        self.target.is_empty() || self.target.iter().any(|name| name == target)
    }

    /// Whether a bench is asked for.
    pub fn selects(&self, id: &str) -> bool {
        self.bench.is_empty() || self.bench.iter().any(|part| id.contains(part))
    }
}

/// `90s`, `10m`, `1h`, `1.5m`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("must be a time such as 90s, 10m or 1h".to_owned()),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "must be a time such as 90s, 10m or 1h".to_owned())?;
    let seconds = number * unit;
    if (1.0..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be between 1 second and a day".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [
            ("90s", 90.0),
            ("10m", 600.0),
            ("1.5m", 90.0),
            ("1h", 3600.0),
            ("7", 7.0),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
        for text in ["", "m", "0", "-1s", "1d", "2000h", "nan"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
