//! How fast processes write files of a tmpfs, read them, and read them again.
//!
//! It times what programs that read their weights through files pay: system calls, page faults and copies between the
//! kernel and a buffer. It is no measure of the memory itself; [`bandwidth`](super::bandwidth) is.
//!
//! Each process has a file of its own, which has no name: it is gone when the process is, however that ends. A process
//! ends when its standard input does, and so with the one that started it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde::Serialize;

/// Bytes of a system call.
pub const BLOCK: usize = 1 << 20;

/// What is done, in this order.
pub const PHASES: [&str; 3] = ["write", "read", "reread"];

/// Why files could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A process could not be started.
    #[error("a process of this program could not be started")]
    Start(#[source] io::Error),
    /// A process said what was wrong.
    #[error("{0}")]
    Process(String),
    /// A process ended before its time.
    #[error(
        "a process ended without a word; if the system killed it for want of memory, give a smaller --size"
    )]
    Ended,
}

/// A phase of a round: 10⁹ bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Phase {
    /// All processes together: their bytes over the time from the first start to the last end.
    pub all: f64,
    /// The slowest process by its own clock.
    pub slowest: f64,
    /// The fastest.
    pub fastest: f64,
}

/// What a number of processes did at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Processes.
    pub processes: usize,
    /// Bytes of each one's file.
    pub bytes: u64,
    /// The file was written for the first time.
    pub write: Phase,
    /// It was read.
    pub read: Phase,
    /// It was read again.
    pub reread: Phase,
}

/// Runs `processes` of `worker`, a command that calls [`serve`], each with a file of `bytes`.
///
/// # Errors
/// [`TransferError`] if a process could not do its part.
pub fn round(
    processes: usize,
    bytes: u64,
    mut worker: impl FnMut() -> Command,
) -> Result<Round, TransferError> {
    let workers = (0..processes).map(|_| Worker::start(worker()));
    let mut workers = Workers(workers.collect::<Result<_, _>>()?);
    let mut phase = |name| workers.phase(name, bytes);
    Ok(Round {
        processes,
        bytes,
        write: phase(PHASES[0])?,
        read: phase(PHASES[1])?,
        reread: phase(PHASES[2])?,
    })
}

/// A process with a file.
struct Worker {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(mut command: Command) -> Result<Self, TransferError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(TransferError::Start)?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for");
        };
        let answers = BufReader::new(answers);
        Ok(Self {
            child,
            commands,
            answers,
        })
    }

    fn ask(&mut self, phase: &str) -> Result<(), TransferError> {
        let asked = writeln!(self.commands, "{phase}").and_then(|()| self.commands.flush());
        asked.map_err(|_| TransferError::Ended)
    }

    /// Nanoseconds that the process took by its own clock.
    fn answer(&mut self) -> Result<u64, TransferError> {
        let mut line = String::new();
        let read = self.answers.by_ref().take(4096).read_line(&mut line);
        if !matches!(read, Ok(1..)) {
            return Err(TransferError::Ended);
        }
        let line = line.trim();
        line.parse()
            .map_err(|_| TransferError::Process(line.to_owned()))
    }
}

/// Processes that do not outlive this.
struct Workers(Vec<Worker>);

