//! The baselines that a branch kept, commit by commit along its first parents.
//!
//! Three processes of git whatever the length: one lists the commits, one lists which of them changed a baseline to what,
//! and one hands out these contents. A commit is not checked out and nothing is written.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::git::{GitError, MAX_BLOB_BYTES, run_text};
use super::run::{MachineKey, Record};
use super::store::{self, StoreError};

/// The most characters of a commit's subject and author that are kept.
const MAX_TEXT: usize = 200;

/// A commit of the branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The commit, in full.
    pub id: String,
    /// When it was authored, in seconds since 1970.
    pub authored_at: i64,
    /// By whom.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
}

/// What to walk.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    /// The folder of the project, which need not be that of the repository.
    pub root: &'a Path,
    /// The newest commit, in full.
    pub head: &'a str,
    /// Only commits that are not reachable from this one, in full.
    pub since: Option<&'a str>,
    /// At most this many commits, the newest.
    pub limit: usize,
    /// The name of the baselines.
    pub name: &'a str,
}

/// The commit that changed a baseline, the machine, and the content that it left.
type Change = (Option<usize>, MachineKey, String);

/// A baseline as a commit left it.
#[derive(Debug)]
pub struct Kept {
    /// The commit: its place in what [`Walk::commits`] returned; `None` for what there was before all of these.
    pub commit: Option<usize>,
    /// What it says, or why it cannot be read.
    pub record: Result<Record, StoreError>,
}

