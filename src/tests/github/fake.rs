//! A GitHub of one repository on a port of this machine: it keeps comments and check runs, and refuses every request
//! that [`openapi`](super::openapi) does not describe.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::openapi;

pub const REPOSITORY: &str = "tokgate/tokgate";
pub const BOT: &str = "github-actions[bot]";

/// An answer that is given once: a part of the path, status, headers, body.
type Answer = (&'static str, u16, Vec<(&'static str, String)>, String);

/// What GitHub knows, and what it was asked.
#[derive(Default)]
pub struct State {
    pub comments: Vec<Value>,
    pub pulls: Vec<Value>,
    pub checks: Vec<Value>,
    /// Commits, and the merged pull request that brought each.
    pub brought: Vec<(String, u64)>,
    /// Answers to give before any of its own.
    pub answers: Vec<Answer>,
    /// Another run's comment, which comes to be just before the next one is made.
    pub racing: Option<Value>,
    /// The login of the token; `GET /user` is refused without one, as it is to the token of a workflow.
    pub login: Option<&'static str>,
    /// Method and path of every request, without the query.
    pub log: Vec<String>,
    /// What was wrong with requests.
    pub complaints: Vec<String>,
    next_id: u64,
}

pub struct Fake {
    pub state: Arc<Mutex<State>>,
    pub url: String,
}

impl Fake {
    /// Serves below `base`, such as `/api/v3`, until the test's process ends.
    pub fn start(base: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{base}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            next_id: 1000,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, base, &state));
            }
        });
        Self { state, url }
    }

    pub fn edit<T>(&self, edit: impl FnOnce(&mut State) -> T) -> T {
        edit(&mut self.state.lock().unwrap())
    }

    /// How many requests there were whose method and path begin like this.
    pub fn count(&self, start: &str) -> usize {
        self.edit(|state| {
            state
                .log
                .iter()
                .filter(|line| line.starts_with(start))
                .count()
        })
    }

    /// Fails the test if a request was not as GitHub describes it.
    pub fn assert_described(&self) {
        let complaints = self.edit(|state| state.complaints.clone());
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

pub fn comment(id: u64, login: &str, body: &str) -> Value {
    json!({
        "id": id,
        "html_url": format!("https://github.com/{REPOSITORY}/pull/7#issuecomment-{id}"),
        "body": body,
        "user": { "login": login },
    })
}

pub fn pull(number: u64, head: &str, repository: &str) -> Value {
    json!({ "number": number, "head": { "sha": head, "repo": { "full_name": repository } } })
}

struct Request {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    token: Option<String>,
    body: Value,
}

fn serve(stream: TcpStream, base: &str, state: &Mutex<State>) {
    let Some(request) = read(&stream, base) else {
        return;
    };
    let (status, headers, body) = {
        let mut state = state.lock().unwrap();
        let asked = format!("{} {}", request.method, request.path);
        state.log.push(asked.clone());
        let forced = state
            .answers
            .iter()
            .position(|(part, ..)| asked.contains(part));
        match forced {
            Some(at) => {
                let (_, status, headers, body) = state.answers.remove(at);
                (status, headers, body)
            }
            None => {
                let (status, body) = answer(&mut state, &request);
                (status, Vec::new(), body)
            }
        }
    };
    let mut text = format!(
        "HTTP/1.1 {status} Fake\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let _ = (&stream).write_all(format!("{text}\r\n{body}").as_bytes());
}

fn read(stream: &TcpStream, base: &str) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut token) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let target = target.strip_prefix(base)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request {
        method,
        path: path.to_owned(),
        query: query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        token,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

fn answer(state: &mut State, request: &Request) -> (u16, String) {
    let names: Vec<&str> = request
        .query
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let known = openapi::check(&request.method, &request.path, &names, &request.body);
    if let Err(complaint) = known {
        state.complaints.push(complaint);
        return (500, String::new());
    }
    if request.token.as_deref() != Some("s3cret") {
        return (401, json!({ "message": "Bad credentials" }).to_string());
    }
    let (status, body) = route(state, request);
    let described = openapi::check_answer(&request.method, &request.path, status, &body);
    state.complaints.extend(described.err());
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    (status, text)
}

fn route(state: &mut State, request: &Request) -> (u16, Value) {
    let query = |name: &str| {
        let found = request.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let path = request.path.strip_prefix(&format!("/repos/{REPOSITORY}"));
    let parts: Vec<&str> = path.unwrap_or(&request.path).split('/').skip(1).collect();
    let not_found = (404, json!({ "message": "Not Found" }));
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["user"]) => match state.login {
            Some(login) => (200, json!({ "login": login })),
            None => (
                403,
                json!({ "message": "Resource not accessible by integration" }),
            ),
        },
        ("GET", ["issues", _, "comments"]) => {
            let number = |name| query(name).and_then(|text| text.parse::<usize>().ok());
            let (size, page) = (
                number("per_page").unwrap_or(30),
                number("page").unwrap_or(1),
            );
            let found = state.comments.iter().skip(size * (page - 1)).take(size);
            (200, found.cloned().collect())
        }
        ("POST", ["issues", _, "comments"]) => {
            state.comments.extend(state.racing.take());
            state.next_id += 1;
            let login = state.login.unwrap_or(BOT);
            let made = comment(state.next_id, login, request.body["body"].as_str().unwrap());
            state.comments.push(made.clone());
            (201, made)
        }
        ("PATCH", ["issues", "comments", id]) => {
            let found = state
                .comments
                .iter_mut()
                .find(|known| is_numbered(&known["id"], id));
            match found {
                Some(found) => {
                    found["body"] = request.body["body"].clone();
                    (200, found.clone())
                }
                None => not_found,
            }
        }
        ("DELETE", ["issues", "comments", id]) => {
            state
                .comments
                .retain(|known| !is_numbered(&known["id"], id));
            (204, Value::Null)
        }
        ("GET", ["pulls"]) => {
            let owner = query("head")
                .and_then(|head| head.split("%3A").next())
                .unwrap_or_default();
            let of = |pull: &&Value| {
                let from = pull["head"]["repo"]["full_name"]
                    .as_str()
                    .unwrap_or_default();
                from.starts_with(&format!("{owner}/"))
            };
            (200, state.pulls.iter().filter(of).cloned().collect())
        }
        ("GET", ["commits", commit, "pulls"]) => {
            let brings = |(known, _): &&(String, u64)| known == commit;
            let merged = |(_, number): &(String, u64)| json!({ "number": number, "merged_at": "2026-10-01T12:00:00Z" });
            (
                200,
                state.brought.iter().filter(brings).map(merged).collect(),
            )
        }
        ("GET", ["pulls", number]) => {
            let found = state
                .pulls
                .iter()
                .find(|pull| is_numbered(&pull["number"], number));
            found.map_or(not_found, |pull| (200, pull.clone()))
        }
        ("POST", ["check-runs"]) => {
            state.checks.push(request.body.clone());
            (
                201,
                json!({ "id": 5, "html_url": "https://github.com/x/runs/5" }),
            )
        }
        ("PATCH", ["check-runs", "5"]) => {
            state.checks.push(request.body.clone());
            (
                200,
                json!({ "id": 5, "html_url": "https://github.com/x/runs/5" }),
            )
        }
        _ => not_found,
    }
}

fn is_numbered(number: &Value, text: &str) -> bool {
    number
        .as_u64()
        .is_some_and(|number| text.parse() == Ok(number))
}
