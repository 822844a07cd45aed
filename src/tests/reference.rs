//! The engine's logits against a forward pass that shares nothing with it: candle's GGUF reader, f32 matrices, one
//! plain operation after the other.

mod closeness;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::{D, Device, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb;
use tokgate::engine::forward::{Chunk, LogitRows, Model, Work};
use tokgate::engine::kv_cache::KvCache;
use tokgate::engine::model_file::ModelFile;
use tokgate::engine::synth::{Plan, Preset, Synth};
use tokgate::engine::weights::LoadOptions;
use tokgate_kernels::{DType, Level, PoolOptions, Runtime};

use closeness::{relative_error, tolerance};

/// A model as candle reads it, every tensor widened to f32.
struct Reference {
    arch: String,
    meta: HashMap<String, gguf_file::Value>,
    tensors: HashMap<String, Tensor>,
}

impl Reference {
    fn load(path: &Path) -> Self {
        let mut file = File::open(path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        let tensors = content.tensor_infos.keys().map(|name| {
            let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            (name.clone(), tensor.dequantize(&Device::Cpu).unwrap())
        });
        let tensors = tensors.collect();
        let arch = content.metadata["general.architecture"]
            .to_string()
            .unwrap()
            .clone();
        Self {
            arch,
            meta: content.metadata,
            tensors,
        }
    }

    fn number(&self, key: &str) -> Option<usize> {
        let value = self.meta.get(&format!("{}.{key}", self.arch))?;
        Some(
            value
                .to_u64()
                .or_else(|_| value.to_u32().map(u64::from))
                .unwrap() as usize,
        )
    }

    fn float(&self, key: &str) -> f32 {
        self.meta[&format!("{}.{key}", self.arch)].to_f32().unwrap()
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// `x · wᵀ`, plus a bias where the model has one.
    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let y = x
            .matmul(&self.get(&format!("{name}.weight")).t().unwrap())
            .unwrap();
        match self.tensors.get(&format!("{name}.bias")) {
            Some(bias) => y.broadcast_add(bias).unwrap(),
            None => y,
        }
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let eps = self.float("attention.layer_norm_rms_epsilon");
        rms_norm(
            &x.contiguous().unwrap(),
            self.get(&format!("{name}.weight")),
            eps,
        )
        .unwrap()
    }

    /// Logits of every position, `[tokens][vocab]`.
    fn forward(&self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu).unwrap();
        let mut x = self.get("token_embd.weight").index_select(&ids, 0).unwrap();
        for layer in 0..self.number("block_count").unwrap() {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let attended = self.attention(&self.norm(&x, &name("attn_norm")), layer);
            x = (x + self.linear(&attended, &name("attn_output"))).unwrap();
            let normed = self.norm(&x, &name("ffn_norm"));
            let moved = if self.number("expert_count").unwrap_or(0) > 0 {
                self.experts(&normed, layer)
            } else {
                let gate = silu(&self.linear(&normed, &name("ffn_gate"))).unwrap();
                let up = self.linear(&normed, &name("ffn_up"));
                self.linear(&(gate * up).unwrap(), &name("ffn_down"))
            };
            x = (x + moved).unwrap();
        }
        let x = self.norm(&x, "output_norm");
        let head = if self.tensors.contains_key("output.weight") {
            "output"
        } else {
            "token_embd"
        };
        self.linear(&x, head).to_vec2().unwrap()
    }

