//! What a model is made of: sizes and parameters, read from a GGUF file's metadata or a `config.json`, and validated.
//!
//! Everything later (shapes of weights, sizes of buffers) is computed from these numbers, so the limits below also keep
//! every product of them far from overflow.

mod gguf;
mod huggingface;

use std::fmt;

use tokgate_kernels::rope::{RopeKind, RopeScaling, RopeSpec};

use super::gguf::GgufError;

/// A family of models that the forward pass knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2 and 3, Mistral; with experts: Mixtral.
    Llama,
    /// Qwen 2 and 2.5: Llama with biases at q, k and v.
    Qwen2,
    /// Qwen 3: Llama with normalised heads of q and k.
    Qwen3,
    /// Qwen 3 with experts.
    Qwen3Moe,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Qwen3Moe];

    /// GGUF's `general.architecture`, and the prefix of its keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Sizes and parameters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Family.
    pub architecture: Architecture,
    /// The model's name, if the file gives one.
    pub name: Option<String>,
    /// Transformer layers.
    pub n_layer: usize,
    /// Elements of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; divides `n_head`.
    pub n_kv_head: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Inner elements of a dense feed-forward; unused where `n_expert > 0`.
    pub n_ff: usize,
    /// Experts of a layer; 0 for a dense model.
    pub n_expert: usize,
    /// Experts that serve a token.
    pub n_expert_used: usize,
    /// Inner elements of an expert's feed-forward; 0 for a dense model.
    pub n_ff_expert: usize,
    /// Whether the weights of a token's experts are made to add up to one.
    pub norm_topk_prob: bool,
    /// Tokens of the vocabulary: rows of the embedding.
    pub n_vocab: usize,
    /// Positions that the model was trained for.
    pub n_context: usize,
    /// What RMSNorm adds to the mean square.
    pub rms_eps: f32,
    /// Rotary embedding, without the frequency factors that a file may hold as a tensor.
    pub rope: RopeSpec,
    /// Positions that a query sees, its own included; `None` sees all.
    pub sliding_window: Option<usize>,
    /// Whether the output head is the token embedding.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the heads of q and k are normalised.
    pub qk_norm: bool,
}

/// Why a model's description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A metadata key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// `config.json` is not JSON, or a field of it is missing or of the wrong type.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A family that is not supported.
    #[error(
        "architecture {0:?} is not supported; supported are llama (Mistral and Mixtral too), qwen2, qwen3 and qwen3moe"
    )]
    Architecture(String),
    /// A number outside of what is possible.
    #[error("{what} is {found}, expected {min} to {max}")]
    Range {
        /// Which number, in words.
        what: &'static str,
        /// What the file says.
        found: usize,
        /// Smallest possible.
        min: usize,
        /// Largest that is believed.
        max: usize,
    },
    /// A number that is no multiple of another.
    #[error("{what} is {found}, which is not a multiple of {of}")]
    Multiple {
        /// Which number, in words.
        what: &'static str,
        /// What the file says.
        found: usize,
        /// What it should be a multiple of.
        of: usize,
    },
    /// The norm's epsilon is not a small positive number.
    #[error("the RMSNorm epsilon is {0}, expected more than 0 and at most 0.1")]
    Epsilon(f32),
    /// Something that the model needs and the forward pass does not do.
    #[error("{what} is {found}, which is not supported{hint}")]
    Unsupported {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// The file neither has the embedding nor says how many tokens there are.
    #[error(
        "neither the tensor token_embd.weight nor the key {0}.vocab_size nor tokenizer.ggml.tokens says how large the vocabulary is"
    )]
    NoVocabularySize(Architecture),
}

/// Largest values that are believed: a few times what the largest published models have.
mod limits {
    pub const LAYERS: usize = 1 << 10;
    pub const EMBEDDING: usize = 1 << 16;
    pub const HEADS: usize = 1 << 10;
    pub const HEAD_DIM: usize = 1 << 10;
    pub const FEED_FORWARD: usize = 1 << 20;
    pub const EXPERTS: usize = 1 << 10;
    pub const VOCABULARY: usize = 1 << 24;
    pub const CONTEXT: usize = 1 << 30;
}

impl ModelConfig {
    /// The rotary embedding with a file's frequency factors (`rope_freqs.weight`).
    pub fn rope_spec(&self, freq_factors: Option<&[f32]>) -> RopeSpec {
        RopeSpec {
            freq_factors: freq_factors.map(<[f32]>::to_vec),
            ..self.rope.clone()
        }
    }

    /// Whether feed-forwards are made of experts.
    pub fn is_moe(&self) -> bool {
        self.n_expert > 0
    }

    fn validate(self) -> Result<Self, ConfigError> {
        let range = |what, found, min, max| {
            if (min..=max).contains(&found) {
                Ok(())
            } else {
                Err(ConfigError::Range {
                    what,
                    found,
                    min,
                    max,
                })
            }
        };
        range("the number of layers", self.n_layer, 1, limits::LAYERS)?;
        range("the embedding length", self.n_embd, 1, limits::EMBEDDING)?;
        range("the number of heads", self.n_head, 1, limits::HEADS)?;
        range("the number of KV heads", self.n_kv_head, 1, self.n_head)?;
        range("the head length", self.head_dim, 2, limits::HEAD_DIM)?;
        range("the vocabulary", self.n_vocab, 1, limits::VOCABULARY)?;
        range("the context length", self.n_context, 1, limits::CONTEXT)?;
        range("the rotary dimensions", self.rope.n_dims, 2, self.head_dim)?;
        let multiple = |what, found: usize, of| {
            if found.is_multiple_of(of) {
                Ok(())
            } else {
                Err(ConfigError::Multiple { what, found, of })
            }
        };
        multiple("the number of heads", self.n_head, self.n_kv_head)?;
        multiple("the head length", self.head_dim, 2)?;
        multiple("the number of rotary dimensions", self.rope.n_dims, 2)?;
        if self.is_moe() {
            range("the number of experts", self.n_expert, 1, limits::EXPERTS)?;
            range(
                "the experts of a token",
                self.n_expert_used,
                1,
                self.n_expert,
            )?;
            let max = limits::FEED_FORWARD;
            range(
                "the feed-forward length of experts",
                self.n_ff_expert,
                1,
                max,
            )?;
        } else {
            range(
                "the feed-forward length",
                self.n_ff,
                1,
                limits::FEED_FORWARD,
            )?;
        }
        if let Some(window) = self.sliding_window {
            range("the sliding window", window, 1, limits::CONTEXT)?;
        }
        if !(self.rms_eps > 0.0 && self.rms_eps <= 0.1) {
            return Err(ConfigError::Epsilon(self.rms_eps));
        }
        Ok(self)
    }
}

/// A rotary embedding without frequency factors.
fn rope(kind: RopeKind, n_dims: usize, theta: f64, scaling: RopeScaling) -> RopeSpec {
    RopeSpec {
        kind,
        n_dims,
        theta,
        scaling,
        freq_factors: None,
    }
}

/// A context length as the kernels take it; one that is too long is refused by [`ModelConfig::validate`] all the same.
fn positions(context: usize) -> u32 {
    u32::try_from(context).unwrap_or(u32::MAX)
}
