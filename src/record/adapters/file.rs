//! Result files of harnesses that write one file: told apart by what is in them, whatever they are called.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{
    AdapterError, Finding, cluster, distinct, google_benchmark, hyperfine, llama_bench, serving,
};
use crate::record::files::read_text;

/// The largest result file that is read: some ten thousand benches.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Which harness wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `hyperfine --export-json`.
    Hyperfine,
    /// `--benchmark_format=json`.
    GoogleBenchmark,
    /// `llama-bench -o json` or `-o jsonl`, and `tokgate bench` likewise.
    LlamaBench,
    /// `tokgate load --result`, and vLLM's `bench serve --save-result`.
    Serving,
    /// `tokgate cluster bench --result`.
    Cluster,
}

impl Format {
    /// The harness, as records name it.
    pub fn harness(self) -> &'static str {
        match self {
            Self::Hyperfine => "hyperfine",
            Self::GoogleBenchmark => "google-benchmark",
            Self::LlamaBench => "llama-bench",
            Self::Serving => "bench-serve",
            Self::Cluster => "cluster-bench",
        }
    }

    fn of(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Keys {
            results: Option<IgnoredAny>,
            benchmarks: Option<IgnoredAny>,
            context: Option<IgnoredAny>,
            n_prompt: Option<IgnoredAny>,
            n_gen: Option<IgnoredAny>,
            completed: Option<IgnoredAny>,
            duration: Option<IgnoredAny>,
            request_throughput: Option<IgnoredAny>,
            kind: Option<Value>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum First {
            Many(Vec<Keys>),
            One(Keys),
        }
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<First>();
        let keys = match values.next()?.ok()? {
            First::Many(rows) => rows.into_iter().next()?,
            First::One(keys) => keys,
        };
        if keys.kind.is_some_and(|kind| kind == cluster::KIND) {
            Some(Self::Cluster)
        } else if keys.n_prompt.is_some() && keys.n_gen.is_some() {
            Some(Self::LlamaBench)
        } else if keys.context.is_some() && keys.benchmarks.is_some() {
            Some(Self::GoogleBenchmark)
        } else if [&keys.completed, &keys.duration, &keys.request_throughput]
            .iter()
            .all(|key| key.is_some())
        {
            Some(Self::Serving)
        } else {
            keys.results.map(|_| Self::Hyperfine)
        }
    }
}

/// The results in the file `path` and the harness that wrote it, sorted by id; `None` for a file of none of the formats,
/// such as a baseline.
///
/// # Errors
/// [`AdapterError`] that names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Option<(Format, Vec<Finding>)>, AdapterError> {
    let text = read_text(path, MAX_FILE_BYTES)?;
    let Some(format) = Format::of(&text) else {
        return Ok(None);
    };
    let found = match format {
        Format::Hyperfine => hyperfine::read(&text, path),
        Format::GoogleBenchmark => google_benchmark::read(&text, path),
        Format::LlamaBench => llama_bench::read(&text, path),
        Format::Serving => serving::read(&text, path),
        Format::Cluster => cluster::read(&text, path),
    };
    Ok(Some((format, distinct(found?)?)))
}
