//! Connections: limits, routes, and streams.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::answer::{self, Answer};
use super::engine::{Event, Piece};
use super::queue::{Job, Queue, Refused};
use super::request::{Ask, DetokenizeAsk, Message, Prompt, TokenizeAsk};
use super::stats::{Stats, add};
use super::template::ChatTemplate;
use crate::engine::sampler::Sampler;
use crate::engine::tokenizer::{EncodeOptions, Tokenizer};

/// Tokens of a completion whose request does not say: OpenAI's number.
const COMPLETION_TOKENS: usize = 16;

/// How often the server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// How long clients may take to read the end of their answers after everything is computed.
const FAREWELL: Duration = Duration::from_secs(5);

/// What no client can exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; others wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Time for a request's head, and again for its body, to arrive.
    pub receive: Duration,
    /// Time from a request to the end of its answer.
    pub answer: Duration,
    /// Positions of a slot.
    pub context: usize,
    /// Tokens that the model has.
    pub n_vocab: usize,
}

/// Everything that the connections share.
#[derive(Debug)]
pub struct Service {
    /// Encodes and decodes.
    pub tokenizer: Arc<Tokenizer>,
    /// Makes prompts of conversations.
    pub template: ChatTemplate,
    /// Where jobs go.
    pub queue: Arc<Queue>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Limits.
    pub limits: Limits,
    /// The model's name.
    pub name: String,
    /// Who may ask; everybody if empty.
    pub keys: Vec<String>,
    /// Answers so far, for their ids.
    pub answers: AtomicU64,
}

/// Serves until `stop` is set, and then finishes what runs. `alive` tells whether the engine still works; without it
/// there is nothing to serve.
///
/// # Errors
/// If the runtime or the listener fails.
pub fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stop: &AtomicBool,
    alive: impl Fn() -> bool,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let connections = Arc::new(Semaphore::new(service.limits.connections));
        let (ending, ended) = watch::channel(false);
        let router = router(&service);
        let receive = service.limits.receive;
        let over = || stop.load(Relaxed) || !alive();
        while !over() {
            let Ok(Ok(permit)) = timeout(TICK, Arc::clone(&connections).acquire_owned()).await
            else {
                continue;
            };
            let Ok(accepted) = timeout(TICK, listener.accept()).await else {
                continue;
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors, mostly: those that are open will be closed.
                sleep(TICK).await;
                continue;
            };
            // Pieces are small and must not wait for each other; where that cannot be had they come later.
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(router.clone());
            let mut ended = ended.clone();
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(receive)
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                let mut connection = pin!(connection);
                let mut told = pin!(ended.changed());
                let mut is_ending = false;
                // Whoever was not told that the server ends, because that went away first, has ended too.
                let _ = poll_fn(|context| {
                    if !is_ending && told.as_mut().poll(context).is_ready() {
                        is_ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    connection.as_mut().poll(context)
                })
                .await;
                drop(permit);
            });
        }
        drop(listener);
        service.queue.close();
        let _ = ending.send(true);
        // The engine finishes what it has, which the limit on answers bounds; then clients may read to the end.
        while alive() {
            sleep(TICK).await;
        }
        let all = u32::try_from(service.limits.connections).unwrap_or(u32::MAX);
        let _ = timeout(FAREWELL, connections.acquire_many(all)).await;
        Ok(())
    })
}

fn router(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .fallback(async || Refusal(404, "there is nothing at this address".to_owned()))
        .method_not_allowed_fallback(async || {
            Refusal(405, "this method does not go here".to_owned())
        })
        .with_state(Arc::clone(service))
}

/// Why a request is not answered: HTTP's code and a sentence.
#[derive(Debug)]
struct Refusal(u16, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(answer::error(self.0, &self.1))).into_response();
        if self.0 == 429 {
            let soon = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        response
    }
}

fn bad(message: impl ToString) -> Refusal {
    Refusal(400, message.to_string())
}

type Shared = State<Arc<Service>>;

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn metrics(State(service): Shared, headers: HeaderMap) -> Result<Response, Refusal> {
    service.check(&headers)?;
    let text = service.stats.text(service.queue.waiting());
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}

async fn models(State(service): Shared, headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    service.check(&headers)?;
    let model = json!({
        "id": service.name,
        "object": "model",
        "created": 0,
        "owned_by": "tokgate",
        "root": service.name,
        "max_model_len": service.limits.context,
    });
    Ok(Json(json!({"object": "list", "data": [model]})))
}

