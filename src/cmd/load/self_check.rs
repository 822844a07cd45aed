//! `tokgate load --self-check`: what this program adds to the times of a server, by a server whose times are known.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::cli::LoadArgs;
use crate::cmd::{Outcome, interrupts, print};
use crate::judge::stats::quantile;
use crate::load::generator::{Plan, Run};
use crate::load::{Api, Client};
use crate::workload::arrivals::arrivals;
use crate::workload::requests::Request;

/// Until the first token of an answer, and between its tokens.
const FIRST: Duration = Duration::from_millis(50);
const GAP: Duration = Duration::from_millis(10);

/// Tokens of an answer.
const TOKENS: usize = 32;

/// Requests a second, where the user names no rate.
const RATE: f64 = 10.0;

/// What a piece of an answer is.
const PIECE: &str = "data: {\"choices\":[{\"text\":\" token\",\"finish_reason\":null}]}\n\n";
const END: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":32}}\n\n\
     data: [DONE]\n\n";

/// Milliseconds from when a request had come until each of its pieces was about to be written, by request.
type Written = BTreeMap<usize, Vec<f64>>;

/// Measures, prints the difference of both sides' times, and gives no verdict: that depends on who else is running.
pub fn run(args: &LoadArgs) -> anyhow::Result<Outcome> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a port of this machine")?;
    let port = listener.local_addr()?.port();
    let written = Arc::new(Mutex::new(Written::default()));
    serve(listener, &written);
    let rate = if args.request_rate.is_finite() {
        args.request_rate
    } else {
        RATE
    };
    let request = |at: usize| Request {
        text: at.to_string(),
        prompt_tokens: None,
        max_tokens: TOKENS as u64,
    };
    let plan = Arc::new(Plan {
        client: Client::new("127.0.0.1", port)?,
        model: "self-check".to_owned(),
        api: Api::Completions,
        path: Api::Completions.path().to_owned(),
        requests: (0..args.num_prompts).map(request).collect(),
        arrivals: arrivals(args.num_prompts, rate, args.burstiness, args.seed),
        concurrency: args.max_concurrency,
        extra: serde_json::Map::new(),
        limit: Duration::from_secs(args.timeout),
    });
    let stop = interrupts()?;
    let over = AtomicBool::new(false);
    let (run, bare) = thread::scope(|scope| {
        let bare = scope.spawn(|| bare(&over));
        let run = plan.run(&stop, |_| {});
        over.store(true, Ordering::Relaxed);
        (run, bare.join())
    });
    let run = run?;
    let bare = bare.unwrap_or_else(|_| Ok(Vec::new()));
    let bare = bare.context("a connection within this machine")?;
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = Rows::of(&run, &written);
    let mut text = format!(
        "{} requests at {rate} a second in {:.1} s to a server within this program; it\n\
         streams {TOKENS} tokens, the first after {} ms and the others {} ms apart. Times in ms.\n\n\
         {:<18}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        rows.ttft[0].len(),
        run.duration.as_secs_f64(),
        FIRST.as_millis(),
        GAP.as_millis(),
        "",
        "count",
        "mean",
        "median",
        "P99",
        "largest"
    );
    let mut row = |name: &str, values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let at = |p| quantile(&sorted, p);
        text.push_str(&format!(
            "{name:<18}{:>10}{mean:>10.3}{:>10.3}{:>10.3}{:>10.3}\n",
            values.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        ));
    };
    row("TTFT, server", &rows.ttft[0]);
    row("TTFT, measured", &rows.ttft[1]);
    row("TTFT, added", &rows.ttft[2]);
    row("of that, machine", &bare);
    row("ITL, server", &rows.itl[0]);
    row("ITL, measured", &rows.itl[1]);
    row("ITL, off by", &rows.itl[2]);
    row("sent late", &rows.late);
    text.push_str(
        "\nServer: from when it had the request, and by its clock, which its own sleeps make\n\
         longer than the schedule. Added and off by: measured less that, request by request\n\
         and gap by gap, with the way over the loopback and both threads' waking. Machine:\n\
         added to an answer of one byte after the same time, by two threads that do no more.\n",
    );
    print(&text)?;
    Ok(Outcome::Clean)
}

