//! Files of hyperfine, google-benchmark and llama-bench, and the formats that `tokgate export` writes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokgate::record::adapters::file::{self, Format};
use tokgate::record::adapters::{AdapterError, Finding};
use tokgate::record::{Metric, Samples, TimedSamples};

use crate::repository::Repository;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/tests/fixtures/foreign")
        .join(name)
}

fn read(name: &str) -> (Format, Vec<Finding>) {
    file::read(&fixture(name)).unwrap().unwrap()
}

fn timed(finding: &Finding) -> &TimedSamples {
    match &finding.figures[..] {
        [(Metric::Time, Samples::Timed(timed))] => timed,
        other => panic!("{other:?}"),
    }
}

fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn hyperfines_runs_are_samples() {
    let (format, found) = read("hyperfine.json");
    assert_eq!(format, Format::Hyperfine);
    assert_eq!(ids(&found), ["sleep 0.001", "sleep 0.003", "true"]);
    let timed = timed(&found[0]);
    assert_eq!(timed.iters(), [1; 5]);
    assert_eq!(timed.total_ns()[..2], [7_995_703, 3_841_113]);
}

#[test]
fn google_benchmarks_repetitions_are_samples() {
    let (format, found) = read("google-benchmark.json");
    assert_eq!(format, Format::GoogleBenchmark);
    assert_eq!(ids(&found), ["Sum/1048576/real_time", "Sum/4096", "Sum/64"]);
    let small = timed(&found[2]);
    assert_eq!(small.iters(), [871_078; 3]);
    let per_iteration = small.per_iteration_ns().next().unwrap();
    assert!(
        (per_iteration - 131.896_372).abs() < 1e-3,
        "{per_iteration}"
    );
    assert_eq!(found[2].throughput.elements, Some(64));
    assert_eq!(found[2].throughput.bytes, Some(256));
    // Microseconds, and a rate over the wall clock.
    assert!(timed(&found[0]).per_iteration_ns().all(|ns| ns > 50_000.0));
    assert_eq!(found[0].throughput.bytes, Some(4 << 20));

    let (_, means) = read("google-benchmark-aggregates.json");
    assert_eq!(ids(&means), ids(&found));
    assert_eq!(timed(&means[1]).iters(), [1_000]);
}

#[test]
fn llama_benchs_repetitions_are_samples() {
    let (format, found) = read("llama-bench.json");
    assert_eq!(format, Format::LlamaBench);
    assert_eq!(found.len(), 8);
    let name = "llama-bench/llama 0.0B Q8_0/CPU/pp16_t1_ub8_fa1_kbf16_vbf16_avx2";
    let prompt = found.iter().find(|one| one.id.as_str() == name);
    let prompt = prompt.unwrap_or_else(|| panic!("{:?}", ids(&found)));
    assert_eq!(
        timed(prompt).total_ns(),
        [46_618_676, 34_343_027, 2_754_115]
    );
    assert_eq!(prompt.throughput.elements, Some(16));
    let (format, lines) = read("llama-bench.jsonl");
    assert_eq!((format, lines.len()), (Format::LlamaBench, 2));

    // As llama.cpp writes it: fewer keys than tokgate's, others besides.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let row = r#"{"build_commit":"b1","model_type":"qwen3 0.6B Q8_0","backends":"CPU","n_threads":4,"n_batch":2048,"n_ubatch":512,"type_k":"f16","type_v":"f16","n_gpu_layers":99,"flash_attn":0,"n_prompt":0,"n_gen":128,"n_depth":512,"avg_ns":5,"new_key":[1]}"#;
    fs::write(&path, format!("[{row}]")).unwrap();
    let (_, found) = file::read(&path).unwrap().unwrap();
    assert_eq!(
        ids(&found),
        ["llama-bench/qwen3 0.6B Q8_0/CPU/tg128_t4_d512"]
    );
    fs::write(&path, format!("[{row},{row}]")).unwrap();
    assert!(matches!(file::read(&path), Err(AdapterError::Twice { .. })));
}

