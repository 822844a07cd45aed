//! Weights: every tensor of a model is needed, and its shape and type are checked.

use half::{bf16, f16};
use tokgate::engine::config::ModelConfig;
use tokgate::engine::gguf::{BlockQuant, Gguf, Parts};
use tokgate::engine::synth::Preset;
use tokgate::engine::weights::{
    Component, Ffn, LoadOptions, ModelWeights, Requantized, Tensor, WeightsError,
};
use tokgate_kernels::{BlockQ8_0, DType};

use crate::raw::File;

pub const PRESETS: [Preset; 2] = [Preset::TinyDense, Preset::TinyMoe];

fn load(file: &File) -> Result<ModelWeights, WeightsError> {
    load_as(file, None)
}

fn load_as(file: &File, dtype: Option<DType>) -> Result<ModelWeights, WeightsError> {
    let parts = Parts::from(Gguf::parse(&file.bytes()).unwrap());
    let config = ModelConfig::from_gguf(&parts).unwrap();
    let options = LoadOptions {
        dtype,
        ..LoadOptions::default()
    };
    ModelWeights::from_gguf(&parts, &config, options)
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    let (view, cols) = (tensor.view(), tensor.shape().cols);
    let mut all = vec![0.0; tensor.shape().elements()];
    for (row, out) in all.chunks_mut(cols).enumerate() {
        view.widen_row(row, out);
    }
    all
}

/// All matrices, in a fixed order.
pub fn matrices(weights: &ModelWeights) -> Vec<&Tensor> {
    let mut all = vec![&weights.token_embd, &weights.output];
    for layer in &weights.layers {
        all.extend([&layer.wq, &layer.wk, &layer.wv, &layer.wo]);
        match &layer.ffn {
            Ffn::Dense { gate, up, down } => all.extend([gate, up, down]),
            Ffn::Moe {
                router,
                gate,
                up,
                down,
            } => all.extend([router, gate, up, down]),
        }
    }
    all
}

