//! Configurations: from the keys of GGUF files and from the `config.json` of published models.

use tokgate::engine::config::{Architecture, ConfigError, ModelConfig};
use tokgate::engine::gguf::{Gguf, Parts};
use tokgate::engine::synth::Preset;
use tokgate_kernels::DType;
use tokgate_kernels::rope::{RopeKind, RopeScaling, RopeSpec};

use crate::raw::{ARRAY, F32, File, STR, U32, array_value, str_value};

fn read(file: &File) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_gguf(&Parts::from(Gguf::parse(&file.bytes()).unwrap()))
}

fn number(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// Keys that a model must have, without the architecture's prefix.
const REQUIRED: [&str; 6] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
];

#[test]
fn a_missing_or_mistyped_key_is_named() {
    let file = File::synth(Preset::TinyDense, DType::Q8_0);
    for key in REQUIRED
        .map(|key| format!("llama.{key}"))
        .iter()
        .chain(["general.architecture".into()].iter())
    {
        let mut without = file.clone();
        without.entries.retain(|entry| entry.key != key.as_bytes());
        let text = read(&without).unwrap_err().to_string();
        assert_eq!(
            text,
            format!("the metadata have no key {key:?}, which is needed")
        );
    }
    // Every key that is there at all may be of another type.
    for index in 0..file.entries.len() {
        let mut mistyped = file.clone();
        let entry = &mut mistyped.entries[index];
        let key = String::from_utf8(entry.key.clone()).unwrap();
        (entry.kind, entry.value) = match entry.kind {
            STR => (U32, number(1)),
            _ => (STR, str_value(b"1")),
        };
        match read(&mistyped) {
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.starts_with(&format!("metadata key {key:?} is ")),
                    "{text}"
                );
            }
            Ok(_) => assert!(
                [
                    "general.type",
                    "general.file_type",
                    "general.quantization_version",
                    "llama.vocab_size",
                    "tokenizer.ggml.model"
                ]
                .contains(&key.as_str()),
                "{key} is read, and may be anything"
            ),
        }
    }
}

#[test]
fn numbers_out_of_range_are_named() {
    let file = File::synth(Preset::TinyMoe, DType::Q8_0);
    let cases = [
        (
            "block_count",
            0,
            "the number of layers is 0, expected 1 to 1024",
        ),
        (
            "block_count",
            u32::MAX,
            "the number of layers is 4294967295",
        ),
        ("embedding_length", 0, "the embedding length is 0"),
        (
            "embedding_length",
            u32::MAX,
            "the embedding length is 4294967295",
        ),
        ("attention.head_count", 0, "the number of heads is 0"),
        (
            "attention.head_count",
            5,
            "the number of heads is 5, which is not a multiple of 2",
        ),
        (
            "attention.head_count_kv",
            0,
            "the number of KV heads is 0, expected 1 to 6",
        ),
        (
            "attention.head_count_kv",
            7,
            "the number of KV heads is 7, expected 1 to 6",
        ),
        (
            "attention.key_length",
            0,
            "a value length that differs from the key length is 64 instead of 0",
        ),
        ("context_length", 0, "the context length is 0"),
        (
            "context_length",
            u32::MAX,
            "the context length is 4294967295",
        ),
        ("expert_count", 5000, "the number of experts is 5000"),
        (
            "expert_used_count",
            0,
            "the experts of a token is 0, expected 1 to 16",
        ),
        (
            "expert_used_count",
            17,
            "the experts of a token is 17, expected 1 to 16",
        ),
        (
            "expert_feed_forward_length",
            0,
            "the feed-forward length of experts is 0",
        ),
        ("rope.dimension_count", 0, "the rotary dimensions is 0"),
        (
            "rope.dimension_count",
            63,
            "the number of rotary dimensions is 63, which is not a multiple of 2",
        ),
        (
            "rope.dimension_count",
            66,
            "the rotary dimensions is 66, expected 2 to 64",
        ),
    ];
    for (key, value, wanted) in cases {
        let mut file = file.clone();
        file.entry_mut(&format!("qwen3moe.{key}")).value = number(value);
        let text = read(&file).unwrap_err().to_string();
        assert!(text.starts_with(wanted), "{text:?} instead of {wanted:?}");
    }
    for epsilon in [0.0, -1.0, 1.0, f32::NAN, f32::INFINITY] {
        let mut file = file.clone();
        let entry = file.entry_mut("qwen3moe.attention.layer_norm_rms_epsilon");
        entry.value = epsilon.to_le_bytes().to_vec();
        assert!(matches!(read(&file), Err(ConfigError::Epsilon(_))));
    }
}

