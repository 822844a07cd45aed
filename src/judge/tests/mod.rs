//! Verdicts by tables and properties; `simulation` counts false alarms and what is caught.

mod changes;
mod simulation;

use proptest::prelude::*;

use super::gate::Limits;
use super::stats::{kruskal_wallis, quantile};
use super::*;
use crate::record::{
    BenchId, Direction, MachineKey, Measurement, Metric, Provenance, Record, RunId, Samples,
    Throughput, TimedSamples, Witness,
};

pub(super) const MATMUL: &str = "matmul/q8_0/avx2/m1_k64_n32";

/// A record of one machine from ids, metrics and samples.
pub(super) fn record(key: &str, found: &[(&str, Metric, Samples)]) -> Record {
    let run = RunId::new("run").unwrap();
    let mut record = Record::new(MachineKey::new(key).unwrap());
    record.add_run(run.clone(), provenance());
    for (id, metric, samples) in found {
        let measurement = Measurement::new(
            id.parse().unwrap(),
            *metric,
            run.clone(),
            samples.clone(),
            Throughput::default(),
        );
        record.insert(measurement.unwrap()).unwrap();
    }
    record
}

fn provenance() -> Provenance {
    Provenance {
        measured_at: jiff::Timestamp::UNIX_EPOCH,
        witness: Witness::Bench,
        harness: "criterion".to_owned(),
        commit: None,
        dirty: false,
        rustc: "rustc 1.95.0".to_owned(),
        target: String::new(),
        rustflags: String::new(),
        profile: "bench".to_owned(),
        cpu: String::new(),
        cpus: 2,
        governor: None,
        level: None,
    }
}

/// Samples of one iteration each.
pub(super) fn timed(total_ns: impl IntoIterator<Item = f64>) -> Samples {
    let total_ns: Vec<u64> = total_ns.into_iter().map(|ns| ns.round() as u64).collect();
    Samples::Timed(TimedSamples::new(vec![1; total_ns.len()], total_ns).unwrap())
}

/// Quiet samples around `ns`.
fn quiet(ns: f64) -> Samples {
    timed((0..50).map(|at| ns * (1.0 + 0.002 * f64::from(at % 5))))
}

fn counted(count: u64) -> Samples {
    Samples::Counts(vec![count])
}

/// The verdict on one bench beside eight that did not move, so that the machine is seen to have done nothing.
fn verdict(metric: Metric, now: Samples, base: Samples) -> Row {
    let others: Vec<String> = (0..8).map(|at| format!("other{at}")).collect();
    let side = |samples: &Samples| {
        let mut found = vec![(MATMUL, metric, samples.clone())];
        found.extend(
            others
                .iter()
                .map(|id| (id.as_str(), Metric::Time, quiet(1e6))),
        );
        record("here", &found)
    };
    let comparison = compare(
        &[side(&now)],
        &[side(&base)],
        &Gate::default(),
        Coverage::Whole,
    );
    let of_bench = |row: &Row| row.id.as_str() == MATMUL;
    comparison.rows.into_iter().find(of_bench).unwrap()
}

#[test]
fn times_are_judged_by_the_interval() {
    for (now, expected) in [
        (1e6, Verdict::Unchanged),
        (1.1e6, Verdict::Unchanged),
        (1.151e6, Verdict::Regressed),
        (3.0e6, Verdict::Regressed),
        (0.9e6, Verdict::Unchanged),
        (0.86e6, Verdict::Improved),
        (0.7e6, Verdict::Improved),
    ] {
        let row = verdict(Metric::Time, quiet(now), quiet(1e6));
        assert_eq!(row.verdict, expected, "{now}: {row:?}");
        let [low, high] = row.interval_pct.unwrap();
        assert!((low..=high).contains(&row.delta_pct.unwrap()), "{row:?}");
    }
}

