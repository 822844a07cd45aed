//! Load that is held: many streams at a time, some of whose clients leave, read slowly, or send what is no request.
//!
//! It takes three seconds, or as many as `TOKGATE_ENDURANCE_SECONDS` says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::server::{Response, Server, events, model};
use super::{PROMPT, greedy, metric, wait_for};

const STREAMS: usize = 64;

/// What the server's memory may grow by after the first third, in KiB.
const GROWTH: u64 = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Good,
    Leaves,
    ReadsSlowly,
    TooLarge,
    Malformed,
    TooLong,
}

#[test]
fn a_load_of_all_kinds_is_held() {
    let seconds = std::env::var("TOKGATE_ENDURANCE_SECONDS");
    let seconds = seconds.map_or(3.0, |text| text.parse().expect("a number of seconds"));
    let time = Duration::from_secs_f64(seconds);
    let model = model();
    let options = ["--parallel", "8", "--look-up", "6", "--max-body", "100000"];
    let draft = ["--draft", model.to_str().unwrap()];
    let server = Server::start(&[&options[..], &draft].concat());
    let prompts: Vec<String> = ["5 3 8 1", "9 9 2", "4 4 4 4", "1 2 3", "7 0 7", "3"]
        .map(|numbers| PROMPT.replace("5 3 8 1", numbers))
        .to_vec();
    let answers: Vec<Value> = prompts
        .iter()
        .map(|prompt| server.post("/v1/completions", &greedy(prompt, 40)).json())
        .collect();
    let began = Instant::now();
    let (server, prompts, answers) = (&server, &prompts[..], &answers[..]);
    let (early, counts) = thread::scope(|scope| {
        let clients: Vec<_> = (0..STREAMS)
            .map(|seed| {
                scope.spawn(move || {
                    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
                    let mut rng = StdRng::seed_from_u64(seed as u64);
                    while began.elapsed() < time {
                        let at = rng.random_range(0..prompts.len());
                        let text = answers[at]["choices"][0]["text"].as_str().unwrap();
                        let kind = ask(server, &prompts[at], text, &mut rng);
                        *counts.entry(kind).or_default() += 1;
                    }
                    counts
                })
            })
            .collect();
        thread::sleep(time / 3);
        let early = server.memory();
        let mut all: BTreeMap<Kind, usize> = BTreeMap::new();
        for counts in clients.into_iter().map(|client| client.join().unwrap()) {
            for (kind, count) in counts {
                *all.entry(kind).or_default() += count;
            }
        }
        (early, all)
    });
    wait_for(server, "vllm:num_requests_running 0");
    wait_for(server, "vllm:num_requests_waiting 0");
    let late = server.memory();
    println!(
        "{counts:?} in {:.1} s; {:.0} passes, {:.0} tokens, {:.0} cancelled; {early} KiB after a third, {late} KiB at the end",
        began.elapsed().as_secs_f64(),
        metric(server, "tokgate:passes_total"),
        metric(server, "vllm:generation_tokens_total"),
        metric(server, "tokgate:requests_cancelled_total"),
    );
    assert!(counts.len() == 6 || seconds < 3.0, "{counts:?}");
    assert!(late < early + GROWTH, "{early} KiB became {late} KiB");
    assert_eq!(metric(server, "tokgate:requests_refused_total"), 0.0);
    // All slots are there, and good.
    thread::scope(|scope| {
        for (prompt, answer) in prompts.iter().cycle().zip(answers.iter().cycle()).take(8) {
            scope.spawn(move || {
                let again = server.post("/v1/completions", &greedy(prompt, 40)).json();
                assert_eq!(again["choices"], answer["choices"]);
            });
        }
    });
}

/// Sends a request of some kind; a good one must be answered by `text`.
fn ask(server: &Server, prompt: &str, text: &str, rng: &mut StdRng) -> Kind {
    let mut ask = greedy(prompt, 40);
    match rng.random_range(0..12) {
        0 => {
            ask["stream"] = true.into();
            let mut stream = server.send("/v1/completions", &ask);
            let mut some = vec![0; rng.random_range(0..600)];
            let _ = stream.read_exact(&mut some);
            Kind::Leaves
        }
        1 => {
            ask["stream"] = true.into();
            let mut stream = server.send("/v1/completions", &ask);
            let mut answer = Vec::new();
            let mut some = [0; 512];
            while let Ok(read @ 1..) = stream.read(&mut some) {
                answer.extend_from_slice(&some[..read]);
                thread::sleep(Duration::from_millis(rng.random_range(0..20)));
            }
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains("data: [DONE]"), "{answer}");
            Kind::ReadsSlowly
        }
        2 => {
            let ask = json!({"prompt": "1 ".repeat(60_000)});
            // The server may close before all of it is sent.
            let code = Response::read(server.send("/v1/completions", &ask)).code;
            assert!(matches!(code, 413 | 0), "{code}");
            Kind::TooLarge
        }
        3 => {
            let junk: [&[u8]; 3] = [
                b"\0\x01\x02\xff\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{\"prompt\"",
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz",
            ];
            let mut stream = TcpStream::connect(server.address).unwrap();
            let _ = stream.write_all(junk[rng.random_range(0..junk.len())]);
            Kind::Malformed
        }
        4 => {
            let ask = json!({"prompt": "1 ".repeat(rng.random_range(100..20_000))});
            assert_eq!(server.post("/v1/completions", &ask).code, 400);
            Kind::TooLong
        }
        number => {
            ask["stream"] = (number % 2 == 0).into();
            let answer = server.post("/v1/completions", &ask);
            assert_eq!(answer.code, 200, "{}", answer.body);
            let answered: String = match number % 2 {
                0 => events(&answer.body)
                    .iter()
                    .map(|event| event["choices"][0]["text"].as_str().unwrap().to_owned())
                    .collect(),
                _ => answer.json()["choices"][0]["text"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            };
            assert_eq!(answered, text);
            Kind::Good
        }
    }
}
