//! The answer of a search for the commit that made a bench slower: for a terminal, for GitHub, for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::markdown::escaped;
use super::printable;
use super::terminal::{Style, push_wrapped};
use crate::judge::bisect::{Effect, Verification};

/// Suspects that are written out.
pub const MAX_SUSPECTS: usize = 12;

/// Skipped commits that are written out.
const MAX_SKIPPED: usize = 6;

/// Skipped commits that are listed for GitHub, whose comments have an end.
const MAX_LISTED: usize = 100;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bisection {
    /// The bench.
    pub bench: String,
    /// `wall` or `ir`.
    pub metric: String,
    /// The good end.
    pub good: String,
    /// The bad end.
    pub bad: String,
    /// Commits that were searched among.
    pub commits: usize,
    /// The probability that was asked for.
    pub confidence: f64,
    /// What was found.
    pub found: Found,
    /// The probability that there is no difference at all.
    pub none: f64,
    /// How much slower the bad end is.
    pub effect: Percent,
    /// The credible set's first commits, the likeliest first; probabilities are granted that there is a culprit.
    pub suspects: Vec<Suspect>,
    /// How many commits the set has.
    pub credible: usize,
    /// The commit before the culprit that builds.
    pub parent: Option<String>,
    /// The commit that is named.
    pub culprit: Option<Suspect>,
    /// What fresh links of the culprit and its parent say.
    pub verification: Option<Verified>,
    /// The last subject of the branch whose merge was the culprit on the first parents.
    pub branch: Option<String>,
    /// What is left unknown.
    pub entropy_bits: f64,
    /// The noise of a measurement, as a standard deviation.
    pub noise_pct: f64,
    /// The same of a link.
    pub layout_pct: f64,
    /// What it took.
    pub work: Work,
    /// Commits that were left out, and why.
    pub skipped: Vec<(String, String)>,
    /// The command.
    pub again: String,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The commit.
    Commit,
    /// A commit and those before it that do not build.
    OneOf,
    /// The ends do not differ by what would matter.
    NoDifference,
    /// The bad end is the faster one.
    Faster,
    /// An end does not build.
    EndBroken,
    /// No answer yet.
    Nothing,
}

/// A commit that may be it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// In full.
    pub commit: String,
    /// Author date and author.
    pub by: String,
    /// The first line of its message.
    pub subject: String,
    /// How probable it is.
    pub probability: f64,
}

/// An effect in percent of the cost before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percent {
    /// The median.
    pub median: f64,
    /// The lower end of the central 95 %.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// [`Verification`] in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// Fresh links of the culprit and of its parent, each.
    pub links: u32,
    /// The probability of a step from these alone, from even odds.
    pub probability: f64,
    /// The step.
    pub effect: Percent,
    /// Whether that and all other measurements together were enough.
    pub verified: bool,
}

/// What a search took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Work {
    /// First links of a commit.
    pub builds: u32,
    /// Further links.
    pub links: u32,
    /// Measurements.
    pub runs: u32,
    /// All of it.
    pub seconds: f64,
}

impl From<Effect> for Percent {
    fn from(effect: Effect) -> Self {
        let percent = |log: f64| 100.0 * log.exp_m1();
        Self {
            median: percent(effect.median),
            low: percent(effect.low),
            high: percent(effect.high),
        }
    }
}

impl From<Verification> for Verified {
    fn from(seen: Verification) -> Self {
        Self {
            links: seen.links,
            probability: seen.probability,
            effect: seen.effect.into(),
            verified: seen.verified,
        }
    }
}

impl Bisection {
    /// The commit that may be named in public: found, and not contradicted by fresh links.
    pub fn accused(&self) -> Option<&str> {
        let borne_out = self.verification.is_none_or(|seen| seen.verified);
        let named = matches!(self.found, Found::Commit | Found::OneOf);
        let culprit = self.culprit.as_ref().filter(|_| borne_out && named);
        culprit.map(|culprit| culprit.commit.as_str())
    }
}

