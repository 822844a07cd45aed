//! The configuration of a safetensors folder: its `config.json`, as transformers writes it.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokgate_kernels::rope::{RopeKind, RopeScaling, RopeSpec};

use super::{Architecture, ConfigError, ModelConfig, positions, rope};

impl ModelConfig {
    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field or the number that is missing, mistyped, out of range or not supported.
    pub fn from_huggingface(json: &[u8]) -> Result<Self, ConfigError> {
        // The family first: a field that other families do not have would be a puzzling error.
        let family: Family = serde_json::from_slice(json)?;
        let architecture = family.architecture()?;
        let fields: Fields = serde_json::from_slice(json)?;
        fields.config(architecture)?.validate()
    }
}

#[derive(Deserialize)]
struct Family {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    model_type: String,
}

impl Family {
    fn architecture(&self) -> Result<Architecture, ConfigError> {
        let class = self.architectures.first().map(String::as_str);
        match (class, self.model_type.as_str()) {
            (Some("LlamaForCausalLM" | "MistralForCausalLM" | "MixtralForCausalLM"), _)
            | (None, "llama" | "mistral" | "mixtral") => Ok(Architecture::Llama),
            (Some("Qwen2ForCausalLM"), _) | (None, "qwen2") => Ok(Architecture::Qwen2),
            (Some("Qwen3ForCausalLM"), _) | (None, "qwen3") => Ok(Architecture::Qwen3),
            (Some("Qwen3MoeForCausalLM"), _) | (None, "qwen3_moe") => Ok(Architecture::Qwen3Moe),
            (class, model_type) => Err(ConfigError::Architecture(
                class.unwrap_or(model_type).to_owned(),
            )),
        }
    }
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// Where transformers 5 puts the three above.
    rope_parameters: Option<Map<String, Value>>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    #[serde(alias = "num_local_experts")]
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    decoder_sparse_step: Option<usize>,
    quantization_config: Option<Quantization>,
}

#[derive(Deserialize)]
struct Quantization {
    #[serde(default)]
    quant_method: String,
}

#[derive(Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
enum Scaling {
    Default,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: u32,
    },
    Yarn {
        factor: f64,
        original_max_position_embeddings: Option<u32>,
        attention_factor: Option<f64>,
        beta_fast: Option<f64>,
        beta_slow: Option<f64>,
    },
}

impl Fields {
    fn config(self, architecture: Architecture) -> Result<ModelConfig, ConfigError> {
        self.refuse_unsupported()?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            // Zero heads are refused later, by name.
            None => self.hidden_size / self.num_attention_heads.max(1),
        };
        let n_expert = match architecture {
            Architecture::Llama | Architecture::Qwen3Moe => self.num_experts.unwrap_or(0),
            Architecture::Qwen2 | Architecture::Qwen3 => 0,
        };
        let moe = n_expert > 0;
        Ok(ModelConfig {
            architecture,
            n_layer: self.num_hidden_layers,
            n_embd: self.hidden_size,
            n_head: self.num_attention_heads,
            n_kv_head: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            n_ff: self.intermediate_size,
            n_expert,
            n_expert_used: if moe {
                self.num_experts_per_tok.unwrap_or(0)
            } else {
                0
            },
            n_ff_expert: match self.moe_intermediate_size {
                _ if !moe => 0,
                Some(n_ff_expert) => n_ff_expert,
                None => self.intermediate_size,
            },
            // Mixtral always does; transformers' default for Qwen is that it does not.
            norm_topk_prob: self
                .norm_topk_prob
                .unwrap_or(architecture != Architecture::Qwen3Moe),
            n_vocab: self.vocab_size,
            n_context: self.max_position_embeddings,
            rms_eps: self.rms_norm_eps,
            rope: self.rope(head_dim)?,
            sliding_window: self.window(architecture)?,
            tied: self.tie_word_embeddings,
            qkv_bias: architecture == Architecture::Qwen2 || self.attention_bias,
            qk_norm: matches!(architecture, Architecture::Qwen3 | Architecture::Qwen3Moe),
            name: self.name.filter(|name| !name.is_empty()),
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if let Some(quantization) = &self.quantization_config {
            return Err(ConfigError::Unsupported {
                what: "quantization_config",
                found: format!("{:?}", quantization.quant_method),
                hint: ": take the original model and let --dtype q8_0 quantise it, or a GGUF file of it",
            });
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            return Err(ConfigError::Unsupported {
                what: "hidden_act",
                found: format!("{act:?}"),
                hint: "",
            });
        }
        if !self.mlp_only_layers.is_empty() || self.decoder_sparse_step.unwrap_or(1) != 1 {
            return Err(ConfigError::Unsupported {
                what: "a model with experts in some layers only",
                found: format!(
                    "mlp_only_layers {:?}, decoder_sparse_step {}",
                    self.mlp_only_layers,
                    self.decoder_sparse_step.unwrap_or(1)
                ),
                hint: "",
            });
        }
        Ok(())
    }

    /// Mistral's window holds for all layers; Qwen's must be switched on, and then holds from a layer on.
    fn window(&self, architecture: Architecture) -> Result<Option<usize>, ConfigError> {
        let switched = architecture != Architecture::Llama;
        if switched && !self.use_sliding_window.unwrap_or(false) {
            return Ok(None);
        }
        match self.max_window_layers {
            Some(first) if switched && first >= self.num_hidden_layers => Ok(None),
            Some(first) if switched && first > 0 => Err(ConfigError::Unsupported {
                what: "a sliding window in some layers only",
                found: format!("max_window_layers {first}"),
                hint: "",
            }),
            _ => Ok(self.sliding_window),
        }
    }

    fn rope(&self, head_dim: usize) -> Result<RopeSpec, ConfigError> {
        let merged = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let number = |name| merged.and_then(|map| map.get(name)).and_then(Value::as_f64);
        let theta = number("rope_theta").or(self.rope_theta).unwrap_or(10_000.0);
        let share = number("partial_rotary_factor").or(self.partial_rotary_factor);
        // A share that makes no sense ends as a number of dimensions that is refused.
        let n_dims = share.map_or(head_dim, |share| (head_dim as f64 * share) as usize);
        let scaling = match merged {
            Some(map) if !map.is_empty() => self.scaling(map.clone())?,
            _ => RopeScaling::None,
        };
        Ok(rope(RopeKind::NeoX, n_dims, theta, scaling))
    }

    fn scaling(&self, mut map: Map<String, Value>) -> Result<RopeScaling, ConfigError> {
        if !map.contains_key("rope_type") {
            // The key's older name.
            let kind = map.remove("type").unwrap_or_else(|| "default".into());
            map.insert("rope_type".to_owned(), kind);
        }
        Ok(match serde_json::from_value(Value::Object(map))? {
            Scaling::Default => RopeScaling::None,
            Scaling::Linear { factor } => RopeScaling::Linear { factor },
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original_context,
            } => RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            },
            Scaling::Yarn {
                factor,
                original_max_position_embeddings: context,
                attention_factor,
                beta_fast,
                beta_slow,
            } => RopeScaling::Yarn {
                factor,
                original_context: context
                    .unwrap_or_else(|| positions(self.max_position_embeddings)),
                ext_factor: 1.0,
                attn_factor: attention_factor
                    .map_or(1.0, |attention| attention / (1.0 + 0.1 * factor.ln())),
                beta_fast: beta_fast.unwrap_or(32.0),
                beta_slow: beta_slow.unwrap_or(1.0),
            },
        })
    }
}
