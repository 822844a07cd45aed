//! The model in candle: Qwen3's layers, dense or with experts, under the names that a GGUF file has for the weights.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::ops::{silu, softmax};
use candle_nn::rotary_emb::rope_slow;
use rand::Rng;
use rand::rngs::StdRng;
use tokgate::engine::config::{Architecture, ModelConfig};
use tokgate_kernels::rope::{RopeKind, RopeScaling, RopeSpec};

use crate::data::{self, Batch, NUMBERS, VOCAB};

/// Positions; a task of eight numbers takes 31.
const CONTEXT: usize = 64;

/// Base of the rotary embedding.
const THETA: f64 = 1e4;

/// Added to the mean square of a row.
const EPSILON: f64 = 1e-6;

/// What differs between the two models.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Feed-forward length; of each expert, if there are any.
    pub n_ff: usize,
    /// Experts, or 0.
    pub n_expert: usize,
    /// Experts of a token.
    pub n_used: usize,
}

impl Shape {
    /// One feed-forward.
    pub const DENSE: Self = Self {
        n_ff: 128,
        n_expert: 0,
        n_used: 0,
    };

    /// Two of eight experts serve a token.
    pub const MOE: Self = Self {
        n_ff: 64,
        n_expert: 8,
        n_used: 2,
    };

    /// As the engine describes a model.
    pub fn config(self) -> ModelConfig {
        let moe = self.n_expert > 0;
        let head_dim = 32;
        ModelConfig {
            architecture: if moe {
                Architecture::Qwen3Moe
            } else {
                Architecture::Qwen3
            },
            name: Some(if moe { "sort moe" } else { "sort dense" }.to_owned()),
            n_layer: 2,
            n_embd: 64,
            n_head: 4,
            n_kv_head: 2,
            head_dim,
            n_ff: if moe { 2 * self.n_ff } else { self.n_ff },
            n_expert: self.n_expert,
            n_expert_used: self.n_used,
            n_ff_expert: if moe { self.n_ff } else { 0 },
            norm_topk_prob: true,
            n_vocab: VOCAB,
            n_context: CONTEXT,
            rms_eps: EPSILON as f32,
            rope: RopeSpec {
                kind: RopeKind::NeoX,
                n_dims: head_dim,
                theta: THETA,
                scaling: RopeScaling::None,
                freq_factors: None,
            },
            sliding_window: None,
            tied: true,
            qkv_bias: false,
            qk_norm: true,
        }
    }
}

/// Weights and what the forward pass needs beside them.
pub struct Net {
    /// Sizes.
    pub config: ModelConfig,
    /// Weights by name, each with the dimensions that candle has: the fastest last.
    pub weights: BTreeMap<String, Var>,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    device: Device,
}

impl Net {
    /// Random weights.
    pub fn new(shape: Shape, rng: &mut StdRng, device: &Device) -> anyhow::Result<Self> {
        let config = shape.config();
        let mut weights = BTreeMap::new();
        for (name, dims) in tensors(&config) {
            let count: usize = dims.iter().product();
            let mut values: Vec<f32> = if dims.len() == 1 {
                vec![1.0; count]
            } else {
                let deviation = 1.0 / (dims[dims.len() - 1] as f32).sqrt();
                (0..count).map(|_| deviation * normal(rng)).collect()
            };
            if name == "token_embd.weight" {
                tell_order(&mut values, config.n_embd);
            }
            let tensor = Tensor::from_vec(values, dims, device)?;
            weights.insert(name, Var::from_tensor(&tensor)?);
        }
        let half = config.head_dim / 2;
        let angles: Vec<f32> = (0..CONTEXT)
            .flat_map(|position| {
                (0..half).map(move |pair| {
                    (position as f64 / THETA.powf(pair as f64 / half as f64)) as f32
                })
            })
            .collect();
        let angles = Tensor::from_vec(angles, (CONTEXT, half), device)?;
        let mask: Vec<f32> = (0..CONTEXT)
            .flat_map(|i| (0..CONTEXT).map(move |j| if j <= i { 0.0 } else { -1e9 }))
            .collect();
        Ok(Self {
            cos: angles.cos()?,
            sin: angles.sin()?,
            mask: Tensor::from_vec(mask, (CONTEXT, CONTEXT), device)?,
            config,
            weights,
            device: device.clone(),
        })
    }

    /// What the optimiser moves.
    pub fn vars(&self) -> Vec<Var> {
        self.weights.values().cloned().collect()
    }

    /// Elements of all weights.
    pub fn parameters(&self) -> usize {
        self.weights.values().map(|var| var.elem_count()).sum()
    }

