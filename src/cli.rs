//! The command line: clap types only, no behaviour.

use clap::{Parser, Subcommand};

/// Kernels that run large language models on CPUs, and the suite that catches the commit which made them slower.
#[derive(Debug, Parser)]
#[command(name = "tokgate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One subcommand; its arguments are defined here, its behaviour in the file of the same name under `cmd/`.
#[derive(Debug, Subcommand)]
pub enum Command {}
