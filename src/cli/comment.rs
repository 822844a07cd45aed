//! Arguments of `tokgate comment`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `tokgate comment`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate comment --record gate.json --dry-run           print the comment, reach for nothing
  tokgate comment --record gate.json --pr 17             comment and check run, token in GITHUB_TOKEN
  tokgate compare -o json > report.json; tokgate comment --comparison report.json --pr 17

In a workflow, the pull request is that of the event (GITHUB_EVENT_PATH: pull_request or workflow_run), the
repository GITHUB_REPOSITORY, the server GITHUB_API_URL, and the report is also appended to
GITHUB_STEP_SUMMARY. Nothing is written unless the record is of the pull request's current head.

The exit code is that of the verdict: 0 nothing got worse, 1 a regression, 2 it cannot be told. What GitHub
refuses, or a token may not do, is said on stderr and changes nothing of it.")]
pub struct CommentArgs {
    /// What `tokgate gate` measured.
    #[arg(long, value_name = "FILE", required_unless_present = "comparison")]
    pub record: Option<PathBuf>,
    /// What `tokgate compare -o json` printed.
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    pub comparison: Option<PathBuf>,
    /// The number of the pull request.
    #[arg(long, value_name = "N")]
    pub pr: Option<u64>,
    /// The event that leads to the pull request, as the runner wrote it; GITHUB_EVENT_PATH if left out.
    #[arg(long, value_name = "FILE", conflicts_with = "pr")]
    pub event: Option<PathBuf>,
    /// The repository of the pull request; GITHUB_REPOSITORY if left out.
    #[arg(long, value_name = "OWNER/NAME")]
    pub repo: Option<String>,
    /// The API's base URL, also of a GitHub Enterprise server; GITHUB_API_URL if left out.
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Who the token writes as; GitHub is asked if left out.
    #[arg(long, value_name = "LOGIN")]
    pub author: Option<String>,
    /// The name of the comment and of the check run, where a pull request has several gates.
    #[arg(long, value_name = "NAME", default_value = "gate")]
    pub name: String,
    /// Make no check run.
    #[arg(long)]
    pub no_check: bool,
    /// The file to append the report to; GITHUB_STEP_SUMMARY if left out.
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// The policy that a record is judged by; baselines/gate.toml, or the usual one where there is none.
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    /// Print the comment, and write nothing anywhere.
    #[arg(long)]
    pub dry_run: bool,
}
