//! `tokgate probe memory`: files of a tmpfs moved by one and by several processes, and beside it the memory itself.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{ProbeFormat, ProbeMemoryArgs};
use crate::cmd::{Outcome, print, runtime};
use crate::probe::report::{MemoryRow, memory_row};
use crate::probe::system::{System, available_memory};
use crate::probe::transfer::{self, BLOCK, Round, file_system};
use crate::probe::{Rate, thread_counts};
use crate::record::write_whole;

/// Of the available memory, the part that files may fill: half.
const SHARE_OF_MEMORY: u64 = 2;

/// Time for one stream at one thread count.
const TIME: Duration = Duration::from_millis(300);

/// What was measured.
#[derive(Serialize)]
struct Report {
    /// Version of this JSON.
    tokgate_probe_memory: u32,
    measured_at: String,
    machine_key: String,
    cpu: String,
    folder: String,
    file_system: String,
    block_bytes: usize,
    wanted_bytes: u64,
    rounds: Vec<Round>,
    memory: Vec<MemoryRow>,
}

/// Moves the files and measures the memory.
///
/// # Errors
/// If there is no room, or a file cannot be written.
pub fn run(args: &ProbeMemoryArgs) -> anyhow::Result<Outcome> {
    if args.worker {
        let (stdin, stdout) = (io::stdin().lock(), io::stdout().lock());
        transfer::serve(&args.folder, args.size, stdin, stdout)?;
        return Ok(Outcome::Clean);
    }
    let folder = args.folder.canonicalize();
    let folder = folder.with_context(|| args.folder.display().to_string())?;
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let file_system = file_system(&mounts, &folder).unwrap_or_else(|| "unknown".to_owned());
    if file_system != "tmpfs" {
        eprintln!(
            "tokgate: warning: {} is no tmpfs ({file_system}): a disk may be measured",
            folder.display()
        );
    }
    let system = System::detect();
    let mut report = Report {
        tokgate_probe_memory: 1,
        measured_at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        machine_key: system.machine_key.clone(),
        cpu: system.cpu.clone(),
        folder: folder.display().to_string(),
        file_system,
        block_bytes: BLOCK,
        wanted_bytes: args.size,
        rounds: Vec::new(),
        memory: Vec::new(),
    };
    let threads = thread_counts(runtime::cores());
    let bar = ProgressBar::new((args.processes.len() + threads.len()) as u64).with_style(
        ProgressStyle::with_template("{msg} [{bar:20}] {pos}/{len} {elapsed}")
            .expect("the template is correct"),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    for &processes in &args.processes {
        bar.set_message(format!("tmpfs, {processes} at a time"));
        report.rounds.push(moved(args.size, processes, &folder)?);
        bar.inc(1);
    }
    for threads in threads {
        bar.set_message(format!("memory, {threads} at a time"));
        report
            .memory
            .push(memory_row(&system, threads, None, TIME)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let text = text(&report);
    if let Some(log) = &args.log {
        write_whole(log, &text)?;
    }
    match args.output {
        ProbeFormat::Text => print(&text)?,
        ProbeFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
    }
    Ok(Outcome::Clean)
}

/// A round of `processes`, each with a file of `wanted` bytes, or of what there is room for.
fn moved(wanted: u64, processes: usize, folder: &Path) -> anyhow::Result<Round> {
    let room = available_memory() / SHARE_OF_MEMORY / processes as u64;
    let bytes = match room {
        0 => wanted,
        room => wanted.min(room / BLOCK as u64 * BLOCK as u64),
    };
    if bytes == 0 {
        bail!("there is no memory left for {processes} files of a MiB; give fewer --processes");
    }
    let program = std::env::current_exe().context("the path of this program")?;
    let worker = || {
        let mut command = Command::new(&program);
        command.args(["probe", "memory", "--worker", "--size", &bytes.to_string()]);
        command.arg("--dir").arg(folder);
        command
    };
    Ok(transfer::round(processes, bytes, worker)?)
}

fn text(report: &Report) -> String {
    let mut out = format!(
        "{} on {}\n\n{} ({})\n\
         files, GB/s: each process writes its own in blocks of {}, reads it, and\n\
         reads it again; system calls, page faults and copies included\n\
         processes  a process      write       read    re-read   re-read, slowest\n",
        report.measured_at,
        report.cpu,
        report.folder,
        report.file_system,
        BinaryBytes(BLOCK as u64)
    );
    for round in &report.rounds {
        let _ = writeln!(
            out,
            "{:>9} {:>10} {:>10.2} {:>10.2} {:>10.2} {:>18.2}{}",
            round.processes,
            BinaryBytes(round.bytes).to_string(),
            round.write.all,
            round.read.all,
            round.reread.all,
            round.reread.slowest,
            if round.bytes < report.wanted_bytes {
                " *"
            } else {
                ""
            }
        );
    }
    if report
        .rounds
        .iter()
        .any(|round| round.bytes < report.wanted_bytes)
    {
        out += "* smaller than asked for: all files together fill at most half of the available\n  memory\n";
    }
    out += "\nthe memory itself, GB/s: threads pinned, median ± spread (best)\n";
    let _ = writeln!(out, "threads {:>18} {:>18} {:>18}", "read", "copy", "triad");
    for row in &report.memory {
        let cell = |rate: &Rate| {
            format!(
                "{:.1} ± {:.0} % ({:.1})",
                rate.median, rate.spread_pct, rate.best
            )
        };
        let _ = writeln!(
            out,
            "{:>7} {:>18} {:>18} {:>18}",
            row.threads,
            cell(&row.read),
            cell(&row.copy),
            cell(&row.triad)
        );
    }
    out
}
