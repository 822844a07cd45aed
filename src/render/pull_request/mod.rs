//! What a pull request is told: the comment, the job's summary, and the check run.
//!
//! The comment begins with what the gate says, then a table of what moved, the worst first; everything else is folded.
//! All of it fits into a given number of bytes: rows are left out from the end, and how many is said. Nothing that a
//! bench is called can become markup, a link, a mention or a reference: it stands in code spans.

mod page;

use super::markdown::code;
use super::terminal::mark;
use super::{change, shown};
use crate::judge::{Reason, Verdict};
use crate::record::git::is_commit;
pub use page::{Complaint, Fact, Line, Outcome, Page};

/// The most characters that GitHub takes as a comment, or as the summary of a check run. Texts are held to it in bytes,
/// of which there are never fewer.
pub const MAX_COMMENT_BYTES: usize = 65_535;

/// The least room that says anything.
pub const MIN_BYTES: usize = 3_000;

/// Room that is kept for saying how many rows were left out.
const REST_BYTES: usize = 200;

/// The most complaints and notes that are written out.
const MAX_SAID: usize = 20;

/// The most rows that the check run speaks of one by one.
const MAX_NOTES: usize = 200;

/// One thing that the check run says of a bench.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it turns the gate red.
    pub blocks: bool,
    /// One line.
    pub title: String,
    /// What is to be said, in plain text.
    pub message: String,
}

/// The comment as Markdown of at most `limit` bytes, where that is no less than [`MIN_BYTES`].
pub fn markdown(page: &Page, limit: usize) -> String {
    let mut text = head(page);
    let foot = foot(page);
    let mut room = limit.saturating_sub(text.len() + foot.len() + REST_BYTES);
    let (moved, rest): (Vec<&Line>, Vec<&Line>) =
        page.lines.iter().partition(|line| line.has_moved());
    let counted = page.lines.iter().any(|line| line.instructions.is_some());

    let mut left_out = 0;
    if !moved.is_empty() {
        let (table, left) = table(&moved, counted, room);
        room = room.saturating_sub(table.len());
        left_out += left;
        text.push_str(&table);
        text.push('\n');
    }
    if !rest.is_empty() {
        let summary = counts(rest.iter().copied());
        let (before, after) = (
            format!("<details><summary>{summary}</summary>\n\n"),
            "\n</details>\n\n",
        );
        let around = before.len() + after.len();
        let (table, left) = table(&rest, counted, room.saturating_sub(around));
        left_out += left;
        if left < rest.len() && table.len() + around <= room {
            text.push_str(&format!("{before}{table}{after}"));
        } else {
            left_out += rest.len() - left;
            text.push_str(&format!("{summary}.\n\n"));
        }
    }
    if left_out > 0 {
        text.push_str(&format!(
            "{left_out} more rows have no room here; the record of the run has them all.\n\n"
        ));
    }
    text + &foot
}

/// The verdict in one line of plain text.
pub fn headline(page: &Page) -> String {
    let count = |verdict| {
        page.lines
            .iter()
            .filter(|line| line.verdict == verdict)
            .count()
    };
    let total = page.lines.len();
    let told = count(Verdict::Unchanged) + count(Verdict::Improved) + count(Verdict::Regressed);
    match page.outcome {
        Outcome::Regressed => {
            let red = page.lines.iter().filter(|line| line.is_red()).count();
            let accepted = match count(Verdict::Regressed) - red {
                0 => String::new(),
                more => format!(", and {more} that may"),
            };
            format!("▲ {red} of {total} benches got slower{accepted}")
        }
        Outcome::Broken => "! The gate cannot vouch for this change".to_owned(),
        Outcome::Clean if total == 0 => "= Nothing was measured".to_owned(),
        Outcome::Clean if count(Verdict::New) == total => {
            "+ All benches are new: there is nothing to compare them with".to_owned()
        }
        Outcome::Clean if told == 0 => "? Nothing can be told of any bench".to_owned(),
        Outcome::Clean => match count(Verdict::Inconclusive) {
            0 => "= No bench got slower".to_owned(),
            open => format!("= No bench is known to be slower; {open} of {total} are inconclusive"),
        },
    }
}

/// What the check run says bench by bench, the worst first.
pub fn notes(page: &Page) -> Vec<Note> {
    let complaints = page.complaints.iter().map(|complaint| Note {
        blocks: complaint.blocks,
        title: "the run".to_owned(),
        message: shown(&complaint.text),
    });
    let lines = page
        .lines
        .iter()
        .filter(|line| {
            matches!(
                line.verdict,
                Verdict::Failed | Verdict::Regressed | Verdict::Missing
            )
        })
        .map(|line| Note {
            blocks: line.gates,
            title: format!("{}: {}", shown(line.id.as_str()), line.verdict),
            message: plain(line),
        });
    complaints.chain(lines).take(MAX_NOTES).collect()
}

/// How many of `lines` have each verdict, in words.
fn counts<'a>(lines: impl Iterator<Item = &'a Line>) -> String {
    let lines: Vec<&Line> = lines.collect();
    let count = |verdict: Verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let said: Vec<String> = Verdict::ALL
        .into_iter()
        .map(|verdict| (count(verdict), verdict))
        .filter(|(count, _)| *count > 0)
        .map(|(count, verdict)| format!("{count} {verdict}"))
        .collect();
    said.join(", ")
}

