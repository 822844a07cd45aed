//! What people read under a pull request.

use proptest::prelude::*;

use super::*;
use crate::judge::trial::{self, Effect, Family, Measured, Report, Timed};
use crate::judge::{Comparison, Drift, Statistic};
use crate::record::MachineKey;
use crate::record::trial::{Build, Machine, Revision, Trial};
use crate::render::Sides;
use crate::render::junit;

fn revision(asked: &str, digit: char) -> Revision {
    Revision {
        asked: asked.to_owned(),
        commit: digit.to_string().repeat(40),
        dirty: false,
    }
}

fn trial() -> Trial {
    Trial {
        started_at: "2026-10-01T12:00:00Z".parse().unwrap(),
        finished_at: "2026-10-01T12:03:12Z".parse().unwrap(),
        seed: 7,
        budget_s: 180.0,
        interrupted: false,
        machine: Machine {
            key: MachineKey::new("x86_64-amd-2c").unwrap(),
            counts_key: MachineKey::new("callgrind-amd").unwrap(),
            cpu: "AMD EPYC 7763 64-Core Processor".to_owned(),
            cpus: 2,
            governor: None,
        },
        build: Build {
            rustc: "rustc 1.95.0 (0123abcde 2026-04-01)".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            rustflags: String::new(),
            profile: "bench".to_owned(),
        },
        base: revision("main", 'b'),
        head: revision("aaaa", 'a'),
        targets: Vec::new(),
        benches: Vec::new(),
        checks: Vec::new(),
        notes: Vec::new(),
    }
}

/// A bench whose time changed by `pct`.
fn row(id: &str, pct: f64, verdict: Verdict) -> trial::Row {
    let interval = [pct - 0.4, pct + 0.5];
    let timed = Timed {
        verdict,
        base_ns: 51_000.0,
        head_ns: 51_000.0 * (1.0 + pct / 100.0),
        statistic: Statistic::Low,
        blocks: 12,
        look: 1,
        effect: Effect {
            pct,
            interval_pct: interval,
        },
        threshold_pct: 3.0,
        at_least_pct: interval[0],
        at_most_pct: interval[1],
        detectable_pct: 1.26,
        null: None,
        median: None,
        tail: None,
    };
    trial::Row {
        id: id.parse().unwrap(),
        target: "kernels matmul".to_owned(),
        verdict,
        gates: true,
        reasons: Vec::new(),
        time: Some(timed),
        instructions: None,
    }
}

/// A bench without a figure.
fn bare(id: &str, verdict: Verdict, reasons: Vec<Reason>) -> trial::Row {
    trial::Row {
        time: None,
        reasons,
        ..row(id, 0.0, verdict)
    }
}

fn report(rows: Vec<trial::Row>) -> Report {
    Report {
        verdict: Verdict::Unchanged,
        family: Family {
            false_alarms_pct: 1.0,
            judged: rows.len(),
            looks: 1,
        },
        rows,
        complaints: Vec::new(),
        measured: Some(Measured {
            rounds: 20,
            verdicts: 200,
            false_alarms: 0,
        }),
    }
}

fn page(rows: Vec<trial::Row>) -> Page {
    Page::of_trial(&report(rows), &trial())
}

fn unchanged(number: usize) -> impl Iterator<Item = trial::Row> {
    let name = |at| format!("matmul/q8_0/avx2/m{at}_k4096_n11008");
    (0..number).map(move |at| row(&name(at), 0.12, Verdict::Unchanged))
}

fn comment(page: &Page) -> String {
    markdown(page, MAX_COMMENT_BYTES)
}

#[test]
fn clean() {
    insta::assert_snapshot!(comment(&page(unchanged(3).collect())));
}

