//! Files that are written whole or not at all: into a temporary file beside the place, which then takes it in one step.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file in the folder of `path`, to be persisted as `path`; it vanishes when it is dropped. It gets the rights of any
/// new file, less the process's mask, since temporary files are private to their maker otherwise.
///
/// # Errors
/// Whatever the system says of the folder.
pub(crate) fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tokgate-").suffix(".partial");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Where this user's programs keep what could be had again, and in it what is ours: below `$XDG_CACHE_HOME`, or
/// `~/.cache`.
pub(crate) fn cache_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("tokgate")
}