/// For a terminal.
pub fn text(found: &Bisection, style: Style) -> String {
    let mut text = String::new();
    for (label, line) in lines(found) {
        push_wrapped(&mut text, label, &line, style);
    }
    if found.culprit.is_none() || found.suspects.len() > 1 {
        for suspect in &found.suspects {
            let bar = "#".repeat((suspect.probability * 20.0).round() as usize);
            let line = format!(
                "{:>5.1} % {bar:<20} {}",
                100.0 * suspect.probability,
                named(suspect)
            );
            push_wrapped(&mut text, "  ", &line, style);
        }
        more(found, &mut text);
    }
    for (commit, why) in found.skipped.iter().take(MAX_SKIPPED) {
        push_wrapped(
            &mut text,
            "skipped:  ",
            &format!("{} {}", short(commit), last_line(why)),
            style,
        );
    }
    if found.skipped.len() > MAX_SKIPPED {
        let _ = writeln!(
            text,
            "skipped:  … and {} more",
            found.skipped.len() - MAX_SKIPPED
        );
    }
    for command in commands(found) {
        let _ = writeln!(text, "  {command}");
    }
    text
}

/// For GitHub.
pub fn markdown(found: &Bisection) -> String {
    let mut lines = lines(found).into_iter();
    let mut text = String::new();
    if let Some((_, first)) = lines.next() {
        let _ = writeln!(text, "**{}**\n", escaped(&printable(&first)));
    }
    for (label, line) in lines {
        let _ = writeln!(
            text,
            "- {}{}",
            label.trim_end().replace(':', ": "),
            escaped(&printable(&line))
        );
    }
    if !found.suspects.is_empty() {
        text.push_str("\n| probability | commit | by | subject |\n|---:|---|---|---|\n");
        for suspect in &found.suspects {
            let _ = writeln!(
                text,
                "| {:.1} % | {} | {} | {} |",
                100.0 * suspect.probability,
                escaped(&suspect.commit),
                escaped(&printable(&suspect.by)),
                escaped(&printable(&suspect.subject))
            );
        }
        more(found, &mut text);
    }
    if !found.skipped.is_empty() {
        let commits: Vec<&str> = found
            .skipped
            .iter()
            .take(MAX_LISTED)
            .map(|(commit, _)| short(commit))
            .collect();
        let more = match found.skipped.len() - commits.len() {
            0 => String::new(),
            left => format!(" and {left} more"),
        };
        let _ = writeln!(
            text,
            "\nDo not build or run: {}{more}",
            escaped(&commits.join(", "))
        );
    }
    text.push_str("\n```sh\n");
    for command in commands(found) {
        // A fence in a name would end the block.
        text.push_str(&printable(&command).replace('`', "'"));
        text.push('\n');
    }
    text.push_str("```\n");
    text
}

/// For programs.
pub fn json(found: &Bisection) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        kind: &'static str,
        #[serde(flatten)]
        found: &'a Bisection,
    }
    let document = Document {
        schema: super::json::SCHEMA,
        kind: "bisection",
        found,
    };
    let mut text =
        serde_json::to_string_pretty(&document).expect("numbers, texts and lists of them");
    text.push('\n');
    text
}

/// What is to be said, the most important first; each with its label.
fn lines(found: &Bisection) -> Vec<(&'static str, String)> {
    let what = if found.metric == "ir" {
        "instructions"
    } else {
        "time"
    };
    let mut lines = vec![("", headline(found, what))];
    if let Some(culprit) = &found.culprit {
        lines.push(("commit:   ", named(culprit)));
        lines.push(("by:       ", culprit.by.clone()));
    }
    if let Some(branch) = &found.branch {
        lines.push((
            "merged:   ",
            format!("it came with a branch that ends with \"{branch}\""),
        ));
    }
    let slower = matches!(found.found, Found::Commit | Found::OneOf | Found::Nothing);
    if slower {
        lines.push(("ends:     ", format!("{what} {}", spelled(found.effect))));
    }
    if let Some(seen) = found.verification {
        lines.push(("verified: ", verification(seen)));
    } else if found.culprit.is_some() && found.metric != "ir" {
        lines.push((
            "verified: ",
            "no: this linker gives no other layouts".to_owned(),
        ));
    }
    let noise = if found.metric == "ir" {
        String::new()
    } else {
        format!(
            "; noise ±{:.2} % a run, ±{:.2} % a link",
            found.noise_pct, found.layout_pct
        )
    };
    lines.push((
        "took:     ",
        format!(
            "{} runs, {} commits built, {} links more, {:.0} s{noise}",
            found.work.runs, found.work.builds, found.work.links, found.work.seconds
        ),
    ));
    lines
}