async fn chat(State(service): Shared, request: Request) -> Result<Response, Refusal> {
    let mut ask: Ask = service.receive(request).await?;
    let messages = ask
        .messages
        .take()
        .ok_or_else(|| bad("messages are missing"))?;
    let prompt = service.conversation(messages, &ask.chat_template_kwargs)?;
    service.answer(ask, prompt, true).await
}

async fn completions(State(service): Shared, request: Request) -> Result<Response, Refusal> {
    let mut ask: Ask = service.receive(request).await?;
    let text = |text: String| service.encode(&text, EncodeOptions::SPECIAL);
    let several = || bad("one prompt a request: send several requests");
    let prompt = match ask.prompt.take().ok_or_else(|| bad("prompt is missing"))? {
        Prompt::Text(prompt) => text(prompt)?,
        Prompt::Tokens(tokens) => tokens,
        Prompt::Texts(prompts) => {
            let [prompt] = <[String; 1]>::try_from(prompts).map_err(|_| several())?;
            text(prompt)?
        }
        Prompt::TokenLists(lists) => {
            let [tokens] = <[Vec<u32>; 1]>::try_from(lists).map_err(|_| several())?;
            tokens
        }
    };
    service.answer(ask, prompt, false).await
}

async fn tokenize(State(service): Shared, request: Request) -> Result<Json<Value>, Refusal> {
    let ask: TokenizeAsk = service.receive(request).await?;
    let tokens = match (ask.messages, ask.prompt) {
        (Some(messages), _) => service.conversation(messages, &Value::Null)?,
        (None, Some(prompt)) => {
            let add_special = ask.add_special_tokens.unwrap_or(true);
            let options = EncodeOptions {
                add_special,
                parse_special: true,
            };
            service.encode(&prompt, options)?
        }
        (None, None) => return Err(bad("prompt is missing")),
    };
    Ok(Json(
        json!({"count": tokens.len(), "max_model_len": service.limits.context, "tokens": tokens}),
    ))
}

async fn detokenize(State(service): Shared, request: Request) -> Result<Json<Value>, Refusal> {
    let ask: DetokenizeAsk = service.receive(request).await?;
    let bytes = service.tokenizer.decode(&ask.tokens, true).map_err(bad)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Json(json!({"prompt": text, "content": text})))
}