/// What is printed, in milliseconds: the server's, the measured, and their differences.
#[derive(Default)]
struct Rows {
    ttft: [Vec<f64>; 3],
    itl: [Vec<f64>; 3],
    late: Vec<f64>,
}

impl Rows {
    fn of(run: &Run, written: &Written) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mut rows = Self::default();
        for (at, asked) in run.asked.iter().enumerate() {
            let Some(asked) = asked else { continue };
            rows.late.push(ms(asked.late));
            let (Ok(reply), Some(times)) = (&asked.reply, written.get(&at)) else {
                continue;
            };
            let first = [times[0], ms(reply.first)];
            push(&mut rows.ttft, first, first[1] - first[0]);
            for (pair, gap) in times.windows(2).zip(&reply.gaps) {
                let gaps = [pair[1] - pair[0], ms(*gap)];
                push(&mut rows.itl, gaps, (gaps[1] - gaps[0]).abs());
            }
        }
        rows
    }
}

fn push(columns: &mut [Vec<f64>; 3], [server, measured]: [f64; 2], difference: f64) {
    let values = [server, measured, difference];
    columns
        .iter_mut()
        .zip(values)
        .for_each(|(column, value)| column.push(value));
}

/// Milliseconds that are added to the time of an answer where nothing is done but to wait for it, until it is `over`: the
/// loopback, and what the system takes to wake two threads that slept. Nobody can add less.
fn bare(over: &AtomicBool) -> std::io::Result<Vec<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut other, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    other.set_nodelay(true)?;
    thread::scope(|scope| {
        // Ends with an error when this side's stream does.
        scope.spawn(move || -> std::io::Result<()> {
            let mut asked = [0];
            loop {
                other.read_exact(&mut asked)?;
                let come = Instant::now();
                thread::sleep(FIRST);
                let taken = come.elapsed().as_nanos() as u64;
                other.write_all(&taken.to_ne_bytes())?;
            }
        });
        let mut added = Vec::new();
        while !over.load(Ordering::Relaxed) {
            thread::sleep(FIRST);
            let (sent, mut taken) = (Instant::now(), [0; 8]);
            stream.write_all(&[0])?;
            stream.read_exact(&mut taken)?;
            let taken = Duration::from_nanos(u64::from_ne_bytes(taken));
            added.push(sent.elapsed().saturating_sub(taken).as_secs_f64() * 1e3);
        }
        drop(stream);
        Ok(added)
    })
}

/// Serves until the process ends, a thread a connection.
fn serve(listener: TcpListener, written: &Arc<Mutex<Written>>) {
    let written = Arc::clone(written);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let written = Arc::clone(&written);
            // Whoever leaves in the middle ends its thread.
            thread::spawn(move || while answer(&stream, &written).is_ok() {});
        }
    });
}

fn answer(stream: &TcpStream, written: &Mutex<Written>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let come = Instant::now();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let request = body["prompt"].as_str().and_then(|at| at.parse().ok());
    let mut out = stream;
    out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let mut times = Vec::with_capacity(TOKENS);
    let chunk = format!("{:x}\r\n{PIECE}\r\n", PIECE.len());
    for token in 0..TOKENS {
        let due = come + FIRST + GAP * token as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        times.push(Instant::now());
        out.write_all(chunk.as_bytes())?;
    }
    let end = format!("{:x}\r\n{END}\r\n0\r\n\r\n", END.len());
    let times = times.iter().map(|at| (*at - come).as_secs_f64() * 1e3);
    if let Some(request) = request {
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(request, times.collect());
    }
    out.write_all(end.as_bytes())
}
