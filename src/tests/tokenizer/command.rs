//! `tokgate tokenize` from outside.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use assert_cmd::Command;
use tokgate::engine::{
    gguf::{MetaValue, Writer},
    tokenizer::synthetic,
};

fn tokgate(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokgate"));
    command.arg("tokenize").arg("-m").arg(file);
    command
}

fn write(path: &Path, entries: impl IntoIterator<Item = (&'static str, MetaValue)>) {
    let mut writer = Writer::default();
    for (key, value) in entries {
        writer.entry(key, &value);
    }
    std::fs::write(path, writer.finish().header).unwrap();
}

#[test]
fn ids_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vocabulary.gguf");
    let mut vocab = synthetic(320, 0);
    vocab.add_bos = Some(true);
    write(&file, vocab.into_metadata());
    let text = OsStr::from_bytes(b"\xff\xfe0");
    tokgate(&file)
        .arg(text)
        .assert()
        .success()
        .stdout("255 254 48\n");
    tokgate(&file)
        .args(["--special", "0<|im_end|>"])
        .assert()
        .success()
        .stdout("318 48 319\n");
    tokgate(&file).arg("").assert().success().stdout("\n");
    tokgate(&file)
        .arg("-")
        .write_stdin("0\n")
        .assert()
        .success()
        .stdout("48 10\n");
}

#[test]
fn what_is_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let said = |command: &mut Command| {
        let output = command.arg("x").assert().code(2).get_output().clone();
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let none = MetaValue::Str("no_vocab".to_owned());
    write(&file, [("tokenizer.ggml.model", none)]);
    assert!(said(&mut tokgate(&file)).contains("no vocabulary"));
    assert!(said(&mut tokgate(folder.path())).contains("tokenizer.json"));
    std::fs::write(&file, b"GGUF").unwrap();
    assert!(said(&mut tokgate(&file)).contains("model.gguf"));

    let mut vocab = synthetic(320, 0);
    vocab.pre = None;
    write(&file, vocab.into_metadata());
    let output = tokgate(&file)
        .arg("x")
        .assert()
        .success()
        .get_output()
        .clone();
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("pre-tokenizer")
    );
}
