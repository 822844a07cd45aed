//! The weights of a model, checked against its configuration.
//!
//! Tensors stay mapped as the file has them. Copies are made only where a conversion was asked for, where a file's data
//! are not aligned for their type, where experts lie apart (in safetensors and in Mixtral files of 2023), and of the
//! small vectors of norms and biases.

mod load;
mod names;
pub mod part;
mod tensor;

pub use load::{LoadOptions, WeightsError};
pub(crate) use names::is_redundant;
pub use names::{LayerType, component, layer_type};
pub use tensor::{Shape, Tensor};

use tokgate_kernels::DType;

use crate::engine::gguf::BlockQuant;

/// All weights.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `[n_vocab, n_embd]`.
    pub token_embd: Tensor,
    /// `[n_vocab, n_embd]`; the embedding itself in a tied model.
    pub output: Tensor,
    /// Whether `output` is the embedding.
    pub tied: bool,
    /// `[n_embd]`.
    pub output_norm: Vec<f32>,
    /// `[rope dimensions / 2]`: divisors of the rotary frequencies.
    pub rope_freqs: Option<Vec<f32>>,
    /// From the embedding to the output.
    pub layers: Vec<LayerWeights>,
    /// What is not as the file has it because there are no kernels for its type; empty for most models.
    pub requantized: Vec<Requantized>,
}

/// Tensors that were converted because there are no kernels for their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requantized {
    /// The file's type.
    pub from: BlockQuant,
    /// The type in memory.
    pub to: DType,
    /// How many tensors.
    pub tensors: usize,
}

/// The weights of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `[n_embd]`.
    pub attn_norm: Vec<f32>,
    /// `[n_head · head_dim, n_embd]`.
    pub wq: Tensor,
    /// `[n_kv_head · head_dim, n_embd]`.
    pub wk: Tensor,
    /// `[n_kv_head · head_dim, n_embd]`.
    pub wv: Tensor,
    /// `[n_embd, n_head · head_dim]`.
    pub wo: Tensor,
    /// `[n_head · head_dim]`.
    pub bq: Option<Vec<f32>>,
    /// `[n_kv_head · head_dim]`.
    pub bk: Option<Vec<f32>>,
    /// `[n_kv_head · head_dim]`.
    pub bv: Option<Vec<f32>>,
    /// `[head_dim]`.
    pub q_norm: Option<Vec<f32>>,
    /// `[head_dim]`.
    pub k_norm: Option<Vec<f32>>,
    /// `[n_embd]`.
    pub ffn_norm: Vec<f32>,
    /// The feed-forward.
    pub ffn: Ffn,
}

/// A feed-forward: `down · (silu(gate · x) ⊙ (up · x))`.
#[derive(Clone, Debug)]
pub enum Ffn {
    /// One for all tokens.
    Dense {
        /// `[n_ff, n_embd]`.
        gate: Tensor,
        /// `[n_ff, n_embd]`.
        up: Tensor,
        /// `[n_embd, n_ff]`.
        down: Tensor,
    },
    /// Experts, of which a router picks some for each token.
    Moe {
        /// `[n_expert, n_embd]`.
        router: Tensor,
        /// `n_expert` of `[n_ff_expert, n_embd]`.
        gate: Tensor,
        /// `n_expert` of `[n_ff_expert, n_embd]`.
        up: Tensor,
        /// `n_expert` of `[n_embd, n_ff_expert]`.
        down: Tensor,
    },
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The table of token embeddings.
    Embedding,
    /// q, k, v and the output of attention, with biases.
    Attention,
    /// Dense feed-forwards.
    FeedForward,
    /// Feed-forwards of experts.
    Experts,
    /// What picks the experts.
    Router,
    /// Norms, and the factors of rotary frequencies.
    Norms,
    /// The output head, unless it is the embedding.
    Output,
}

impl Component {
    /// All of them, in a model's order.
    pub const ALL: [Self; 7] = [
        Self::Embedding,
        Self::Attention,
        Self::FeedForward,
        Self::Experts,
        Self::Router,
        Self::Norms,
        Self::Output,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::FeedForward => "feed-forward",
            Self::Experts => "experts",
            Self::Router => "router",
            Self::Norms => "norms",
            Self::Output => "output",
        }
    }
}

/// How large a component is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Parameters.
    pub elements: u64,
    /// Bytes in memory.
    pub bytes: u64,
}

impl ModelWeights {
    /// How large a component is; the output head of a tied model counts as embedding.
    pub fn size(&self, component: Component) -> Size {
        let mut size = Size::default();
        self.visit(|of, part| {
            if of == component {
                size.elements += part.elements;
                size.bytes += part.bytes;
            }
        });
        size
    }

    /// How large the whole model is.
    pub fn total(&self) -> Size {
        let mut size = Size::default();
        self.visit(|_, part| {
            size.elements += part.elements;
            size.bytes += part.bytes;
        });
        size
    }

    /// Bytes of matrices that are not the file's own but copies: converted, or cut.
    pub fn copied_bytes(&self) -> u64 {
        let layers = self.layers.iter().flat_map(|layer| {
            let (Ffn::Dense { gate, up, down } | Ffn::Moe { gate, up, down, .. }) = &layer.ffn;
            [&layer.wq, &layer.wk, &layer.wv, &layer.wo, gate, up, down]
        });
        let all = layers.chain([&self.token_embd]);
        let all = all.chain((!self.tied).then_some(&self.output));
        let copies = all.filter(|tensor| !tensor.is_mapped());
        copies.map(Tensor::bytes).sum()
    }

    fn visit(&self, mut see: impl FnMut(Component, Size)) {
        see(Component::Embedding, tensor_size(&self.token_embd));
        if !self.tied {
            see(Component::Output, tensor_size(&self.output));
        }
        see(Component::Norms, vector_size(&self.output_norm));
        if let Some(factors) = &self.rope_freqs {
            see(Component::Norms, vector_size(factors));
        }
        for layer in &self.layers {
            for matrix in [&layer.wq, &layer.wk, &layer.wv, &layer.wo] {
                see(Component::Attention, tensor_size(matrix));
            }
            for bias in [&layer.bq, &layer.bk, &layer.bv].into_iter().flatten() {
                see(Component::Attention, vector_size(bias));
            }
            let head_norms = [&layer.q_norm, &layer.k_norm].into_iter().flatten();
            for norm in head_norms.chain([&layer.attn_norm, &layer.ffn_norm]) {
                see(Component::Norms, vector_size(norm));
            }
            let (component, matrices) = match &layer.ffn {
                Ffn::Dense { gate, up, down } => (Component::FeedForward, [gate, up, down]),
                Ffn::Moe {
                    router,
                    gate,
                    up,
                    down,
                } => {
                    see(Component::Router, tensor_size(router));
                    (Component::Experts, [gate, up, down])
                }
            };
            for matrix in matrices {
                see(component, tensor_size(matrix));
            }
        }
    }
}

fn tensor_size(tensor: &Tensor) -> Size {
    Size {
        elements: tensor.shape().elements() as u64,
        bytes: tensor.bytes(),
    }
}

fn vector_size(vector: &[f32]) -> Size {
    Size {
        elements: vector.len() as u64,
        bytes: size_of_val(vector) as u64,
    }
}
