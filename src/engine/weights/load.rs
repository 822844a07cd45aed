//! From the tensors of a file to the weights of a model.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use tokgate_kernels::DType;

use super::names::{Global, Local, Naming};
use super::tensor::{Shape, Tensor};
use super::{Ffn, LayerWeights, ModelWeights, Requantized};
use crate::engine::config::ModelConfig;
use crate::engine::gguf::{BlockQuant, GgmlType, Parts};
use crate::engine::mapping::Mapping;
use crate::engine::safetensors::Folder;

/// Why the tensors of a file are not the weights of its model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// A tensor that the model needs.
    #[error("tensor {name:?} is missing")]
    Missing {
        /// Its usual name.
        name: String,
    },
    /// A tensor of other sizes than the configuration wants.
    #[error(
        "tensor {name:?} is {found}, but the model's configuration wants {expected} (rows × columns)"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Sizes that follow from the configuration.
        expected: String,
        /// Sizes in the file.
        found: String,
    },
    /// A type without kernels.
    #[error(
        "tensor {name:?} is of type {}, for which there are no kernels, only for F32, F16, BF16 and Q8_0: {hint}",
        kind.escape_debug()
    )]
    Type {
        /// The tensor.
        name: String,
        /// Its type by the format's name.
        kind: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A type that vectors do not have.
    #[error("tensor {name:?} is of type {kind}, but a vector is F32, F16 or BF16")]
    VectorType {
        /// The tensor.
        name: String,
        /// Its type.
        kind: &'static str,
    },
    /// Rows that Q8_0 cannot hold.
    #[error(
        "tensor {name:?} cannot be made {dtype}: its rows of {cols} elements are not made of blocks of 32; load it as bf16 or f32"
    )]
    Blocks {
        /// The tensor.
        name: String,
        /// The type that was asked for.
        dtype: DType,
        /// Elements of a row.
        cols: usize,
    },
    /// Tensors that nothing reads: leaving them out would change what the model computes.
    #[error(
        "tensor {name:?} ({count} such) has no place in an architecture {architecture}: the model is another one than its configuration says, or newer than this program"
    )]
    Unused {
        /// The first of them by name.
        name: String,
        /// How many there are.
        count: usize,
        /// The architecture.
        architecture: &'static str,
    },
}

/// How to load weights.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// The type to convert matrices to; `None` leaves them as the file has them.
    pub dtype: Option<DType>,
    /// The type to convert matrices of GGML's block types without kernels to; `None` refuses them.
    pub requantize: Option<DType>,
    /// Threads that convert.
    pub threads: usize,
    /// Is told, as a load goes on, how many bytes of the file are done, and how many there are.
    pub progress: Option<&'a dyn Fn(u64, u64)>,
}

impl Default for LoadOptions<'_> {
    /// As the file has them; conversions that are needed all the same on all cores; silently.
    fn default() -> Self {
        Self {
            dtype: None,
            requantize: None,
            threads: thread::available_parallelism().map_or(1, usize::from),
            progress: None,
        }
    }
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("dtype", &self.dtype)
            .field("requantize", &self.requantize)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl ModelWeights {
    /// Takes the weights of `config` from a GGUF model.
    ///
    /// # Errors
    /// [`WeightsError`] naming the tensor that is missing, of a wrong shape or type, or too many.
    pub fn from_gguf(
        parts: &Parts,
        config: &ModelConfig,
        options: LoadOptions<'_>,
    ) -> Result<Self, WeightsError> {
        let tensors = parts.tensors().map(|(file, tensor)| {
            let found = Found {
                kind: Kind::of_ggml(tensor.kind),
                shape: tensor.dims.iter().rev().copied().collect(),
                mapping: Arc::clone(file.mapping()),
                data: tensor.data.clone(),
            };
            (tensor.name.clone(), found)
        });
        Loader::new(Naming::Gguf, config, options, tensors.collect()).model()
    }

    /// Takes the weights of `config` from a safetensors folder.
    ///
    /// # Errors
    /// [`WeightsError`] naming the tensor that is missing, of a wrong shape or type, or too many.
    pub fn from_huggingface(
        folder: &Folder,
        config: &ModelConfig,
        options: LoadOptions<'_>,
    ) -> Result<Self, WeightsError> {
        let shards = folder.shards().iter();
        let tensors = shards.flat_map(|shard| shard.tensors().iter().map(move |t| (shard, t)));
        let tensors = tensors.map(|(shard, tensor)| {
            let found = Found {
                kind: match tensor.dtype.as_str() {
                    "F32" => Kind::Kernels(DType::F32),
                    "F16" => Kind::Kernels(DType::F16),
                    "BF16" => Kind::Kernels(DType::Bf16),
                    other => Kind::Unknown(other.to_owned()),
                },
                shape: tensor.shape.clone(),
                mapping: Arc::clone(shard.mapping()),
                data: tensor.data.clone(),
            };
            (tensor.name.clone(), found)
        });
        Loader::new(Naming::Huggingface, config, options, tensors.collect()).model()
    }
}