    /// Mean cross-entropy of the answers' tokens, and how unevenly the experts are used (1 is even).
    pub fn loss(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let (logits, balance) = self.answers(batch)?;
        Ok((cross_entropy(&logits, &self.targets(batch)?)?, balance))
    }

    /// Sequences whose whole answer is the likeliest at each of its tokens: what greedy decoding would give.
    pub fn right(&self, batch: &Batch) -> Result<u32> {
        let (logits, _) = self.answers(batch)?;
        let same = logits.argmax(D::Minus1)?.eq(&self.targets(batch)?)?;
        let same: Vec<u8> = same.to_vec1()?;
        let right = same.chunks(batch.length - batch.prompt);
        Ok(right
            .filter(|answer| answer.iter().all(|same| *same == 1))
            .count() as u32)
    }

    fn targets(&self, batch: &Batch) -> Result<Tensor> {
        let answers = batch.tokens.chunks(batch.length);
        let answers: Vec<u32> = answers
            .flat_map(|row| row[batch.prompt..].to_vec())
            .collect();
        Tensor::new(answers, &self.device)
    }

    /// Logits before each token of the answers, `[sequences · answer, vocabulary]`.
    fn answers(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let (rows, length, d) = (batch.sequences, batch.length, self.config.n_embd);
        let ids = Tensor::new(&batch.tokens[..], &self.device)?;
        let embedding = self.get("token_embd");
        let mut x = embedding
            .index_select(&ids, 0)?
            .reshape((rows, length, d))?;
        let mut balance = Tensor::zeros((), DType::F32, &self.device)?;
        for layer in 0..self.config.n_layer {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let normed = self.norm(&x, &name("attn_norm"))?;
            x = (x + self.attention(&normed, layer)?)?;
            let normed = self
                .norm(&x, &name("ffn_norm"))?
                .reshape((rows * length, d))?;
            let moved = if self.config.is_moe() {
                let (moved, uneven) = self.experts(&normed, layer)?;
                balance = (balance + uneven)?;
                moved
            } else {
                let gate = silu(&self.linear(&normed, &name("ffn_gate"))?)?;
                let up = self.linear(&normed, &name("ffn_up"))?;
                self.linear(&(gate * up)?, &name("ffn_down"))?
            };
            x = (x + moved.reshape((rows, length, d))?)?;
        }
        // The token before each of the answer's predicts it.
        let answer = length - batch.prompt;
        let x = x.narrow(1, batch.prompt - 1, answer)?.contiguous()?;
        let x = self.norm(&x, "output_norm")?.reshape((rows * answer, d))?;
        Ok((x.matmul(&embedding.t()?)?, balance))
    }

    fn attention(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let (rows, length, d) = x.dims3()?;
        let (n_head, n_kv, size) = (
            self.config.n_head,
            self.config.n_kv_head,
            self.config.head_dim,
        );
        let name = |part: &str| format!("blk.{layer}.{part}");
        let flat = x.reshape((rows * length, d))?;
        let heads = |part: &str, heads: usize| {
            let y = self.linear(&flat, &name(part))?;
            y.reshape((rows, length, heads, size))
        };
        let turned = |y: Tensor| rope_slow(&y.transpose(1, 2)?.contiguous()?, &self.cos, &self.sin);
        let q = turned(self.norm(&heads("attn_q", n_head)?, &name("attn_q_norm"))?)?;
        let k = turned(self.norm(&heads("attn_k", n_kv)?, &name("attn_k_norm"))?)?;
        let v = heads("attn_v", n_kv)?.transpose(1, 2)?.contiguous()?;
        // Each head of keys serves a group of queries: their rows are put below each other.
        let grouped = (rows * n_kv, n_head / n_kv * length, size);
        let flat_kv = (rows * n_kv, length, size);
        let scores = q
            .contiguous()?
            .reshape(grouped)?
            .matmul(&k.reshape(flat_kv)?.t()?)?;
        let scores = (scores / (size as f64).sqrt())?.reshape((rows, n_head, length, length))?;
        let mask = self.mask.narrow(0, 0, length)?.narrow(1, 0, length)?;
        let weights = softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        let weights = weights.reshape((rows * n_kv, n_head / n_kv * length, length))?;
        let out = weights.matmul(&v.reshape(flat_kv)?)?;
        let out = out.reshape((rows, n_head, length, size))?.transpose(1, 2)?;
        let out = out.contiguous()?.reshape((rows * length, n_head * size))?;
        self.linear(&out, &name("attn_output"))?
            .reshape((rows, length, d))
    }