impl Workers {
    fn phase(&mut self, name: &str, bytes: u64) -> Result<Phase, TransferError> {
        let start = Instant::now();
        for worker in &mut self.0 {
            worker.ask(name)?;
        }
        let mut rates = Vec::with_capacity(self.0.len());
        for worker in &mut self.0 {
            rates.push(bytes as f64 / worker.answer()?.max(1) as f64);
        }
        let all = bytes as f64 * self.0.len() as f64 / start.elapsed().as_nanos().max(1) as f64;
        Ok(Phase {
            all,
            slowest: rates.iter().copied().fold(f64::INFINITY, f64::min),
            fastest: rates.iter().copied().fold(0.0, f64::max),
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // One that has ended already needs no killing.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Does phases that are asked for, a line each, on a file of `bytes` without a name in `folder`, until there are no more.
/// It answers each with its nanoseconds, or with what went wrong.
///
/// # Errors
/// If nobody listens.
pub fn serve(
    folder: &Path,
    bytes: u64,
    commands: impl BufRead,
    mut answers: impl Write,
) -> io::Result<()> {
    let mut block = vec![0x5a_u8; BLOCK];
    let mut file = None;
    for command in commands.lines() {
        let answer = match phase(&command?, folder, bytes, &mut file, &mut block) {
            Ok(nanoseconds) => nanoseconds.to_string(),
            Err(error) => trouble(&error, folder),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn trouble(error: &io::Error, folder: &Path) -> String {
    let folder = folder.display();
    if error.kind() == io::ErrorKind::StorageFull {
        format!("{folder} is full; give a smaller --size")
    } else {
        format!("{folder}: {error}")
    }
}

fn phase(
    name: &str,
    folder: &Path,
    bytes: u64,
    file: &mut Option<File>,
    block: &mut [u8],
) -> io::Result<u128> {
    if name == PHASES[0] {
        *file = Some(tempfile::tempfile_in(folder)?);
    }
    let file = file
        .as_mut()
        .ok_or_else(|| io::Error::other("nothing was written yet"))?;
    file.rewind()?;
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        if name == PHASES[0] {
            file.write_all(&block[..part])?;
        } else {
            file.read_exact(&mut block[..part])?;
        }
        left -= part as u64;
    }
    Ok(start.elapsed().as_nanos())
}

/// The kind of file system that holds `path`, by the text of `/proc/mounts`.
pub fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mut nearest: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        // Of mounts on the same place the last one is seen.
        if path.starts_with(at) && nearest.is_none_or(|(len, _)| at.len() >= len) {
            nearest = Some((at.len(), kind));
        }
    }
    nearest.map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_writes_reads_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut answers = Vec::new();
        let commands = "write\nread\nreread\n".as_bytes();
        serve(folder.path(), 3 << 19, commands, &mut answers).unwrap();
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.lines().count(), 3);
        assert!(
            answers.lines().all(|line| line.parse::<u64>().is_ok()),
            "{answers}"
        );
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn trouble_is_answered() {
        let mut answers = Vec::new();
        let nowhere = Path::new("/nowhere/at/all");
        serve(nowhere, 1, "read\nwrite\n".as_bytes(), &mut answers).unwrap();
        let answers = String::from_utf8(answers).unwrap();
        assert!(
            answers.starts_with("/nowhere/at/all: nothing was written yet\n"),
            "{answers}"
        );
        assert_eq!(answers.lines().count(), 2);
    }

    #[test]
    fn processes_that_fail_are_told() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let error = round(2, 1, || shell("read x; echo no room")).unwrap_err();
        assert_eq!(error.to_string(), "no room");
        assert!(matches!(
            round(1, 1, || shell("read x")),
            Err(TransferError::Ended)
        ));
        assert!(matches!(
            round(1, 1, || Command::new("/nowhere/at/all")),
            Err(TransferError::Start(_))
        ));
        let round = round(2, 3000, || shell("while read x; do echo 1000; done")).unwrap();
        assert_eq!((round.read.slowest, round.read.fastest), (3.0, 3.0));
    }

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "x / ext4 rw 0 0\nx /dev devtmpfs rw 0 0\nx /dev/shm tmpfs rw 0 0\nodd\n";
        let kind = |path: &str| file_system(mounts, Path::new(path)).unwrap();
        assert_eq!(kind("/dev/shm"), "tmpfs");
        assert_eq!(kind("/dev/shm/a"), "tmpfs");
        assert_eq!(kind("/dev/shmem"), "devtmpfs");
        assert_eq!(kind("/home"), "ext4");
    }
}
