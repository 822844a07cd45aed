//! Which pages a model's file is read from.

use std::path::Path;

use procfs::process::{MMapPath, Process};

/// Bytes of files below which pages make no difference.
const LARGE: u64 = 64 << 20;
/// The share in huge pages from which on nothing is said.
const ENOUGH: f64 = 0.9;

/// What is in memory of a model's files.
#[derive(Clone, Copy, Default)]
struct Resident {
    bytes: u64,
    /// Of these, what is mapped in huge pages.
    huge: u64,
}

/// What to say where a model, a file or a folder of files, is mapped in huge pages for some part only: a token that is
/// generated reads all weights, and takes up to a tenth longer then. Nothing where the system has no such pages for
/// files, or does not tell.
pub fn note(model: &Path) -> Option<String> {
    let model = model.canonicalize().ok()?;
    let mut resident = Resident::default();
    for map in Process::myself().ok()?.smaps().ok()? {
        let of_model = matches!(&map.pathname, MMapPath::Path(path) if path.starts_with(&model));
        if of_model {
            let bytes = |what| map.extension.map.get(what).copied().unwrap_or_default();
            resident.bytes += bytes("Rss");
            resident.huge += bytes("FilePmdMapped");
        }
    }
    let share = resident.doubtful()?;
    let (of, each) = if model.is_file() {
        (model.display().to_string(), String::new())
    } else {
        (
            "FILE".to_owned(),
            format!("    for each FILE in {}", model.display()),
        )
    };
    Some(format!(
        "{:.0} % of the model lie in huge pages in the page cache, the rest in small ones,\n\
         which costs a generated token up to a tenth. Dropped from there, the next run reads it in huge ones:\n    \
         dd of={of} oflag=nocache conv=notrunc,fdatasync count=0{each}",
        100.0 * share
    ))
}

impl Resident {
    /// The share in huge pages, if it is some and not enough.
    fn doubtful(self) -> Option<f64> {
        let share = self.huge as f64 / self.bytes.max(1) as f64;
        (self.bytes >= LARGE && self.huge > 0 && share < ENOUGH).then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_huge_pages_are_told_and_none_or_all_are_not() {
        let doubt = |bytes, huge| Resident { bytes, huge }.doubtful();
        assert_eq!(doubt(1 << 30, 1 << 29), Some(0.5));
        assert_eq!(doubt(1 << 30, 0), None);
        assert_eq!(doubt(1 << 30, (1 << 30) - (1 << 21)), None);
        assert_eq!(doubt(LARGE - 1, 1 << 21), None);
        assert_eq!(doubt(0, 0), None);
    }

    #[test]
    fn a_model_that_is_not_mapped_is_not_told_of() {
        assert_eq!(note(&std::env::temp_dir()), None);
        assert_eq!(note(Path::new("/no/such/model.gguf")), None);
    }
}
