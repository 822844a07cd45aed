//! A server in a process of its own, and the plainest of clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

/// The small model that was trained to sort.
pub fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/models/sort-dense.gguf")
}

pub struct Server {
    pub address: SocketAddr,
    pub key: Option<&'static str>,
    child: Child,
}

/// An answer, whole.
pub struct Response {
    pub code: u16,
    pub body: String,
    head: String,
}

impl Server {
    pub fn start(options: &[&str]) -> Self {
        Self::with_model(&model(), options)
    }

    pub fn with_model(model: &Path, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tokgate"))
            .args(["serve", "--port", "0", "-t", "1", "-m"])
            .arg(model)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let start = said.len();
            assert!(
                stderr.read_line(&mut said).unwrap() > 0,
                "the server ended: {said}"
            );
            if let Some((_, rest)) = said[start..].split_once("http://") {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        Self {
            address,
            key: None,
            child,
        }
    }

    /// Sends a request and leaves the answer to be read.
    pub fn send(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}",
            body.len()
        );
        self.request(&format!("{head}\r\n"), &body)
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        Response::read(self.send(path, body))
    }

    pub fn get(&self, path: &str) -> Response {
        Response::read(self.request(&format!("GET {path} HTTP/1.1\r\n"), ""))
    }

    fn request(&self, head: &str, body: &str) -> TcpStream {
        let key = self.key.map_or(String::new(), |key| {
            format!("Authorization: Bearer {key}\r\n")
        });
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let text = format!("{head}Host: test\r\nConnection: close\r\n{key}\r\n{body}");
        // A server that refuses a body may close before all of it is sent.
        let _ = stream.write_all(text.as_bytes());
        stream
    }

    /// Memory that the process holds, in KiB; 0 where the system does not tell.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let held = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        held.map_or(0, |held| held.parse().unwrap())
    }

    pub fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Response {
    pub fn read(mut stream: TcpStream) -> Self {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut response = Self {
            code: head.split(' ').nth(1).unwrap_or("0").parse().unwrap(),
            body: body.to_owned(),
            head: head.to_lowercase(),
        };
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = dechunked(body);
        }
        response
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn dechunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text += &rest[..length];
        body = &rest[length + 2..];
        if length == 0 {
            break;
        }
    }
    text
}

/// The events of a stream, which must end as clients expect.
pub fn events(body: &str) -> Vec<Value> {
    let body = body.strip_suffix("data: [DONE]\n\n").unwrap();
    let events = body.split_terminator("\n\n");
    events
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}
