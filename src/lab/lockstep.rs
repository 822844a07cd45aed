//! Two processes alive at once that take turns, pass by pass: how work that runs from memory is compared.
//!
//! What a memory bus gives changes within seconds, and each process is somewhat faster or slower than the next by where
//! its pages lie. Turns of some milliseconds see the same bus on both sides, and several pairs of processes average the
//! pages out.
//!
//! # Protocol
//! A program that takes part says on standard output, in one line, that it is ready, and what it measures:
//! `{"lockstep":1,"id":"model/q8_0/avx2/qwen3-0.6b_tg128_t2"}`. For each empty line on standard input it then makes one
//! pass and answers with a line that has the pass's nanoseconds as a decimal number. It ends when standard input does.
//! Passes of two processes that were asked equally often must be the same work.
//!
//! # Manifest
//! A package names its programs in `Cargo.toml`, and what they need that is not in the repository:
//! ```toml
//! [[package.metadata.tokgate.lockstep]]
//! name = "qwen3-0.6b"                      # of the target, as a report calls it
//! bin = "tokgate"                          # a binary target of the package
//! features = ["serve"]                    # of the package, that it is built with; may be left out
//! args = ["bench", "--lockstep", "-m", "{folder}/qwen3-0.6b.gguf", "-p", "0", "-n", "128"]
//! file = "qwen3-0.6b.gguf"                 # in {folder}; both sides map the same pages of it
//! make = ["synth", "--preset", "qwen3-0.6b", "{folder}/qwen3-0.6b.gguf"]   # run by `bin` where the file is missing
//! ```
//! `{folder}` is a folder of the lab that outlives a run; its name is drawn from `make`, so that another way to make the
//! file makes another file.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::process::{kill_with_children, last_lines, name, run};
use super::{Binary, Interrupt, Lab, LabError};
use crate::record::{BenchId, TimedSamples};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// A model is mapped in milliseconds, but its pages may have to come from a disk.
const READY_LIMIT: Duration = Duration::from_secs(300);

/// The longest that one pass may take.
const PASS_LIMIT: Duration = Duration::from_secs(120);

/// What a file that is made may take: gigabytes to a disk.
const MAKE_LIMIT: Duration = Duration::from_secs(1800);

/// Passes of each process that are thrown away: they touch pages and wake caches.
const WARM_UP: usize = 2;

/// The fewest pairs of passes, however long one takes.
const FEWEST_PAIRS: usize = 8;

/// The most: a record has a bound.
const MOST_PAIRS: usize = 2_000;

/// An answer is a number, or one line of JSON.
const MAX_LINE_BYTES: u64 = 4 << 10;

/// What is kept of what a program complains about.
const MAX_COMPLAINT_BYTES: u64 = 16 << 10;

/// How often a waiting parent looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A program as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// What a report calls it.
    pub name: String,
    /// A binary target of the package.
    pub bin: String,
    /// Features of the package that it is built with.
    #[serde(default)]
    pub features: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// A file in `{folder}` that it needs.
    #[serde(default)]
    pub file: Option<String>,
    /// What the binary is run with to make the file.
    #[serde(default)]
    pub make: Vec<String>,
}

/// The line that says that a program is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// See [`VERSION`].
    pub lockstep: u32,
    /// What it measures.
    pub id: BenchId,
}

impl Lab {
    /// What a program says that it measures, once the file that it needs was made.
    ///
    /// # Errors
    /// [`LabError`] if the file cannot be made, or the program does not answer as it should.
    pub fn ask_lockstep(&self, binary: &Binary, program: &Program) -> Result<BenchId, LabError> {
        let folder = self.lockstep_folder(program);
        fs::create_dir_all(&folder).map_err(LabError::io(&folder))?;
        if let Some(file) = &program.file
            && !folder.join(file).is_file()
        {
            let mut make = self.lockstep_command(binary, program, &program.make);
            run(&mut make, MAKE_LIMIT, self.interrupt())?;
        }
        // What is in use is kept by the age of its folder.
        let touched = File::open(&folder);
        let _ = touched.and_then(|folder| folder.set_modified(SystemTime::now()));
        Ok(Turner::start(self, binary, program)?.id.clone())
    }

