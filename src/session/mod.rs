//! What surrounds the measurements of a bench target: the circumstances, written down while they hold, and at the end
//! the table of the target's results against this machine's baseline.
//!
//! ```no_run
//! let session = tokgate::session::Session::begin("matmul");
//! // … criterion or callgrind measures, and writes its files …
//! session.finish();
//! ```
//!
//! [`gather()`] is the way back: it reads what harnesses left under the target folder, and finds for every result the
//! session that it was written in, so that a result is recorded under the commit and compiler that it was measured
//! with, not those of the day on which someone records it.

pub mod gather;

mod circumstances;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::judge::{Coverage, Gate, GateError, compare};
use crate::record::{FileError, MachineKey, Project, Provenance, read_text, store, write_whole};
use crate::render::terminal::{self, Style};
use crate::render::{Sides, origin};

pub use circumstances::{Circumstances, CircumstancesError};
use gather::{GatherError, Request, gather};

/// The variable that keeps a bench target from showing a table, and from keeping a note of its circumstances.
pub const NO_TABLE: &str = "TOKGATE_NO_TABLE";

/// The version of the notes that sessions leave for [`gather`].
const SCHEMA: u32 = 1;

/// The largest note that is read.
const MAX_NOTE_BYTES: u64 = 1 << 20;

/// The most notes that are read: one a bench target.
const MAX_NOTES: usize = 10_000;

/// The largest gate that is read.
const MAX_GATE_BYTES: u64 = 1 << 20;

/// A bench target at work. A bench must not die for want of a baseline, so nothing here fails: trouble is said on
/// stderr, and the measurements go on.
#[derive(Debug)]
pub struct Session {
    open: Option<Note>,
    project: Option<Project>,
}

/// What a session writes down for those who look at its results later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The bench target.
    pub target: String,
    /// Results written from here on are the session's.
    pub started_at: Timestamp,
    /// The last moment in which they were.
    pub finished_at: Timestamp,
    /// The key of what a clock measures.
    pub machine_key: MachineKey,
    /// The key of counts.
    pub counts_key: MachineKey,
    /// Everything else that must be known of the session's results; the harness is told by their files.
    pub provenance: Provenance,
}

/// Why a session could not show its results.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Gather(#[from] GatherError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("stdout: {0}")]
    Output(#[from] io::Error),
}

impl Session {
    /// Begins the session of the bench target `target`, in the project of the current folder.
    pub fn begin(target: &str) -> Self {
        // The gate runs a target for one bench at a time, hundreds of times, and judges them itself.
        if std::env::var_os(NO_TABLE).is_some() {
            return Self {
                open: None,
                project: None,
            };
        }
        let begun = std::env::current_dir()
            .map_err(|error| error.to_string())
            .and_then(|folder| Project::find(&folder).map_err(|error| error.to_string()))
            .and_then(|project| {
                let here = Circumstances::of_bench(&project).map_err(|error| error.to_string())?;
                Ok((project, here))
            });
        match begun {
            Ok((project, here)) => Self {
                open: Some(Note {
                    target: target.to_owned(),
                    started_at: here.provenance.measured_at,
                    finished_at: here.provenance.measured_at,
                    machine_key: here.machine_key,
                    counts_key: here.counts_key,
                    provenance: here.provenance,
                }),
                project: Some(project),
            },
            Err(trouble) => {
                eprintln!("tokgate: no table at the end of '{target}': {trouble}");
                Self {
                    open: None,
                    project: None,
                }
            }
        }
    }

    /// Ends the session: keeps its circumstances beside the results for `tokgate record`, and prints the table of what
    /// was measured against this machine's baseline. Where nothing was measured (`--test`, `--list`, a filter that
    /// matches nothing), nothing is kept and nothing printed.
    pub fn finish(self) {
        if let (Some(note), Some(project)) = (self.open, self.project) {
            let target = note.target.clone();
            if let Err(error) = show(note, &project) {
                eprintln!("tokgate: no table at the end of '{target}': {error}");
            }
        }
    }
}

/// How stdout wants its tables: colours on a terminal unless `NO_COLOR` is set, and no wider than the terminal.
pub fn stdout_style() -> Style {
    let is_terminal = io::stdout().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    Style {
        width: width.filter(|_| is_terminal),
        colour: is_terminal && !no_colour,
    }
}

/// The gate in the file `path`, or the usual one where there is no such file.
///
/// # Errors
/// [`FileError`] or [`GateError`] if it is there but cannot be used.
pub fn read_gate<E: From<FileError> + From<GateError>>(path: &Path) -> Result<Gate, E> {
    if !path.exists() {
        return Ok(Gate::default());
    }
    let text = read_text(path, MAX_GATE_BYTES)?;
    Ok(Gate::from_toml(&text, &path.display().to_string())?)
}

fn show(mut note: Note, project: &Project) -> Result<(), SessionError> {
    note.finished_at = Timestamp::now();
    let here = Circumstances {
        machine_key: note.machine_key.clone(),
        counts_key: note.counts_key.clone(),
        committed_at: None,
        provenance: note.provenance.clone(),
    };
    let request = Request {
        since: Some(note.started_at),
        ..Request::of_project(project)
    };
    let found = gather(&request, std::slice::from_ref(&note), &here)?;
    if found.records.is_empty() {
        return Ok(());
    }
    keep(&note, &project.sessions())?;

    let store = project.store();
    let mut base = Vec::new();
    for key in [&note.machine_key, &note.counts_key] {
        base.extend(store.load(key, store::DEFAULT_NAME)?);
    }
    let gate = read_gate::<SessionError>(&project.gate())?;
    let comparison = compare(&found.records, &base, &gate, Coverage::Partial);
    let sides = Sides {
        now: format!("{}, {}", note.target, origin(&found.records)),
        base: if base.is_empty() {
            format!(
                "none of {} yet; `tokgate record` keeps this one",
                note.machine_key
            )
        } else {
            format!("{}, {}", note.machine_key, origin(&base))
        },
    };
    let text = terminal::comparison(&comparison, &sides, stdout_style());
    writeln!(io::stdout().lock(), "\n{text}")?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct NoteFile {
    schema: u32,
    #[serde(flatten)]
    note: Note,
}

/// Writes `note` into the folder of sessions; a later session of the same target takes its place.
fn keep(note: &Note, folder: &Path) -> Result<(), FileError> {
    let file = NoteFile {
        schema: SCHEMA,
        note: note.clone(),
    };
    let text = serde_json::to_string(&file).expect("texts and numbers");
    // A target's name comes from its own code, but a folder must not come out of it.
    let name: String = note
        .target
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(64)
        .collect();
    write_whole(&folder.join(format!("{name}.json")), &text)
}

/// The notes in the folder of sessions. What cannot be read is as good as not there: it was written by another version
/// or damaged, and its results are then recorded as seen afterwards.
pub fn notes(folder: &Path) -> Vec<Note> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let read = |entry: io::Result<fs::DirEntry>| {
        let text = read_text(&entry.ok()?.path(), MAX_NOTE_BYTES).ok()?;
        let file: NoteFile = serde_json::from_str(&text).ok()?;
        (file.schema == SCHEMA).then_some(file.note)
    };
    entries.take(MAX_NOTES).filter_map(read).collect()
}
