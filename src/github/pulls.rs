//! The pull request that a run belongs to.

use serde::Deserialize;

use super::client::{Hub, HubError, encoded};
use super::event::Event;

/// What is needed of a pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// Its number.
    pub number: u64,
    /// The commit at its head now.
    pub head: String,
}

#[derive(Deserialize)]
struct Pull {
    number: u64,
    head: Head,
}

/// A pull request that has a commit.
#[derive(Deserialize)]
struct Bringer {
    number: u64,
    /// Absent while it is open, and if it was closed.
    merged_at: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    sha: String,
    /// Absent once a fork is deleted.
    repo: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    full_name: String,
}

impl Hub {
    /// The pull request `number`.
    ///
    /// # Errors
    /// [`HubError`] if GitHub cannot be read, or has none of that number.
    pub async fn pull_request(&self, number: u64) -> Result<PullRequest, HubError> {
        let path = format!("/repos/{}/pulls/{number}", self.repository());
        let pull: Pull = self.read(&path).await?;
        Ok(PullRequest {
            number: pull.number,
            head: pull.head.sha,
        })
    }

    /// The number of the pull request that brought `commit`: the first that was merged, or else the first that has it.
    ///
    /// # Errors
    /// [`HubError`] if GitHub cannot be read, or does not know the commit.
    pub async fn bringer_of(&self, commit: &str) -> Result<Option<u64>, HubError> {
        let commit = encoded(commit);
        let path = format!("/repos/{}/commits/{commit}/pulls", self.repository());
        let found: Vec<Bringer> = self.read(&path).await?;
        let first = found
            .iter()
            .min_by_key(|pull| (pull.merged_at.is_none(), pull.number));
        Ok(first.map(|pull| pull.number))
    }

    /// The open pull requests whose head is just what `event` says: the repository, the branch and the commit.
    ///
    /// # Errors
    /// [`HubError`] if GitHub cannot be read.
    pub async fn pull_requests_of(&self, event: &Event) -> Result<Vec<PullRequest>, HubError> {
        let (repository, branch, head, number) = match event {
            Event::PullRequest { number, head } => {
                let pull = self.pull_request(*number).await?;
                let current = pull.head == *head;
                return Ok(current.then_some(pull).into_iter().collect());
            }
            Event::WorkflowRun {
                head_repository,
                head_branch,
                head,
                number,
            } => (head_repository, head_branch, head, *number),
        };
        let owner_and_branch = encoded(&format!("{}:{branch}", repository.owner()));
        let path = format!(
            "/repos/{}/pulls?state=open&head={owner_and_branch}&per_page=100",
            self.repository()
        );
        let found: Vec<Pull> = self.read(&path).await?;
        let is_it = |pull: &Pull| {
            let from = pull.head.repo.as_ref().map(|repo| repo.full_name.as_str());
            pull.head.sha == *head
                && from.is_some_and(|from| repository.is(from))
                && number.is_none_or(|number| pull.number == number)
        };
        Ok(found
            .into_iter()
            .filter(is_it)
            .map(|pull| PullRequest {
                number: pull.number,
                head: pull.head.sha,
            })
            .collect())
    }
}
