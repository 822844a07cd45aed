//! A server of OpenAI's protocol, as unmodified clients speak it.
//!
//! ```text
//! connections (one async thread) → queue → engine (one thread, and the pool's) → events → connections
//! ```
//! `scheduler`, `stop` and `template` are functions of data; `engine` and `place` compute; `listen`, `http`,
//! `request`, `answer` and `stream` are the protocol. Nothing that a client sends is trusted: there are limits on connections, waiting requests, bytes,
//! and time, and all large memory is claimed before the first request.

mod answer;
mod engine;
mod http;
mod listen;
mod outbox;
mod piece;
mod place;
mod queue;
mod request;
mod scheduler;
mod stats;
mod stop;
mod stream;
mod template;

pub use engine::{Engine, Layout};
pub use http::{Limits, Service};
pub use listen::serve;
pub use queue::Queue;
pub use stats::Stats;
pub use template::ChatTemplate;
