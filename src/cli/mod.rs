//! The command line: clap types only, no behaviour. One file a family of subcommands.

mod baseline;
mod bench;
mod bisect;
mod cluster;
mod comment;
mod gate;
mod load;
mod model;
mod probe;
mod prompts;
mod run;
mod serve;
mod sweep;
mod task;
mod trend;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::metrics;
use bench::llama_bench_spellings;

pub use baseline::{CompareArgs, RecordArgs, ReportFormat};
pub use bench::{BenchArgs, BenchFormat, FlashAttn};
pub use bisect::{BisectArgs, BisectMetric, BisectStepArgs};
pub use cluster::{
    ClusterArgs, ClusterBenchArgs, ClusterCommand, ClusterFormat, ClusterRunArgs, Experts,
    MemberArgs, Shares,
};
pub use comment::CommentArgs;
pub use gate::{CalibrateArgs, GateArgs, GateFormat, MeasuringArgs};
pub use load::{LoadArgs, LoadBackend, LoadDataset};
pub use model::{
    DraftArgs, InspectArgs, InspectFormat, KvType, LogitsArgs, ModelArgs, PassArgs, PerplexityArgs,
    RequantizeType, RuntimeArgs, SamplingArgs, SynthArgs, TokenizeArgs, WeightType,
};
pub use probe::{ProbeArgs, ProbeCommand, ProbeFormat, ProbeMemoryArgs};
pub use prompts::{PromptsApi, PromptsArgs, PromptsFormat};
pub use run::{MetricsFormat, RunArgs};
pub use serve::ServeArgs;
pub use sweep::SweepArgs;
pub use task::{TaskArgs, TaskCommand, TaskMode, TaskRunArgs, TaskSortArgs};
pub use trend::{ExportArgs, ExportFormat, HistoryArgs};

/// Kernels that run large language models on CPUs, and the suite that catches the commit which made them slower.
#[derive(Debug, Parser)]
#[command(name = "tokgate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The command line of this process. `bench` also takes llama-bench's spellings with one dash (`-fa 1`, `-ub 512`).
    pub fn of_process() -> Self {
        Self::parse_from(llama_bench_spellings(std::env::args_os()))
    }
}

/// The text of a topic that help was asked for and that is no subcommand: `tokgate --help metrics` has the formulas of
/// `tokgate run --metrics`.
pub fn topic(args: impl Iterator<Item = OsString>) -> Option<String> {
    let args: Vec<OsString> = args.skip(1).collect();
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    match words[..] {
        ["help" | "--help", "metrics"] | ["run", "--help", "metrics"] => Some(metrics::help()),
        _ => None,
    }
}

/// One subcommand; its arguments are defined here, its behaviour in the file of the same name under `cmd/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a text, printing it as it comes.
    Run(RunArgs),
    /// Serve a model to OpenAI's clients (in builds with the feature `serve`).
    Serve(ServeArgs),
    /// Tell how well a model predicts a text.
    Perplexity(PerplexityArgs),
    /// Measure prompt processing and generation, as llama-bench does and in its formats.
    Bench(BenchArgs),
    /// Run one model on several machines: tensor parallel over MPI.
    Cluster(ClusterArgs),
    /// Tell what the machine is, and measure what it can do at most.
    Probe(ProbeArgs),
    /// Time a running server's answers to six fixed prompts.
    Prompts(PromptsArgs),
    /// Load a running server with many requests, and tell its latencies and throughput as vLLM's bench serve does.
    Load(LoadArgs),
    /// Measure a model at several thread counts, and recommend one for prompts and one for generation.
    Sweep(SweepArgs),
    /// Make or run a task of many conversations, such as sorting numbers.
    Task(TaskArgs),
    /// Write the logits of given tokens.
    Logits(LogitsArgs),
    /// Print what is in a model's files: sizes, types, metadata, tensors.
    Inspect(InspectArgs),
    /// Make a model file of a real shape, with seeded weights and a vocabulary.
    Synth(SynthArgs),
    /// Print the token ids of a text, on one line.
    Tokenize(TokenizeArgs),
    /// Keep what the last `cargo bench` measured as this machine's baseline.
    Record(RecordArgs),
    /// Compare the last `cargo bench` with a baseline, or two baselines with each other.
    Compare(CompareArgs),
    /// Write a page of what the commits of this branch measured.
    History(HistoryArgs),
    /// Write measurements in a format that other tools read.
    Export(ExportArgs),
    /// Measure two commits in one session and say what became slower.
    Gate(GateArgs),
    /// Gate a commit against itself, and keep what that shows of this machine.
    Calibrate(CalibrateArgs),
    /// Tell a pull request what a gate run or a comparison found.
    Comment(CommentArgs),
    /// Find the commit that made a bench slower, with a stated probability.
    Bisect(BisectArgs),
    /// Tell `git bisect run` whether what is checked out is slower than a good commit.
    BisectStep(BisectStepArgs),
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn metrics_are_a_topic_of_help() {
        let topic = |line: &str| topic(line.split(' ').map(OsString::from));
        for line in [
            "tokgate help metrics",
            "tokgate --help metrics",
            "tokgate run --help metrics",
        ] {
            assert!(
                topic(line).is_some_and(|text| text.contains("first_token")),
                "{line}"
            );
        }
        assert_eq!(topic("tokgate run -p metrics"), None);
    }

    #[test]
    fn bench_takes_llama_benchs_spellings() {
        let line = "tokgate bench -m a,b -ub 64 -fa 1 -pg 8,2 -ctk f32 -oe md -t 1,2";
        let args = llama_bench_spellings(line.split(' ').map(OsString::from));
        let Command::Bench(args) = Cli::try_parse_from(args).unwrap().command else {
            panic!("another command");
        };
        assert_eq!((args.ubatch, args.prompt_gen), (vec![64], vec![(8, 2)]));
        assert_eq!((args.type_k, args.threads), (KvType::F32, vec![1, 2]));
        assert_eq!((args.model.len(), args.flash_attn), (2, FlashAttn::On));
    }
}
