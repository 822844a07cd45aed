//! The GGUF reader on damaged files.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tokgate::engine::gguf::{Gguf, Value};

use crate::allocations::bounded;
use crate::raw::{self, File, Mark, array_value, str_value};

/// Allocations are a small multiple of the bytes there are: an entry of 13 bytes costs its key twice and a table row.
fn limit(file: &[u8]) -> usize {
    4096 + 16 * file.len()
}

/// Reads a file; whatever is accepted must be within the file and decode to the end.
fn read(file: &[u8]) -> Result<Gguf, String> {
    let gguf = bounded(limit(file), || Gguf::parse(file)).map_err(|error| error.to_string())?;
    let mut ranges: Vec<_> = gguf.tensors().iter().map(|t| t.data.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(
        ranges
            .iter()
            .all(|range| range.end <= file.len() && !range.is_empty())
    );
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    for (_, value) in gguf.metadata() {
        walk(value);
    }
    Ok(gguf)
}

fn walk(value: Value<'_>) {
    if let Value::Array(array) = value {
        assert_eq!(
            array.iter().inspect(|element| walk(*element)).count(),
            array.len()
        );
    }
}

fn error(file: &[u8]) -> String {
    read(file).expect_err("the file is damaged")
}

#[test]
fn the_small_file_is_good() {
    let gguf = read(&File::small().bytes()).unwrap();
    assert_eq!(gguf.get::<u64>("a.u8").unwrap(), Some(7));
    let strings: Vec<&str> = gguf.require("a.strings").unwrap();
    assert_eq!(strings, ["x", "ü", ""]);
    let three = gguf.tensor("three").unwrap();
    assert_eq!(
        (three.dims.as_slice(), three.elements()),
        (&[4, 3, 2][..], 24)
    );
    assert_eq!(&gguf.mapping()[three.data.clone()], [3; 48]);
}

#[test]
fn cut_short_anywhere_it_is_an_error_that_says_where() {
    let (file, marks) = File::small().marked();
    for len in 0..file.len() {
        let text = error(&file[..len]);
        let header = "GGUF header, at byte ";
        let known = [header, "GGUF metadata", "GGUF tensor"]
            .iter()
            .any(|place| text.starts_with(place));
        assert!(known && text.contains(", at byte "), "{len}: {text}");
        if len < marks[1].at {
            assert!(text.starts_with(header), "{len}: {text}");
        }
    }
}

#[test]
fn every_number_can_be_anything() {
    let (file, marks) = File::small().marked();
    for mark in &marks {
        let now = mark.get(&file);
        let numbers = [
            0,
            1,
            now.wrapping_sub(1),
            now + 1,
            now + 32,
            13,
            255,
            u64::from(u16::MAX),
            1 << 20,
            (1 << 31) - 1,
            1 << 31,
            u64::from(u32::MAX),
            1 << 32,
            1 << 62,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 31,
            u64::MAX,
        ];
        for number in numbers {
            // What matters is inside of `read`: no panic, no large allocation, nothing out of bounds.
            let result = read(&mark.set(&file, number));
            let written = if mark.width == 4 {
                number & 0xffff_ffff
            } else {
                number
            };
            let must_fail = written > 1 << 20;
            assert!(result.is_err() || !must_fail, "{} = {number}", mark.what);
        }
    }
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let small = File::small();
    let (bytes, marks) = small.marked();
    let mark = |what: &str| -> &Mark { marks.iter().find(|mark| mark.what == what).unwrap() };
    let with = |what: &str, number| error(&mark(what).set(&bytes, number));
    let edited = |edit: fn(&mut File)| {
        let mut file = small.clone();
        edit(&mut file);
        error(&file.bytes())
    };
    let cases = [
        (error(b""), "GGUF header, at byte 0: the file ends here"),
        (error(b"GG"), "GGUF header, at byte 2: the file ends here"),
        (error(b"PK\x03\x04zip"), "not a GGUF file"),
        (with("version", 1), "GGUF version 1 is not supported"),
        (with("version", 4), "GGUF version 4 is not supported"),
        (with("version", 3 << 24), "big-endian GGUF (version 3)"),
        (with("tensor count", u64::MAX), "tensors cannot fit the"),
        (
            with("entry count", 1 << 40),
            "1099511627776 metadata entries cannot fit the",
        ),
        (with("type of a.u8", 13), "\"a.u8\", at byte"),
        (with("type of a.u8", 13), "unknown value type 13"),
        (
            with("count of a.strings", 1 << 60),
            "array elements cannot fit the",
        ),
        (with("count of a.strings", 1 << 60), "key \"a.strings\""),
        (
            with("first length in a.strings", 1 << 60),
            "the file ends here",
        ),
        (with("dimensions of one", 5), "tensor \"one\", at byte"),
        (
            with("dimensions of one", 5),
            "5 dimensions, but a tensor has at most 4",
        ),
        (
            with("dimension 0 of one", 0),
            "its dimensions [0] are empty or too large",
        ),
        (
            with("dimension 1 of two", u64::MAX),
            "are empty or too large",
        ),
        (
            with("dimension 0 of two", 33),
            "rows of 33 elements are not made of Q8_0's blocks of 32",
        ),
        (
            with("tensor type of one", 4),
            "its type Q4_2 was removed from GGML",
        ),
        (with("tensor type of one", 99), "unknown tensor type 99"),
        (
            with("offset of two", 33),
            "its data offset 33 is not a multiple of the alignment 32",
        ),
        (with("offset of two", 0), "\"two\""),
        (with("offset of two", 0), "overlap those of tensor \"one\""),
        (
            with("offset of three", 1 << 50),
            "end past the data section",
        ),
        (
            edited(|file| file.entry_mut("a.u8").key = b"a.u64".to_vec()),
            "\"a.u64\"",
        ),
        (
            edited(|file| file.entry_mut("a.u8").key = b"a.u64".to_vec()),
            "the same name was there before",
        ),
        (
            edited(|file| file.entry_mut("a.u8").key = b"a.\xff".to_vec()),
            "metadata entry 1, at byte",
        ),
        (
            edited(|file| file.entry_mut("a.u8").key = b"a.\xff".to_vec()),
            "not UTF-8 (byte 2 of it)",
        ),
        (
            edited(|file| file.entry_mut("a.bool").value = vec![2]),
            "a boolean is 2",
        ),
        (
            edited(|file| file.entry_mut("general.architecture").value = str_value(b"\xc3")),
            "key \"general.architecture\", at byte",
        ),
        (
            edited(|file| {
                let strings = [str_value(b"x"), str_value(b"\x80")].concat();
                file.entry_mut("a.strings").value = array_value(raw::STR, 2, &strings);
            }),
            "not UTF-8",
        ),
        (
            edited(|file| file.tensor_mut("two").name = "one".to_owned()),
            "the same name was there before",
        ),
        (
            edited(|file| file.add("general.alignment", raw::U32, 24_u32.to_le_bytes().to_vec())),
            "the alignment 24 is not a power of two",
        ),
        (
            edited(|file| {
                file.add(
                    "general.alignment",
                    raw::U64,
                    (1_u64 << 40).to_le_bytes().to_vec(),
                )
            }),
            "\"general.alignment\", at byte",
        ),
        (
            edited(|file| file.add("general.alignment", raw::STR, str_value(b"32"))),
            "metadata key \"general.alignment\" is string \"32\", expected an integer",
        ),
        (
            edited(|file| {
                let mut value = array_value(raw::U8, 0, &[]);
                for _ in 0..1000 {
                    value = array_value(raw::ARRAY, 1, &value);
                }
                file.entry_mut("a.nested").value = value;
            }),
            "arrays are nested more than 4 deep",
        ),
    ];
    for (text, wanted) in cases {
        assert!(text.contains(wanted), "{text:?} lacks {wanted:?}");
    }
}

#[test]
fn every_type_of_ggml_is_known_by_name() {
    let mut file = File::default();
    for (kind, name, block, bytes) in [
        (12, "Q4_K", 256, 144),
        (39, "MXFP4", 32, 17),
        (24, "I8", 1, 1),
    ] {
        file.tensor(name, &[block], kind, vec![0; bytes]);
    }
    let gguf = read(&file.bytes()).unwrap();
    for tensor in gguf.tensors() {
        assert_eq!(tensor.kind.name(), tensor.name);
        assert_eq!(tensor.kind.dtype(), None);
    }
}

#[test]
fn an_alignment_of_the_files_own_is_respected() {
    let mut file = File::default();
    file.add(
        "general.alignment",
        raw::U32,
        256_u32.to_le_bytes().to_vec(),
    );
    file.tensor("a", &[2], 0, vec![7; 8]);
    let mut bytes = file.bytes();
    assert!(
        read(&bytes).is_err(),
        "the data start at 256 and are not there"
    );
    bytes.truncate(bytes.len() - 8);
    bytes.resize(256, 0);
    bytes.extend([7; 8]);
    let gguf = read(&bytes).unwrap();
    assert_eq!(gguf.alignment(), 256);
    assert_eq!(gguf.tensors()[0].data, 256..264);
}

#[test]
fn a_vocabulary_alone_is_a_file() {
    let mut file = File::small();
    file.tensors.clear();
    let bytes = file.bytes();
    assert!(!bytes.len().is_multiple_of(32), "not even padded");
    assert!(read(&bytes).unwrap().tensors().is_empty());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &std::path::Path| Gguf::open(path).unwrap_err().to_string();
    assert!(text(folder.path()).ends_with("is not a regular file"));
    let path = folder.path().join("none.gguf");
    assert!(text(&path).ends_with("none.gguf cannot be read"));
    std::fs::write(&path, b"").unwrap();
    assert_eq!(text(&path), error(b""));

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        eprintln!("skipped: this user may read everything");
    } else {
        assert!(text(&path).ends_with("none.gguf cannot be read"));
    }
}

/// The size of a sparse file vouches for any count, and has no bytes on the disk to show for it.
#[test]
fn the_size_of_a_sparse_file_claims_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.gguf");
    for (tensors, entries) in [(1_u64 << 32, 0_u64), (0, 1 << 32)] {
        let mut header = b"GGUF".to_vec();
        header.extend(3_u32.to_le_bytes());
        header.extend(tensors.to_le_bytes());
        header.extend(entries.to_le_bytes());
        std::fs::write(&path, header).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 38).unwrap();
        let text = bounded(1 << 24, || Gguf::open(&path))
            .unwrap_err()
            .to_string();
        assert!(text.contains("the same name was there before"), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = File::small().bytes();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let _ = read(&file);
    }

    #[test]
    fn noise_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&noise);
        let _ = read(&[b"GGUF\x03\0\0\0", noise.as_slice()].concat());
    }
}