    /// All experts for all tokens, each weighted with what the router gives it: so few and so small that sorting tokens
    /// would cost more. Also `n · Σ share of tokens · share of probability`.
    fn experts(&self, x: &Tensor, layer: usize) -> Result<(Tensor, Tensor)> {
        let (n, used, n_ff) = (
            self.config.n_expert,
            self.config.n_expert_used,
            self.config.n_ff_expert,
        );
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (tokens, d) = x.dims2()?;
        let p = softmax(&self.linear(x, &name("ffn_gate_inp"))?, D::Minus1)?;
        let (sorted, _) = p.detach().contiguous()?.sort_last_dim(false)?;
        let least = sorted.narrow(1, used - 1, 1)?;
        let chosen = p.detach().broadcast_ge(&least)?.to_dtype(DType::F32)?;
        let weights = (&p * &chosen)?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(1)?)?;
        let share = (chosen.mean(0)? / used as f64)?;
        let uneven = ((share * p.mean(0)?)?.sum_all()? * n as f64)?;

        let flat = |part: &str| self.get(&name(part)).reshape((n * n_ff, d));
        let gate = silu(&x.matmul(&flat("ffn_gate_exps")?.t()?)?)?;
        let h = (gate * x.matmul(&flat("ffn_up_exps")?.t()?)?)?;
        let h = h
            .reshape((tokens, n, n_ff))?
            .broadcast_mul(&weights.unsqueeze(2)?)?;
        let down = self.get(&name("ffn_down_exps")).transpose(1, 2)?;
        let down = down.contiguous()?.reshape((n * n_ff, d))?;
        Ok((h.reshape((tokens, n * n_ff))?.matmul(&down)?, uneven))
    }

    fn get(&self, name: &str) -> &Tensor {
        self.weights[&format!("{name}.weight")].as_tensor()
    }

    /// `x · wᵀ`.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.matmul(&self.get(name).t()?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + EPSILON)?.sqrt()?)?;
        x.broadcast_mul(self.get(name))
    }
}

/// Puts waves of the numbers' values, from long to short, into the first half of their embeddings: that they have an
/// order need not be learned from examples, only what to do with it.
fn tell_order(embedding: &mut [f32], d: usize) {
    let waves = d / 4;
    for (token, row) in embedding.chunks_mut(d).enumerate() {
        let Some(number) = data::number(token) else {
            continue;
        };
        for wave in 0..waves {
            let (longest, shortest) = (4.0 * NUMBERS as f32, 4.0_f32);
            let length = longest * (shortest / longest).powf(wave as f32 / (waves - 1) as f32);
            let angle = std::f32::consts::TAU * number as f32 / length;
            row[2 * wave] = 1.5 * angle.cos() / (d as f32).sqrt();
            row[2 * wave + 1] = 1.5 * angle.sin() / (d as f32).sqrt();
        }
    }
}

/// Scales gradients down so that their norm is at most `limit`.
pub fn clip(vars: &[Var], grads: &mut GradStore, limit: f64) -> Result<()> {
    let mut square = 0.0;
    for grad in vars.iter().filter_map(|var| grads.get(var)) {
        square += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    if square.sqrt() > limit {
        for var in vars {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, (grad * (limit / square.sqrt()))?);
            }
        }
    }
    Ok(())
}

/// Names and dimensions of all weights, the fastest dimension last.
fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let d = config.n_embd;
    let (n_q, n_kv) = (
        config.n_head * config.head_dim,
        config.n_kv_head * config.head_dim,
    );
    let mut tensors = vec![("token_embd".to_owned(), vec![VOCAB, d])];
    for layer in 0..config.n_layer {
        let mut add = |part: &str, dims: &[usize]| {
            tensors.push((format!("blk.{layer}.{part}"), dims.to_vec()));
        };
        add("attn_norm", &[d]);
        add("attn_q", &[n_q, d]);
        add("attn_k", &[n_kv, d]);
        add("attn_v", &[n_kv, d]);
        add("attn_q_norm", &[config.head_dim]);
        add("attn_k_norm", &[config.head_dim]);
        add("attn_output", &[d, n_q]);
        add("ffn_norm", &[d]);
        if config.is_moe() {
            let (n, n_ff) = (config.n_expert, config.n_ff_expert);
            add("ffn_gate_inp", &[n, d]);
            add("ffn_gate_exps", &[n, n_ff, d]);
            add("ffn_up_exps", &[n, n_ff, d]);
            add("ffn_down_exps", &[n, d, n_ff]);
        } else {
            add("ffn_gate", &[config.n_ff, d]);
            add("ffn_up", &[config.n_ff, d]);
            add("ffn_down", &[d, config.n_ff]);
        }
    }
    tensors.push(("output_norm".to_owned(), vec![d]));
    let with_suffix = tensors.into_iter();
    with_suffix
        .map(|(name, dims)| (format!("{name}.weight"), dims))
        .collect()
}

/// Box and Muller's: candle's own generator takes no seed on the CPU.
fn normal(rng: &mut StdRng) -> f32 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
}
