//! What `tokgate load` and vLLM's `bench serve --save-result` write: the JSON of a load against a server.
//!
//! A time or a rate of a run is a bench of its own, `serve/<api>/<model>/<what>_n<requests>_c<concurrency>_r<rate>`:
//! ```text
//! serve/chat/qwen3-0-6b/ttft_n50_c1        of each answered request the time to its first token
//! serve/chat/qwen3-0-6b/tpot_n50_c1        (end − first token) / (tokens − 1)
//! serve/chat/qwen3-0-6b/itl_n50_c1         the mean gap between its pieces
//! serve/chat/qwen3-0-6b/e2el_n50_c1        the time to its end
//! serve/chat/qwen3-0-6b/output_n50_c1      tokens generated a second, of the whole run
//! ```
//! Where ids have the type of the weights, which a server does not tell, stands how it was asked: `chat` or
//! `completions`. A sample is one request; of several loads of one id that are read together, one load. A file without its requests (vLLM keeps them with `--save-detailed` only) has
//! the mean as its only sample.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AdapterError, Finding, nanoseconds, parse_json, written};
use crate::record::id::BenchId;
use crate::record::measurement::{MAX_SAMPLES, Samples, Throughput, TimedSamples};
use crate::record::metric::Metric;

#[derive(Deserialize)]
struct Run {
    #[serde(default)]
    backend: String,
    /// The same, as older versions call it.
    #[serde(default)]
    endpoint_type: String,
    #[serde(default)]
    model_id: String,
    num_prompts: Option<u64>,
    request_rate: Option<Value>,
    max_concurrency: Option<u64>,
    output_throughput: Option<f64>,
    #[serde(default)]
    ttfts: Vec<f64>,
    #[serde(default)]
    itls: Vec<Vec<f64>>,
    #[serde(default)]
    output_lens: Vec<u64>,
    #[serde(default)]
    latencies: Vec<f64>,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Understands the text of the file `path`.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Finding>, AdapterError> {
    let run: Run = parse_json(text, path)?;
    let mut findings = Vec::new();
    for (what, key, seconds) in run.times() {
        let mean = run.rest.get(key).and_then(Value::as_f64);
        let seconds = match seconds.is_empty() {
            true => mean.map(|ms| ms / 1e3).into_iter().collect(),
            false => seconds,
        };
        let times = seconds.iter().take(MAX_SAMPLES);
        let times = times.map(|seconds| nanoseconds(seconds * 1e9, key, path));
        let times: Vec<u64> = times.collect::<Result<_, _>>()?;
        if times.is_empty() {
            continue;
        }
        let timed = TimedSamples::new(vec![1; times.len()], times);
        let timed = timed.map_err(|source| AdapterError::Samples {
            path: path.to_owned(),
            source,
        })?;
        findings.push(run.finding(what, Metric::Time, Samples::Timed(timed), path)?);
    }
    if let Some(rate) = run
        .output_throughput
        .filter(|rate| rate.is_finite() && *rate > 0.0)
    {
        let rates = Samples::Rates(vec![rate]);
        findings.push(run.finding("output", Metric::TokensPerSecond, rates, path)?);
    }
    Ok(findings)
}

impl Run {
    /// Which time, the key of its mean, and the seconds of each request that was answered.
    fn times(&self) -> [(&'static str, &'static str, Vec<f64>); 4] {
        let answered = |at: &usize| self.errors.get(*at).is_none_or(String::is_empty);
        let all = || (0..self.ttfts.len()).filter(answered);
        let end = |at: usize| {
            // Older versions leave the end out; it is the sum of what came before.
            let gaps = self.itls.get(at).map(|gaps| gaps.iter().sum::<f64>());
            let summed = || Some(self.ttfts[at] + gaps?);
            self.latencies.get(at).copied().or_else(summed)
        };
        let tpot = |at: usize| {
            let after_first = self
                .output_lens
                .get(at)?
                .checked_sub(1)
                .filter(|n| *n > 0)?;
            Some((end(at)? - self.ttfts[at]).max(0.0) / after_first as f64)
        };
        let gap = |at: usize| {
            let gaps = self.itls.get(at).filter(|gaps| !gaps.is_empty())?;
            Some(gaps.iter().sum::<f64>() / gaps.len() as f64)
        };
        [
            (
                "ttft",
                "mean_ttft_ms",
                all().map(|at| self.ttfts[at]).collect(),
            ),
            ("tpot", "mean_tpot_ms", all().filter_map(tpot).collect()),
            ("itl", "mean_itl_ms", all().filter_map(gap).collect()),
            ("e2el", "mean_e2el_ms", all().filter_map(end).collect()),
        ]
    }

