//! Asking servers: a small blocking client for OpenAI-compatible ones, and the measurements made with it.
//!
//! What a server sends is not trusted: every wait, line and answer has a limit.

mod client;
pub mod doubts;
pub mod figures;
pub mod generator;
mod http;
pub mod prompts;
pub mod spec_decode;
mod stream;

pub use client::{Api, Client, Failure, Model, Question};
pub use stream::{Answer, Piece, Timings};
