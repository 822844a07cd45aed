//! Real vocabularies: those in llama.cpp's `models/`, which bring texts and the ids that llama.cpp expects for them.
//!
//! `TOKGATE_VOCAB_DIR` names the folder (`.ci/fetch-vocabularies` fills one); without it each test says that it was
//! skipped.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;
use tokgate::engine::gguf::Gguf;
use tokgate::engine::tokenizer::{EncodeOptions, GgufVocab, TokenKind, Tokenizer, TokenizerError};

use crate::texts::{INVALID, TEXTS};

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};

/// Files with expected ids that this engine says it cannot do.
const UNSUPPORTED: &[&str] = &["bert-bge", "gemma-4"];

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TOKGATE_VOCAB_DIR").map(PathBuf::from);
    if folder.is_none() {
        say("SKIPPED: set TOKGATE_VOCAB_DIR to the folder that .ci/fetch-vocabularies filled");
    }
    folder
}

/// Straight to stderr: what the test harness captures of a passing test nobody sees.
fn say(line: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("tokenizer");
    let _ = writeln!(std::io::stderr(), "{test}: {line}");
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("ggml-vocab-{name}.gguf"))
}

fn vocab(folder: &Path, name: &str) -> GgufVocab {
    GgufVocab::from_metadata(&Gguf::open(&file(folder, name)).unwrap()).unwrap()
}

fn tokenizer(folder: &Path, name: &str) -> Tokenizer {
    Tokenizer::from_gguf(vocab(folder, name)).unwrap()
}

#[test]
fn the_ids_that_llama_cpp_expects() {
    let Some(folder) = folder() else { return };
    let (mut files, mut texts) = (0, 0);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = name
            .strip_prefix("ggml-vocab-")
            .and_then(|n| n.strip_suffix(".gguf.inp"))
        else {
            continue;
        };
        let path = file(&folder, name);
        if UNSUPPORTED.contains(&name) {
            say(&format!("{name} is not supported"));
            continue;
        }
        let tokenizer = tokenizer(&folder, name);
        let inputs = fs::read_to_string(format!("{}.inp", path.display())).unwrap();
        let expected = fs::read_to_string(format!("{}.out", path.display())).unwrap();
        let inputs: Vec<&str> = inputs
            .strip_suffix("\n__ggml_vocab_test__\n")
            .unwrap_or_else(|| panic!("{name}: the texts end in their separator"))
            .split("\n__ggml_vocab_test__\n")
            .collect();
        assert_eq!(inputs.len(), expected.lines().count(), "{name}");
        for (text, ids) in inputs.iter().zip(expected.lines()) {
            let expected: Vec<u32> = ids
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let ids = tokenizer.encode(text.as_bytes(), PLAIN).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            let back = tokenizer.decode(&ids, false).unwrap();
            assert_eq!(back, text.as_bytes(), "{name}: {text:?}");
            texts += 1;
        }
        files += 1;
    }
    say(&format!("{files} vocabularies, {texts} texts"));
    assert!(
        files >= 13,
        "only {files} vocabularies in {}",
        folder.display()
    );
}

#[test]
fn shimmytok_agrees() {
    let Some(folder) = folder() else { return };
    for name in ["llama-spm", "llama-bpe", "qwen2"] {
        let shimmy = shimmytok::Tokenizer::from_gguf_file(file(&folder, name)).unwrap();
        let tokenizer = tokenizer(&folder, name);
        for text in TEXTS {
            // shimmytok adds no space in front of a space; llama.cpp does, and its expected ids hold us to that.
            if name == "llama-spm" && text.starts_with(' ') {
                continue;
            }
            let ids = tokenizer.encode(text.as_bytes(), PLAIN).unwrap();
            assert_eq!(ids, shimmy.encode(text, false).unwrap(), "{name}: {text:?}");
        }
    }
}

#[test]
fn bytes_without_a_token() {
    let Some(folder) = folder() else { return };
    // Trained on UTF-8 only: no token for 0xFF, and ÿ is a token for that character.
    let deepseek = tokenizer(&folder, "deepseek-llm");
    let ids = deepseek.encode(b"a\xff b", PLAIN).unwrap();
    assert_eq!(
        deepseek.decode(&ids, false).unwrap(),
        "a\u{fffd} b".as_bytes()
    );
    let ids = deepseek.encode("aÿb".as_bytes(), PLAIN).unwrap();
    assert_eq!(deepseek.decode(&ids, false).unwrap(), "aÿb".as_bytes());
    let falcon = tokenizer(&folder, "falcon");
    assert!(matches!(
        falcon.encode(b"ab\x03", PLAIN),
        Err(TokenizerError::NoTokenForByte { byte: 3, offset: 2 })
    ));
}

