//! The configuration of a GGUF model.
//!
//! KEYS. `general.architecture`, `general.name`; under the architecture's prefix `block_count`, `context_length`,
//! `embedding_length`, `feed_forward_length`, `vocab_size`, `attention.{head_count, head_count_kv, key_length,
//! value_length, layer_norm_rms_epsilon, sliding_window}`, `rope.{dimension_count, freq_base, scale_linear}`,
//! `rope.scaling.{type, factor, original_context_length, attn_factor, yarn_ext_factor, yarn_attn_factor,
//! yarn_beta_fast, yarn_beta_slow}`, `expert_{count, used_count, feed_forward_length, weights_norm}`. Defaults are
//! llama.cpp's.

use tokgate_kernels::rope::{RopeKind, RopeScaling, RopeSpec};

use super::{Architecture, ConfigError, ModelConfig, positions, rope};
use crate::engine::gguf::{Array, FromValue, Gguf, Parts, Value};

impl ModelConfig {
    /// Reads and validates the metadata of a GGUF model.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key or the number that is missing, mistyped or out of range.
    pub fn from_gguf(parts: &Parts) -> Result<Self, ConfigError> {
        let gguf = parts.first();
        let name: &str = gguf.require("general.architecture")?;
        let architecture = Architecture::ALL
            .into_iter()
            .find(|architecture| architecture.name() == name)
            .ok_or_else(|| ConfigError::Architecture(name.to_owned()))?;
        Keys { gguf, architecture }.config(parts)?.validate()
    }
}

struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: Architecture,
}

impl<'a> Keys<'a> {
    fn config(&self, parts: &Parts) -> Result<ModelConfig, ConfigError> {
        let architecture = self.architecture;
        let n_layer = self.require("block_count")?;
        let n_embd = self.require("embedding_length")?;
        let n_head = self.require_uniform("attention.head_count")?;
        let n_kv_head = self.uniform("attention.head_count_kv")?.unwrap_or(n_head);
        let head_dim = match self.get("attention.key_length")? {
            Some(head_dim) => head_dim,
            // Zero heads are refused later, by name.
            None => n_embd / usize::max(n_head, 1),
        };
        let value_length = self.get("attention.value_length")?.unwrap_or(head_dim);
        if value_length != head_dim {
            return Err(ConfigError::Unsupported {
                what: "a value length that differs from the key length",
                found: format!("{value_length} instead of {head_dim}"),
                hint: "",
            });
        }
        let n_expert = self.get("expert_count")?.unwrap_or(0);
        let moe = n_expert > 0;
        if architecture == Architecture::Qwen3Moe && !moe {
            self.require::<usize>("expert_count")?;
        }
        let n_ff = if moe {
            self.uniform("feed_forward_length")?.unwrap_or(0)
        } else {
            self.require_uniform("feed_forward_length")?
        };
        let n_expert_used = if moe {
            self.require("expert_used_count")?
        } else {
            0
        };
        let n_ff_expert = match self.get("expert_feed_forward_length")? {
            Some(n_ff_expert) if moe => n_ff_expert,
            None if architecture == Architecture::Qwen3Moe => n_ff / usize::max(n_expert_used, 1),
            None if moe => n_ff,
            _ => 0,
        };
        let window: usize = self.get("attention.sliding_window")?.unwrap_or(0);
        let n_context = self.require("context_length")?;
        let name = self.gguf.get("general.name")?;
        Ok(ModelConfig {
            architecture,
            name,
            n_layer,
            n_embd,
            n_head,
            n_kv_head,
            head_dim,
            n_ff,
            n_expert,
            n_expert_used,
            n_ff_expert,
            norm_topk_prob: self.get("expert_weights_norm")?.unwrap_or(true),
            n_vocab: self.n_vocab(parts)?,
            n_context,
            rms_eps: self.require("attention.layer_norm_rms_epsilon")?,
            rope: self.rope(head_dim, n_context)?,
            sliding_window: (window > 0).then_some(window),
            tied: parts.tensor("output.weight").is_none(),
            qkv_bias: architecture == Architecture::Qwen2
                || parts.tensor("blk.0.attn_q.bias").is_some(),
            qk_norm: matches!(architecture, Architecture::Qwen3 | Architecture::Qwen3Moe),
        })
    }

    /// The embedding has the last word; files without tensors say it elsewhere.
    fn n_vocab(&self, parts: &Parts) -> Result<usize, ConfigError> {
        if let Some((_, embedding)) = parts.tensor("token_embd.weight") {
            return Ok(embedding.dims.get(1).copied().unwrap_or(1));
        }
        if let Some(size) = self.get("vocab_size")? {
            return Ok(size);
        }
        match self.gguf.get::<Array<'_>>("tokenizer.ggml.tokens")? {
            Some(tokens) => Ok(tokens.len()),
            None => Err(ConfigError::NoVocabularySize(self.architecture)),
        }
    }

    fn rope(&self, head_dim: usize, n_context: usize) -> Result<RopeSpec, ConfigError> {
        let kind = match self.architecture {
            Architecture::Llama => RopeKind::Normal,
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => RopeKind::NeoX,
        };
        let n_dims = self.get("rope.dimension_count")?.unwrap_or(head_dim);
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = self.rope_scaling(n_context)?;
        Ok(rope(kind, n_dims, theta, scaling))
    }

    fn rope_scaling(&self, n_context: usize) -> Result<RopeScaling, ConfigError> {
        let kind: &str = self.get("rope.scaling.type")?.unwrap_or("linear");
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?,
        };
        // Converters write 0 where there is no scaling.
        let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
        match kind {
            "none" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => {
                let context = self.get("rope.scaling.original_context_length")?;
                let attn_factor = match self.float("rope.scaling.yarn_attn_factor")? {
                    Some(attn_factor) => Some(attn_factor),
                    None => self.float("rope.scaling.attn_factor")?,
                };
                let parameter = |key, default| {
                    let value = self.float(key)?;
                    Ok::<_, ConfigError>(value.unwrap_or(default))
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context: positions(context.unwrap_or(n_context)),
                    ext_factor: parameter("rope.scaling.yarn_ext_factor", 1.0)?,
                    attn_factor: attn_factor.unwrap_or(1.0),
                    beta_fast: parameter("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: parameter("rope.scaling.yarn_beta_slow", 1.0)?,
                })
            }
            other => Err(ConfigError::Unsupported {
                what: "the rotary scaling",
                found: format!("{other:?}"),
                hint: "",
            }),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        Ok(self.gguf.get(&self.key(key))?)
    }

    fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, ConfigError> {
        Ok(self.gguf.require(&self.key(key))?)
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        Ok(self.get::<f32>(key)?.map(f64::from))
    }

    /// A number that some models give by layer; only those are supported that have the same in all layers.
    fn uniform(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        let by_layer: Vec<usize> = match self.gguf.value(&self.key(key)) {
            Some(Value::Array(_)) => self.require(key)?,
            _ => return self.get(key),
        };
        match by_layer.split_first() {
            Some((&first, rest)) if rest.iter().all(|&other| other == first) => Ok(Some(first)),
            _ => Err(ConfigError::Unsupported {
                what: key,
                found: "not the same in all layers".to_owned(),
                hint: "",
            }),
        }
    }

    fn require_uniform(&self, key: &'static str) -> Result<usize, ConfigError> {
        match self.uniform(key)? {
            Some(value) => Ok(value),
            None => self.require(key),
        }
    }
}
