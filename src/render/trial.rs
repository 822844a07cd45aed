//! The report of a gate run, for a terminal and for programs.

use serde::Serialize;

use super::terminal::{self, Style};
use super::{change, figure, printable};
use crate::judge::trial::{Report, Row};
use crate::judge::{Reason, Verdict};
use crate::record::Metric;
use crate::record::trial::{Code, Revision, Trial};

/// The version of the JSON.
pub const SCHEMA: u32 = 1;

/// Notes on single benches that are written out; the rest is counted.
const MAX_NOTES: usize = 20;

/// The report as a table: mark, bench, base, head, change, its 95 % interval, and the smallest slow-down that would
/// have been found.
pub fn text(report: &Report, trial: &Trial, style: Style) -> String {
    let mut text = String::new();
    let side = |revision: &Revision| {
        let commit: String = revision.commit.chars().take(10).collect();
        let changes = if revision.dirty { "+changes" } else { "" };
        format!("{commit}{changes} ({})", revision.asked)
    };
    terminal::push_wrapped(&mut text, "base: ", &side(&trial.base), style);
    terminal::push_wrapped(&mut text, "head: ", &side(&trial.head), style);
    let on = format!(
        "{}, {}, seed {}",
        trial.machine.key,
        trial.build.rustc.split(" (").next().unwrap_or_default(),
        trial.seed
    );
    terminal::push_wrapped(&mut text, "on:   ", &on, style);
    text.push_str(&terminal::aligned(
        ["bench", "base", "head", "Δ %", "95 % interval", "finds"],
        &report
            .rows
            .iter()
            .filter(|row| shown(row))
            .map(|row| (row.verdict, cells(row)))
            .collect::<Vec<_>>(),
        style,
    ));
    legend(&mut text, report, trial, style);
    text
}

/// A row without a figure and without anything to say is counted, not shown.
fn shown(row: &Row) -> bool {
    row.time.is_some() || row.instructions.is_some() || row.verdict != Verdict::Unchanged
}

fn cells(row: &Row) -> [String; 6] {
    let none = || "–".to_owned();
    let name = printable(row.id.as_str());
    if let Some(timed) = &row.time {
        let [low, high] = timed.effect.interval_pct;
        return [
            name,
            figure(Metric::Time, timed.base_ns),
            figure(Metric::Time, timed.head_ns),
            change(timed.effect.pct),
            format!("{} … {}", change(low), change(high)),
            change(timed.detectable_pct),
        ];
    }
    match &row.instructions {
        Some(counted) => {
            let count = |count: Option<u64>| {
                count.map_or_else(none, |count| figure(Metric::Instructions, count as f64))
            };
            [
                name,
                count(counted.base),
                count(counted.head),
                counted.delta_pct.map_or_else(none, change),
                "exact".to_owned(),
                change(counted.threshold_pct),
            ]
        }
        None => [name, none(), none(), none(), none(), none()],
    }
}

fn legend(text: &mut String, report: &Report, trial: &Trial, style: Style) {
    for verdict in Verdict::ALL {
        let rows = report.count(verdict);
        if rows > 0 {
            let mark = terminal::mark(verdict);
            text.push_str(&format!("{mark} {rows} {verdict}\n"));
        }
    }
    let same = trial
        .targets
        .iter()
        .filter(|target| target.code == Code::Same);
    let same: Vec<String> = same.map(|target| printable(&target.name)).collect();
    if !same.is_empty() {
        let said = format!(
            "the same machine code on both sides, not measured: {}",
            same.join(", ")
        );
        terminal::push_wrapped(text, "  ", &said, style);
    }
    let mut notes = Vec::new();
    for row in &report.rows {
        let instructions = row.instructions.as_ref().filter(|_| row.time.is_some());
        for reason in row
            .reasons
            .iter()
            .filter(|reason| **reason != Reason::SameCode)
        {
            notes.push(format!("{}: {reason}", row.id));
        }
        if let Some(delta) = instructions.and_then(|counted| counted.delta_pct)
            && delta != 0.0
        {
            notes.push(format!("{}: {} % instructions", row.id, change(delta)));
        }
    }
    for note in notes.iter().take(MAX_NOTES) {
        terminal::push_wrapped(text, "  ", note, style);
    }
    if notes.len() > MAX_NOTES {
        text.push_str(&format!(
            "  … and {} more such notes\n",
            notes.len() - MAX_NOTES
        ));
    }
    for note in &trial.notes {
        terminal::push_wrapped(text, "  ", note, style);
    }
    for complaint in &report.complaints {
        terminal::push_wrapped(text, "! ", &complaint.to_string(), style);
    }
    let family = report.family;
    if family.judged > 0 {
        let said = format!(
            "Regressed: proven slower than the threshold, at a false-alarm rate of {} % for the run of {} benches. \
             'finds': the smallest slow-down that these blocks would have shown 19 times out of 20.",
            family.false_alarms_pct, family.judged
        );
        terminal::push_wrapped(text, "", &said, style);
    }
    if let Some(measured) = report.measured {
        let said = format!(
            "Measured here with identical code: {} false alarms in {} verdicts of {} runs.",
            measured.false_alarms, measured.verdicts, measured.rounds
        );
        terminal::push_wrapped(text, "", &said, style);
    }
    text.push_str(&format!("{}\n", report.verdict.name().to_uppercase()));
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kind: &'static str,
    seed: u64,
    base: &'a Revision,
    head: &'a Revision,
    machine: &'a crate::record::trial::Machine,
    build: &'a crate::record::trial::Build,
    notes: &'a [String],
    red: bool,
    broken: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// The report with everything that was weighed; the raw samples are in the record.
pub fn json(report: &Report, trial: &Trial) -> String {
    let document = Document {
        schema: SCHEMA,
        kind: "gate_report",
        seed: trial.seed,
        base: &trial.base,
        head: &trial.head,
        machine: &trial.machine,
        build: &trial.build,
        notes: &trial.notes,
        red: report.is_red(),
        broken: report.is_broken(),
        report,
    };
    let mut text =
        serde_json::to_string_pretty(&document).expect("numbers, texts and lists of them");
    text.push('\n');
    text
}
