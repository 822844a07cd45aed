//! The server as clients meet it: the program is started on a small trained model and asked over HTTP.

mod endurance;
mod server;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::{Value, json};

use server::{Server, events, model};

const PROMPT: &str = "<|im_start|>user\nSort: 5 3 8 1<|im_end|>\n<|im_start|>assistant\n";

/// What `tokgate run` says to a prompt.
fn run(prompt: &str, tokens: usize) -> String {
    let tokens = tokens.to_string();
    let model = model();
    let arguments = [
        "run",
        "-m",
        model.to_str().unwrap(),
        "-p",
        prompt,
        "-n",
        &tokens,
        "--temp",
        "0",
        "--ignore-eos",
        "-t",
        "1",
    ];
    let assert = Command::cargo_bin("tokgate")
        .unwrap()
        .args(arguments)
        .assert()
        .success();
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

fn greedy(prompt: &str, tokens: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true})
}

#[test]
fn many_at_a_time_get_what_each_would_get_alone() {
    // Fewer slots than requests, passes smaller than prompts, and guesses: none of it may change a token.
    let plain = Server::start(&["--parallel", "3", "--ubatch-size", "7"]);
    let guessing = Server::start(&["--parallel", "2", "--look-up", "8"]);
    let numbers = ["5 3 8 1", "9 9 2", "4 4 4 4 4 4", "1 2 3", "7 0 7 0", "3"];
    let prompts: Vec<String> = numbers
        .iter()
        .map(|numbers| PROMPT.replace("5 3 8 1", numbers))
        .collect();
    let expected: Vec<String> = prompts.iter().map(|prompt| run(prompt, 40)).collect();
    for server in [&plain, &guessing] {
        for _ in 0..2 {
            thread::scope(|scope| {
                for (prompt, expected) in prompts.iter().zip(&expected) {
                    scope.spawn(move || {
                        let answer = server.post("/v1/completions", &greedy(prompt, 40)).json();
                        assert_eq!(answer["choices"][0]["text"], expected.as_str());
                        assert_eq!(answer["usage"]["completion_tokens"], 40);
                    });
                }
            });
        }
    }
    let metrics = plain.get("/metrics").body;
    assert!(
        metrics.contains("vllm:num_requests_running 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("tokgate:requests_finished_total 12\n"),
        "{metrics}"
    );
    until_a_guess_is_right(&guessing, &greedy(&prompts[2], 40));
}

/// Random weights, whose likeliest tokens are often as likely but for rounding; probabilities are told, so that a last
/// bit of a logit shows.
#[test]
fn batch_invariant_answers_are_those_of_a_lone_request_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesised(&folder);
    let apart = &["--batch-invariant", "--ubatch-size", "7"][..];
    let start = |options| Server::with_model(&model, &[apart, options].concat());
    let alone = start(&["--parallel", "1"]);
    let busy = start(&["--parallel", "3", "--look-up", "8"]);
    let asks = ["5 3 8 1", "9 9 2", "4 4 4 4 4 4", "1 2 3", "7 0 7 0", "3"].map(|numbers| {
        let mut ask = greedy(&PROMPT.replace("5 3 8 1", numbers), 40);
        ask["logprobs"] = 3.into();
        ask
    });
    let expected = asks
        .each_ref()
        .map(|ask| alone.post("/v1/completions", ask).json()["choices"].clone());
    assert!(expected[0][0]["logprobs"]["token_logprobs"][9].is_f64());
    for _ in 0..3 {
        thread::scope(|scope| {
            for (ask, expected) in asks.iter().zip(&expected) {
                let busy = &busy;
                scope.spawn(move || {
                    let answer = busy.post("/v1/completions", ask).json();
                    assert_eq!(answer["choices"], *expected);
                });
            }
        });
    }
    until_a_guess_is_right(&busy, &asks[2]);
    // Beginnings of earlier prompts served later ones.
    assert!(metric(&busy, "vllm:prefix_cache_hits_total") > 0.0);
}

/// A figure of the metrics.
fn metric(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics").body;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .parse()
        .unwrap()
}

const DRAFTED: &str = "vllm:spec_decode_num_draft_tokens_total";
const ACCEPTED: &str = "vllm:spec_decode_num_accepted_tokens_total";

