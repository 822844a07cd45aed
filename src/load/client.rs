//! One question to an OpenAI-compatible server, answered as a stream.

use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Uri;

use super::stream::{self, Answer};

/// The longest wait for a connection: a server that is there takes milliseconds.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest list of models that is read.
const MAX_MODELS: u64 = 1 << 20;

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
            Self::TooLong(_) => "too_long",
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

/// A server, by its address.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base: String,
}

impl Client {
    /// The server at this address; nothing is sent yet.
    ///
    /// # Errors
    /// [`Failure::Address`] if `host` is no name and no number.
    pub fn new(host: &str, port: u16) -> Result<Self, Failure> {
        let host = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        let base = format!("http://{host}:{port}");
        let uri: Option<Uri> = base.parse().ok();
        let plain = |uri: &Uri| uri.host() == Some(&*host) && uri.path() == "/";
        if !uri.as_ref().is_some_and(plain) {
            return Err(Failure::Address(host.chars().take(SHOWN).collect()));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy's time is not the server's.
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("tokgate/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            agent: config.build().into(),
            base,
        })
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Asks what the server serves.
    ///
    /// # Errors
    /// [`Failure`] if nobody answers within `limit`; a server without such a list is no failure.
    pub fn model(&self, limit: Duration) -> Result<Model, Failure> {
        let response = self
            .agent
            .get(format!("{}/v1/models", self.base))
            .config()
            .timeout_global(Some(limit))
            .build()
            .call();
        let mut response = response.map_err(|error| failed(error, limit, 0))?;
        let code = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_MODELS);
        let text = body
            .read_to_vec()
            .map_err(|error| failed(error, limit, 0))?;
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

    /// Asks, and times what comes back. Times count from just before the question is sent; the connection is new each
    /// time only if the server closed the last one.
    ///
    /// # Errors
    /// [`Failure`] if there is no whole answer within `limit`.
    pub fn ask(&self, question: &Question<'_>, limit: Duration) -> Result<Answer, Failure> {
        let started = Instant::now();
        let response = self
            .agent
            .post(format!("{}{}", self.base, question.api.path()))
            .config()
            .timeout_global(Some(limit))
            .build()
            .content_type("application/json")
            .send(body(question).to_string());
        let response = response.map_err(|error| failed(error, limit, 0))?;
        let code = response.status().as_u16();
        let reader = response
            .into_body()
            .into_with_config()
            .limit(stream::MAX_ANSWER)
            .reader();
        if code != 200 {
            let mut text = Vec::new();
            // Whatever can be had of the reason is better than none.
            let _ = reader.take(MAX_MODELS).read_to_end(&mut text);
            return Err(refused(code, &text));
        }
        stream::read(&mut BufReader::new(reader), started).map_err(|(error, chunks)| match error {
            stream::Error::Io(error) => failed(ureq::Error::from(error), limit, chunks),
            stream::Error::Failure(failure) => failure,
        })
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

fn failed(error: ureq::Error, limit: Duration, chunks: usize) -> Failure {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            Failure::NoConnection(format!("nobody answered within {} s", CONNECT.as_secs()))
        }
        ureq::Error::Timeout(_) if chunks == 0 => Failure::NoToken(limit),
        ureq::Error::Timeout(_) => Failure::TooSlow { limit, chunks },
        ureq::Error::BodyExceedsLimit(limit) => Failure::TooLong(limit),
        ureq::Error::Io(error) if is_broken(&error) => Failure::Died { chunks },
        ureq::Error::Io(error) => Failure::NoConnection(error.to_string()),
        ureq::Error::HostNotFound => Failure::NoConnection("no such host".to_owned()),
        ureq::Error::ConnectionFailed => Failure::NoConnection("refused".to_owned()),
        // A body that ends before its announced length, too, is told this way.
        ureq::Error::Protocol(_) if chunks > 0 => Failure::Died { chunks },
        other => Failure::Garbage(other.to_string()),
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
