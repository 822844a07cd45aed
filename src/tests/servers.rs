//! `tokgate prompts` against servers that do well, and against those that do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::tokgate;

/// What a server does with the n-th question, counted from 0, on this path; false ends the server.
type Behaviour = fn(usize, &str, &mut TcpStream) -> bool;

/// Serves on a port of its own until its behaviour ends it, or the test.
fn serve(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    thread::spawn(move || {
        let mut questions = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(path) = request(&stream) else {
                continue;
            };
            if path == "/v1/models" {
                let list = r#"{"data":[{"id":"tiny","owned_by":"llamacpp"}]}"#;
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{list}",
                    list.len()
                );
                continue;
            }
            if !behaviour(questions, &path, &mut stream) {
                return;
            }
            questions += 1;
        }
    });
    port
}

/// The path of a request that was asked as it should be, read to its end.
fn request(stream: &TcpStream) -> Option<String> {
    let (path, body) = read(stream)?;
    let asked_well =
        path == "/v1/models" || (body["stream"] == true && body["cache_prompt"] == false);
    asked_well.then_some(path)
}

/// The path of a request and its body, read to its end.
pub(super) fn read(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, serde_json::from_slice(&body).unwrap_or_default()))
}

pub(super) const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";

pub(super) fn chunk(stream: &mut TcpStream, text: &str) -> bool {
    write!(stream, "{:x}\r\n{text}\r\n", text.len()).is_ok()
}

fn healthy(stream: &mut TcpStream) {
    let _ = stream.write_all(HEAD.as_bytes());
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(2));
        chunk(
            stream,
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
        );
    }
    let end = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":11},\"timings\":\
        {\"prompt_n\":7,\"prompt_ms\":1.0,\"predicted_n\":11,\"predicted_ms\":20.0,\"predicted_per_second\":550.0}}\n\n\
        data: [DONE]\n\n";
    chunk(stream, end);
    chunk(stream, "");
}

/// Standard output as JSON, standard error, and the exit code.
fn prompts(port: &str, args: &[&str]) -> (Value, String, Option<i32>) {
    let base = [
        "prompts",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "-o",
        "json",
    ];
    let output = tokgate(&[&base[..], args].concat()).output().unwrap();
    (
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code(),
    )
}

