//! What a model's files are, and a hash of their content that tells models apart.
//!
//! ```text
//! file  = SHA-256 of the SHA-256s of its pieces, each of PIECE bytes, the last as long as it is
//! model = SHA-256 of its files' lines "name, length, file", in the order in which they are opened
//! ```
//!
//! In pieces, because all cores then hash one file, and because what comes over a wire comes in such pieces. Names are
//! those by which the parts of a model find each other, not those that a user gave: a file that was renamed is the same
//! model.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::model_file::{self, ModelError};

/// Bytes that are hashed, and sent, in one go.
pub const PIECE: usize = 4 << 20;

/// Most files of a model: the largest that are published have some hundred.
const MAX_FILES: usize = 4096;

/// The name of a model that is one file, and the stem of one in several.
const STEM: &str = "model";

/// The files of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    files: Vec<Entry>,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, without a folder.
    pub name: String,
    /// Its bytes.
    pub len: u64,
    /// Of its content, see the module; in hexadecimal.
    pub hash: String,
}

/// Why a model's files cannot be listed or compared.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// They cannot be found.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// One of them cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A list that no model has.
    #[error("rank 0 sent a list of files that makes no sense: {0}")]
    Nonsense(String),
}

impl Manifest {
    /// Reads all files of a model, with so many threads.
    ///
    /// # Errors
    /// [`ManifestError`] if one of them cannot be found or read.
    pub fn of(model: &Path, threads: usize) -> Result<Self, ManifestError> {
        let paths = model_file::paths(model)?;
        let files = paths.iter().zip(names(model, &paths)).map(|(path, name)| {
            let read = |source| ManifestError::Read {
                path: path.clone(),
                source,
            };
            let len = path.metadata().map_err(read)?.len();
            let hash = hash(path, len, threads).map_err(read)?;
            Ok(Entry { name, len, hash })
        });
        Ok(Self {
            files: files.collect::<Result<_, ManifestError>>()?,
        })
    }

    /// A list that came over a wire: names stay in their folder, and lengths make up a number.
    ///
    /// # Errors
    /// [`ManifestError::Nonsense`].
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let nonsense = |what: String| Err(ManifestError::Nonsense(what));
        let manifest: Self = match serde_json::from_slice(text) {
            Ok(manifest) => manifest,
            Err(error) => return nonsense(error.to_string()),
        };
        let files = &manifest.files;
        if files.is_empty() || files.len() > MAX_FILES {
            return nonsense(format!("{} files", files.len()));
        }
        let mut names = HashSet::new();
        for Entry { name, hash, .. } in files {
            let shown = || name.chars().take(80).collect::<String>();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.starts_with('.') || name.len() > 255 || !name.chars().all(is_plain) {
                return nonsense(format!("a file of the name {:?}", shown()));
            }
            if !names.insert(name) {
                return nonsense(format!("{:?} twice", shown()));
            }
            let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            if name.is_empty() || !is_hash {
                return nonsense(format!("a file {:?} without a hash", shown()));
            }
        }
        let lengths = files.iter().map(|file| file.len);
        match lengths.into_iter().try_fold(0_u64, u64::checked_add) {
            Some(_) => Ok(manifest),
            None => nonsense("more bytes than can be counted".to_owned()),
        }
    }

    /// The files, in the order in which they are opened.
    pub fn files(&self) -> &[Entry] {
        &self.files
    }

    /// Bytes of all files.
    pub fn len(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of the content of all files, in hexadecimal.
    pub fn id(&self) -> String {
        let mut all = Sha256::new();
        for Entry { name, len, hash } in &self.files {
            all.update(format!("{name} {len} {hash}\n"));
        }
        hex(&all.finalize())
    }

    /// Whether the model at `path` is this one, to the bit. Only if all lengths agree is anything read.
    pub fn is_at(&self, path: &Path, threads: usize) -> bool {
        let Ok(paths) = model_file::paths(path) else {
            return false;
        };
        let len = |path: &PathBuf| path.metadata().map(|file| file.len()).ok();
        let same_len = paths.len() == self.files.len()
            && paths
                .iter()
                .zip(&self.files)
                .all(|(path, file)| len(path) == Some(file.len));
        same_len
            && names(path, &paths)
                .zip(&self.files)
                .all(|(name, file)| name == file.name)
            && paths.iter().zip(&self.files).all(|(path, file)| {
                hash(path, file.len, threads).is_ok_and(|hash| hash == file.hash)
            })
    }

    /// What to open of a model whose files are in `folder`.
    pub fn model_in(&self, folder: &Path) -> PathBuf {
        match &self.files[..] {
            [first, ..] if first.name.ends_with(".gguf") => folder.join(&first.name),
            _ => folder.to_owned(),
        }
    }
}

