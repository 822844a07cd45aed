//! Small vocabularies, made here: definitions in plain loops as oracles, hostile metadata, streaming.

use std::{collections::HashMap, path::Path};

use proptest::prelude::*;
use tokgate::engine::tokenizer::{
    EncodeOptions, GgufVocab, SYNTHETIC_MIN, Tokenizer, TokenizerError, VocabWarning, synthetic,
};

use crate::texts::{INVALID, TEXTS};

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const SPECIAL: EncodeOptions = EncodeOptions::SPECIAL;

/// Ids 0–2 as always, the 256 bytes, then `words` with their scores.
fn sentence_piece(words: &[(&str, f32)]) -> GgufVocab {
    let mut vocab = GgufVocab {
        model: "llama".to_owned(),
        tokens: ["<unk>", "<s>", "</s>"].map(String::from).to_vec(),
        scores: Some(vec![0.0; 3 + 256]),
        token_types: Some([2, 3, 3].into_iter().chain([6; 256]).collect()),
        ..GgufVocab::default()
    };
    vocab
        .tokens
        .extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    for (word, score) in words {
        vocab.tokens.push((*word).to_owned());
        vocab.scores.as_mut().unwrap().push(*score);
        vocab.token_types.as_mut().unwrap().push(1);
    }
    vocab
}

fn texts_of(tokenizer: &Tokenizer, text: &[u8], options: EncodeOptions) -> Vec<String> {
    let ids = tokenizer.encode(text, options).unwrap();
    ids.iter()
        .map(|&id| String::from_utf8_lossy(tokenizer.token(id).unwrap()).into_owned())
        .collect()
}

#[test]
fn sentence_piece_joins_the_best_pair_first_and_the_leftmost_of_equals() {
    let words = [
        ("▁", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("ab", -1.0),
        ("ba", -2.0),
        ("aa", -1.0),
        ("▁ab", -3.0),
    ];
    let tokenizer = Tokenizer::from_gguf(sentence_piece(&words)).unwrap();
    let pieces = |text: &str| texts_of(&tokenizer, text.as_bytes(), PLAIN);
    assert_eq!(pieces("ab"), [" ab"]);
    assert_eq!(pieces("bab"), [" ", "b", "ab"]);
    assert_eq!(pieces("aaa"), [" ", "aa", "a"]);
    assert_eq!(pieces("aab"), [" ", "aa", "b"]);
    assert_eq!(pieces("é"), [" ", "\u{fffd}", "\u{fffd}"]);
    assert_eq!(
        texts_of(&tokenizer, b"a</s>b", SPECIAL),
        ["<s>", " ", "a", "</s>", " ", "b"]
    );
    assert_eq!(pieces("<0x41>")[1], "<", "text is no byte token");
}

#[test]
fn the_space_in_front_comes_and_goes() {
    let mut vocab = sentence_piece(&[("▁", -1.0), ("a", -2.0), ("▁a", -3.0)]);
    for space_prefix in [true, false] {
        vocab.add_space_prefix = Some(space_prefix);
        let tokenizer = Tokenizer::from_gguf(vocab.clone()).unwrap();
        for text in ["a", " a", "  a ", "", " ", "a a"] {
            for options in [PLAIN, SPECIAL] {
                let ids = tokenizer.encode(text.as_bytes(), options).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.as_bytes());
            }
        }
        let a = 3 + 256 + 2;
        let mut decoder = tokenizer.decoder(false).continuing();
        assert_eq!(decoder.push(a).unwrap(), " a");
        let mut decoder = tokenizer.decoder(false);
        assert_eq!(decoder.push(1).unwrap(), "");
        assert_eq!(
            decoder.push(a).unwrap(),
            if space_prefix { "a" } else { " a" }
        );
    }
}

