//! `tokenizer.json`, through the `tokenizers` library: it encodes; decoding is this engine's own, from the bytes that
//! each token stands for, so that streaming and control tokens behave the same whatever the file was.
//!
//! The library trusts its input in places where a merge can be longer than every token; [`check_merges`] looks first.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::OnceLock,
};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{
    EncodeOptions,
    error::TokenizerError,
    vocab::{SpecialIds, Spelling, TokenKind, Vocab, byte_of},
};

#[derive(Debug)]
pub(super) struct JsonTokenizer {
    /// Takes control tokens in the text as text.
    plain: Tokenizer,
    /// Takes them as such; a copy, because the library has a switch where it should have a parameter.
    special: OnceLock<Tokenizer>,
    /// The first and the last id of an encoded text, where special tokens were added there.
    added: [Option<u32>; 2],
    /// Decoding takes away the space in front of the text.
    pub space_prefix: bool,
}

/// No vocabulary in use comes near.
const MAX_FILE: u64 = 512 << 20;

/// Reads a `tokenizer.json`, or that of the folder `path`.
pub(super) fn load(path: &Path) -> Result<(Vocab, JsonTokenizer), TokenizerError> {
    let folder = path.is_dir().then_some(path);
    let file = match folder {
        Some(folder) => folder.join("tokenizer.json"),
        None => path.to_owned(),
    };
    if folder.is_some() && !file.exists() {
        return Err(TokenizerError::NoTokenizerJson(path.to_owned()));
    }
    let bytes = read(&file)?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| refused(&e))?;
    check_merges(&json["model"])?;
    let mut plain = caught(|| Tokenizer::from_bytes(&bytes)).map_err(refused)?;
    drop(bytes);
    // Both are about batches for training; a prompt is never cut or filled up behind the user's back.
    plain.with_truncation(None).map_err(refused)?;
    plain.with_padding(None);
    plain.set_encode_special_tokens(true);

    let decoders = Decoders::of(&json["decoder"])?;
    let config = folder.map(FolderConfig::read).unwrap_or_default();
    let vocab = vocab_of(&plain, &decoders, &config)?;
    let mut tokenizer = JsonTokenizer {
        plain,
        special: OnceLock::new(),
        added: [None; 2],
        space_prefix: decoders.strips_space,
    };
    tokenizer.added = tokenizer.probe()?;
    Ok((vocab, tokenizer))
}

impl JsonTokenizer {
    pub fn encode(&self, text: &[u8], options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let text =
            std::str::from_utf8(text).map_err(|e| TokenizerError::InvalidUtf8(e.valid_up_to()))?;
        let tokenizer = if options.parse_special {
            self.special.get_or_init(|| {
                let mut copy = self.plain.clone();
                copy.set_encode_special_tokens(false);
                copy
            })
        } else {
            &self.plain
        };
        let encoding = caught(|| tokenizer.encode_fast(text, options.add_special))
            .map_err(TokenizerError::Library)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether encoding with special tokens adds `id` in front or at the end.
    pub fn adds(&self, id: Option<u32>) -> bool {
        id.is_some() && self.added.contains(&id)
    }

    fn probe(&self) -> Result<[Option<u32>; 2], TokenizerError> {
        let with = |add_special| {
            self.encode(
                b"a",
                EncodeOptions {
                    add_special,
                    parse_special: false,
                },
            )
        };
        let (plain, special) = (with(false)?, with(true)?);
        let differs = |a: Option<&u32>, b: Option<&u32>| if a == b { None } else { b.copied() };
        Ok([
            differs(plain.first(), special.first()),
            differs(plain.last(), special.last()),
        ])
    }
}

/// How the decoder section turns tokens into text.
struct Decoders {
    spelling: Spelling,
    bytes: bool,
    strips_space: bool,
}

impl Decoders {
    fn of(json: &Value) -> Result<Self, TokenizerError> {
        let steps = match json["decoders"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(json),
        };
        let mut found = None;
        let (mut bytes, mut strips_space) = (false, false);
        for step in steps {
            match step["type"].as_str().unwrap_or("none") {
                "ByteLevel" => found = Some(Spelling::ByteLevel),
                "Metaspace" => {
                    found = Some(Spelling::Meta);
                    strips_space |= step["prepend_scheme"] != "never"
                        && step["add_prefix_space"] != Value::Bool(false);
                }
                "Replace" if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                    found = Some(Spelling::Meta);
                }
                "ByteFallback" => bytes = true,
                "Strip" if step["content"] == " " && step["start"] == 1 => strips_space = true,
                "Fuse" => {}
                other => {
                    return Err(refused(format!(
                        "the decoder {other:?} is not supported: ByteLevel and SentencePiece's (Metaspace, or Replace \
                         with ByteFallback) are"
                    )));
                }
            }
        }
        Ok(Self {
            spelling: found.ok_or_else(|| refused("the file has no decoder that is supported"))?,
            bytes,
            strips_space,
        })
    }
}

