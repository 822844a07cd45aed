//! What is in a model's files, without loading it; also for models that cannot be run.

pub mod memory;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::config::{ConfigError, ModelConfig};
use super::gguf::{Array, BlockQuant, Parts, Value};
use super::model_file::{Kind, ModelError, kind};
use super::safetensors::{Folder, Quantized};
use super::weights::{Component, component};

/// The version of the JSON form; it changes when a field goes or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// Elements of an array that are shown.
const SHOWN: usize = 8;

/// A description of a model's files.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Version of this structure.
    pub schema_version: u32,
    /// `GGUF v3` or `safetensors`.
    pub format: String,
    /// Files that hold tensors.
    pub files: usize,
    /// Bytes of these files.
    pub file_bytes: u64,
    /// `general.architecture`, or what `config.json` stands for; `None` where it is missing or not supported.
    pub architecture: Option<String>,
    /// The model's own name.
    pub name: Option<String>,
    /// Sizes; `None` where the configuration cannot be read.
    pub sizes: Option<Sizes>,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Shares by purpose.
    pub components: Vec<Share>,
    /// Shares by element type.
    pub dtypes: Vec<Share>,
    /// Why the model cannot be run; empty if nothing is known to be in the way.
    pub problems: Vec<String>,
    /// Metadata in the file's order: GGUF entries, or the fields of `config.json`.
    pub metadata: Vec<Entry>,
    /// All tensors in the files' order.
    pub tensors: Vec<TensorRow>,
    #[serde(skip)]
    config: Option<ModelConfig>,
}

/// The sizes of a model; see [`ModelConfig`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are those of the configuration")]
pub struct Sizes {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_kv_head: usize,
    pub head_dim: usize,
    pub n_ff: usize,
    pub n_expert: usize,
    pub n_expert_used: usize,
    pub n_ff_expert: usize,
    pub n_vocab: usize,
    pub n_context: usize,
    pub sliding_window: Option<usize>,
    pub tied: bool,
    pub rms_eps: f32,
    pub rope_kind: String,
    pub rope_dims: usize,
    pub rope_theta: f64,
    pub rope_scaling: String,
}

/// What a part of the tensors takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// A component, or an element type.
    pub name: String,
    /// Tensors.
    pub tensors: u64,
    /// Elements.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A metadata entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its type: `u32`, `string`, `array of string` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Elements of an array, which may be more than are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<usize>,
    /// The value, or the first elements of an array.
    pub value: serde_json::Value,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorRow {
    /// Its name.
    pub name: String,
    /// Its element type by the format's name.
    pub dtype: String,
    /// Sizes, in the format's own order: in GGUF files the fastest-running first, in safetensors files last.
    pub shape: Vec<usize>,
    /// Elements.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
    /// Where its data start in its file.
    pub offset: u64,
    /// Which of the files holds it, from 0.
    pub file: usize,
    /// Elements of a row: the fastest-running size.
    #[serde(skip)]
    cols: usize,
}