#[test]
fn rates_are_better_when_higher() {
    let rates = |rate: f64| Samples::Rates((0..20).map(|at| rate + f64::from(at) * 1e-3).collect());
    let slower = verdict(Metric::TokensPerSecond, rates(30.0), rates(45.0));
    assert_eq!(slower.verdict, Verdict::Regressed);
    assert!(slower.delta_pct.unwrap() < -30.0);
    let [low, high] = slower.interval_pct.unwrap();
    assert!(low < high && high < 0.0, "{slower:?}");
    let faster = verdict(Metric::TokensPerSecond, rates(60.0), rates(45.0));
    assert_eq!(faster.verdict, Verdict::Improved);
}

#[test]
fn counts_are_judged_exactly() {
    for (now, base, expected) in [
        (100_000, 100_000, Verdict::Unchanged),
        (100_500, 100_000, Verdict::Unchanged),
        (100_501, 100_000, Verdict::Regressed),
        (99_499, 100_000, Verdict::Improved),
        // One per cent, but below the floor.
        (10_100, 10_000, Verdict::Unchanged),
        (10_101, 10_000, Verdict::Regressed),
        // 2048 multiply-accumulates do not fit into 31 instructions, but into 32.
        (31, 40, Verdict::Failed),
        (32, 40, Verdict::Unchanged),
        (40, 31, Verdict::Failed),
    ] {
        let row = verdict(Metric::Instructions, counted(now), counted(base));
        assert_eq!(row.verdict, expected, "{now} after {base}");
    }
    let differing = Samples::Counts(vec![100_000, 100_001]);
    let row = verdict(Metric::Instructions, differing, counted(100_000));
    assert_eq!(row.verdict, Verdict::NotMeasurable);
    assert_eq!(row.reason, Some(Reason::CountsDiffer));
}

#[test]
fn estimates_are_shown_but_do_not_gate() {
    let row = verdict(Metric::EstimatedCycles, counted(200_000), counted(100_000));
    assert_eq!((row.verdict, row.gates), (Verdict::Regressed, false));
}

#[test]
fn more_instructions_in_less_time_are_a_trade_off() {
    let side = |count, ns| {
        let both = [
            (MATMUL, Metric::Instructions, counted(count)),
            (MATMUL, Metric::Time, quiet(ns)),
        ];
        [record("here", &both)]
    };
    let gate = Gate::default();
    let red = |now: [Record; 1], base: [Record; 1]| {
        let comparison = compare(&now, &base, &gate, Coverage::Whole);
        comparison.regressions().count()
    };
    assert_eq!(red(side(120_000, 1e6), side(100_000, 1e6)), 1);
    assert_eq!(red(side(120_000, 0.5e6), side(100_000, 1e6)), 0);
}

#[test]
fn too_few_samples_and_no_time_at_all_carry_no_verdict() {
    let row = verdict(Metric::Time, timed([1e6, 1.1e6]), quiet(1e3));
    assert_eq!(row.verdict, Verdict::Inconclusive);
    let reason = Reason::FewSamples {
        samples: 2,
        needed: 10,
    };
    assert_eq!(row.reason, Some(reason));
    assert_eq!(
        verdict(Metric::Time, timed([0.0; 20]), quiet(1e6)).verdict,
        Verdict::Failed
    );
    assert_eq!(
        verdict(Metric::Time, quiet(1e6), timed([0.0; 20])).verdict,
        Verdict::Failed
    );
}

#[test]
fn a_slow_down_of_some_calls_is_seen_in_the_median_and_mentioned_in_the_tail() {
    let with_slow = |every: usize, factor: f64| {
        timed((0..100).map(|at| 1e6 * if at % every == 0 { factor } else { 1.0 }))
    };
    let half = verdict(
        Metric::Time,
        timed((0..100).map(|at| if at % 5 < 3 { 1.6e6 } else { 1e6 })),
        quiet(1e6),
    );
    assert!(
        matches!(half.reason, Some(Reason::Median { .. })),
        "{half:?}"
    );
    assert_ne!(half.verdict, Verdict::Unchanged);
    let tail = verdict(Metric::Time, with_slow(5, 4.0), quiet(1e6));
    assert_eq!(tail.verdict, Verdict::Inconclusive);
    assert!(matches!(tail.reason, Some(Reason::Tail { .. })), "{tail:?}");
    let few = verdict(Metric::Time, with_slow(50, 4.0), quiet(1e6));
    assert_eq!(few.verdict, Verdict::Unchanged);
}

