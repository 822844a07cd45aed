//! What a model takes in memory and what a token costs, by layer type: from headers and sizes alone, nothing is loaded.
//!
//! DEFINITIONS. *Model*: weights as the engine holds them, which is as the file has them, except that vectors are f32,
//! half-precision routers are f32, and matrices are of the type that was asked for. Layer types that nothing reads are
//! left out. *KV cache*: keys and values of the whole context. *Run state*: the activations that are alive at once in a
//! pass, `4 · (rows · (3·d + max(2·q + 2·kv, inner)) + n_vocab)` bytes, where q and kv are the widths of queries and of
//! keys, and inner is `2·n_ff`, or for experts `n_expert + used · (2·n_ff + d)`; the kernels' own panels, which depend
//! on level and threads, come on top. *MACs of a token*: Σ m·k·n of the matmuls of a pass of one token (the head is
//! one; looking up an embedding is none), and two for each element of each visible pair of query and key. Bytes of a
//! token: all weights that these matmuls read, of experts only those in use, and the keys and values that are seen.

use serde::Serialize;
use tokgate_kernels::DType;

use super::{Inspection, TensorRow};
use crate::engine::config::ModelConfig;
use crate::engine::gguf::GgmlType;
use crate::engine::weights::{LayerType, WeightsError, is_redundant, layer_type};

/// How the model is to be held and used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Positions of the KV cache; `None` for as many as the model was trained for.
    pub context: Option<usize>,
    /// Element type of the KV cache.
    pub kv: DType,
    /// Tokens of a pass.
    pub rows: usize,
    /// The type that matrices are converted to at load; `None` leaves them as the file has them.
    pub dtype: Option<DType>,
}

/// Memory by layer type, and what a token costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Weights in a model's order.
    pub layer_types: Vec<LayerShare>,
    /// Elements of all of them.
    pub parameters: u64,
    /// Bytes of all of them.
    pub model_bytes: u64,
    /// What running takes beside them; `None` where the configuration cannot be read.
    pub run: Option<Run>,
}

/// What the tensors of one layer type take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerShare {
    /// See [`LayerType::name`]; `other` for tensors that no supported architecture has.
    pub layer_type: &'static str,
    /// Whether each layer has one.
    pub of_a_layer: bool,
    /// Element types as they are held, by GGML's names, the one with the most bytes first.
    pub types: Vec<String>,
    /// Tensors.
    pub tensors: u64,
    /// Elements.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes over elements.
    pub bytes_per_parameter: f64,
    #[serde(skip)]
    bytes_by_type: Vec<(String, u64)>,
}

/// What running a model takes beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Layers.
    pub n_layer: usize,
    /// Positions of the KV cache.
    pub context: usize,
    /// Its element type, by GGML's name.
    pub kv_type: String,
    /// Elements of the keys, and as many of the values.
    pub key_elements: u64,
    /// Bytes of the keys, and as many of the values.
    pub key_bytes: u64,
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// Tokens of a pass, for the run state.
    pub rows: usize,
    /// Bytes of activations alive at once in such a pass.
    pub run_state_bytes: u64,
    /// Bytes of weights, keys and values, and run state.
    pub total_bytes: u64,
    /// What one token costs.
    pub token: Token,
}

/// What a pass of one token costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Multiply–accumulates of the matmuls.
    pub matmul_macs: u64,
    /// Multiply–accumulates of the attention of the first token of a context.
    pub first_attention_macs: u64,
    /// Multiply–accumulates of the attention of the last one.
    pub last_attention_macs: u64,
    /// Bytes of weights that are read.
    pub weight_bytes: u64,
    /// Bytes of keys and values that the last token of a context reads.
    pub last_kv_bytes: u64,
}