impl Inspection {
    /// Describes a GGUF file (all parts of it, if it was split) or a folder with safetensors.
    ///
    /// # Errors
    /// [`ModelError`] if the files cannot be read.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        match kind(path)? {
            Kind::Gguf => Ok(Self::of_gguf(&Parts::open(path)?)),
            Kind::Folder => Ok(Self::of_folder(&Folder::open(path)?)),
        }
    }

    fn of_gguf(parts: &Parts) -> Self {
        let gguf = parts.first();
        let mut tensors = Vec::new();
        let (mut problems, mut blocks) = (Vec::new(), Vec::new());
        for (file, part) in parts.iter().enumerate() {
            for tensor in part.tensors() {
                match (tensor.kind.dtype(), BlockQuant::of(tensor.kind)) {
                    (Some(_), _) => {}
                    (None, Some(_)) => blocks.push((tensor.kind.name(), &tensor.name)),
                    (None, None) => problems.push((tensor.kind.name(), &tensor.name)),
                }
                tensors.push(TensorRow {
                    name: tensor.name.clone(),
                    dtype: tensor.kind.name().to_owned(),
                    shape: tensor.dims.clone(),
                    parameters: tensor.elements() as u64,
                    bytes: tensor.data.len() as u64,
                    offset: tensor.data.start as u64,
                    file,
                    cols: tensor.dims.first().copied().unwrap_or(1),
                });
            }
        }
        let mut inspection = Self::of_tensors(format!("GGUF v{}", gguf.version()), tensors);
        for (found, way_out) in [
            (problems, "there are kernels for F32, F16, BF16 and Q8_0"),
            (
                blocks,
                "only --requantize q8_0 or bf16 at load makes them run",
            ),
        ] {
            if let Some((kind, name)) = found.first() {
                inspection.problems.push(format!(
                    "{} tensors, {name} the first, are of types without kernels ({kind}); {way_out}",
                    found.len()
                ));
            }
        }
        if inspection.tensors.is_empty() {
            inspection
                .problems
                .push("the file holds a vocabulary only".to_owned());
        }
        inspection.files = parts.count();
        inspection.file_bytes = parts.iter().map(|part| part.mapping().len() as u64).sum();
        inspection.architecture = gguf.get("general.architecture").ok().flatten();
        inspection.name = gguf.get("general.name").ok().flatten();
        inspection.metadata = gguf
            .metadata()
            .map(|(key, value)| Entry::new(key, value))
            .collect();
        inspection.configured(ModelConfig::from_gguf(parts))
    }

    fn of_folder(folder: &Folder) -> Self {
        let mut tensors = Vec::new();
        for (file, shard) in folder.shards().iter().enumerate() {
            tensors.extend(shard.tensors().iter().map(|tensor| TensorRow {
                name: tensor.name.clone(),
                dtype: tensor.dtype.clone(),
                shape: tensor.shape.clone(),
                parameters: tensor.shape.iter().product::<usize>() as u64,
                bytes: tensor.data.len() as u64,
                offset: tensor.data.start as u64,
                file,
                cols: tensor.shape.last().copied().unwrap_or(1),
            }));
        }
        let mut inspection = Self::of_tensors("safetensors".to_owned(), tensors);
        inspection.files = folder.shards().len();
        let shards = folder.shards().iter();
        inspection.file_bytes = shards.map(|shard| shard.mapping().len() as u64).sum();
        let quantized = Quantized::detect(folder);
        let config = match &quantized {
            // Only its sizes are wanted.
            Some(_) => ModelConfig::from_huggingface(&without_quantization(folder.config())),
            None => ModelConfig::from_huggingface(folder.config()),
        };
        inspection
            .problems
            .extend(quantized.map(|quantized| quantized.to_string()));
        if let Ok(config) = &config {
            inspection.architecture = Some(config.architecture.name().to_owned());
            inspection.name.clone_from(&config.name);
        }
        if let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(folder.config()) {
            let entries = fields.into_iter();
            inspection.metadata = entries
                .map(|(key, value)| Entry::of_json(key, value))
                .collect();
        }
        inspection.configured(config)
    }

    fn of_tensors(format: String, tensors: Vec<TensorRow>) -> Self {
        let names = Component::ALL
            .map(Component::name)
            .into_iter()
            .chain(["other"]);
        let mut components: Vec<Share> = names.map(Share::none).collect();
        let mut dtypes: BTreeMap<&str, Share> = BTreeMap::new();
        for tensor in &tensors {
            let index = component(&tensor.name)
                .map_or(components.len() - 1, |component| component as usize);
            components[index].add(tensor);
            let share = dtypes.entry(&tensor.dtype);
            share
                .or_insert_with(|| Share::none(&tensor.dtype))
                .add(tensor);
        }
        components.retain(|share| share.tensors > 0);
        let mut dtypes: Vec<Share> = dtypes.into_values().collect();
        dtypes.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        Self {
            schema_version: SCHEMA_VERSION,
            format,
            files: 0,
            file_bytes: 0,
            architecture: None,
            name: None,
            sizes: None,
            parameters: components.iter().map(|share| share.parameters).sum(),
            tensor_bytes: components.iter().map(|share| share.bytes).sum(),
            components,
            dtypes,
            problems: Vec::new(),
            metadata: Vec::new(),
            tensors,
            config: None,
        }
    }

    fn configured(mut self, config: Result<ModelConfig, ConfigError>) -> Self {
        match config {
            Ok(config) => {
                self.sizes = Some(Sizes::from(&config));
                self.config = Some(config);
            }
            Err(error) => self.problems.push(error.to_string()),
        }
        self
    }
}

