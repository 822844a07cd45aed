//! The requests of a data set, with what counted their tokens.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::cli::{LoadArgs, LoadDataset};
use crate::cmd::tokenize;
use crate::engine::tokenizer::{EncodeOptions, TokenKind, Tokenizer, TokenizerError};
use crate::load::{Client, Failure};
use crate::record::read_text;
use crate::workload::prompts::PROMPTS;
use crate::workload::requests::{Random, Request, Vocabulary, of_prompts, of_sort};
use crate::workload::sharegpt::{Conversations, MAX_FILE_BYTES, Sampling, SamplingError};

/// How long a server may take to count a text's tokens.
const COUNT_LIMIT: Duration = Duration::from_secs(30);

/// The most tokens of random prompts, all together; their text takes some 400 MB.
const MAX_RANDOM_TOKENS: u64 = 100_000_000;

/// Requests, and what counted their tokens beforehand.
pub struct Found {
    pub requests: Vec<Request>,
    pub tokenizer: Option<String>,
}

/// The requests that `args` names.
pub fn of(args: &LoadArgs, client: &Client, model: &str) -> anyhow::Result<Found> {
    let tokenizer = args.tokenizer.as_deref().map(tokenize::open).transpose()?;
    let name = args
        .tokenizer
        .as_deref()
        .map(|path| path.display().to_string());
    let seed = u64::from(args.seed);
    let mut found = Found {
        requests: Vec::new(),
        tokenizer: name,
    };
    found.requests = match &args.dataset {
        LoadDataset::Prompts => of_prompts(&PROMPTS, args.num_prompts),
        LoadDataset::Sort => of_sort(args.num_prompts, args.sort_ints, seed)?,
        LoadDataset::Random => {
            let tokens = args.num_prompts as u64 * u64::from(args.random_input_len);
            if tokens > MAX_RANDOM_TOKENS {
                bail!(
                    "{tokens} random tokens are more than {MAX_RANDOM_TOKENS}: ask for fewer or shorter prompts"
                );
            }
            let random = Random {
                count: args.num_prompts,
                input: args.random_input_len,
                output: args.random_output_len,
                range_ratio: args.random_range_ratio,
                seed,
            };
            let vocabulary = tokenizer
                .as_ref()
                .map(|tokenizer| tokenizer as &dyn Vocabulary);
            random.requests(vocabulary)
        }
        LoadDataset::Sharegpt(file) => {
            let sampling = Sampling {
                count: args.num_prompts,
                seed,
                output: args.output_len,
            };
            if tokenizer.is_none() {
                found.tokenizer = Some("the server's /tokenize".to_owned());
            }
            let count = |text: &str| match &tokenizer {
                Some(tokenizer) => by_vocabulary(tokenizer, text).map_err(anyhow::Error::from),
                None => by_server(client, text, model),
            };
            sharegpt(file, sampling, count)
                .with_context(|| format!("cannot sample {}", file.display()))?
        }
    };
    if let Some(output) = args.output_len {
        for request in &mut found.requests {
            request.max_tokens = output;
        }
    }
    Ok(found)
}

fn sharegpt(
    file: &Path,
    sampling: Sampling,
    count: impl FnMut(&str) -> anyhow::Result<u64>,
) -> anyhow::Result<Vec<Request>> {
    let text = read_text(file, MAX_FILE_BYTES)?;
    let conversations = Conversations::parse(text.as_bytes())?;
    drop(text);
    conversations
        .sample(sampling, count)
        .map_err(|error| match error {
            SamplingError::Count(error) => error,
            SamplingError::NoneFits(_) => anyhow::anyhow!("{error}"),
        })
}

/// As Hugging Face's tokenizers count by default: with what the model puts around a prompt.
fn by_vocabulary(tokenizer: &Tokenizer, text: &str) -> Result<u64, TokenizerError> {
    let tokens = tokenizer.encode(text.as_bytes(), EncodeOptions::SPECIAL)?;
    Ok(tokens.len() as u64)
}

fn by_server(client: &Client, text: &str, model: &str) -> anyhow::Result<u64> {
    client
        .token_count(text, model, COUNT_LIMIT)
        .map_err(|failure| match failure {
            Failure::Status {
                code: 404 | 405 | 501,
                ..
            } => anyhow::anyhow!(
                "the server has no /tokenize: give the model's GGUF or tokenizer.json with --tokenizer"
            ),
            failure => anyhow::anyhow!("the server's /tokenize: {failure}"),
        })
}

impl Vocabulary for Tokenizer {
    fn plain(&self) -> Vec<u32> {
        let ids = 0..u32::try_from(self.vocab_size()).unwrap_or(u32::MAX);
        let is_plain = |id: &u32| self.kind(*id) == Some(TokenKind::Normal);
        ids.filter(is_plain).collect()
    }

    fn around(&self) -> u32 {
        let none = self.encode(b"", EncodeOptions::SPECIAL).unwrap_or_default();
        none.len() as u32
    }

    fn decode(&self, tokens: &[u32]) -> String {
        let text = Tokenizer::decode(self, tokens, false).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let options = EncodeOptions::default();
        Tokenizer::encode(self, text.as_bytes(), options).unwrap_or_default()
    }
}