impl Memory {
    /// Of the model that was inspected, held as `plan` says.
    ///
    /// # Errors
    /// [`WeightsError::Blocks`] if a matrix cannot be of the type that was asked for.
    pub fn new(inspection: &Inspection, plan: Plan) -> Result<Self, WeightsError> {
        let config = inspection.config.as_ref();
        let tied = config.is_some_and(|config| config.tied);
        let mut shares: Vec<(Option<LayerType>, LayerShare)> = Vec::new();
        for tensor in &inspection.tensors {
            let kind = layer_type(&tensor.name);
            if is_redundant(&tensor.name) || (tied && kind == Some(LayerType::Output)) {
                continue;
            }
            let at = shares.iter().position(|(of, _)| *of == kind);
            let at = at.unwrap_or_else(|| {
                shares.push((kind, LayerShare::none(kind)));
                shares.len() - 1
            });
            shares[at].1.add(tensor, kind, plan.dtype)?;
        }
        // A model's order; what nobody knows comes last.
        shares.sort_by_key(|(kind, _)| (kind.is_none(), *kind));
        shares.iter_mut().for_each(|(_, share)| share.finish());
        let model_bytes = shares.iter().map(|(_, share)| share.bytes).sum();
        Ok(Self {
            parameters: shares.iter().map(|(_, share)| share.parameters).sum(),
            model_bytes,
            run: config.map(|config| Run::new(config, &shares, model_bytes, plan)),
            layer_types: shares.into_iter().map(|(_, share)| share).collect(),
        })
    }
}

impl LayerShare {
    fn none(kind: Option<LayerType>) -> Self {
        Self {
            layer_type: kind.map_or("other", LayerType::name),
            of_a_layer: kind.is_some_and(LayerType::is_of_a_layer),
            types: Vec::new(),
            tensors: 0,
            parameters: 0,
            bytes: 0,
            bytes_per_parameter: 0.0,
            bytes_by_type: Vec::new(),
        }
    }

    fn add(
        &mut self,
        tensor: &TensorRow,
        kind: Option<LayerType>,
        dtype: Option<DType>,
    ) -> Result<(), WeightsError> {
        let dtype = match kind {
            None => None,
            Some(kind) if kind.is_vector() => Some(DType::F32),
            Some(LayerType::Router) => {
                matches!(tensor.dtype.as_str(), "F16" | "BF16").then_some(DType::F32)
            }
            Some(_) => dtype,
        };
        let (name, bytes) = match dtype {
            None => (tensor.dtype.clone(), tensor.bytes),
            Some(dtype) => {
                let row = dtype.row_bytes(tensor.cols);
                let row = row.ok_or_else(|| WeightsError::Blocks {
                    name: tensor.name.clone(),
                    dtype,
                    cols: tensor.cols,
                })?;
                let rows = tensor.parameters / tensor.cols.max(1) as u64;
                (GgmlType::from(dtype).name().to_owned(), rows * row as u64)
            }
        };
        self.tensors += 1;
        self.parameters += tensor.parameters;
        self.bytes += bytes;
        match self.bytes_by_type.iter_mut().find(|(of, _)| *of == name) {
            Some((_, sum)) => *sum += bytes,
            None => self.bytes_by_type.push((name, bytes)),
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.bytes_by_type
            .sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let names = self.bytes_by_type.iter().map(|(name, _)| name.clone());
        self.types = names.collect();
        self.bytes_per_parameter = self.bytes as f64 / self.parameters.max(1) as f64;
    }
}

impl Run {
    fn new(
        config: &ModelConfig,
        shares: &[(Option<LayerType>, LayerShare)],
        model_bytes: u64,
        plan: Plan,
    ) -> Self {
        let context = plan.context.unwrap_or(config.n_context);
        let (layers, head_dim) = (config.n_layer as u64, config.head_dim as u64);
        let kv_width = config.n_kv_head as u64 * head_dim;
        let element =
            |elements: u64| elements * plan.kv.block_bytes() as u64 / plan.kv.block_len() as u64;
        let key_elements = layers * kv_width * context as u64;
        let run_state_bytes = run_state(config, plan.rows as u64);
        let kv_bytes = 2 * element(key_elements);

        let (mut matmul_macs, mut weight_bytes) = (0, 0);
        for (kind, share) in shares {
            let (used, all) = match kind {
                Some(LayerType::TokenEmbedding) if !config.tied => continue,
                Some(LayerType::ExpertGate | LayerType::ExpertUp | LayerType::ExpertDown) => {
                    (config.n_expert_used as u64, config.n_expert.max(1) as u64)
                }
                Some(kind) if !kind.is_vector() => (1, 1),
                _ => continue,
            };
            matmul_macs += share.parameters / all * used;
            weight_bytes += share.bytes / all * used;
        }
        let pairs = |seen: usize| 2 * layers * config.n_head as u64 * head_dim * seen as u64;
        let seen = context.min(config.sliding_window.unwrap_or(usize::MAX));
        Self {
            n_layer: config.n_layer,
            context,
            kv_type: GgmlType::from(plan.kv).name().to_owned(),
            key_elements,
            key_bytes: element(key_elements),
            kv_bytes,
            rows: plan.rows,
            run_state_bytes,
            total_bytes: model_bytes + kv_bytes + run_state_bytes,
            token: Token {
                matmul_macs,
                first_attention_macs: pairs(1),
                last_attention_macs: pairs(seen),
                weight_bytes,
                last_kv_bytes: 2 * element(layers * kv_width * seen as u64),
            },
        }
    }
}

/// Bytes of activations alive at once; see the module's DEFINITIONS.
fn run_state(config: &ModelConfig, rows: u64) -> u64 {
    let [d, heads, kv_heads, head_dim] = [
        config.n_embd,
        config.n_head,
        config.n_kv_head,
        config.head_dim,
    ]
    .map(|size| size as u64);
    let attention = 2 * (heads + kv_heads) * head_dim;
    let inner = if config.is_moe() {
        let (used, n_ff) = (config.n_expert_used as u64, config.n_ff_expert as u64);
        config.n_expert as u64 + used * (2 * n_ff + d)
    } else {
        2 * config.n_ff as u64
    };
    4 * (rows * (3 * d + attention.max(inner)) + config.n_vocab as u64)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Write};

