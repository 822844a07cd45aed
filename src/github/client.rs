//! One request at a time: reads that wait their turn, writes that are sent once, errors that say what to do.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use octocrab::Octocrab;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Repository;

/// The largest answer that is read; a page of 100 comments of full length is smaller.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// The longest that one request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// GitHub asks for this much patience where a secondary limit names no time.
const SECONDARY_LIMIT: Duration = Duration::from_secs(60);

/// One repository at GitHub, or at a GitHub Enterprise server.
pub struct Hub {
    client: Octocrab,
    repository: Repository,
    patience: Patience,
}

/// How long reads may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The most requests for one answer.
    pub attempts: u32,
    /// The longest that one answer may be waited for between requests.
    pub longest: Duration,
    /// The first wait where the server names none; each further one is twice as long.
    pub first: Duration,
}

/// A secret. It is never printed.
#[derive(Clone)]
pub struct Token(String);

/// Why GitHub did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The client cannot be made.
    #[error("no client for {base_url}: {what}")]
    Client {
        /// The base URL.
        base_url: String,
        /// What is wrong.
        what: String,
    },
    /// A token would travel in the clear.
    #[error("{0}: a token is sent over https only, or to this machine")]
    Insecure(String),
    /// No answer.
    #[error("{what}: {why}")]
    Network {
        /// The request.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// Too many requests, and the limit lasts longer than patience does.
    #[error("{what}: rate limit; try again in {wait_s} s")]
    RateLimit {
        /// The request.
        what: String,
        /// Seconds until the server answers again.
        wait_s: u64,
    },
    /// The token does not suffice.
    #[error("{what}: the token may not do that ({status}: {message})")]
    Denied {
        /// The request.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What GitHub says.
        message: String,
    },
    /// Any other refusal.
    #[error("{what}: {status}: {message}")]
    Refused {
        /// The request.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What GitHub says.
        message: String,
    },
    /// An answer that is none.
    #[error("{what}: the answer is not understood: {why}")]
    Answer {
        /// The request.
        what: String,
        /// Why not.
        why: String,
    },
    /// More pages than are looked through.
    #[error("{what}: more than {entries} entries")]
    TooMany {
        /// The request.
        what: String,
        /// How many were looked through.
        entries: usize,
    },
}

/// The HTTP methods that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Post,
    Patch,
    Delete,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            longest: Duration::from_secs(180),
            first: Duration::from_secs(1),
        }
    }
}

impl Token {
    /// Takes `text` as a token, without the space around it; `None` if it cannot be one.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let valid = (1..=4096).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        valid.then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubError {
    /// Whether a token that may write would have helped.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }
}

