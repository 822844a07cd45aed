//! Arguments of `tokgate load`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::{ReportFormat, positive};

/// The most requests of a load.
const MAX_REQUESTS: usize = 1_000_000;

/// Arguments of `tokgate load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Data sets:
  sharegpt:FILE  conversations of a ShareGPT file, for a seed the same ones in the
                 same order as vLLM's bench serve; tokens are counted by
                 --tokenizer or by the server's /tokenize
  random         random tokens of --random-input-len, if there is a --tokenizer,
                 and else random words
  sort           numbers to sort, as of `tokgate task sort`
  prompts        the six texts of `tokgate prompts`, in turn

Examples:
  tokgate load --url http://localhost:8080 --dataset prompts --max-concurrency 4
  tokgate load --url http://localhost:8080 --backend openai-chat --num-prompts 50 \\
    --dataset sharegpt:Python-Code-23k-ShareGPT.json --max-concurrency 1 --seed 1
  tokgate load --url http://localhost:8080 --dataset random --request-rate 4 \\
    --burstiness 0.5 --goodput ttft:500 tpot:50 --result load.json
  tokgate compare before.json after.json

Prints the table of vLLM's bench serve and writes its result JSON; what is ours
alone stands below the table, and in the file under the key 'tokgate'. Ctrl-C
keeps what was measured. OPENAI_API_KEY goes with the requests if it is set.

Exit code: 0 every request was answered, 2 trouble, an interrupt, or a request
that was not; what was measured is printed and written all the same.")]
pub struct LoadArgs {
    /// The server, http://HOST:PORT.
    #[arg(long, required_unless_present = "self_check")]
    pub url: Option<String>,
    /// How to ask [default: openai, or as --endpoint says].
    #[arg(long, value_enum)]
    pub backend: Option<LoadBackend>,
    /// The path to ask [default: that of the backend].
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// The model to ask for [default: the server's first].
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// What to ask: sharegpt:FILE, random, sort or prompts.
    #[arg(long, default_value = "random", value_name = "SET")]
    pub dataset: LoadDataset,
    /// Requests.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = requests)]
    pub num_prompts: usize,
    /// Requests at once at most [default: no limit].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_concurrency: Option<usize>,
    /// Requests a second that arrive; inf sends them all at once.
    #[arg(long, default_value = "inf", value_name = "R", value_parser = above_zero)]
    pub request_rate: f64,
    /// Shape of the gamma distribution of the gaps between arrivals: 1 is a Poisson process, less comes in bursts, inf is
    /// even.
    #[arg(long, default_value = "1", value_name = "B", value_parser = above_zero)]
    pub burstiness: f64,
    /// Seed of the data set and of the arrivals.
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u32,
    /// Tokens of a random prompt.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub random_input_len: u32,
    /// Tokens of the answer to a random prompt.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub random_output_len: u32,
    /// How far random lengths go from these, as a share below 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub random_range_ratio: f64,
    /// Numbers of a conversation of the sort task.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = positive)]
    pub sort_ints: usize,
    /// Tokens of every answer, whatever the data set says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub output_len: Option<u64>,
    /// What counts tokens of prompts: a model (its GGUF file or folder), or tokenizer.json.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Requests before the measurement, which do not count; 0 measures a cold server.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = warm_ups)]
    pub warm_up: usize,
    /// Ask for answers of full length; random prompts always do.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Temperature of the answers.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f64,
    /// More fields of every request, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub extra_body: Option<Map<String, Value>>,
    /// Times to print: ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue.
    #[arg(long, value_delimiter = ',', default_value = "ttft,tpot,itl", value_name = "METRICS", value_parser = metric)]
    pub percentile_metrics: Vec<String>,
    /// Percentiles of these.
    #[arg(long, value_delimiter = ',', default_value = "99", value_name = "PERCENTS", value_parser = percent)]
    pub metric_percentiles: Vec<f64>,
    /// Most that a good request may take, in milliseconds: ttft:MS, tpot:MS, e2el:MS.
    #[arg(long, num_args = 1.., value_name = "METRIC:MS", value_parser = limit)]
    pub goodput: Vec<(String, f64)>,
    /// Write the result to this file as JSON.
    #[arg(long, visible_alias = "save-result", value_name = "FILE")]
    pub result: Option<PathBuf>,
    /// A name for the result.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Seconds that an answer may take.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// The server's process on this machine, to tell its peak memory.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<i32>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// Measure what this program itself adds to times, with a server within it that streams on a known schedule.
    #[arg(long)]
    pub self_check: bool,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadBackend {
    /// /v1/completions.
    Openai,
    /// /v1/chat/completions.
    OpenaiChat,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadDataset {
    /// Conversations of a file.
    Sharegpt(PathBuf),
    /// Random tokens or words.
    Random,
    /// The sort task.
    Sort,
    /// Fixed prompts.
    Prompts,
}

impl FromStr for LoadDataset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sharegpt", file)) if !file.is_empty() => Ok(Self::Sharegpt(file.into())),
            None if text == "random" => Ok(Self::Random),
            None if text == "sort" => Ok(Self::Sort),
            None if text == "prompts" => Ok(Self::Prompts),
            _ => Err("there are sharegpt:FILE, random, sort and prompts".to_owned()),
        }
    }
}

fn requests(text: &str) -> Result<usize, String> {
    match warm_ups(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

fn warm_ups(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_REQUESTS);
    count.ok_or_else(|| format!("must be a number up to {MAX_REQUESTS}"))
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0, "must be above 0, or inf")
}

fn share(text: &str) -> Result<f64, String> {
    number(
        text,
        |number| (0.0..1.0).contains(&number),
        "must be at least 0 and below 1",
    )
}

fn percent(text: &str) -> Result<f64, String> {
    number(
        text,
        |number| (0.0..=100.0).contains(&number),
        "must be from 0 to 100",
    )
}

fn number(text: &str, fits: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number| fits(*number));
    number.ok_or_else(|| wanted.to_owned())
}

fn metric(text: &str) -> Result<String, String> {
    let known = crate::load::figures::METRICS;
    match known.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("there are {}", known.join(", "))),
    }
}

fn limit(text: &str) -> Result<(String, f64), String> {
    let wanted = "must be ttft:MS, tpot:MS or e2el:MS";
    let (metric, limit) = text.split_once(':').ok_or(wanted)?;
    match metric {
        "ttft" | "tpot" | "e2el" => {
            number(limit, |limit| limit >= 0.0, wanted).map(|limit| (metric.to_owned(), limit))
        }
        _ => Err(wanted.to_owned()),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
