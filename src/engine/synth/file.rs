//! Writing a synthesised file: whole, or not at all.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Plan;
use crate::whole::temporary_beside;

/// Why a file was not written. Nothing is left behind, and a file that was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// There is a file already.
    #[error("{} exists: give another name, or --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error(
        "{} takes {bytes} bytes, and the disk has not that many left: free some, give a path on another disk, or make \
         fewer layers with --layers", path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The system refused something.
    #[error("{} cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Plan {
    /// Writes the file at `path`, under another name until it is complete. `progress` is told how many bytes there are.
    ///
    /// # Errors
    /// [`SynthError`] if there is a file and `replace` is false, the disk is full, or the system refuses to write.
    pub fn write_file(
        &self,
        path: &Path,
        replace: bool,
        threads: usize,
        progress: impl FnMut(u64),
    ) -> Result<(), SynthError> {
        let error = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SynthError::Full {
                path: path.to_owned(),
                bytes: self.len(),
            },
            io::ErrorKind::AlreadyExists if !replace => SynthError::Exists {
                path: path.to_owned(),
            },
            _ => SynthError::Io {
                path: path.to_owned(),
                source,
            },
        };
        // Before the work as well as after it: it would be a pity about the minutes.
        if !replace && path.exists() {
            return Err(error(io::ErrorKind::AlreadyExists.into()));
        }
        let mut file = temporary_beside(path).map_err(error)?;
        self.write(file.as_file_mut(), threads, progress)
            .map_err(error)?;
        let kept: Result<File, _> = if replace {
            file.persist(path)
        } else {
            file.persist_noclobber(path)
        };
        kept.map_err(|kept| error(kept.error))?;
        Ok(())
    }
}
