//! Parts of a model's weights, for machines that compute it together.
//!
//! A matrix is cut by *rows* where each part yields its own outputs (q, k, v, gate, up, the output head), and by
//! *columns* where each part yields its share of a sum over all of them (the outputs of attention and feed-forward).
//! One follows the other, so that what lies between needs no exchange.
//!
//! Experts are cut so too, each of them, or are given to a part whole.
//!
//! MEMORY. Rows of a plain matrix stay mapped: nothing is read but the pages of these rows; so do whole experts. Columns,
//! and rows of each of a stack of experts, do not lie in one piece: they are copied, packed, into memory of their own, as many bytes as the
//! part has. The file's pages that were read for it can be dropped by the system.

use std::ops::Range;

use tokgate_kernels::{AttentionSpec, DType, q8_0};

use super::{Ffn, LayerWeights, ModelWeights, Tensor};
use crate::engine::config::ModelConfig;

/// What of a model one machine computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Query heads; the KV heads that they read come with them.
    pub heads: Range<usize>,
    /// Inner elements of the feed-forward, or of each expert's.
    pub ff: Range<usize>,
    /// Experts; none in a dense model.
    pub experts: Range<usize>,
    /// Tokens of the vocabulary that have their logits computed here.
    pub vocab: Range<usize>,
}

/// Query heads that go through attention in one call: parts of one group, or whole groups.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadRun {
    /// Query heads, counted from the part's first.
    pub heads: Range<usize>,
    /// KV heads, counted from the part's first.
    pub kv_heads: Range<usize>,
    /// Their attention.
    pub spec: AttentionSpec,
}

impl Part {
    /// All of a model.
    pub fn whole(config: &ModelConfig) -> Self {
        Self {
            heads: 0..config.n_head,
            ff: 0..inner(config),
            experts: 0..config.n_expert,
            vocab: 0..config.n_vocab,
        }
    }

    /// KV heads that the part's query heads read.
    pub fn kv_heads(&self, config: &ModelConfig) -> Range<usize> {
        let group = config.n_head / config.n_kv_head;
        match self.heads.is_empty() {
            true => 0..0,
            false => self.heads.start / group..self.heads.end.div_ceil(group),
        }
    }

    /// The sizes of the part: as the model's but for heads and inner elements. `n_vocab` stays, for tokens of the whole
    /// vocabulary come in.
    pub fn config(&self, config: &ModelConfig) -> ModelConfig {
        let ff = self.ff.len();
        let (n_ff, n_ff_expert) = match config.is_moe() {
            true => (config.n_ff, ff),
            false => (ff, config.n_ff_expert),
        };
        ModelConfig {
            n_head: self.heads.len(),
            n_kv_head: self.kv_heads(config).len(),
            n_ff,
            n_ff_expert,
            ..config.clone()
        }
    }

    /// The part's heads in runs that share KV heads evenly: at most the end of one group, whole groups, and the start of
    /// another.
    pub fn runs(&self, config: &ModelConfig, spec: AttentionSpec) -> Vec<HeadRun> {
        let group = config.n_head / config.n_kv_head;
        let (first, first_kv) = (self.heads.start, self.kv_heads(config).start);
        let mut runs = Vec::new();
        let mut at = first;
        while at < self.heads.end {
            let groups = match at.is_multiple_of(group) {
                true => (self.heads.end - at) / group,
                false => 0,
            };
            let end = match groups {
                0 => self.heads.end.min((at / group + 1) * group),
                groups => at + groups * group,
            };
            let kv = at / group - first_kv;
            runs.push(HeadRun {
                heads: at - first..end - first,
                kv_heads: kv..kv + groups.max(1),
                spec: AttentionSpec {
                    n_head: end - at,
                    n_kv_head: groups.max(1),
                    ..spec
                },
            });
            at = end;
        }
        runs
    }
}

/// Inner elements of a feed-forward, which parts share.
pub fn inner(config: &ModelConfig) -> usize {
    match config.is_moe() {
        true => config.n_ff_expert,
        false => config.n_ff,
    }
}

/// Columns that go together in a matrix of Q8_0.
pub const BLOCKS: usize = q8_0::BLOCK_LEN;

/// Columns that go together in any other matrix: what kernels take at a time.
pub const FLOATS: usize = 16;

