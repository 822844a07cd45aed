//! `tokgate serve`: a model behind OpenAI's protocol.

mod lockstep;

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use lockstep::Asking;

use super::{Outcome, draft, model, runtime};
use crate::cli::ServeArgs;
use crate::generation::chat::Template;
use crate::probe::system::available_memory;
use crate::serve::{ChatTemplate, Engine, Layout, Limits, Queue, Service, Stats, serve};

/// Positions of a slot where nobody says: what a chat needs, not what the model could.
const CONTEXT: usize = 8192;

const GIB: f64 = (1_u64 << 30) as f64;

/// Time for a request to arrive.
const RECEIVE: Duration = Duration::from_secs(30);

/// Serves until a signal.
///
/// # Errors
/// If the model cannot be used, the memory or the port cannot be had, or the engine fails.
pub fn run(args: &ServeArgs) -> anyhow::Result<Outcome> {
    let keys = keys(args.api_key_file.as_deref())?;
    let loaded = model::load(&args.model.model, &args.model)?;
    let tokenizer = Arc::new(loaded.tokenizer()?);
    let draft = args.draft.as_deref();
    let draft = draft.map(|path| draft::load(path, &args.model, &tokenizer));
    let draft = draft.transpose()?;
    let rt = runtime::from_args(&args.runtime)?;
    let config = loaded.model.config();
    let trained = config.n_context.max(1);
    let context = args.ctx_size.unwrap_or(trained.min(CONTEXT));
    if context > trained {
        eprintln!(
            "tokgate: warning: the model was trained for {trained} tokens, not for {context}"
        );
    }
    let layout = Layout {
        slots: args.parallel,
        context,
        rows: args.ubatch_size,
        kv: model::kv(args.kv),
        look_up: args.look_up,
        batch_invariant: args.batch_invariant,
    };
    let token = |id: Option<u32>| {
        let bytes = id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let plain = Template::of(&tokenizer);
    let template = ChatTemplate::new(
        loaded.chat_template(),
        plain,
        token(tokenizer.bos()),
        token(tokenizer.eos()),
    )
    .context("the model's chat template")?;
    let drafter = draft.as_ref().map(|draft| {
        let passes = (args.ubatch_size, layout.kv);
        draft::drafter(&args.draft_options, draft, &loaded, &rt, passes)
    });
    let engine = Engine::new(&loaded.model, &rt, &tokenizer, layout, drafter.transpose()?)?;
    let (needed, available) = (engine.kv_bytes() as u64, available_memory());
    if available > 0 && needed > available {
        eprintln!(
            "tokgate: warning: full slots take {:.1} GiB and {:.1} GiB are available; lower --parallel or --ctx-size",
            needed as f64 / GIB,
            available as f64 / GIB
        );
    }
    let stats = Arc::new(Stats::default());
    let queue = Arc::new(Queue::new(args.max_queue, Arc::clone(&stats)));
    let limits = Limits {
        connections: args.max_connections,
        body: args.max_body,
        receive: RECEIVE,
        answer: Duration::from_secs(args.timeout),
        context,
        n_vocab: config.n_vocab,
    };
    let name = args.alias.clone();
    let name = name.unwrap_or_else(|| name_of(&args.model.model));
    let shared = (Arc::clone(&queue), Arc::clone(&stats));
    let service = Service::new(name, Arc::clone(&tokenizer), template, shared, limits, keys);
    let service = Arc::new(service);
    let stop = Arc::new(AtomicBool::new(false));
    // Whoever waits for a question on standard input cannot finish what runs: a signal ends it.
    let signals = [SIGINT, SIGTERM].into_iter();
    for signal in signals.filter(|_| args.lockstep.is_none()) {
        // In this order, the first one is taken note of, and a second one ends the process.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).context("signals")?;
        flag::register(signal, Arc::clone(&stop)).context("signals")?;
    }
    // Whoever asks itself wants no port of its own.
    let port = if args.lockstep.is_some() {
        0
    } else {
        args.port
    };
    let listener = TcpListener::bind((args.host, port)).with_context(|| {
        format!(
            "cannot listen at {}:{}; is the port in use?",
            args.host, port
        )
    })?;
    let address = listener.local_addr()?;
    if !args.host.is_loopback() && service.keys.is_empty() {
        eprintln!(
            "tokgate: warning: everybody who reaches {address} may use it; --api-key-file limits that"
        );
    }
    eprintln!(
        "tokgate: {} ({}) at http://{address}/v1, {} slots of {context} tokens; Ctrl-C finishes what runs",
        service.name,
        loaded.model_type(),
        args.parallel
    );
    let totals = Arc::clone(&stats);
    let asking = args.lockstep.map(|streams| Asking {
        address,
        keys: service.keys.clone(),
        name: service.name.clone(),
        tokenizer: Arc::clone(&tokenizer),
        streams,
    });
    thread::scope(|scope| {
        let computing = scope.spawn(|| engine.run(&queue, &stats));
        let asking = asking.map(|asking| {
            let id = asking.id(&loaded, &rt);
            let stop = &stop;
            scope.spawn(move || {
                let ended = id.and_then(|id| asking.run(id));
                stop.store(true, Ordering::Relaxed);
                ended
            })
        });
        let served = serve(listener, service, &stop, || !computing.is_finished());
        queue.close();
        computing
            .join()
            .map_err(|_| anyhow::anyhow!("the engine panicked"))??;
        served.context("serving")?;
        match asking.map(ScopedJoinHandle::join) {
            Some(Err(_)) => bail!("what asks this server panicked"),
            Some(Ok(ended)) => ended.map(drop),
            None => Ok(()),
        }
    })?;
    // Whoever closed standard error wants no summary.
    let _ = writeln!(io::stderr(), "tokgate: {}", totals.summary());
    Ok(Outcome::Clean)
}

fn name_of(path: &Path) -> String {
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    name.map_or_else(
        || "model".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn keys(path: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    ensure!(
        !keys.is_empty(),
        "{} has no key; write one a line",
        path.display()
    );
    Ok(keys)
}