/// A `config.json` without its `quantization_config`.
fn without_quantization(config: &[u8]) -> Vec<u8> {
    match serde_json::from_slice(config) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.shift_remove("quantization_config");
            serde_json::Value::Object(fields).to_string().into_bytes()
        }
        _ => config.to_vec(),
    }
}

impl From<&ModelConfig> for Sizes {
    fn from(config: &ModelConfig) -> Self {
        Self {
            n_layer: config.n_layer,
            n_embd: config.n_embd,
            n_head: config.n_head,
            n_kv_head: config.n_kv_head,
            head_dim: config.head_dim,
            n_ff: config.n_ff,
            n_expert: config.n_expert,
            n_expert_used: config.n_expert_used,
            n_ff_expert: config.n_ff_expert,
            n_vocab: config.n_vocab,
            n_context: config.n_context,
            sliding_window: config.sliding_window,
            tied: config.tied,
            rms_eps: config.rms_eps,
            rope_kind: format!("{:?}", config.rope.kind),
            rope_dims: config.rope.n_dims,
            rope_theta: config.rope.theta,
            rope_scaling: format!("{:?}", config.rope.scaling),
        }
    }
}

impl Share {
    fn none(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tensors: 0,
            parameters: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, tensor: &TensorRow) {
        self.tensors += 1;
        self.parameters += tensor.parameters;
        self.bytes += tensor.bytes;
    }
}

impl Entry {
    fn new(key: &str, value: Value<'_>) -> Self {
        let (kind, len) = match value {
            Value::Array(array) => (format!("array of {}", array.kind()), Some(array.len())),
            other => (other.kind().to_string(), None),
        };
        Self {
            key: key.to_owned(),
            kind,
            len,
            value: to_json(value),
        }
    }

    fn of_json(key: String, value: serde_json::Value) -> Self {
        let (kind, len) = match &value {
            serde_json::Value::Null => ("null", None),
            serde_json::Value::Bool(_) => ("bool", None),
            serde_json::Value::Number(_) => ("number", None),
            serde_json::Value::String(_) => ("string", None),
            serde_json::Value::Array(array) => ("array", Some(array.len())),
            serde_json::Value::Object(_) => ("object", None),
        };
        let value = match value {
            serde_json::Value::Array(mut array) => {
                array.truncate(SHOWN);
                array.into()
            }
            other => other,
        };
        Self {
            key,
            kind: kind.to_owned(),
            len,
            value,
        }
    }
}

fn to_json(value: Value<'_>) -> serde_json::Value {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => float(v, v.into()),
        Value::F64(v) => float(v, v),
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(v),
        Value::Array(array) => first(array),
    }
}

/// The shortest digits that give the number back: an f32's are fewer than those of the f64 of the same value.
fn float(shown: impl std::fmt::Display, value: f64) -> serde_json::Value {
    shown
        .to_string()
        .parse::<f64>()
        .map_or_else(|_| json!(value), |shortest| json!(shortest))
}

fn first(array: Array<'_>) -> serde_json::Value {
    array.iter().take(SHOWN).map(to_json).collect()
}
