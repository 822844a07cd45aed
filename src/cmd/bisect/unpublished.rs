//! What is left of publishing without a client: saying so.

use anyhow::bail;

use crate::cli::BisectArgs;
use crate::render::bisection::Bisection;

/// Nothing that could comment.
pub enum Publisher {}

impl Publisher {
    /// Says what is missing.
    pub fn of(_: &BisectArgs) -> anyhow::Result<Self> {
        bail!("this tokgate was built without --comment; `cargo install --features github` has it")
    }

    /// There is none to call it on.
    pub fn publish(self, _: &Bisection) -> anyhow::Result<String> {
        match self {}
    }
}
