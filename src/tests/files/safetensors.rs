//! Safetensors folders: against files that candle writes, and damaged.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType as CandleType, Device, Tensor as Candle};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokgate::engine::gguf::{Gguf, Parts};
use tokgate::engine::inspect::Inspection;
use tokgate::engine::model_file::ModelFile;
use tokgate::engine::safetensors::{Folder, Safetensors};
use tokgate::engine::synth::Preset;
use tokgate::engine::weights::{LoadOptions, ModelWeights};
use tokgate_kernels::DType;

use crate::allocations::bounded;
use crate::raw::File;
use crate::weights::{PRESETS, matrices, values};

/// A file of this table; `data` bytes of data.
fn file(table: &str, data: usize) -> Vec<u8> {
    let length = table.len() as u64;
    [&length.to_le_bytes()[..], table.as_bytes(), &vec![7; data]].concat()
}

fn read(file: &[u8]) -> Result<Safetensors, String> {
    let read = bounded(4096 + 64 * file.len(), || Safetensors::parse(file));
    let read = read.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })?;
    assert!(
        read.tensors()
            .iter()
            .all(|tensor| tensor.data.end <= file.len())
    );
    Ok(read)
}

const GOOD: &str = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}, "c": {"dtype": "F8_E9", "shape": [1], "data_offsets": [32, 33]}}"#;

#[test]
fn a_good_file_is_read() {
    let good = file(GOOD, 33);
    let read = read(&good).unwrap();
    let names: Vec<_> = read
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
        .collect();
    assert_eq!(names, [("a", &[2, 3][..]), ("b", &[4]), ("c", &[1])]);
    assert_eq!(read.tensors()[1].data, good.len() - 9..good.len() - 1);
}

#[test]
fn cut_short_anywhere_it_is_an_error() {
    let good = file(GOOD, 33);
    for len in 0..good.len() {
        let text = read(&good[..len]).unwrap_err();
        assert!(text.contains("cut short"), "{len}: {text}");
    }
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let row = |row: &str| read(&file(&format!("{{\"a.b\": {row}}}"), 64)).unwrap_err();
    let tensor = |shape: &str, start: &str, end: &str| {
        row(&format!(
            r#"{{"dtype": "F32", "shape": {shape}, "data_offsets": [{start}, {end}]}}"#
        ))
    };
    let cases = [
        (
            read(&[0xff; 16]).unwrap_err(),
            "the header claims a length of 18446744073709551615 bytes",
        ),
        (
            read(&file("[]", 0)).unwrap_err(),
            "the header is not a JSON object",
        ),
        (
            read(&file("{", 0)).unwrap_err(),
            "the header is not a JSON object",
        ),
        (
            read(&file(&"[".repeat(9999), 0)).unwrap_err(),
            "the header is not a JSON object",
        ),
        (
            read(&file("{\"a\": \"\u{1}", 0)).unwrap_err(),
            "the header is not a JSON object",
        ),
        (row("7"), "tensor \"a.b\": invalid type"),
        (row("{}"), "tensor \"a.b\": missing field `dtype`"),
        (
            row(r#"{"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}"#),
            "tensor \"a.b\": invalid value",
        ),
        (
            row(r#"{"dtype": "F32", "shape": [1], "data_offsets": [0]}"#),
            "tensor \"a.b\": invalid length",
        ),
        (
            tensor("[2]", "8", "0"),
            "tensor \"a.b\": its data offsets 8..0 are not within the 64 bytes",
        ),
        (
            tensor("[2]", "60", "68"),
            "tensor \"a.b\": its data offsets 60..68 are not within the 64 bytes",
        ),
        (
            tensor("[2]", "0", "18446744073709551615"),
            "tensor \"a.b\": its data offsets 0..18446744073709551615",
        ),
        (
            tensor("[3]", "0", "8"),
            "tensor \"a.b\": shape [3] of \"F32\" does not take 8 bytes",
        ),
        (
            tensor("[4294967296, 4294967296]", "0", "0"),
            "tensor \"a.b\": shape [4294967296, 4294967296]",
        ),
        (
            tensor("[4611686018427387904]", "0", "0"),
            "tensor \"a.b\": shape [4611686018427387904]",
        ),
        (
            read(&file(&GOOD.replace("[24, 32]", "[20, 28]"), 33)).unwrap_err(),
            "tensors \"a\" and \"b\" overlap",
        ),
        (
            read(&file(&GOOD.replace("\"b\"", "\"a\""), 33)).unwrap_err(),
            "tensor \"a\" is listed twice",
        ),
    ];
    for (text, wanted) in cases {
        assert!(text.starts_with(wanted), "{text:?} instead of {wanted:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = file(GOOD, 33);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = read(&file);
    }
}

/// The name that transformers give a tensor.
fn huggingface_name(name: &str) -> String {
    let fixed = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let mut parts = name.split('.').skip(1);
            let (layer, tensor) = (parts.next().unwrap(), parts.next().unwrap());
            let tensor = match tensor {
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                "ffn_gate_inp" => "mlp.gate",
                other => panic!("{other}"),
            };
            return format!("model.layers.{layer}.{tensor}.weight");
        }
    };
    fixed.to_owned()
}

/// The tensors of an f32 model as transformers would have them.
fn tensors(model: &File, dtype: CandleType) -> HashMap<String, Candle> {
    let mut tensors = HashMap::new();
    for tensor in &model.tensors {
        let floats: Vec<f32> = tensor
            .data
            .as_chunks()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b))
            .collect();
        let shape: Vec<usize> = tensor.dims.iter().rev().map(|&dim| dim as usize).collect();
        let whole = Candle::from_vec(floats, shape, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        match tensor
            .name
            .split_once(".ffn_")
            .filter(|(_, part)| part.contains("_exps"))
        {
            Some((start, part)) => {
                let part = part.split('_').next().unwrap();
                let layer = start.strip_prefix("blk.").unwrap();
                for expert in 0..whole.dims()[0] {
                    let name =
                        format!("model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight");
                    tensors.insert(name, whole.get(expert).unwrap());
                }
            }
            None => {
                tensors.insert(huggingface_name(&tensor.name), whole);
            }
        }
    }
    tensors
}

