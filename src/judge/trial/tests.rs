use super::*;
use crate::record::MachineKey;
use crate::record::TimedSamples;
use crate::record::calibration::CalibratedBench;
use crate::record::trial::{
    Block, Build, Counts, Failure, Link, Machine, ProcessRun, Revision, Target,
};

/// A trial of criterion benches, each with the log-ratio of every block in percent, and a count where one is given.
fn trial(benches: &[(&str, &[f64])]) -> Trial {
    let key = |name: &str| MachineKey::new(name).unwrap();
    let revision = |asked: &str| Revision {
        asked: asked.to_owned(),
        commit: asked.repeat(4),
        dirty: false,
    };
    let link = |arm| Link {
        arm,
        seed: None,
        text: String::new(),
    };
    let target = |name: &str, harness| Target {
        package: "p".to_owned(),
        name: name.to_owned(),
        harness,
        code: Code::Differs,
        links: vec![
            link(Arm::Base),
            link(Arm::Base),
            link(Arm::Head),
            link(Arm::Head),
        ],
        failure: None,
    };
    Trial {
        started_at: "2026-10-01T12:00:00Z".parse().unwrap(),
        finished_at: "2026-10-01T12:10:00Z".parse().unwrap(),
        seed: 1,
        budget_s: 60.0,
        interrupted: false,
        machine: Machine {
            key: key("here"),
            counts_key: key("counts"),
            cpu: "Test".to_owned(),
            cpus: 2,
            governor: None,
        },
        build: Build {
            rustc: "rustc 1.95.0".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            rustflags: String::new(),
            profile: "bench".to_owned(),
        },
        base: revision("main"),
        head: revision("HEAD"),
        targets: vec![
            target("parse", Harness::Criterion),
            target("icount", Harness::Callgrind),
        ],
        benches: benches
            .iter()
            .map(|(id, blocks)| bench(id, blocks))
            .collect(),
        checks: Vec::new(),
        notes: Vec::new(),
    }
}

fn bench(id: &str, ratios_pct: &[f64]) -> TrialBench {
    let mut bench = TrialBench::new(id.parse().unwrap(), 0, true, true);
    bench.blocks = ratios_pct.iter().map(|ratio| block(*ratio, 0.0)).collect();
    bench.looks = vec![bench.blocks.len()];
    bench
}

/// Base, head, head, base; the second link of the base is slower by `layout_pct`.
fn block(ratio_pct: f64, layout_pct: f64) -> Block {
    let ns = |pct: f64| (1e9 * (pct / 100.0).exp()).round() as u64;
    let run = |arm, link, ns| ProcessRun {
        arm,
        link,
        samples: TimedSamples::new(vec![1], vec![ns]).unwrap(),
    };
    Block {
        round: 0,
        at_ms: 0,
        runs: vec![
            run(Arm::Base, 0, ns(0.0)),
            run(Arm::Head, 0, ns(ratio_pct)),
            run(Arm::Head, 1, ns(ratio_pct)),
            run(Arm::Base, 1, ns(layout_pct)),
        ],
    }
}

/// `blocks` ratios around `center_pct` that scatter by ± `scatter_pct`.
fn around(center_pct: f64, scatter_pct: f64, blocks: usize) -> Vec<f64> {
    let place = |at: usize| ((at * 7) % blocks) as f64 / (blocks - 1) as f64 * 2.0 - 1.0;
    (0..blocks)
        .map(|at| center_pct + scatter_pct * place(at))
        .collect()
}

fn judged(trial: &Trial) -> Report {
    judge(trial, &Gate::default(), None)
}

fn gate(text: &str) -> Gate {
    Gate::from_toml(&format!("schema = 1\n{text}"), "gate.toml").unwrap()
}

#[test]
fn clear_effects_get_their_verdicts() {
    // Too few blocks for pairs of them to tell more: the best of a pair would be pulled down by a scatter that, as here,
    // only the head has.
    let [slow, same, fast, noisy] = [
        around(5.0, 0.5, 9),
        around(0.1, 0.5, 9),
        around(-5.0, 0.5, 9),
        around(1.5, 6.0, 9),
    ];
    let report = judged(&trial(&[
        ("same", &same),
        ("fast", &fast),
        ("slow", &slow),
        ("noisy", &noisy),
        ("short", &[0.0; 3]),
    ]));
    let told: Vec<(&str, Verdict)> = report
        .rows
        .iter()
        .map(|row| (row.id.as_str(), row.verdict))
        .collect();
    assert_eq!(
        told,
        [
            ("slow", Verdict::Regressed),
            ("noisy", Verdict::Inconclusive),
            ("short", Verdict::Inconclusive),
            ("same", Verdict::Unchanged),
            ("fast", Verdict::Improved),
        ]
    );
    assert_eq!(report.verdict, Verdict::Regressed);
    assert!(report.is_red() && !report.is_broken());
    let slow = report.rows[0].time.as_ref().unwrap();
    assert!((slow.effect.pct - 5.13).abs() < 0.1, "{slow:?}");
    assert!(
        slow.at_least_pct > slow.threshold_pct && slow.at_least_pct < slow.effect.interval_pct[0]
    );
    let noisy = report.rows[1].time.as_ref().unwrap();
    assert!(noisy.detectable_pct > 5.0, "{noisy:?}");
    assert_eq!(
        report.rows[2].reasons,
        [Reason::FewBlocks {
            blocks: 3,
            needed: 4
        }]
    );
}