#[test]
fn a_healthy_server_is_timed_and_the_results_are_kept() {
    let port = serve(|_, _, stream| {
        healthy(stream);
        true
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let path = path.to_str().unwrap();
    let (json, err, code) = prompts(&port, &["--runs", "2", "--output", path]);
    assert_eq!(code, Some(0), "{err}");
    let kept: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(kept, json);
    assert_eq!(
        (&json["schema"], &json["kind"]),
        (&1.into(), &"prompts".into())
    );
    assert_eq!(json["system_info"]["model"], "tiny");
    let keys: Vec<&String> = json["prompts"].as_object().unwrap().keys().collect();
    assert_eq!((keys.len(), keys[0].as_str()), (6, "memory_sequential"));
    for prompt in json["prompts"].as_object().unwrap().values() {
        let (results, stats) = (prompt["results"].as_array().unwrap(), &prompt["stats"]);
        assert_eq!((results.len(), &stats["success_rate"]), (2, &1.0.into()));
        assert_eq!(
            (&results[1]["tokens"], &results[1]["chunks"]),
            (&11.into(), &10.into())
        );
        for run in results {
            // Where this machine had no time to look meanwhile, the pieces came in one burst.
            let rate = &run["tokens_per_second"];
            assert!(rate.is_null() || rate.as_f64() > Some(0.0));
        }
        assert_eq!(stats["avg_server_tokens_per_second"], 550.0);
        assert!(results[0]["first_token_ms"].as_f64() < results[0]["total_ms"].as_f64());
    }
    let one = [
        "prompts",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--runs",
        "1",
        "--prompts",
        "cache_loops",
    ];
    let table = super::stdout(&one);
    assert!(
        table.contains("\ncache_loops ") && table.contains(" 100%\n"),
        "{table}"
    );
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    let (_, err, code) = prompts(&port, &["--prompts", "memory"]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("'memory' is no prompt; there are memory_sequential, "),
        "{err}"
    );
}

#[test]
fn a_server_without_chat_is_asked_for_completions() {
    let port = serve(|_, path, stream| {
        match path {
            "/v1/completions" => healthy(stream),
            _ => {
                let _ = stream.write_all(
                    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                );
            }
        }
        true
    });
    let (json, err, code) = prompts(&port, &["--runs", "1", "--prompts", "cache_loops"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(json["settings"]["api"], "/v1/completions");
}

#[test]
fn no_server_is_said_at_once() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (json, err, code) = prompts(&port.to_string(), &[]);
    assert_eq!((json, code), (Value::Null, Some(2)));
    assert!(
        err.contains("no connection") && err.contains("is the server running"),
        "{err}"
    );
    let output = tokgate(&["prompts", "--host", "a/b"]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("'a/b' is no address"), "{err}");
}

/// Kinds of the failures of `cache_loops`, in the order of the runs; null for a success.
fn kinds(json: &Value) -> Vec<Value> {
    let results = json["prompts"]["cache_loops"]["results"]
        .as_array()
        .unwrap();
    results
        .iter()
        .map(|run| run["error"]["kind"].clone())
        .collect()
}

#[test]
fn a_server_that_dies_midway_is_not_waited_for() {
    let port = serve(|question, _, stream| {
        // The warm-up and two runs.
        if question < 3 {
            healthy(stream);
            return true;
        }
        let _ = stream.write_all(HEAD.as_bytes());
        chunk(
            stream,
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
        );
        false
    });
    let (json, err, code) = prompts(&port, &["--runs", "8", "--prompts", "cache_loops"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("6 of 8 runs got no whole answer\n"), "{err}");
    let (dead, skipped) = ("no_connection", "not_tried");
    let wanted: [Value; 8] = [
        Value::Null,
        Value::Null,
        "died".into(),
        dead.into(),
        dead.into(),
        skipped.into(),
        skipped.into(),
        skipped.into(),
    ];
    assert_eq!(kinds(&json), wanted);
    let stats = &json["prompts"]["cache_loops"]["stats"];
    assert_eq!(
        (&stats["success_rate"], &stats["successes"]),
        (&0.25.into(), &2.into())
    );
    assert!(stats["avg_end_to_end_tokens_per_second"].is_f64());
}

#[test]
fn slow_wrong_and_endless_answers_fail_each_in_its_way() {
    let port = serve(|question, _, stream| {
        match question {
            0 => healthy(stream),
            1 => {
                // The head, and then nothing.
                let mut stream = stream.try_clone().unwrap();
                thread::spawn(move || {
                    let _ = stream.write_all(HEAD.as_bytes());
                    thread::sleep(Duration::from_secs(4));
                });
            }
            2 => {
                let page = "<!DOCTYPE html>\n<html>\n";
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
                    page.len()
                );
            }
            3 => {
                let _ = stream.write_all(HEAD.as_bytes());
                let text = "x".repeat(1 << 19);
                let event = format!("data: {{\"choices\":[{{\"text\":\"{text}\"}}]}}\n\n");
                while chunk(stream, &event) {}
            }
            4 => {
                let error = r#"{"error":{"message":"out of memory"}}"#;
                let _ = write!(
                    stream,
                    "HTTP/1.1 500 Oh\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{error}",
                    error.len()
                );
            }
            _ => {
                let _ = stream.write_all(b"HTTP/1.1 what is this\r\n\r\n");
            }
        }
        true
    });
    let args = ["--runs", "5", "--prompts", "cache_loops", "--timeout", "2"];
    let (json, err, code) = prompts(&port, &args);
    assert_eq!(code, Some(2), "{err}");
    let kinds = kinds(&json);
    assert_eq!(kinds[..2], ["timeout", "garbage"], "{err}");
    // A slow machine may run out of time before the limit.
    assert!(
        ["too_long", "timeout"].contains(&kinds[2].as_str().unwrap()),
        "{err}"
    );
    assert_eq!(kinds[3..], ["status", "garbage"], "{err}");
    assert!(
        err.contains("HTTP 500: out of memory") && err.contains("no token within 2 s"),
        "{err}"
    );
    assert!(
        err.contains("of them for lack of time: raise --timeout"),
        "{err}"
    );
    assert_eq!(json["summary"]["success_rate"], 0.0);
    assert_eq!(
        json["prompts"]["cache_loops"]["stats"]["avg_tokens_per_second"],
        Value::Null
    );
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_keeps_what_was_measured() {
    let port = serve(|question, _, stream| {
        if question < 3 {
            healthy(stream);
        } else {
            let stream = stream.try_clone().unwrap();
            thread::spawn(move || {
                thread::sleep(Duration::from_secs(20));
                drop(stream);
            });
        }
        true
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let child = std::process::Command::new(assert_cmd::cargo::cargo_bin("tokgate"))
        .args([
            "prompts",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--prompts",
            "cache_loops",
        ])
        .args(["--timeout", "60", "--output", path.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The third run hangs; the interrupt comes at some time, and whatever was measured by then is kept.
    thread::sleep(Duration::from_secs(2));
    let err = interrupted(child);
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(json["settings"]["interrupted"], true);
    let runs = json["summary"]["runs"].as_u64().unwrap();
    assert!(
        runs <= 2 && err.contains(&format!("interrupted after {runs} of 5 runs")),
        "{err}"
    );
}

/// Sends SIGINT to a program that is measuring; what it says on standard error, once it has ended with 2.
#[cfg(target_os = "linux")]
pub fn interrupted(child: std::process::Child) -> String {
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{err}");
    err
}