fn headline(found: &Bisection, what: &str) -> String {
    let bench = &found.bench;
    match found.found {
        Found::Commit | Found::OneOf => {
            let culprit = found.culprit.as_ref();
            let (commit, p) = culprit.map_or(("", 0.0), |c| (short(&c.commit), c.probability));
            let which = if found.found == Found::Commit {
                format!("{commit} made {bench} slower")
            } else {
                format!("{commit}, or one before it that does not build, made {bench} slower")
            };
            format!(
                "{which}: probability {} among {} commits",
                certain(p),
                found.commits
            )
        }
        Found::NoDifference => format!(
            "{bench}: the ends do not differ: {what} is at most {:+.1} % more, or not at all more \
             (probability {})",
            found.effect.high,
            certain(found.none)
        ),
        Found::Faster => format!("{bench}: the bad end is the faster one; swap --good and --bad"),
        Found::EndBroken => {
            format!("{bench}: an end does not build, or the bench does not run there")
        }
        Found::Nothing => format!(
            "{bench}: no answer yet: {:.1} bits are unknown, and {:.0} % of the probability is within {} of {} commits",
            found.entropy_bits,
            100.0 * found.confidence,
            found.credible,
            found.commits
        ),
    }
}

fn verification(seen: Verified) -> String {
    format!(
        "{}: {} fresh links of it and of its parent say {}, probability {}",
        if seen.verified { "yes" } else { "no" },
        seen.links,
        spelled(seen.effect),
        certain(seen.probability)
    )
}

fn spelled(effect: Percent) -> String {
    format!(
        "{:+.2} % (95 %: {:+.2} to {:+.2} %)",
        effect.median, effect.low, effect.high
    )
}

/// No probability of a model is 1.
fn certain(probability: f64) -> String {
    if probability > 0.999 {
        "> 99.9 %".to_owned()
    } else {
        format!("{:.1} %", 100.0 * probability)
    }
}

fn named(suspect: &Suspect) -> String {
    format!("{} {}", short(&suspect.commit), suspect.subject)
}

fn more(found: &Bisection, text: &mut String) {
    let left = found.credible.saturating_sub(found.suspects.len());
    if left > 0 {
        let _ = writeln!(text, "\n… and {left} more commits");
    }
}

/// What shows the same to others.
fn commands(found: &Bisection) -> Vec<String> {
    let mut commands = Vec::new();
    if let Some(culprit) = &found.culprit {
        commands.push(format!("git show {}", short(&culprit.commit)));
    }
    commands.push(found.again.clone());
    commands
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

fn last_line(why: &str) -> &str {
    why.lines()
        .find(|line| line.contains("error"))
        .or(why.lines().last())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text_and_no_probability_is_1() {
        let suspect = Suspect {
            commit: "0123456789abcdef".to_owned(),
            by: "2026-01-02, <b>x</b>".to_owned(),
            subject: "`a` | <img src=x> \u{1b}[31m".to_owned(),
            probability: 0.999_95,
        };
        let effect = Percent {
            median: 3.0,
            low: 2.0,
            high: 4.0,
        };
        let found = Bisection {
            bench: "parse|```\n".to_owned(),
            metric: "wall".to_owned(),
            good: "a".to_owned(),
            bad: "b".to_owned(),
            commits: 128,
            confidence: 0.95,
            found: Found::Commit,
            none: 0.001,
            effect,
            suspects: vec![suspect.clone()],
            credible: 1,
            parent: Some("f".to_owned()),
            culprit: Some(suspect),
            verification: Some(Verified {
                links: 6,
                probability: 0.97,
                effect,
                verified: true,
            }),
            branch: None,
            entropy_bits: 0.1,
            noise_pct: 0.5,
            layout_pct: 0.1,
            work: Work {
                builds: 9,
                links: 12,
                runs: 40,
                seconds: 60.0,
            },
            skipped: vec![("c".to_owned(), "x\nerror: y".to_owned())],
            again: "tokgate bisect --bench 'parse|```\n'".to_owned(),
        };
        let shown = text(&found, Style::default());
        assert!(
            shown.contains("> 99.9 %")
                && shown.contains("6 fresh links")
                && !shown.contains('\u{1b}')
        );
        let shown = markdown(&found);
        assert!(
            !shown.contains("<img") && !shown.contains("<b>") && shown.matches("```").count() == 2
        );
        let value: serde_json::Value = serde_json::from_str(&json(&found)).unwrap();
        assert_eq!(
            (value["kind"].as_str(), value["found"].as_str()),
            (Some("bisection"), Some("commit"))
        );
    }
}
