use super::*;

fn read(text: &str) -> Results {
    Results::read(text).expect("a known format").unwrap()
}

fn value(results: &Results, name: &str) -> f64 {
    let figure = results.figures.iter().find(|figure| figure.name == name);
    figure
        .unwrap_or_else(|| panic!("no {name} in {results:#?}"))
        .value
}

#[test]
fn vllms_table_is_read_and_its_rates_are_unrounded() {
    let results = read(include_str!("../../tests/fixtures/serving/w7900.txt"));
    assert_eq!(
        (results.kind.as_str(), results.figures.len()),
        ("vLLM bench serve", 17)
    );
    assert_eq!(value(&results, "Memory Usage (GiB)"), 20.567);
    assert_eq!(
        value(&results, "Request throughput (req/s)"),
        50.0 / 1085.39
    );
    // "Total Token throughput" in the old table.
    let total = value(&results, "Total token throughput (tok/s)");
    assert_eq!(total, (5926.0 + 23110.0) / 1085.39);
    assert_eq!(value(&results, "P99 ITL (ms)"), 48.79);
    let itl = results.figures.last().unwrap();
    assert_eq!(
        (itl.name.as_str(), itl.better),
        ("P99 ITL (ms)", Some(Better::Lower))
    );

    // A rate that is not the quotient is left as it is: failed requests took time, too.
    let odd = "=== Serving Benchmark Result ===\nSuccessful requests: 50\nBenchmark duration (s): 100.0\n\
        Request throughput (req/s): 0.40\n====\nSuccessful requests: 7\n";
    let results = read(odd);
    assert_eq!(value(&results, "Request throughput (req/s)"), 0.4);
    assert_eq!(value(&results, "Successful requests"), 50.0);
}

#[test]
fn vllms_json_has_the_tables_names() {
    let json = read(include_str!("../../tests/fixtures/serving/vllm.json"));
    let table = read(include_str!("../../tests/fixtures/serving/w7900-draft.txt"));
    for figure in table
        .figures
        .iter()
        .filter(|figure| figure.name != "Memory Usage (GiB)")
    {
        let other = value(&json, &figure.name);
        assert!(
            (other - figure.value).abs() < 0.01,
            "{}: {other}",
            figure.name
        );
    }
    let mean = json
        .figures
        .iter()
        .find(|figure| figure.name == "Mean TTFT (ms)");
    assert_eq!(mean.unwrap().deviation, Some(101.5));
    assert!(
        json.figures
            .iter()
            .all(|figure| !figure.name.starts_with("Std"))
    );
}

#[test]
fn llama_benchs_formats_name_tests_alike() {
    let markdown = read(include_str!(
        "../../tests/fixtures/serving/llama-bench-w7900.md"
    ));
    let names: Vec<&str> = markdown.figures.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["pp512 (tok/s)", "tg128 (tok/s)"]);
    let first = &markdown.figures[0];
    assert_eq!((first.value, first.deviation), (663.44, Some(1.5)));
    // Two tables, one of which has a column more.
    let both = read(include_str!(
        "../../tests/fixtures/serving/llama-bench-rtx3090.md"
    ));
    let names: Vec<&str> = both.figures.iter().map(|f| f.name.as_str()).collect();
    let wanted = [
        "pp512 (tok/s)",
        "tg128 (tok/s)",
        "pp512 fa=1 (tok/s)",
        "tg128 fa=1 (tok/s)",
    ];
    assert_eq!(names, wanted);

    let row = |threads: u32, n_gen: u32| {
        format!(
            r#"{{"model_type": "m", "n_threads": {threads}, "n_prompt": 0, "n_gen": {n_gen}, "n_depth": 64,
            "avg_ts": 2.5, "stddev_ts": 9.0, "samples_ts": [2.0, 3.0]}}"#
        )
        .replace('\n', "")
    };
    let json = read(&format!("[{}, {}]", row(1, 8), row(2, 8)));
    let names: Vec<&str> = json.figures.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tg8 @ d64 n_threads=1 (tok/s)",
            "tg8 @ d64 n_threads=2 (tok/s)"
        ]
    );
    assert_eq!(json.figures[0].deviation, Some(0.5_f64.sqrt()));
    let lines = read(&format!("{}\n{}\n", row(1, 8), row(2, 8)));
    assert_eq!(lines, json);
}

#[test]
fn the_projects_own_files_are_read_by_what_they_say_of_themselves() {
    let figures = r#"{"schema": 1, "kind": "run", "model": "m", "seconds": 3, "figures": [
        {"key": "decode_rate", "value": 2.0, "unit": "tok/s", "better": "higher", "samples": [1.0, 3.0], "formula": "n"},
        {"key": "threads", "value": 4, "unit": "", "formula": ""}],
        "prompts": [{"key": "cache_loops", "figures": [{"key": "ttft", "value": 9.0, "unit": "ms", "better": "lower"}]}]}"#;
    let results = read(figures);
    let named: Vec<(&str, f64)> = results
        .figures
        .iter()
        .map(|f| (f.name.as_str(), f.value))
        .collect();
    let wanted = [
        ("decode_rate (tok/s)", 2.0),
        ("threads", 4.0),
        ("prompts cache_loops ttft (ms)", 9.0),
    ];
    assert_eq!(named, wanted);
    assert_eq!(results.figures[0].deviation, Some(2.0_f64.sqrt()));

    // Numbers are all there is in a file without named figures.
    let plain = read(
        r#"{"schema": 1, "kind": "inspect", "tensor_bytes": 7, "sizes": {"n_layer": 2}, "tensors": [{"name": "a", "bytes": 7}]}"#,
    );
    let names: Vec<&str> = plain.figures.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["tensor_bytes", "sizes n_layer", "tensors a bytes"]);

    // The format that `prompts` writes, from before it had a version.
    let prompts = r#"{"system_info": {"model": "m"}, "prompts": {"cache_loops": {"prompt_text": "x", "results": [],
        "stats": {"avg_tokens_per_second": 31.94, "success_rate": 1.0}}}, "summary": {"overall_avg_tokens_per_second": 31.95}}"#;
    let results = read(prompts);
    assert_eq!(value(&results, "cache_loops tok/s"), 31.94);
    assert_eq!(value(&results, "cache_loops success (%)"), 100.0);
    assert_eq!(value(&results, "overall tok/s"), 31.95);
}

#[test]
fn what_cannot_be_read_is_said_or_left_to_others() {
    let newer = Results::read(r#"{"schema": 2, "kind": "run", "figures": []}"#).unwrap();
    let text = newer.unwrap_err().to_string();
    assert!(
        text.starts_with("it is of version 2 of 'run' results, and this program reads version 1"),
        "{text}"
    );
    let empty = Results::read(r#"{"schema": 1, "kind": "run", "figures": []}"#).unwrap();
    assert_eq!(empty, Err(ResultsError::Nothing("run".to_owned())));
    for other in [
        "",
        "hello",
        "{}",
        "[]",
        "[1]",
        "{\"a\": 1}",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "{\"schema\": 1, \"kind\": \"comparison\", \"x\": 1}",
    ] {
        assert!(Results::read(other).is_none(), "{other}");
    }
    // A record of the baselines' store.
    assert!(Results::read("{\"schema\":1,\"machine_key\":\"a\"}\n{\"id\":\"matmul\"}\n").is_none());
}