fn head(page: &Page) -> String {
    let mut text = format!("### {}\n\n", headline(page));
    if !page.lines.is_empty() {
        text.push_str(&format!("{}.\n\n", counts(page.lines.iter())));
    }
    for complaint in page.complaints.iter().take(MAX_SAID) {
        let mark = if complaint.blocks { "**!** " } else { "" };
        text.push_str(&format!("- {mark}{}\n", code(&complaint.text)));
    }
    if page.complaints.len() > MAX_SAID {
        let more = page.complaints.len() - MAX_SAID;
        text.push_str(&format!("- … and {more} more such\n"));
    }
    for fact in &page.facts {
        let parts: Vec<String> = fact.parts.iter().map(|part| reference(part)).collect();
        text.push_str(&format!("- {}: {}\n", fact.name, parts.join(", ")));
    }
    text.push('\n');
    text
}

/// A commit, which GitHub turns into a link, as it is; anything else in a code span.
fn reference(text: &str) -> String {
    if is_commit(text) {
        text.to_owned()
    } else {
        code(text)
    }
}

fn foot(page: &Page) -> String {
    let mut text = String::new();
    for sentence in &page.method {
        text.push_str(&format!("{sentence}\n"));
    }
    if let Some(command) = &page.reproduce {
        text.push_str(&format!(
            "\n<details><summary>Measure it yourself</summary>\n\n```sh\n{command}\n```\n\n</details>\n"
        ));
    }
    text
}

/// As many of `lines` as a table of `room` bytes holds, and how many it does not.
fn table(lines: &[&Line], counted: bool, room: usize) -> (String, usize) {
    let mut text = String::from("| bench | base | head | Δ % | least seen |");
    let mut rule = String::from("|---|---:|---:|---:|---:|");
    if counted {
        text.push_str(" instructions |");
        rule.push_str("---:|");
    }
    text.push_str(" verdict |\n");
    rule.push_str("---|\n");
    text.push_str(&rule);
    for (at, line) in lines.iter().enumerate() {
        let row = row(line, counted);
        if text.len() + row.len() > room {
            return (text, lines.len() - at);
        }
        text.push_str(&row);
    }
    (text, 0)
}

fn row(line: &Line, counted: bool) -> String {
    let figure = |text: Option<String>| match text {
        Some(text) => unbroken(&text),
        None => "–".to_owned(),
    };
    let detectable = line.detectable_pct.map(|pct| format!("{pct:.1} %"));
    let mut cells = vec![
        code(line.id.as_str()),
        figure(line.base.clone()),
        figure(line.head.clone()),
        delta(line),
        figure(detectable),
    ];
    if counted {
        cells.push(figure(line.instructions.clone()));
    }
    let mut verdict = unbroken(&format!("{} {}", mark(line.verdict), line.verdict));
    if line.is_red() {
        verdict = format!("**{verdict}**");
    }
    let reasons: Vec<String> = line.reasons.iter().map(because).collect();
    if !reasons.is_empty() {
        verdict.push_str(&format!(": {}", reasons.join("; ")));
    }
    cells.push(verdict);
    format!("| {} |\n", cells.join(" | "))
}

/// The change with its interval, `+12.3 (+9.1 … +15.6)`.
fn delta(line: &Line) -> String {
    let Some(delta) = line.delta_pct else {
        return "–".to_owned();
    };
    let interval = line.interval_pct.map_or_else(String::new, |[low, high]| {
        let interval = unbroken(&format!("({} … {})", change(low), change(high)));
        format!(" {interval}")
    });
    if line.has_moved() {
        format!("**{}**{interval}", change(delta))
    } else {
        format!("{}{interval}", change(delta))
    }
}

/// `text` with spaces at which no narrow column breaks it.
fn unbroken(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

/// A reason, with whatever others wrote in code spans.
fn because(reason: &Reason) -> String {
    match reason {
        Reason::OtherMachine { base } => format!("the baseline is of {}", code(base.as_str())),
        Reason::Broken { what } => code(what),
        Reason::Accepted {
            bound_pct,
            expires,
            reason,
        } => {
            let bound = bound_pct.map_or_else(String::new, |pct| format!(" up to {pct} %"));
            format!("accepted{bound} until {}: {}", code(expires), code(reason))
        }
        reason => reason.to_string(),
    }
}

/// What there is to say of a line, in plain text.
pub(super) fn plain(line: &Line) -> String {
    let side =
        |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
    let mut parts: Vec<String> = [side("base", &line.base), side("head", &line.head)]
        .into_iter()
        .flatten()
        .collect();
    if let Some(delta) = line.delta_pct {
        let interval = line.interval_pct.map_or_else(String::new, |[low, high]| {
            format!(", between {} and {}", change(low), change(high))
        });
        parts.push(format!("{} %{interval}", change(delta)));
    }
    if let Some(instructions) = &line.instructions {
        parts.push(format!("instructions {instructions}"));
    }
    parts.extend(line.reasons.iter().map(|reason| shown(&reason.to_string())));
    if parts.is_empty() {
        parts.push(line.verdict.to_string());
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests;
