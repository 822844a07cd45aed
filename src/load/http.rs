//! HTTP/1.1 over a socket that blocks: as much of it as an OpenAI-compatible server needs, and no more.
//!
//! WHY not a library: what is measured here are times of pieces of a body, so a read returns what has come and takes the
//! time when it came; a body is known to have ended without waiting for more, so that its connection serves the next
//! request at once; and every wait ends at one deadline. Sizes are limited before anything is kept.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The longest wait for a connection: a server that is there takes milliseconds.
pub const CONNECT: Duration = Duration::from_secs(5);

/// The longest head of a response.
const MAX_HEAD: usize = 64 << 10;

/// The longest line that tells the size of a chunk.
const MAX_SIZE_LINE: usize = 4 << 10;

/// What is read at once.
const BUFFER: usize = 16 << 10;

/// How long the end of a body is waited for when nobody needs what may still come.
const END: Duration = Duration::from_millis(20);

/// What may still come then.
const MAX_REST: usize = 64 << 10;

/// A server by its address: `http://host:port/base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    /// Before each path; begins with a slash, or is empty.
    base: String,
}

impl Address {
    /// The address of a host's port; a number of IPv6 may stand in brackets or not. `None` for what is no name and no
    /// number.
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let is_number = host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_ok();
        let is_name = !host.is_empty()
            && host.len() <= 255
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        (is_number || is_name).then(|| Self {
            host: host.to_owned(),
            port,
            base: String::new(),
        })
    }

    /// The address in a URL, of which only `http` can be had; without a port it is 80. A `/v1` at its end is left out,
    /// because paths begin with it.
    pub fn of_url(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://").or_else(|| {
            let has_scheme = url.contains("://");
            (!has_scheme).then_some(url)
        })?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path);
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%\"<>".contains(&byte);
        if !path.bytes().all(is_plain) {
            return None;
        }
        let port_at = authority.rfind(':').filter(|at| {
            let bracket = authority.rfind(']');
            bracket.is_none_or(|bracket| bracket < *at)
        });
        let (host, port) = match port_at {
            Some(at) => (&authority[..at], authority[at + 1..].parse().ok()?),
            None => (authority, 80),
        };
        let address = Self::new(host, port)?;
        Some(Self {
            base: path.to_owned(),
            ..address
        })
    }

    /// As a URL.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.authority(), self.base)
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Where it is, by the system's resolver.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
            false => Ok(found),
        }
    }

    /// The bytes of a request.
    pub fn request(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> Vec<u8> {
        let mut text = format!(
            "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nuser-agent: tokgate/{}\r\naccept: */*\r\n",
            self.base,
            self.authority(),
            env!("CARGO_PKG_VERSION"),
        );
        if let Some(key) = key {
            text.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        if !body.is_empty() {
            text.push_str("content-type: application/json\r\n");
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        text.into_bytes()
    }
}

/// Why there is no response.
#[derive(Debug)]
pub enum HttpError {
    /// Nobody took the connection.
    NoConnection(io::Error),
    /// Something failed on the way.
    Io(io::Error),
    /// What came is not HTTP/1.
    NotHttp(String),
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection, and what came over it but was not read.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects to the first of `addresses` that takes it within `limit`.
    ///
    /// # Errors
    /// [`HttpError::NoConnection`].
    pub fn open(addresses: &[SocketAddr], limit: Duration) -> Result<Self, HttpError> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in addresses {
            match TcpStream::connect_timeout(address, limit) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self {
                        stream,
                        buffer: vec![0; BUFFER].into_boxed_slice(),
                        start: 0,
                        end: 0,
                    });
                }
                Err(error) => failed = error,
            }
        }
        Err(HttpError::NoConnection(failed))
    }

    /// Whether the server has kept it, and sent nothing unasked.
    pub fn is_open(&self) -> bool {
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            peeked
        };
        let waits = matches!(peek(), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        waits && self.start == self.end
    }

    /// Sends a request and reads the head of its response; of the body at most `limit` bytes can be had, until
    /// `deadline`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn ask(
        mut self,
        request: &[u8],
        limit: u64,
        deadline: Instant,
    ) -> Result<Response, HttpError> {
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        self.stream.write_all(request)?;
        loop {
            let head = self.head(deadline)?;
            // 100 Continue and its like: the response is still to come.
            if !(100..200).contains(&head.code) {
                return Ok(Response {
                    code: head.code,
                    body: Body {
                        connection: self,
                        left: head.length,
                        keeps: head.keeps,
                        limit,
                        deadline,
                    },
                });
            }
        }
    }

    fn head(&mut self, deadline: Instant) -> Result<Head, HttpError> {
        let mut text = Vec::new();
        loop {
            let line = text.len();
            self.line(&mut text, MAX_HEAD, deadline)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidData => {
                        HttpError::NotHttp("a head without an end".to_owned())
                    }
                    _ => HttpError::Io(error),
                })?;
            if line == 0 && !text.starts_with(b"HTTP/1.") {
                let shown = String::from_utf8_lossy(&text);
                return Err(HttpError::NotHttp(shown.trim().chars().take(80).collect()));
            }
            if text[line..].trim_ascii().is_empty() {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text);
        Head::parse(&text).ok_or_else(|| {
            let first = text.lines().next().unwrap_or_default();
            HttpError::NotHttp(first.chars().take(80).collect())
        })
    }

    /// Appends a line with its end to `text`, which may have `limit` bytes.
    fn line(&mut self, text: &mut Vec<u8>, limit: usize, deadline: Instant) -> io::Result<()> {
        loop {
            if self.start == self.end && self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let came = &self.buffer[self.start..self.end];
            let end = memchr::memchr(b'\n', came);
            let taken = end.map_or(came.len(), |at| at + 1);
            if text.len() + taken > limit {
                return Err(io::ErrorKind::InvalidData.into());
            }
            text.extend_from_slice(&came[..taken]);
            self.start += taken;
            if end.is_some() {
                return Ok(());
            }
        }
    }

    /// Reads what has come into the empty buffer; 0 at the end.
    fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(&mut self.buffer) {
                Ok(read) => {
                    self.end = read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The time until `deadline`.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Whether time was up: which of the two it is called differs between systems.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// So many bytes.
    Bytes(u64),
    /// So many of this chunk, and then more chunks.
    Chunk(u64),
    /// Before the first chunk.
    Chunks,
    /// Whatever comes until the connection ends.
    All,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    code: u16,
    length: Length,
    /// Whether the connection can be used again.
    keeps: bool,
}

impl Head {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut first = lines.next()?.split(' ').filter(|word| !word.is_empty());
        let version = first.next()?.strip_prefix("HTTP/1.")?;
        let code: u16 = first.next()?.parse().ok()?;
        if !(100..1000).contains(&code) {
            return None;
        }
        let mut keeps = version != "0";
        let mut length = match code {
            100..200 | 204 | 304 => Length::Bytes(0),
            _ => Length::All,
        };
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                let last = value.rsplit(',').next()?.trim();
                if !last.eq_ignore_ascii_case("chunked") {
                    return None;
                }
                length = Length::Chunks;
            } else if name.eq_ignore_ascii_case("content-length") && length == Length::All {
                length = Length::Bytes(value.parse().ok()?);
            } else if name.eq_ignore_ascii_case("connection") {
                keeps = !value.eq_ignore_ascii_case("close")
                    && (keeps || value.eq_ignore_ascii_case("keep-alive"));
            }
        }
        Some(Self {
            code,
            length,
            keeps,
        })
    }
}

