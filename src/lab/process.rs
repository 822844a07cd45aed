//! Child processes that end: with a time limit, together with their own children, and when a signal asks to stop.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::LabError;

/// What is kept of a program's output.
const MAX_OUTPUT_BYTES: u64 = 64 << 20;

/// What an error quotes of it.
const QUOTED_LINES: usize = 12;
const QUOTED_CHARS: usize = 1_500;

/// Whether SIGINT or SIGTERM asked to stop. A second signal ends the process at once.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over both signals.
    pub(super) fn on_signals() -> Result<Self, LabError> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .map_err(LabError::io(Path::new("signals")))?;
        }
        Ok(Self(flag))
    }

    /// Whether one came.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if one came.
    ///
    /// # Errors
    /// [`LabError::Interrupted`].
    pub fn check(&self) -> Result<(), LabError> {
        if self.is_set() {
            Err(LabError::Interrupted)
        } else {
            Ok(())
        }
    }
}

/// What a program that ended well said on stdout.
///
/// # Errors
/// [`LabError`] if it does not start, does not end in `limit`, ends with an error, or a signal comes first.
pub(super) fn run(
    command: &mut Command,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String, LabError> {
    let program = name(command);
    let ended = finish(command, limit, interrupt)?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    Err(LabError::Ended {
        program,
        status: ended.status.to_string(),
        said_last: last_lines(&format!("{}\n{}", ended.stdout, ended.stderr)),
    })
}

struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

fn finish(
    command: &mut Command,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<Ended, LabError> {
    interrupt.check()?;
    let path = Path::new(command.get_program()).to_owned();
    let program = name(command);
    // Files rather than pipes: nothing has to read along, and a grandchild that outlives its parent holds nothing up.
    let scratch = || tempfile::tempfile().map_err(LabError::io(&path));
    let (stdout, stderr) = (scratch()?, scratch()?);
    let copy = |file: &File| file.try_clone().map_err(LabError::io(&path));
    command
        .stdin(Stdio::null())
        .stdout(copy(&stdout)?)
        .stderr(copy(&stderr)?);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut child = command.spawn().map_err(LabError::io(&path))?;
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    let stopped = loop {
        if let Some(status) = child.try_wait().map_err(LabError::io(&path))? {
            return Ok(Ended {
                status,
                stdout: text(stdout),
                stderr: text(stderr),
            });
        }
        if interrupt.is_set() {
            break LabError::Interrupted;
        }
        if start.elapsed() > limit {
            break LabError::TimedOut { program, limit };
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    kill_with_children(&mut child);
    let _ = child.wait();
    Err(stopped)
}

#[cfg(unix)]
pub(super) fn kill_with_children(child: &mut std::process::Child) {
    let group = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(not(unix))]
pub(super) fn kill_with_children(child: &mut std::process::Child) {
    let _ = child.kill();
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('{'))
        .collect();
    let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
    let skipped = last.chars().count().saturating_sub(QUOTED_CHARS);
    last.chars().skip(skipped).collect()
}

pub(super) fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![
        program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    ];
    let arguments = command.get_args().take(6);
    words.extend(arguments.map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
