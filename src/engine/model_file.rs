//! A model as it is given on the command line: a GGUF file, or a folder with safetensors.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::{ConfigError, ModelConfig};
use super::gguf::{Gguf, GgufError, Parts, SplitError};
use super::safetensors::{Folder, FolderError, Quantized};
use super::tokenizer::{GgufVocab, Tokenizer, TokenizerError};
use super::weights::{LoadOptions, ModelWeights, WeightsError};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A GGUF file, or one of its parts, cannot be read.
    #[error(transparent)]
    Gguf(#[from] SplitError),
    /// A folder cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The description of the model cannot be used.
    #[error("{}", path.display())]
    Config {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The tensors are not the model's weights.
    #[error("{}", path.display())]
    Weights {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: WeightsError,
    },
    /// The weights of a folder are quantised in a way that is not supported.
    #[error("{}: {quantized}", path.display())]
    Quantized {
        /// The folder.
        path: PathBuf,
        /// How they are.
        quantized: Quantized,
    },
    /// The file has a vocabulary and no weights.
    #[error("{} holds a vocabulary only: it can be tokenized with, not run", path.display())]
    VocabularyOnly {
        /// The model.
        path: PathBuf,
    },
    /// A file of a folder was given.
    #[error("{} is one file of a safetensors model: give the folder that holds it and config.json", path.display())]
    FileOfFolder {
        /// The file.
        path: PathBuf,
    },
}

/// Where a model's vocabulary is.
#[derive(Debug)]
pub enum VocabularySource {
    /// In the metadata of a GGUF file (`tokenizer.ggml.*`).
    Gguf(Gguf),
    /// In a folder's `tokenizer.json` and its companions.
    Folder(PathBuf),
}

impl VocabularySource {
    /// Finds the vocabulary of a model without touching its weights; the model may have none.
    ///
    /// # Errors
    /// [`ModelError`] if a GGUF file cannot be read.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        match kind(path)? {
            Kind::Folder => Ok(Self::Folder(path.to_owned())),
            Kind::Gguf => match Gguf::open(path) {
                Ok(gguf) => Ok(Self::Gguf(gguf)),
                Err(source) => Err(part_error(path, source)),
            },
        }
    }
}

impl VocabularySource {
    /// The tokenizer that the vocabulary makes.
    ///
    /// # Errors
    /// [`TokenizerError`], also where the model has no vocabulary.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        match self {
            Self::Gguf(gguf) => Tokenizer::from_gguf(GgufVocab::from_metadata(gguf)?),
            Self::Folder(folder) => Tokenizer::from_json(folder),
        }
    }

    /// The template (in the Jinja language) that conversations were written by in training, as the model's files have
    /// it: `tokenizer.chat_template` of a GGUF file, `chat_template.jinja` or `tokenizer_config.json` of a folder,
    /// there the one named `default` where there are several.
    pub fn chat_template(&self) -> Option<String> {
        let folder = match self {
            Self::Gguf(gguf) => {
                let template = gguf.get::<&str>("tokenizer.chat_template");
                return template.ok().flatten().map(str::to_owned);
            }
            Self::Folder(folder) => folder,
        };
        let read = |name| {
            let text = std::fs::File::open(folder.join(name))
                .ok()?
                .take(MAX_TEMPLATE);
            std::io::read_to_string(text).ok()
        };
        if let Some(template) = read("chat_template.jinja") {
            return Some(template);
        }
        let config: Value = serde_json::from_str(&read("tokenizer_config.json")?).ok()?;
        let template = match config.get("chat_template")? {
            Value::Array(named) => {
                let default =
                    |entry: &&Value| entry.get("name").is_some_and(|name| name == "default");
                named.iter().find(default)?.get("template")?
            }
            template => template,
        };
        template.as_str().map(str::to_owned)
    }
}

/// The longest file that a template is looked for in; those of real models have up to some hundred thousand bytes.
const MAX_TEMPLATE: u64 = 32 << 20;

/// A loaded model.
#[derive(Debug)]
pub struct ModelFile {
    /// Sizes and parameters.
    pub config: ModelConfig,
    /// Weights, mapped where that is possible.
    pub weights: ModelWeights,
    /// Where the vocabulary is.
    pub vocabulary: VocabularySource,
}

impl ModelFile {
    /// Opens a model; its weights stay mapped unless `options` ask for another type.
    ///
    /// # Errors
    /// [`ModelError`] naming the file, and the key or the tensor in it, that is the trouble.
    pub fn open(path: &Path, options: LoadOptions<'_>) -> Result<Self, ModelError> {
        let config_error = |source| ModelError::Config {
            path: path.to_owned(),
            source,
        };
        let weights_error = |source| ModelError::Weights {
            path: path.to_owned(),
            source,
        };
        match kind(path)? {
            Kind::Folder => {
                let folder = Folder::open(path)?;
                if let Some(quantized) = Quantized::detect(&folder) {
                    return Err(ModelError::Quantized {
                        path: path.to_owned(),
                        quantized,
                    });
                }
                let config =
                    ModelConfig::from_huggingface(folder.config()).map_err(config_error)?;
                let weights = ModelWeights::from_huggingface(&folder, &config, options)
                    .map_err(weights_error)?;
                Ok(Self {
                    config,
                    weights,
                    vocabulary: VocabularySource::Folder(path.to_owned()),
                })
            }
            Kind::Gguf => {
                let parts = Parts::open(path)?;
                if parts.tensors().next().is_none() {
                    return Err(ModelError::VocabularyOnly {
                        path: path.to_owned(),
                    });
                }
                let config = ModelConfig::from_gguf(&parts).map_err(config_error)?;
                let weights =
                    ModelWeights::from_gguf(&parts, &config, options).map_err(weights_error)?;
                Ok(Self {
                    config,
                    weights,
                    vocabulary: VocabularySource::Gguf(parts.into_first()),
                })
            }
        }
    }
}

/// The paths of all files that [`ModelFile::open`] opens for a model.
///
/// # Errors
/// [`ModelError`] if they cannot be found by what the first of them says.
pub fn paths(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    Ok(match kind(path)? {
        Kind::Folder => Folder::paths(path)?,
        Kind::Gguf => Parts::paths(path)?,
    })
}

/// Which of the two a path is.
pub(super) enum Kind {
    Gguf,
    Folder,
}

pub(super) fn kind(path: &Path) -> Result<Kind, ModelError> {
    if path.is_dir() {
        return Ok(Kind::Folder);
    }
    match path.extension() {
        Some(extension) if extension == "safetensors" => Err(ModelError::FileOfFolder {
            path: path.to_owned(),
        }),
        _ => Ok(Kind::Gguf),
    }
}

fn part_error(path: &Path, source: GgufError) -> ModelError {
    ModelError::Gguf(SplitError::Part {
        path: path.to_owned(),
        source,
    })
}