#[test]
fn every_tensor_is_needed_and_of_one_shape() {
    for preset in PRESETS {
        let file = File::synth(preset, DType::Q8_0);
        for index in 0..file.tensors.len() {
            let name = &file.tensors[index].name;
            let mut without = file.clone();
            without.tensors.remove(index);
            // Without it the model is one with a tied head.
            if name != "output.weight" {
                let missing = WeightsError::Missing { name: name.clone() };
                assert_eq!(load(&without).unwrap_err(), missing);
            }
            // The embedding's own rows are the vocabulary: in a tied model they may be any number, and in another one it
            // is the head that differs.
            let odd = match (name.as_str(), preset) {
                ("token_embd.weight", Preset::TinyMoe) => continue,
                ("token_embd.weight", _) => "output.weight",
                (other, _) => other,
            };
            let mut longer = file.clone();
            let tensor = &mut longer.tensors[index];
            let last = tensor.dims.len() - 1;
            let row = tensor.data.len() / tensor.dims[last] as usize;
            tensor.dims[last] += 1;
            tensor.data.extend(vec![0; row]);
            let text = load(&longer).unwrap_err().to_string();
            let wanted = format!("tensor {odd:?} is ");
            assert!(
                text.starts_with(&wanted) && text.contains("configuration wants"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_transposed_matrix_is_refused_with_both_shapes() {
    let mut file = File::synth(Preset::TinyDense, DType::F32);
    file.tensor_mut("blk.1.ffn_down.weight").dims.reverse();
    assert_eq!(
        load(&file).unwrap_err().to_string(),
        "tensor \"blk.1.ffn_down.weight\" is 704 × 256, but the model's configuration wants 256 × 704 (rows × columns)"
    );
}

#[test]
fn a_type_without_kernels_is_named_with_what_to_do() {
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    let tensor = file.tensor_mut("blk.0.attn_v.weight");
    // Q4_K: 256 weights in 144 bytes.
    tensor.kind = 12;
    tensor.data = vec![0; 128 * 144];
    let text = load(&file).unwrap_err().to_string();
    assert!(
        text.starts_with(
            "tensor \"blk.0.attn_v.weight\" is of type Q4_K, for which there are no kernels"
        ),
        "{text}"
    );
    assert!(text.contains("--requantize q8_0"), "{text}");

    // IQ4_XS: 256 weights in 136 bytes, which nothing here reads.
    let tensor = file.tensor_mut("blk.0.attn_v.weight");
    tensor.kind = 23;
    tensor.data = vec![0; 128 * 136];
    for requantize in [None, Some(DType::Q8_0)] {
        let text = load_requantized(&file, requantize).unwrap_err().to_string();
        assert!(
            text.contains("is of type IQ4_XS, for which there are no kernels")
                && text.contains("llama-quantize"),
            "{text}"
        );
    }

    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    let tensor = file.tensor_mut("blk.0.attn_norm.weight");
    tensor.kind = 8;
    tensor.data = vec![0; 8 * 34];
    let text = load(&file).unwrap_err().to_string();
    assert_eq!(
        text,
        "tensor \"blk.0.attn_norm.weight\" is of type Q8_0, but a vector is F32, F16 or BF16"
    );
}

fn load_requantized(file: &File, requantize: Option<DType>) -> Result<ModelWeights, WeightsError> {
    let parts = Parts::from(Gguf::parse(&file.bytes()).unwrap());
    let config = ModelConfig::from_gguf(&parts).unwrap();
    let options = LoadOptions {
        requantize,
        ..LoadOptions::default()
    };
    ModelWeights::from_gguf(&parts, &config, options)
}

/// A block of Q4_K with scales of 0.01 and every other bit by its place.
fn q4_k_block(seed: usize) -> Vec<u8> {
    let scale = f16::from_f32(0.01).to_le_bytes();
    let rest = (0..140).map(|at| ((at * 37 + seed * 101) % 256) as u8);
    [scale, scale].concat().into_iter().chain(rest).collect()
}

#[test]
fn blocks_without_kernels_are_requantised_when_that_was_asked_for() {
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    let blocks: Vec<u8> = (0..128).flat_map(q4_k_block).collect();
    for layer in 0..2 {
        let tensor = file.tensor_mut(&format!("blk.{layer}.attn_v.weight"));
        tensor.kind = 12;
        tensor.data = blocks.clone();
    }
    let mut wanted = vec![0.0; 128 * 256];
    BlockQuant::Q4K.dequantize(&blocks, &mut wanted);
    let untouched = load(&File::synth(Preset::TinyDense, DType::Q8_0)).unwrap();
    assert!(untouched.requantized.is_empty());
    for (target, error) in [(DType::Bf16, 1.0 / 256.0), (DType::Q8_0, 1.0 / 100.0)] {
        let weights = load_requantized(&file, Some(target)).unwrap();
        let requantized = Requantized {
            from: BlockQuant::Q4K,
            to: target,
            tensors: 2,
        };
        assert_eq!(weights.requantized, [requantized]);
        for layer in &weights.layers {
            assert_eq!(layer.wv.dtype(), target);
            let largest = wanted.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
            for (found, wanted) in values(&layer.wv).iter().zip(&wanted) {
                assert!(
                    (found - wanted).abs() <= error * largest,
                    "{found} {wanted}"
                );
            }
            // What has kernels stays as the file has it.
            assert_eq!(layer.wq.dtype(), DType::Q8_0);
        }
        let (one, other) = (&weights.layers[0].wq, &untouched.layers[0].wq);
        assert!(values(one) == values(other));
    }
}

#[test]
fn routers_and_lone_experts_can_be_requantised() {
    let mut file = File::synth(Preset::TinyMoe, DType::F32);
    // Q4_0: 32 weights in 18 bytes.
    let blocks = |elements: usize| -> Vec<u8> {
        let block = [&f16::from_f32(0.01).to_le_bytes()[..], &[0x5a; 16]].concat();
        block.repeat(elements / 32)
    };
    for name in ["blk.0.ffn_gate_inp.weight", "blk.0.ffn_up_exps.weight"] {
        let tensor = file.tensor_mut(name);
        let elements: u64 = tensor.dims.iter().product();
        tensor.kind = 2;
        tensor.data = blocks(elements as usize);
    }
    let weights = load_requantized(&file, Some(DType::Bf16)).unwrap();
    let Ffn::Moe { router, up, .. } = &weights.layers[0].ffn else {
        panic!("no experts");
    };
    assert_eq!((router.dtype(), up.dtype()), (DType::F32, DType::Bf16));
    // The low nibbles, 10, are 2 above zero, the high ones, 5, are 3 below.
    let d = f16::from_f32(0.01).to_f32();
    assert_eq!(values(router)[15..17], [2.0 * d, -3.0 * d]);
}

#[test]
fn a_tensor_that_nothing_reads_is_refused() {
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    file.tensor("blk.1.attn_output.bias", &[256], 0, vec![0; 1024]);
    file.tensor("blk.0.attn_output.bias", &[256], 0, vec![0; 1024]);
    let text = load(&file).unwrap_err().to_string();
    assert!(
        text.starts_with(
            "tensor \"blk.0.attn_output.bias\" (2 such) has no place in an architecture llama"
        ),
        "{text}"
    );
}

#[test]
fn biases_and_frequency_factors_are_read_where_a_llama_has_them() {
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    let floats = |n: usize| {
        (0..n)
            .flat_map(|i| (i as f32 + 1.0).to_le_bytes())
            .collect::<Vec<u8>>()
    };
    for layer in 0..2 {
        file.tensor(&format!("blk.{layer}.attn_q.bias"), &[256], 0, floats(256));
        file.tensor(&format!("blk.{layer}.attn_k.bias"), &[128], 0, floats(128));
        file.tensor(&format!("blk.{layer}.attn_v.bias"), &[128], 0, floats(128));
    }
    file.tensor("rope_freqs.weight", &[32], 0, floats(32));
    let weights = load(&file).unwrap();
    assert_eq!(
        weights.rope_freqs.as_ref().map(|f| (f.len(), f[31])),
        Some((32, 32.0))
    );
    let layer = &weights.layers[1];
    let last = |bias: &Option<Vec<f32>>| bias.as_ref().and_then(|bias| bias.last().copied());
    assert_eq!(
        (last(&layer.bq), last(&layer.bk), last(&layer.bv)),
        (Some(256.0), Some(128.0), Some(128.0))
    );
}

#[test]
fn conversions_round_as_the_kernels_do() {
    for preset in PRESETS {
        let file = File::synth(preset, DType::F32);
        let exact = load(&file).unwrap();
        for dtype in DType::ALL {
            let converted = load_as(&file, Some(dtype)).unwrap();
            for (from, to) in matrices(&exact).into_iter().zip(matrices(&converted)) {
                let is_router = from.shape().rows == 16;
                assert_eq!(to.dtype(), if is_router { DType::F32 } else { dtype });
                let from = values(from);
                let wanted: Vec<f32> = match to.dtype() {
                    DType::F32 => from,
                    DType::F16 => from.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
                    DType::Bf16 => from.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
                    DType::Q8_0 => {
                        let blocks = from.as_chunks::<32>().0.iter();
                        blocks
                            .flat_map(|block| BlockQ8_0::quantize(block).dequantize())
                            .collect()
                    }
                };
                assert!(values(to) == wanted);
            }
        }
    }
}

#[test]
fn a_conversion_that_cannot_be_is_refused() {
    let mut file = File::synth(Preset::TinyDense, DType::F32);
    file.entry_mut("llama.feed_forward_length").value = 700_u32.to_le_bytes().to_vec();
    for tensor in &mut file.tensors {
        if tensor.name.contains(".ffn_") && tensor.dims.contains(&704) {
            let dim = tensor.dims.iter().position(|&dim| dim == 704).unwrap();
            tensor.dims[dim] = 700;
            tensor.data.truncate(tensor.data.len() / 704 * 700);
        }
    }
    assert!(load(&file).is_ok());
    let text = load_as(&file, Some(DType::Q8_0)).unwrap_err().to_string();
    assert!(
        text.starts_with("tensor \"blk.0.ffn_down.weight\" cannot be made q8_0: its rows of 700"),
        "{text}"
    );
}

#[test]
fn experts_that_lie_apart_are_the_same_model() {
    let stacked = File::synth(Preset::TinyMoe, DType::Q8_0);
    let mut apart = stacked.clone();
    apart.tensors.clear();
    for tensor in &stacked.tensors {
        let Some((start, part)) = tensor
            .name
            .split_once(".ffn_")
            .filter(|(_, part)| part.contains("_exps"))
        else {
            apart.tensors.push(tensor.clone());
            continue;
        };
        let part = part.split('_').next().unwrap();
        let experts = tensor.dims[2] as usize;
        for (expert, data) in tensor.data.chunks(tensor.data.len() / experts).enumerate() {
            apart.tensor(
                &format!("{start}.ffn_{part}.{expert}.weight"),
                &tensor.dims[..2],
                tensor.kind,
                data.to_vec(),
            );
        }
    }
    let (one, other) = (load(&stacked).unwrap(), load(&apart).unwrap());
    assert_eq!(one.total(), other.total());
    for (a, b) in matrices(&one).into_iter().zip(matrices(&other)) {
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
        assert!(values(a) == values(b));
    }
    apart
        .tensors
        .retain(|tensor| tensor.name != "blk.1.ffn_up.7.weight");
    let missing = WeightsError::Missing {
        name: "blk.1.ffn_up.7.weight".to_owned(),
    };
    assert_eq!(load(&apart).unwrap_err(), missing);
}

#[test]
fn components_add_up_to_the_file() {
    for preset in PRESETS {
        let file = File::synth(preset, DType::Bf16);
        let weights = load(&file).unwrap();
        let bytes: usize = file.tensors.iter().map(|tensor| tensor.data.len()).sum();
        assert_eq!(weights.total().bytes, bytes as u64);
        let sum: u64 = Component::ALL
            .iter()
            .map(|&component| weights.size(component).bytes)
            .sum();
        assert_eq!(sum, weights.total().bytes);
        assert_eq!(weights.size(Component::Output).bytes == 0, weights.tied);
        assert_eq!(
            weights.size(Component::Experts).bytes == 0,
            preset == Preset::TinyDense
        );
    }
}