impl Service {
    /// Whether the request may be answered.
    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if self.keys.is_empty()
            || self
                .keys
                .iter()
                .any(|key| is_same(key.as_bytes(), given.as_bytes()))
        {
            return Ok(());
        }
        Err(Refusal(
            401,
            "an API key is needed: Authorization: Bearer KEY".to_owned(),
        ))
    }

    async fn receive<T: DeserializeOwned>(&self, request: Request) -> Result<T, Refusal> {
        self.check(request.headers())?;
        let limited = Limited::new(request.into_body(), self.limits.body);
        let body = timeout(self.limits.receive, limited.collect()).await;
        let body =
            body.map_err(|_| Refusal(408, "the request did not arrive in time".to_owned()))?;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Refusal(
                413,
                format!("the request has more than {} bytes", self.limits.body),
            ),
            false => bad("the request did not arrive whole"),
        })?;
        serde_json::from_slice(&body.to_bytes())
            .map_err(|error| bad(format!("not a request: {error}")))
    }

    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Refusal> {
        self.tokenizer.encode(text.as_bytes(), options).map_err(bad)
    }

    fn conversation(&self, messages: Vec<Message>, extra: &Value) -> Result<Vec<u32>, Refusal> {
        let turns = messages
            .into_iter()
            .map(Message::turn)
            .collect::<Result<Vec<_>, _>>();
        let turns = turns.map_err(bad)?;
        if turns.is_empty() {
            return Err(bad("messages are missing"));
        }
        let text = self.template.prompt(&turns, extra);
        let text = text.map_err(|error| bad(format!("the model's chat template: {error:#}")))?;
        let bos = self
            .tokenizer
            .bos()
            .and_then(|bos| self.tokenizer.token(bos));
        // Templates that write the token which begins a text must not get a second one.
        let has_bos = bos.is_some_and(|bos| !bos.is_empty() && text.as_bytes().starts_with(bos));
        let options = EncodeOptions {
            add_special: !has_bos,
            parse_special: true,
        };
        self.encode(&text, options)
    }

    async fn answer(
        &self,
        mut ask: Ask,
        prompt: Vec<u32>,
        chat: bool,
    ) -> Result<Response, Refusal> {
        let random = RandomState::new().hash_one(self.answers.load(Relaxed));
        let wishes = ask.wishes(random).map_err(bad)?;
        let context = self.limits.context;
        if prompt.is_empty() {
            return Err(bad("the prompt is empty"));
        }
        if let Some(token) = prompt
            .iter()
            .find(|token| **token as usize >= self.limits.n_vocab)
        {
            return Err(bad(format!("the model has no token {token}")));
        }
        if prompt.len() >= context {
            let length = prompt.len();
            return Err(bad(format!(
                "the prompt has {length} tokens, and the context is {context} tokens: shorten it, or start the server \
                 with a larger --ctx-size"
            )));
        }
        let asked = wishes
            .max_tokens
            .unwrap_or(if chat { context } else { COMPLETION_TOKENS });
        let submitted = Instant::now();
        let (events, received) = unbounded_channel();
        let job = Job {
            max_tokens: asked.min(context - prompt.len()),
            prompt,
            sampler: Sampler::new(wishes.params).map_err(bad)?,
            stops: wishes.stops,
            logprobs: wishes.logprobs,
            ignore_eos: wishes.ignore_eos,
            submitted,
            deadline: submitted + self.limits.answer,
            events,
        };
        self.queue.push(job).map_err(|refused| match refused {
            Refused::Full(_) => {
                add(&self.stats.refused, 1);
                Refusal(429, refused.to_string())
            }
            Refused::Closed => Refusal(503, refused.to_string()),
        })?;
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let number = self.answers.fetch_add(1, Relaxed);
        let answer = Answer {
            chat,
            id: format!(
                "{}-{random:016x}{number}",
                if chat { "chatcmpl" } else { "cmpl" }
            ),
            created: created.map_or(0, |since| since.as_secs()),
            model: self.name.clone(),
        };
        match ask.streaming() {
            None => self.whole(&answer, received).await,
            Some(with_usage) => {
                Ok(
                    Stream::new(answer, received, with_usage, Arc::clone(&self.tokenizer))
                        .response(),
                )
            }
        }
    }

    async fn whole(
        &self,
        answer: &Answer,
        mut events: UnboundedReceiver<Event>,
    ) -> Result<Response, Refusal> {
        let mut all = Piece::default();
        while let Some(event) = events.recv().await {
            match event {
                Event::Failed(message) => return Err(Refusal(500, message)),
                Event::Piece(piece) => {
                    all.text += &piece.text;
                    all.scored.extend(piece.scored);
                    if let Some(finish) = piece.finish {
                        return Ok(
                            Json(answer.whole(&all, &finish, &self.tokenizer)).into_response()
                        );
                    }
                }
            }
        }
        Err(Refusal(500, "the engine stopped".to_owned()))
    }
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let pairs = a.iter().zip(b);
    a.len() == b.len() && pairs.fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// An answer in pieces. Dropping it, as hyper does when the client is gone, cancels the job.
struct Stream {
    answer: Answer,
    events: UnboundedReceiver<Event>,
    with_usage: bool,
    tokenizer: Arc<Tokenizer>,
    /// Bytes of text that were sent; `None` before the first piece.
    sent: Option<usize>,
    is_over: bool,
}

impl Stream {
    fn new(
        answer: Answer,
        events: UnboundedReceiver<Event>,
        with_usage: bool,
        tokenizer: Arc<Tokenizer>,
    ) -> Self {
        Self {
            answer,
            events,
            with_usage,
            tokenizer,
            sent: None,
            is_over: false,
        }
    }

    fn response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::new(self)).into_response()
    }

    fn text(&mut self, event: Event) -> String {
        match event {
            Event::Failed(message) => {
                self.is_over = true;
                answer::event(&answer::error(500, &message))
            }
            Event::Piece(piece) => {
                let at = self.sent.unwrap_or(0);
                let mut text = answer::event(&self.answer.chunk(
                    &piece,
                    self.sent.is_none(),
                    at,
                    &self.tokenizer,
                ));
                self.sent = Some(at + piece.text.len());
                if let Some(finish) = &piece.finish {
                    self.is_over = true;
                    if self.with_usage {
                        text += &answer::event(&self.answer.usage(finish));
                    }
                    text += "data: [DONE]\n\n";
                }
                text
            }
        }
    }
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.events.poll_recv(context));
        let event = event.unwrap_or_else(|| Event::Failed("the engine stopped".to_owned()));
        let text = self.text(event);
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
