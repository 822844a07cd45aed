//! Writing a synthesised file: whole, or not at all.

use std::fs::File;
use std::io::{self, Write};
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
        let mut pieces = Pieces::of(file.as_file_mut());
        self.write(&mut pieces, threads, progress)
            .and_then(|()| pieces.flush())
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

/// Bytes of a huge page.
const PIECE: usize = 2 << 20;

/// Writes whole pieces at multiples of their size, which the page cache keeps as huge pages where it can: whoever maps the
/// file next finds it in them (see [`crate::engine::mapping`]).
struct Pieces<W> {
    out: W,
    pending: Vec<u8>,
}

impl<W: Write> Pieces<W> {
    fn of(out: W) -> Self {
        Self {
            out,
            pending: Vec::with_capacity(PIECE),
        }
    }
}

impl<W: Write> Write for Pieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers how much was written at once.
    #[derive(Default)]
    struct Sizes(Vec<usize>);

    impl Write for Sizes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_are_whole_but_for_the_last() {
        let mut sizes = Sizes::default();
        let mut pieces = Pieces::of(&mut sizes);
        for bytes in [1, PIECE, 2 * PIECE - 2, 5] {
            pieces.write_all(&vec![0; bytes]).unwrap();
        }
        pieces.flush().unwrap();
        assert_eq!(sizes.0, [PIECE, PIECE, PIECE, 4]);
    }
}