/// A tensor as a file has it.
struct Found {
    kind: Kind,
    /// Sizes, the fastest-running last.
    shape: Vec<usize>,
    mapping: Arc<Mapping>,
    data: Range<usize>,
}

/// The type of a tensor, by what can be done with it.
enum Kind {
    /// Used as it is.
    Kernels(DType),
    /// Used after a conversion.
    Blocks(BlockQuant),
    /// Nothing here reads it; its name.
    Unknown(String),
}

impl Kind {
    fn of_ggml(kind: GgmlType) -> Self {
        match (kind.dtype(), BlockQuant::of(kind)) {
            (Some(dtype), _) => Self::Kernels(dtype),
            (None, Some(quant)) => Self::Blocks(quant),
            (None, None) => Self::Unknown(kind.name().to_owned()),
        }
    }
}

struct Loader<'a> {
    naming: Naming,
    config: &'a ModelConfig,
    options: LoadOptions<'a>,
    /// What nobody has taken yet.
    tensors: HashMap<String, Found>,
    /// Bytes of what was taken, and of all there was.
    done: u64,
    total: u64,
    /// What was converted because there are no kernels for it.
    requantized: Vec<Requantized>,
}

impl<'a> Loader<'a> {
    fn new(
        naming: Naming,
        config: &'a ModelConfig,
        options: LoadOptions<'a>,
        tensors: HashMap<String, Found>,
    ) -> Self {
        Self {
            naming,
            config,
            options,
            done: 0,
            total: tensors.values().map(|found| found.data.len() as u64).sum(),
            tensors,
            requantized: Vec::new(),
        }
    }

