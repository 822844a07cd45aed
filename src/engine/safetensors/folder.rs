//! A model as it is downloaded: `config.json`, `tokenizer.json`, and `model.safetensors` or its shards with
//! `model.safetensors.index.json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::{Safetensors, SafetensorsError};

/// Longest JSON file that is read: the index of the largest model has a few megabytes.
const MAX_JSON: u64 = 100_000_000;

/// Why a folder could not be read as a model.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file that is needed cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A text file of absurd length.
    #[error("{} is longer than {MAX_JSON} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Neither the weights nor an index of them.
    #[error("{} holds neither model.safetensors nor model.safetensors.index.json", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The index is not what it should be.
    #[error("{}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The index names a file outside of the folder.
    #[error("{}: {shard:?} is not a plain file name", path.display())]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The name.
        shard: String,
    },
    /// A file of weights is damaged.
    #[error("{}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SafetensorsError,
    },
    /// The index names a tensor that its shard does not have.
    #[error("{}: tensor {name:?} should be in {shard}, but is not", path.display())]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard's file name.
        shard: String,
    },
    /// Two shards have a tensor of the same name.
    #[error("{}: two shards have a tensor {name:?}", path.display())]
    Duplicate {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// An opened folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: Vec<u8>,
    shards: Vec<Safetensors>,
}

#[derive(serde::Deserialize)]
struct Index {
    /// From tensors to file names.
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    /// Opens the files of a model; the weights' data stay on disk until they are used.
    ///
    /// # Errors
    /// [`FolderError`] naming the file that is missing or damaged.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let config = read(&path.join("config.json"))?;
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        let shards = if single.exists() {
            vec![open_shard(single)?]
        } else if index.exists() {
            open_shards(path, index)?
        } else {
            return Err(FolderError::NoWeights {
                path: path.to_owned(),
            });
        };
        Ok(Self {
            path: path.to_owned(),
            config,
            shards,
        })
    }

    /// The paths of the files that [`Folder::open`] opens.
    ///
    /// # Errors
    /// [`FolderError`] if the index of the weights is missing or damaged.
    pub fn paths(path: &Path) -> Result<Vec<PathBuf>, FolderError> {
        let mut paths = vec![path.join("config.json")];
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        if single.exists() {
            paths.push(single);
        } else if index.exists() {
            let shards = shard_names(&index)?.into_keys();
            paths.extend(shards.map(|shard| path.join(shard)));
            paths.push(index);
        } else {
            return Err(FolderError::NoWeights {
                path: path.to_owned(),
            });
        }
        Ok(paths)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of `config.json`.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The files of weights; no two have a tensor of the same name.
    pub fn shards(&self) -> &[Safetensors] {
        &self.shards
    }
}

/// The names of the files that an index names, each with those of its tensors.
fn shard_names(path: &Path) -> Result<BTreeMap<String, Vec<String>>, FolderError> {
    let index = serde_json::from_slice(&read(path)?);
    let Index { weight_map } = index.map_err(|source| FolderError::Index {
        path: path.to_owned(),
        source,
    })?;
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, shard) in weight_map {
        if !is_plain(&shard) {
            return Err(FolderError::ShardName {
                path: path.to_owned(),
                shard,
            });
        }
        wanted.entry(shard).or_default().push(name);
    }
    Ok(wanted)
}

fn open_shards(folder: &Path, path: PathBuf) -> Result<Vec<Safetensors>, FolderError> {
    let wanted = shard_names(&path)?;
    let mut shards = Vec::with_capacity(wanted.len());
    let mut shard_of = BTreeMap::new();
    for (index, (shard, names)) in wanted.into_iter().enumerate() {
        let opened = open_shard(folder.join(&shard))?;
        for tensor in opened.tensors() {
            if shard_of.insert(tensor.name.clone(), index).is_some() {
                return Err(FolderError::Duplicate {
                    path: folder.to_owned(),
                    name: tensor.name.clone(),
                });
            }
        }
        if let Some(name) = names
            .into_iter()
            .find(|name| shard_of.get(name) != Some(&index))
        {
            return Err(FolderError::NotInShard { path, name, shard });
        }
        shards.push(opened);
    }
    Ok(shards)
}

/// Whether a name stays within the folder it is joined to.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}

fn open_shard(path: PathBuf) -> Result<Safetensors, FolderError> {
    Safetensors::open(&path).map_err(|source| FolderError::Shard { path, source })
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    let limited = || {
        // Opening a pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut text = Vec::new();
        File::open(path)?
            .take(MAX_JSON + 1)
            .read_to_end(&mut text)?;
        Ok(text)
    };
    let text = limited().map_err(|source| FolderError::Io {
        path: path.to_owned(),
        source,
    })?;
    if text.len() as u64 > MAX_JSON {
        return Err(FolderError::TooLong {
            path: path.to_owned(),
        });
    }
    Ok(text)
}
