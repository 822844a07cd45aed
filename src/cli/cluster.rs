//! Arguments of `tokgate cluster`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ModelArgs, PassArgs, RuntimeArgs, SamplingArgs, positive};
use crate::cluster::network::Network;

/// Arguments of `cluster`.
#[derive(Debug, Args)]
#[command(after_help = "\
Several machines run one model together, each with a part of every layer; mpirun
starts them. Ranks agree on the model at start; every machine needs its file, or
gets it with --send-weights.

Examples:
  mpirun -n 2 --host one,two --bind-to none \\
    tokgate cluster bench -m llama2-7b.gguf --shares auto -n 64
  mpirun -n 2 --host one,two --bind-to none \\
    tokgate cluster run -m llama2-7b.gguf -p 'Once upon a time' -n 64
  mpirun -n 2 --host one,two --bind-to none \\
    tokgate cluster run -m llama2-7b.gguf --send-weights -p Hello
                                       rank 0 alone has the file
  tokgate cluster bench -m llama2-7b.gguf --model-network 160,1
                                       what more such machines would do
  tokgate cluster bench -m tiny.gguf --in-process 2       threads, without MPI")]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What a cluster does.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Measure how fast the ranks are together, and where the time goes.
    Bench(ClusterBenchArgs),
    /// Continue a text on all ranks together.
    Run(ClusterRunArgs),
}

/// What all of them take.
#[derive(Debug, Args)]
pub struct MemberArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub model: ModelArgs,

    /// Shares of the ranks, such as 50,50, or 'auto' for what each measures of itself at start.
    #[arg(long, default_value = "auto", value_name = "SHARES", value_parser = shares)]
    pub shares: Shares,

    /// How the experts of a mixture are divided among ranks.
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    pub experts: Experts,

    /// Run N ranks as threads of this process instead of those that mpirun started.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub in_process: Option<usize>,

    /// Send rank 0's model to ranks that have no file of it, which keep it for the next time.
    #[arg(long)]
    pub send_weights: bool,

    /// Where ranks keep what they were sent. [default: tokgate/weights in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR", requires = "send_weights")]
    pub weights_cache: Option<PathBuf>,

    /// Make every message come this much later, to see what a slower network would do.
    #[arg(long, default_value_t = 0, value_name = "US")]
    pub inject_latency_us: u64,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub pass: PassArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub runtime: RuntimeArgs,
}

/// How experts are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Experts {
    /// The way that is predicted to be faster: rows, unless an expert has too few of them.
    Auto,
    /// Some rows of every expert: all ranks do the same of every token.
    Rows,
    /// Whole experts, which stay mapped where rows are copied; a rank may have most of a token's.
    Whole,
}

/// Arguments of `cluster bench`.
#[derive(Debug, Args)]
pub struct ClusterBenchArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub member: MemberArgs,

    /// Prompt tokens; 0 measures no prompt.
    #[arg(short = 'p', long, default_value_t = 0, value_name = "N")]
    pub n_prompt: usize,

    /// Tokens to generate.
    #[arg(short, long, default_value_t = 32, value_name = "N", value_parser = positive)]
    pub n_gen: usize,

    /// Repetitions, after one that warms up.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = positive)]
    pub repetitions: usize,

    /// Seed of the random tokens.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Do not run the whole model on rank 0 to compare with.
    #[arg(long)]
    pub no_baseline: bool,

    /// Tell what up to 64 machines like rank 0's would do on a network of this latency and bandwidth.
    #[arg(long, value_name = "US,GBIT/S", value_parser = network)]
    pub model_network: Option<Network>,

    /// Write what every rank spent on every exchange of the last repetition, as CSV.
    #[arg(long, value_name = "FILE.csv")]
    pub log: Option<PathBuf>,

    /// Write the result to this file as JSON, for `tokgate record --from` and `tokgate compare`.
    #[arg(long, value_name = "FILE.json")]
    pub result: Option<PathBuf>,

    /// Output on standard output.
    #[arg(short, long, value_enum, default_value = "md")]
    pub output: ClusterFormat,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClusterFormat {
    /// Tables in Markdown.
    Md,
    /// One JSON object.
    Json,
}

/// Arguments of `cluster run`.
#[derive(Debug, Args)]
pub struct ClusterRunArgs {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub member: MemberArgs,

    /// Text to continue.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: OsString,

    /// Tokens to generate at most.
    #[arg(short, long, default_value_t = 128, value_name = "N")]
    pub n_predict: usize,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would show it as the help of every flag in it"
    )]
    pub sampling: SamplingArgs,
}

/// Shares of ranks.
#[derive(Clone, Debug, PartialEq)]
pub enum Shares {
    /// By what each measures of itself.
    Auto,
    /// As given.
    Given(Vec<f64>),
}

fn shares(text: &str) -> Result<Shares, String> {
    if text == "auto" {
        return Ok(Shares::Auto);
    }
    let numbers = text.split(',').map(positive_number);
    numbers.collect::<Result<_, _>>().map(Shares::Given)
}

fn network(text: &str) -> Result<Network, String> {
    let (latency, bandwidth) = text
        .split_once(',')
        .ok_or("expected a latency in µs and a bandwidth in Gbit/s, such as 160,1")?;
    let latency: f64 = latency.parse().map_err(|error| format!("{error}"))?;
    if !(0.0..=1e9).contains(&latency) {
        return Err("the latency must be 0 or more microseconds".to_owned());
    }
    Ok(Network::new(latency, positive_number(bandwidth)?))
}

fn positive_number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e12 => Ok(number),
        Ok(number) => Err(format!("{number} is not a positive number")),
        Err(error) => Err(format!("{text:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_networks_are_read() {
        assert_eq!(shares("auto"), Ok(Shares::Auto));
        assert_eq!(shares("50,25.5"), Ok(Shares::Given(vec![50.0, 25.5])));
        assert!(shares("50,0").is_err() && shares("").is_err() && shares("nan").is_err());
        assert_eq!(network("160,1"), Ok(Network::new(160.0, 1.0)));
        assert!(network("160").is_err() && network("-1,1").is_err() && network("1,0").is_err());
    }
}
