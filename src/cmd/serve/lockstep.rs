//! `tokgate serve --lockstep`: a server that is asked by its own process, some requests at once, whenever somebody says so.
//! What is timed is all of serving: connections, queue, batches, sampling and streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Map, json};

use crate::cmd::Outcome;
use crate::cmd::lockstep::take_turns;
use crate::cmd::model::Loaded;
use crate::engine::tokenizer::Tokenizer;
use crate::load::generator::Plan;
use crate::load::{Api, Client};
use crate::record::BenchId;
use crate::workload::requests::{Random, Request, Vocabulary};
use tokgate_kernels::Runtime;

/// Tokens of a prompt at most, and of its answer: both parts of a request take part of the time.
const PROMPT: u32 = 32;
const ANSWER: u32 = 32;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Who is asked, and by how many requests at once.
pub(super) struct Asking {
    pub address: SocketAddr,
    /// Keys that the server wants one of.
    pub keys: Vec<String>,
    pub name: String,
    pub tokenizer: Arc<Tokenizer>,
    pub streams: usize,
}

impl Asking {
    /// `serve/q8_0/avx2/NAME_c4_p32_n32_t2`, by the grammar of all ids: streams, tokens of prompts and answers, threads.
    pub fn id(&self, loaded: &Loaded, rt: &Runtime) -> anyhow::Result<BenchId> {
        let stem = loaded.path.file_stem().unwrap_or_default();
        let id = format!(
            "serve/{}/{}/{}_c{}_p{PROMPT}_n{ANSWER}_t{}",
            loaded.matrix_type().name(),
            rt.level(),
            stem.to_string_lossy(),
            self.streams,
            rt.pool().threads()
        );
        Ok(id.parse()?)
    }

    /// The requests with as many of their words as fit.
    fn shortened(&self, mut requests: Vec<Request>) -> Vec<Request> {
        let tokens = |text: &str| Vocabulary::encode(&*self.tokenizer, text).len();
        for request in &mut requests {
            let mut end = request.text.len();
            while tokens(&request.text[..end]) > PROMPT as usize
                && let Some(shorter) = request.text[..end].rfind(' ')
            {
                end = shorter;
            }
            request.text.truncate(end);
        }
        requests
    }

    /// Answers until standard input ends. A pass is as many requests as there are streams, each with another prompt than
    /// any before, and the same ones in all processes.
    pub fn run(&self, id: BenchId) -> anyhow::Result<Outcome> {
        let client = Client::new(&self.address.ip().to_string(), self.address.port())?;
        let client = client.with_key(self.keys.first().map(String::as_str));
        let stop = AtomicBool::new(false);
        let mut seed = 0;
        take_turns(id, || {
            seed += 1;
            let random = Random {
                count: self.streams,
                input: PROMPT,
                output: ANSWER,
                range_ratio: 0.0,
                seed,
            };
            let plan = Arc::new(Plan {
                client: client.clone(),
                model: self.name.clone(),
                api: Api::Completions,
                path: Api::Completions.path().to_owned(),
                requests: self.shortened(random.requests(None)),
                arrivals: vec![Duration::ZERO; self.streams],
                concurrency: None,
                extra: Map::from_iter([
                    ("temperature".to_owned(), json!(0)),
                    ("ignore_eos".to_owned(), json!(true)),
                ]),
                limit: LIMIT,
            });
            let run = plan.run(&stop, |_| {})?;
            for asked in &run.asked {
                let asked = asked.as_ref().context("a request was not answered")?;
                let reply = asked.reply.as_ref().map_err(Clone::clone)?;
                ensure!(
                    reply.tokens == u64::from(ANSWER),
                    "an answer has {} tokens instead of {ANSWER}",
                    reply.tokens
                );
            }
            Ok(run.duration.as_nanos() as u64)
        })
    }
}
