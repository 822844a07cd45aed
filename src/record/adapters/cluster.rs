//! What `tokgate cluster bench --result` writes: how fast ranks were together.
//!
//! A test is a bench, `cluster/<dtype>/<level>/<model>_<test>_r<ranks>_h<hosts>_t<threads of all ranks>`:
//! ```text
//! cluster/q8_0/avx2/qwen3-0.6b_tg32_r2_h2_t8             a sample is one repetition; its elements are tokens
//! cluster/q8_0/avx2/qwen3-0.6b_exchanges_r2_h2_t8        all exchanges of a token where nobody computes, the median
//! ```
//! Behind it stands what was asked for beyond that: `_s60-40` shares that were given, `_kf32` a cache of another type,
//! `_whole` experts divided whole, `_i160` microseconds by which every message was made to come later. Shares that ranks measured of themselves differ
//! from run to run, and so are no part of a name.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::{AdapterError, Finding, nanoseconds, parse_json, written};
use crate::record::id::BenchId;
use crate::record::measurement::{MAX_SAMPLES, Samples, Throughput, TimedSamples};
use crate::record::metric::Metric;

/// What stands under `kind`.
pub(super) const KIND: &str = "cluster";

/// The version that is read.
const SCHEMA: u64 = 1;

#[derive(Deserialize)]
struct File {
    schema: u64,
    name: String,
    dtype: String,
    report: Report,
}

#[derive(Deserialize)]
struct Report {
    ranks: Vec<Rank>,
    kv: String,
    given_shares: bool,
    whole_experts: bool,
    inject_us: f64,
    dry_token_us: f64,
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Rank {
    hello: Hello,
    share: f64,
}

#[derive(Deserialize)]
struct Hello {
    host: String,
    threads: u64,
    level: String,
}

#[derive(Deserialize)]
struct Test {
    n_prompt: u64,
    n_gen: u64,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    ns: u64,
}

/// Understands the text of the file `path`.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Finding>, AdapterError> {
    let file: File = parse_json(text, path)?;
    if file.schema != SCHEMA {
        return Err(AdapterError::Schema {
            path: path.to_owned(),
            found: file.schema.to_string(),
            known: "1",
        });
    }
    let report = &file.report;
    let mut findings = Vec::new();
    for test in &report.tests {
        let name = match (test.n_prompt, test.n_gen) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generated) => format!("tg{generated}"),
            (prompt, generated) => format!("pp{prompt}-tg{generated}"),
        };
        let times = test.samples.iter().take(MAX_SAMPLES);
        let times: Vec<u64> = times.map(|sample| sample.ns).collect();
        let tokens = test.n_prompt.checked_add(test.n_gen);
        findings.push(file.finding(&name, times, tokens, path)?);
    }
    if report.ranks.len() > 1 {
        let ns = nanoseconds(report.dry_token_us * 1e3, "dry_token_us", path)?;
        findings.push(file.finding("exchanges", vec![ns], None, path)?);
    }
    Ok(findings)
}

impl File {
    fn finding(
        &self,
        what: &str,
        times: Vec<u64>,
        elements: Option<u64>,
        path: &Path,
    ) -> Result<Finding, AdapterError> {
        let samples = TimedSamples::new(vec![1; times.len()], times);
        let samples = samples.map_err(|source| AdapterError::Samples {
            path: path.to_owned(),
            source,
        })?;
        let first = self.report.ranks.first();
        let level = first.map_or("", |rank| rank.hello.level.as_str());
        let id = BenchId::new("cluster", &self.dtype, level, &self.shape(what));
        Ok(Finding {
            id: id.map_err(|source| AdapterError::Id {
                path: path.to_owned(),
                source,
            })?,
            figures: vec![(Metric::Time, Samples::Timed(samples))],
            throughput: Throughput {
                elements,
                ..Throughput::default()
            },
            written: written(path)?,
            path: path.to_owned(),
        })
    }

