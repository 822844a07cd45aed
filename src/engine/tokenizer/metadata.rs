//! The vocabulary in a GGUF file's metadata: keys on one side, [`GgufVocab`] on the other.

use super::{GgufVocab, TokenizerError};
use crate::engine::gguf::{Gguf, GgufError, MetaValue};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

impl GgufVocab {
    /// Reads the vocabulary of a file as it stands there; files with a vocabulary only have one too.
    ///
    /// # Errors
    /// A file that does not name a tokenizer at all, and values of the wrong type.
    pub fn from_metadata(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let scores = match gguf.get(SCORES) {
            // Some converters wrote whole numbers.
            Err(GgufError::WrongType { .. }) => gguf
                .get::<Vec<i32>>(SCORES)?
                .map(|scores| scores.into_iter().map(|score| score as f32).collect()),
            scores => scores?,
        };
        Ok(Self {
            model: gguf.get(MODEL)?.ok_or(TokenizerError::Missing(MODEL))?,
            pre: gguf.get(PRE)?,
            tokens: gguf.get(TOKENS)?.unwrap_or_default(),
            scores,
            token_types: gguf.get(TYPES)?,
            merges: gguf.get(MERGES)?,
            bos: gguf.get(BOS)?,
            eos: gguf.get(EOS)?,
            eot: gguf.get(EOT)?,
            eom: gguf.get(EOM)?,
            unknown: gguf.get(UNKNOWN)?,
            add_bos: gguf.get(ADD_BOS)?,
            add_eos: gguf.get(ADD_EOS)?,
            add_space_prefix: gguf.get(ADD_SPACE)?,
        })
    }

    /// The metadata to write for it.
    pub fn into_metadata(self) -> Vec<(&'static str, MetaValue)> {
        let Self {
            model,
            pre,
            tokens,
            scores,
            token_types,
            merges,
            bos,
            eos,
            eot,
            eom,
            unknown,
            add_bos,
            add_eos,
            add_space_prefix,
        } = self;
        [
            (MODEL, Some(MetaValue::Str(model))),
            (PRE, pre.map(MetaValue::Str)),
            (TOKENS, Some(MetaValue::Strs(tokens))),
            (SCORES, scores.map(MetaValue::F32s)),
            (TYPES, token_types.map(MetaValue::I32s)),
            (MERGES, merges.map(MetaValue::Strs)),
            (BOS, bos.map(MetaValue::U32)),
            (EOS, eos.map(MetaValue::U32)),
            (EOT, eot.map(MetaValue::U32)),
            (EOM, eom.map(MetaValue::U32)),
            (UNKNOWN, unknown.map(MetaValue::U32)),
            (ADD_BOS, add_bos.map(MetaValue::Bool)),
            (ADD_EOS, add_eos.map(MetaValue::Bool)),
            (ADD_SPACE, add_space_prefix.map(MetaValue::Bool)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{gguf::Writer, tokenizer::synthetic};

    fn gguf(entries: &[(&str, MetaValue)]) -> Gguf {
        let mut writer = Writer::default();
        for (key, value) in entries {
            writer.entry(key, value);
        }
        Gguf::parse(&writer.finish().header).unwrap()
    }

    #[test]
    fn a_vocabulary_comes_back_from_a_file() {
        let vocab = GgufVocab {
            scores: Some(vec![1.5; 400]),
            unknown: Some(3),
            eom: Some(4),
            add_eos: Some(true),
            add_space_prefix: Some(false),
            ..synthetic(400, 9)
        };
        let file = gguf(&vocab.clone().into_metadata());
        assert_eq!(GgufVocab::from_metadata(&file).unwrap(), vocab);
    }

    #[test]
    fn scores_may_be_whole_numbers_and_other_types_may_not() {
        let model = (MODEL, MetaValue::Str("llama".to_owned()));
        let file = gguf(&[model.clone(), (SCORES, MetaValue::I32s(vec![-3]))]);
        let vocab = GgufVocab::from_metadata(&file).unwrap();
        assert_eq!(vocab.scores, Some(vec![-3.0]));
        let file = gguf(&[model, (TOKENS, MetaValue::U32(7))]);
        assert!(matches!(
            GgufVocab::from_metadata(&file),
            Err(TokenizerError::Gguf(GgufError::WrongType { .. }))
        ));
        assert!(matches!(
            GgufVocab::from_metadata(&gguf(&[])),
            Err(TokenizerError::Missing(MODEL))
        ));
    }
}
