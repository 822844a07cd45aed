//! render
pub mod llama_bench;
