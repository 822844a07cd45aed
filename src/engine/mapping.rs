//! Files mapped into memory, and typed slices of them: the only unsafe code of the engine.
//!
//! WHY mapping: a model is usable the moment its header has been read, several processes share its pages, and memory
//! that is short is given back without being written anywhere. The price is the caveat of [`Mapping::open`].

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use tokgate_kernels::BlockQ8_0;

/// Why a file cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The system refused to open, examine or map it.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}

/// The bytes of a file.
#[derive(Debug)]
pub struct Mapping {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Heap(Vec<u8>),
    /// Words, and how many of their bytes count.
    Words(Vec<f32>, usize),
}

impl Mapping {
    /// Maps a file.
    ///
    /// The file must not be changed while it is mapped. What is read from it is checked at every use, so that a change
    /// yields wrong numbers rather than wrong accesses; but a file that is *cut short* ends the process with `SIGBUS`
    /// at the next access, which no program can turn into an error. Replace model files by renaming, never in place.
    ///
    /// # Errors
    /// [`MappingError`] if the path is no regular file or cannot be read.
    pub fn open(path: &Path) -> Result<Self, MappingError> {
        let io = |source| MappingError::Io {
            path: path.to_owned(),
            source,
        };
        // Examined before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(MappingError::NotAFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(io)?;
        if metadata.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the map is read-only and private to this type, which hands out plain numbers and bytes only, of which
        // every bit pattern is valid; the documentation rules out that another process changes the file.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self {
            bytes: Bytes::Mapped(map),
        })
    }
}

impl Mapping {
    /// A copy that is aligned for any [`Element`].
    pub fn aligned(unaligned: &[u8]) -> Self {
        let mut words = vec![0_f32; unaligned.len().div_ceil(size_of::<f32>())];
        bytes_mut(&mut words)[..unaligned.len()].copy_from_slice(unaligned);
        Self {
            bytes: Bytes::Words(words, unaligned.len()),
        }
    }
}

impl From<Vec<u8>> for Mapping {
    /// Bytes that are in memory already.
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Bytes::Heap(bytes),
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Heap(bytes) => bytes,
            Bytes::Words(words, len) => &bytes(words)[..*len],
        }
    }
}

/// Element types as they lie in a file.
///
/// # Safety
/// The type has no padding, any bytes are a valid value of it, and it owns nothing.
pub unsafe trait Element: Copy + Send + Sync + 'static {}

// SAFETY: an IEEE number is any four bytes.
unsafe impl Element for f32 {}
// SAFETY: a transparent u16.
unsafe impl Element for f16 {}
// SAFETY: a transparent u16.
unsafe impl Element for bf16 {}
// SAFETY: `repr(C)` of an f16 and 32 int8, whose size of 34 bytes leaves no room for padding.
unsafe impl Element for BlockQ8_0 {}

/// Sees bytes as elements, without copying; `None` where they are not aligned for it or the last element is cut off.
///
/// Files are little-endian, and so must the machine be.
pub fn elements<T: Element>(bytes: &[u8]) -> Option<&[T]> {
    const {
        assert!(
            cfg!(target_endian = "little"),
            "model files are mapped as they are, which needs a little-endian machine"
        );
    }
    if !bytes.len().is_multiple_of(size_of::<T>()) || !bytes.as_ptr().cast::<T>().is_aligned() {
        return None;
    }
    // SAFETY: pointer and length cover exactly these bytes, the alignment was checked, and `Element` promises that any
    // bytes are valid values.
    Some(unsafe {
        std::slice::from_raw_parts(bytes.as_ptr().cast::<T>(), bytes.len() / size_of::<T>())
    })
}

/// Sees elements as the bytes that a file holds for them.
pub fn bytes<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: the slice covers exactly these bytes, and `Element` promises that none of them is padding.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) }
}

fn bytes_mut<T: Element>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`; any bytes that are written are valid values again.
    unsafe {
        std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast::<u8>(), size_of_val(elements))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_check_alignment_and_length() {
        let words = [1.0_f32, -2.0, 0.5];
        let raw = bytes(&words);
        assert_eq!(elements::<f32>(raw), Some(&words[..]));
        assert_eq!(elements::<f32>(&raw[1..9]), None, "not aligned");
        assert_eq!(elements::<f32>(&raw[..11]), None, "cut off");
        assert_eq!(elements::<f32>(&raw[..0]), Some(&[][..]));
    }

    #[test]
    fn a_directory_and_a_missing_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let error = Mapping::open(folder.path()).unwrap_err();
        assert!(matches!(error, MappingError::NotAFile { .. }), "{error}");
        let error = Mapping::open(&folder.path().join("missing")).unwrap_err();
        assert!(error.to_string().ends_with("missing cannot be read"));
    }

    #[test]
    fn an_empty_file_is_empty() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Mapping::open(file.path()).unwrap().is_empty());
    }
}
