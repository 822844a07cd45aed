//! Where commits are built and benches are run, for any cargo repository and without a change to its code.
//!
//! ```no_run
//! # fn main() -> Result<(), tokgate::lab::LabError> {
//! use tokgate::lab::{Lab, Pace};
//!
//! let lab = Lab::open(std::path::Path::new("."))?;
//! let tree = lab.worktree("base", &lab.resolve("main")?)?;
//! for target in lab.targets(&tree)? {
//!     let binary = lab.build(&tree, &target, Some(7))?;
//!     for bench in lab.list(&binary)? {
//!         let samples = lab.measure(&binary, &bench, Pace::default())?;
//!         println!("{bench}: {} samples", samples.total_ns().len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - **The user's tree is never touched.** Commits are checked out into git worktrees in a folder of the user's cache
//!   (`$TOKGATE_LAB`, or below `$XDG_CACHE_HOME`), outside the repository, so that no configuration of the one is
//!   inherited by the other. A worktree ends with its [`Worktree`]: on return, on error, and when SIGINT or SIGTERM asks the
//!   lab to stop, for every wait in here gives up with [`LabError::Interrupted`] then. What a killed lab left is
//!   removed by the next.
//! - **A worktree has a slot**, such as `base`, which keeps the folder that cargo builds into: dependencies are built
//!   once. Paths of slots with names of the same length have the same length, so that equal sources give binaries that
//!   differ in these paths alone, which [`code::same`] looks past.
//! - **A binary is kept** under its commit, target, link, compiler and flags; what was built once is not built again. Links
//!   that the linker alone made end with the lab: a run's sixteen of a large program take a gigabyte.
//! - **A process is one bench**, with a folder of its own for its results, and is killed with all its children when
//!   its time is over.

pub mod code;
pub mod lockstep;

mod build;
mod check;
mod counting;
mod discover;
mod measure;
mod process;
mod relink;
mod worktree;

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::record::adapters::AdapterError;
use crate::record::{NoProject, Project};
use crate::whole::cache_folder;

pub use build::Binary;
pub use discover::BenchTarget;
pub use measure::Pace;
pub use process::Interrupt;
pub use worktree::{Commit, Worktree};

/// Binaries, and files of programs, that nobody asked for in this time are removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A folder to build and measure in, for one repository and one process at a time.
#[derive(Debug)]
pub struct Lab {
    /// The project as the user sees it.
    project: Project,
    folder: PathBuf,
    interrupt: Interrupt,
    toolchain: Toolchain,
    /// Locked as long as the lab is open.
    _lock: File,
}

/// The one compiler and the one set of flags that everything is built with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toolchain {
    /// What rustup is told to use, where rustup chooses.
    pub rustup: Option<String>,
    /// `rustc -vV`, which tells compilers apart.
    pub rustc: String,
    /// Flags for rustc, where the sides would otherwise have different ones.
    pub rustflags: Option<String>,
}

/// Why the lab could not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The folder is in no cargo project.
    #[error(transparent)]
    NoProject(#[from] NoProject),
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file, folder or program.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another run has the lab.
    #[error("{}: another tokgate works on this repository; wait for it, or set TOKGATE_LAB to another folder", .0.display())]
    Busy(PathBuf),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// A program did not end in time.
    #[error("{program} did not end within {} s", limit.as_secs())]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was given.
        limit: Duration,
    },
    /// A program ended with an error.
    #[error("{program} ended with {status}{}", said(said_last))]
    Ended {
        /// The program and its arguments.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        said_last: String,
    },
    /// A program's answer cannot be understood.
    #[error("{program}: {what}")]
    Answer {
        /// The program.
        program: String,
        /// What is wrong.
        what: String,
    },
    /// A harness's results cannot be read.
    #[error(transparent)]
    Results(#[from] AdapterError),
    /// A bench ran without leaving a result.
    #[error("the bench left no result: {0}")]
    NoResult(String),
}

fn said(last: &str) -> String {
    if last.is_empty() {
        String::new()
    } else {
        format!(":\n{last}")
    }
}

impl LabError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether it says that the lab is to stop, rather than that something is wrong.
    pub const fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted)
    }
}

impl Lab {
    /// Opens the lab of the project that `folder` belongs to, and removes what a killed one left behind.
    ///
    /// # Errors
    /// [`LabError`] outside a cargo project in a git repository, or while another process has this lab.
    pub fn open(folder: &Path) -> Result<Self, LabError> {
        let project = Project::find(folder)?;
        let root = project
            .root()
            .canonicalize()
            .map_err(LabError::io(project.root()))?;
        let folder = place(&root);
        fs::create_dir_all(&folder).map_err(LabError::io(&folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(LabError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LabError::Busy(folder)),
            Err(TryLockError::Error(error)) => return Err(LabError::io(&path)(error)),
        }
        let interrupt = Interrupt::on_signals()?;
        let toolchain = Toolchain::of(&root, &interrupt)?;
        let lab = Self {
            project,
            folder,
            interrupt,
            toolchain,
            _lock: lock,
        };
        lab.clean_up()?;
        Ok(lab)
    }

    /// The project as the user sees it.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The lab's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What everything is built with.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Builds everything from now on with these flags for rustc, whatever the sources' configuration says.
    pub fn set_rustflags(&mut self, flags: String) {
        self.toolchain.rustflags = Some(flags);
    }

    /// Whether a signal asked to stop.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn slot(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn binaries(&self) -> PathBuf {
        self.folder.join("binaries")
    }

    /// Links that cost a moment to make again, and up to a hundred megabytes each to keep: they end with the lab.
    fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// What programs that take turns need, a folder each.
    fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    fn clean_up(&self) -> Result<(), LabError> {
        let entries = fs::read_dir(&self.folder).map_err(LabError::io(&self.folder))?;
        for entry in entries.flatten() {
            let tree = entry.path().join("tree");
            if tree.is_dir() {
                worktree::remove(self, &tree);
            }
        }
        let _ = fs::remove_dir_all(self.folder.join("results"));
        let _ = fs::remove_dir_all(self.links());
        for folder in [self.binaries(), self.files()] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let used = entry.metadata().and_then(|metadata| metadata.modified());
                let age =
                    used.map(|used| SystemTime::now().duration_since(used).unwrap_or_default());
                if age.is_ok_and(|age| age > KEPT) {
                    let path = entry.path();
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.links());
    }
}

/// The lab of the project at `root`: the same each time, so that what was built is found again.
fn place(root: &Path) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{name}-{:08x}", hasher.finish() as u32);
    variable("TOKGATE_LAB")
        .map_or_else(cache_folder, PathBuf::from)
        .join(name)
}