#[test]
fn another_machine_is_never_judged() {
    let now = [record("here", &[(MATMUL, Metric::Time, quiet(9e6))])];
    let base = [record(
        "there",
        &[
            (MATMUL, Metric::Time, quiet(1e6)),
            ("gone", Metric::Time, quiet(1e6)),
        ],
    )];
    let comparison = compare(&now, &base, &Gate::default(), Coverage::Whole);
    assert_eq!(comparison.rows.len(), 1);
    let row = &comparison.rows[0];
    assert_eq!(row.verdict, Verdict::NotMeasurable);
    assert!(row.delta_pct.unwrap() > 700.0);
    assert!(!comparison.has_judgements());
    assert_eq!(comparison.drift, Drift::Nothing);
    // A partner of the same machine is preferred, wherever it stands.
    let both = [base[0].clone(), now[0].clone()];
    let comparison = compare(&now, &both, &Gate::default(), Coverage::Whole);
    assert_eq!(comparison.rows[0].verdict, Verdict::Unchanged);
}

#[test]
fn what_only_one_side_has_is_new_or_missing_or_not_measured() {
    let now = [record("here", &[("a", Metric::Time, quiet(1e6))])];
    let base = [record("here", &[("b", Metric::Time, quiet(1e6))])];
    let gate = Gate::default();
    let whole = compare(&now, &base, &gate, Coverage::Whole);
    let verdicts: Vec<Verdict> = whole.rows.iter().map(|row| row.verdict).collect();
    assert_eq!(verdicts, [Verdict::Missing, Verdict::New]);
    let partial = compare(&now, &base, &gate, Coverage::Partial);
    assert_eq!((partial.rows.len(), partial.not_measured), (1, 1));
}

#[test]
fn what_all_benches_did_is_laid_to_the_machine() {
    let ids: Vec<String> = (0..10).map(|at| format!("bench{at}")).collect();
    let side = |factor: f64, first: f64| {
        let found: Vec<(&str, Metric, Samples)> = ids
            .iter()
            .enumerate()
            .map(|(at, id)| {
                let own = if at == 0 { first } else { 1.0 };
                (id.as_str(), Metric::Time, quiet(1e6 * factor * own))
            })
            .collect();
        [record("here", &found)]
    };
    let gate = Gate::default();
    let moved = compare(&side(1.4, 1.0), &side(1.0, 1.0), &gate, Coverage::Whole);
    assert_eq!(moved.regressions().count(), 0, "{moved:?}");
    let one_more = compare(&side(1.4, 1.5), &side(1.0, 1.0), &gate, Coverage::Whole);
    let red: Vec<&str> = one_more.regressions().map(|row| row.id.as_str()).collect();
    assert_eq!(red, ["bench0"]);
    // No neighbour makes everything three times slower.
    let lost = compare(&side(3.0, 1.0), &side(1.0, 1.0), &gate, Coverage::Whole);
    assert_eq!(lost.regressions().count(), 10);
    // What became faster together is no improvement, and what stayed behind is not proven unchanged.
    let faster = compare(&side(0.7, 1.4), &side(1.0, 1.0), &gate, Coverage::Whole);
    assert!(
        faster
            .rows
            .iter()
            .all(|row| row.verdict != Verdict::Improved)
    );
    assert_eq!(faster.rows[0].verdict, Verdict::Inconclusive);
}