#[test]
fn an_unknown_architecture_is_named() {
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    file.entry_mut("general.architecture").value = str_value(b"mamba");
    let text = read(&file).unwrap_err().to_string();
    assert!(
        text.starts_with("architecture \"mamba\" is not supported; supported are"),
        "{text}"
    );
}

#[test]
fn numbers_by_layer_are_read_where_they_are_all_the_same() {
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    let heads = file.entry_mut("llama.attention.head_count_kv");
    heads.kind = ARRAY;
    heads.value = array_value(U32, 2, &[number(2), number(2)].concat());
    assert_eq!(read(&file).unwrap().n_kv_head, 2);
    for values in [vec![], [number(2), number(4)].concat()] {
        let heads = file.entry_mut("llama.attention.head_count_kv");
        heads.value = array_value(U32, values.len() as u64 / 4, &values);
        let text = read(&file).unwrap_err().to_string();
        assert!(
            text.starts_with("attention.head_count_kv is not the same in all layers"),
            "{text}"
        );
    }
}

#[test]
fn rotary_scaling_is_read() {
    let scaling = |keys: &[(&str, u32, Vec<u8>)]| {
        let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
        for (key, kind, value) in keys {
            file.add(&format!("llama.rope.{key}"), *kind, value.clone());
        }
        read(&file)
            .map(|config| config.rope.scaling)
            .map_err(|error| error.to_string())
    };
    let float = |value: f32| value.to_le_bytes().to_vec();
    let kind = |name: &str| ("scaling.type", STR, str_value(name.as_bytes()));
    let factor = ("scaling.factor", F32, float(4.0));
    assert_eq!(scaling(&[]), Ok(RopeScaling::None));
    assert_eq!(
        scaling(&[kind("none"), factor.clone()]),
        Ok(RopeScaling::None)
    );
    let linear = Ok(RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&[kind("linear"), factor.clone()]), linear);
    assert_eq!(scaling(&[("scale_linear", F32, float(4.0))]), linear);
    let context = ("scaling.original_context_length", U32, number(512));
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 512,
        ext_factor: 1.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    assert_eq!(scaling(&[kind("yarn"), factor.clone(), context]), Ok(yarn));
    let text = scaling(&[kind("longrope"), factor]).unwrap_err();
    assert_eq!(
        text,
        "the rotary scaling is \"longrope\", which is not supported"
    );
}

/// The fields that all configurations below share.
fn json(class: &str, fields: &str) -> Vec<u8> {
    format!(r#"{{"architectures": ["{class}"], "hidden_act": "silu", {fields}}}"#).into_bytes()
}

fn huggingface(class: &str, fields: &str) -> Result<ModelConfig, String> {
    ModelConfig::from_huggingface(&json(class, fields)).map_err(|error| error.to_string())
}

/// What a preset has, in the order of pairs that safetensors have.
fn preset(preset: Preset) -> ModelConfig {
    let config = preset.config();
    ModelConfig {
        name: None,
        rope: RopeSpec {
            kind: RopeKind::NeoX,
            ..config.rope
        },
        ..config
    }
}

const LLAMA2: &str = r#""hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-05,
    "rope_scaling": null, "tie_word_embeddings": false, "vocab_size": 32000, "torch_dtype": "float16""#;

const QWEN3: &str = r#""attention_bias": false, "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
    "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936"#;

#[test]
fn published_configurations_are_the_presets() {
    let qwen3_moe = r#""decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "use_sliding_window": false, "tie_word_embeddings": false, "vocab_size": 151936"#;
    let mixtral = r#""hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null,
        "tie_word_embeddings": false, "vocab_size": 32000"#;
    let cases = [
        (Preset::Llama2_7b, "LlamaForCausalLM", LLAMA2),
        (Preset::Qwen3_0_6b, "Qwen3ForCausalLM", QWEN3),
        (Preset::Qwen3_30bA3b, "Qwen3MoeForCausalLM", qwen3_moe),
        (Preset::Mixtral8x7b, "MixtralForCausalLM", mixtral),
    ];
    for (name, class, fields) in cases {
        assert_eq!(huggingface(class, fields), Ok(preset(name)), "{name}");
    }
}

#[test]
fn variants_of_config_json_are_read() {
    let with = |more: &str| huggingface("LlamaForCausalLM", &format!("{LLAMA2}, {more}"));
    // Llama 3.1.
    let fields = LLAMA2.replace(
        "\"rope_scaling\": null",
        r#""rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}"#,
    );
    let llama3 = huggingface("LlamaForCausalLM", &fields).unwrap().rope;
    let wanted = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    assert_eq!((llama3.theta, llama3.scaling), (500_000.0, wanted));
    // transformers 5.
    let fields = LLAMA2.replace(
        "rope_scaling\": null",
        r#"rope_parameters": {"rope_type": "default", "rope_theta": 7e5}"#,
    );
    let rope = huggingface("LlamaForCausalLM", &fields).unwrap().rope;
    assert_eq!((rope.theta, rope.scaling), (7e5, RopeScaling::None));
    // Qwen with its documented extension.
    let yarn = r#"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}"#;
    let fields = QWEN3.replace("rope_scaling\": null", yarn);
    let rope = huggingface("Qwen3ForCausalLM", &fields).unwrap().rope;
    assert!(matches!(
        rope.scaling,
        RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32768,
            ..
        }
    ));
    // Older spelling of the type.
    let fields = LLAMA2.replace(
        "rope_scaling\": null",
        r#"rope_scaling": {"type": "linear", "factor": 2.0}"#,
    );
    let rope = huggingface("LlamaForCausalLM", &fields).unwrap().rope;
    assert_eq!(rope.scaling, RopeScaling::Linear { factor: 2.0 });
    // Mistral's window holds as it is, Qwen's only when switched on.
    assert_eq!(
        with("\"sliding_window\": 4096").unwrap().sliding_window,
        Some(4096)
    );
    let qwen2 = |more: &str| huggingface("Qwen2ForCausalLM", &format!("{LLAMA2}, {more}"));
    let off = qwen2(
        "\"sliding_window\": 131072, \"use_sliding_window\": false, \"max_window_layers\": 28",
    );
    let off = off.unwrap();
    assert_eq!(
        (off.architecture, off.sliding_window, off.qkv_bias),
        (Architecture::Qwen2, None, true)
    );
    let all =
        qwen2("\"sliding_window\": 4096, \"use_sliding_window\": true, \"max_window_layers\": 0");
    assert_eq!(all.unwrap().sliding_window, Some(4096));
    let none =
        qwen2("\"sliding_window\": 4096, \"use_sliding_window\": true, \"max_window_layers\": 32");
    assert_eq!(none.unwrap().sliding_window, None);
}

