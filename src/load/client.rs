//! One question to an OpenAI-compatible server, answered as a stream.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Address, CONNECT, Connection, HttpError, Response, is_timeout};
use super::stream::{self, Answer, Piece};

/// The longest answer to anything but a question.
const MAX_TEXT: u64 = 16 << 20;

/// How much of what refuses is read.
const MAX_REFUSAL: u64 = 64 << 10;

/// How much of an error's text is shown.
const SHOWN: usize = 200;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Nobody took the connection.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The address is none.
    #[error("'{0}' is no address of a server")]
    Address(String),
    /// Time was up before the first token.
    #[error("no token within {} s", .0.as_secs_f64())]
    NoToken(Duration),
    /// Time was up in the middle of the answer.
    #[error("time was up after {} s, with {chunks} pieces of the answer received", limit.as_secs_f64())]
    TooSlow {
        /// The time there was.
        limit: Duration,
        /// Pieces that had come.
        chunks: usize,
    },
    /// The server refused.
    #[error("HTTP {code}: {message}")]
    Status {
        /// HTTP's code.
        code: u16,
        /// What the server said.
        message: String,
    },
    /// The server gave up in the middle of the answer, and said so.
    #[error("the server broke off: {0}")]
    Server(String),
    /// The connection ended in the middle of the answer.
    #[error("the connection ended after {chunks} pieces of the answer")]
    Died {
        /// Pieces that had come.
        chunks: usize,
    },
    /// What came is not the protocol.
    #[error("not the stream of an OpenAI-compatible server: {0}")]
    Garbage(String),
    /// More than is read.
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    /// More pieces than the tokens that were asked for could make.
    #[error("the answer has more than {0} pieces, which is more than was asked for")]
    TooMany(usize),
    /// An answer without tokens.
    #[error("the answer has no tokens")]
    Empty,
    /// The server is taken for dead.
    #[error("not tried, because the server no longer answers")]
    NotTried,
}

impl Failure {
    /// A word for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoConnection(_) => "no_connection",
            Self::Address(_) => "address",
            Self::NoToken(_) | Self::TooSlow { .. } => "timeout",
            Self::Status { .. } => "status",
            Self::Server(_) => "server_error",
            Self::Died { .. } => "died",
            Self::Garbage(_) => "garbage",
            Self::TooLong(_) | Self::TooMany(_) => "too_long",
            Self::Empty => "empty",
            Self::NotTried => "not_tried",
        }
    }

    /// Whether the server is not there, as opposed to not doing what was asked.
    pub const fn is_of_the_connection(&self) -> bool {
        matches!(
            self,
            Self::NoConnection(_) | Self::NoToken(_) | Self::Died { .. }
        )
    }
}

/// Which of the two ways of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`: the server puts the model's template around the text.
    Chat,
    /// `/v1/completions`: the text as it is.
    Completions,
}

impl Api {
    /// Its path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// What a server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Its first model's id; `None` where it tells none.
    pub id: Option<String>,
    /// Whether the server is llama.cpp's, which can be asked not to reuse what it has of a prompt.
    pub is_llama_cpp: bool,
}

/// What to ask.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// How.
    pub api: Api,
    /// Whom.
    pub model: &'a Model,
    /// The text.
    pub text: &'a str,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
}

/// A server, by its address. Clones share one connection that is kept for the next request.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    found: Arc<OnceLock<Vec<SocketAddr>>>,
    idle: Arc<Mutex<Option<Connection>>>,
    key: Option<Arc<str>>,
}

impl Client {
    /// The server at this address; nothing is sent yet.
    ///
    /// # Errors
    /// [`Failure::Address`] if `host` is no name and no number.
    pub fn new(host: &str, port: u16) -> Result<Self, Failure> {
        let address = Address::new(host, port);
        let address =
            address.ok_or_else(|| Failure::Address(host.chars().take(SHOWN).collect()))?;
        Ok(Self::of(address))
    }

    /// The server at this URL, `http://host:port`.
    ///
    /// # Errors
    /// [`Failure::Address`] if it is none, or one that needs TLS.
    pub fn of_url(url: &str) -> Result<Self, Failure> {
        let address = Address::of_url(url);
        let address = address.ok_or_else(|| Failure::Address(url.chars().take(SHOWN).collect()))?;
        Ok(Self::of(address))
    }

    fn of(address: Address) -> Self {
        Self {
            address,
            found: Arc::default(),
            idle: Arc::default(),
            key: None,
        }
    }