    fn model(mut self) -> Result<ModelWeights, WeightsError> {
        let config = self.config;
        let vocabulary = Shape::matrix(config.n_vocab, config.n_embd);
        let token_embd = self.global(Global::TokenEmbd, vocabulary)?;
        let output = if config.tied {
            // Some exporters write the shared matrix twice.
            self.tensors.remove(self.naming.global(Global::Output));
            token_embd.clone()
        } else {
            self.global(Global::Output, vocabulary)?
        };
        let name = self.naming.global(Global::OutputNorm).to_owned();
        let output_norm = self.take_vector(&[name], config.n_embd)?;
        let rope_freqs = match self.tensors.contains_key("rope_freqs.weight") {
            true => {
                let name = "rope_freqs.weight".to_owned();
                Some(self.take_vector(&[name], config.rope.n_dims / 2)?)
            }
            false => None,
        };
        let layers = (0..config.n_layer).map(|layer| self.layer(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        self.nothing_is_left()?;
        Ok(ModelWeights {
            token_embd,
            output,
            tied: config.tied,
            output_norm,
            rope_freqs,
            layers,
            requantized: self.requantized,
        })
    }

    fn layer(&mut self, layer: usize) -> Result<LayerWeights, WeightsError> {
        let config = self.config;
        let (d, head_dim) = (config.n_embd, config.head_dim);
        let (n_q, n_kv) = (config.n_head * head_dim, config.n_kv_head * head_dim);
        Ok(LayerWeights {
            attn_norm: self.vector(layer, Local::AttnNorm, d)?,
            wq: self.matrix(layer, Local::Wq, n_q, d)?,
            wk: self.matrix(layer, Local::Wk, n_kv, d)?,
            wv: self.matrix(layer, Local::Wv, n_kv, d)?,
            wo: self.matrix(layer, Local::Wo, d, n_q)?,
            bq: self.vector_if(config.qkv_bias, layer, Local::Bq, n_q)?,
            bk: self.vector_if(config.qkv_bias, layer, Local::Bk, n_kv)?,
            bv: self.vector_if(config.qkv_bias, layer, Local::Bv, n_kv)?,
            q_norm: self.vector_if(config.qk_norm, layer, Local::QNorm, head_dim)?,
            k_norm: self.vector_if(config.qk_norm, layer, Local::KNorm, head_dim)?,
            ffn_norm: self.vector(layer, Local::FfnNorm, d)?,
            ffn: if config.is_moe() {
                self.experts(layer)?
            } else {
                Ffn::Dense {
                    gate: self.matrix(layer, Local::Gate, config.n_ff, d)?,
                    up: self.matrix(layer, Local::Up, config.n_ff, d)?,
                    down: self.matrix(layer, Local::Down, d, config.n_ff)?,
                }
            },
        })
    }

    fn experts(&mut self, layer: usize) -> Result<Ffn, WeightsError> {
        let (d, n_ff) = (self.config.n_embd, self.config.n_ff_expert);
        let shape = Shape::matrix(self.config.n_expert, d);
        let names = self.naming.local(layer, Local::Router);
        let (name, found) = self.take(&names)?;
        // A router is small, and a rounded activation could send a token to another expert: the half types are widened.
        let dtype = match found.kind {
            Kind::Kernels(DType::F16 | DType::Bf16) | Kind::Blocks(_) => Some(DType::F32),
            _ => None,
        };
        Ok(Ffn::Moe {
            router: self.tensor(&name, &found, shape, dtype)?,
            gate: self.stack(layer, Local::Gate, n_ff, d)?,
            up: self.stack(layer, Local::Up, n_ff, d)?,
            down: self.stack(layer, Local::Down, d, n_ff)?,
        })
    }

    /// The matrices of all experts of a layer, wherever they are.
    fn stack(
        &mut self,
        layer: usize,
        tensor: Local,
        rows: usize,
        cols: usize,
    ) -> Result<Tensor, WeightsError> {
        let shape = Shape {
            experts: self.config.n_expert,
            rows,
            cols,
        };
        let stacked = self.naming.stacked(layer, tensor);
        let apart = self.naming.expert(layer, 0, tensor);
        let is_apart = apart.iter().any(|name| self.tensors.contains_key(name));
        if let Some(name) = stacked.filter(|_| !is_apart) {
            let (name, found) = self.take(&[name])?;
            return self.tensor(&name, &found, shape, self.options.dtype);
        }
        let mut parts = Vec::with_capacity(shape.experts);
        let mut dtype = self.options.dtype;
        for expert in 0..shape.experts {
            let (name, found) = self.take(&self.naming.expert(layer, expert, tensor))?;
            let part = self.tensor(&name, &found, Shape::matrix(rows, cols), None)?;
            let dtype = *dtype.get_or_insert(part.dtype());
            self.check_blocks(&name, dtype, cols)?;
            parts.push(part);
        }
        // There is at least one expert, so that the first one's type is known by now.
        let dtype = dtype.unwrap_or(DType::F32);
        Ok(Tensor::stack(&parts, shape, dtype, self.options.threads))
    }

    fn global(&mut self, tensor: Global, shape: Shape) -> Result<Tensor, WeightsError> {
        let (name, found) = self.take(&[self.naming.global(tensor).to_owned()])?;
        self.tensor(&name, &found, shape, self.options.dtype)
    }

    fn matrix(
        &mut self,
        layer: usize,
        tensor: Local,
        rows: usize,
        cols: usize,
    ) -> Result<Tensor, WeightsError> {
        let (name, found) = self.take(&self.naming.local(layer, tensor))?;
        self.tensor(&name, &found, Shape::matrix(rows, cols), self.options.dtype)
    }

    fn vector(
        &mut self,
        layer: usize,
        tensor: Local,
        len: usize,
    ) -> Result<Vec<f32>, WeightsError> {
        self.take_vector(&self.naming.local(layer, tensor), len)
    }

    fn vector_if(
        &mut self,
        wanted: bool,
        layer: usize,
        tensor: Local,
        len: usize,
    ) -> Result<Option<Vec<f32>>, WeightsError> {
        wanted.then(|| self.vector(layer, tensor, len)).transpose()
    }

    fn take_vector(&mut self, names: &[String], len: usize) -> Result<Vec<f32>, WeightsError> {
        let (name, found) = self.take(names)?;
        let kind = match found.kind {
            Kind::Kernels(DType::Q8_0) => Some("Q8_0"),
            Kind::Blocks(quant) => Some(quant.name()),
            Kind::Kernels(_) | Kind::Unknown(_) => None,
        };
        if let Some(kind) = kind {
            return Err(WeightsError::VectorType { name, kind });
        }
        let row = self.tensor(&name, &found, Shape::matrix(1, len), None)?;
        let mut vector = vec![0.0; len];
        row.view().widen_row(0, &mut vector);
        Ok(vector)
    }

    /// Takes a tensor under the first of the names that the file has.
    fn take(&mut self, names: &[String]) -> Result<(String, Found), WeightsError> {
        if let Some(progress) = self.options.progress {
            progress(self.done, self.total);
        }
        let taken = names
            .iter()
            .find_map(|name| self.tensors.remove_entry(name));
        let (name, found) = taken.ok_or_else(|| WeightsError::Missing {
            name: names[0].clone(),
        })?;
        self.done += found.data.len() as u64;
        Ok((name, found))
    }

    /// The tensor as `dtype`, or as it is: mapped if that is possible.
    fn tensor(
        &mut self,
        name: &str,
        found: &Found,
        shape: Shape,
        dtype: Option<DType>,
    ) -> Result<Tensor, WeightsError> {
        let expected = [shape.experts, shape.rows, shape.cols];
        if significant(&found.shape) != significant(&expected) {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                expected: sizes(significant(&expected)),
                found: sizes(&found.shape),
            });
        }
        let kind = match &found.kind {
            Kind::Kernels(kind) => *kind,
            Kind::Blocks(quant) => return self.requantize(*quant, name, found, shape, dtype),
            Kind::Unknown(kind) => {
                let hint = match self.naming {
                    Naming::Gguf => OTHER_BLOCKS,
                    Naming::Huggingface => "take the model in bfloat16",
                };
                return Err(no_kernels(name, kind, hint));
            }
        };
        let dtype = dtype.unwrap_or(kind);
        self.check_blocks(name, dtype, shape.cols)?;
        // Safetensors promise no alignment: where it lacks, a copy has it.
        let whole = Tensor::new(kind, shape, &found.mapping, found.data.clone())
            .or_else(|| Tensor::copied(kind, shape, &found.mapping[found.data.clone()]))
            .expect(AS_MANY_BYTES);
        if kind == dtype {
            return Ok(whole);
        }
        let threads = self.options.threads;
        Ok(Tensor::stack(&[whole], shape, dtype, threads))
    }

