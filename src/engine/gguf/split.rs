//! Models that were split into several GGUF files, `NAME-00001-of-00003.gguf` and so on.
//!
//! The first file has all metadata; each has a tensor table and data of its own. Keys: `split.no` (from 0),
//! `split.count`, `split.tensors.count` (over all files).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Gguf, GgufError, TensorInfo};

/// Why the parts of a model do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A part could not be read.
    #[error("{}", path.display())]
    Part {
        /// The part.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// Another part than the first was given.
    #[error(
        "{} is part {number} of {count} of a split model: give the first part, the others are found by it", path.display()
    )]
    NotTheFirst {
        /// The part that was given.
        path: PathBuf,
        /// Its number, from 1.
        number: u64,
        /// Parts.
        count: u64,
    },
    /// The first part was renamed.
    #[error(
        "{} is the first of {count} parts, but is not named …-00001-of-{count:05}.gguf, so that the others cannot be \
         found: rename it, or merge the parts with llama-gguf-split --merge", path.display()
    )]
    Name {
        /// The first part.
        path: PathBuf,
        /// Parts.
        count: u64,
    },
    /// A part says that it is another one.
    #[error("{} says that it is part {found} of {found_count}, not {expected} of {count}", path.display())]
    Mixed {
        /// The part.
        path: PathBuf,
        /// Its number by its name, from 1.
        expected: u64,
        /// Parts, by the first one.
        count: u64,
        /// Its number by its own word, from 1.
        found: u64,
        /// Parts, by its own word.
        found_count: u64,
    },
    /// The parts do not have as many tensors as the first one announced.
    #[error(
        "the {count} parts have {found} tensors, but the first part announces {expected}: a part was replaced"
    )]
    Tensors {
        /// Parts.
        count: u64,
        /// Tensors announced.
        expected: u64,
        /// Tensors there are.
        found: u64,
    },
    /// Two parts have a tensor of the same name.
    #[error("two parts of {} have a tensor {name:?}", path.display())]
    Duplicate {
        /// The first part.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// The files of one model: as a rule a single one.
#[derive(Debug)]
pub struct Parts(Vec<Gguf>);

impl Parts {
    /// Opens a model, and all its parts if it was split.
    ///
    /// # Errors
    /// [`SplitError`] if a part is missing, damaged or does not belong to the others.
    pub fn open(path: &Path) -> Result<Self, SplitError> {
        let parts = Self(open_parts(path)?);
        let mut names = HashSet::new();
        for (_, tensor) in parts.tensors() {
            if !names.insert(tensor.name.as_str()) {
                return Err(SplitError::Duplicate {
                    path: path.to_owned(),
                    name: tensor.name.clone(),
                });
            }
        }
        Ok(parts)
    }

    /// The paths of the files that [`Parts::open`] opens for this one, itself first.
    ///
    /// # Errors
    /// [`SplitError`] if the first one cannot be read, or the others cannot be found by its name.
    pub fn paths(path: &Path) -> Result<Vec<PathBuf>, SplitError> {
        let (_, number, count) = open_part(path)?;
        let mut paths = vec![path.to_owned()];
        if count > 1 {
            if number != 1 {
                return Err(SplitError::NotTheFirst {
                    path: path.to_owned(),
                    number,
                    count,
                });
            }
            for other in others(path, count)? {
                // The count is a number in a file: the first part that is not there ends the list.
                open_part(&other)?;
                paths.push(other);
            }
        }
        Ok(paths)
    }

    /// The file that has the metadata.
    pub fn first(&self) -> &Gguf {
        &self.0[0]
    }

    /// All files, the one with the metadata first.
    pub fn iter(&self) -> impl Iterator<Item = &Gguf> {
        self.0.iter()
    }

    /// All tensors, each with the file that holds it.
    pub fn tensors(&self) -> impl Iterator<Item = (&Gguf, &TensorInfo)> {
        self.0
            .iter()
            .flat_map(|part| part.tensors().iter().map(move |tensor| (part, tensor)))
    }

    /// The tensor of a name, with the file that holds it.
    pub fn tensor(&self, name: &str) -> Option<(&Gguf, &TensorInfo)> {
        self.0
            .iter()
            .find_map(|part| Some((part, part.tensor(name)?)))
    }

    /// The file that has the metadata, by itself.
    pub fn into_first(mut self) -> Gguf {
        self.0.swap_remove(0)
    }

    /// How many files there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl From<Gguf> for Parts {
    fn from(whole: Gguf) -> Self {
        Self(vec![whole])
    }
}

fn open_parts(path: &Path) -> Result<Vec<Gguf>, SplitError> {
    let (first, number, count) = open_part(path)?;
    if count <= 1 {
        return Ok(vec![first]);
    }
    if number != 1 {
        return Err(SplitError::NotTheFirst {
            path: path.to_owned(),
            number,
            count,
        });
    }
    let expected = first.get("split.tensors.count");
    let expected: Option<u64> = expected.map_err(|source| part_error(path, source))?;
    let mut parts = vec![first];
    for (expected, path) in (2..=count).zip(others(path, count)?) {
        let (part, found, found_count) = open_part(&path)?;
        if (found, found_count) != (expected, count) {
            return Err(SplitError::Mixed {
                path,
                expected,
                count,
                found,
                found_count,
            });
        }
        parts.push(part);
    }
    let found = parts.iter().map(|part| part.tensors().len() as u64).sum();
    match expected {
        Some(expected) if expected != found => Err(SplitError::Tensors {
            count,
            expected,
            found,
        }),
        _ => Ok(parts),
    }
}

/// The paths of all parts but the first, found by its name.
fn others(first: &Path, count: u64) -> Result<impl Iterator<Item = PathBuf>, SplitError> {
    let ending = format!("-00001-of-{count:05}.gguf");
    let name = first.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| name.strip_suffix(&ending));
    let stem = stem.ok_or_else(|| SplitError::Name {
        path: first.to_owned(),
        count,
    })?;
    Ok((2..=count)
        .map(move |part| first.with_file_name(format!("{stem}-{part:05}-of-{count:05}.gguf"))))
}

/// A part, its number from 1, and the number of parts.
fn open_part(path: &Path) -> Result<(Gguf, u64, u64), SplitError> {
    let read = || {
        let part = Gguf::open(path)?;
        let count = part.get("split.count")?.unwrap_or(1);
        let number = part.get::<u64>("split.no")?.unwrap_or(0);
        Ok((part, number.saturating_add(1), count))
    };
    read().map_err(|source| part_error(path, source))
}

fn part_error(path: &Path, source: GgufError) -> SplitError {
    SplitError::Part {
        path: path.to_owned(),
        source,
    }
}