    /// The same with a key, which goes with every request; one with control characters is left out.
    pub fn with_key(self, key: Option<&str>) -> Self {
        let key = key.filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()));
        Self {
            key: key.map(Arc::from),
            ..self
        }
    }

    /// The same server over a connection of its own.
    pub fn apart(&self) -> Self {
        Self {
            idle: Arc::default(),
            ..self.clone()
        }
    }

    /// The server's address.
    pub fn base(&self) -> String {
        self.address.url()
    }

    /// Asks what the server serves.
    ///
    /// # Errors
    /// [`Failure`] if nobody answers within `limit`; a server without such a list is no failure.
    pub fn model(&self, limit: Duration) -> Result<Model, Failure> {
        let (code, text) = self.call("GET", "/v1/models", "", limit)?;
        match code {
            200 => {}
            404 | 405 | 501 => return Ok(Model::default()),
            code => return Err(refused(code, &text)),
        }
        let list: Value = serde_json::from_slice(&text)
            .map_err(|error| Failure::Garbage(format!("its list of models: {error}")))?;
        let first = list.get("data").and_then(|data| data.get(0));
        let text = |key: &str| Some(first?.get(key)?.as_str()?.to_owned());
        Ok(Model {
            id: text("id"),
            is_llama_cpp: text("owned_by").as_deref() == Some("llamacpp"),
        })
    }

    /// The server's metrics in Prometheus' format; `None` where it has none.
    pub fn metrics(&self, limit: Duration) -> Option<String> {
        let (code, text) = self.call("GET", "/metrics", "", limit).ok()?;
        (code == 200).then(|| String::from_utf8_lossy(&text).into_owned())
    }

    /// How many tokens a text has for the server's model, with those that it puts around a prompt. The question is
    /// asked as vLLM understands it, and then as llama.cpp does, which finds no tokens in the former.
    ///
    /// # Errors
    /// [`Failure`] if the server has no `/tokenize`, or no answer that can be understood.
    pub fn token_count(&self, text: &str, model: &str, limit: Duration) -> Result<u64, Failure> {
        let vllm = json!({"model": model, "prompt": text, "add_special_tokens": true});
        match self.count(&vllm, limit) {
            Ok(0)
            | Err(Failure::Status {
                code: 400 | 422, ..
            }) if !text.is_empty() => {
                self.count(&json!({"content": text, "add_special": true}), limit)
            }
            counted => counted,
        }
    }

    fn count(&self, body: &Value, limit: Duration) -> Result<u64, Failure> {
        let (code, text) = self.call("POST", "/tokenize", &body.to_string(), limit)?;
        if code != 200 {
            return Err(refused(code, &text));
        }
        let answer: Option<Value> = serde_json::from_slice(&text).ok();
        let tokens = answer.as_ref().and_then(|answer| answer.get("tokens"));
        let tokens = tokens.and_then(Value::as_array);
        tokens
            .map(|tokens| tokens.len() as u64)
            .ok_or_else(|| Failure::Garbage("no list of tokens in its answer".to_owned()))
    }

    /// Asks, and times what comes back. Times count from just before the question is sent; the connection is new each
    /// time only if the server closed the last one.
    ///
    /// # Errors
    /// [`Failure`] if there is no whole answer within `limit`.
    pub fn ask(&self, question: &Question<'_>, limit: Duration) -> Result<Answer, Failure> {
        let request = self.request(question.api.path(), &body(question));
        self.stream(&request, stream::MAX_ANSWER, limit, |_| Ok(()))
    }

    /// The bytes of a question.
    pub fn request(&self, path: &str, body: &Value) -> Vec<u8> {
        let key = self.key.as_deref();
        self.address.request("POST", path, key, &body.to_string())
    }

    /// Sends the bytes of a question and times what comes back, of which `see` is shown each piece; it may refuse one.
    ///
    /// # Errors
    /// [`Failure`] if there is no whole answer of at most `most` bytes within `limit`.
    pub fn stream(
        &self,
        request: &[u8],
        most: u64,
        limit: Duration,
        see: impl FnMut(Piece<'_>) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        let started = Instant::now();
        let failed = |error, chunks| failed(error, most, limit, chunks);
        let response = self.send(request, most, started + limit);
        let mut response = response.map_err(|error| failed(error, 0))?;
        if response.code != 200 {
            let mut text = Vec::new();
            // Whatever can be had of the reason is better than none.
            let _ = (&mut response.body)
                .take(MAX_REFUSAL)
                .read_to_end(&mut text);
            return Err(refused(response.code, &text));
        }
        let answer = stream::read(&mut response.body, started, see);
        let answer = answer.map_err(|(error, chunks)| match error {
            stream::Error::Io(error) => failed(HttpError::Io(error), chunks),
            stream::Error::Failure(failure) => failure,
        })?;
        self.keep(response);
        Ok(answer)
    }

    /// Sends a request whose answer is wanted whole.
    fn call(
        &self,
        method: &str,
        path: &str,
        body: &str,
        limit: Duration,
    ) -> Result<(u16, Vec<u8>), Failure> {
        let failed = |error| failed(error, MAX_TEXT, limit, 0);
        let key = self.key.as_deref();
        let request = self.address.request(method, path, key, body);
        let response = self.send(&request, MAX_TEXT, Instant::now() + limit);
        let mut response = response.map_err(failed)?;
        let mut text = Vec::new();
        let read = response.body.read_to_end(&mut text);
        read.map_err(|error| failed(HttpError::Io(error)))?;
        let code = response.code;
        self.keep(response);
        Ok((code, text))
    }

    fn send(&self, request: &[u8], most: u64, deadline: Instant) -> Result<Response, HttpError> {
        let idle = self.idle().take();
        if let Some(connection) = idle.filter(Connection::is_open) {
            match connection.ask(request, most, deadline) {
                // The server closed it at that moment, without having looked at the request.
                Err(HttpError::Io(error)) if is_broken(&error) => {}
                asked => return asked,
            }
        }
        self.connect(CONNECT)?.ask(request, most, deadline)
    }

    /// Connects within `limit` if there is no connection yet, so that the next request finds one. That it could not is
    /// for the request to say, which tries again.
    pub fn connect_ahead(&self, limit: Duration) {
        let mut idle = self.idle();
        if !idle.as_ref().is_some_and(Connection::is_open) {
            *idle = self.connect(limit).ok();
        }
    }

    fn connect(&self, limit: Duration) -> Result<Connection, HttpError> {
        let found = match self.found.get() {
            Some(found) => found,
            None => {
                let found = self.address.resolve().map_err(HttpError::NoConnection)?;
                self.found.get_or_init(|| found)
            }
        };
        Connection::open(found, limit)
    }

    fn keep(&self, response: Response) {
        if let Some(connection) = response.body.into_connection() {
            *self.idle() = Some(connection);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn body(question: &Question<'_>) -> Value {
    let mut body = json!({
        "model": question.model.id.as_deref().unwrap_or("default"),
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    match question.api {
        Api::Chat => body["messages"] = json!([{"role": "user", "content": question.text}]),
        Api::Completions => body["prompt"] = question.text.into(),
    }
    if question.model.is_llama_cpp {
        // Otherwise the second run of a prompt would find its prefill done.
        body["cache_prompt"] = false.into();
    }
    body
}

fn refused(code: u16, text: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(text);
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| stream::message(value.get("error")?));
    let message = message.unwrap_or_else(|| text.trim().chars().take(SHOWN).collect());
    Failure::Status { code, message }
}

fn failed(error: HttpError, most: u64, limit: Duration, chunks: usize) -> Failure {
    let error = match error {
        HttpError::NotHttp(text) => return Failure::Garbage(text),
        HttpError::NoConnection(error) => {
            return Failure::NoConnection(match error.kind() {
                _ if is_timeout(&error) => {
                    format!("nobody answered within {} s", CONNECT.as_secs())
                }
                io::ErrorKind::ConnectionRefused => "refused".to_owned(),
                io::ErrorKind::NotFound => "no such host".to_owned(),
                _ => error.to_string(),
            });
        }
        HttpError::Io(error) => error,
    };
    match error.kind() {
        _ if is_timeout(&error) && chunks == 0 => Failure::NoToken(limit),
        _ if is_timeout(&error) => Failure::TooSlow { limit, chunks },
        io::ErrorKind::QuotaExceeded => Failure::TooLong(most),
        io::ErrorKind::InvalidData => Failure::Garbage("chunks that are none".to_owned()),
        _ if is_broken(&error) => Failure::Died { chunks },
        _ => Failure::NoConnection(error.to_string()),
    }
}

fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_connection_made_ahead_serves_the_next_request() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = Client::new("127.0.0.1", port).unwrap();
        client.connect_ahead(CONNECT);
        // It is there although nobody has asked for anything.
        let (mut stream, _) = listener.accept().unwrap();
        client.connect_ahead(CONNECT);
        let server = thread::spawn(move || {
            let mut seen = [0; 1024];
            assert!(stream.read(&mut seen).unwrap() > 0);
            let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
        });
        let limit = Duration::from_secs(20);
        assert_eq!(client.model(limit), Ok(Model::default()));
        server.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it was the only one");

        // The request tells of a server that is gone, and not what came before it.
        drop(listener);
        client.connect_ahead(CONNECT);
        let asked = client.model(limit);
        assert!(matches!(asked, Err(Failure::NoConnection(_))), "{asked:?}");
    }
}
