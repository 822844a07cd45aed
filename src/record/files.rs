//! Reading files that nobody vouches for, and writing files whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::whole::temporary_beside;

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More than the reader is ready to hold in memory.
    #[error("{}: larger than the {limit} bytes that such a file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A folder, a pipe or a device.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// What was found there.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{}: not UTF-8 text at byte {at}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first byte that is not.
        at: usize,
    },
}

impl FileError {
    /// Ties what the system says to the path.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    // Opening a pipe that nobody writes to would wait for ever.
    if !fs::metadata(path).map_err(FileError::io(path))?.is_file() {
        return Err(FileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(FileError::io(path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    String::from_utf8(bytes).map_err(|error| FileError::NotText {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })
}

/// Replaces the file at `path` in one step, making its folder if need be: a reader sees the old text or the new one,
/// and so does whoever comes after a crash.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(FileError::io(folder))?;
    let mut file = temporary_beside(path).map_err(FileError::io(folder))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(FileError::io(path))?;
    file.persist(path)
        .map_err(|error| FileError::io(path)(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        write_whole(&path, "first").unwrap();
        write_whole(&path, "second").unwrap();
        assert_eq!(read_text(&path, 6).unwrap(), "second");
        assert!(matches!(
            read_text(&path, 5),
            Err(FileError::TooLarge { limit: 5, .. })
        ));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(matches!(
            read_text(&path, 9),
            Err(FileError::NotText { at: 1, .. })
        ));
        assert!(matches!(
            read_text(folder.path(), 9),
            Err(FileError::NotAFile { .. })
        ));
        assert!(read_text(&folder.path().join("none"), 9).is_err());
    }
}
