//! Arguments of `tokgate history`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `tokgate history`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate history --out history            writes history/index.html; open it from disk, or publish it
  tokgate history --out history --limit 500
  tokgate history --out history --since v0.1.0

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
    /// Only benches whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
}