    /// Lets one process of each side take turns for about `time`, the first of `binaries` first, then the second twice,
    /// and so on. The samples come in the order of `binaries`, the n-th of both neighbours in time.
    ///
    /// # Errors
    /// [`LabError`] with the place in `binaries` of the one that failed.
    pub fn lockstep(
        &self,
        binaries: [&Binary; 2],
        program: &Program,
        time: Duration,
    ) -> Result<[TimedSamples; 2], (usize, LabError)> {
        let start =
            |at: usize| Turner::start(self, binaries[at], program).map_err(|error| (at, error));
        let mut turners = [start(0)?, start(1)?];
        let mut pass = |at: usize| turners[at].pass().map_err(|error| (at, error));
        for _ in 0..WARM_UP {
            pass(0)?;
            pass(1)?;
        }
        let mut times = [Vec::new(), Vec::new()];
        let begun = Instant::now();
        for pair in 0..MOST_PAIRS {
            if pair >= FEWEST_PAIRS && begun.elapsed() >= time {
                break;
            }
            for at in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                let ns = pass(at)?;
                times[at].push(ns);
            }
        }
        let samples = |at: usize, ns: Vec<u64>| {
            TimedSamples::new(vec![1; ns.len()], ns).map_err(|error| {
                let program = name(&self.lockstep_command(binaries[at], program, &program.args));
                let what = error.to_string();
                (at, LabError::Answer { program, what })
            })
        };
        let [first, second] = times;
        Ok([samples(0, first)?, samples(1, second)?])
    }

    /// Where the files of a program are: another folder for another way to make them.
    fn lockstep_folder(&self, program: &Program) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (&program.file, &program.make).hash(&mut hasher);
        self.files().join(format!("{:016x}", hasher.finish()))
    }

    fn lockstep_command(
        &self,
        binary: &Binary,
        program: &Program,
        arguments: &[String],
    ) -> Command {
        let folder = self.lockstep_folder(program);
        let mut command = Command::new(&binary.path);
        command.current_dir(&binary.folder);
        for argument in arguments {
            command.arg(argument.replace("{folder}", &folder.to_string_lossy()));
        }
        command
    }
}

/// A process that makes a pass when it is asked to; killed with its children when it is dropped.
struct Turner {
    child: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
    complaints: Receiver<String>,
    interrupt: Interrupt,
    program: String,
    id: BenchId,
}

impl Turner {
    fn start(lab: &Lab, binary: &Binary, program: &Program) -> Result<Self, LabError> {
        lab.interrupt().check()?;
        let mut command = lab.lockstep_command(binary, program, &program.args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(LabError::io(&binary.path))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(questions), Some(stdout), Some(stderr)) = pipes else {
            unreachable!("all three were asked for");
        };
        // A program that answers without being asked waits once the channel is full.
        let (to_parent, answers) = sync_channel(4);
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            loop {
                let mut line = String::new();
                let bounded = Read::take(&mut lines, MAX_LINE_BYTES).read_line(&mut line);
                if !matches!(bounded, Ok(1..)) || to_parent.send(line).is_err() {
                    return;
                }
            }
        });
        let (to_parent, complaints) = sync_channel(1);
        thread::spawn(move || {
            let mut stderr = stderr;
            let mut said = Vec::new();
            let _ = (&mut stderr)
                .take(MAX_COMPLAINT_BYTES)
                .read_to_end(&mut said);
            let _ = to_parent.send(String::from_utf8_lossy(&said).into_owned());
            // Whatever else comes must not block it.
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        });
        let mut turner = Self {
            child,
            questions,
            answers,
            complaints,
            interrupt: lab.interrupt().clone(),
            program: name(&command),
            id: "unknown".parse().expect("a name"),
        };
        let line = turner.answer(READY_LIMIT)?;
        match serde_json::from_str(&line) {
            Ok(Hello { lockstep, id }) if lockstep == VERSION => turner.id = id,
            Ok(Hello { lockstep, .. }) => {
                let what = format!(
                    "speaks version {lockstep} of the lockstep protocol, this tokgate version {VERSION}"
                );
                return Err(turner.misunderstood(what));
            }
            Err(error) => {
                let what = format!("{line:?} does not say what is measured: {error}");
                return Err(turner.misunderstood(what));
            }
        }
        Ok(turner)
    }

    /// Has one pass made; its nanoseconds.
    fn pass(&mut self) -> Result<u64, LabError> {
        // A process that is gone is told of by what it said last.
        let _ = self
            .questions
            .write_all(b"\n")
            .and_then(|()| self.questions.flush());
        let line = self.answer(PASS_LIMIT)?;
        let ns = line.trim().parse().ok().filter(|ns| *ns > 0);
        ns.ok_or_else(|| self.misunderstood(format!("{line:?} is no time of a pass")))
    }

    fn answer(&mut self, limit: Duration) -> Result<String, LabError> {
        let begun = Instant::now();
        loop {
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) => self.interrupt.check()?,
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            }
            if begun.elapsed() > limit {
                return Err(LabError::TimedOut {
                    program: self.program.clone(),
                    limit,
                });
            }
        }
    }

    fn misunderstood(&self, what: String) -> LabError {
        LabError::Answer {
            program: self.program.clone(),
            what,
        }
    }

    /// Standard output ended, and so did the process, or it is about to.
    fn ended(&mut self) -> LabError {
        kill_with_children(&mut self.child);
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let said = self.complaints.recv_timeout(Duration::from_secs(1));
        LabError::Ended {
            program: self.program.clone(),
            status,
            said_last: last_lines(&said.unwrap_or_default()),
        }
    }
}

impl Drop for Turner {
    fn drop(&mut self) {
        kill_with_children(&mut self.child);
        let _ = self.child.wait();
    }
}
