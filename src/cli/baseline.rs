//! Arguments of `tokgate record` and `tokgate compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `tokgate record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo bench && tokgate record
  tokgate record matmul/q8_0                 only benches whose id contains this
  tokgate record --as before-the-rewrite     beside the usual baseline, under a name
  tokgate record --baseline main             what criterion saved with --save-baseline main
  tokgate record --from hyperfine.json       what another harness wrote into a file
  tokgate record --from load.json            a load's latencies and throughput
  tokgate record --from load-*.json          the same load several times: each is a sample
  tokgate record --from cluster.json         what several machines do together

Reads the trees of criterion (target/criterion), iai-callgrind (target/iai) and gungraun
(target/gungraun) and writes baselines/<machine key>/baseline.jsonl. Benches that were not measured keep
the figures and the provenance that they have. Instruction counts are kept under the key of the CPU
family and compiler; callgrind's harnesses leave them behind only with IAI_CALLGRIND_SAVE_SUMMARY=json
or GUNGRAUN_SAVE_SUMMARY=json set.")]
pub struct RecordArgs {
    /// Only benches whose id contains this text.
    pub filter: Option<String>,
    /// Read the results in these: a target folder, the tree of a harness, or files of hyperfine, google-benchmark,
    /// llama-bench, `tokgate load`, `tokgate cluster bench` or vLLM's bench serve. They must be of this machine.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub from: Vec<PathBuf>,
    /// The target folder, where it is not the one that cargo uses.
    #[arg(long, value_name = "DIR", conflicts_with = "from")]
    pub target_dir: Option<PathBuf>,
    /// The name to keep the figures under.
    #[arg(long = "as", value_name = "NAME", default_value = "baseline")]
    pub name: String,
    /// Read what criterion saved under this name instead of its last run.
    #[arg(long, value_name = "NAME")]
    pub baseline: Option<String>,
    /// Also take results that an earlier run left behind.
    #[arg(long)]
    pub all: bool,
    /// Forget benches of the baseline that were not measured now.
    #[arg(long, conflicts_with = "filter")]
    pub replace: bool,
}

/// Arguments of `tokgate compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tokgate compare                  the last run with this machine's baseline
  tokgate compare main:            the last run with the baseline in 'main'
  tokgate compare HEAD~3: HEAD:    two commits' baselines
  tokgate compare before after     two baselines recorded --as these names
  tokgate compare -o md > report.md
  tokgate compare a.json b.json    two result files, every figure side by side
  tokgate compare a.txt b.txt c.txt        three columns

OLD and NEW are each REV: (the baselines of this machine in a commit), REV:KEY
(those of another machine), a baseline's file or folder, a target folder or
harness's tree, or the name of a baseline.

Result files are what this program writes with -o json, --output or --result,
vLLM's bench serve JSON and printed table, and llama-bench's JSON, JSONL and Markdown. They
are put side by side with the difference in percent from the unrounded figures,
and not judged: exit code 0. Two files of repeated measurements (JSON of
llama-bench, hyperfine, google-benchmark) are judged as benches are, unless
--side-by-side says otherwise.

Exit code: 0 nothing got worse, 1 a regression beyond baselines/gate.toml, 2
trouble. Nothing to compare is trouble, and so are figures of different machines
alone: they are shown, but never judged.")]
pub struct CompareArgs {
    /// What to compare with; this machine's baseline if left out.
    #[arg(value_name = "OLD")]
    pub old: Option<String>,
    /// What to compare; the last run if left out.
    #[arg(value_name = "NEW")]
    pub new: Option<String>,
    /// A third result file.
    #[arg(value_name = "THIRD")]
    pub third: Option<String>,
    /// Put two files of llama-bench's JSON side by side, too, instead of judging the second by the first.
    #[arg(long)]
    pub side_by_side: bool,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// The thresholds; baselines/gate.toml, or the usual ones where there is none.
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    /// Only benches whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// The target folder, where it is not the one that cargo uses.
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// Count results of earlier runs as part of the last one.
    #[arg(long)]
    pub all: bool,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A table for the terminal.
    Text,
    /// Markdown for GitHub.
    Md,
    /// The project's own JSON.
    Json,
}
