//! What git knows of a project, asked of the `git` program.

use std::path::Path;
use std::process::{Command, Output};

use super::remote::Remote;
use super::run::MachineKey;
use super::store::{self, StoreError};
use super::{NameError, Record};

/// The largest baseline that is taken out of a commit.
pub(super) const MAX_BLOB_BYTES: u64 = 64 << 20;

/// What is checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The commit, in full.
    pub commit: String,
    /// When it was made, in seconds since 1970.
    pub committed_at: i64,
    /// Whether tracked files outside `baselines/` differ from it.
    pub dirty: bool,
}

/// Why a commit's baselines could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The program cannot be run.
    #[error("git cannot be run: {0}")]
    NoGit(#[from] std::io::Error),
    /// It refuses.
    #[error("git {command}: {message}")]
    Refused {
        /// What it was asked.
        command: String,
        /// What it says.
        message: String,
    },
    /// A revision that names no commit.
    #[error("git knows no commit '{revision}'")]
    NoCommit {
        /// The revision.
        revision: String,
    },
    /// Not a machine key.
    #[error(transparent)]
    Key(#[from] NameError),
    /// The baseline in the commit cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether `text` is a commit's full name.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What is checked out in `folder`, or `None` outside a repository.
pub fn head(folder: &Path) -> Option<Head> {
    let shown = text(run(folder, &["log", "-1", "--format=%H %ct"]).ok()?);
    let (commit, committed_at) = shown.trim().split_once(' ')?;
    let status = run(
        folder,
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ":(top)",
            ":(exclude)baselines",
        ],
    );
    Some(Head {
        commit: commit.to_owned(),
        committed_at: committed_at.parse().ok()?,
        // Unknown is not clean.
        dirty: status.map_or(true, |output| !output.stdout.is_empty()),
    })
}

/// The commit that `revision` names in the repository of the project at `root`, in full.
///
/// # Errors
/// [`GitError`] if git cannot be run or knows no such commit.
pub fn resolve(root: &Path, revision: &str) -> Result<String, GitError> {
    let commit = format!("{revision}^{{commit}}");
    let arguments = [
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &commit,
    ];
    match run(root, &arguments) {
        // An option that git puts out again in front of the commit is no part of it.
        Ok(output) => Ok(text(output).lines().last().unwrap_or_default().to_owned()),
        Err(GitError::Refused { message, .. }) if message.is_empty() => {
            let revision = revision.chars().take(128).collect();
            Err(GitError::NoCommit { revision })
        }
        Err(error) => Err(error),
    }
}

/// Where the commits of the repository can be looked at: by the remote that the current branch follows, or `origin`.
pub fn remote(root: &Path) -> Option<Remote> {
    let followed = run_text(root, &["rev-parse", "--abbrev-ref", "@{upstream}"]);
    let followed = followed.unwrap_or_default();
    let name = followed.split_once('/').map_or("origin", |(name, _)| name);
    let url = run_text(root, &["remote", "get-url", "--", name]).ok()?;
    Remote::of_url(&url)
}

/// The machine keys that have baselines in `commit` of the project at `root`, sorted; `commit` comes from [`resolve`].
///
/// # Errors
/// [`GitError`] if git cannot be run.
pub fn baseline_keys(root: &Path, commit: &str) -> Result<Vec<MachineKey>, GitError> {
    let tree = spell(commit, "baselines");
    let listed = match run(root, &["ls-tree", "-d", "--name-only", "-z", &tree]) {
        Ok(listed) => listed,
        // A commit without baselines is no mistake.
        Err(GitError::Refused { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let listed = text(listed);
    let mut keys: Vec<MachineKey> = listed
        .split('\0')
        .filter_map(|name| MachineKey::new(name).ok())
        .collect();
    keys.sort();
    Ok(keys)
}

/// The baseline `name` of a machine in `commit` of the project at `root`, `None` if the commit has none; `commit` comes
/// from [`resolve`].
///
/// # Errors
/// [`GitError`] if git cannot be run or the baseline cannot be read.
pub fn baseline(
    root: &Path,
    commit: &str,
    key: &MachineKey,
    name: &str,
) -> Result<Option<Record>, GitError> {
    let path = store::relative_path(key, name)?;
    let file = spell(commit, &format!("baselines/{}", path.display()));
    let size = match run(root, &["cat-file", "-s", &file]) {
        Ok(output) => text(output).trim().parse().unwrap_or(u64::MAX),
        Err(GitError::Refused { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > MAX_BLOB_BYTES {
        return Err(GitError::Refused {
            command: format!("cat-file blob {file}"),
            message: format!("larger than the {MAX_BLOB_BYTES} bytes that a baseline may have"),
        });
    }
    let blob = run(root, &["cat-file", "blob", &file])?;
    Ok(Some(store::from_text(&text(blob), &file)?))
}

/// `commit:./path`, which git resolves from the folder that it runs in: the project need not be the repository.
fn spell(commit: &str, path: &str) -> String {
    format!("{commit}:./{path}")
}

/// What git prints when it is run with `arguments` in `folder`.
pub(crate) fn run_text(folder: &Path, arguments: &[&str]) -> Result<String, GitError> {
    run(folder, arguments).map(text)
}

fn run(folder: &Path, arguments: &[&str]) -> Result<Output, GitError> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .output()?;
    if output.status.success() {
        Ok(output)
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        Err(GitError::Refused {
            command: arguments.join(" "),
            message: message.trim().chars().take(400).collect(),
        })
    }
}

fn text(output: Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
