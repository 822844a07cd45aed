//! What is left of publishing without a client: saying so.

use anyhow::bail;

use super::Report;
use crate::cli::CommentArgs;

/// Says what is missing.
pub fn publish(_: &CommentArgs, _: &Report) -> anyhow::Result<()> {
    bail!("this tokgate was built without it; `cargo install --features github` has it")
}