#[test]
fn every_text_comes_back() {
    let Some(folder) = folder() else { return };
    for name in ["llama-spm", "llama-bpe", "qwen2", "gpt-2"] {
        let tokenizer = tokenizer(&folder, name);
        let texts = TEXTS.iter().map(|t| t.as_bytes());
        for text in texts.chain(INVALID.iter().copied()) {
            comes_back(&tokenizer, text);
        }
        let mut runner = TestRunner::new(Config {
            cases: 300,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&".*", |text| {
                // SentencePiece's sign for a space cannot be told from a space.
                comes_back(&tokenizer, text.replace('▁', "_").as_bytes());
                Ok(())
            })
            .unwrap();
        runner
            .run(&prop::collection::vec(any::<u8>(), 0..200), |text| {
                comes_back(&tokenizer, &text);
                Ok(())
            })
            .unwrap();
    }
}

#[track_caller]
fn comes_back(tokenizer: &Tokenizer, text: &[u8]) {
    for options in [PLAIN, EncodeOptions::SPECIAL] {
        let ids = tokenizer.encode(text, options).unwrap();
        let plain = tokenizer.decode(&ids, false).unwrap();
        assert_eq!(plain, text, "{:?}", String::from_utf8_lossy(text));
        let mut decoder = tokenizer.decoder(false);
        let mut streamed = String::new();
        for id in ids {
            streamed += &decoder.push(id).unwrap();
        }
        streamed += &decoder.finish();
        assert_eq!(streamed, String::from_utf8_lossy(text));
    }
}

#[test]
fn special_tokens_only_on_request() {
    let Some(folder) = folder() else { return };
    let special = EncodeOptions::SPECIAL;

    let llama3 = tokenizer(&folder, "llama-bpe");
    assert_eq!(
        llama3.encode(b"hi<|eot_id|>", special).unwrap(),
        [128_000, 6151, 128_009]
    );
    let plain = llama3.encode(b"hi<|eot_id|>", PLAIN).unwrap();
    assert!(plain.iter().all(|&id| id < 128_000), "{plain:?}");
    assert_eq!(
        llama3.decode(&[128_000, 6151], true).unwrap(),
        b"<|begin_of_text|>hi"
    );
    assert!(llama3.ends_generation(128_009) && llama3.ends_generation(128_001));
    assert_eq!(llama3.eot(), Some(128_009));

    let qwen = tokenizer(&folder, "qwen2");
    assert_eq!(
        qwen.encode(b"<|im_start|>user\n", special).unwrap(),
        [151_644, 872, 198]
    );
    assert!(!qwen.adds_bos() && qwen.ends_generation(151_645));

    let llama2 = tokenizer(&folder, "llama-spm");
    assert_eq!(llama2.encode(b"", special).unwrap(), [1]);
    assert_eq!(llama2.encode(b"", PLAIN).unwrap(), [0; 0]);
    let forged = llama2.encode(b"</s><unk><0x0A>", PLAIN).unwrap();
    assert!(forged.iter().all(|&id| id > 258), "{forged:?}");
    let ids = llama2.encode(b"a</s> b", special).unwrap();
    assert_eq!(ids, [1, 263, 2, 29871, 289]);
    assert_eq!(llama2.decode(&ids, true).unwrap(), b"<s>a</s>  b");
    assert_eq!(llama2.kind(13), Some(TokenKind::Byte));
    assert_eq!(llama2.token(13), Some(b"\n".as_slice()));
}

/// The same vocabulary as a `tokenizer.json`: the library's own pre-tokenizer, added tokens and template, with the
/// expression that the model's publisher wrote.
#[test]
fn a_tokenizer_json_of_the_same_vocabulary_agrees() {
    let Some(folder) = folder() else { return };
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    for (name, regex) in [
        ("llama-bpe", llama3.to_owned()),
        ("qwen2", llama3.replace("{1,3}", "")),
    ] {
        let vocab = vocab(&folder, name);
        let gguf = Tokenizer::from_gguf(vocab.clone()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let json = byte_level_json(&vocab, &gguf, &regex, name == "llama-bpe");
        fs::write(directory.path().join("tokenizer.json"), json.to_string()).unwrap();
        let config = json!({"eos_token_id": [vocab.eos], "bos_token_id": vocab.bos});
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let hugging_face = Tokenizer::from_json(directory.path()).unwrap();
        assert_eq!(hugging_face.vocab_size(), gguf.vocab_size());
        assert_eq!(hugging_face.bos(), gguf.bos());
        assert_eq!(hugging_face.eos(), gguf.eos());
        assert_eq!(hugging_face.adds_bos(), gguf.adds_bos());
        for text in TEXTS.iter().chain(&["<|im_start|>user\n<|eot_id|>x"]) {
            for options in [PLAIN, EncodeOptions::SPECIAL] {
                let ids = gguf.encode(text.as_bytes(), options).unwrap();
                assert_eq!(
                    hugging_face.encode(text.as_bytes(), options).unwrap(),
                    ids,
                    "{name}: {text:?} {options:?}"
                );
                for special in [false, true] {
                    assert_eq!(
                        hugging_face.decode(&ids, special).unwrap(),
                        gguf.decode(&ids, special).unwrap()
                    );
                }
            }
        }
        assert!(matches!(
            hugging_face.encode(b"ab\xff", PLAIN),
            Err(TokenizerError::InvalidUtf8(2))
        ));
    }
}

/// Llama 2's as a `tokenizer.json`: merges in place of scores, as Hugging Face's converter makes them.
#[test]
fn a_sentence_piece_tokenizer_json_agrees() {
    let Some(folder) = folder() else { return };
    let vocab = vocab(&folder, "llama-spm");
    let gguf = Tokenizer::from_gguf(vocab.clone()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    fs::write(&path, sentence_piece_json(&vocab).to_string()).unwrap();
    let hugging_face = Tokenizer::from_json(&path).unwrap();
    // Without the files beside it, a tokenizer.json does not say what its tokens are for.
    assert_eq!(hugging_face.bos(), None);
    for text in TEXTS.iter().map(|t| t.as_bytes()) {
        let ids = gguf.encode(text, PLAIN).unwrap();
        let text = String::from_utf8_lossy(text);
        assert_eq!(
            hugging_face.encode(text.as_bytes(), PLAIN).unwrap(),
            ids,
            "{text:?}"
        );
        assert_eq!(hugging_face.decode(&ids, false).unwrap(), text.as_bytes());
    }
}

fn sentence_piece_json(vocab: &GgufVocab) -> serde_json::Value {
    let scores = vocab.scores.as_ref().unwrap();
    let ids: HashMap<&str, usize> = vocab.tokens.iter().map(String::as_str).zip(0..).collect();
    let mut merges = Vec::new();
    for (id, text) in vocab.tokens.iter().enumerate().skip(259) {
        let mut pairs: Vec<_> = text
            .char_indices()
            .skip(1)
            .map(|(at, _)| text.split_at(at))
            .filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, l, r)))
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(.., l, r)| (scores[id], [l, r])));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges: Vec<_> = merges.into_iter().map(|(_, pair)| pair).collect();
    let added = ["<unk>", "<s>", "</s>"].map(|text| {
        json!({
            "id": ids[text], "content": text, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": ids, "merges": merges,
        },
    })
}

fn byte_level_json(
    vocab: &GgufVocab,
    gguf: &Tokenizer,
    regex: &str,
    llama3: bool,
) -> serde_json::Value {
    let mut ids = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, text) in vocab.tokens.iter().enumerate() {
        match gguf.kind(id as u32).unwrap() {
            TokenKind::Normal => {
                ids.insert(text.clone(), json!(id));
            }
            kind => added.push(json!({
                "id": id, "content": text, "special": kind == TokenKind::Control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })),
        }
    }
    let bos = vocab.bos.unwrap();
    let bos_text = &vocab.tokens[bos as usize];
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos_text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos_text: {"id": bos_text, "ids": [bos], "tokens": [bos_text]}},
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": if llama3 { template } else { serde_json::Value::Null },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": llama3,
            "vocab": ids, "merges": vocab.merges,
        },
    })
}