#[test]
fn what_config_json_asks_for_and_cannot_have_is_said() {
    let with = |more: &str| huggingface("LlamaForCausalLM", &format!("{LLAMA2}, {more}"));
    let cases = [
        (
            huggingface("GemmaForCausalLM", LLAMA2),
            "architecture \"GemmaForCausalLM\" is not supported",
        ),
        (
            huggingface("LlamaForCausalLM", "\"hidden_size\": 1"),
            "config.json: missing field `num_hidden_layers`",
        ),
        (
            with(r#""quantization_config": {"quant_method": "gptq", "bits": 4}"#),
            "quantization_config is \"gptq\", which is not supported: take the original model and let --dtype q8_0",
        ),
        (
            with(r#""quantization_config": {"quant_method": "awq"}"#),
            "quantization_config is \"awq\"",
        ),
        (
            with(r#""decoder_sparse_step": 2"#),
            "a model with experts in some layers only",
        ),
        (
            with(r#""mlp_only_layers": [0]"#),
            "a model with experts in some layers only",
        ),
        (
            huggingface(
                "LlamaForCausalLM",
                &LLAMA2.replace(
                    "rope_scaling\": null",
                    r#"rope_scaling": {"type": "dynamic"}"#,
                ),
            ),
            "config.json: unknown variant `dynamic`",
        ),
        (
            huggingface(
                "LlamaForCausalLM",
                &LLAMA2.replace(
                    "rope_scaling\": null",
                    r#"rope_scaling": {"rope_type": "llama3", "factor": 8.0}"#,
                ),
            ),
            "config.json: missing field `low_freq_factor`",
        ),
        (
            huggingface("LlamaForCausalLM", &LLAMA2.replace("32000", "-1")),
            "config.json: invalid value: integer `-1`",
        ),
        (
            huggingface(
                "LlamaForCausalLM",
                &LLAMA2.replace("\"num_hidden_layers\": 32", "\"num_hidden_layers\": 0"),
            ),
            "the number of layers is 0",
        ),
        (
            huggingface(
                "Qwen2ForCausalLM",
                &format!(
                    "{LLAMA2}, \"use_sliding_window\": true, \"max_window_layers\": 3, \"sliding_window\": 8"
                ),
            ),
            "a sliding window in some layers only is max_window_layers 3",
        ),
    ];
    for (result, wanted) in cases {
        let text = result.unwrap_err();
        assert!(text.starts_with(wanted), "{text:?} instead of {wanted:?}");
    }
    assert!(ModelConfig::from_huggingface(b"").is_err());
    assert!(ModelConfig::from_huggingface(&b"[".repeat(100_000)).is_err());
}
