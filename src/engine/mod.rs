//! A model on the kernels: its files, its sizes and its weights.

pub mod gguf;
pub mod mapping;