#[test]
fn many_benches_need_clearer_evidence() {
    let borderline = around(3.0, 2.9, 9);
    let alone = judged(&trial(&[("slow", &borderline)]));
    assert_eq!(alone.verdict, Verdict::Inconclusive);
    let gate = gate("[gate]\nfalse_alarms_pct = 20");
    let one = trial(&[("slow", &borderline)]);
    assert_eq!(judge(&one, &gate, None).verdict, Verdict::Regressed);
    let quiet: Vec<String> = (0..200).map(|at| format!("quiet{at}")).collect();
    let zeros = around(0.0, 0.2, 9);
    let mut benches: Vec<(&str, &[f64])> = vec![("slow", &borderline)];
    benches.extend(quiet.iter().map(|id| (id.as_str(), &zeros[..])));
    let report = judge(&trial(&benches), &gate, None);
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.family.judged, 201);
    assert_eq!(report.rows[0].reasons, [Reason::ByChance { benches: 201 }]);
}

#[test]
fn a_later_look_goes_on_where_an_earlier_one_was_unsure() {
    let mut ratios = around(2.0, 3.0, 5);
    ratios.extend(around(3.0, 0.3, 25));
    let mut trial = trial(&[("slow", &ratios)]);
    trial.benches[0].looks = vec![5];
    trial.benches[0].blocks.truncate(5);
    assert_eq!(judged(&trial).verdict, Verdict::Inconclusive);
    trial.benches[0] = bench("slow", &ratios);
    trial.benches[0].looks = vec![5, 18, 30];
    let report = judged(&trial);
    assert_eq!(report.verdict, Verdict::Regressed);
    assert!(report.rows[0].time.as_ref().unwrap().look > 1);
    // Blocks after a decision do not undo it.
    trial.benches[0].blocks[20..].fill(block(-50.0, 0.0));
    assert_eq!(judged(&trial).verdict, Verdict::Regressed);
}

#[test]
fn where_a_re_link_moves_more_nothing_is_measurable() {
    let mut trial = trial(&[("slow", &[])]);
    let ratios = around(5.0, 0.3, 12);
    trial.benches[0].blocks = ratios.iter().map(|ratio| block(*ratio, 4.0)).collect();
    let report = judged(&trial);
    assert_eq!(report.rows[0].verdict, Verdict::NotMeasurable);
    assert!(!report.is_red());
    assert!(
        matches!(report.rows[0].reasons[..], [Reason::Layout { null_pct, .. }] if null_pct > 3.0)
    );
    trial.benches[0].blocks = ratios.iter().map(|ratio| block(*ratio, 0.4)).collect();
    assert_eq!(judged(&trial).rows[0].verdict, Verdict::Regressed);
    // A re-link of the head alone is no other case.
    trial.benches[0].blocks.iter_mut().for_each(|block| {
        block.runs[2].samples = block.runs[1].samples.clone();
        block.runs[1].samples = TimedSamples::new(vec![1], vec![1_100_000_000]).unwrap();
    });
    assert_eq!(
        judged(&trial).rows[0].verdict,
        Verdict::NotMeasurable,
        "{:?}",
        judged(&trial).rows
    );
}

/// Blocks of a bench in eight links, each block in the next two, by what each link costs on both sides, in percent.
fn in_links(blocks: usize, base_pct: [f64; 8], head_pct: [f64; 8]) -> Vec<Block> {
    let process = |round: usize, arm, link: usize, pct: f64| {
        let scatter_pct = ((round * 7 + link * 3) % 11) as f64 * 0.02;
        let ns = (1e9 * ((pct + scatter_pct) / 100.0).exp()).round() as u64;
        let samples = TimedSamples::new(vec![1], vec![ns]).unwrap();
        ProcessRun { arm, link, samples }
    };
    let block = |round: usize| {
        let pair = [round % 8, (round + 1) % 8];
        let base = |link: usize| process(round, Arm::Base, link, base_pct[link]);
        let head = |link: usize| process(round, Arm::Head, link, head_pct[link]);
        Block {
            round: round as u32,
            at_ms: 0,
            runs: vec![base(pair[0]), head(pair[0]), head(pair[1]), base(pair[1])],
        }
    };
    (0..blocks).map(block).collect()
}

