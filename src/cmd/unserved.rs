//! `tokgate serve` in a build without the feature.

use anyhow::bail;

use super::Outcome;
use crate::cli::ServeArgs;

/// Says how to get a build that serves.
///
/// # Errors
/// Always.
pub fn run(_args: &ServeArgs) -> anyhow::Result<Outcome> {
    bail!("this build cannot serve; build one that can: cargo build --release --features serve")
}