/// The special tokens, from the files beside a `tokenizer.json`.
#[derive(Default)]
struct FolderConfig {
    bos: Option<Value>,
    eos: Vec<Value>,
}

impl FolderConfig {
    /// Files that are missing or are no JSON say nothing.
    fn read(folder: &Path) -> Self {
        let json = |name: &str| -> Value {
            read(&folder.join(name))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default()
        };
        let mut config = Self::default();
        let named = json("tokenizer_config.json");
        let numbered = [json("generation_config.json"), json("config.json")];
        let tokens = [(&named, "bos_token", "eos_token")];
        let ids = numbered.iter().map(|j| (j, "bos_token_id", "eos_token_id"));
        for (json, bos, eos) in tokens.into_iter().chain(ids) {
            if config.bos.is_none() && !json[bos].is_null() {
                config.bos = Some(json[bos].clone());
            }
            match &json[eos] {
                Value::Null => {}
                Value::Array(all) => config.eos.extend(all.iter().cloned()),
                one => config.eos.push(one.clone()),
            }
        }
        config
    }
}

fn vocab_of(
    tokenizer: &Tokenizer,
    decoders: &Decoders,
    config: &FolderConfig,
) -> Result<Vocab, TokenizerError> {
    let ids: HashMap<String, u32> = tokenizer.get_vocab(true);
    let size = ids.values().max().map_or(0, |&max| max as usize + 1);
    // Holes are normal, but the table must not be sized by a stray number.
    if size > 16 * ids.len() + (1 << 16) {
        return Err(refused(format!(
            "the largest id is {} for {} tokens: the file is damaged",
            size - 1,
            ids.len()
        )));
    }
    let mut texts = vec![String::new(); size];
    let mut kinds = vec![TokenKind::Unused; size];
    for (text, &id) in &ids {
        texts[id as usize].clone_from(text);
        kinds[id as usize] = if decoders.bytes && byte_of(text).is_some() {
            TokenKind::Byte
        } else {
            TokenKind::Normal
        };
    }
    for (&id, token) in &tokenizer.get_added_tokens_decoder() {
        if let Some(kind) = kinds.get_mut(id as usize) {
            texts[id as usize].clone_from(&token.content);
            *kind = if token.special {
                TokenKind::Control
            } else {
                TokenKind::UserDefined
            };
        }
    }
    let id = |value: &Value| match value {
        Value::String(text) => ids.get(text).copied(),
        Value::Object(token) => ids.get(token.get("content")?.as_str()?).copied(),
        number => u32::try_from(number.as_u64()?)
            .ok()
            .filter(|&id| (id as usize) < size),
    };
    let ends: Vec<u32> = config.eos.iter().filter_map(&id).collect();
    let turn_end = ["<|eot_id|>", "<|im_end|>", "<|end|>"]
        .iter()
        .find_map(|text| ids.get(*text));
    let special = SpecialIds {
        bos: config.bos.as_ref().and_then(&id),
        eos: ends.first().copied(),
        eot: turn_end.copied(),
        unknown: None,
        ends: ends.into_iter().chain(turn_end.copied()).collect(),
    };
    Vocab::assemble(texts, kinds, special, Vec::new(), decoders.spelling)
}

/// Refuses merges that the library would copy past the end of its buffer: longer than every token, or without the
/// prefix that it cuts off.
fn check_merges(model: &Value) -> Result<(), TokenizerError> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
    else {
        return Ok(());
    };
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("");
    for (index, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => {
                    Some((left.as_str(), right.as_str()))
                }
                _ => None,
            },
            _ => None,
        };
        let fits = pair.is_some_and(|(l, r)| {
            r.starts_with(prefix) && l.len() + r.len() - prefix.len() <= longest
        });
        if !fits {
            return Err(refused(format!(
                "merge {index} is no pair of tokens whose join is a token"
            )));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let failed = |source| TokenizerError::Io {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let read = file
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if read as u64 > MAX_FILE {
        return Err(failed(std::io::Error::other(
            "more than 512 MiB: no tokenizer.json",
        )));
    }
    Ok(bytes)
}

/// Runs the library, which has been seen to panic on damaged files; that must not take the caller down.
fn caught<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("it panicked: the tokenizer.json is damaged".to_owned()),
    }
}

fn refused(reason: impl ToString) -> TokenizerError {
    TokenizerError::Json(reason.to_string())
}
