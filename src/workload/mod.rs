//! What is asked of a model: prompts and tasks, the same for a model in this process and for a server elsewhere.

pub mod arrivals;
mod mersenne;
pub mod numpy;
pub mod prompts;
pub mod python;
pub mod requests;
pub mod sharegpt;
pub mod sort;