impl Hub {
    /// A client for `repository` at `base_url`, such as `https://api.github.com`. It must be made and used within one
    /// tokio runtime that has time and input and output.
    ///
    /// # Errors
    /// [`HubError`] for a base URL that is none, or to which a token must not be sent.
    pub fn new(
        base_url: &str,
        repository: Repository,
        token: Token,
        patience: Patience,
    ) -> Result<Self, HubError> {
        if !is_safe(base_url) {
            return Err(HubError::Insecure(quoted(base_url)));
        }
        let client = Octocrab::builder()
            .base_uri(base_url)
            .map(|builder| {
                builder
                    .personal_token(token.0)
                    .set_connect_timeout(Some(TIMEOUT / 4))
                    .set_read_timeout(Some(TIMEOUT / 2))
                    .set_write_timeout(Some(TIMEOUT / 2))
            })
            .and_then(|builder| builder.build())
            .map_err(|error| HubError::Client {
                base_url: quoted(base_url),
                what: reason(&error),
            })?;
        Ok(Self {
            client,
            repository,
            patience,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Reads `path`, which begins with a slash and holds its query; waits and repeats where that may help.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, HubError> {
        let what = format!("GET {}", path.split('?').next().unwrap_or(path));
        let mut waited = Duration::ZERO;
        let mut backoff = self.patience.first;
        for attempt in 1.. {
            let (error, wait) = match self.attempt(&what, self.client._get(path)).await {
                Ok(answer) if answer.is_success() => return answer.parse(&what),
                Ok(answer) => match answer.wait(backoff) {
                    Some(wait) => (answer.refusal(&what, wait), wait),
                    None => return Err(answer.error(&what)),
                },
                Err(error) => (error, backoff),
            };
            if attempt >= self.patience.attempts || waited + wait > self.patience.longest {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            waited += wait;
            backoff *= 2;
        }
        unreachable!("attempts are counted from 1 and bounded")
    }

    /// Sends a write, once.
    pub(super) async fn write<T: DeserializeOwned>(
        &self,
        method: Write,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, HubError> {
        let what = format!("{} {path}", method.name());
        let answer = match method {
            Write::Post => {
                self.attempt(&what, self.client._post(path, Some(body)))
                    .await
            }
            Write::Patch => {
                self.attempt(&what, self.client._patch(path, Some(body)))
                    .await
            }
            Write::Delete => {
                self.attempt(&what, self.client._delete(path, None::<&()>))
                    .await
            }
        }?;
        if answer.is_success() {
            answer.parse(&what)
        } else {
            Err(answer.error(&what))
        }
    }

    async fn attempt<B>(
        &self,
        what: &str,
        request: impl Future<Output = octocrab::Result<http::Response<B>>>,
    ) -> Result<Answer, HubError>
    where
        B: BodyExt,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let network = |why: String| HubError::Network {
            what: what.to_owned(),
            why,
        };
        let whole = async {
            let response = request.await.map_err(|error| network(reason(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| network(reason(error.as_ref())))?;
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes().to_vec(),
            })
        };
        match tokio::time::timeout(TIMEOUT, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(network(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }
}

impl Write {
    const fn name(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// An answer as it came, in full.
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn parse<T: DeserializeOwned>(&self, what: &str) -> Result<T, HubError> {
        // An answer without a body, such as 204, is null.
        let text: &[u8] = if self.body.is_empty() {
            b"null"
        } else {
            &self.body
        };
        serde_json::from_slice(text).map_err(|error| HubError::Answer {
            what: what.to_owned(),
            why: error.to_string(),
        })
    }

    /// How long to wait before asking again, or `None` if asking again is no use.
    fn wait(&self, backoff: Duration) -> Option<Duration> {
        let spent = self.header("x-ratelimit-remaining") == Some("0");
        let after = self.number("retry-after").map(Duration::from_secs);
        let secondary = self.message().contains("rate limit");
        match self.status {
            500 | 502..=504 => Some(after.unwrap_or(backoff)),
            403 | 429 if after.is_some() => after,
            403 | 429 if spent => Some(self.until_reset()),
            403 if secondary => Some(SECONDARY_LIMIT),
            429 => Some(SECONDARY_LIMIT),
            _ => None,
        }
    }

    /// Until the server counts anew, by the server's own clock where it tells the time.
    fn until_reset(&self) -> Duration {
        let Some(reset) = self.number("x-ratelimit-reset") else {
            return SECONDARY_LIMIT;
        };
        let now = self
            .header("date")
            .and_then(|date| {
                jiff::fmt::rfc2822::DateTimeParser::new()
                    .parse_timestamp(date)
                    .ok()
            })
            .unwrap_or_else(Timestamp::now);
        let now = u64::try_from(now.as_second()).unwrap_or_default();
        Duration::from_secs(reset.saturating_sub(now) + 1)
    }

    fn refusal(&self, what: &str, wait: Duration) -> HubError {
        match self.status {
            403 | 429 => HubError::RateLimit {
                what: what.to_owned(),
                wait_s: wait.as_secs(),
            },
            _ => self.error(what),
        }
    }

    fn error(&self, what: &str) -> HubError {
        let (what, status) = (what.to_owned(), self.status);
        match status {
            403 | 429 if self.wait(Duration::ZERO).is_some() => HubError::RateLimit {
                what,
                wait_s: self.wait(Duration::ZERO).unwrap_or_default().as_secs(),
            },
            401 | 403 | 404 => HubError::Denied {
                what,
                status,
                message: self.message(),
            },
            301 | 302 | 307 | 308 => HubError::Refused {
                what,
                status,
                message: "the repository moved: name its new place with --repo".to_owned(),
            },
            _ => HubError::Refused {
                what,
                status,
                message: self.message(),
            },
        }
    }

    /// What GitHub says in words.
    fn message(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Said {
            message: String,
        }
        serde_json::from_slice::<Said>(&self.body).map_or_else(
            |_| "no reason given".to_owned(),
            |said| quoted(&said.message),
        )
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

/// `text` as a part of a query, by RFC 3986.
pub(super) fn encoded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            safe.push(char::from(byte));
        } else {
            safe.push_str(&format!("%{byte:02X}"));
        }
    }
    safe
}

/// Whether a token may be sent to `base_url`.
fn is_safe(base_url: &str) -> bool {
    if base_url.starts_with("https://") {
        return true;
    }
    let Some(rest) = base_url.strip_prefix("http://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix("[::1]") {
        Some(_) => "[::1]",
        None => authority.split(':').next().unwrap_or_default(),
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]") && !authority.contains('@')
}

/// What an error and its causes say, without octocrab's backtraces.
fn reason(error: &dyn std::error::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if said.last().is_none_or(|last| !last.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    quoted(&said.join(": "))
}

/// A short printable part of what somebody else wrote.
fn quoted(text: &str) -> String {
    text.chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        Answer {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| {
                    (
                        http::HeaderName::from_static(name),
                        http::HeaderValue::from_static(value),
                    )
                })
                .collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn the_server_says_how_long_to_wait() {
        let backoff = Duration::from_secs(2);
        let reset = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1764038820"),
            ("date", "Tue, 25 Nov 2025 02:46:51 GMT"),
        ];
        let secondary = r#"{"message":"You have exceeded a secondary rate limit."}"#;
        for (answer, seconds) in [
            (answer(429, &[("retry-after", "7")], ""), Some(7)),
            (answer(403, &[("retry-after", "7")], ""), Some(7)),
            (
                answer(403, &reset, ""),
                Some(1_764_038_820 - 1_764_038_811 + 1),
            ),
            (answer(403, &[], secondary), Some(60)),
            (answer(429, &[], ""), Some(60)),
            (answer(503, &[("retry-after", "3")], ""), Some(3)),
            (answer(502, &[], ""), Some(2)),
            (
                answer(403, &[], r#"{"message":"Resource not accessible"}"#),
                None,
            ),
            (answer(404, &[], ""), None),
            (answer(422, &[], ""), None),
        ] {
            let wait = answer.wait(backoff).map(|wait| wait.as_secs());
            assert_eq!(wait, seconds, "{} {:?}", answer.status, answer.headers);
        }
    }

    #[test]
    fn a_token_is_sent_over_https_or_to_this_machine() {
        for safe in [
            "https://ghe.example/api/v3",
            "http://127.0.0.1:8080",
            "http://localhost/",
            "http://[::1]:80",
        ] {
            assert!(is_safe(safe), "{safe}");
        }
        for unsafe_ in [
            "http://ghe.example/api/v3",
            "http://localhost.example",
            "http://localhost:x@evil.example",
            "ftp://127.0.0.1",
            "127.0.0.1",
        ] {
            assert!(!is_safe(unsafe_), "{unsafe_}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new(" ghp_secret\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::new("").is_none() && Token::new("a b").is_none());
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            encoded("fork:fix/ä&b=1#2"),
            "fork%3Afix%2F%C3%A4%26b%3D1%232"
        );
    }
}
