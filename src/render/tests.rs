//! What people read, as they read it.

use proptest::prelude::*;
use unicode_width::UnicodeWidthStr;

use super::terminal::Style;
use super::*;
use crate::judge::{Reason, Summary};
use crate::record::{BenchId, MachineKey};

const NARROW: Style = Style {
    width: Some(80),
    colour: false,
};

fn summary(value: f64) -> Summary {
    Summary {
        samples: 50,
        value,
        median: value * 1.01,
        tail: value * 1.1,
        spread_pct: 1.26,
        wander: 0.01,
    }
}

fn row(id: &str, metric: Metric, now: f64, base: f64, verdict: Verdict) -> Row {
    let side = |value: f64| (value > 0.0).then(|| summary(value));
    Row {
        id: id.parse().unwrap(),
        metric,
        now: side(now),
        base: side(base),
        delta_pct: (now > 0.0 && base > 0.0).then(|| (now / base - 1.0) * 100.0),
        interval_pct: verdict.is_judgement().then_some([-1.25, 12.5]),
        threshold_pct: Some(15.0),
        gates: metric.gates(),
        verdict,
        reason: None,
    }
}

fn example() -> Comparison {
    let with = |row: Row, reason: Reason| Row {
        reason: Some(reason),
        ..row
    };
    let other = MachineKey::new("x86_64-other-8c").unwrap();
    Comparison {
        rows: vec![
            with(
                row(
                    "matmul/f32/avx2/m1_k64_n32",
                    Metric::Instructions,
                    7.0,
                    0.0,
                    Verdict::Failed,
                ),
                Reason::Implausible { least: 32.0 },
            ),
            row(
                "matmul/q8_0/avx512vnni/m512_k4096_n11008",
                Metric::Time,
                8.1234e7,
                5.1e7,
                Verdict::Regressed,
            ),
            with(
                row(
                    "attention/bf16/avx512bf16/q1_kv4096_h32_g4_d128",
                    Metric::Time,
                    1.2e6,
                    1.1e6,
                    Verdict::Inconclusive,
                ),
                Reason::Median { delta_pct: 44.4 },
            ),
            with(
                row(
                    "softmax/f32/avx2/m1_n4096",
                    Metric::Time,
                    812.4,
                    790.0,
                    Verdict::Inconclusive,
                ),
                Reason::WithinNoise,
            ),
            with(
                row(
                    "rope/f32/avx2/m1_d128",
                    Metric::Time,
                    51.0,
                    48.0,
                    Verdict::NotMeasurable,
                ),
                Reason::OtherMachine { base: other },
            ),
            row(
                "gone/f32/avx2/m1",
                Metric::Time,
                0.0,
                3.3e9,
                Verdict::Missing,
            ),
            row(
                "parse/\u{1b}[31m|`x`<b>*a*\n日本語/twitter.json",
                Metric::Time,
                999.96,
                0.0,
                Verdict::New,
            ),
            row(
                "matmul/q8_0/avx2/m1_k64_n32",
                Metric::Instructions,
                1_234_567.0,
                1_230_000.0,
                Verdict::Unchanged,
            ),
            row(
                "matmul/q8_0/avx2/m1_k64_n32",
                Metric::EstimatedCycles,
                2e6,
                2e6,
                Verdict::Unchanged,
            ),
            row(
                "model/q8_0/avx512vnni/qwen3-0.6b_tg128_t2",
                Metric::TokensPerSecond,
                47.5,
                31.0,
                Verdict::Improved,
            ),
        ],
        drift: Drift::Controls(Seen {
            benches: 6,
            median_pct: 3.21,
            scatter_pct: 0.84,
        }),
        not_measured: 17,
    }
}

fn sides() -> Sides {
    Sides {
        now: "last run, 2026-10-02, 0123456789+changes, rustc 1.95.0, avx512bf16".to_owned(),
        base: "baseline, 2026-10-01, fedcba9876, rustc 1.95.0, avx512bf16".to_owned(),
    }
}

#[test]
fn a_terminal_of_80_columns() {
    let text = terminal::comparison(&example(), &sides(), NARROW);
    insta::assert_snapshot!(text);
}

