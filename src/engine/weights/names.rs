//! What the tensors of a model are called in its file.

use super::Component;

/// Whose names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// llama.cpp's.
    Gguf,
    /// transformers'.
    Huggingface,
}

/// What kind of tensor a weight is, the same in all layers, in the order in which a token meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`name` says it in words")]
pub enum LayerType {
    TokenEmbedding,
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    AttentionOutput,
    FfnNorm,
    Router,
    Gate,
    Up,
    Down,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    FinalNorm,
    RotaryFactors,
    Output,
}

impl LayerType {
    /// The name in reports; w1, w2 and w3 are Llama's first names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenEmbedding => "token embedding",
            Self::AttentionNorm => "attention norm",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::QueryBias => "query bias",
            Self::KeyBias => "key bias",
            Self::ValueBias => "value bias",
            Self::QueryNorm => "query norm",
            Self::KeyNorm => "key norm",
            Self::AttentionOutput => "attention output",
            Self::FfnNorm => "feed-forward norm",
            Self::Router => "router",
            Self::Gate => "gate (w1)",
            Self::Up => "up (w3)",
            Self::Down => "down (w2)",
            Self::ExpertGate => "experts' gate (w1)",
            Self::ExpertUp => "experts' up (w3)",
            Self::ExpertDown => "experts' down (w2)",
            Self::FinalNorm => "final norm",
            Self::RotaryFactors => "rotary factors",
            Self::Output => "output head",
        }
    }

    /// What it is for.
    pub const fn component(self) -> Component {
        match self {
            Self::TokenEmbedding => Component::Embedding,
            Self::Output => Component::Output,
            Self::Query
            | Self::Key
            | Self::Value
            | Self::QueryBias
            | Self::KeyBias
            | Self::ValueBias
            | Self::AttentionOutput => Component::Attention,
            Self::Gate | Self::Up | Self::Down => Component::FeedForward,
            Self::ExpertGate | Self::ExpertUp | Self::ExpertDown => Component::Experts,
            Self::Router => Component::Router,
            Self::AttentionNorm
            | Self::QueryNorm
            | Self::KeyNorm
            | Self::FfnNorm
            | Self::FinalNorm
            | Self::RotaryFactors => Component::Norms,
        }
    }

    /// Whether it is a vector, which is held as f32 whatever its file has.
    pub const fn is_vector(self) -> bool {
        matches!(
            self,
            Self::AttentionNorm
                | Self::QueryBias
                | Self::KeyBias
                | Self::ValueBias
                | Self::QueryNorm
                | Self::KeyNorm
                | Self::FfnNorm
                | Self::FinalNorm
                | Self::RotaryFactors
        )
    }

    /// Whether each layer has one.
    pub const fn is_of_a_layer(self) -> bool {
        !matches!(
            self,
            Self::TokenEmbedding | Self::FinalNorm | Self::RotaryFactors | Self::Output
        )
    }
}

/// A tensor of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    TokenEmbd,
    OutputNorm,
    Output,
}

/// A tensor of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    AttnNorm,
    Wq,
    Wk,
    Wv,
    Wo,
    Bq,
    Bk,
    Bv,
    QNorm,
    KNorm,
    FfnNorm,
    Gate,
    Up,
    Down,
    Router,
}

impl Local {
    const ALL: [Self; 15] = [
        Self::AttnNorm,
        Self::Wq,
        Self::Wk,
        Self::Wv,
        Self::Wo,
        Self::Bq,
        Self::Bk,
        Self::Bv,
        Self::QNorm,
        Self::KNorm,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::Router,
    ];

    const fn layer_type(self) -> LayerType {
        match self {
            Self::AttnNorm => LayerType::AttentionNorm,
            Self::Wq => LayerType::Query,
            Self::Wk => LayerType::Key,
            Self::Wv => LayerType::Value,
            Self::Wo => LayerType::AttentionOutput,
            Self::Bq => LayerType::QueryBias,
            Self::Bk => LayerType::KeyBias,
            Self::Bv => LayerType::ValueBias,
            Self::QNorm => LayerType::QueryNorm,
            Self::KNorm => LayerType::KeyNorm,
            Self::FfnNorm => LayerType::FfnNorm,
            Self::Gate => LayerType::Gate,
            Self::Up => LayerType::Up,
            Self::Down => LayerType::Down,
            Self::Router => LayerType::Router,
        }
    }
}