#[test]
fn controls_tell_the_machine_from_the_code() {
    let gate = Gate::from_toml("schema = 1\ncontrols = [\"*/peer/*\"]", "gate.toml").unwrap();
    let side = |ours: f64, peers: f64| {
        let mut found = Vec::new();
        for id in ["a/f32/peer/m1", "b/f32/peer/m1", "c/f32/peer/m1"] {
            found.push((id, Metric::Time, quiet(1e6 * peers)));
        }
        for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            found.push((id, Metric::Time, quiet(1e6 * ours)));
        }
        [record("here", &found)]
    };
    // All of ours moved together; the controls did not, so it was not the machine.
    let code = compare(&side(1.3, 1.0), &side(1.0, 1.0), &gate, Coverage::Whole);
    assert_eq!(code.regressions().count(), 8);
    assert!(matches!(
        code.drift,
        Drift::Controls(Seen { benches: 3, .. })
    ));
    let machine = compare(&side(1.3, 1.3), &side(1.0, 1.0), &gate, Coverage::Whole);
    assert_eq!(machine.regressions().count(), 0);
    // A control that is slower is mentioned, not gated.
    let id: BenchId = "a/f32/peer/m1".parse().unwrap();
    assert!(!gate.gates(&id, Metric::Time) && gate.is_control(&id));
}

#[test]
fn the_gate_names_line_and_key_of_what_it_cannot_use() {
    for (text, places) in [
        ("", ["schema", ""]),
        ("schema = 2", ["gate.toml:1: schema", "reads 1"]),
        ("schema = 1\n[time]\nthreshold = 3", ["line 3", "threshold"]),
        (
            "schema = 1\n[time]\nthreshold_pct = -3",
            ["gate.toml:3: threshold_pct", "-3"],
        ),
        (
            "schema = 1\n[time]\nthreshold_pct = nan",
            ["gate.toml:3: threshold_pct", "NaN"],
        ),
        (
            "schema = 1\n[time]\nmin_samples = 0",
            ["gate.toml:3: min_samples", "0"],
        ),
        (
            "schema = 1\n[time]\nstatistic = \"mean\"",
            ["line 3", "mean"],
        ),
        (
            "schema = 1\n[instructions]\nmacs_per_instruction = 0.5",
            ["gate.toml:3", "at least 1"],
        ),
        (
            "schema = 1\ncontrols = [\"a\", \"\"]",
            ["gate.toml:2: controls", ""],
        ),
        (
            "schema = 1\n[[override]]\nbench = \"x\"\ngates = false\nreason = \" \"",
            ["gate.toml:5: reason", "why"],
        ),
        (
            "schema = 1\n[[override]]\nbench = \"x\"\ngates = false",
            ["line 2", "reason"],
        ),
        (
            "schema = 1\n[[override]]\nbench = \"x\"\nreason = \"y\"",
            ["gate.toml:3: override", "none of"],
        ),
        (
            "schema = 1\n[[override]]\nbench = \"x\"\nmetric = \"joules\"\ngates = false\nreason = \"y\"",
            ["gate.toml:4: metric", "joules"],
        ),
    ] {
        let error = Gate::from_toml(text, "gate.toml").unwrap_err().to_string();
        assert!(
            places.iter().all(|place| error.contains(place)),
            "{text}\n{error}"
        );
    }
}

#[test]
fn overrides_hold_for_what_they_match_and_the_last_one_wins() {
    let text = r#"
        schema = 1
        [time]
        threshold_pct = 20
        [[override]]
        bench = "model/*"
        threshold_pct = 40
        reason = "DRAM"
        [[override]]
        bench = "model/*_tg128_*"
        metric = "time"
        statistic = "median"
        gates = false
        reason = "bursts"
    "#;
    let gate = Gate::from_toml(text, "gate.toml").unwrap();
    let limits = |id: &str| match gate.limits(&id.parse().unwrap(), Metric::Time) {
        Limits::Clocked(limits) => (limits.threshold_pct, limits.statistic),
        Limits::Counted(_) => unreachable!(),
    };
    assert_eq!(limits("matmul/f32/avx2/m1"), (20.0, Statistic::Low));
    assert_eq!(limits("model/q8_0/avx2/x_pp512_t2"), (40.0, Statistic::Low));
    assert_eq!(
        limits("model/q8_0/avx2/x_tg128_t2"),
        (40.0, Statistic::Median)
    );
    let id: BenchId = "model/q8_0/avx2/x_tg128_t2".parse().unwrap();
    assert!(!gate.gates(&id, Metric::Time));
    assert!(gate.gates(&id, Metric::TokensPerSecond));
    assert_eq!(Gate::from_toml("schema = 1", "").unwrap(), Gate::default());
}