/// How much is guessed depends on what passes took: a slow moment at the beginning forbids guesses for some hundred
/// tokens.
fn until_a_guess_is_right(server: &Server, ask: &Value) {
    let mut more = 0;
    while metric(server, ACCEPTED) == 0.0 {
        assert!(more < 200, "no guess was ever right");
        server.post("/v1/completions", ask).json();
        more += 1;
    }
}

#[test]
fn a_draft_model_changes_no_token() {
    let other = unrelated();
    let model = model();
    let plain = Server::start(&[]);
    let same = ["--draft", model.to_str().unwrap(), "--draft-p-min", "0"];
    let same = Server::start(&same);
    let other = [
        "--draft",
        other.path().to_str().unwrap(),
        "--draft-p-min",
        "0",
    ];
    let other = Server::start(&[&other[..], &["--parallel", "1"]].concat());
    let mut ask = greedy("", 40);
    for (seed, numbers) in ["5 3 8 1", "9 9 2", "4 4 4 4", "1 2 3", "7 0 7", "3", "6 6"]
        .into_iter()
        .enumerate()
    {
        ask["prompt"] = PROMPT.replace("5 3 8 1", numbers).into();
        ask["seed"] = seed.into();
        // Greedy, and drawn: draw for draw the same.
        for temperature in [0.0, 1.0] {
            ask["temperature"] = temperature.into();
            let expected = plain.post("/v1/completions", &ask).json();
            for server in [&same, &other] {
                let answer = server.post("/v1/completions", &ask).json();
                assert_eq!(answer["choices"], expected["choices"]);
            }
        }
    }
    ask["temperature"] = 0.into();
    let answer = same.post("/v1/completions", &ask).json();
    let timings = &answer["timings"];
    if timings["draft_n"].is_u64() {
        assert_eq!(timings["draft_n"], timings["draft_n_accepted"], "{timings}");
        assert_eq!(timings["draft_acceptance_rate"], 1.0);
    }
    // Whoever guesses by the same model is right wherever nothing is drawn by chance.
    let rate = |server: &Server| metric(server, ACCEPTED) / metric(server, DRAFTED);
    assert!(rate(&same) > 0.5, "{}", rate(&same));
    assert!(rate(&other) < 0.2, "{}", rate(&other));
    assert!(metric(&same, "tokgate:draft_acceptance_length") > 1.5);
}

/// Of a text that runs alone, on random weights, whose likeliest tokens are often as likely but for rounding.
#[test]
fn guesses_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthesised(&folder);
    let plain = Server::with_model(&model, &["--parallel", "1"]);
    let path = model.to_str().unwrap();
    let drafted = &["--draft", path, "--draft-p-min", "0"][..];
    let guessing = [&["--look-up", "8"][..], drafted].map(|guess| {
        let one = &["--parallel", "1"][..];
        Server::with_model(&model, &[one, guess].concat())
    });
    for numbers in ["5 3 8 1", "9 9 2", "4 4 4 4 4 4", "1 2 3", "7 0 7 0", "3"] {
        let mut ask = greedy(&PROMPT.replace("5 3 8 1", numbers), 120);
        ask["logprobs"] = 2.into();
        let expected = plain.post("/v1/completions", &ask).json();
        for server in &guessing {
            let answer = server.post("/v1/completions", &ask).json();
            assert_eq!(answer["choices"], expected["choices"]);
        }
    }
    for server in &guessing {
        until_a_guess_is_right(
            server,
            &greedy(&PROMPT.replace("5 3 8 1", "4 4 4 4 4 4"), 120),
        );
    }
}