/// The names of a model's files: in a folder they are fixed, GGUF files are found by the first one's.
fn names<'a>(model: &Path, paths: &'a [PathBuf]) -> impl Iterator<Item = String> + use<'a> {
    let (is_folder, count) = (model.is_dir(), paths.len());
    paths
        .iter()
        .enumerate()
        .map(move |(at, path)| match (is_folder, count) {
            (true, _) => path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            (false, 1) => format!("{STEM}.gguf"),
            (false, _) => format!("{STEM}-{:05}-of-{count:05}.gguf", at + 1),
        })
}

/// The hash of a file's first `len` bytes, which it must have.
fn hash(path: &Path, len: u64, threads: usize) -> io::Result<String> {
    let pieces = len.div_ceil(PIECE as u64);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<Vec<(u64, [u8; 32])>> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
        let mut hashed = Vec::new();
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return Ok(hashed);
            }
            let buffer = &mut buffer[..piece_len(len, piece)];
            file.seek(SeekFrom::Start(piece * PIECE as u64))?;
            file.read_exact(buffer)?;
            hashed.push((piece, Sha256::digest(buffer).into()));
        }
    };
    let threads = threads.clamp(1, usize::try_from(pieces).unwrap_or(usize::MAX).max(1));
    let hashed: io::Result<Vec<Vec<_>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| {
            let panicked = |_| Err(io::Error::other("a thread that hashed it panicked"));
            worker.join().unwrap_or_else(panicked)
        });
        done.collect()
    });
    let mut hashed = hashed?.concat();
    hashed.sort_unstable();
    let mut pieces = PieceHash::default();
    hashed.iter().for_each(|(_, hash)| pieces.0.update(hash));
    Ok(pieces.finish())
}

/// Bytes of a piece of a file of `len` bytes that has it.
pub fn piece_len(len: u64, piece: u64) -> usize {
    let rest = len.saturating_sub(piece.saturating_mul(PIECE as u64));
    PIECE.min(usize::try_from(rest).unwrap_or(PIECE))
}

/// The hash of a file whose pieces come one by one.
#[derive(Default)]
pub struct PieceHash(Sha256);

impl PieceHash {
    /// The next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(Sha256::digest(piece));
    }

    /// The file's hash, in hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, len: u64) -> Entry {
        Entry {
            name: name.to_owned(),
            len,
            hash: "0".repeat(64),
        }
    }

    fn parsed(files: Vec<Entry>) -> Result<Manifest, ManifestError> {
        Manifest::parse(&serde_json::to_vec(&Manifest { files }).unwrap())
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        assert!(parsed(vec![entry("model.gguf", 5), entry("a-1_B.json", 0)]).is_ok());
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "a\0",
            "ä",
            "a b",
        ] {
            assert!(parsed(vec![entry(name, 5)]).is_err(), "{name:?}");
        }
        assert!(parsed(vec![entry(&"a".repeat(256), 5)]).is_err());
        assert!(parsed(Vec::new()).is_err());
        assert!(parsed(vec![entry("a", 1), entry("a", 1)]).is_err());
        assert!(parsed(vec![entry("a", u64::MAX), entry("b", 1)]).is_err());
        let many = (0..=MAX_FILES).map(|at| entry(&format!("f{at}"), 1));
        assert!(parsed(many.collect()).is_err());
        let mut other = entry("a", 1);
        other.hash = "../x".to_owned();
        assert!(parsed(vec![other]).is_err());
        for text in [
            "",
            "{",
            "[]",
            r#"{"files":[{"name":"a","len":-1,"hash":""}]}"#,
        ] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_has_one_hash_whoever_reads_it_and_however_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5] {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 / 3) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let one = hash(&path, len as u64, 1).unwrap();
            assert_eq!(hash(&path, len as u64, 5).unwrap(), one);
            let mut pieces = PieceHash::default();
            bytes.chunks(PIECE).for_each(|piece| pieces.add(piece));
            assert_eq!(pieces.finish(), one, "{len}");
            assert!(hash(&path, len as u64 + 1, 2).is_err(), "cut off");
        }
    }

    #[test]
    fn the_hash_of_hashes_is_sha_256() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        // printf abc | sha256sum | xxd -r -p | sha256sum
        let wanted = "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358";
        assert_eq!(hash(&path, 3, 1).unwrap(), wanted);
    }
}
