//! The shapes of published models, and of two small ones for tests.

use std::fmt;

use tokgate_kernels::rope::{RopeKind, RopeScaling, RopeSpec};

use crate::engine::config::{Architecture, ModelConfig};

/// A model whose shape can be synthesised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// meta-llama/Llama-2-7b: 32 heads without sharing, separate head.
    Llama2_7b,
    /// Qwen/Qwen3-0.6B: heads longer than the embedding's share, tied head.
    Qwen3_0_6b,
    /// Qwen/Qwen3-4B.
    Qwen3_4b,
    /// Qwen/Qwen3-30B-A3B: 128 experts, 8 of which serve a token.
    Qwen3_30bA3b,
    /// mistralai/Mixtral-8x7B-v0.1: 8 experts, 2 of which serve a token.
    Mixtral8x7b,
    /// A Llama of a few megabytes: grouped queries, separate head, rotary pairs of neighbours.
    TinyDense,
    /// A Qwen3-MoE of a few megabytes: normalised heads, 16 experts, tied head, rotary pairs of halves.
    TinyMoe,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Llama2_7b,
        Self::Qwen3_0_6b,
        Self::Qwen3_4b,
        Self::Qwen3_30bA3b,
        Self::Mixtral8x7b,
        Self::TinyDense,
        Self::TinyMoe,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama2_7b => "llama2-7b",
            Self::Qwen3_0_6b => "qwen3-0.6b",
            Self::Qwen3_4b => "qwen3-4b",
            Self::Qwen3_30bA3b => "qwen3-30b-a3b",
            Self::Mixtral8x7b => "mixtral-8x7b",
            Self::TinyDense => "tiny-dense",
            Self::TinyMoe => "tiny-moe",
        }
    }

    /// Sizes and parameters, as the model's publisher gives them.
    pub fn config(self) -> ModelConfig {
        let llama = |theta| ModelConfig {
            architecture: Architecture::Llama,
            name: Some(self.name().to_owned()),
            n_layer: 32,
            n_embd: 4096,
            n_head: 32,
            n_kv_head: 32,
            head_dim: 128,
            n_ff: 11_008,
            n_expert: 0,
            n_expert_used: 0,
            n_ff_expert: 0,
            norm_topk_prob: true,
            n_vocab: 32_000,
            n_context: 4096,
            rms_eps: 1e-5,
            rope: rope(RopeKind::Normal, 128, theta),
            sliding_window: None,
            tied: false,
            qkv_bias: false,
            qk_norm: false,
        };
        let qwen3 = ModelConfig {
            architecture: Architecture::Qwen3,
            n_layer: 28,
            n_embd: 1024,
            n_head: 16,
            n_kv_head: 8,
            n_ff: 3072,
            n_vocab: 151_936,
            n_context: 40_960,
            rms_eps: 1e-6,
            rope: rope(RopeKind::NeoX, 128, 1e6),
            tied: true,
            qk_norm: true,
            ..llama(1e4)
        };
        match self {
            Self::Llama2_7b => llama(1e4),
            Self::Qwen3_0_6b => qwen3,
            Self::Qwen3_4b => ModelConfig {
                n_layer: 36,
                n_embd: 2560,
                n_head: 32,
                n_ff: 9728,
                ..qwen3
            },
            Self::Qwen3_30bA3b => ModelConfig {
                architecture: Architecture::Qwen3Moe,
                n_layer: 48,
                n_embd: 2048,
                n_head: 32,
                n_kv_head: 4,
                n_ff: 6144,
                n_expert: 128,
                n_expert_used: 8,
                n_ff_expert: 768,
                tied: false,
                ..qwen3
            },
            Self::Mixtral8x7b => ModelConfig {
                n_kv_head: 8,
                n_ff: 14_336,
                n_expert: 8,
                n_expert_used: 2,
                n_ff_expert: 14_336,
                n_context: 32_768,
                ..llama(1e6)
            },
            Self::TinyDense => ModelConfig {
                n_layer: 3,
                n_embd: 256,
                n_head: 4,
                n_kv_head: 2,
                head_dim: 64,
                n_ff: 704,
                n_vocab: 512,
                n_context: 2048,
                rope: rope(RopeKind::Normal, 64, 1e4),
                ..llama(1e4)
            },
            Self::TinyMoe => ModelConfig {
                architecture: Architecture::Qwen3Moe,
                n_layer: 3,
                n_embd: 160,
                n_head: 6,
                n_kv_head: 2,
                head_dim: 64,
                n_ff: 320,
                n_expert: 16,
                n_expert_used: 4,
                n_ff_expert: 96,
                n_vocab: 512,
                n_context: 2048,
                rope: rope(RopeKind::NeoX, 64, 1e6),
                ..qwen3
            },
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn rope(kind: RopeKind, n_dims: usize, theta: f64) -> RopeSpec {
    RopeSpec {
        kind,
        n_dims,
        theta,
        scaling: RopeScaling::None,
        freq_factors: None,
    }
}
