//! The comment and the check run.

use std::path::PathBuf;

use anyhow::bail;

use super::{Report, say, variable};
use crate::cli::CommentArgs;
use crate::cmd::hub::{self, Access};
use crate::github::event::Event;
use crate::github::{Annotation, CheckRun, Conclusion, Hub, Level, PullRequest, Tag};
use crate::render::pull_request::{MAX_COMMENT_BYTES, Outcome, Page, headline, markdown, notes};

/// Where annotations stand: every Rust project has it, and it declares the benches, whose lines nobody knows.
const ANNOTATED_FILE: &str = "Cargo.toml";

/// Publishes `report` under its pull request, if that still has the head that was measured.
pub fn publish(args: &CommentArgs, report: &Report) -> anyhow::Result<()> {
    let tag: Tag = args.name.parse()?;
    let asked = Asked::of(args)?;
    let access = Access::of(args.repo.as_deref(), args.base_url.as_deref())?;
    hub::run(async {
        let hub = access.hub()?;
        let pull = find(&hub, &asked, report).await?;
        let author = match &args.author {
            Some(author) => author.clone(),
            None => hub.author().await?,
        };
        let text = markdown(&report.page, MAX_COMMENT_BYTES - tag.line().len());
        let posted = hub.put_comment(pull.number, &tag, &author, &text).await;
        let posted = posted.map(|posted| println!("{}", hub::told(&posted)));
        if !args.no_check {
            let check = check(&report.page, &format!("tokgate {}", args.name), &pull);
            match hub.put_check(&check).await {
                Ok(url) => println!("check run: {}", url.unwrap_or_default()),
                Err(error) => say(&format!("no check run: {error}")),
            }
        }
        Ok(posted?)
    })
}

/// Which pull request is meant.
enum Asked {
    Number(u64),
    OfEvent(Event),
}

impl Asked {
    fn of(args: &CommentArgs) -> anyhow::Result<Self> {
        if let Some(number) = args.pr {
            return Ok(Self::Number(number));
        }
        let given = args.event.clone();
        match given.or_else(|| variable("GITHUB_EVENT_PATH").map(PathBuf::from)) {
            Some(path) => Ok(Self::OfEvent(Event::read(&path)?)),
            None => bail!("which pull request? Name it with --pr, or an event with --event"),
        }
    }
}

/// The pull request, provided that what was measured is still its head.
async fn find(hub: &Hub, asked: &Asked, report: &Report) -> anyhow::Result<PullRequest> {
    match asked {
        Asked::Number(number) => {
            let pull = hub.pull_request(*number).await?;
            if report.head.as_ref().is_some_and(|head| *head != pull.head) {
                bail!(
                    "the record is of {}, but the head of pull request {number} is {}: measure that",
                    report.head.as_deref().unwrap_or_default(),
                    pull.head
                );
            }
            Ok(pull)
        }
        Asked::OfEvent(event) => {
            if report.head.as_deref() != Some(event.head()) {
                bail!(
                    "the record is of {}, but the event is of {}: check out and measure the pull request's head",
                    report.head.as_deref().unwrap_or("no commit"),
                    event.head()
                );
            }
            let mut found = hub.pull_requests_of(event).await?;
            match (found.pop(), found.len()) {
                (Some(pull), 0) => Ok(pull),
                (None, _) => bail!(
                    "{} is the head of no open pull request any more",
                    event.head()
                ),
                (Some(_), more) => bail!(
                    "{} is the head of {} open pull requests: say which with --pr",
                    event.head(),
                    more + 1
                ),
            }
        }
    }
}

fn check(page: &Page, name: &str, pull: &PullRequest) -> CheckRun {
    let annotation = |note: crate::render::pull_request::Note| Annotation {
        path: ANNOTATED_FILE.to_owned(),
        line: 1,
        level: match note.blocks {
            true => Level::Failure,
            false => Level::Warning,
        },
        title: note.title,
        message: note.message,
    };
    CheckRun {
        name: name.to_owned(),
        head: pull.head.clone(),
        conclusion: match page.outcome {
            Outcome::Clean => Conclusion::Success,
            Outcome::Regressed | Outcome::Broken => Conclusion::Failure,
        },
        title: headline(page),
        summary: markdown(page, MAX_COMMENT_BYTES),
        annotations: notes(page).into_iter().map(annotation).collect(),
    }
}
