//! An answer while it is computed, as server-sent events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::mpsc::Receiver;

use super::answer::{self, Answer};
use super::piece::Event;
use crate::engine::tokenizer::Tokenizer;

/// What every stream ends with, failed ones too: clients read up to it.
const DONE: &str = "data: [DONE]\n\n";

/// An answer in pieces. Dropping it, as hyper does when the client is gone, cancels the job.
pub struct Stream {
    answer: Answer,
    events: Receiver<Event>,
    with_usage: bool,
    tokenizer: Arc<Tokenizer>,
    /// Characters of text that were sent; `None` before the first piece.
    sent: Option<usize>,
    is_over: bool,
}

impl Stream {
    /// `with_usage` adds the count of tokens.
    pub fn new(
        answer: Answer,
        events: Receiver<Event>,
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

    /// As it is sent.
    pub fn response(self) -> Response {
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
                answer::event(&answer::error(500, &message)) + DONE
            }
            Event::Piece(piece) => {
                let at = self.sent.unwrap_or(0);
                let mut text = answer::event(&self.answer.chunk(
                    &piece,
                    self.sent.is_none(),
                    at,
                    &self.tokenizer,
                ));
                self.sent = Some(at + piece.text.chars().count());
                if let Some(finish) = &piece.finish {
                    self.is_over = true;
                    if self.with_usage {
                        text += &answer::event(&self.answer.usage(finish));
                    }
                    text += DONE;
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
