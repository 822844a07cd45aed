//! GitHub: the pull request that a run belongs to, the one comment on it, the check run, and the job's summary.
//!
//! What needs the network is the feature `github` and the only user of octocrab; the event and the summary are files,
//! and are there without it. Rules that hold for every request:
//!
//! - A read is repeated after a rate limit or a server's trouble, at the time that the server names, within
//!   `Patience`. A write is sent once: whether it arrived is then unknown, and a second one could be a second comment.
//! - Requests name paths below the base URL alone, so the token goes nowhere else; redirects are not followed.
//! - Answers are bounded in size and number of pages; of texts that GitHub sends, only short printable ones are quoted.

pub mod event;
pub mod summary;

#[cfg(feature = "github")]
mod check;
#[cfg(feature = "github")]
mod client;
#[cfg(feature = "github")]
mod comment;
#[cfg(feature = "github")]
mod pulls;

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "github")]
pub use check::{Annotation, CheckRun, Conclusion, Level, MAX_ANNOTATIONS, MAX_CHECK_BYTES};
#[cfg(feature = "github")]
pub use client::{Hub, HubError, Patience, Token};
#[cfg(feature = "github")]
pub use comment::{Posted, Tag};
#[cfg(feature = "github")]
pub use pulls::PullRequest;

/// A repository as `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository(String);

/// A text that names no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no repository: owner/name, of letters, digits, '-', '_' and '.'")]
pub struct NoRepository(String);

impl Repository {
    /// `owner/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` names the same repository; GitHub does not tell upper from lower case.
    pub fn is(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }

    /// The account that it belongs to.
    pub fn owner(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl FromStr for Repository {
    type Err = NoRepository;

    fn from_str(text: &str) -> Result<Self, NoRepository> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let valid = |part: &str| {
            (1..=100).contains(&part.len())
                && part.bytes().all(allowed)
                && !part.bytes().all(|b| b == b'.')
        };
        match text.split_once('/') {
            Some((owner, name)) if valid(owner) && valid(name) => Ok(Self(text.to_owned())),
            _ => Err(NoRepository(text.chars().take(128).collect())),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_two_plain_names() {
        for good in ["a/b", "tokgate/tokgate", "My-Org/x.y_z"] {
            assert_eq!(good.parse::<Repository>().unwrap().as_str(), good);
        }
        for bad in [
            "", "a", "a/", "/b", "a/b/c", "a/..", "a b/c", "a/b?x", "ü/b",
        ] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        assert!("Org/Name".parse::<Repository>().unwrap().is("org/name"));
    }
}
