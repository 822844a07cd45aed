//! `tokgate tokenize`: the ids of a text, for checking the tokenizer from outside.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;

use super::Outcome;
use crate::cli::TokenizeArgs;
use crate::engine::model_file::VocabularySource;
use crate::engine::tokenizer::{EncodeOptions, Tokenizer};

/// Prints the ids on one line, separated by spaces.
pub fn run(args: &TokenizeArgs) -> anyhow::Result<Outcome> {
    let tokenizer = open(&args.model)?;
    let text = if args.text == "-" {
        let mut text = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut text)
            .context("cannot read the text from standard input")?;
        text
    } else {
        args.text.as_encoded_bytes().to_vec()
    };
    let options = EncodeOptions {
        add_special: args.special,
        parse_special: args.special,
    };
    let ids = tokenizer
        .encode(&text, options)
        .context("cannot tokenize the text")?;
    let mut line = String::with_capacity(6 * ids.len() + 1);
    for id in ids {
        if !line.is_empty() {
            line.push(' ');
        }
        line += &id.to_string();
    }
    line.push('\n');
    std::io::stdout()
        .lock()
        .write_all(line.as_bytes())
        .context("cannot write the ids")?;
    Ok(Outcome::Clean)
}

/// The tokenizer of a model or of a `tokenizer.json`, with its warnings told.
pub(super) fn open(path: &Path) -> anyhow::Result<Tokenizer> {
    let tokenizer = if path.extension().is_some_and(|e| e == "json") {
        Tokenizer::from_json(path)
    } else {
        VocabularySource::open(path)?.tokenizer()
    };
    let tokenizer =
        tokenizer.with_context(|| format!("cannot tokenize with {}", path.display()))?;
    for warning in tokenizer.warnings() {
        eprintln!("tokgate: warning: {warning}");
    }
    Ok(tokenizer)
}
