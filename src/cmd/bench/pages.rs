//! What is said of the pages that a model's files lie in.

use std::path::Path;

use crate::probe::process::Mapped;

/// Bytes of files below which pages make no difference.
const LARGE: u64 = 64 << 20;
/// The share in huge pages from which on nothing is said.
const ENOUGH: f64 = 0.9;

/// What to say where a model, a file or a folder of files, is mapped in huge pages for some part only: a token that is
/// generated reads all weights, and takes up to a tenth longer then ([`crate::engine::mapping`]). Nothing where the
/// system has no such pages for files, or does not tell.
pub fn note(model: &Path) -> Option<String> {
    let share = doubtful(Mapped::of(model)?)?;
    let (of, each) = if model.is_dir() {
        (
            "FILE".to_owned(),
            format!("    for each FILE in {}", model.display()),
        )
    } else {
        (model.display().to_string(), String::new())
    };
    Some(format!(
        "{:.0} % of the model lie in huge pages in the page cache, the rest in small ones,\n\
         which costs a generated token up to a tenth. Dropped from there, the next run reads it in huge ones:\n    \
         dd of={of} oflag=nocache conv=notrunc,fdatasync count=0{each}",
        100.0 * share
    ))
}

/// Says it, after the table.
pub fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("tokgate: note: {note}");
    }
}

/// The share in huge pages, if it is some and not enough.
fn doubtful(mapped: Mapped) -> Option<f64> {
    let share = mapped.huge as f64 / mapped.resident.max(1) as f64;
    (mapped.resident >= LARGE && mapped.huge > 0 && share < ENOUGH).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_huge_pages_are_told_and_none_or_all_are_not() {
        let doubt = |resident, huge| doubtful(Mapped { resident, huge });
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