/// The definition in `spm.rs`, as plain loops over the whole text.
fn sentence_piece_by_definition(vocab: &GgufVocab, text: &str) -> Vec<u32> {
    let scores = vocab.scores.as_ref().unwrap();
    let ids: HashMap<&str, usize> = (259..vocab.tokens.len())
        .map(|id| (vocab.tokens[id].as_str(), id))
        .collect();
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..symbols.len() {
            if let Some(&id) = ids.get(symbols[at - 1..=at].concat().as_str())
                && best.is_none_or(|(score, _)| scores[id] > score)
            {
                best = Some((scores[id], at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at);
        symbols[at - 1] += &right;
    }
    let mut out = Vec::new();
    for symbol in symbols {
        match ids.get(symbol.as_str()) {
            Some(&id) => out.push(id as u32),
            None => out.extend(symbol.bytes().map(|byte| 3 + u32::from(byte))),
        }
    }
    out
}

/// The definition of BPE, for a text that is one word.
fn bpe_by_definition(vocab: &GgufVocab, word: &str) -> Vec<u32> {
    let merges = vocab.merges.as_ref().unwrap();
    let mut symbols: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let best = (1..symbols.len())
            .filter_map(|at| {
                let pair = format!("{} {}", symbols[at - 1], symbols[at]);
                Some((merges.iter().position(|merge| *merge == pair)?, at))
            })
            .min();
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at);
        symbols[at - 1] += &right;
    }
    let id = |symbol: &String| vocab.tokens.iter().position(|t| t == symbol).unwrap() as u32;
    symbols.iter().map(id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sentence_piece_is_its_definition(
        words in prop::collection::hash_map("[ab▁é]{1,5}", -4i32..0, 0..40),
        text in "[ab é]{0,40}",
        spaces_lead in any::<bool>(),
    ) {
        let mut words: Vec<_> = words.iter().map(|(w, &s)| (w.as_str(), s as f32)).collect();
        // A space that is no token of its own would come back as the bytes of its sign.
        words.retain(|&(word, _)| word != "▁");
        if spaces_lead {
            // As in real vocabularies; the text is then joined word by word.
            words.retain(|(word, _)| !word.trim_start_matches('▁').contains('▁'));
        }
        words.push(("▁", -9.0));
        words.sort_by(|a, b| a.0.cmp(b.0));
        let vocab = sentence_piece(&words);
        let expected = if text.is_empty() { Vec::new() } else { sentence_piece_by_definition(&vocab, &text) };
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        let ids = tokenizer.encode(text.as_bytes(), PLAIN).unwrap();
        prop_assert_eq!(&ids, &expected);
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.into_bytes());
    }

    #[test]
    fn byte_level_bpe_is_its_definition(seed in 0u64..8, word in "[etaonshr]{1,24}") {
        let vocab = synthetic(700, seed);
        let expected = bpe_by_definition(&vocab, &word);
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        prop_assert_eq!(tokenizer.encode(word.as_bytes(), PLAIN).unwrap(), expected);
    }

    /// Whatever a file says, it is an answer or an error.
    #[test]
    fn any_metadata_is_survived(
        model in prop::sample::select(vec!["gpt2", "llama", "no_vocab", ""]),
        pre in prop::option::of(prop::sample::select(vec!["qwen2", "default", "deepseek-llm", "x"])),
        tokens in prop::collection::vec("(<0x[0-9A-F]{2}>|[abĠ▁é ]{0,4}|</s>|.)", 0..40),
        scores in prop::option::of(prop::collection::vec(any::<f32>(), 0..40)),
        token_types in prop::option::of(prop::collection::vec(-1i32..8, 0..40)),
        merges in prop::option::of(prop::collection::vec("[abĠ]{1,2} [abĠ]{1,2}", 0..6)),
        ids in prop::array::uniform4(prop::option::of(0u32..50)),
        flags in prop::array::uniform3(prop::option::of(any::<bool>())),
        fit in any::<bool>(),
        text in prop::collection::vec(prop::sample::select(b"ab <s/>0x\xc4\xa0\xe2\x96\x81\xff".to_vec()), 0..40),
    ) {
        let mut vocab = GgufVocab {
            model: model.to_owned(),
            pre: pre.map(str::to_owned),
            tokens, scores, token_types, merges,
            bos: ids[0], eos: ids[1], eot: ids[2], unknown: ids[3], eom: None,
            add_bos: flags[0], add_eos: flags[1], add_space_prefix: flags[2],
        };
        if fit {
            // Most random files fail at once; these get further.
            vocab.tokens.sort();
            vocab.tokens.dedup();
            let n = vocab.tokens.len();
            vocab.scores = vocab.scores.map(|mut s| { s.retain(|s| !s.is_nan()); s.resize(n, 0.0); s });
            vocab.token_types = vocab.token_types.map(|mut t| { t.retain(|&t| t != 6); t.resize(n, 1); t });
            vocab.merges = Some(Vec::new());
        }
        if let Ok(tokenizer) = Tokenizer::from_gguf(vocab) {
            for options in [PLAIN, SPECIAL] {
                if let Ok(ids) = tokenizer.encode(&text, options) {
                    prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                    tokenizer.decode(&ids, true).unwrap();
                    streamed(&tokenizer, &ids);
                }
            }
        }
    }

    #[test]
    fn any_text_and_any_bytes_come_back(text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let tokenizer = Tokenizer::from_gguf(synthetic(SYNTHETIC_MIN, 1)).unwrap();
        for text in [text.as_bytes(), &bytes] {
            let ids = tokenizer.encode(text, SPECIAL).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
            prop_assert_eq!(streamed(&tokenizer, &ids), String::from_utf8_lossy(text));
        }
    }
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder(true);
    let mut text = String::new();
    for &id in ids {
        text += &decoder.push(id).unwrap();
    }
    text + &decoder.finish()
}

