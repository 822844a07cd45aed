//! `tokgate export`: measurements for other tools.

use super::Outcome;
use super::compare::new_side;
use crate::cli::{CompareArgs, ExportArgs, ExportFormat, ReportFormat};
use crate::render::export;

/// Reads and prints.
pub fn run(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let (records, gate) = new_side(&CompareArgs {
        old: None,
        new: args.source.clone(),
        third: None,
        side_by_side: false,
        output: ReportFormat::Json,
        gate: args.gate.clone(),
        filter: args.filter.clone(),
        target_dir: args.target_dir.clone(),
        all: args.all,
    })?;
    super::print(&match args.output {
        ExportFormat::Bmf => export::bmf(&records, &gate),
        ExportFormat::GithubActionBenchmark => export::github_action_benchmark(&records, &gate),
        ExportFormat::Csv => export::csv(&records, &gate),
    })?;
    Ok(Outcome::Clean)
}
