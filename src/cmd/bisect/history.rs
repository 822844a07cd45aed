//! The commits between two ends, as git tells them.

use std::path::Path;

use anyhow::{Context, bail};

use crate::record::git;

/// The most commits of one search; more would not be a search but a survey.
const MAX_COMMITS: usize = 20_000;

/// Commits to search among, the oldest first, without the good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The good end, in full.
    pub good: String,
    /// The commits after it; the last is the bad end.
    pub commits: Vec<String>,
}

/// The first parents from `good` to `bad`.
pub fn between(root: &Path, good: &str, bad: &str) -> anyhow::Result<Range> {
    let (good_id, bad_id) = (git::resolve(root, good)?, git::resolve(root, bad)?);
    if good_id == bad_id {
        bail!("'{good}' and '{bad}' are the same commit; there is nothing between them");
    }
    if git::run_text(root, &["merge-base", "--is-ancestor", &good_id, &bad_id]).is_err() {
        bail!(
            "'{good}' is no ancestor of '{bad}'; name the commit where they part (git merge-base {good} {bad}), or \
             fetch more history if the clone is shallow"
        );
    }
    let range = format!("{good_id}..{bad_id}");
    let listed = git::run_text(root, &["rev-list", "--first-parent", "--reverse", &range])?;
    let commits: Vec<String> = listed.lines().map(str::to_owned).collect();
    if commits.is_empty() || commits.len() > MAX_COMMITS {
        bail!(
            "there are {} commits from '{good}' to '{bad}'; 1 to {MAX_COMMITS} can be searched",
            commits.len()
        );
    }
    Ok(Range {
        good: good_id,
        commits,
    })
}

/// What a merge brought in: the commits of its second parent since both parents parted. `None` for other commits, and
/// for merges of what git knows no common ancestor of.
pub fn merged(root: &Path, commit: &str) -> anyhow::Result<Option<Range>> {
    let shown = git::run_text(root, &["rev-list", "--parents", "-n", "1", commit])?;
    let parents: Vec<&str> = shown.split_whitespace().skip(1).collect();
    let [first, second, ..] = parents[..] else {
        return Ok(None);
    };
    let Ok(base) = git::run_text(root, &["merge-base", first, second]) else {
        return Ok(None);
    };
    let base = base.trim();
    if base == second {
        return Ok(None);
    }
    between(root, base, second).map(Some)
}

/// Author date and subject of a commit, for people.
pub fn describe(root: &Path, commit: &str) -> anyhow::Result<(String, String)> {
    let shown = git::run_text(root, &["show", "-s", "--format=%as%x00%an%x00%s", commit])
        .with_context(|| format!("commit {commit}"))?;
    let mut parts = shown.trim_end().splitn(3, '\0');
    let mut part = || {
        parts
            .next()
            .unwrap_or_default()
            .chars()
            .take(200)
            .collect::<String>()
    };
    let (date, author, subject) = (part(), part(), part());
    Ok((format!("{date}, {author}"), subject))
}