    /// A tensor of blocks without kernels, if that was asked for: as `dtype`, or as the options say.
    fn requantize(
        &mut self,
        quant: BlockQuant,
        name: &str,
        found: &Found,
        shape: Shape,
        dtype: Option<DType>,
    ) -> Result<Tensor, WeightsError> {
        let Some(target) = self.options.requantize else {
            return Err(no_kernels(name, quant.name(), REQUANTIZE));
        };
        let dtype = dtype.unwrap_or(target);
        self.check_blocks(name, dtype, shape.cols)?;
        let blocks = &found.mapping[found.data.clone()];
        let tensor = Tensor::requantized(quant, shape, blocks, dtype, self.options.threads);
        let tensor = tensor.expect(AS_MANY_BYTES);
        let same = |seen: &&mut Requantized| seen.from == quant && seen.to == dtype;
        match self.requantized.iter_mut().find(same) {
            Some(seen) => seen.tensors += 1,
            None => self.requantized.push(Requantized {
                from: quant,
                to: dtype,
                tensors: 1,
            }),
        }
        Ok(tensor)
    }

    fn check_blocks(&self, name: &str, dtype: DType, cols: usize) -> Result<(), WeightsError> {
        match dtype.row_bytes(cols) {
            Some(_) => Ok(()),
            None => Err(WeightsError::Blocks {
                name: name.to_owned(),
                dtype,
                cols,
            }),
        }
    }

    fn nothing_is_left(&self) -> Result<(), WeightsError> {
        let names = self.tensors.keys();
        let left: Vec<&String> = names
            .filter(|name| !self.naming.is_redundant(name))
            .collect();
        match left.iter().min() {
            None => Ok(()),
            Some(&name) => Err(WeightsError::Unused {
                name: name.clone(),
                count: left.len(),
                architecture: self.config.architecture.name(),
            }),
        }
    }
}

const AS_MANY_BYTES: &str = "the reader checked that a tensor has as many bytes as its shape wants";

const REQUANTIZE: &str = "load it with --requantize q8_0 (or bf16), which rounds its rounded weights once more, or \
    take a Q8_0 file of the model";

const OTHER_BLOCKS: &str = "convert the model with llama-quantize --allow-requantize IN.gguf OUT.gguf Q8_0, or better, \
    convert its source to Q8_0";

fn no_kernels(name: &str, kind: &str, hint: &'static str) -> WeightsError {
    WeightsError::Type {
        name: name.to_owned(),
        kind: kind.to_owned(),
        hint,
    }
}

/// Sizes without leading ones, which formats drop at will.
fn significant(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|&&size| size == 1).count();
    &shape[ones..]
}

fn sizes(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    match sizes.is_empty() {
        true => "1".to_owned(),
        false => sizes.join(" × "),
    }
}