#[test]
fn regressed() {
    let mut rows = vec![row("softmax/f32/avx2/m1_n4096", 12.34, Verdict::Regressed)];
    rows[0].instructions = Some(trial::Counted {
        verdict: Verdict::Regressed,
        base: Some(1_000_000),
        head: Some(1_100_000),
        delta_pct: Some(10.0),
        threshold_pct: 0.5,
    });
    rows.push(trial::Row {
        gates: false,
        reasons: vec![Reason::Accepted {
            bound_pct: Some(10.0),
            expires: "2026-12-31".to_owned(),
            reason: "exact *exp* @now".to_owned(),
        }],
        ..row("rope/f32/avx2/m1_d128", 6.0, Verdict::Regressed)
    });
    rows.extend(unchanged(2));
    let page = page(rows);
    assert_eq!(page.outcome, Outcome::Regressed);
    insta::assert_snapshot!(comment(&page));
    insta::assert_snapshot!("regressed_junit", junit::report(&page));
    let notes: Vec<(bool, &str)> = notes(&page)
        .iter()
        .map(|note| (note.blocks, note.title.split(':').next().unwrap()))
        .map(|(blocks, title)| {
            (
                blocks,
                if title.starts_with("softmax") {
                    "softmax"
                } else {
                    "rope"
                },
            )
        })
        .collect();
    assert_eq!(notes, [(true, "softmax"), (false, "rope")]);
}

#[test]
fn improved() {
    let mut rows = vec![row("softmax/f32/avx2/m1_n4096", -23.4, Verdict::Improved)];
    rows.extend(unchanged(1));
    insta::assert_snapshot!(comment(&page(rows)));
}

#[test]
fn inconclusive_and_not_measurable() {
    let mut rows = vec![row("softmax/f32/avx2/m1_n4096", 2.9, Verdict::Inconclusive)];
    rows[0].reasons.push(Reason::ByChance { benches: 34 });
    let mut layout = row("rope/f32/avx2/m1_d128", 1.0, Verdict::NotMeasurable);
    layout.reasons.push(Reason::Layout {
        null_pct: 8.0,
        floor_pct: 3.0,
    });
    let mut few = row("add/f32/avx2/n64", f64::NAN, Verdict::Inconclusive);
    few.reasons.push(Reason::FewBlocks {
        blocks: 1,
        needed: 3,
    });
    rows.extend([layout, few]);
    insta::assert_snapshot!(comment(&page(rows)));
}

#[test]
fn missing_and_broken() {
    let gone = bare("gone/f32/avx2/m1", Verdict::Missing, Vec::new());
    let what = "head: exit code 101\n`thread 'main' panicked`".to_owned();
    let broken = bare(
        "broken/f32/avx2/m1",
        Verdict::Failed,
        vec![Reason::Broken { what }],
    );
    let mut report = report(vec![broken, gone]);
    report.complaints.push(trial::Complaint::Expired {
        bench: "model/*".to_owned(),
        expires: "2026-09-30".to_owned(),
    });
    report.complaints.push(trial::Complaint::Unused {
        bench: "*/old/*".to_owned(),
    });
    report.measured = None;
    let page = Page::of_trial(&report, &trial());
    assert_eq!(page.outcome, Outcome::Broken);
    insta::assert_snapshot!(comment(&page));
    insta::assert_snapshot!("broken_junit", junit::report(&page));
}

#[test]
fn a_first_run_has_nothing_to_compare_with() {
    let new = |id| bare(id, Verdict::New, Vec::new());
    let page = page(vec![new("rope/f32/avx2/m1_d128"), new("parse")]);
    assert_eq!(page.outcome, Outcome::Clean);
    insta::assert_snapshot!(comment(&page));
}

#[test]
fn nothing_measured_and_changes_that_no_commit_has() {
    let mut report = report(Vec::new());
    report.complaints.push(trial::Complaint::NothingMeasured);
    let mut trial = trial();
    trial.head.dirty = true;
    trial.base.commit = "<no commit>".to_owned();
    insta::assert_snapshot!(comment(&Page::of_trial(&report, &trial)));
}

#[test]
fn a_comparison_with_a_stored_baseline() {
    let comparison = Comparison {
        rows: Vec::new(),
        drift: Drift::Nothing,
        not_measured: 3,
    };
    let sides = Sides {
        now: "last run, 2026-10-02, 0123456789+changes, rustc 1.95.0".to_owned(),
        base: "baseline, 2026-10-01, fedcba9876, rustc 1.95.0".to_owned(),
    };
    insta::assert_snapshot!(comment(&Page::of_comparison(&comparison, &sides)));
}