    fn finding(
        &self,
        what: &str,
        metric: Metric,
        samples: Samples,
        path: &Path,
    ) -> Result<Finding, AdapterError> {
        let mut shape = what.to_owned();
        let mut field = |name: &str, value: Option<String>| {
            shape.extend(value.map(|value| format!("_{name}{value}")));
        };
        field("n", self.num_prompts.map(|n| n.to_string()));
        field("c", self.max_concurrency.map(|n| n.to_string()));
        let rate = self.request_rate.as_ref().and_then(Value::as_f64);
        field("r", rate.map(|rate| rate.to_string()));
        let api = match self.backend.contains("chat") || self.endpoint_type.contains("chat") {
            true => "chat",
            false => "completions",
        };
        let id = BenchId::new("serve", api, &name(&self.model_id), &shape);
        Ok(Finding {
            id: id.map_err(|source| AdapterError::Id {
                path: path.to_owned(),
                source,
            })?,
            figures: vec![(metric, samples)],
            throughput: Throughput::default(),
            written: written(path)?,
            path: path.to_owned(),
        })
    }
}

/// A model's id as the grammar has names: what stands behind the last slash, in small letters.
fn name(model: &str) -> String {
    let last = model
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let mut name = String::new();
    for c in last.chars().take(64) {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_') => name.push(c),
            _ => name.push('-'),
        }
    }
    match name.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => name,
        false => format!("model-{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<(String, Samples)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = read(text, file.path()).unwrap();
        let figure = |finding: Finding| (finding.id.to_string(), finding.figures[0].1.clone());
        found.into_iter().map(figure).collect()
    }

    #[test]
    fn each_time_is_a_bench_and_each_request_a_sample() {
        let found = findings(
            r#"{"backend": "openai-chat", "model_id": "Qwen/Qwen3-0.6B", "num_prompts": 3, "request_rate": "inf",
            "max_concurrency": 2, "duration": 2.0, "completed": 2, "request_throughput": 1.0,
            "output_throughput": 12.5, "ttfts": [0.1, 0.0, 0.2], "itls": [[0.01, 0.03], [], []],
            "output_lens": [5, 0, 1], "errors": ["", "refused", ""]}"#,
        );
        let timed =
            |ns: &[u64]| Samples::Timed(TimedSamples::new(vec![1; ns.len()], ns.to_vec()).unwrap());
        let id = |what: &str| format!("serve/chat/qwen3-0-6b/{what}_n3_c2");
        assert_eq!(
            found,
            [
                (id("ttft"), timed(&[100_000_000, 200_000_000])),
                (id("tpot"), timed(&[10_000_000])),
                (id("itl"), timed(&[20_000_000])),
                (id("e2el"), timed(&[140_000_000, 200_000_000])),
                (id("output"), Samples::Rates(vec![12.5])),
            ]
        );
        assert!(found[0].0.parse::<BenchId>().unwrap().parts().is_some());
    }

    #[test]
    fn a_file_without_requests_has_its_means() {
        let found = findings(include_str!("../../tests/fixtures/serving/vllm.json"));
        let one = |ns| Samples::Timed(TimedSamples::new(vec![1], vec![ns]).unwrap());
        // The fixture keeps two first tokens, and means of the rest.
        assert_eq!(
            found[1],
            ("serve/chat/m/tpot_n50_c1".to_owned(), one(28_830_000))
        );
        assert_eq!(findings("{}"), []);
    }
}
