//! Files mapped into memory, and typed slices of them: the only unsafe code of the engine.
//!
//! WHY mapping: a model is usable the moment its header has been read, several processes share its pages, and memory
//! that is short is given back without being written anywhere. The price is the caveat of [`Mapping::open`].
//!
//! WHY huge pages: a token reads weights all over the file, whose pages of 4 KiB cost one look-up each. Where the
//! file system keeps large folios (XFS, ext4 since Linux 6.16), what is read from the disk for a mapping with this
//! advice comes in 2 MiB, and is mapped as such: all of a file instead of none, read from a disk whose read-ahead is
//! the usual 128 KiB. What is in the page cache already stays as it is. 3.9 GB of Qwen3-30B-A3B's layers on a Zen 5,
//! 100 beside 30 % of them in huge pages, `tokgate bench -p 0 -n 128 -t 1,2 -r 1` of both in turn, 12 pairs: 1.12
//! [1.00..1.17] × with one thread, 1.04 [0.92..1.24] with two.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Advice, Mmap};
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

/// The bytes of a file, or bytes in memory that are used in the same way.
pub struct Mapping {
    bytes: Bytes,
}

enum Bytes {
    Mapped(Mmap),
    Heap(Vec<u8>),
    Buffer(Buffer),
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: there are gigabytes of them.
        let kind = if self.is_file() { "file" } else { "memory" };
        write!(f, "Mapping({kind}, {} bytes)", self.len())
    }
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
        // A system without transparent huge pages refuses, and has small ones either way.
        let _ = map.advise(Advice::HugePage);
        Ok(Self {
            bytes: Bytes::Mapped(map),
        })
    }

    /// Whether the bytes are a file's own, as opposed to a copy in memory.
    pub const fn is_file(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
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

impl From<Buffer> for Mapping {
    fn from(buffer: Buffer) -> Self {
        Self {
            bytes: Bytes::Buffer(buffer),
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Heap(bytes) => bytes,
            Bytes::Buffer(buffer) => &bytes(&buffer.words)[..buffer.len],
        }
    }
}

/// Bytes to be filled, aligned for every [`Element`].
#[derive(Debug)]
pub struct Buffer {
    words: Vec<f32>,
    /// How many bytes of the words count.
    len: usize,
}

impl Buffer {
    /// `len` zeros; memory is taken page by page, as they are overwritten.
    pub fn zeroed(len: usize) -> Self {
        Self {
            words: vec![0.0; len.div_ceil(size_of::<f32>())],
            len,
        }
    }

    /// How many bytes there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes as elements.
    ///
    /// # Panics
    /// If the last element is cut off.
    pub fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        const { assert!(align_of::<T>() <= align_of::<f32>()) };
        assert!(self.len.is_multiple_of(size_of::<T>()));
        // SAFETY: the words are at least `len` bytes that this type owns, aligned for `T` by the first assertion, and
        // `Element` promises that any bytes are valid values; so they are for the words, f32 being one of them.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.words.as_mut_ptr().cast::<T>(),
                self.len / size_of::<T>(),
            )
        }
    }
}

/// Element types as they lie in a file.
///
/// # Safety
/// The type has no padding, any bytes are a valid value of it, and it owns nothing.
pub unsafe trait Element: Copy + Send + Sync + 'static {}

// SAFETY: a byte is a byte.
unsafe impl Element for u8 {}
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