/// A model with the same vocabulary as the trained one that has nothing else in common with it: signs of its weights
/// are flipped.
fn unrelated() -> tempfile::NamedTempFile {
    let mut bytes = std::fs::read(model()).unwrap();
    // The upper byte of every third weight; tensors begin at even places, and all of them behind a third of the file.
    let from = bytes.len() / 3;
    for at in (from..bytes.len()).filter(|at| at % 6 == 1) {
        bytes[at] ^= 0x80;
    }
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// A model of random weights.
fn synthesised(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("tiny.gguf");
    let synth = ["synth", "--preset", "tiny-dense", path.to_str().unwrap()];
    Command::cargo_bin("tokgate")
        .unwrap()
        .args(synth)
        .assert()
        .success();
    path
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let draft = synthesised(&folder);
    let draft = draft.to_str().unwrap();
    let model = model();
    let serve = [
        "serve",
        "-m",
        model.to_str().unwrap(),
        "--port",
        "0",
        "--draft",
        draft,
    ];
    let assert = Command::cargo_bin("tokgate")
        .unwrap()
        .args(serve)
        .assert()
        .code(2);
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        said.contains("take a draft model of the same family"),
        "{said}"
    );
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let server = Server::start(&[]);
    let mut ask = json!({
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Sort: 5 3 8 1"}]}],
        "max_tokens": 24, "temperature": 0, "ignore_eos": true, "logprobs": true, "top_logprobs": 2,
    });
    let whole = server.post("/v1/chat/completions", &ask).json();
    ask["stream"] = true.into();
    ask["stream_options"] = json!({"include_usage": true});
    let streamed = server.post("/v1/chat/completions", &ask);
    assert_eq!(
        streamed.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let events = events(&streamed.body);
    let mut text = String::new();
    for (at, event) in events.iter().enumerate() {
        let Some(choice) = event["choices"].get(0) else {
            continue;
        };
        // The role comes with the first token and never again.
        assert_eq!(choice["delta"].get("role").is_some(), at == 0, "{event}");
        text += choice["delta"]["content"].as_str().unwrap();
        assert!(
            choice["logprobs"]["content"][0]["logprob"]
                .as_f64()
                .unwrap()
                <= 0.0
        );
    }
    assert_eq!(whole["choices"][0]["message"]["content"], text.as_str());
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(text, run(PROMPT, 24));
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 24);
    // The first request left the prompt in a slot; all but its last token was found there.
    let prompt = last["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        last["usage"]["prompt_tokens_details"]["cached_tokens"],
        prompt - 1
    );
    let row = &whole["choices"][0]["logprobs"]["content"][0];
    assert_eq!(row["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(row["top_logprobs"][0]["token"], row["token"]);

    let seeded = json!({"prompt": PROMPT, "max_tokens": 16, "temperature": 1.5, "seed": 7, "ignore_eos": true});
    let first = server.post("/v1/completions", &seeded).json();
    let second = server.post("/v1/completions", &seeded).json();
    assert_eq!(first["choices"], second["choices"]);

    // Offsets count characters, of which some have more than one byte where all tokens are as likely.
    let wild = json!({"prompt": PROMPT, "max_tokens": 40, "temperature": 100, "seed": 7, "ignore_eos": true, "logprobs": 0});
    let wild = server.post("/v1/completions", &wild).json();
    let told = &wild["choices"][0]["logprobs"];
    let mut at = 0;
    for (token, offset) in told["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .zip(told["text_offset"].as_array().unwrap())
    {
        assert_eq!(offset, at, "{told}");
        at += token.as_str().unwrap().chars().count();
    }
    assert!(!told["tokens"].to_string().is_ascii(), "{told}");
}

#[test]
fn an_answer_ends_at_a_stop_string_or_at_the_end_of_the_text() {
    let server = Server::start(&[]);
    let text = run(PROMPT, 24);
    let stop: String = text.chars().skip(3).take(2).collect();
    let mut ask = greedy(PROMPT, 24);
    ask["stop"] = json!([stop]);
    let answer = server.post("/v1/completions", &ask).json();
    let before = text.split(stop.as_str()).next().unwrap();
    assert_eq!(answer["choices"][0]["text"], before);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    let mut ask = greedy(PROMPT, 200);
    ask["ignore_eos"] = false.into();
    let answer = server.post("/v1/completions", &ask).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
}

#[test]
fn tokens_and_texts_turn_into_each_other() {
    let server = Server::start(&[]);
    let tokens = server.post("/tokenize", &json!({"prompt": PROMPT})).json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let text = server
        .post("/detokenize", &json!({"tokens": tokens["tokens"]}))
        .json();
    assert_eq!(text["prompt"], PROMPT);
    // Clients that know vLLM's name of the text and llama.cpp's send both.
    for (code, content) in [(200, PROMPT), (400, "another text")] {
        let both = json!({"prompt": PROMPT, "content": content});
        let answer = server.post("/tokenize", &both);
        assert_eq!(answer.code, code, "{}", answer.body);
        assert!(code == 400 || answer.json()["tokens"] == tokens["tokens"]);
    }
    let by_text = server.post("/v1/completions", &greedy(PROMPT, 8)).json();
    let mut ask = greedy("", 8);
    ask["prompt"] = tokens["tokens"].clone();
    ask["model"] = "sort-dense".into();
    let by_tokens = server.post("/v1/completions", &ask).json();
    assert_eq!(by_text["choices"], by_tokens["choices"]);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "sort-dense");
    assert_eq!(models["data"][0]["root"], "sort-dense");
    let model = server.get("/v1/models/sort-dense").json();
    assert_eq!(model, models["data"][0]);
    let other = server.get("/v1/models/another/one");
    assert_eq!(other.code, 404);
    assert!(
        other.body.contains("the one here is 'sort-dense'"),
        "{}",
        other.body
    );
}

#[test]
fn what_is_not_done_is_refused_and_not_left_out() {
    let server = Server::start(&[]);
    let ask = |more: &Value| {
        let mut ask = json!({
            "messages": [{"role": "user", "content": "Sort: 5 3 8 1"}], "max_tokens": 4, "temperature": 0,
        });
        let fields = more.as_object().unwrap().clone();
        ask.as_object_mut().unwrap().extend(fields);
        server.post("/v1/chat/completions", &ask)
    };
    let tools = json!([{"type": "function", "function": {"name": "sort"}}]);
    let called = json!([
        {"role": "user", "content": "Sort: 5 3 8 1"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function"}]},
    ]);
    for (name, more) in [
        ("tools", json!({"tools": tools})),
        ("tools", json!({"tools": tools, "tool_choice": "auto"})),
        ("tools", json!({"tool_choice": "required"})),
        ("tools", json!({"tool_choice": tools[0]})),
        ("functions", json!({"functions": [{"name": "sort"}]})),
        (
            "response_format",
            json!({"response_format": {"type": "json_object"}}),
        ),
        ("logit_bias", json!({"logit_bias": {"5": -100}})),
        ("frequency_penalty", json!({"frequency_penalty": 0.5})),
        ("presence_penalty", json!({"presence_penalty": -0.5})),
        ("suffix", json!({"suffix": "end"})),
        ("tool_calls", json!({"messages": called})),
    ] {
        let answer = ask(&more);
        assert_eq!(answer.code, 400, "{more}: {}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
    }
    // What changes nothing is what some clients always send.
    let plain = ask(&json!({})).json();
    for more in [
        json!({"tools": [], "tool_choice": "auto", "functions": null}),
        json!({"tools": tools, "tool_choice": "none"}),
        json!({"response_format": {"type": "text"}, "suffix": ""}),
        json!({"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}}),
    ] {
        assert_eq!(ask(&more).json()["choices"], plain["choices"], "{more}");
    }
}

#[test]
fn what_cannot_be_answered_is_refused_and_the_server_goes_on() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "secret\n").unwrap();
    let mut server = Server::start(&[
        "--api-key-file",
        keys.path().to_str().unwrap(),
        "--max-body",
        "2000",
        "--ctx-size",
        "64",
    ]);
    assert_eq!(server.post("/v1/completions", &greedy(PROMPT, 4)).code, 401);
    assert_eq!(server.get("/health").code, 200);
    server.key = Some("secret");
    let bad = [
        (400, json!({"prompt": ""})),
        (400, json!({"prompt": "1 ".repeat(200)})),
        (400, json!({"prompt": [4_000_000_000_u32]})),
        (400, json!({"prompt": PROMPT, "temperature": -1})),
        (400, json!({"prompt": PROMPT, "n": 2})),
        (404, json!({"prompt": PROMPT, "model": "gpt-4"})),
        (400, json!({"prompt": PROMPT, "max_tokens": 0})),
        (400, json!({"max_tokens": 5})),
        (400, json!([1])),
        (413, json!({"prompt": "1 ".repeat(2000)})),
    ];
    for (code, ask) in bad {
        let answer = server.post("/v1/completions", &ask);
        assert_eq!(answer.code, code, "{ask}: {}", answer.body);
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(
        server
            .post("/v1/chat/completions", &json!({"messages": []}))
            .code,
        400
    );
    assert_eq!(server.get("/nowhere").code, 404);
    assert_eq!(server.get("/v1/completions").code, 405);
    // More than fits is cut to what does.
    let answer = server
        .post("/v1/completions", &greedy(PROMPT, 1_000_000))
        .json();
    assert_eq!(answer["usage"]["total_tokens"], 64);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

/// Waits for a line of the metrics; a test that fails here found that it never comes.
fn wait_for(server: &Server, line: &str) {
    let started = Instant::now();
    while !server
        .get("/metrics")
        .body
        .lines()
        .any(|found| found == line)
    {
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "no '{line}' in {}",
            server.get("/metrics").body
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn whoever_goes_away_frees_the_slot_and_who_is_too_many_is_told() {
    let server = Server::start(&[
        "--parallel",
        "1",
        "--max-queue",
        "1",
        "--ctx-size",
        "100000",
    ]);
    let mut ask = greedy(PROMPT, 90_000);
    ask["stream"] = true.into();
    let mut first = server.send("/v1/completions", &ask);
    let mut some = [0; 64];
    first.read_exact(&mut some).unwrap();
    wait_for(&server, "vllm:num_requests_running 1");
    ask["stream"] = false.into();
    let second = server.send("/v1/completions", &ask);
    wait_for(&server, "vllm:num_requests_waiting 1");
    let refused = server.post("/v1/completions", &ask);
    assert_eq!(
        (refused.code, refused.header("retry-after")),
        (429, Some("1"))
    );
    // A stream that is dropped, and a request that waits for its whole answer: both are given up.
    drop(first);
    wait_for(&server, "tokgate:requests_cancelled_total 1");
    wait_for(&server, "vllm:num_requests_waiting 0");
    second.shutdown(Shutdown::Both).unwrap();
    drop(second);
    wait_for(&server, "tokgate:requests_cancelled_total 2");
    wait_for(&server, "vllm:num_requests_running 0");
    assert_eq!(server.post("/v1/completions", &greedy(PROMPT, 4)).code, 200);
}

#[test]
fn a_stop_finishes_what_runs() {
    let mut server = Server::start(&["--parallel", "1"]);
    let mut ask = greedy(PROMPT, 200);
    ask["stream"] = true.into();
    let mut stream = server.send("/v1/completions", &ask);
    let mut some = [0; 64];
    stream.read_exact(&mut some).unwrap();
    server.terminate();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]\n\n"), "{rest}");
    drop(stream);
    assert!(server.wait().success());
}

#[test]
fn malformed_requests_harm_nobody() {
    let server = Server::start(&[]);
    let junk: [&[u8]; 5] = [
        b"\0\0\0\0",
        b"GET",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{\"pro",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for bytes in junk {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(bytes).unwrap();
    }
    assert_eq!(server.post("/v1/completions", &greedy(PROMPT, 4)).code, 200);
}

#[test]
fn a_server_that_asks_itself_takes_turns() {
    let model = model();
    let line = [
        "serve",
        "--lockstep",
        "3",
        "--ctx-size",
        "64",
        "-t",
        "1",
        "-m",
    ];
    let told = |questions: &'static str| {
        let mut command = Command::cargo_bin("tokgate").unwrap();
        command.args(line).arg(&model).write_stdin(questions);
        command.assert()
    };
    let assert = told("\n\n").success();
    let said = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let hello: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(hello["lockstep"], 1);
    let id = hello["id"].as_str().unwrap();
    assert!(
        id.starts_with("serve/") && id.ends_with("_c3_p32_n32_t1"),
        "{id}"
    );
    assert!(lines[1..].iter().all(|ns| ns.parse::<u64>().unwrap() > 0));
    assert_eq!(lines.len(), 3, "{said}");
    // Three requests of 32 tokens a question, and all of them answered.
    let ended = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    let counted = "6 requests answered, 0 given up by their clients, 0 refused; 192 tokens";
    assert!(ended.contains(counted), "{ended}");

    let refused = told("what?\n").code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("an empty line"), "{said}");
}

#[test]
fn a_stream_that_takes_too_long_says_so_and_ends() {
    // More tokens than a second is enough for.
    let server = Server::start(&["--timeout", "1", "--ctx-size", "60000"]);
    let mut endless = greedy(PROMPT, 50_000);
    endless["stream"] = true.into();
    let answer = server.post("/v1/completions", &endless);
    assert_eq!(answer.code, 200);
    let events = events(&answer.body);
    let (last, others) = events.split_last().unwrap();
    let said = last["error"]["message"].as_str().unwrap();
    assert!(said.contains("time limit"), "{said}");
    assert!(!others.is_empty() && others.iter().all(|event| event["error"].is_null()));
    // Its slot serves the next one.
    let next = server.post("/v1/completions", &greedy(PROMPT, 8));
    assert_eq!(next.code, 200, "{}", next.body);
}
