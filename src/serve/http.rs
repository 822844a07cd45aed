//! Routes: what may ask for what, and how a request becomes a job.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answer::{self, Answer};
use super::outbox::outbox;
use super::piece::{Event, Piece};
use super::queue::{Job, Queue, Refused};
use super::request::{Ask, DetokenizeAsk, Message, Prompt, TokenizeAsk};
use super::stats::Stats;
use super::stream::Stream;
use super::template::ChatTemplate;
use crate::engine::sampler::Sampler;
use crate::engine::tokenizer::{EncodeOptions, Tokenizer};

/// Tokens of a completion whose request does not say: OpenAI's number.
const COMPLETION_TOKENS: usize = 16;

/// Bytes of a request that is taken apart at once: a fraction of a millisecond. A larger one would hold up the others'
/// text, and is given to a thread of its own.
const SMALL: usize = 16 << 10;

/// Largest requests that may be held at a time while they arrive and are taken apart.
const LARGEST_HELD: usize = 16;

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
    answers: AtomicU64,
    /// Bytes that requests may still take.
    bytes: Arc<Semaphore>,
}

/// All routes.
pub(super) fn router(service: &Arc<Service>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
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
    Ok(Json(
        json!({"object": "list", "data": [service.described()]}),
    ))
}

async fn model(
    State(service): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    service.check(&headers)?;
    service.is_served(&id)?;
    Ok(Json(service.described()))
}

async fn chat(State(service): Shared, request: Request) -> Result<Response, Refusal> {
    let made = service.receive(request, |service, mut ask: Ask| {
        let messages = ask.messages.take();
        let messages = messages.ok_or_else(|| bad("messages are missing"))?;
        let variables = std::mem::take(&mut ask.chat_template_kwargs);
        let prompt = service.conversation(messages, &variables)?;
        Ok((ask, prompt))
    });
    let (ask, prompt) = made.await?;
    service.answer(ask, prompt, true).await
}

async fn completions(State(service): Shared, request: Request) -> Result<Response, Refusal> {
    let made = service.receive(request, |service, mut ask: Ask| {
        let text = |text: &str| service.encode(text, EncodeOptions::SPECIAL);
        let prompt = match ask.prompt.take().ok_or_else(|| bad("prompt is missing"))? {
            Prompt::Text(prompt) => text(&prompt)?,
            Prompt::Tokens(tokens) => tokens,
            Prompt::Texts(prompts) => text(&only(prompts)?)?,
            Prompt::TokenLists(lists) => only(lists)?,
        };
        Ok((ask, prompt))
    });
    let (ask, prompt) = made.await?;
    service.answer(ask, prompt, false).await
}

/// The one prompt of a list.
fn only<T>(prompts: Vec<T>) -> Result<T, Refusal> {
    let [prompt] = <[T; 1]>::try_from(prompts)
        .map_err(|_| bad("one prompt a request: send several requests"))?;
    Ok(prompt)
}

async fn tokenize(State(service): Shared, request: Request) -> Result<Json<Value>, Refusal> {
    let made = service.receive(request, |service, mut ask: TokenizeAsk| {
        if let Some(messages) = ask.messages.take() {
            return service.conversation(messages, &Value::Null);
        }
        let options = EncodeOptions {
            add_special: ask.add_special_tokens.unwrap_or(true),
            parse_special: true,
        };
        service.encode(&ask.text().map_err(bad)?, options)
    });
    let tokens = made.await?;
    Ok(Json(
        json!({"count": tokens.len(), "max_model_len": service.limits.context, "tokens": tokens}),
    ))
}

async fn detokenize(State(service): Shared, request: Request) -> Result<Json<Value>, Refusal> {
    let made = service.receive(request, |service, ask: DetokenizeAsk| {
        service.tokenizer.decode(&ask.tokens, true).map_err(bad)
    });
    let bytes = made.await?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Json(json!({"prompt": text, "content": text})))
}

impl Service {
    /// A service that answers to whoever brings one of `keys`, or to everybody if there is none.
    pub fn new(
        name: String,
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        (queue, stats): (Arc<Queue>, Arc<Stats>),
        limits: Limits,
        keys: Vec<String>,
    ) -> Self {
        Self {
            tokenizer,
            template,
            queue,
            stats,
            limits,
            name,
            keys,
            answers: AtomicU64::new(0),
            bytes: Arc::new(Semaphore::new(
                limits
                    .body
                    .saturating_mul(LARGEST_HELD)
                    .min(Semaphore::MAX_PERMITS),
            )),
        }
    }

    /// The model as clients are told of it.
    fn described(&self) -> Value {
        json!({
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "tokgate",
            "root": self.name,
            "max_model_len": self.limits.context,
        })
    }

    /// Whether that model is the one here.
    fn is_served(&self, id: &str) -> Result<(), Refusal> {
        if id == self.name {
            return Ok(());
        }
        let name = &self.name;
        Err(Refusal(
            404,
            format!(
                "there is no model '{id}'; the one here is '{name}' (--alias gives it another name)"
            ),
        ))
    }

    /// Whether the request may be answered.
    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, key)| key);
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

    /// Takes a request in and makes of it what `make` does.
    async fn receive<A: DeserializeOwned, T: Send + 'static>(
        self: &Arc<Self>,
        request: Request,
        make: impl FnOnce(&Self, A) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.check(request.headers())?;
        let arrived = timeout(self.limits.receive, self.body(request.into_body())).await;
        let bytes = arrived.unwrap_or_else(|_| {
            Err(Refusal(
                408,
                "the request did not arrive in time".to_owned(),
            ))
        });
        let bytes = bytes?;
        let service = Arc::clone(self);
        let is_small = bytes.0.len() <= SMALL;
        let made = move || {
            let ask = serde_json::from_slice(&bytes.0);
            make(
                &service,
                ask.map_err(|error| bad(format!("not a request: {error}")))?,
            )
        };
        if is_small {
            return made();
        }
        let made = spawn_blocking(made).await;
        made.map_err(|error| Refusal(500, error.to_string()))?
    }

    /// The bytes of a request, and the permission to hold them.
    async fn body(
        &self,
        mut body: Body,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
        let most = self.limits.body;
        let mut bytes = Vec::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| bad("the request did not arrive whole"))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > most - bytes.len() {
                return Err(Refusal(
                    413,
                    format!("the request has more than {most} bytes"),
                ));
            }
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.bytes)
                .try_acquire_many_owned(size)
                .map_err(|_| {
                    Refusal(
                        503,
                        "too many large requests arrive at a time; try again later".to_owned(),
                    )
                })?;
            match &mut held {
                None => held = Some(more),
                Some(held) => held.merge(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, held))
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
        if let Some(id) = ask.model.as_deref().filter(|id| !id.is_empty()) {
            self.is_served(id)?;
        }
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
        let (events, received) = outbox();
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
            Refused::Full(_) => Refusal(429, refused.to_string()),
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
        let streaming = ask.streaming();
        drop(ask);
        match streaming {
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
        mut events: Receiver<Event>,
    ) -> Result<Response, Refusal> {
        let mut all = Piece::default();
        while let Some(event) = events.recv().await {
            match event {
                Event::Failed(message) => return Err(Refusal(500, message)),
                Event::Piece(piece) => {
                    all.append(piece);
                    if let Some(finish) = &all.finish {
                        let answer = answer.whole(&all, finish, &self.tokenizer);
                        return Ok(Json(answer).into_response());
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
