//! Loading a model for a subcommand.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokgate_kernels::DType;

use crate::cli::{BenchArgs, KvType, ModelArgs, RequantizeType, SamplingArgs, WeightType};
use crate::engine::forward::Model;
use crate::engine::gguf::GgmlType;
use crate::engine::model_file::{ModelFile, VocabularySource};
use crate::engine::sampler::{Sampler, SamplerParams};
use crate::engine::tokenizer::Tokenizer;
use crate::engine::weights::{Ffn, LoadOptions, ModelWeights};

/// A model and where it came from.
pub struct Loaded {
    /// Ready to run.
    pub model: Model,
    /// As the user named it.
    pub path: PathBuf,
    vocabulary: VocabularySource,
}

/// What matrices are converted to at load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversion {
    /// All matrices.
    dtype: Option<WeightType>,
    /// Those without kernels.
    requantize: Option<RequantizeType>,
}

impl From<&ModelArgs> for Conversion {
    fn from(args: &ModelArgs) -> Self {
        Self {
            dtype: args.dtype,
            requantize: args.requantize,
        }
    }
}

impl From<&BenchArgs> for Conversion {
    fn from(args: &BenchArgs) -> Self {
        Self {
            dtype: args.dtype,
            requantize: args.requantize,
        }
    }
}

/// Loads a model, converting its matrices if that was asked for; weights that are rounded once more are told of on
/// standard error.
///
/// # Errors
/// If the files are no model that the engine can run; the message names the place.
pub fn load(path: &Path, conversion: impl Into<Conversion>) -> anyhow::Result<Loaded> {
    let conversion = conversion.into();
    // It draws nothing where standard error is not a terminal, and is gone too fast to see where nothing is converted.
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("loading {wide_bar} {bytes} of {total_bytes}, {eta} left")
            .expect("the template is correct"),
    );
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let options = LoadOptions {
        dtype: conversion.dtype.map(DType::from),
        requantize: conversion.requantize.map(DType::from),
        progress: Some(&progress),
        ..LoadOptions::default()
    };
    let file = ModelFile::open(path, options);
    bar.finish_and_clear();
    let ModelFile {
        config,
        weights,
        vocabulary,
    } = file?;
    if !weights.requantized.is_empty() {
        eprintln!("tokgate: warning: {}", requantized(path, &weights));
    }
    let model = Model::new(config, weights).with_context(|| path.display().to_string())?;
    Ok(Loaded {
        model,
        path: path.to_owned(),
        vocabulary,
    })
}

/// What was rounded once more, in words.
fn requantized(path: &Path, weights: &ModelWeights) -> String {
    let parts = weights.requantized.iter().map(|part| {
        let to = GgmlType::from(part.to);
        format!("{} of {} to {to}", part.tensors, part.from.name())
    });
    let parts: Vec<String> = parts.collect();
    format!(
        "{}: tensors were requantised at load: {}. Weights are rounded twice, and take the memory and the time of the \
         new type: what is measured is not the model in the file.",
        path.display(),
        parts.join(", ")
    )
}

/// A sampler as it was asked for.
///
/// # Errors
/// If an option makes no sense.
pub fn sampler(args: SamplingArgs) -> anyhow::Result<Sampler> {
    Ok(Sampler::new(SamplerParams {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed,
        ..SamplerParams::default()
    })?)
}

/// The KV cache's element type.
pub fn kv(kv: KvType) -> DType {
    match kv {
        KvType::Bf16 => DType::Bf16,
        KvType::F32 => DType::F32,
    }
}

impl Loaded {
    /// The model's tokenizer; what is odd about it is said on standard error.
    ///
    /// # Errors
    /// If the model has no vocabulary, or one that cannot be used.
    pub fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        let tokenizer = self.vocabulary.tokenizer();
        let tokenizer = tokenizer.with_context(|| self.path.display().to_string())?;
        for warning in tokenizer.warnings() {
            eprintln!("tokgate: warning: {warning}");
        }
        Ok(tokenizer)
    }

    /// The model's own template for conversations.
    #[cfg(feature = "serve")]
    pub fn chat_template(&self) -> Option<String> {
        self.vocabulary.chat_template()
    }

    /// Parameters.
    pub fn params(&self) -> u64 {
        self.model.weights().total().elements
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> u64 {
        self.model.weights().total().bytes
    }

    /// Element type of the layers' matrices.
    pub fn matrix_type(&self) -> DType {
        let layer = self.model.weights().layers.first();
        layer.map_or(DType::F32, |layer| match &layer.ffn {
            Ffn::Dense { gate, .. } | Ffn::Moe { gate, .. } => gate.dtype(),
        })
    }

    /// Family and size as the ids of benches have them: `qwen3-0.6b`, `qwen3-2m`.
    pub fn bench_name(&self) -> String {
        let millions = self.params() as f64 / 1e6;
        let size = match millions < 100.0 {
            true => format!("{millions:.0}m"),
            false => format!("{:.1}b", millions / 1e3),
        };
        let name = format!("{}-{size}", self.model.config().architecture);
        let is_of_ids = |c: &char| c.is_ascii_alphanumeric() || "-.".contains(*c);
        name.to_lowercase().chars().filter(is_of_ids).collect()
    }

    /// Family, size and type of the matrices, as llama-bench has them: `qwen3 0.6B Q8_0`. Types that were requantised
    /// come behind it: `qwen3 0.6B Q8_0 from Q4_K, Q6_K`.
    pub fn model_type(&self) -> String {
        let billions = self.params() as f64 / 1e9;
        let dtype = self.matrix_type().name().to_uppercase();
        let requantized = self.model.weights().requantized.iter();
        let mut from: Vec<&str> = requantized.map(|part| part.from.name()).collect();
        from.sort_unstable();
        from.dedup();
        let from = match from.is_empty() {
            true => String::new(),
            false => format!(" from {}", from.join(", ")),
        };
        format!(
            "{} {billions:.1}B {dtype}{from}",
            self.model.config().architecture
        )
    }
}
