//! `tokgate synth` and `tokgate inspect` from outside.

use std::path::Path;

use assert_cmd::Command;
use tokgate::engine::synth::Preset;
use tokgate_kernels::DType;

use crate::raw::File;

/// Standard output, standard error and exit code.
fn tokgate(args: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::cargo_bin("tokgate")
        .unwrap()
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

fn synth(path: &Path, more: &[&str]) -> (String, Option<i32>) {
    let path = path.to_str().unwrap();
    let (out, err, code) = tokgate(&[&["synth", "--seed", "3", path], more].concat());
    assert_eq!(out, "");
    (err, code)
}

#[test]
fn a_file_is_made_described_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let make = ["--preset", "tiny-moe", "--dtype", "bf16", "--layers", "2"];
    let (err, code) = synth(&path, &make);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("tiny.gguf: 2 layers"), "{err}");

    let (err, code) = synth(&path, &make);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("exists: give another name, or --force"),
        "{err}"
    );
    let (_, code) = synth(&path, &[&make[..], &["--force"]].concat());
    assert_eq!(code, Some(0));

    let (out, _, code) = tokgate(&["inspect", path.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    for line in out.lines().skip(1) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    insta::assert_snapshot!(out.split_once(':').unwrap().1);

    let (out, _, code) = tokgate(&["inspect", "-o", "json", path.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["architecture"], "qwen3moe");
    assert_eq!(json["sizes"]["n_expert"], 16);
    assert_eq!(json["problems"], serde_json::json!([]));
    let bytes: u64 = json["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(json["tensor_bytes"], bytes);
}

#[test]
fn a_model_that_cannot_be_run_is_described_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.gguf");
    let mut file = File::synth(Preset::TinyDense, DType::Q8_0);
    file.entry_mut("general.architecture").value = crate::raw::str_value(b"\x1b[31mmamba");
    let tensor = file.tensor_mut("blk.0.attn_v.weight");
    tensor.kind = 12;
    tensor.data = vec![0; 128 * 144];
    std::fs::write(&path, file.bytes()).unwrap();
    let (out, err, code) = tokgate(&["inspect", path.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    let words: Vec<&str> = out.split_whitespace().collect();
    let words = words.join(" ");
    assert!(
        words.contains("blk.0.attn_v.weight the first, are of types without kernels (Q4_K)")
            && words.contains("only --requantize q8_0 or bf16"),
        "{out}"
    );
    assert!(words.contains("mamba\" is not supported"), "{out}");
    assert!(
        !out.contains('\x1b'),
        "nothing reaches the terminal that it would act on"
    );
}

#[test]
fn trouble_ends_with_code_2_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0").unwrap();
    let (out, err, code) = tokgate(&["inspect", path.to_str().unwrap()]);
    assert_eq!((out.as_str(), code), ("", Some(2)));
    assert!(
        err.contains("damaged.gguf") && err.contains("at byte 8: the file ends here"),
        "{err}"
    );

    let (err, code) = synth(
        &folder.path().join("no/such/folder.gguf"),
        &["--preset", "tiny-dense"],
    );
    assert_eq!(code, Some(2));
    assert!(err.contains("cannot be written"), "{err}");
    let (err, code) = synth(&path, &["--preset", "tiny-dense", "--layers", "0"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("0 is not in 1..=1024"), "{err}");
}
