//! Model files: what is read from good ones, and that damaged ones end in an error which names the place.

mod allocations;
mod commands;
mod config;
mod gguf;
mod raw;
mod safetensors;
mod split;
mod weights;