#[test]
fn many_links_tell_what_layouts_make_of_a_change() {
    let layouts = [0.0, 3.0, -2.0, 1.0, 4.0, -3.0, 2.0, -1.0];
    let others = [-2.0, 0.0, 4.0, -3.0, 1.0, 5.0, 3.0, 2.0];
    let mut trial = trial(&[("slow", &[])]);
    let mut row = |base: [f64; 8], head: [f64; 8]| {
        trial.benches[0].blocks = in_links(48, base, head);
        trial.benches[0].looks = vec![48];
        judged(&trial).rows.remove(0)
    };
    // Other code in other places: 0.75 % slower on the average, which says nothing, however often it is measured.
    let moved = row(layouts, others);
    assert_eq!(moved.verdict, Verdict::Inconclusive);
    assert!(
        matches!(moved.reasons[..], [Reason::Layout { .. }]),
        "{moved:?}"
    );
    // The same layouts on both sides cancel.
    let slower = |by: f64, layouts: [f64; 8]| layouts.map(|layout| layout + by);
    assert_eq!(row(layouts, layouts).verdict, Verdict::Unchanged);
    assert_eq!(
        row(layouts, slower(2.0, layouts)).verdict,
        Verdict::Regressed
    );
    // What is more than layouts scatter is found all the same.
    assert_eq!(
        row(layouts, slower(15.0, others)).verdict,
        Verdict::Regressed
    );
    assert_eq!(
        row(slower(15.0, others), layouts).verdict,
        Verdict::Improved
    );
}

#[test]
fn what_this_machine_shows_of_identical_code_raises_the_threshold() {
    let slow = around(3.0, 0.3, 12);
    let trial = trial(&[("slow", &slow)]);
    let mut calibration = Calibration {
        schema: 1,
        machine_key: trial.machine.key.clone(),
        measured_at: trial.finished_at,
        commit: "c".to_owned(),
        rounds: 20,
        budget_s: 60.0,
        verdicts: 200,
        false_alarms: 0,
        false_improvements: 0,
        benches: vec![CalibratedBench {
            id: "slow".parse().unwrap(),
            statistic: Statistic::Best,
            null_pct: 2.9,
            detectable_pct: 4.0,
            blocks: 12,
        }],
    };
    let report = judge(&trial, &Gate::default(), Some(&calibration));
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.measured.unwrap().rounds, 20);
    calibration.machine_key = MachineKey::new("elsewhere").unwrap();
    let report = judge(&trial, &Gate::default(), Some(&calibration));
    assert_eq!(
        (report.verdict, report.measured),
        (Verdict::Regressed, None)
    );
}

#[test]
fn what_failed_or_vanished_is_never_green() {
    let zeros = around(0.0, 0.2, 9);
    let mut trial = trial(&[("a", &zeros), ("b", &zeros), ("c", &zeros)]);
    trial.benches[1].in_base = false;
    trial.benches[1].blocks.clear();
    trial.benches[1].looks.clear();
    assert_eq!(judged(&trial).count(Verdict::New), 1);
    assert!(!judged(&trial).is_broken());
    trial.benches[2].in_head = false;
    assert_eq!(judged(&trial).verdict, Verdict::Missing);
    assert!(judged(&trial).is_broken());

    let accept = "[[gate.accept]]\nbench = \"c\"\nmissing = true\nreason = \"gone\"\nexpires = ";
    let holds = gate(&format!("{accept}\"2026-10-01\""));
    assert!(!judge(&trial, &holds, None).is_broken());
    let expired = gate(&format!("{accept}\"2026-09-30\""));
    let report = judge(&trial, &expired, None);
    assert!(report.is_broken() && matches!(report.complaints[..], [Complaint::Expired { .. }]));

    trial.benches[0].failure = Some(Failure {
        arm: Arm::Head,
        what: "panicked".to_owned(),
    });
    assert_eq!(judge(&trial, &holds, None).verdict, Verdict::Failed);
    let required = gate("[gate]\nrequired = [\"d*\"]");
    let report = judge(&trial, &required, None);
    assert!(report.complaints.contains(&Complaint::Required {
        pattern: "d*".to_owned()
    }));
}

#[test]
fn an_accepted_regression_is_red_beyond_its_bound_only() {
    let slow = around(5.0, 0.3, 12);
    let trial = trial(&[("slow", &slow)]);
    for (bound, red) in [(3.0, true), (6.0, false)] {
        let gate = gate(&format!(
            "[[gate.accept]]\nbench = \"s*\"\nbound_pct = {bound}\nreason = \"r\"\nexpires = \"2027-01-01\""
        ));
        let report = judge(&trial, &gate, None);
        assert_eq!(report.rows[0].verdict, Verdict::Regressed);
        assert_eq!(report.is_red(), red, "{bound}");
    }
}

