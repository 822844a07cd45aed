//! The one comment of a pull request: found by its tag and its author, made once, then only changed.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::client::{Hub, HubError, Write};

/// Entries a page; the most that GitHub gives.
const PAGE: usize = 100;

/// The most pages that are looked through.
const MAX_PAGES: usize = 50;

/// The login of the token that a workflow is given.
const ACTIONS_BOT: &str = "github-actions[bot]";

/// What marks a comment as ours: an HTML comment in its first line, with a name that tells several gates apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

/// A text that cannot be a tag's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot name a comment: 1 to 40 of a-z, 0-9 and '-'")]
pub struct NoTag(String);

/// What became of a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// There was none.
    Created {
        /// Where it is to be seen.
        url: String,
    },
    /// It said something else.
    Updated {
        /// Where it is to be seen.
        url: String,
    },
    /// It says so already.
    Unchanged {
        /// Where it is to be seen.
        url: String,
    },
}

impl Tag {
    /// The first line of a comment.
    pub fn line(&self) -> String {
        format!("<!-- tokgate:{} -->\n", self.0)
    }

    fn is_of(&self, body: &str) -> bool {
        let line = self.line();
        // GitHub keeps the line ends that it is sent, other clients may have sent theirs.
        body.lines().next() == line.lines().next()
    }
}

impl FromStr for Tag {
    type Err = NoTag;

    fn from_str(name: &str) -> Result<Self, NoTag> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        // Two hyphens would end an HTML comment.
        if (1..=40).contains(&name.len()) && name.bytes().all(allowed) && !name.contains("--") {
            Ok(Self(name.to_owned()))
        } else {
            Err(NoTag(name.chars().take(64).collect()))
        }
    }
}

#[derive(Deserialize)]
struct Comment {
    id: u64,
    html_url: String,
    body: Option<String>,
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    login: String,
}

#[derive(Serialize)]
struct Body<'a> {
    body: &'a str,
}

impl Hub {
    /// Who writes with this token. The token of a workflow may not ask, and writes as `github-actions[bot]`.
    ///
    /// # Errors
    /// [`HubError`] if GitHub cannot be asked.
    pub async fn author(&self) -> Result<String, HubError> {
        match self.read::<User>("/user").await {
            Ok(user) => Ok(user.login),
            Err(HubError::Denied { status: 403, .. }) => Ok(ACTIONS_BOT.to_owned()),
            Err(error) => Err(error),
        }
    }

    /// Makes the comment of `author` with `tag` under the pull request `number` say `text`: the oldest is changed, or
    /// one is made; any further ones, which two runs at one time can leave behind, are deleted.
    ///
    /// # Errors
    /// [`HubError`] if GitHub cannot be read or refuses. A write that got no answer may still have been done.
    pub async fn put_comment(
        &self,
        number: u64,
        tag: &Tag,
        author: &str,
        text: &str,
    ) -> Result<Posted, HubError> {
        let body = format!("{}{text}", tag.line());
        let (oldest, further) = self.own_comments(number, tag, author).await?;
        let Some(oldest) = oldest else {
            let path = format!("/repos/{}/issues/{number}/comments", self.repository());
            let made: Comment = self
                .write(Write::Post, &path, &Body { body: &body })
                .await?;
            // Another run may have looked at the same moment and made one as well.
            let (Some(oldest), further) = self.own_comments(number, tag, author).await? else {
                return Ok(Posted::Created { url: made.html_url });
            };
            if oldest.id == made.id {
                return Ok(Posted::Created { url: made.html_url });
            }
            let posted = self.change(oldest, &body).await?;
            self.delete(further.into_iter().filter(|comment| comment.id == made.id))
                .await?;
            return Ok(posted);
        };
        let posted = self.change(oldest, &body).await?;
        self.delete(further.into_iter()).await?;
        Ok(posted)
    }

    async fn change(&self, comment: Comment, body: &str) -> Result<Posted, HubError> {
        if comment.body.as_deref() == Some(body) {
            return Ok(Posted::Unchanged {
                url: comment.html_url,
            });
        }
        let path = self.comment_path(comment.id);
        let changed: Comment = self.write(Write::Patch, &path, &Body { body }).await?;
        Ok(Posted::Updated {
            url: changed.html_url,
        })
    }

    async fn delete(&self, comments: impl Iterator<Item = Comment>) -> Result<(), HubError> {
        for comment in comments {
            let path = self.comment_path(comment.id);
            match self.write::<()>(Write::Delete, &path, &()).await {
                // The other run was faster.
                Err(HubError::Denied { status: 404, .. }) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    fn comment_path(&self, id: u64) -> String {
        format!("/repos/{}/issues/comments/{id}", self.repository())
    }

    /// The oldest comment of `author` with `tag`, and all others.
    async fn own_comments(
        &self,
        number: u64,
        tag: &Tag,
        author: &str,
    ) -> Result<(Option<Comment>, Vec<Comment>), HubError> {
        let path = format!("/repos/{}/issues/{number}/comments", self.repository());
        let mut own = Vec::new();
        for page in 1..=MAX_PAGES {
            let paged = format!("{path}?per_page={PAGE}&page={page}");
            let found: Vec<Comment> = self.read(&paged).await?;
            let last = found.len() < PAGE;
            own.extend(found.into_iter().filter(|comment| {
                let by = comment.user.as_ref().map(|user| user.login.as_str());
                by.is_some_and(|by| by.eq_ignore_ascii_case(author))
                    && comment.body.as_deref().is_some_and(|body| tag.is_of(body))
            }));
            if last {
                own.sort_by_key(|comment| comment.id);
                let mut own = own.into_iter();
                return Ok((own.next(), own.collect()));
            }
        }
        // A comment that was not seen would be made a second time.
        Err(HubError::TooMany {
            what: format!("GET {path}"),
            entries: MAX_PAGES * PAGE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_whole_first_line() {
        let tag: Tag = "gate".parse().unwrap();
        assert!(
            tag.is_of("<!-- tokgate:gate -->\ntext") && tag.is_of("<!-- tokgate:gate -->\r\ntext")
        );
        for other in [
            "> <!-- tokgate:gate -->\n",
            "\n<!-- tokgate:gate -->",
            "<!-- tokgate:gate2 -->",
            "",
        ] {
            assert!(!tag.is_of(other), "{other}");
        }
        for bad in ["", "Gate", "a--b", "a b", "a>"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
