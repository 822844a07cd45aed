//! What `tokgate history` reads out of git and writes into its page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::repository::{CLOCK, COMMITS, COUNTS, HOSTILE, Repository, SLOWED, SLOWED_AT, divided};

/// The data in a page, as the page's own script finds them.
fn data(page: &Path) -> Value {
    let text = fs::read_to_string(page).unwrap();
    serde_json::from_str(divided(&text)[1]).unwrap()
}

fn machine<'a>(data: &'a Value, key: &str) -> &'a Value {
    let machines = data["machines"].as_array().unwrap();
    machines
        .iter()
        .find(|machine| machine["key"] == key)
        .unwrap()
}

fn series<'a>(machine: &'a Value, id: &str) -> &'a Value {
    let series = machine["series"].as_array().unwrap();
    series.iter().find(|series| series["id"] == id).unwrap()
}

#[test]
fn the_page_has_every_commits_figures_and_the_change() {
    let repository = Repository::measured();
    let data = data(&repository.page());
    assert_eq!(data["commits"].as_array().unwrap().len(), COMMITS);
    assert_eq!(data["links"], Value::Null);
    let clock = machine(&data, CLOCK);
    assert_eq!(clock["commits"].as_array().unwrap().len(), COMMITS);
    assert_eq!(clock["series"].as_array().unwrap().len(), 5);
    assert_eq!(series(clock, HOSTILE)["changes"], Value::Null);

    let slowed = series(clock, SLOWED);
    let changes = slowed["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["at"], SLOWED_AT);
    assert_eq!(changes[0]["after"], SLOWED_AT - 1);
    assert_eq!(changes[0]["worse"], true);
    let delta = changes[0]["delta"].as_f64().unwrap();
    assert!((delta - 10.0).abs() < 0.5, "{delta}");
    let first = slowed["v"][0].as_f64().unwrap() * slowed["scale"].as_f64().unwrap();
    assert!((first / 1e6 - 1.0).abs() < 0.02, "{first}");

    let counts = series(machine(&data, COUNTS), SLOWED);
    assert_eq!(counts["v"][0], 5_000);
    assert_eq!(counts["changes"][0]["at"], SLOWED_AT);
    let delta = counts["changes"][0]["delta"].as_f64().unwrap();
    assert!((delta - 2.0).abs() < 1e-9, "{delta}");

    // What was merely carried on was not measured.
    let sometimes = series(clock, "sometimes")["v"].as_array().unwrap();
    for (at, value) in sometimes.iter().enumerate() {
        assert_eq!(value.is_null(), at % 3 != 0, "{at}");
    }
}

#[test]
fn a_part_of_the_history_does_not_claim_what_was_before_it() {
    let repository = Repository::measured();
    let root = repository.root().to_owned();
    repository.git(&["remote", "add", "origin", "git@github.com:owner/name.git"]);
    for arguments in [
        ["history", "--out", "part", "--limit", "2"],
        ["history", "--out", "part", "--since", "HEAD~2"],
    ] {
        repository.ends(0, &arguments);
        let data = data(&root.join("part/index.html"));
        assert_eq!(data["commits"].as_array().unwrap().len(), 2);
        assert_eq!(data["project"], "owner/name");
        assert_eq!(
            data["links"]["commit"],
            "https://github.com/owner/name/commit/"
        );
        let clock = machine(&data, CLOCK);
        // Commit 39 measured it, commit 38 carried on what 36 had measured.
        assert_eq!(series(clock, "sometimes")["v"][0], Value::Null);
        assert!(series(clock, "sometimes")["v"][1].is_u64());
    }
    let (_, error) = repository.ends(2, &["history", "--out", "none", "--as", "other"]);
    assert!(error.contains("tokgate record"), "{error}");
    assert!(!root.join("none").exists());
    repository.ends(
        2,
        &["history", "--out", "none", "--since", "no-such-revision"],
    );
}

#[test]
fn records_of_the_gate_fill_what_baselines_do_not_tell() {
    let repository = Repository::measured();
    let commit = |at: usize| {
        let revision = format!("HEAD~{}", COMMITS - 1 - at);
        repository.git(&["rev-parse", &revision]).trim().to_owned()
    };
    let run = |arm: &str, ns: u64| {
        format!(r#"{{"arm":"{arm}","link":0,"iters":1,"total_ns":[{ns},{ns}]}}"#)
    };
    let block = format!(
        "[{},{},{}]",
        run("base", 7_000),
        run("head", 8_000),
        run("head", 9_000)
    );
    let trial = format!(
        r#"{{"schema":1,"kind":"trial","seed":7,"budget_s":60.0,"started_at":"2026-10-01T12:00:00Z","finished_at":"2026-10-01T12:01:00Z",
        "machine":{{"key":"{CLOCK}","counts_key":"{COUNTS}","cpu":"Test CPU","cpus":2}},
        "build":{{"rustc":"rustc 1.95.0","target":"x","rustflags":"","profile":"bench"}},
        "base":{{"asked":"main","commit":"{}","dirty":false}},"head":{{"asked":"HEAD","commit":"{}","dirty":false}},
        "targets":[{{"package":"p","name":"t","harness":"criterion","code":"differs","links":[{{"arm":"base","text":"a"}},{{"arm":"head","text":"b"}}]}}],
        "benches":[{{"id":"sometimes","target":0,"in_base":true,"in_head":true,"blocks":[{{"round":0,"at_ms":5,"runs":{block}}}],"instructions":{{"head":[42]}}}}]}}"#,
        commit(9),
        commit(10)
    );
    let folder = repository.root().join("records");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one.json"), trial).unwrap();
    fs::write(folder.join("other.json"), "{\"schema\":1}").unwrap();
    fs::write(folder.join("notes.txt"), "").unwrap();
    repository.ends(0, &["history", "--out", "out", "--trial", "records"]);
    let data = data(&repository.root().join("out/index.html"));
    let sometimes = series(machine(&data, CLOCK), "sometimes");
    let scale = sometimes["scale"].as_f64().unwrap();
    // Commit 9 has a figure of its baseline; commit 10 had none.
    assert!((sometimes["v"][9].as_f64().unwrap() * scale / 7_000.0 - 1.0).abs() < 0.02);
    assert_eq!(
        (sometimes["v"][10].as_f64().unwrap() * scale).round(),
        8_500.0
    );
    assert_eq!(series(machine(&data, COUNTS), "sometimes")["v"][10], 42);
    repository.ends(
        2,
        &["history", "--out", "out", "--trial", "records/other.json"],
    );
}