#[test]
fn known_texts_come_back_from_every_kind() {
    let words = [("▁", -1.0), ("▁the", -2.0), ("\n", -3.0)];
    for vocab in [synthetic(2048, 3), sentence_piece(&words)] {
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        for text in TEXTS
            .iter()
            .map(|t| t.as_bytes())
            .chain(INVALID.iter().copied())
        {
            let ids = tokenizer.encode(text, PLAIN).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
            assert_eq!(streamed(&tokenizer, &ids), String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn characters_are_held_back_until_they_are_whole() {
    let tokenizer = Tokenizer::from_gguf(synthetic(SYNTHETIC_MIN, 0)).unwrap();
    let mut decoder = tokenizer.decoder(false);
    let mut push = |byte: u8| decoder.push(u32::from(byte)).unwrap();
    for byte in [0xf0, 0x9f, 0xa6] {
        assert_eq!(push(byte), "");
    }
    assert_eq!(push(0x80), "🦀");
    assert_eq!(push(0xe2), "");
    assert_eq!(
        push(b'a'),
        "\u{fffd}a",
        "an abandoned start is told at once"
    );
    assert_eq!(push(0xff), "\u{fffd}");
    assert_eq!(push(0xc3), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
}

#[test]
fn user_defined_tokens_always_and_the_longest_first() {
    let mut vocab = synthetic(SYNTHETIC_MIN, 0);
    for (text, kind) in [("ab", 4), ("<b>", 4), ("<b>c", 4), ("bcd", 4), ("<c>", 3)] {
        vocab.tokens.push(text.to_owned());
        vocab.token_types.as_mut().unwrap().push(kind);
    }
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    let pieces = |text: &str, options| texts_of(&tokenizer, text.as_bytes(), options);
    assert_eq!(pieces("x<b>cab", PLAIN), ["x", "<b>c", "ab"]);
    assert_eq!(
        pieces("abcd", PLAIN),
        ["a", "bcd"],
        "longer before further left"
    );
    assert_eq!(pieces("<c>", PLAIN), ["<", "c", ">"]);
    assert_eq!(pieces("<c><c>", SPECIAL), ["<c>", "<c>"]);
}

#[test]
fn a_synthetic_vocabulary_is_whole() {
    for (n, seed) in [(SYNTHETIC_MIN, 1), (1000, 2), (32_000, 3), (152_064, 4)] {
        let vocab = synthetic(n, seed);
        assert_eq!(vocab.tokens.len(), n);
        assert_eq!(vocab, synthetic(n, seed));
        let tokens = vocab.tokens.clone();
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        assert_eq!(tokenizer.warnings(), []);
        assert_eq!(tokenizer.vocab_size(), n);
        let control = n as u32 - 2;
        assert_eq!(tokenizer.bos(), Some(control));
        assert!(tokenizer.ends_generation(control) && tokenizer.ends_generation(control + 1));
        // Every token is what its own text encodes to; the large ones are sampled.
        for id in (0..control).step_by(1 + n / 4096) {
            let text = tokenizer.token(id).unwrap();
            assert_eq!(
                tokenizer.encode(text, SPECIAL).unwrap(),
                [id],
                "{}",
                tokens[id as usize]
            );
        }
    }
    assert_ne!(synthetic(1000, 1).merges, synthetic(1000, 2).merges);
}

/// Ids that every build on every machine must give: the vocabulary is part of what `synth` promises.
#[test]
fn a_synthetic_vocabulary_is_the_same_everywhere() {
    let vocab = synthetic(1000, 42);
    assert_eq!(vocab.merges.unwrap()[..4], ["p e", "Ġ r", "Ġ d", "Ġ p"]);
}

fn refused(change: impl FnOnce(&mut GgufVocab)) -> TokenizerError {
    let mut vocab = synthetic(SYNTHETIC_MIN, 0);
    change(&mut vocab);
    Tokenizer::from_gguf(vocab).unwrap_err()
}

fn refused_spm(change: impl FnOnce(&mut GgufVocab)) -> TokenizerError {
    let mut vocab = sentence_piece(&[("a", 0.0)]);
    change(&mut vocab);
    Tokenizer::from_gguf(vocab).unwrap_err()
}

#[test]
fn contradictions_in_a_file_are_errors() {
    use TokenizerError::*;
    assert!(matches!(
        refused(|v| v.model = "no_vocab".into()),
        NoVocabulary(_)
    ));
    assert!(matches!(
        refused(|v| v.model = "bert".into()),
        UnknownModel(_)
    ));
    assert!(matches!(
        refused(|v| v.pre = Some("?".into())),
        UnknownPre { .. }
    ));
    assert!(matches!(refused(|v| v.merges = None), Missing(_)));
    assert!(matches!(
        refused(|v| {
            v.tokens.clear();
            v.token_types = None
        }),
        Missing(_)
    ));
    assert!(matches!(
        refused(|v| {
            v.token_types.as_mut().unwrap().pop();
        }),
        LengthMismatch { .. }
    ));
    assert!(matches!(
        refused(|v| v.tokens[300] = v.tokens[299].clone()),
        DuplicateToken {
            first: 299,
            second: 300,
            ..
        }
    ));
    for merge in ["", " ", "a", "ab", "a ", " a"] {
        let error = refused(|v| v.merges.as_mut().unwrap()[3] = merge.into());
        assert!(
            matches!(error, BadMerge { index: 3, .. }),
            "{merge:?}: {error}"
        );
    }
    let long = "x".repeat(1 << 20);
    for merge in ["a qqqq", "qqqq a", "q q", "a  b", &format!("{long} {long}")] {
        let error = refused(|v| v.merges.as_mut().unwrap()[3] = merge.into());
        assert!(
            matches!(error, MergeOutOfVocabulary { index: 3, .. }),
            "{error}"
        );
        assert!(error.to_string().len() < 300);
    }
    assert!(matches!(
        refused_spm(|v| {
            v.scores.as_mut().unwrap().pop();
        }),
        LengthMismatch { .. }
    ));
    assert!(matches!(
        refused_spm(|v| v.scores.as_mut().unwrap()[7] = f32::NAN),
        BadScore(7)
    ));
    assert!(matches!(
        refused_spm(|v| v.tokens[5] = "<0xé>".into()),
        BadByteToken { id: 5, .. }
    ));
}

#[test]
fn oddities_are_told_and_worked_with() {
    let mut vocab = synthetic(SYNTHETIC_MIN, 0);
    vocab.pre = None;
    vocab.bos = Some(u32::MAX);
    vocab.add_bos = Some(true);
    vocab.tokens[7] = String::new();
    vocab.tokens[8] = String::new();
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    assert!(matches!(
        tokenizer.warnings(),
        [
            VocabWarning::SpecialOutOfRange { .. },
            VocabWarning::NoPreTokenizer,
            VocabWarning::NothingToAdd(_)
        ]
    ));
    assert_eq!(tokenizer.encode(b"e", SPECIAL).unwrap(), [u32::from(b'e')]);
    assert!(matches!(
        tokenizer.encode(b"ab \x07", PLAIN),
        Err(TokenizerError::NoTokenForByte { byte: 7, offset: 3 })
    ));
    assert!(matches!(
        tokenizer.decode(&[1, u32::MAX], true),
        Err(TokenizerError::IdOutOfRange { id: u32::MAX, .. })
    ));
}

#[test]
fn sentence_piece_without_byte_tokens() {
    let mut vocab = GgufVocab {
        model: "llama".to_owned(),
        tokens: ["<unk>", "<s>", "</s>", "▁", "a"]
            .map(String::from)
            .to_vec(),
        ..GgufVocab::default()
    };
    let tokenizer = Tokenizer::from_gguf(vocab.clone()).unwrap();
    assert_eq!(
        tokenizer.encode("a é".as_bytes(), PLAIN).unwrap(),
        [3, 4, 3, 0]
    );
    vocab.tokens.truncate(0);
    vocab.tokens.push("a".to_owned());
    vocab.unknown = Some(9);
    vocab.add_space_prefix = Some(false);
    vocab.token_types = Some(vec![1]);
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    assert!(matches!(
        tokenizer.encode(b"aab", PLAIN),
        Ok(ids) if ids == [0, 0, 0]
    ));
}

#[test]
fn long_texts_take_no_more_than_linear_time_and_a_bit() {
    let spm = Tokenizer::from_gguf(sentence_piece(&[
        ("▁", -1.0),
        ("▁▁", -2.0),
        ("▁▁▁▁", -3.0),
        ("a", -1.0),
        ("aa", -2.0),
    ]))
    .unwrap();
    let bpe = Tokenizer::from_gguf(synthetic(4096, 5)).unwrap();
    for unit in [" ", "a", "ta", "\n", "é", "\u{0}", "the quick ", "1"] {
        let text = unit.repeat(300_000 / unit.len());
        for tokenizer in [&spm, &bpe] {
            let ids = tokenizer.encode(text.as_bytes(), SPECIAL).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.as_bytes());
        }
    }
}

#[test]
fn damaged_tokenizer_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Tokenizer::from_json(&path)
    };
    let model = |vocab: &str, merges: &str| {
        format!(
            r#"{{"version":"1.0","decoder":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}},"model":{{"type":"BPE","vocab":{vocab},"merges":{merges}}}}}"#
        )
    };
    assert!(load(&model(r#"{"a":0,"b":1,"ab":2}"#, r#"["a b"]"#)).is_ok());
    for bad in [
        String::new(),
        "{}".to_owned(),
        "[".repeat(1 << 20),
        model(r#"{"a":0,"b":1}"#, r#"["a b"]"#),
        model(r#"{"a":0}"#, r#"["a"]"#),
        model(r#"{"a":0}"#, "[3]"),
        model(r#"{"a":4294967295}"#, "[]"),
        model(r#"{"a":0,"b":1,"ab":2}"#, r#"["a b"]"#).replace("ByteLevel", "WordPiece"),
        model(r#"{"a":0,"b":1,"ab":2}"#, r#"["a b"]"#)
            .replace(r#""vocab""#, r#""continuing_subword_prefix":"xyz","vocab""#),
    ] {
        let error = load(&bad).unwrap_err();
        assert!(matches!(error, TokenizerError::Json(_)), "{error}");
    }
    assert!(matches!(
        Tokenizer::from_json(Path::new("/nonexistent")),
        Err(TokenizerError::Io { .. })
    ));
}