#[test]
fn a_pipe_gets_whole_names_and_no_colours() {
    let text = terminal::table(&example(), Style::default());
    assert!(text.contains("matmul/q8_0/avx512vnni/m512_k4096_n11008 "));
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn colours_are_those_of_the_verdicts_alone() {
    let style = Style {
        colour: true,
        ..NARROW
    };
    let coloured = terminal::comparison(&example(), &sides(), style);
    assert_eq!(coloured.matches("\u{1b}[31m").count(), 2);
    assert_eq!(coloured.matches("\u{1b}[0m").count(), 6);
    let plain = ["31", "32", "33", "0"]
        .into_iter()
        .fold(coloured, |text, code| {
            text.replace(&format!("\u{1b}[{code}m"), "")
        });
    assert_eq!(plain, terminal::comparison(&example(), &sides(), NARROW));
}

#[test]
fn markdown_for_github() {
    insta::assert_snapshot!(markdown::comparison(&example(), &sides()));
}

#[test]
fn json_with_a_version() {
    let text = json::comparison(&example(), &sides(), &[], &[]);
    let read = json::read_comparison(&text, "report.json").unwrap();
    assert_eq!((read.comparison, read.sides), (example(), sides()));
    insta::assert_snapshot!(text);
}

#[test]
fn another_kind_or_version_is_no_comparison() {
    let text = json::comparison(&example(), &sides(), &[], &[]);
    for (from, to) in [
        ("\"comparison\"", "\"trial\""),
        ("\"schema\": 1", "\"schema\": 2"),
        ("\"rows\"", "\"columns\""),
    ] {
        let error = json::read_comparison(&text.replace(from, to), "report.json").unwrap_err();
        assert!(error.to_string().starts_with("report.json: "), "{error}");
    }
}

#[test]
fn figures_have_four_digits_and_a_readable_unit() {
    for (metric, value, text) in [
        (Metric::Time, 0.1234, "0.123 ns"),
        (Metric::Time, 9.99951, "10.00 ns"),
        (Metric::Time, 999.96, "1.000 µs"),
        (Metric::Time, 999.9, "999.9 ns"),
        (Metric::Time, 12_345_678.0, "12.35 ms"),
        (Metric::Time, 4.2e12, "4200 s"),
        (Metric::Instructions, 99_999.0, "99999 Ir"),
        (Metric::Instructions, 100_000.0, "0.100 MIr"),
        (Metric::Instructions, 1.5e10, "15.00 GIr"),
        (Metric::Bytes, 1536.0, "1.500 KiB"),
        (Metric::TokensPerSecond, 44.567, "44.57 t/s"),
    ] {
        assert_eq!(figure(metric, value), text);
    }
}

#[test]
fn changes_show_as_many_decimals_as_matter() {
    for (percent, text) in [
        (0.5, "+0.50"),
        (-9.999, "-10.0"),
        (12.34, "+12.3"),
        (1234.0, "+1234"),
    ] {
        assert_eq!(change(percent), text);
    }
}

#[test]
fn characters_that_widen_the_one_before_them_fit_too() {
    for name in ["*\u{fe0f}".repeat(20), "a*\u{fe0f}é\u{301}🩰".repeat(9)] {
        for width in 1..40 {
            let short = terminal::shortened(&name, width);
            assert!(short.width() <= width, "{short:?} in {width}");
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_bench_is_called_no_line_breaks_out(id in "[\\x00-\\x7f]{1,60}|\\PC{1,60}|.{1,60}", width in 60usize..120) {
        let Ok(id) = id.parse::<BenchId>() else {
            return Ok(());
        };
        let mut comparison = example();
        comparison.rows = vec![row(id.as_str(), Metric::Time, 5.0, 4.0, Verdict::Regressed)];
        let style = Style { width: Some(width), colour: false };
        let table = terminal::table(&comparison, style);
        let lines: Vec<&str> = table.lines().collect();
        prop_assert_eq!(lines.len(), 4, "{}", table);
        prop_assert!(lines.iter().all(|line| line.width() <= width), "{}", table);
        prop_assert!(!table.chars().any(|c| c.is_control() && c != '\n'));

        let markdown = markdown::comparison(&comparison, &sides());
        let cells = markdown.lines().last().unwrap();
        prop_assert_eq!(cells.matches('|').count(), 8, "{}", cells);
    }
}