#[test]
fn a_figure_stands_at_the_commit_that_was_measured() {
    let repository = Repository::empty();
    let mut stream = String::new();
    repository.commit(&mut stream, 0, "Code", &BTreeMap::new());
    repository.import(&stream);
    let code = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let path = format!("baselines/{CLOCK}/baseline.jsonl");
    let baseline = |commit: &str| {
        format!(
            "{{\"schema\":1,\"machine_key\":\"{CLOCK}\"}}\n{{\"run\":\"r\",\"measured_at\":\"2025-10-01T00:00:00Z\",\"witness\":\"bench\",\"harness\":\"criterion\",\"commit\":\"{commit}\",\"dirty\":false,\"rustc\":\"\",\"target\":\"\",\"rustflags\":\"\",\"profile\":\"\",\"cpu\":\"\",\"cpus\":1}}\n{{\"bench\":\"b\",\"run\":\"r\",\"iters\":1,\"total_ns\":[5]}}\n"
        )
    };
    let mut stream = format!("reset refs/heads/main\nfrom {code}\n\n");
    repository.commit(&mut stream, 1, "More code", &BTreeMap::new());
    repository.commit(
        &mut stream,
        2,
        "Keep baselines",
        &[(path.clone(), baseline(&code))].into(),
    );
    // A baseline of a later version, or a damaged one, takes nothing from the others.
    repository.commit(
        &mut stream,
        3,
        "Damage",
        &[(path.clone(), "{\"schema\":99}\n".to_owned())].into(),
    );
    repository.import(&stream);
    let (_, error) = repository.ends(0, &["history", "--out", "out"]);
    assert!(
        error.contains("cannot be read") && error.contains("99"),
        "{error}"
    );
    let data = data(&repository.root().join("out/index.html"));
    assert_eq!(data["commits"].as_array().unwrap().len(), 4);
    assert_eq!(machine(&data, CLOCK)["commits"], serde_json::json!([0]));
}
