//! `tokgate load` against servers that do well, and against those that do not.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::servers::{HEAD, chunk, interrupted, read};
use super::tokgate;

/// What a server does with the n-th question, counted from 0; false ends the server.
type Behaviour = fn(usize, &Value, &mut TcpStream) -> bool;

const KEEP: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// Serves on a port of its own, each connection on a thread, until the test ends. Gives its URL.
fn serve(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let questions = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, questions) = (stream.unwrap(), Arc::clone(&questions));
            thread::spawn(move || {
                while let Some((path, body)) = read(&stream) {
                    let goes_on = match path.as_str() {
                        "/v1/models" => whole(&mut stream, &json!({"data": [{"id": "tiny"}]})),
                        "/tokenize" => {
                            let text = body["prompt"].as_str().unwrap_or_default();
                            let tokens: Vec<usize> = text.split(' ').map(str::len).collect();
                            whole(&mut stream, &json!({"tokens": tokens}))
                        }
                        "/metrics" => {
                            let _ =
                                stream.write_all(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n");
                            true
                        }
                        _ => {
                            behaviour(questions.fetch_add(1, Ordering::SeqCst), &body, &mut stream)
                        }
                    };
                    if !goes_on {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn whole(stream: &mut TcpStream, json: &Value) -> bool {
    let text = json.to_string();
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}"
    )
    .is_ok()
}

/// Three pieces for the tokens that were asked for, and the connection stays.
fn healthy(body: &Value, stream: &mut TcpStream) -> bool {
    let prompt = match body["messages"][0]["content"].as_str() {
        Some(text) => text,
        None => body["prompt"].as_str().unwrap_or_default(),
    };
    let usage = json!({
        "prompt_tokens": prompt.split(' ').count(),
        "completion_tokens": body["max_tokens"],
    });
    let _ = stream.write_all(KEEP.as_bytes());
    for text in ["a", "b", "c"] {
        thread::sleep(Duration::from_millis(1));
        let event = json!({"choices": [{"text": text, "delta": {"content": text}}]});
        chunk(stream, &format!("data: {event}\n\n"));
    }
    let last = json!({"choices": [], "usage": usage});
    chunk(stream, &format!("data: {last}\n\ndata: [DONE]\n\n")) && chunk(stream, "")
}

/// Standard output, standard error, and the exit code.
fn load(url: &str, args: &[&str]) -> (String, String, Option<i32>) {
    let base = ["load", "--url", url];
    let output = tokgate(&[&base[..], args].concat())
        .env_remove("OPENAI_API_KEY")
        .output()
        .unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code(),
    )
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The keys of vLLM's result, in its order.
const KEYS: [&str; 44] = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
    "mean_ttft_ms",
    "median_ttft_ms",
    "std_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "median_tpot_ms",
    "std_tpot_ms",
    "p99_tpot_ms",
    "mean_itl_ms",
    "median_itl_ms",
    "std_itl_ms",
    "p99_itl_ms",
    "tokgate",
];

#[test]
fn a_load_is_told_as_vllm_tells_it_and_can_be_compared() {
    let url = serve(|_, body, stream| {
        let asked_well = body["model"] == "tiny" && body["stream"] == true;
        asked_well && body["ignore_eos"] == true && healthy(body, stream)
    });
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let args = "--num-prompts 12 --max-concurrency 4 --random-input-len 20 --random-output-len 6";
    let args: Vec<&str> = args.split(' ').collect();
    let (a, b) = (path("a.json"), path("b.json"));
    let (out, err, code) = load(&url, &[&args[..], &["-o", "json", "--result", &a]].concat());
    assert_eq!(code, Some(0), "{err}");
    let json = json_of(&out);
    assert_eq!(json, json_of(&std::fs::read_to_string(&a).unwrap()));
    let keys: Vec<&str> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, KEYS);
    assert_eq!(
        (&json["completed"], &json["failed"]),
        (&12.into(), &0.into())
    );
    assert_eq!(json["total_input_tokens"], 240);
    assert_eq!(json["total_output_tokens"], 72);
    assert_eq!(json["request_rate"], "inf");
    assert_eq!(json["generated_texts"][11], "abc");
    assert_eq!(json["itls"][11].as_array().unwrap().len(), 2);
    assert_eq!(json["tokgate"]["itl_per_token_ms"]["count"], 60);
    assert!(json["max_concurrent_requests"].as_u64() <= Some(4));

    let (out, err, code) = load(&url, &[&args[..], &["--result", &b]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.starts_with("============ Serving Benchmark Result ============\n"),
        "{out}"
    );
    let row = format!("{:<40} {:<10}\n", "Total generated tokens:", 72);
    assert!(
        out.contains(&row) && out.contains("! a piece has 2.00 tokens"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let sides = super::stdout(&["compare", &a, &b, "-o", "json"]);
    let rows = json_of(&sides)["rows"].clone();
    let rows = rows.as_array().unwrap();
    let tokens = rows
        .iter()
        .find(|row| row["metric"] == "Total generated tokens");
    assert_eq!(tokens.unwrap()["cells"][1]["difference_pct"], 0.0);
}

#[test]
fn requests_that_arrive_on_their_own_are_chats_with_limits() {
    let url = serve(|_, body, stream| {
        body["messages"][0]["role"] == "user" && body["extra"] == 1 && healthy(body, stream)
    });
    let args = "--backend openai-chat --dataset sort --num-prompts 20 --request-rate 400 --burstiness 0.5 \
        --goodput ttft:60000 tpot:0 --percentile-metrics e2el,client_queue_time --metric-percentiles 50,99.9 -o json";
    let args: Vec<&str> = args.split_whitespace().collect();
    let (out, err, code) = load(
        &url,
        &[&args[..], &["--extra-body", r#"{"extra":1}"#]].concat(),
    );
    assert_eq!(code, Some(0), "{err}");
    let json = json_of(&out);
    assert_eq!(
        (&json["completed"], &json["burstiness"]),
        (&20.into(), &0.5.into())
    );
    assert_eq!(json["request_goodput"], 0.0);
    assert!(json["p99.9_e2el_ms"].as_f64() > json["p50_e2el_ms"].as_f64());
    assert!(json["mean_client_queue_time_ms"].is_f64() && json["mean_ttft_ms"].is_null());
}

#[test]
fn conversations_of_a_file_are_sampled_with_the_servers_tokens() {
    let url = serve(|_, body, stream| healthy(body, stream));
    let words = |count| vec!["w"; count].join(" ");
    let entries: Vec<Value> = (0..12)
        .map(|i| json!({"conversations": [{"value": words(3 + i)}, {"value": words(2 + 5 * i % 7)}]}))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.json");
    std::fs::write(&file, serde_json::to_vec(&entries).unwrap()).unwrap();
    let set = format!("sharegpt:{}", file.display());
    let args = [
        "--dataset",
        &set,
        "--num-prompts",
        "5",
        "--max-concurrency",
        "1",
        "-o",
        "json",
        "--seed",
        "1",
    ];
    let (out, err, code) = load(&url, &args);
    assert_eq!(code, Some(0), "{err}");
    let json = json_of(&out);
    // By CPython 3.11.
    assert_eq!(json["input_lens"], json!([14, 11, 8, 9, 7]));
    assert_eq!(json["tokenizer_id"], "the server's /tokenize");
    std::fs::write(&file, "{}").unwrap();
    let (_, err, code) = load(&url, &args);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("cannot sample") && err.contains("no ShareGPT file"),
        "{err}"
    );
}

#[test]
fn answers_that_do_not_come_whole_are_counted_and_told() {
    let url = serve(|question, body, stream| {
        match question {
            1 => {
                let _ = stream.write_all(HEAD.as_bytes());
                chunk(stream, "data: {\"choices\":[{\"text\":\"x\"}]}\n\n");
            }
            2 => {
                let error = r#"{"error":{"message":"out of memory"}}"#;
                let _ = write!(
                    stream,
                    "HTTP/1.1 500 Oh\r\ncontent-length: {}\r\n\r\n{error}",
                    error.len()
                );
            }
            3 => {
                let _ = stream.write_all(b"<html>\r\n\r\n");
            }
            4 => {
                let _ = stream.write_all(HEAD.as_bytes());
                while chunk(stream, "data: {\"choices\":[{\"text\":\"x\"}]}\n\n") {}
            }
            5 => {
                let _ = stream.write_all(HEAD.as_bytes());
                while chunk(stream, &"data: ".repeat(1000)) {}
            }
            6 => thread::sleep(Duration::from_secs(4)),
            _ => return healthy(body, stream),
        }
        false
    });
    let args = "--dataset prompts --num-prompts 9 --max-concurrency 1 --timeout 2 -o json";
    let args: Vec<&str> = args.split(' ').collect();
    let (out, err, code) = load(&url, &args);
    assert_eq!(code, Some(2));
    let json = json_of(&out);
    assert_eq!(
        (&json["completed"], &json["failed"]),
        (&3.into(), &6.into()),
        "{out}"
    );
    assert!(err.contains("6 of 9 requests were not answered"), "{err}");
    let errors: Vec<&str> = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.as_str().unwrap())
        .collect();
    let wanted = [
        "the connection ended after 1 pieces",
        "HTTP 500: out of memory",
        "<html>",
        "more than was asked for",
        "",
        "no token within 2 s",
        "",
        "",
        "",
    ];
    for (error, wanted) in errors.iter().zip(wanted) {
        assert!(error.contains(wanted), "{error}: {wanted}");
    }
    assert!(!errors[4].is_empty() && errors[6..].iter().all(|error| error.is_empty()));
    assert_eq!(json["tokgate"]["doubts"][0]["kind"], "failed");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (out, err, code) = load(&format!("http://{free}"), &[]);
    assert_eq!((out.as_str(), code), ("", Some(2)));
    assert!(err.contains("no connection: refused"), "{err}");
    let (_, err, code) = load("https://localhost", &[]);
    assert!(code == Some(2) && err.contains("http://HOST:PORT"), "{err}");
    let refuses = serve(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n");
        true
    });
    let (_, err, code) = load(&refuses, &["--num-prompts", "3"]);
    assert!(
        code == Some(2) && err.contains("no request to warm up was answered: HTTP 404"),
        "{err}"
    );
    let (_, err, code) = load(&refuses, &["--dataset", "other"]);
    assert!(
        code == Some(2) && err.contains("sharegpt:FILE, random"),
        "{err}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_keeps_what_was_measured() {
    let url = serve(|question, body, stream| {
        if question < 4 {
            return healthy(body, stream);
        }
        thread::sleep(Duration::from_secs(30));
        false
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let child = std::process::Command::new(assert_cmd::cargo::cargo_bin("tokgate"))
        .args([
            "load",
            "--url",
            &url,
            "--num-prompts",
            "9",
            "--max-concurrency",
            "2",
        ])
        .args(["--result", path.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The fourth and the fifth request hang; whatever was measured when the interrupt comes is kept.
    thread::sleep(Duration::from_secs(2));
    let err = interrupted(child);
    // A machine that was too busy to begin within the wait was interrupted before it measured.
    if Path::new(&path).exists() {
        let json = json_of(&std::fs::read_to_string(&path).unwrap());
        assert_eq!(json["tokgate"]["interrupted"], true);
        let sent = json["tokgate"]["sent"].as_u64().unwrap();
        assert!(
            sent <= 3 && err.contains(&format!("interrupted after {sent} of 9")),
            "{err}"
        );
    }
}
