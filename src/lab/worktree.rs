//! Commits, checked out beside the user's own tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::run;
use super::{Lab, LabError};

const GIT_LIMIT: Duration = Duration::from_secs(600);

/// A commit that git knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What was asked for, such as `main`.
    pub asked: String,
    /// What is checked out, in full.
    pub id: String,
    /// The commit that it is, or that changes were made on top of.
    pub on: String,
    /// Whether it holds changes that are in no commit of the user's.
    pub dirty: bool,
}

/// A commit that is checked out in a slot of the lab; the checkout ends with this value.
#[derive(Debug)]
pub struct Worktree<'a> {
    lab: &'a Lab,
    slot: PathBuf,
    commit: Commit,
    /// The project inside the repository.
    prefix: String,
}

impl Lab {
    /// The commit that `revision` names.
    ///
    /// # Errors
    /// [`LabError`] if git knows none.
    pub fn resolve(&self, revision: &str) -> Result<Commit, LabError> {
        let id = crate::record::git::resolve(self.project().root(), revision).map_err(|error| {
            LabError::Answer {
                program: "git".to_owned(),
                what: error.to_string(),
            }
        })?;
        Ok(Commit {
            asked: revision.to_owned(),
            on: id.clone(),
            id,
            dirty: false,
        })
    }

    /// The commit where `head` left the history of `base`, which is what a change is to be compared with.
    ///
    /// # Errors
    /// [`LabError`] if they have nothing in common; a shallow clone often has not.
    pub fn merge_base(&self, base: &Commit, head: &Commit) -> Result<Commit, LabError> {
        let found = self.git(&["merge-base", &base.on, &head.on]).map_err(|error| match error {
            LabError::Ended { .. } => LabError::Answer {
                program: "git merge-base".to_owned(),
                what: format!(
                    "'{}' and '{}' have no commit in common; a shallow clone needs more history (git fetch --unshallow)",
                    base.asked, head.asked
                ),
            },
            other => other,
        })?;
        let id = found.trim().to_owned();
        Ok(Commit {
            asked: base.asked.clone(),
            on: id.clone(),
            id,
            dirty: false,
        })
    }

    /// What the user has in the working tree now: the commit that is checked out, or, where files differ from it or
    /// are new and not ignored, a commit of them that no branch knows. Neither the tree nor the index is touched.
    ///
    /// # Errors
    /// [`LabError`] if git refuses.
    pub fn working_tree(&self) -> Result<Commit, LabError> {
        let head = self.resolve("HEAD")?;
        let status = self.git(&["status", "--porcelain", "--untracked-files=normal"])?;
        if status.trim().is_empty() {
            return Ok(head);
        }
        let index = tempfile::Builder::new()
            .prefix("index")
            .tempdir_in(self.folder())
            .map_err(LabError::io(self.folder()))?;
        let file = index.path().join("index");
        let with_index = |arguments: &[&str]| {
            let mut git = self.git_command(arguments);
            git.env("GIT_INDEX_FILE", &file);
            run(&mut git, GIT_LIMIT, self.interrupt())
        };
        with_index(&["read-tree", "HEAD"])?;
        with_index(&["add", "--all", "--", ":(top)"])?;
        let tree = with_index(&["write-tree"])?;
        // The same files make the same commit at any time, so that what was built of them is found again.
        let mut commit = self.git_command(&[
            "commit-tree",
            tree.trim(),
            "-p",
            &head.id,
            "-m",
            "working tree",
        ]);
        for who in ["AUTHOR", "COMMITTER"] {
            commit
                .env(format!("GIT_{who}_NAME"), "tokgate")
                .env(format!("GIT_{who}_EMAIL"), "tokgate")
                .env(format!("GIT_{who}_DATE"), "2000-01-01T00:00:00Z");
        }
        let id = run(&mut commit, GIT_LIMIT, self.interrupt())?;
        Ok(Commit {
            asked: "the working tree".to_owned(),
            id: id.trim().to_owned(),
            on: head.id,
            dirty: true,
        })
    }

    /// Checks `commit` out into the slot `name`. Until the worktree is dropped, the slot is taken.
    ///
    /// # Errors
    /// [`LabError`] if git refuses or the slot is taken.
    pub fn worktree(&self, name: &str, commit: &Commit) -> Result<Worktree<'_>, LabError> {
        let slot = self.slot(name);
        fs::create_dir_all(&slot).map_err(LabError::io(&slot))?;
        let prefix = self.git(&["rev-parse", "--show-prefix"])?;
        let worktree = Worktree {
            lab: self,
            slot,
            commit: commit.clone(),
            prefix: prefix.trim().to_owned(),
        };
        let tree = worktree.tree();
        let path = tree.to_string_lossy().into_owned();
        self.git(&["worktree", "add", "--detach", "--force", &path, &commit.id])?;
        worktree.take_lock_file()?;
        Ok(worktree)
    }

    fn git(&self, arguments: &[&str]) -> Result<String, LabError> {
        run(
            &mut self.git_command(arguments),
            GIT_LIMIT,
            self.interrupt(),
        )
    }

    fn git_command(&self, arguments: &[&str]) -> Command {
        let mut git = git_in(self.project().root());
        git.args(arguments);
        git
    }
}

impl Worktree<'_> {
    /// The repository's files.
    pub fn tree(&self) -> PathBuf {
        self.slot.join("tree")
    }

    /// The cargo project among them.
    pub fn root(&self) -> PathBuf {
        self.tree().join(&self.prefix)
    }

    /// The slot, which holds the tree and what cargo builds from it.
    pub fn slot(&self) -> &Path {
        &self.slot
    }

    /// What cargo builds into.
    pub fn target_folder(&self) -> PathBuf {
        self.slot.join("target")
    }

    /// What is checked out.
    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Checks another commit out in place of this one. Files that are the same stay as they are, so that cargo builds
    /// again only what depends on the others.
    ///
    /// # Errors
    /// [`LabError`] if git refuses.
    pub fn switch(&mut self, commit: &Commit) -> Result<(), LabError> {
        let mut git = git_in(&self.tree());
        git.args(["checkout", "--quiet", "--force", "--detach", &commit.id]);
        run(&mut git, GIT_LIMIT, self.lab.interrupt())?;
        self.commit = commit.clone();
        self.take_lock_file()
    }

    /// Where the project keeps no lock file in git, the user's own one makes all sides use the same dependencies.
    fn take_lock_file(&self) -> Result<(), LabError> {
        let (own, here) = (
            self.lab.project().root().join("Cargo.lock"),
            self.root().join("Cargo.lock"),
        );
        if own.is_file() && !here.exists() {
            fs::copy(&own, &here).map_err(LabError::io(&here))?;
        }
        Ok(())
    }
}

impl Drop for Worktree<'_> {
    fn drop(&mut self) {
        remove(self.lab, &self.tree());
    }
}

/// Removes a checkout and what git knows of it, also while a signal asks to stop; where git does not, the folder goes
/// all the same, and git forgets it by and by.
pub(super) fn remove(lab: &Lab, tree: &Path) {
    let mut git = lab.git_command(&["worktree", "remove", "--force", "--force"]);
    let _ = git.arg(tree).output();
    if tree.exists() {
        let _ = fs::remove_dir_all(tree);
    }
    let _ = lab.git_command(&["worktree", "prune"]).output();
}

/// `git` in `folder`, whatever repository a hook or an outer git names in the environment.
fn git_in(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(folder)
        .env("LC_ALL", "C")
        .env("GIT_OPTIONAL_LOCKS", "0");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        git.env_remove(variable);
    }
    git
}