#[test]
fn quantiles_are_those_of_numpy() {
    let figures = [1.0, 2.0, 4.0, 8.0];
    for (p, expected) in [(0.0, 1.0), (0.1, 1.3), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
        assert!((quantile(&figures, p) - expected).abs() < 1e-12, "{p}");
    }
    assert!(quantile(&[], 0.5).is_nan());
    let summary = Summary::of_figures(&figures, Direction::LowerIsBetter, Statistic::Best);
    assert_eq!(
        (summary.value, summary.median, summary.samples),
        (1.0, 3.0, 4)
    );
    let rates = Summary::of_figures(&figures, Direction::HigherIsBetter, Statistic::Best);
    assert_eq!(rates.value, 8.0);
}

fn any_samples() -> impl Strategy<Value = Samples> {
    proptest::collection::vec(any::<u64>(), 1..40)
        .prop_map(|ns| Samples::Timed(TimedSamples::new(vec![3; ns.len()], ns).unwrap()))
}

proptest! {
    #[test]
    fn any_samples_get_a_verdict(now in any_samples(), base in any_samples()) {
        let row = verdict(Metric::Time, now, base);
        prop_assert!(row.delta_pct.is_none_or(f64::is_finite));
    }

    #[test]
    fn a_side_is_unchanged_against_itself(ns in 1e3..1e9_f64) {
        prop_assert_eq!(verdict(Metric::Time, quiet(ns), quiet(ns)).verdict, Verdict::Unchanged);
    }

    #[test]
    fn swapping_the_sides_swaps_the_verdict(now in 1e5..1e7_f64, base in 1e5..1e7_f64) {
        let there = verdict(Metric::Time, quiet(now), quiet(base)).verdict;
        let back = verdict(Metric::Time, quiet(base), quiet(now)).verdict;
        prop_assert_eq!(there == Verdict::Regressed, back == Verdict::Improved);
    }

    #[test]
    fn being_slower_never_helps(base in 1e5..1e7_f64, factor in 1.0..4.0_f64) {
        let rank = |verdict| match verdict {
            Verdict::Improved => 0,
            Verdict::Unchanged => 1,
            Verdict::Inconclusive => 2,
            Verdict::Regressed => 3,
            other => panic!("{other}"),
        };
        let slow = verdict(Metric::Time, quiet(base * factor), quiet(base)).verdict;
        let slower = verdict(Metric::Time, quiet(base * factor * 1.1), quiet(base)).verdict;
        prop_assert!(rank(slow) <= rank(slower), "{slow} then {slower}");
    }

    #[test]
    fn no_gate_makes_the_reader_panic(text in "\\PC{0,120}") {
        let _ = Gate::from_toml(&text, "");
        let _ = Gate::from_toml(&format!("schema = 1\n{text}"), "");
    }
}

/// SciPy 1.11, `scipy.stats.kruskal`: its documentation's examples, and three groups without ties.
#[test]
fn ranks_differ_as_scipy_says() {
    let p = |groups: &[&[f64]]| {
        let groups: Vec<Vec<f64>> = groups.iter().map(|group| group.to_vec()).collect();
        kruskal_wallis(&groups)
    };
    let near = |seen: f64, expected: f64| assert!((seen - expected).abs() < 1e-6, "{seen}");
    near(
        p(&[&[1.0, 3.0, 5.0, 7.0, 9.0], &[2.0, 4.0, 6.0, 8.0, 10.0]]),
        0.601_508_134_440_589,
    );
    near(
        p(&[&[1.0, 1.0, 1.0], &[2.0, 2.0, 2.0], &[2.0, 2.0]]),
        0.030_197_383_422_318_5,
    );
    near(
        p(&[&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], &[7.0, 8.0, 9.0]]),
        0.027_323_722_447_292_56,
    );
    assert_eq!(p(&[]), 1.0);
    assert_eq!(p(&[&[1.0, 2.0], &[]]), 1.0);
    assert_eq!(p(&[&[1.0, 1.0], &[1.0]]), 1.0);
}