    fn attention(&self, x: &Tensor, layer: usize) -> Tensor {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let n_head = self.number("attention.head_count").unwrap();
        let n_kv = self.number("attention.head_count_kv").unwrap();
        let tokens = x.dim(0).unwrap();
        // [heads, tokens, head size]
        let project = |part: &str, heads: usize| {
            let y = self.linear(x, &name(part));
            let size = y.dim(1).unwrap() / heads;
            let y = y
                .reshape((tokens, heads, size))
                .unwrap()
                .transpose(0, 1)
                .unwrap();
            let norm = format!("{part}_norm");
            if self
                .tensors
                .contains_key(&format!("{}.weight", name(&norm)))
            {
                self.norm(&y, &name(&norm))
            } else {
                y.contiguous().unwrap()
            }
        };
        let q = self.rotate(&project("attn_q", n_head));
        let k = self.rotate(&project("attn_k", n_kv));
        let v = project("attn_v", n_kv);
        let size = q.dim(2).unwrap();
        let mask: Vec<f32> = (0..tokens)
            .flat_map(|i| (0..tokens).map(move |j| if j <= i { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        let mask = Tensor::from_vec(mask, (tokens, tokens), &Device::Cpu).unwrap();
        let heads: Vec<Tensor> = (0..n_head)
            .map(|head| {
                let at = head / (n_head / n_kv);
                let (q, k, v) = (q.get(head).unwrap(), k.get(at).unwrap(), v.get(at).unwrap());
                let scores = (q.matmul(&k.t().unwrap()).unwrap() / (size as f64).sqrt()).unwrap();
                softmax_last_dim(&(scores + &mask).unwrap())
                    .unwrap()
                    .matmul(&v)
                    .unwrap()
            })
            .collect();
        Tensor::cat(&heads, 1).unwrap()
    }

    fn rotate(&self, x: &Tensor) -> Tensor {
        let (_, tokens, size) = x.dims3().unwrap();
        let theta = f64::from(self.float("rope.freq_base"));
        let angles: Vec<f64> = (0..tokens)
            .flat_map(|t| (0..size / 2).map(move |i| (t, i)))
            .map(|(t, i)| t as f64 * theta.powf(-2.0 * i as f64 / size as f64))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            Tensor::from_vec(values, (tokens, size / 2), &Device::Cpu).unwrap()
        };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let x = x.unsqueeze(0).unwrap();
        // Files of the llama family have pairs side by side, the others have them in halves.
        let turned = if self.arch == "llama" {
            rotary_emb::rope_i(&x, &cos, &sin)
        } else {
            rotary_emb::rope(&x, &cos, &sin)
        };
        turned.unwrap().squeeze(0).unwrap()
    }

    fn experts(&self, x: &Tensor, layer: usize) -> Tensor {
        let stacked = |part: &str| self.get(&format!("blk.{layer}.ffn_{part}_exps.weight"));
        let k = self.number("expert_used_count").unwrap();
        let logits = self.linear(x, &format!("blk.{layer}.ffn_gate_inp"));
        let chances: Vec<Vec<f32>> = softmax_last_dim(&logits).unwrap().to_vec2().unwrap();
        let rows: Vec<Tensor> = chances
            .iter()
            .enumerate()
            .map(|(token, chances)| {
                let x = x.narrow(0, token, 1).unwrap();
                let mut order: Vec<usize> = (0..chances.len()).collect();
                order.sort_by(|a, b| chances[*b].total_cmp(&chances[*a]).then(a.cmp(b)));
                let total: f32 = order[..k].iter().map(|expert| chances[*expert]).sum();
                let parts = order[..k].iter().map(|&expert| {
                    let times = |x: &Tensor, part: &str| {
                        let weight = stacked(part).get(expert).unwrap();
                        x.matmul(&weight.t().unwrap()).unwrap()
                    };
                    let inner = (silu(&times(&x, "gate")).unwrap() * times(&x, "up")).unwrap();
                    let weight = f64::from(chances[expert] / total);
                    (times(&inner, "down") * weight).unwrap()
                });
                parts.reduce(|sum, part| (sum + part).unwrap()).unwrap()
            })
            .collect();
        Tensor::cat(&rows, 0)
            .unwrap()
            .reshape(((), x.dim(D::Minus1).unwrap()))
            .unwrap()
    }
}

/// A model file; it goes with the folder.
fn synthesised(preset: Preset, dtype: DType) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let synth = Synth {
        preset,
        dtype,
        seed: 7,
        layers: None,
        vocabulary: false,
    };
    Plan::new(synth)
        .write_file(&path, false, 2, |_| {})
        .unwrap();
    (folder, path)
}

fn load(path: &Path) -> Model {
    let file = ModelFile::open(path, LoadOptions::default()).unwrap();
    Model::new(file.config, file.weights).unwrap()
}

fn runtime(level: Level, threads: usize) -> Runtime {
    Runtime::with_level(
        level,
        PoolOptions {
            threads,
            pin: false,
        },
    )
    .unwrap()
}

const TOKENS: [u32; 21] = [
    3, 17, 200, 5, 5, 99, 256, 31, 0, 77, 250, 14, 180, 2, 64, 128, 9, 33, 111, 42, 7,
];

/// Logits of all positions, the tokens cut into passes of the given lengths.
fn logits(model: &Model, rt: &Runtime, kv: DType, cuts: &[usize]) -> Vec<f32> {
    assert_eq!(cuts.iter().sum::<usize>(), TOKENS.len());
    let mut cache = KvCache::new(model.config(), kv, TOKENS.len()).unwrap();
    let (mut all, mut some, mut rest) = (Vec::new(), Vec::new(), &TOKENS[..]);
    for cut in cuts {
        let tokens;
        (tokens, rest) = rest.split_at(*cut);
        let chunk = Chunk {
            tokens,
            cache: &mut cache,
            logits: LogitRows::All,
        };
        model
            .forward(rt, &mut [chunk], &mut some, &mut Work::default())
            .unwrap();
        all.append(&mut some);
    }
    all
}

#[test]
fn logits_are_those_of_an_independent_forward_pass() {
    for preset in [Preset::TinyDense, Preset::TinyMoe] {
        for dtype in [DType::F32, DType::Bf16, DType::Q8_0] {
            let (_folder, path) = synthesised(preset, dtype);
            let want = Reference::load(&path).forward(&TOKENS).concat();
            let model = load(&path);
            for level in Level::available() {
                let got = logits(&model, &runtime(level, 2), DType::F32, &[TOKENS.len()]);
                assert!(got.iter().all(|logit| logit.is_finite()));
                let error = relative_error(&got, &want);
                eprintln!("{preset:?} {dtype} {level}: relative error {error:.2e}");
                assert!(
                    error < tolerance(dtype),
                    "{preset:?} {dtype} {level}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_prompt_may_be_cut_anywhere() {
    for preset in [Preset::TinyDense, Preset::TinyMoe] {
        for (dtype, kv) in [(DType::F32, DType::F32), (DType::Q8_0, DType::Bf16)] {
            let (_folder, path) = synthesised(preset, dtype);
            let model = load(&path);
            let rt = runtime(Level::highest(), 2);
            let whole = logits(&model, &rt, kv, &[21]);
            for cuts in [
                &[1; 21][..],
                &[20, 1],
                &[1, 20],
                &[8, 8, 5],
                &[2, 3, 0, 9, 7],
            ] {
                let error = relative_error(&logits(&model, &rt, kv, cuts), &whole);
                assert!(
                    error < 1e-2,
                    "{preset:?} {dtype} {kv}, cut at {cuts:?}: {error}"
                );
            }
        }
    }
}

#[test]
fn sequences_of_one_pass_do_not_see_each_other() {
    let (_folder, path) = synthesised(Preset::TinyMoe, DType::F32);
    let model = load(&path);
    let rt = runtime(Level::highest(), 2);
    let alone = logits(&model, &rt, DType::F32, &[21]);
    let mut caches: Vec<KvCache> = (0..3)
        .map(|_| KvCache::new(model.config(), DType::F32, 32).unwrap())
        .collect();
    let [first, second, third] = &mut caches[..] else {
        unreachable!()
    };
    let mut chunks = [
        Chunk {
            tokens: &[1, 2, 3, 4, 5, 6, 7],
            cache: first,
            logits: LogitRows::Last,
        },
        Chunk {
            tokens: &TOKENS,
            cache: second,
            logits: LogitRows::All,
        },
        Chunk {
            tokens: &[9],
            cache: third,
            logits: LogitRows::None,
        },
    ];
    let (mut together, mut work) = (Vec::new(), Work::default());
    model
        .forward(&rt, &mut chunks, &mut together, &mut work)
        .unwrap();
    let vocab = model.config().n_vocab;
    assert_eq!(together.len(), 22 * vocab);
    let error = relative_error(&together[vocab..], &alone);
    assert!(error < 1e-5, "{error}");
    // Every token of every layer goes to as many experts as the model uses, but in the last layer, where only the rows
    // whose logits are wanted are computed.
    let config = model.config();
    let tokens = (config.n_layer - 1) * 29 + 22;
    assert_eq!(
        work.experts.iter().sum::<u64>(),
        (tokens * config.n_expert_used) as u64
    );
}

#[test]
fn what_cannot_run_says_why_and_changes_nothing() {
    let (_folder, path) = synthesised(Preset::TinyDense, DType::F32);
    let model = load(&path);
    let rt = runtime(Level::highest(), 1);
    let mut cache = KvCache::new(model.config(), DType::Bf16, 4).unwrap();
    let mut attempt = |tokens: &[u32]| {
        let chunk = Chunk {
            tokens,
            cache: &mut cache,
            logits: LogitRows::Last,
        };
        let result = model.forward(&rt, &mut [chunk], &mut Vec::new(), &mut Work::default());
        (result.map_err(|error| error.to_string()), cache.len())
    };
    let (result, len) = attempt(&[u32::MAX]);
    assert!(result.unwrap_err().contains("not in the vocabulary") && len == 0);
    let (result, len) = attempt(&[1; 5]);
    assert!(result.unwrap_err().contains("do not fit a context of 4") && len == 0);
    assert_eq!(attempt(&[1; 4]), (Ok(()), 4));
    assert!(KvCache::new(model.config(), DType::F32, usize::MAX / 64).is_err());
    assert!(KvCache::new(model.config(), DType::Q8_0, 4).is_err());
}