fn config(preset: Preset, layers: usize) -> Value {
    let config = preset.config();
    json!({
        "architectures": [if config.is_moe() { "Qwen3MoeForCausalLM" } else { "LlamaForCausalLM" }],
        "hidden_size": config.n_embd, "intermediate_size": config.n_ff, "num_hidden_layers": layers,
        "num_attention_heads": config.n_head, "num_key_value_heads": config.n_kv_head, "head_dim": config.head_dim,
        "vocab_size": config.n_vocab, "max_position_embeddings": config.n_context, "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope.theta, "tie_word_embeddings": config.tied, "num_experts": config.n_expert,
        "num_experts_per_tok": config.n_expert_used, "moe_intermediate_size": config.n_ff_expert, "norm_topk_prob": true,
    })
}

fn write(folder: &Path, preset: Preset, tensors: &HashMap<String, Candle>, shards: usize) {
    std::fs::write(folder.join("config.json"), config(preset, 2).to_string()).unwrap();
    if shards == 1 {
        candle_core::safetensors::save(tensors, folder.join("model.safetensors")).unwrap();
        return;
    }
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for (index, part) in names.chunks(names.len().div_ceil(shards)).enumerate() {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", index + 1);
        let shard: HashMap<&str, Candle> = part
            .iter()
            .map(|n| (n.as_str(), tensors[*n].clone()))
            .collect();
        candle_core::safetensors::save(&shard, folder.join(&name)).unwrap();
        map.extend(
            part.iter()
                .map(|tensor| ((*tensor).clone(), name.clone().into())),
        );
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
}

fn open(folder: &Path, dtype: Option<DType>) -> ModelFile {
    let options = LoadOptions {
        dtype,
        ..LoadOptions::default()
    };
    ModelFile::open(folder, options).unwrap()
}

#[test]
fn a_folder_is_the_same_model_as_the_gguf() {
    for preset in PRESETS {
        let model = File::synth(preset, DType::F32);
        let parts = Parts::from(Gguf::parse(&model.bytes()).unwrap());
        let gguf = tokgate::engine::config::ModelConfig::from_gguf(&parts).unwrap();
        for (dtype, shards) in [
            (None, 1),
            (None, 3),
            (Some(DType::Q8_0), 2),
            (Some(DType::Bf16), 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            write(
                folder.path(),
                preset,
                &tensors(&model, CandleType::F32),
                shards,
            );
            let loaded = open(folder.path(), dtype);
            assert_eq!(loaded.config.n_ff_expert, gguf.n_ff_expert);
            assert_eq!(loaded.config.norm_topk_prob, gguf.norm_topk_prob);
            let options = LoadOptions {
                dtype,
                ..LoadOptions::default()
            };
            let wanted = ModelWeights::from_gguf(&parts, &gguf, options).unwrap();
            assert_eq!(loaded.weights.tied, wanted.tied);
            assert_eq!(loaded.weights.total(), wanted.total());
            for (found, wanted) in matrices(&loaded.weights).into_iter().zip(matrices(&wanted)) {
                assert_eq!(
                    (found.dtype(), found.shape()),
                    (wanted.dtype(), wanted.shape())
                );
                assert!(values(found) == values(wanted));
            }
            let (found, wanted) = (&loaded.weights.layers[1], &wanted.layers[1]);
            assert_eq!(
                (&found.attn_norm, &found.ffn_norm),
                (&wanted.attn_norm, &wanted.ffn_norm)
            );
            assert_eq!(
                (&found.q_norm, &found.k_norm),
                (&wanted.q_norm, &wanted.k_norm)
            );
        }
    }
}

#[test]
fn matrices_of_the_wanted_type_stay_mapped_and_routers_are_f32() {
    let model = File::synth(Preset::TinyMoe, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        Preset::TinyMoe,
        &tensors(&model, CandleType::BF16),
        1,
    );
    for dtype in [None, Some(DType::Bf16)] {
        let loaded = open(folder.path(), dtype);
        let tokgate::engine::weights::Ffn::Moe { router, gate, .. } = &loaded.weights.layers[0].ffn
        else {
            panic!("the model has experts");
        };
        assert_eq!((router.dtype(), gate.dtype()), (DType::F32, DType::Bf16));
        assert!(loaded.weights.layers[0].wq.is_mapped());
    }
}

#[test]
fn data_that_are_not_aligned_are_copied() {
    let model = File::synth(Preset::TinyDense, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        Preset::TinyDense,
        &tensors(&model, CandleType::F32),
        1,
    );
    let aligned = open(folder.path(), None).weights;
    assert!(aligned.output.is_mapped());
    // The values before the file is overwritten: it is mapped.
    let aligned: Vec<_> = matrices(&aligned).into_iter().map(values).collect();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let length = u64::from_le_bytes(*length) as usize;
    // One more blank at the table's end moves all data by a byte.
    let longer = (length as u64 + 1).to_le_bytes();
    let moved = [&longer[..], &rest[..length], b" ", &rest[length..]].concat();
    std::fs::write(&path, moved).unwrap();
    let copied = open(folder.path(), None).weights;
    assert!(!copied.output.is_mapped());
    for (one, other) in aligned.iter().zip(matrices(&copied)) {
        assert!(*one == values(other));
    }
}

#[test]
fn folders_that_lack_something_are_named() {
    let model = File::synth(Preset::TinyDense, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let error = || {
        let error = Folder::open(path).map(|_| ()).unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    };
    assert!(
        error().contains("config.json cannot be read"),
        "{}",
        error()
    );
    std::fs::write(path.join("config.json"), "{}").unwrap();
    assert!(
        error().contains("holds neither model.safetensors nor"),
        "{}",
        error()
    );

    write(
        path,
        Preset::TinyDense,
        &tensors(&model, CandleType::F32),
        2,
    );
    let index = path.join("model.safetensors.index.json");
    let good = std::fs::read_to_string(&index).unwrap();
    let first = "model-00001-of-00002.safetensors";
    for name in [
        "../model-00001-of-00002.safetensors",
        "/etc/passwd",
        "",
        "..",
    ] {
        std::fs::write(&index, good.replace(first, name)).unwrap();
        assert!(
            error().contains("is not a plain file name"),
            "{name}: {}",
            error()
        );
    }
    std::fs::write(
        &index,
        good.replacen("model.norm.weight", "model.norm.weights", 1),
    )
    .unwrap();
    assert!(
        error().contains("tensor \"model.norm.weights\" should be in"),
        "{}",
        error()
    );
    std::fs::write(&index, "{").unwrap();
    assert!(
        error().contains("model.safetensors.index.json: EOF"),
        "{}",
        error()
    );
    std::fs::write(&index, &good).unwrap();
    std::fs::copy(
        path.join(first),
        path.join("model-00002-of-00002.safetensors"),
    )
    .unwrap();
    assert!(error().contains("two shards have a tensor"), "{}", error());
    std::fs::remove_file(path.join(first)).unwrap();
    assert!(error().contains(first), "{}", error());
}

#[test]
fn a_type_that_models_do_not_come_in_is_named() {
    let model = File::synth(Preset::TinyDense, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = tensors(&model, CandleType::F32);
    let name = "model.layers.0.mlp.up_proj.weight";
    let wide = tensors[name].to_dtype(CandleType::F64).unwrap();
    tensors.insert(name.to_owned(), wide);
    write(folder.path(), Preset::TinyDense, &tensors, 1);
    let error = ModelFile::open(folder.path(), LoadOptions::default()).unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        text.starts_with(&format!("tensor {name:?} is of type F64")),
        "{text}"
    );
    let file = folder.path().join("model.safetensors");
    let text = ModelFile::open(&file, LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(text.contains("give the folder"), "{text}");
}

/// As AutoGPTQ, AutoAWQ and others write their tensors: packed weights, scales and zeros instead of a matrix.
#[test]
fn other_quantisations_are_named_with_a_tensor_and_a_way_out() {
    let model = File::synth(Preset::TinyDense, DType::F32);
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
    let awq = json!({"quant_method": "awq", "bits": 4});
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let cases = [
        (
            Some(gptq),
            vec!["qweight", "g_idx"],
            "quantised with GPTQ to 4 bits",
        ),
        (Some(awq), vec!["qweight"], "quantised with AWQ to 4 bits"),
        (Some(fp8), vec!["weight_scale_inv"], "quantised with FP8"),
        // The configuration of a folder of 2023 says nothing; its tensors do.
        (None, vec!["qweight", "g_idx"], "quantised with GPTQ"),
        (
            None,
            vec!["weight_packed"],
            "quantised with compressed-tensors",
        ),
    ];
    for (quantization, parts, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = tensors(&model, CandleType::F32);
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.self_attn.q_proj");
            let matrix = tensors.remove(&format!("{name}.weight")).unwrap();
            for part in &parts {
                tensors.insert(format!("{name}.{part}"), matrix.clone());
            }
        }
        write(folder.path(), Preset::TinyDense, &tensors, 1);
        let config = folder.path().join("config.json");
        let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        if let Some(quantization) = quantization {
            fields["quantization_config"] = quantization;
        }
        std::fs::write(&config, fields.to_string()).unwrap();

        let error = ModelFile::open(folder.path(), LoadOptions::default()).unwrap_err();
        let text = error.to_string();
        let tensor = format!(
            "\"model.layers.0.self_attn.q_proj.{}\" and 1 more",
            parts[0]
        );
        for part in [wanted, &tensor, "--dtype q8_0", "a GGUF file of it"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
        let inspection = Inspection::open(folder.path()).unwrap();
        assert!(
            inspection.problems[0].contains(wanted),
            "{:?}",
            inspection.problems
        );
        assert_eq!(
            inspection.sizes.unwrap().n_layer,
            2,
            "its sizes are read all the same"
        );
    }
}
