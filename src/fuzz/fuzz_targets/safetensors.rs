//! Any bytes, read as a safetensors file and as a `config.json`. An error is fine; a panic, a read out of bounds, a hang, or
//! memory beyond what the file's size explains is not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokgate::engine::config::ModelConfig;
use tokgate::engine::safetensors::Safetensors;

fuzz_target!(|file: &[u8]| {
    let _ = ModelConfig::from_huggingface(file);
    let Ok(read) = Safetensors::parse(file) else { return };
    for tensor in read.tensors() {
        assert!(read.mapping().get(tensor.data.clone()).is_some());
    }
});
