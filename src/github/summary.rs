//! The summary of a job, which a read-only token cannot take away: Markdown appended to `GITHUB_STEP_SUMMARY`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The most bytes that GitHub shows of one step's summary; of a larger one it shows nothing.
pub const MAX_SUMMARY_BYTES: usize = 1 << 20;

/// How many bytes may still be appended to the summary in the file at `path`, which need not exist yet.
pub fn room(path: &Path) -> usize {
    let used = fs::metadata(path).map_or(0, |file| file.len());
    MAX_SUMMARY_BYTES.saturating_sub(usize::try_from(used).unwrap_or(usize::MAX))
}

/// Appends `text` to the summary in the file at `path`, in one piece.
///
/// # Errors
/// What the system says; [`io::ErrorKind::FileTooLarge`] if GitHub would no longer show it.
pub fn append(path: &Path, text: &str) -> io::Result<()> {
    if text.len() > room(path) {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the summary would be larger than {MAX_SUMMARY_BYTES} bytes"),
        ));
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_appended_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.md");
        assert_eq!(room(&path), MAX_SUMMARY_BYTES);
        append(&path, "another step's\n").unwrap();
        append(&path, "ours\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "another step's\nours\n");

        let error = append(&path, &"x".repeat(room(&path) + 1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        append(&path, &"x".repeat(room(&path))).unwrap();
        assert_eq!(room(&path), 0);
    }
}
