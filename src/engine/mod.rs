//! A model on the kernels: its files, its sizes and its weights.

pub mod config;
pub mod draft;
pub mod forward;
pub mod gguf;
pub mod inspect;
pub mod kv_cache;
pub mod mapping;
pub mod model_file;
pub mod safetensors;
pub mod sampler;
pub mod synth;
pub mod tokenizer;
pub mod weights;
