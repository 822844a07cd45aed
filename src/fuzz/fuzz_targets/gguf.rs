//! Any bytes, read as a GGUF file: metadata, configuration, weights and vocabulary. An error is fine; a panic, a read out
//! of bounds, a hang, or memory beyond what the file's size explains is not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokgate::engine::config::ModelConfig;
use tokgate::engine::gguf::{Gguf, Parts, Value};
use tokgate::engine::tokenizer::{GgufVocab, Tokenizer};
use tokgate::engine::weights::{LoadOptions, ModelWeights};

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::parse(file) else { return };
    for (key, value) in gguf.metadata() {
        assert_eq!(gguf.value(key).map(|found| found.kind()), Some(value.kind()));
        walk(value);
    }
    for tensor in gguf.tensors() {
        assert!(!gguf.mapping()[tensor.data.clone()].is_empty());
    }
    if let Ok(vocabulary) = GgufVocab::from_metadata(&gguf) {
        let _ = Tokenizer::from_gguf(vocabulary);
    }
    let parts = Parts::from(gguf);
    if let Ok(config) = ModelConfig::from_gguf(&parts) {
        let options = LoadOptions {
            threads: 1,
            ..LoadOptions::default()
        };
        let _ = ModelWeights::from_gguf(&parts, &config, options);
    }
});

/// What was accepted decodes to its end.
fn walk(value: Value<'_>) {
    if let Value::Array(array) = value {
        assert_eq!(array.iter().inspect(|element| walk(*element)).count(), array.len());
    }
}