impl ModelWeights {
    /// Multiples of so many columns are where the model's matrices may be cut.
    pub fn column_unit(&self) -> usize {
        let blocks = |tensor: &Tensor| tensor.dtype() == DType::Q8_0;
        let in_blocks = self.layers.iter().any(|layer| {
            let (Ffn::Dense { down, .. } | Ffn::Moe { down, .. }) = &layer.ffn;
            blocks(&layer.wo) || blocks(down)
        });
        if in_blocks { BLOCKS } else { FLOATS }
    }

    /// The weights of `part`, where `config` has the whole model's sizes.
    ///
    /// # Panics
    /// If the part is not one of this model's, or cuts blocks of Q8_0.
    pub fn part(&self, config: &ModelConfig, part: &Part) -> Self {
        let layers = self.layers.iter();
        Self {
            token_embd: self.token_embd.clone(),
            output: rows(&self.output, &part.vocab),
            output_norm: self.output_norm.clone(),
            rope_freqs: self.rope_freqs.clone(),
            layers: layers.map(|layer| layer.part(config, part)).collect(),
            requantized: self.requantized.clone(),
            tied: self.tied,
        }
    }
}

impl LayerWeights {
    fn part(&self, config: &ModelConfig, part: &Part) -> Self {
        let elements =
            |heads: &Range<usize>| heads.start * config.head_dim..heads.end * config.head_dim;
        let (q, kv) = (elements(&part.heads), elements(&part.kv_heads(config)));
        let bias = |bias: &Option<Vec<f32>>, of: &Range<usize>| {
            bias.as_ref().map(|bias| bias[of.clone()].to_vec())
        };
        Self {
            attn_norm: self.attn_norm.clone(),
            wq: rows(&self.wq, &q),
            wk: rows(&self.wk, &kv),
            wv: rows(&self.wv, &kv),
            wo: cols(&self.wo, &q),
            bq: bias(&self.bq, &q),
            bk: bias(&self.bk, &kv),
            bv: bias(&self.bv, &kv),
            q_norm: self.q_norm.clone(),
            k_norm: self.k_norm.clone(),
            ffn_norm: self.ffn_norm.clone(),
            ffn: match &self.ffn {
                Ffn::Dense { gate, up, down } => Ffn::Dense {
                    gate: rows(gate, &part.ff),
                    up: rows(up, &part.ff),
                    down: cols(down, &part.ff),
                },
                Ffn::Moe {
                    router,
                    gate,
                    up,
                    down,
                } => {
                    let [gate, up, down] =
                        [gate, up, down].map(|stack| stack.experts(part.experts.clone()));
                    Ffn::Moe {
                        router: router.clone(),
                        gate: rows(&gate, &part.ff),
                        up: rows(&up, &part.ff),
                        down: cols(&down, &part.ff),
                    }
                }
            },
        }
    }
}

fn rows(tensor: &Tensor, rows: &Range<usize>) -> Tensor {
    tensor.cut(rows.clone(), 0..tensor.shape().cols)
}

fn cols(tensor: &Tensor, cols: &Range<usize>) -> Tensor {
    tensor.cut(0..tensor.shape().rows, cols.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::synth::Preset;

    #[test]
    fn heads_fall_into_runs_that_share_evenly() {
        let config = ModelConfig {
            n_head: 32,
            n_kv_head: 4,
            ..Preset::TinyDense.config()
        };
        let spec = AttentionSpec {
            n_head: 32,
            n_kv_head: 4,
            head_dim: 64,
            scale: 1.0,
            window: None,
        };
        let runs = |heads: Range<usize>| {
            let part = Part {
                heads,
                ..Part::whole(&config)
            };
            let runs = part.runs(&config, spec).into_iter();
            runs.map(|run| (run.heads, run.kv_heads))
                .collect::<Vec<_>>()
        };
        assert_eq!(runs(0..32), [(0..32, 0..4)]);
        assert_eq!(runs(8..24), [(0..16, 0..2)]);
        assert_eq!(runs(6..26), [(0..2, 0..1), (2..18, 1..3), (18..20, 3..4)]);
        assert_eq!(runs(9..11), [(0..2, 0..1)]);
        assert_eq!(runs(5..5), []);
    }
}
