//! Whether two binaries are the same machine code, and whether they lie differently in memory.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use memchr::memmem;
use object::{Object, ObjectSection, SectionKind};

use super::{Binary, LabError};

/// What of a binary is executed or read by what is executed.
struct Image {
    /// Name and content of each section, with the paths of the slot blanked.
    sections: Vec<(String, Vec<u8>)>,
}

/// Whether two binaries that the linker laid out in its own order have the same code and data, apart from the paths of
/// the slots that they were built in. Then nothing needs to be measured: they do the same in the same places.
///
/// # Errors
/// [`LabError`] if one is no executable that can be read.
pub fn same(one: &Binary, other: &Binary) -> Result<bool, LabError> {
    if one.slot.as_os_str().len() != other.slot.as_os_str().len() {
        // Texts of different length move all that follows them: no statement is possible.
        return Ok(false);
    }
    let (one, other) = (Image::of(one)?, Image::of(other)?);
    Ok(!one.sections.is_empty() && one.sections == other.sections)
}

/// A checksum of the code as it lies in memory: two links of one and the same source differ by it if their layout does.
///
/// # Errors
/// [`LabError`] if it is no executable that can be read.
pub fn layout(binary: &Binary) -> Result<String, LabError> {
    let image = Image::of(binary)?;
    let mut hasher = DefaultHasher::new();
    for (name, content) in &image.sections {
        if name.starts_with(".text") || name.ends_with("__text") {
            hasher.write(content);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

impl Image {
    fn of(binary: &Binary) -> Result<Self, LabError> {
        let bytes = fs::read(&binary.path).map_err(LabError::io(&binary.path))?;
        Self::from_bytes(&bytes, &binary.slot).map_err(|error| LabError::Answer {
            program: binary.path.display().to_string(),
            what: format!("cannot be read as an executable: {error}"),
        })
    }

    fn from_bytes(bytes: &[u8], slot: &Path) -> object::Result<Self> {
        let file = object::File::parse(bytes)?;
        let mut sections = Vec::new();
        for section in file.sections() {
            let counts = matches!(
                section.kind(),
                SectionKind::Text
                    | SectionKind::Data
                    | SectionKind::ReadOnlyData
                    | SectionKind::ReadOnlyString
                    | SectionKind::ReadOnlyDataWithRel
                    | SectionKind::Tls
            );
            let name = section.name()?;
            // Tables for unwinding say where code lies, which the code itself says already.
            if counts && !name.starts_with(".eh_frame") && !name.starts_with(".gcc_except") {
                let mut content = section.data()?.to_vec();
                blank(&mut content, slot.as_os_str().as_encoded_bytes());
                sections.push((name.to_owned(), content));
            }
        }
        Ok(Self { sections })
    }
}

fn blank(content: &mut [u8], path: &[u8]) {
    let places: Vec<usize> = memmem::find_iter(content, path).collect();
    for at in places {
        content[at..at + path.len()].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_itself_and_nothing_else_is_one() {
        let path = std::env::current_exe().unwrap();
        let bytes = fs::read(path).unwrap();
        let image = Image::from_bytes(&bytes, Path::new("/nowhere")).unwrap();
        assert!(image.sections.iter().any(|(name, _)| name.contains("text")));
        let again = Image::from_bytes(&bytes, Path::new("/nowhere")).unwrap();
        assert!(image.sections == again.sections);
        for damaged in [&b""[..], b"\x7fELF", &bytes[..bytes.len().min(4000)]] {
            assert!(Image::from_bytes(damaged, Path::new("/nowhere")).is_err());
        }
    }

    #[test]
    fn paths_are_blanked_wherever_they_are() {
        let mut text = *b"a/lab/base/tree b/lab/base c";
        blank(&mut text, b"/lab/base");
        assert_eq!(&text, b"a\0\0\0\0\0\0\0\0\0/tree b\0\0\0\0\0\0\0\0\0 c");
    }
}