impl Naming {
    pub const fn global(self, tensor: Global) -> &'static str {
        match (self, tensor) {
            (Self::Gguf, Global::TokenEmbd) => "token_embd.weight",
            (Self::Gguf, Global::OutputNorm) => "output_norm.weight",
            (Self::Gguf, Global::Output) => "output.weight",
            (Self::Huggingface, Global::TokenEmbd) => "model.embed_tokens.weight",
            (Self::Huggingface, Global::OutputNorm) => "model.norm.weight",
            (Self::Huggingface, Global::Output) => "lm_head.weight",
        }
    }

    /// Names that the tensor of a layer may have, the usual one first.
    pub fn local(self, layer: usize, tensor: Local) -> Vec<String> {
        match self {
            Self::Gguf => vec![format!("blk.{layer}.{}", gguf(tensor))],
            Self::Huggingface => huggingface(tensor)
                .iter()
                .map(|name| format!("model.layers.{layer}.{name}"))
                .collect(),
        }
    }

    /// The name of a tensor that holds all experts of a layer.
    pub fn stacked(self, layer: usize, tensor: Local) -> Option<String> {
        match self {
            Self::Gguf => Some(format!("blk.{layer}.ffn_{}_exps.weight", part(tensor))),
            Self::Huggingface => None,
        }
    }

    /// Names that the tensor of one expert may have, the usual one first.
    pub fn expert(self, layer: usize, expert: usize, tensor: Local) -> Vec<String> {
        match self {
            // Mixtral files of 2023.
            Self::Gguf => vec![format!("blk.{layer}.ffn_{}.{expert}.weight", part(tensor))],
            Self::Huggingface => {
                let mixtral = match tensor {
                    Local::Gate => "w1",
                    Local::Down => "w2",
                    _ => "w3",
                };
                let part = part(tensor);
                let layer = format!("model.layers.{layer}");
                vec![
                    format!("{layer}.mlp.experts.{expert}.{part}_proj.weight"),
                    format!("{layer}.block_sparse_moe.experts.{expert}.{mixtral}.weight"),
                ]
            }
        }
    }

    /// Whether a file may hold this tensor although nothing here reads it: it can be computed from the configuration.
    pub fn is_redundant(self, name: &str) -> bool {
        match self {
            Self::Gguf => name.ends_with(".attn_rot_embd.weight"),
            Self::Huggingface => name.ends_with(".rotary_emb.inv_freq"),
        }
    }
}

/// What kind of tensor this is, by its name in either naming; `None` for one that no supported architecture has.
pub fn layer_type(name: &str) -> Option<LayerType> {
    let names = [
        (Global::TokenEmbd, LayerType::TokenEmbedding),
        (Global::OutputNorm, LayerType::FinalNorm),
        (Global::Output, LayerType::Output),
    ];
    for (tensor, kind) in names {
        if [Naming::Gguf, Naming::Huggingface]
            .map(|naming| naming.global(tensor))
            .contains(&name)
        {
            return Some(kind);
        }
    }
    if name == "rope_freqs.weight" {
        return Some(LayerType::RotaryFactors);
    }
    let local = name
        .strip_prefix("blk.")
        .or_else(|| name.strip_prefix("model.layers."))?;
    let (_, local) = local.split_once('.')?;
    let known = Local::ALL
        .into_iter()
        .find(|&tensor| local == gguf(tensor) || huggingface(tensor).contains(&local));
    known.map(Local::layer_type).or_else(|| of_experts(local))
}

/// What a tensor is for, by its name in either naming; `None` for one that no supported architecture has.
pub fn component(name: &str) -> Option<Component> {
    layer_type(name).map(LayerType::component)
}

/// Whether a file may hold this tensor although nothing here reads it.
pub(crate) fn is_redundant(name: &str) -> bool {
    Naming::Gguf.is_redundant(name) || Naming::Huggingface.is_redundant(name)
}