#[test]
fn of_500_benches_the_most_important_are_shown() {
    let long = |at: usize| format!("group_{at}/{}", "a_long_name_".repeat(8));
    let mut rows: Vec<trial::Row> = (0..120)
        .map(|at| row(&long(at), 30.0 - at as f64 / 10.0, Verdict::Regressed))
        .collect();
    rows.extend((120..500).map(|at| row(&long(at), 0.1, Verdict::Unchanged)));
    let page = page(rows);
    let text = comment(&page);
    assert!(text.len() <= MAX_COMMENT_BYTES, "{}", text.len());
    assert!(text.contains("▲ 120 of 500 benches got slower"));
    assert!(text.contains("tokgate gate --base"), "the foot is whole");
    let shown = |verdict: &str| text.lines().filter(|line| line.contains(verdict)).count();
    assert_eq!(shown("▲\u{a0}regressed"), 120);
    let unchanged = shown("=\u{a0}unchanged");
    assert!((100..380).contains(&unchanged), "{unchanged}");
    let left_out = format!("{} more rows have no room here", 380 - unchanged);
    assert!(text.contains(&left_out), "{left_out}");

    let text = markdown(&page, 4000);
    assert!(text.len() <= 4000);
    assert!(text.contains("more rows have no room here") && text.contains("380 unchanged.\n"));
    // A table of nothing but its head is no table.
    assert!(!text.contains("<summary>380"));
    assert_eq!(notes(&page).len(), 120);
}

const HOSTILE: [&str; 12] = [
    "a | b \\| c",
    "`x` ``y``",
    "</code><script>alert(1)</script><img src=x onerror=alert(1)>",
    "@torvalds and @org/team",
    "#1 org/repo#2 GH-3 0123456789abcdef0123456789abcdef01234567",
    "https://evil.example www.evil.example me@evil.example",
    "\u{202e}desrever\u{2066} and \u{200b}hidden",
    "line\nbreak\r\n| next | row |",
    "![x](https://evil.example/pixel.png) [link](javascript:alert(1))",
    "\u{1b}[31mred\u{7}",
    "*bold* _it_ ~~gone~~ $x$ :tada: <!-- tokgate:gate -->",
    "ends with a backslash\\",
];

#[test]
fn hostile_names_are_names() {
    let mut rows: Vec<trial::Row> = HOSTILE
        .into_iter()
        .map(|id| row(id, 5.0, Verdict::Regressed))
        .collect();
    rows[0].target = HOSTILE[2].to_owned();
    let mut trial = trial();
    trial.machine.cpu = HOSTILE[2].to_owned();
    trial.head.asked = HOSTILE[3].to_owned();
    let mut report = report(rows);
    report.complaints = HOSTILE
        .into_iter()
        .map(|text| trial::Complaint::Required {
            pattern: text.to_owned(),
        })
        .collect();
    let page = Page::of_trial(&report, &trial);
    insta::assert_snapshot!(comment(&page));
    insta::assert_snapshot!("hostile_junit", junit::report(&page));
    for note in notes(&page) {
        assert!(
            !note.title.contains(['\n', '\u{202e}', '\u{1b}']),
            "{note:?}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_a_bench_is_called_it_stays_in_its_code_span(
        id in "[`|\\\\<>@#*a \n]{1,40}|\\PC{1,60}|.{1,60}",
        limit in MIN_BYTES..8000,
    ) {
        let Ok(id) = id.parse::<crate::record::BenchId>() else {
            return Ok(());
        };
        let page = page(vec![row(id.as_str(), 5.0, Verdict::Regressed)]);
        let text = markdown(&page, limit);
        prop_assert!(text.len() <= limit);
        let line = text.lines().find(|line| line.contains("▲\u{a0}regressed")).unwrap();
        prop_assert_eq!(line.matches('|').count(), 7, "{}", line);
        let cell = line.strip_prefix("| ").unwrap().split(" | ").next().unwrap();
        let fence = cell.len() - cell.trim_start_matches('`').len();
        let inside = &cell[fence..cell.len() - fence];
        prop_assert!(cell.ends_with(&"`".repeat(fence)) && fence > 0, "{}", cell);
        prop_assert!(inside.split(|c| c != '`').all(|run| run.len() < fence), "{}", cell);
        prop_assert!(!inside.starts_with('`') && !inside.ends_with('`'), "{}", cell);
    }
}
