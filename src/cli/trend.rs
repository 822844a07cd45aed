//! Arguments of `tokgate history` and `tokgate export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `tokgate history`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate history --out history            writes history/index.html; open it from disk, or publish it
  tokgate history --out history --limit 500
  tokgate history --out history --since v0.1.0
  tokgate history --out history --trial gate-records/

Reads the baselines in git, commit by commit along the first parents of HEAD, and writes one HTML file that
loads nothing. A figure stands at the commit that was measured, if that is one of them, and else at the
commit that kept it. Benches that a commit did not measure are gaps.")]
pub struct HistoryArgs {
    /// The folder to write index.html into; made if need be.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// At most this many commits, the newest.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = super::positive)]
    pub limit: usize,
    /// Only commits after this one.
    #[arg(long, value_name = "REV")]
    pub since: Option<String>,
    /// The newest commit.
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    pub head: String,
    /// The name of the baselines, as `tokgate record --as` gave it.
    #[arg(long = "as", value_name = "NAME", default_value = "baseline")]
    pub name: String,
    /// Also records of `tokgate gate`, of commits of this branch: files, or folders of them.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub trial: Vec<PathBuf>,
    /// Only benches whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
}

/// Arguments of `tokgate export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate export -o bmf > results.json           Bencher Metric Format: `bencher run --file results.json`
  tokgate export -o github-action-benchmark      customSmallerIsBetter
  tokgate export main: -o csv                    the baselines in the commit 'main'
  tokgate export results.json -o csv             a file of hyperfine, google-benchmark or llama-bench

SOURCE is what `tokgate compare` takes: REV:, REV:KEY, a baseline's file or folder, a target folder or
harness's tree or file, or the name of a baseline. Without it the last run is exported.
A value is the compared statistic; its bounds are the quartiles of the samples.")]
pub struct ExportArgs {
    /// What to export; the last run if left out.
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// The format.
    #[arg(short, long, value_enum)]
    pub output: ExportFormat,
    /// Only benches whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// The thresholds, which say the statistic of each bench; baselines/gate.toml, or the usual ones.
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    /// The target folder, where it is not the one that cargo uses.
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// Export results of earlier runs as part of the last one.
    #[arg(long)]
    pub all: bool,
}

/// A format that other tools read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Bencher Metric Format.
    Bmf,
    /// The list that github-action-benchmark calls customSmallerIsBetter.
    GithubActionBenchmark,
    /// One line a bench and metric.
    Csv,
}
