//! The matmuls of real models: `n` outputs of `k` inputs each.

/// A weight matrix of a model's layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Which models and tensors have it.
    pub what: &'static str,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
}

const fn layer(what: &'static str, k: usize, n: usize) -> Layer {
    Layer { what, k, n }
}

/// All distinct weight matrices of Llama-2-7B, Qwen3-0.6B and Qwen3-30B-A3B, except for the output heads.
pub const LAYERS: [Layer; 12] = [
    layer("Llama-2-7B q, k, v, o", 4096, 4096),
    layer("Llama-2-7B gate, up", 4096, 11008),
    layer("Llama-2-7B down", 11008, 4096),
    layer("Qwen3-0.6B q", 1024, 2048),
    layer("Qwen3-0.6B k, v", 1024, 1024),
    layer("Qwen3-0.6B o", 2048, 1024),
    layer("Qwen3-0.6B gate, up", 1024, 3072),
    layer("Qwen3-0.6B down", 3072, 1024),
    layer("Qwen3-30B-A3B q", 2048, 4096),
    layer("Qwen3-30B-A3B k, v", 2048, 512),
    layer("Qwen3-30B-A3B o", 4096, 2048),
    layer("Qwen3-30B-A3B gate, up of an expert", 2048, 768),
];

/// The output heads, which see one row only: the last token's.
pub const HEADS: [Layer; 3] = [
    layer("Llama-2-7B head", 4096, 32000),
    layer("Qwen3-0.6B head", 1024, 151_936),
    layer("Qwen3-30B-A3B head", 2048, 151_936),
];

/// A large and a small matrix, to compare variants and peers on where the whole list would take too long.
pub const REPRESENTATIVE: [Layer; 2] = [
    layer("Llama-2-7B gate, up", 4096, 11008),
    layer("Qwen3-0.6B gate, up", 1024, 3072),
];

/// What the scalar variants, fifty times slower, are measured on.
pub const REDUCED: Layer = layer("Qwen3-0.6B gate, up, a twelfth", 1024, 256);
