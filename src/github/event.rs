//! The event that started a workflow, as the runner writes it to `GITHUB_EVENT_PATH`: it comes from GitHub itself, so a
//! fork cannot change what it says of a pull request, unlike anything that a fork's job uploads.

use std::path::Path;

use serde::Deserialize;

use super::Repository;
use crate::record::git::is_commit;
use crate::record::{FileError, read_text};

/// GitHub caps payloads at 25 MB.
const MAX_EVENT_BYTES: u64 = 25 << 20;

/// Which head a run measured, and what is known of its pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A `pull_request` event.
    PullRequest {
        /// Its number.
        number: u64,
        /// The head commit.
        head: String,
    },
    /// A `workflow_run` event about a run that a pull request started.
    WorkflowRun {
        /// Where the head comes from, a fork perhaps.
        head_repository: Repository,
        /// The head branch.
        head_branch: String,
        /// The head commit.
        head: String,
        /// The pull request, where the event names just one; of forks it names none.
        number: Option<u64>,
    },
}

/// Why an event does not lead to a pull request.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not JSON, or without what such events have.
    #[error("{file}: {what}")]
    Json {
        /// The file.
        file: String,
        /// What the parser says.
        what: String,
    },
    /// Another event.
    #[error(
        "{0}: neither an event of a pull request, nor one of a run that a pull request started"
    )]
    Other(String),
}

impl Event {
    /// Reads the event in the file at `path`.
    ///
    /// # Errors
    /// [`EventError`] if it is none that leads to a pull request.
    pub fn read(path: &Path) -> Result<Self, EventError> {
        Self::from_json(
            &read_text(path, MAX_EVENT_BYTES)?,
            &path.display().to_string(),
        )
    }

    /// Understands the text of an event that comes from `file`.
    ///
    /// # Errors
    /// [`EventError`], which names `file`.
    pub fn from_json(text: &str, file: &str) -> Result<Self, EventError> {
        let wrong = |what: String| EventError::Json {
            file: file.to_owned(),
            what,
        };
        let payload: Payload = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let commit = |sha: String| {
            is_commit(&sha)
                .then_some(sha)
                .ok_or_else(|| wrong("its head is no commit".to_owned()))
        };
        match (payload.pull_request, payload.workflow_run) {
            (Some(pull), _) => Ok(Self::PullRequest {
                number: pull.number,
                head: commit(pull.head.sha)?,
            }),
            (None, Some(run)) if run.event == "pull_request" => Ok(Self::WorkflowRun {
                head_repository: run
                    .head_repository
                    .full_name
                    .parse()
                    .map_err(|error| wrong(format!("head_repository: {error}")))?,
                head_branch: run.head_branch,
                head: commit(run.head_sha)?,
                number: match &run.pull_requests[..] {
                    [one] => Some(one.number),
                    _ => None,
                },
            }),
            _ => Err(EventError::Other(file.to_owned())),
        }
    }

    /// The head commit, which GitHub vouches for.
    pub fn head(&self) -> &str {
        match self {
            Self::PullRequest { head, .. } | Self::WorkflowRun { head, .. } => head,
        }
    }
}

#[derive(Deserialize)]
struct Payload {
    pull_request: Option<Pull>,
    workflow_run: Option<Run>,
}

#[derive(Deserialize)]
struct Pull {
    number: u64,
    head: Head,
}

#[derive(Deserialize)]
struct Head {
    sha: String,
}

#[derive(Deserialize)]
struct Run {
    event: String,
    head_branch: String,
    head_sha: String,
    head_repository: Named,
    #[serde(default)]
    pull_requests: Vec<Numbered>,
}

#[derive(Deserialize)]
struct Named {
    full_name: String,
}

#[derive(Deserialize)]
struct Numbered {
    number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn an_event_leads_to_the_head_that_github_vouches_for() {
        let text = format!(
            r#"{{"action":"opened","pull_request":{{"number":7,"head":{{"sha":"{SHA}"}}}}}}"#
        );
        let event = Event::from_json(&text, "event.json").unwrap();
        assert_eq!(
            event,
            Event::PullRequest {
                number: 7,
                head: SHA.to_owned()
            }
        );

        let run = |event: &str, pulls: &str| {
            format!(
                r#"{{"workflow_run":{{"event":"{event}","head_branch":"x/y","head_sha":"{SHA}",
                "head_repository":{{"full_name":"fork/tokgate"}},"pull_requests":{pulls}}}}}"#
            )
        };
        let event = Event::from_json(&run("pull_request", "[]"), "event.json").unwrap();
        assert_eq!(event.head(), SHA);
        assert!(matches!(event, Event::WorkflowRun { number: None, .. }));
        let event = Event::from_json(&run("pull_request", r#"[{"number":3}]"#), "e").unwrap();
        assert!(matches!(
            event,
            Event::WorkflowRun {
                number: Some(3),
                ..
            }
        ));
        let error = Event::from_json(&run("push", "[]"), "event.json").unwrap_err();
        assert!(matches!(error, EventError::Other(_)));
    }

    #[test]
    fn what_is_no_event_is_said_with_its_file() {
        for text in [
            "",
            "[]",
            "{\"pull_request\":{}}",
            r#"{"pull_request":{"number":1,"head":{"sha":"main"}}}"#,
        ] {
            let error = Event::from_json(text, "event.json").unwrap_err();
            assert!(error.to_string().starts_with("event.json: "), "{error}");
        }
    }
}
