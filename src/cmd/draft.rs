//! A draft model beside the model that a subcommand runs.

use std::path::Path;

use anyhow::{Context, ensure};
use tokgate_kernels::{DType, Runtime};

use super::model::{self, Loaded};
use crate::cli::{DraftArgs, ModelArgs};
use crate::engine::draft::{DraftOptions, Drafter, same_vocabulary};
use crate::engine::tokenizer::Tokenizer;

/// Loads a draft model, its matrices converted as those of the model are.
///
/// # Errors
/// If it cannot be loaded, or its vocabulary is not `tokenizer`'s.
pub fn load(path: &Path, args: &ModelArgs, tokenizer: &Tokenizer) -> anyhow::Result<Loaded> {
    let draft = model::load(path, args)?;
    same_vocabulary(&draft.tokenizer()?, tokenizer).with_context(|| path.display().to_string())?;
    Ok(draft)
}

/// A drafter for `target`.
///
/// # Errors
/// If the arguments make no sense.
pub fn drafter<'a>(
    args: &DraftArgs,
    draft: &'a Loaded,
    target: &Loaded,
    rt: &'a Runtime,
    (rows, kv): (usize, DType),
) -> anyhow::Result<Drafter<'a>> {
    let p_min = args.draft_p_min;
    ensure!(
        (0.0..=1.0).contains(&p_min),
        "--draft-p-min is {p_min}, but must be between 0 and 1"
    );
    ensure!(
        args.draft_min <= args.draft_max,
        "--draft-min is above --draft-max: no guess could be checked"
    );
    let options = DraftOptions {
        most: args.draft_max,
        least: args.draft_min,
        p_min,
        rows,
        kv,
    };
    Ok(Drafter::new(
        &draft.model,
        rt,
        target.model.config().n_vocab,
        options,
    ))
}