    use tokgate_kernels::Runtime;

    use super::*;
    use crate::engine::forward::{Chunk, LogitRows, Model, Work};
    use crate::engine::kv_cache::KvCache;
    use crate::engine::model_file::ModelFile;
    use crate::engine::synth::{self, Preset, Synth};
    use crate::engine::weights::LoadOptions;

    const PLAN: Plan = Plan {
        context: None,
        kv: DType::Bf16,
        rows: 1,
        dtype: None,
    };

    fn synth(preset: Preset, dtype: DType) -> synth::Plan {
        synth::Plan::new(Synth {
            preset,
            dtype,
            seed: 1,
            layers: None,
            vocabulary: false,
        })
    }

    /// Takes the header of a file and refuses the rest.
    struct Header(Vec<u8>);

    impl Write for Header {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.0.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A model of which the disk holds the header alone: the rest is a hole.
    fn hollow(plan: &synth::Plan) -> Inspection {
        let mut header = Header(Vec::new());
        plan.write(&mut header, 1, |_| {}).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hollow.gguf");
        let mut file = File::create(&path).unwrap();
        file.write_all(&header.0).unwrap();
        file.set_len(plan.len()).unwrap();
        Inspection::open(&path).unwrap()
    }

    /// Parameters in millions and MiB by the write-up of a Llama-2 7B with a bf16 cache of 4096 positions. Its int8 has
    /// an f32 scale for each 32 weights, 36 bytes, where GGML's Q8_0 has 34.
    #[test]
    fn a_llama_of_seven_billion_takes_what_was_published() {
        let inspection = hollow(&synth(Preset::Llama2_7b, DType::Q8_0));
        let memory = Memory::new(&inspection, PLAN).unwrap();
        let published = [
            ("token embedding", "Q8_0", 131.07, 140.62),
            ("attention norm", "F32", 0.13, 0.50),
            ("query", "Q8_0", 536.87, 576.0),
            ("key", "Q8_0", 536.87, 576.0),
            ("value", "Q8_0", 536.87, 576.0),
            ("attention output", "Q8_0", 536.87, 576.0),
            ("feed-forward norm", "F32", 0.13, 0.50),
            ("gate (w1)", "Q8_0", 1442.84, 1548.0),
            ("up (w3)", "Q8_0", 1442.84, 1548.0),
            ("down (w2)", "Q8_0", 1442.84, 1548.0),
            ("final norm", "F32", 0.0, 0.02),
            ("output head", "Q8_0", 131.07, 140.62),
        ];
        assert_eq!(memory.layer_types.len(), published.len());
        for (share, (name, kind, millions, mib)) in memory.layer_types.iter().zip(published) {
            let found = (share.layer_type, share.types.join(", "));
            assert_eq!(found, (name, kind.to_owned()));
            assert!(
                (share.parameters as f64 / 1e6 - millions).abs() < 0.005,
                "{name}"
            );
            let ours = if kind == "F32" { 1.0 } else { 34.0 / 36.0 };
            let found = share.bytes as f64 / f64::from(1 << 20);
            assert!((found - mib * ours).abs() < 0.01, "{name}: {found}");
        }
        assert_eq!(memory.parameters, 6_738_415_616);
        let run = memory.run.unwrap();
        assert_eq!(
            (run.context, run.key_bytes, run.kv_bytes),
            (4096, 1 << 30, 2 << 30)
        );
        assert_eq!(run.key_elements, 536_870_912);
        // All but the embedding and the norms.
        assert_eq!(run.token.matmul_macs, 6_738_415_616 - 131_072_000 - 266_240);
        assert_eq!(
            run.total_bytes,
            memory.model_bytes + (2 << 30) + run.run_state_bytes
        );
    }

