//! The check run: the verdict beside the commit, with annotations.

use serde::{Deserialize, Serialize};

use super::client::{Hub, HubError, Write};

/// The most characters of a summary or a text; texts are held to it in bytes.
pub const MAX_CHECK_BYTES: usize = 65_535;

/// The most annotations of one request.
pub const MAX_ANNOTATIONS: usize = 50;

/// The most requests for one check run: nobody reads a thousandth annotation.
const MAX_REQUESTS: usize = 4;

/// The most bytes of an annotation's message; GitHub takes 64 KB.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// The most characters of a title.
const MAX_TITLE: usize = 255;

/// A finished check of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRun {
    /// The check's name, the same for every commit.
    pub name: String,
    /// The commit, in full.
    pub head: String,
    /// How it ended.
    pub conclusion: Conclusion,
    /// One line.
    pub title: String,
    /// Markdown of at most [`MAX_CHECK_BYTES`].
    pub summary: String,
    /// What is said beside lines of files; only as many as GitHub takes in a few requests are sent.
    pub annotations: Vec<Annotation>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Nothing got worse.
    Success,
    /// Something got worse, or it cannot be told.
    Failure,
}

/// What is said beside a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The file, from the root of the repository.
    pub path: String,
    /// The line, from 1.
    pub line: u32,
    /// How bad it is.
    pub level: Level,
    /// One line.
    pub title: String,
    /// What is to be said.
    pub message: String,
}

/// How bad an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Worth knowing.
    Notice,
    /// May be bad.
    Warning,
    /// Is bad.
    Failure,
}

#[derive(Serialize)]
struct Create<'a> {
    name: &'a str,
    head_sha: &'a str,
    status: &'static str,
    conclusion: Conclusion,
    output: Output<'a>,
}

#[derive(Serialize)]
struct Update<'a> {
    output: Output<'a>,
}

#[derive(Serialize)]
struct Output<'a> {
    title: &'a str,
    summary: &'a str,
    annotations: Vec<AnnotationJson<'a>>,
}

#[derive(Serialize)]
struct AnnotationJson<'a> {
    path: &'a str,
    start_line: u32,
    end_line: u32,
    annotation_level: Level,
    title: &'a str,
    message: &'a str,
}

#[derive(Deserialize)]
struct Made {
    id: u64,
    /// Null only for checks that others made.
    html_url: Option<String>,
}

impl Hub {
    /// Makes `check`, and returns where it is to be seen. Texts and annotations beyond GitHub's limits are cut.
    ///
    /// # Errors
    /// [`HubError`] if GitHub refuses; a personal token may not make check runs.
    pub async fn put_check(&self, check: &CheckRun) -> Result<Option<String>, HubError> {
        let mut batches = check.annotations.chunks(MAX_ANNOTATIONS).take(MAX_REQUESTS);
        let first = batches.next().unwrap_or_default();
        let path = format!("/repos/{}/check-runs", self.repository());
        let create = Create {
            name: &check.name,
            head_sha: &check.head,
            status: "completed",
            conclusion: check.conclusion,
            output: output(check, first),
        };
        let made: Made = self.write(Write::Post, &path, &create).await?;
        for batch in batches {
            let path = format!("{path}/{}", made.id);
            let update = Update {
                output: output(check, batch),
            };
            // Each call appends its annotations to those that are there.
            self.write::<Made>(Write::Patch, &path, &update).await?;
        }
        Ok(made.html_url)
    }
}

fn output<'a>(check: &'a CheckRun, batch: &'a [Annotation]) -> Output<'a> {
    Output {
        title: clipped(&check.title, MAX_TITLE),
        summary: clipped(&check.summary, MAX_CHECK_BYTES),
        annotations: batch.iter().map(json).collect(),
    }
}

fn json(annotation: &Annotation) -> AnnotationJson<'_> {
    let line = annotation.line.max(1);
    AnnotationJson {
        path: &annotation.path,
        start_line: line,
        end_line: line,
        annotation_level: annotation.level,
        title: clipped(&annotation.title, MAX_TITLE),
        message: clipped(&annotation.message, MAX_MESSAGE_BYTES),
    }
}

/// As much of `text` as fits into `bytes`, in whole characters.
fn clipped(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(clipped("aä", 3), "aä");
        assert_eq!(clipped("aä", 2), "a");
        assert_eq!(clipped("", 2), "");
    }
}
