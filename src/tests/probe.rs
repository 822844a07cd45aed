//! `tokgate probe`, and what `tokgate bench` makes of limits and of other programs, as a user runs them. No test asserts
//! a time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn tokgate(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("tokgate").unwrap();
    command.args(args).env_remove("TOKGATE_LEVEL");
    command
}

fn stdout(args: &[&str]) -> String {
    let assert = tokgate(args).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr_of_failure(args: &[&str]) -> String {
    let assert = tokgate(args).assert().code(2);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn model(folder: &Path) -> String {
    let path = folder.join("tiny.gguf").display().to_string();
    stdout(&[
        "synth", "--preset", "tiny-moe", "--dtype", "q8_0", "--seed", "1", &path,
    ]);
    path
}

/// A program that takes llama-bench's arguments.
fn program(folder: &Path, script: &str) -> String {
    let path = folder.join("llama-bench");
    let mut file = fs::File::create(&path).unwrap();
    writeln!(file, "#!/bin/sh\n{script}").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn probe_prints_80_columns_json_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("roofline.svg").display().to_string();
    let small = ["probe", "--time", "0", "--size", "4M"];
    let text = stdout(&[&small[..], &["--svg", &svg]].concat());
    let wide = text.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "{text}");
    for part in ["machine", "caches", "memory, GB/s", "GMAC/s", "meanwhile"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("DRAM"), "{svg}");
    let json: Value = stdout(&[&small[..], &["-t", "1", "-o", "json"]].concat())
        .parse()
        .unwrap();
    assert_eq!(json["tokgate_probe"], 1);
    assert_eq!(json["memory"].as_array().unwrap().len(), 1);
    assert!(json["memory"][0]["read"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn probe_memory_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    let files = files.display().to_string();
    let log = folder.path().join("log.txt").display().to_string();
    let small = ["probe", "memory", "--size", "2M", "--processes", "1,3"];
    let text = stdout(&[&small[..], &["--dir", &files, "--log", &log]].concat());
    assert_eq!(text, fs::read_to_string(log).unwrap());
    let wide = text.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "{text}");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 0);
    let error = stderr_of_failure(&[
        "probe",
        "memory",
        "--size",
        "2M",
        "--dir",
        "/nowhere/at/all",
    ]);
    assert!(error.contains("/nowhere/at/all"), "{error}");
    stderr_of_failure(&["probe", "memory", "--size", "0"]);
}

#[test]
fn bench_tells_the_limit_unless_nobody_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path());
    let bench = [
        "bench", "-m", &path, "-p", "8", "-n", "4", "-r", "2", "-o", "json",
    ];
    let results: Value = stdout(&bench).parse().unwrap();
    let keys: Vec<&String> = results[0].as_object().unwrap().keys().collect();
    assert_eq!(keys[0], "build_commit");
    assert_eq!(
        keys[keys.len() - 4..],
        ["limit_resource", "limit_gbs", "limit_gmacs", "limit_pct"]
    );
    assert!(results[1]["limit_gbs"].as_f64().unwrap() > 0.0);
    let results: Value = stdout(&[&bench[..], &["--no-limit"]].concat())
        .parse()
        .unwrap();
    assert_eq!(results[0]["limit_gbs"], Value::Null);
}

#[test]
fn bench_runs_in_turn_with_another_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path());
    let calls = folder.path().join("calls").display().to_string();
    let stub = program(
        folder.path(),
        &format!(
            r#"echo "$@" >> {calls}
while [ $# -gt 0 ]; do case $1 in -p) p=$2;; -n) n=$2;; -t) t=$2;; esac; shift; done
echo "some line of a fork's own"
echo "[ {{\"build_commit\": \"abc\", \"build_number\": 7, \"n_prompt\": $p, \"n_gen\": $n, \"n_threads\": $t,"
echo "\"type_k\": \"f16\", \"avg_ts\": 5000}} ]""#
        ),
    );
    let bench = [
        "bench", "-m", &path, "-p", "8", "-n", "4", "-r", "1", "-t", "2",
    ];
    let with = [
        "--llama-bench",
        &stub,
        "--llama-bench-args",
        "-fa 1",
        "--pairs",
        "3",
    ];
    let text = stdout(&[&bench[..], &with[..]].concat());
    let wide = text
        .lines()
        .find(|line| line.chars().count() > 80 && line.starts_with('|'));
    assert_eq!(wide, None, "{text}");
    assert!(
        text.contains("| pp8 ") && text.contains("abc (7)"),
        "{text}"
    );
    let calls = fs::read_to_string(calls).unwrap();
    assert_eq!(calls.lines().count(), 6);
    assert!(
        calls
            .lines()
            .all(|call| call.ends_with("-fa 1") && call.contains("-t 2 ")),
        "{calls}"
    );
    let json: Value = stdout(&[&bench[..], &with[..], &["-o", "json"]].concat())
        .parse()
        .unwrap();
    let row = &json["rows"][1];
    assert_eq!(
        (&row["test"], row["pairs"].as_array().unwrap().len()),
        (&"tg4".into(), 3)
    );
    let ratio = row["ratio"].as_f64().unwrap();
    let (least, most) = (
        row["ratio_min"].as_f64().unwrap(),
        row["ratio_max"].as_f64().unwrap(),
    );
    assert!(0.0 < least && least <= ratio && ratio <= most);
}

#[test]
fn programs_that_are_no_llama_bench_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path());
    let with = |program: &str| {
        stderr_of_failure(&[
            "bench",
            "-m",
            &path,
            "-p",
            "8",
            "-n",
            "0",
            "-r",
            "1",
            "--llama-bench",
            program,
        ])
    };
    let error = with("/nowhere/at/all");
    assert!(error.contains("/nowhere/at/all is no file"), "{error}");
    let error = with(&program(folder.path(), "echo hello"));
    assert!(
        error.contains("did not print llama-bench's JSON"),
        "{error}"
    );
    let error = with(&program(folder.path(), "echo 'no such model' >&2; exit 3"));
    assert!(
        error.contains("no such model") && error.contains("exit status: 3"),
        "{error}"
    );
    let other = "echo '[{\"n_prompt\": 9, \"n_threads\": 1, \"avg_ts\": 1}]'";
    let error = with(&program(folder.path(), other));
    assert!(
        error.contains("asked for pp8") && error.contains("pp9 at 1 threads"),
        "{error}"
    );
    let error = stderr_of_failure(&["bench", "-m", &path, "--pairs", "2"]);
    assert!(error.contains("--llama-bench"), "{error}");
}
