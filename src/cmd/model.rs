//! Loading a model for a subcommand.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokgate_kernels::DType;

use crate::cli::{KvType, WeightType};
use crate::engine::forward::Model;
use crate::engine::model_file::{ModelFile, VocabularySource};
use crate::engine::tokenizer::Tokenizer;
use crate::engine::weights::{Ffn, LoadOptions};

/// A model and where it came from.
pub struct Loaded {
    /// Ready to run.
    pub model: Model,
    /// As the user named it.
    pub path: PathBuf,
    vocabulary: VocabularySource,
}

/// Loads a model, converting its matrices if `dtype` says so.
///
/// # Errors
/// If the files are no model that the engine can run; the message names the place.
pub fn load(path: &Path, dtype: Option<WeightType>) -> anyhow::Result<Loaded> {
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
        dtype: dtype.map(DType::from),
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
    let model = Model::new(config, weights).with_context(|| path.display().to_string())?;
    Ok(Loaded {
        model,
        path: path.to_owned(),
        vocabulary,
    })
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

    /// Family, size and type of the matrices, as llama-bench has them: `qwen3 0.6B Q8_0`.
    pub fn model_type(&self) -> String {
        let billions = self.params() as f64 / 1e9;
        let dtype = self.matrix_type().name().to_uppercase();
        format!(
            "{} {billions:.1}B {dtype}",
            self.model.config().architecture
        )
    }
}