    fn shape(&self, what: &str) -> String {
        let Report {
            ranks,
            kv,
            given_shares,
            whole_experts,
            inject_us,
            ..
        } = &self.report;
        let hosts: BTreeSet<&str> = ranks.iter().map(|rank| rank.hello.host.as_str()).collect();
        let threads = ranks.iter().map(|rank| rank.hello.threads);
        let threads = threads.fold(0_u64, u64::saturating_add);
        let (name, hosts, ranks_count) = (&self.name, hosts.len(), ranks.len());
        let mut shape = format!("{name}_{what}_r{ranks_count}_h{hosts}_t{threads}");
        if *given_shares {
            let shares = ranks
                .iter()
                .map(|rank| format!("{:.0}", 100.0 * rank.share));
            let shares: Vec<String> = shares.collect();
            shape += &format!("_s{}", shares.join("-"));
        }
        if *whole_experts {
            shape += "_whole";
        }
        if kv != "bf16" {
            shape += &format!("_k{kv}");
        }
        if *inject_us > 0.0 {
            shape += &format!("_i{inject_us:.0}");
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: impl Fn(&mut serde_json::Value)) -> String {
        let rank = |host: &str| {
            let hello = serde_json::json!({ "host": host, "threads": 4, "level": "avx2" });
            serde_json::json!({ "hello": hello, "share": 0.5 })
        };
        let test = |n_prompt: u64, n_gen: u64| {
            let samples = serde_json::json!([{ "ns": 100 }, { "ns": 300 }]);
            serde_json::json!({ "n_prompt": n_prompt, "n_gen": n_gen, "samples": samples })
        };
        let mut file = serde_json::json!({
            "schema": 1, "kind": "cluster", "name": "qwen3-0.6b", "dtype": "q8_0",
            "report": {
                "ranks": [rank("one"), rank("two")], "kv": "bf16", "given_shares": false, "whole_experts": false,
                "inject_us": 0.0, "dry_token_us": 12.5, "tests": [test(12, 0), test(0, 32)],
            },
        });
        change(&mut file);
        file.to_string()
    }

    fn found(text: &str) -> Result<Vec<Finding>, AdapterError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        read(text, file.path())
    }

    #[test]
    fn each_test_is_a_bench_of_the_one_grammar() {
        let found = found(&text(|_| ())).unwrap();
        let ids: Vec<&str> = found.iter().map(|finding| finding.id.as_str()).collect();
        let id = |what: &str| format!("cluster/q8_0/avx2/qwen3-0.6b_{what}_r2_h2_t8");
        assert_eq!(ids, [id("pp12"), id("tg32"), id("exchanges")]);
        assert!(found.iter().all(|finding| finding.id.parts().is_some()));
        assert_eq!(found[1].throughput.elements, Some(32));
        let timed =
            |ns: Vec<u64>| Samples::Timed(TimedSamples::new(vec![1; ns.len()], ns).unwrap());
        assert_eq!(found[1].figures, [(Metric::Time, timed(vec![100, 300]))]);
        assert_eq!(found[2].figures, [(Metric::Time, timed(vec![12_500]))]);
    }

    #[test]
    fn what_was_asked_for_is_in_the_name() {
        let asked = text(|file| {
            let report = &mut file["report"];
            report["given_shares"] = true.into();
            report["kv"] = "f32".into();
            report["whole_experts"] = true.into();
            report["inject_us"] = 160.0.into();
            report["ranks"][0]["share"] = 0.6.into();
            report["ranks"][1]["share"] = 0.4.into();
            report["ranks"][1]["hello"]["host"] = "one".into();
        });
        let found = found(&asked).unwrap();
        assert_eq!(
            found[0].id.as_str(),
            "cluster/q8_0/avx2/qwen3-0.6b_pp12_r2_h1_t8_s60-40_whole_kf32_i160"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let bad: [fn(&mut serde_json::Value); 6] = [
            |file| file["schema"] = 2.into(),
            |file| file["name"] = "A/b".into(),
            |file| file["report"]["ranks"] = serde_json::json!([]),
            |file| file["report"]["tests"][0]["samples"] = serde_json::json!([]),
            |file| file["report"]["dry_token_us"] = serde_json::json!(-1.0),
            |file| file["report"]["tests"] = serde_json::json!({}),
        ];
        for change in bad {
            assert!(found(&text(change)).is_err(), "{}", text(change));
        }
    }
}
