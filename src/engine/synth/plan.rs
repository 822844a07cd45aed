//! What goes into a synthesised file, and where.

use tokgate_kernels::DType;

use super::Synth;
use super::fill::Spread;
use crate::engine::config::{Architecture, ModelConfig};
use crate::engine::gguf::{MetaValue, Writer};
use crate::engine::tokenizer::synthetic;

/// A file that is ready to be written.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    config: ModelConfig,
    header: Vec<u8>,
    tensors: Vec<Filled>,
    len: u64,
}

/// A tensor and its numbers.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    pub name: String,
    pub dtype: DType,
    /// Rows of all experts.
    pub rows: usize,
    pub cols: usize,
    pub numbers: Spread,
    /// Bytes before it in the file.
    pub start: u64,
}

impl Filled {
    pub fn row_bytes(&self) -> usize {
        self.dtype
            .row_bytes(self.cols)
            .expect("presets have rows of whole blocks")
    }
}

impl Plan {
    /// Lays the file out.
    pub fn new(synth: Synth) -> Self {
        let mut config = synth.preset.config();
        config.n_layer = synth.layers.unwrap_or(config.n_layer);
        let mut writer = Writer::default();
        let name = config.name.clone().unwrap_or_default();
        model_entries(
            &mut writer,
            &config,
            synth.dtype,
            &format!("{name} synthetic"),
        );
        if synth.vocabulary {
            for (key, value) in synthetic(config.n_vocab, synth.seed).into_metadata() {
                writer.entry(key, &value);
            }
        } else {
            let none = MetaValue::Str("no_vocab".to_owned());
            writer.entry("tokenizer.ggml.model", &none);
        }
        let mut tensors = Tensors {
            writer,
            filled: Vec::new(),
        };
        tensors.add_model(&config, synth.dtype);
        let Tensors { writer, mut filled } = tensors;
        let layout = writer.finish();
        for (tensor, data) in filled.iter_mut().zip(&layout.tensors) {
            tensor.start = data.start;
        }
        Self {
            seed: synth.seed,
            config,
            header: layout.header,
            tensors: filled,
            len: layout.len,
        }
    }

    /// Sizes and parameters of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the file.
    #[expect(clippy::len_without_is_empty, reason = "a file has a header at least")]
    pub fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    pub(super) fn tensors(&self) -> &[Filled] {
        &self.tensors
    }
}

/// Adds the metadata of a model whose matrices are of `dtype` and which calls itself `name`.
pub fn model_entries(writer: &mut Writer, config: &ModelConfig, dtype: DType, name: &str) {
    let number = |value: usize| MetaValue::U32(value as u32);
    let architecture = config.architecture;
    // llama.cpp's `enum llama_ftype`.
    let file_type = match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q8_0 => 7,
        DType::Bf16 => 32,
    };
    let text = |text: &str| MetaValue::Str(text.to_owned());
    writer.entry("general.architecture", &text(architecture.name()));
    writer.entry("general.type", &text("model"));
    writer.entry("general.name", &text(name));
    writer.entry("general.file_type", &number(file_type));
    writer.entry("general.quantization_version", &number(2));

    let mut entry = |key: &str, value| writer.entry(&format!("{architecture}.{key}"), &value);
    entry("block_count", number(config.n_layer));
    entry("context_length", number(config.n_context));
    entry("embedding_length", number(config.n_embd));
    entry("feed_forward_length", number(config.n_ff));
    entry("vocab_size", number(config.n_vocab));
    entry("attention.head_count", number(config.n_head));
    entry("attention.head_count_kv", number(config.n_kv_head));
    entry("attention.key_length", number(config.head_dim));
    entry("attention.value_length", number(config.head_dim));
    let epsilon = MetaValue::F32(config.rms_eps);
    entry("attention.layer_norm_rms_epsilon", epsilon);
    entry("rope.dimension_count", number(config.rope.n_dims));
    entry("rope.freq_base", MetaValue::F32(config.rope.theta as f32));
    if config.is_moe() {
        entry("expert_count", number(config.n_expert));
        entry("expert_used_count", number(config.n_expert_used));
        if architecture == Architecture::Qwen3Moe {
            entry("expert_feed_forward_length", number(config.n_ff_expert));
        }
    }
}

struct Tensors {
    writer: Writer,
    filled: Vec<Filled>,
}

impl Tensors {
    /// In llama.cpp's order: the file is read front to back on the first pass.
    fn add_model(&mut self, config: &ModelConfig, dtype: DType) {
        let d = config.n_embd;
        let (n_q, n_kv) = (
            config.n_head * config.head_dim,
            config.n_kv_head * config.head_dim,
        );
        // The embedding of an untied model may be as large as what layers add to it; a tied one is the head, too.
        let embedding = if config.tied { deviation(d, 2.0) } else { 1.0 };
        self.matrix("token_embd.weight", dtype, &[d, config.n_vocab], embedding);
        for layer in 0..config.n_layer {
            let name = |tensor: &str| format!("blk.{layer}.{tensor}.weight");
            let mut matrix = |tensor: &str, dims: &[usize]| {
                self.matrix(&name(tensor), dtype, dims, deviation(dims[0], 1.0));
            };
            matrix("attn_q", &[d, n_q]);
            matrix("attn_k", &[d, n_kv]);
            matrix("attn_v", &[d, n_kv]);
            matrix("attn_output", &[n_q, d]);
            if config.is_moe() {
                let (experts, n_ff) = (config.n_expert, config.n_ff_expert);
                matrix("ffn_gate_exps", &[d, n_ff, experts]);
                matrix("ffn_up_exps", &[d, n_ff, experts]);
                matrix("ffn_down_exps", &[n_ff, d, experts]);
                let router = name("ffn_gate_inp");
                self.matrix(&router, DType::F32, &[d, experts], deviation(d, 2.0));
            } else {
                matrix("ffn_gate", &[d, config.n_ff]);
                matrix("ffn_up", &[d, config.n_ff]);
                matrix("ffn_down", &[config.n_ff, d]);
            }
            self.norm(&name("attn_norm"), d);
            self.norm(&name("ffn_norm"), d);
            if config.qk_norm {
                self.norm(&name("attn_q_norm"), config.head_dim);
                self.norm(&name("attn_k_norm"), config.head_dim);
            }
        }
        self.norm("output_norm.weight", d);
        if !config.tied {
            let dims = [d, config.n_vocab];
            self.matrix("output.weight", dtype, &dims, deviation(d, 2.0));
        }
    }

    fn matrix(&mut self, name: &str, dtype: DType, dims: &[usize], deviation: f32) {
        let numbers = Spread {
            center: 0.0,
            spread: deviation * 3.0_f32.sqrt(),
        };
        self.add(name, dtype, dims, numbers);
    }

    fn norm(&mut self, name: &str, len: usize) {
        let numbers = Spread {
            center: 1.0,
            spread: 0.1,
        };
        self.add(name, DType::F32, &[len], numbers);
    }

    fn add(&mut self, name: &str, dtype: DType, dims: &[usize], numbers: Spread) {
        self.writer.tensor(name, dims, dtype.into());
        self.filled.push(Filled {
            name: name.to_owned(),
            dtype,
            rows: dims[1..].iter().product(),
            cols: dims[0],
            numbers,
            start: 0,
        });
    }
}

/// `gain / √inputs`.
fn deviation(inputs: usize, gain: f32) -> f32 {
    gain / (inputs as f32).sqrt()
}