#[test]
fn counts_stand_beside_times_in_one_row() {
    let (zeros, fast) = (around(0.0, 0.2, 9), around(-9.0, 0.3, 9));
    for (ratios, counts, verdict, gates) in [
        (&zeros, [1000, 1000], Verdict::Unchanged, true),
        (&zeros, [1000, 1200], Verdict::Regressed, true),
        (&zeros, [1000, 1003], Verdict::Unchanged, true),
        (&fast, [1000, 1200], Verdict::Improved, true),
    ] {
        let mut trial = trial(&[("a", ratios)]);
        let mut counted = TrialBench::new("a".parse().unwrap(), 1, true, true);
        counted.instructions = Counts {
            base: vec![counts[0]; 2],
            head: vec![counts[1]; 2],
        };
        trial.benches.push(counted);
        let report = judged(&trial);
        assert_eq!(report.rows.len(), 1);
        let row = &report.rows[0];
        assert_eq!((row.verdict, row.gates), (verdict, gates), "{row:?}");
        assert!(row.time.is_some() && row.instructions.is_some());
    }
    let mut alone = trial(&[]);
    let mut counted = TrialBench::new("b".parse().unwrap(), 1, true, true);
    counted.instructions = Counts {
        base: vec![1000, 1001],
        head: vec![1000, 1000],
    };
    alone.benches.push(counted);
    assert_eq!(judged(&alone).rows[0].verdict, Verdict::NotMeasurable);
}

#[test]
fn the_policy_names_the_line_of_what_is_wrong() {
    for (text, says) in [
        ("[gate]\nthreshold_pkt = 1", "threshold_pkt"),
        (
            "[gate]\nfalse_alarms_pct = 0",
            "gate.toml:3: false_alarms_pct",
        ),
        (
            "[[gate.limit]]\nbench = \"a\"\nreason = \"r\"",
            "has none of",
        ),
        (
            "[[gate.limit]]\nbench = \"a\"\ngates = false\nreason = \" \"",
            "must say why",
        ),
        (
            "[[gate.accept]]\nbench = \"a\"\nreason = \"r\"\nexpires = \"2027-01-01\"",
            "neither bound_pct",
        ),
        (
            "[[gate.accept]]\nbench = \"a\"\nbound_pct = 1\nreason = \"r\"\nexpires = \"soon\"",
            "not a day",
        ),
    ] {
        let error = Gate::from_toml(&format!("schema = 1\n{text}"), "gate.toml").unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn all_links_have_their_turn_and_then_other_neighbours() {
    for links in [1, 2, 3, 8, 24] {
        let rounds = || (0..).map(|round| super::links_of(round, links));
        let mut turns = vec![0; links];
        let round_trip = rounds().take(links);
        round_trip.flatten().for_each(|link| turns[link] += 1);
        assert_eq!(turns, vec![2; links], "{links}");
        let first: Vec<[usize; 2]> = rounds().take(links / 2).collect();
        let second: Vec<[usize; 2]> = rounds().skip(links / 2).take(links / 2).collect();
        assert!(first.iter().all(|pair| !second.contains(pair)), "{links}");
    }
}

#[test]
fn nothing_is_red_where_nothing_changed_and_what_matters_is_found() {
    use super::simulation::{Noise, Scenario, simulate};
    // Where layouts matter, some of a thousand runs are red for them: `.github/GATE.md` has the rates.
    for (noise, slower_pct, least_found, most_false) in [
        (Noise::QUIET, 5.0, 99, 0),
        (Noise::SHARED, 5.0, 95, 0),
        (Noise::LOADED, 5.0, 70, 0),
        (Noise::RELINKED, 10.0, 80, 1),
    ] {
        let scenario = Scenario {
            noise,
            benches: 50,
            slowed: 5,
            slower_pct,
            blocks: 12,
            links: 24,
        };
        let tally = simulate(&scenario, &Gate::default(), 1, 12);
        let false_ones = tally.false_alarms + tally.false_praise;
        assert!(false_ones <= most_false, "{noise:?}: {tally:?}");
        assert!(
            tally.found * 100 >= tally.slowed * least_found,
            "{noise:?}: {tally:?}"
        );
    }
}

#[test]
fn the_project_checks_its_own_numerics() {
    let own = Gate::from_toml(include_str!("../../../baselines/gate.toml"), "gate.toml").unwrap();
    let names: Vec<&str> = own
        .policy
        .checks()
        .iter()
        .map(|check| check.name.as_str())
        .collect();
    for what in ["error budgets", "logits", "perplexity"] {
        assert!(names.iter().any(|name| name.contains(what)), "{names:?}");
    }
}
