//! Arguments of `tokgate bisect` and `tokgate bisect-step`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::ReportFormat;

/// Arguments of `tokgate bisect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate bisect --good v1.2 --bad HEAD --bench matmul/q8_0/avx2/m1_k4096_n11008
  tokgate bisect --good v1.2 --bad HEAD --bench parse --metric ir -o md > report.md
  tokgate bisect --good v1.2 --bad HEAD --bench parse --resume     after an interruption
  tokgate bisect --good v1.2 --bad HEAD --bench parse --comment --repo me/project

Commits are built in worktrees outside the repository; your own tree is not touched. Every measurement runs
the commit and the good end in turn, and only shifts probabilities: see .github/BISECT.md for the method.
Instruction counts are asked first where valgrind and a callgrind bench of the same name are there.

Exit code: 0 the ends do not differ, 1 the commit was found, 2 trouble or no answer within the budget.")]
pub struct BisectArgs {
    /// A commit that is fast.
    #[arg(long, value_name = "REF")]
    pub good: String,
    /// A later commit that is slow.
    #[arg(long, value_name = "REF")]
    pub bad: String,
    /// The bench, by its full name.
    #[arg(long, value_name = "ID")]
    pub bench: String,
    /// What is measured; if left out, instruction counts where they tell the ends apart, and time otherwise.
    #[arg(long, value_enum)]
    pub metric: Option<BisectMetric>,
    /// The probability at which a commit is named.
    #[arg(long, default_value_t = 0.95, value_parser = probability)]
    pub confidence: f64,
    /// Stop after this time, with what is known by then; --resume goes on.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub budget: Option<Duration>,
    /// Go on where an interrupted search of the same ends and bench stopped.
    #[arg(long)]
    pub resume: bool,
    /// The bench target that has the bench; all are built and asked if left out.
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// How long one process measures [default: 200ms; 3s of two processes that take turns].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Stay on the first parents, also where a merge is the culprit.
    #[arg(long)]
    pub first_parent: bool,
    /// Tell the pull request that brought the commit, with the token in GITHUB_TOKEN (feature github).
    #[arg(long)]
    pub comment: bool,
    /// The repository of that pull request; GITHUB_REPOSITORY if left out.
    #[arg(long, value_name = "OWNER/NAME", requires = "comment")]
    pub repo: Option<String>,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
}

/// What `tokgate bisect` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BisectMetric {
    /// Time, with criterion.
    Wall,
    /// Instructions, with iai-callgrind or gungraun.
    Ir,
    /// Time of a pass of a program that takes turns with another, such as `tokgate bench --lockstep`.
    #[value(name = "tok/s")]
    Rate,
}

impl BisectMetric {
    /// As the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Ir => "ir",
            Self::Rate => "tok/s",
        }
    }
}

/// Arguments of `tokgate bisect-step`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  git bisect start HEAD v1.2
  git bisect run tokgate bisect-step --bench parse --good-baseline v1.2 --threshold 2.5

Measures what is checked out and the good commit in turn, in links of different layouts, until the answer is clear.
The threshold is best half of the slow-down that is looked for.

Exit code: 0 good, 1 bad, 125 (`git bisect` skips the commit) if it does not build, does not run, or no answer is
clear within the budget. Where the repository or the good commit is the trouble, 128 stops git bisect.")]
pub struct BisectStepArgs {
    /// The bench, by its full name.
    #[arg(long, value_name = "ID")]
    pub bench: String,
    /// A commit that is fast.
    #[arg(long, value_name = "REF")]
    pub good_baseline: String,
    /// How much slower is bad, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = percent)]
    pub threshold: f64,
    /// The risk of a wrong answer, at most.
    #[arg(long, default_value_t = 0.01, value_parser = probability)]
    pub risk: f64,
    /// The most time to measure.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub budget: Duration,
    /// The bench target that has the bench; all are built and asked if left out.
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// How long one process measures.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    pub time: Duration,
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if 0.0 < p && p < 1.0 => Ok(p),
        _ => Err("must be between 0 and 1".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if 0.0 < p && p < 1000.0 => Ok(p),
        _ => Err("must be a positive number of percent".to_owned()),
    }
}

/// `200ms`, `90s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("must be a number with ms, s, m or h".to_owned()),
    };
    match text[..digits].trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit <= 1e7 => {
            Ok(Duration::from_secs_f64(number * unit))
        }
        _ => Err("must be a positive number with ms, s, m or h".to_owned()),
    }
}