impl Walk<'_> {
    /// The commits, the oldest first.
    ///
    /// # Errors
    /// [`GitError`] if git cannot be run or refuses.
    pub fn commits(&self) -> Result<Vec<Commit>, GitError> {
        let listed = self.log(&["--format=%H%x00%at%x00%an%x00%s"])?;
        let mut fields = listed.split('\0');
        let mut commits = Vec::new();
        while let (Some(id), Some(at), Some(author), Some(subject)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        {
            commits.push(Commit {
                id: id.trim_start().to_owned(),
                authored_at: at.parse().unwrap_or_default(),
                author: author.chars().take(MAX_TEXT).collect(),
                subject: subject.chars().take(MAX_TEXT).collect(),
            });
        }
        commits.reverse();
        Ok(commits)
    }

    /// Visits the baselines that there were before the `commits`, and each that one of them changed, the oldest first.
    ///
    /// # Errors
    /// [`GitError`] if git cannot be run or refuses. A baseline that cannot be read does not end the walk.
    pub fn baselines(
        &self,
        commits: &[Commit],
        mut visit: impl FnMut(Kept),
    ) -> Result<(), GitError> {
        let mut changed = self.before(commits)?;
        changed.extend(self.changed(commits)?);
        if changed.is_empty() {
            return Ok(());
        }
        let mut git = Command::new("git")
            .arg("-C")
            .arg(self.root)
            .args(["cat-file", "--batch", "--buffer"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (stdin, stdout) = (git.stdin.take(), git.stdout.take());
        let wanted: String = changed
            .iter()
            .map(|(_, _, blob)| format!("{blob}\n"))
            .collect();
        // Asked for by a thread of its own: git blocks where nobody reads what it has to say.
        let asking = thread::spawn(move || match stdin {
            Some(mut stdin) => stdin.write_all(wanted.as_bytes()),
            None => Ok(()),
        });
        let mut said = BufReader::new(stdout.ok_or_else(|| io::Error::other("no pipe"))?);
        let mut read = || -> io::Result<()> {
            for (commit, key, blob) in &changed {
                let id = commit.map_or("before", |commit| &commits[commit].id);
                let file = format!("{id:.9}:baselines/{key}/{}.jsonl", self.name);
                let record = match next_blob(&mut said, blob)? {
                    Some(text) => store::from_text(&text, &file),
                    None => Err(StoreError::NoContent { file }),
                };
                let commit = *commit;
                visit(Kept { commit, record });
            }
            Ok(())
        };
        let outcome = read();
        drop(said);
        if outcome.is_err() {
            git.kill()?;
        }
        git.wait()?;
        let asked = asking.join().unwrap_or(Ok(()));
        outcome.and(asked).map_err(GitError::from)
    }

    /// What the oldest of `commits` found, where it has a parent: what it and its followers keep is not new in them.
    fn before(&self, commits: &[Commit]) -> Result<Vec<Change>, GitError> {
        let Some(oldest) = commits.first() else {
            return Ok(Vec::new());
        };
        let parent = format!("{}^", oldest.id);
        let listed = match run_text(
            self.root,
            &["ls-tree", "-r", "-z", &parent, "--", "baselines"],
        ) {
            Ok(listed) => listed,
            // The first commit of all, or of a shallow clone.
            Err(GitError::Refused { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let entry = |entry: &str| {
            let (head, path) = entry.split_once('\t')?;
            let blob = head.split(' ').nth(2)?;
            Some((None, self.key_of(path)?, blob.to_owned()))
        };
        Ok(listed.split('\0').filter_map(entry).collect())
    }

    /// The machine whose baseline is at `path`; `None` for all other files.
    fn key_of(&self, path: &str) -> Option<MachineKey> {
        let inner = path.strip_prefix("baselines/")?;
        let (key, file) = inner.split_once('/')?;
        (file.strip_suffix(".jsonl")? == self.name).then(|| MachineKey::new(key).ok())?
    }

    /// Each change of a baseline, the oldest first.
    fn changed(&self, commits: &[Commit]) -> Result<Vec<Change>, GitError> {
        let places: HashMap<&str, usize> = commits
            .iter()
            .enumerate()
            .map(|(at, commit)| (commit.id.as_str(), at))
            .collect();
        let listed = self.log(&[
            "--format=%H",
            "--raw",
            "--no-abbrev",
            "--no-renames",
            // Merges too, against their first parent.
            "-m",
            "--relative",
            "--",
            "baselines",
        ])?;
        let mut changed = Vec::new();
        let mut commit = None;
        let mut tokens = listed.split('\0').map(|token| token.trim_matches('\n'));
        while let Some(token) = tokens.next() {
            // `:mode mode blob blob status`, and the path behind it.
            let Some(change) = token.strip_prefix(':') else {
                if !token.is_empty() {
                    commit = places.get(token).copied();
                }
                continue;
            };
            let path = tokens.next().unwrap_or_default();
            let blob = change.split(' ').nth(3).unwrap_or_default();
            let gone = blob.bytes().all(|b| b == b'0');
            if let (Some(commit), false, Some(key)) = (commit, gone, self.key_of(path)) {
                changed.push((Some(commit), key, blob.to_owned()));
            }
        }
        changed.reverse();
        Ok(changed)
    }

    fn log(&self, arguments: &[&str]) -> Result<String, GitError> {
        let count = format!("--max-count={}", self.limit);
        let (head, not) = (self.head, self.since.map(|since| format!("^{since}")));
        // What a user's configuration adds to the log is not for a program to read.
        let mut all = vec!["-c", "log.showSignature=false", "-c", "log.follow=false"];
        all.extend(["log", "-z", "--encoding=UTF-8", "--first-parent", head]);
        all.extend(not.as_deref());
        // With a path git counts only the commits that touch it, which are never more than all.
        all.push(&count);
        all.extend(arguments);
        run_text(self.root, &all)
    }
}

/// The next answer of `git cat-file --batch`; `None` for one that is too large, or that git does not have.
fn next_blob(said: &mut impl BufRead, blob: &str) -> io::Result<Option<String>> {
    let mut header = String::new();
    said.by_ref().take(512).read_line(&mut header)?;
    let mut words = header.split_ascii_whitespace();
    let (name, _, size) = (words.next(), words.next(), words.next());
    if name != Some(blob) {
        return Err(io::Error::other(format!(
            "git cat-file: '{}'",
            header.trim().escape_debug()
        )));
    }
    // `<name> missing` has no content: the history is a shallow or partial clone.
    let Some(size) = size.and_then(|size| size.parse::<u64>().ok()) else {
        return Ok(None);
    };
    let mut content = said.by_ref().take(size + 1);
    if size > MAX_BLOB_BYTES {
        io::copy(&mut content, &mut io::sink())?;
        return Ok(None);
    }
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes)?;
    bytes.pop();
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