#[test]
fn damage_is_an_error_and_strangers_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let outcome = |text: &str| {
        fs::write(&path, text).unwrap();
        file::read(&path)
    };
    for stranger in [
        "",
        "[]",
        "{}",
        "null",
        "{\"schema\":1,\"machine_key\":\"a\"}\n",
        "no JSON",
        "[[[[",
    ] {
        assert!(outcome(stranger).unwrap().is_none(), "{stranger}");
    }
    for (text, place) in [
        (
            "{\"results\":[{\"command\":\"x\",\"times\":[]}]}",
            "no sample",
        ),
        (
            "{\"results\":[{\"command\":\"x\",\"times\":[-1]}]}",
            "times",
        ),
        (
            "{\"results\":[{\"command\":\"x\",\"times\":[1e300]}]}",
            "times",
        ),
        ("{\"results\":[{\"command\":\"\",\"times\":[1]}]}", "empty"),
        ("{\"results\":[{\"command\":\"x\"}]}", "times"),
        ("{\"results\":7}", "line 1"),
        (
            "{\"context\":{},\"benchmarks\":[{\"name\":\"x\",\"iterations\":0,\"real_time\":1}]}",
            "no iteration",
        ),
        (
            "{\"context\":{},\"benchmarks\":[{\"name\":\"x\",\"iterations\":1}]}",
            "real_time",
        ),
        (
            "{\"context\":{},\"benchmarks\":[{\"name\":\"x\",\"error_occurred\":true,\"error_message\":\"no disk\"}]}",
            "no disk",
        ),
        (
            "[{\"n_prompt\":1,\"n_gen\":0,\"model_type\":\"m\"}]",
            "no sample",
        ),
        ("[{\"n_prompt\":1,\"n_gen\":0}]", "model_type"),
    ] {
        let error = outcome(text).unwrap_err().to_string();
        assert!(
            error.contains("x.json") && error.contains(place),
            "{text}: {error}"
        );
    }
    for whole in [
        "hyperfine.json",
        "google-benchmark.json",
        "llama-bench.json",
    ] {
        let whole = fs::read_to_string(fixture(whole)).unwrap();
        for length in (0..whole.len() - 2).step_by(211) {
            // Cut short it is nothing or an error, and never a part of the results.
            assert!(
                !matches!(outcome(&whole[..length]), Ok(Some(_))),
                "{length}"
            );
        }
    }
}

#[test]
fn foreign_files_are_recorded_compared_and_exported() {
    let repository = Repository::empty();
    let files = [
        "hyperfine.json",
        "google-benchmark.json",
        "llama-bench.json",
    ]
    .map(fixture);
    let files = files.each_ref().map(|path| path.to_str().unwrap());
    let (out, _) = repository.ends(
        0,
        &["record", "--from", files[0], files[1], files[2], "--all"],
    );
    assert!(out.contains("14 measurements of 14 benches"), "{out}");
    // The same figures on both sides: nothing can have become worse.
    repository.ends(0, &["compare", "baseline", files[1], "--all"]);
    let (_, error) = repository.ends(2, &["record", "--from", "Cargo.toml"]);
    assert!(error.contains("hyperfine"), "{error}");

    let export = |format: &str| {
        let (out, _) = repository.ends(
            0,
            &["export", "baseline", "-o", format, "--filter", "Sum/64"],
        );
        out
    };
    let bmf: Value = serde_json::from_str(&export("bmf")).unwrap();
    let latency = &bmf["Sum/64"]["latency"];
    let [low, value, high] =
        ["lower_value", "value", "upper_value"].map(|key| latency[key].as_f64().unwrap());
    assert!(low <= value && value <= high && low > 100.0, "{latency}");
    assert_eq!(bmf.as_object().unwrap().len(), 1);
    let list: Value = serde_json::from_str(&export("github-action-benchmark")).unwrap();
    assert_eq!(list[0]["name"], "Sum/64");
    assert_eq!(list[0]["unit"], "ns");
    assert_eq!(list[0]["value"].as_f64().unwrap(), value);
    let csv = export("csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[1].starts_with("\"Sum/64\",time,ns,"), "{csv}");
    assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
}