    #[test]
    fn a_cache_and_matrices_of_other_types_take_what_they_take() {
        let inspection = hollow(&synth(Preset::Qwen3_0_6b, DType::Q8_0));
        let as_bf16 = Plan {
            context: Some(1000),
            kv: DType::F32,
            dtype: Some(DType::Bf16),
            ..PLAN
        };
        let memory = Memory::new(&inspection, as_bf16).unwrap();
        for share in &memory.layer_types {
            let wanted = if share.types == ["F32"] { 4.0 } else { 2.0 };
            assert_eq!(share.bytes_per_parameter, wanted, "{share:?}");
        }
        assert_eq!(memory.run.unwrap().kv_bytes, 2 * 28 * 8 * 128 * 1000 * 4);
    }

    /// What is told of a token is what the forward pass counts.
    #[test]
    fn a_token_costs_what_the_forward_pass_counts() {
        for preset in [Preset::TinyDense, Preset::TinyMoe] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            synth(preset, DType::Q8_0)
                .write_file(&path, false, 1, |_| {})
                .unwrap();
            let context = 5;
            let plan = Plan {
                context: Some(context),
                ..PLAN
            };
            let memory = Memory::new(&Inspection::open(&path).unwrap(), plan).unwrap();
            let token = &memory.run.as_ref().unwrap().token;

            let file = ModelFile::open(&path, LoadOptions::default()).unwrap();
            assert_eq!(memory.model_bytes, file.weights.total().bytes);
            assert_eq!(memory.parameters, file.weights.total().elements);
            let model = Model::new(file.config, file.weights).unwrap();
            let rt = Runtime::new(1).unwrap();
            let mut cache = KvCache::new(model.config(), DType::Bf16, context).unwrap();
            for position in 0..context {
                let mut work = Work::default();
                let chunk = Chunk {
                    tokens: &[1],
                    cache: &mut cache,
                    logits: LogitRows::Last,
                };
                model
                    .forward(&rt, &mut [chunk], &mut Vec::new(), &mut work)
                    .unwrap();
                let attention = token.first_attention_macs * (position as u64 + 1);
                assert_eq!(work.macs, token.matmul_macs + attention, "{preset}");
                if position + 1 == context {
                    assert_eq!(attention, token.last_attention_macs);
                    assert_eq!(work.bytes, token.weight_bytes + token.last_kv_bytes);
                }
            }
        }
    }
}