/// Which matrix of an expert a tensor of a layer is.
fn of_experts(local: &str) -> Option<LayerType> {
    let of_mixtral = |weight: &str| match weight {
        "w1" => Some(LayerType::ExpertGate),
        "w2" => Some(LayerType::ExpertDown),
        "w3" => Some(LayerType::ExpertUp),
        _ => None,
    };
    let of_part = |part: &str| match part {
        "gate" => Some(LayerType::ExpertGate),
        "up" => Some(LayerType::ExpertUp),
        "down" => Some(LayerType::ExpertDown),
        _ => None,
    };
    if let Some((_, expert)) = local.split_once(".experts.") {
        // `17.up_proj.weight` or `17.w3.weight`.
        let weight = expert.split('.').nth(1)?;
        return of_mixtral(weight).or_else(|| of_part(weight.strip_suffix("_proj")?));
    }
    // `ffn_gate_exps.weight`, or `ffn_gate.7.weight` of an old Mixtral file.
    let part = local.strip_prefix("ffn_")?.split('.').next()?;
    of_part(part.strip_suffix("_exps").unwrap_or(part))
}

const fn gguf(tensor: Local) -> &'static str {
    match tensor {
        Local::AttnNorm => "attn_norm.weight",
        Local::Wq => "attn_q.weight",
        Local::Wk => "attn_k.weight",
        Local::Wv => "attn_v.weight",
        Local::Wo => "attn_output.weight",
        Local::Bq => "attn_q.bias",
        Local::Bk => "attn_k.bias",
        Local::Bv => "attn_v.bias",
        Local::QNorm => "attn_q_norm.weight",
        Local::KNorm => "attn_k_norm.weight",
        Local::FfnNorm => "ffn_norm.weight",
        Local::Gate => "ffn_gate.weight",
        Local::Up => "ffn_up.weight",
        Local::Down => "ffn_down.weight",
        Local::Router => "ffn_gate_inp.weight",
    }
}

const fn huggingface(tensor: Local) -> &'static [&'static str] {
    match tensor {
        Local::AttnNorm => &["input_layernorm.weight"],
        Local::Wq => &["self_attn.q_proj.weight"],
        Local::Wk => &["self_attn.k_proj.weight"],
        Local::Wv => &["self_attn.v_proj.weight"],
        Local::Wo => &["self_attn.o_proj.weight"],
        Local::Bq => &["self_attn.q_proj.bias"],
        Local::Bk => &["self_attn.k_proj.bias"],
        Local::Bv => &["self_attn.v_proj.bias"],
        Local::QNorm => &["self_attn.q_norm.weight"],
        Local::KNorm => &["self_attn.k_norm.weight"],
        Local::FfnNorm => &["post_attention_layernorm.weight"],
        Local::Gate => &["mlp.gate_proj.weight"],
        Local::Up => &["mlp.up_proj.weight"],
        Local::Down => &["mlp.down_proj.weight"],
        Local::Router => &["mlp.gate.weight", "block_sparse_moe.gate.weight"],
    }
}

/// Which of the three matrices of a feed-forward.
const fn part(tensor: Local) -> &'static str {
    match tensor {
        Local::Gate => "gate",
        Local::Down => "down",
        _ => "up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_components() {
        let names = [
            ("token_embd.weight", Some(Component::Embedding)),
            ("lm_head.weight", Some(Component::Output)),
            ("blk.3.attn_q.bias", Some(Component::Attention)),
            ("blk.12.ffn_gate_inp.weight", Some(Component::Router)),
            ("blk.12.ffn_gate_exps.weight", Some(Component::Experts)),
            ("blk.12.ffn_gate.7.weight", Some(Component::Experts)),
            ("blk.0.ffn_gate.weight", Some(Component::FeedForward)),
            (
                "model.layers.1.self_attn.k_norm.weight",
                Some(Component::Norms),
            ),
            ("model.layers.1.mlp.gate.weight", Some(Component::Router)),
            (
                "model.layers.1.mlp.experts.17.up_proj.weight",
                Some(Component::Experts),
            ),
            ("v.patch_embd.weight", None),
            ("blk.", None),
        ];
        for (name, wanted) in names {
            assert_eq!(component(name), wanted, "{name}");
        }
    }
}