/// A response whose body is still to come.
#[derive(Debug)]
pub struct Response {
    /// HTTP's code.
    pub code: u16,
    /// The body.
    pub body: Body,
}

/// The body of a response. Its errors are [`io::ErrorKind::UnexpectedEof`] for one that broke off,
/// [`io::ErrorKind::TimedOut`] at the deadline, [`io::ErrorKind::QuotaExceeded`] beyond the limit, and
/// [`io::ErrorKind::InvalidData`] for chunks that are none.
#[derive(Debug)]
pub struct Body {
    connection: Connection,
    left: Length,
    keeps: bool,
    limit: u64,
    deadline: Instant,
}

impl Body {
    /// The connection, for the next request, unless the server closes it or does not end the body at once.
    pub fn into_connection(mut self) -> Option<Connection> {
        if !self.keeps || self.left == Length::All {
            return None;
        }
        self.deadline = self.deadline.min(Instant::now() + END);
        let mut rest = 0;
        loop {
            let came = self.fill_buf().ok()?.len();
            rest += came;
            match came {
                0 => return Some(self.connection),
                _ if rest > MAX_REST => return None,
                _ => self.consume(came),
            }
        }
    }

    /// Goes to the next chunk; at the last one to the end of the body.
    fn next_chunk(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        if self.left != Length::Chunks {
            self.connection
                .line(&mut line, MAX_SIZE_LINE, self.deadline)?;
            if !line.trim_ascii().is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        self.connection
            .line(&mut line, MAX_SIZE_LINE, self.deadline)?;
        let line = String::from_utf8_lossy(&line);
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16);
        let size = size.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        self.left = Length::Chunk(size);
        if size == 0 {
            // Headers may stand behind the last chunk.
            let mut trailer = Vec::new();
            loop {
                let line = trailer.len();
                self.connection
                    .line(&mut trailer, MAX_HEAD, self.deadline)?;
                if trailer[line..].trim_ascii().is_empty() {
                    break;
                }
            }
            self.left = Length::Bytes(0);
        }
        Ok(())
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while matches!(self.left, Length::Chunks | Length::Chunk(0)) {
            self.next_chunk()?;
        }
        if self.left == Length::Bytes(0) {
            return Ok(&[]);
        }
        if self.limit == 0 {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let connection = &mut self.connection;
        if connection.start == connection.end && connection.fill(self.deadline)? == 0 {
            return match self.left {
                Length::All => Ok(&[]),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let came = &connection.buffer[connection.start..connection.end];
        let most = match self.left {
            Length::Bytes(left) | Length::Chunk(left) => left.min(self.limit),
            Length::All | Length::Chunks => self.limit,
        };
        Ok(&came[..came.len().min(usize::try_from(most).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, count: usize) {
        let bytes = count as u64;
        self.connection.start += count;
        self.limit -= bytes;
        if let Length::Bytes(left) | Length::Chunk(left) = &mut self.left {
            *left -= bytes;
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
