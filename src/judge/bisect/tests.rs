//! Right answers by table and by simulation; the whole table comes from the example `bisect-simulation`.

use super::model::log_normal_cdf;
use super::simulation::{World, git_bisect, search};
use super::*;

const FREE: Costs = Costs {
    build: 0.0,
    link: 0.0,
    run: 1.0,
};

fn clocked() -> Settings {
    Settings::of(Noise::Clocked)
}

/// A search that is shown what `figure` says of a commit and link.
fn answer(
    weights: usize,
    settings: Settings,
    mut figure: impl FnMut(usize, u32) -> Option<f64>,
) -> Ending {
    let mut search = Search::new(&vec![1.0; weights], settings);
    for _ in 0..500 {
        match search.step(FREE) {
            Step::Done(ending) => return ending,
            Step::Measure(request) => match figure(request.commit, request.link) {
                Some(value) => search.observe(request.commit, request.link, &[value]),
                None => search.cannot_build(request.commit),
            },
        }
    }
    panic!("no end");
}

#[test]
fn exact_counts_are_searched_as_git_does() {
    let settings = Settings::of(Noise::Counted);
    let mut asked = Vec::new();
    let ending = answer(100, settings, |commit, _| {
        asked.push(commit);
        Some(if commit >= 37 { 0.02 } else { 0.0 })
    });
    let Ending::Found(answer) = ending else {
        panic!("{ending:?}")
    };
    assert_eq!((answer.culprit, answer.parent), (37, 36));
    assert!(asked.len() <= 12, "{asked:?}");
}

#[test]
fn what_does_not_build_stays_a_suspect() {
    let settings = Settings::of(Noise::Counted);
    let ending = answer(64, settings, |commit, _| {
        (!(20..24).contains(&commit)).then_some(if commit >= 22 { 0.05 } else { 0.0 })
    });
    let Ending::Found(answer) = ending else {
        panic!("{ending:?}")
    };
    assert_eq!((answer.parent, answer.culprit), (19, 24));
    let credible: Vec<usize> = answer
        .credible
        .iter()
        .map(|(position, _)| *position)
        .collect();
    assert_eq!(credible, [20, 21, 22, 23, 24]);
}

#[test]
fn ends_that_cannot_be_searched_between_are_said() {
    let settings = Settings::of(Noise::Counted);
    let reversed = answer(9, settings, |commit, _| {
        Some(if commit > 3 { -0.1 } else { 0.0 })
    });
    assert_eq!(reversed, Ending::Reversed);
    let broken = answer(9, settings, |commit, _| (commit < 9).then_some(0.0));
    assert_eq!(broken, Ending::EndDoesNotBuild(9));
    let same = answer(9, settings, |_, _| Some(0.0));
    assert!(matches!(same, Ending::NoDifference { .. }), "{same:?}");
}

#[test]
fn the_same_measurements_give_the_same_search() {
    let world = World {
        layout: 0.005,
        broken: 0.2,
        ..World::PLAIN
    };
    let world = World {
        slower: 0.1,
        ..world
    };
    assert_eq!(
        search(world, clocked(), FREE, 3),
        search(world, clocked(), FREE, 3)
    );
}

#[test]
fn a_layout_is_not_measured_away() {
    // One link of either end, run ever so often, proves nothing; links that differ do.
    let mut search = Search::new(&[1.0; 8], clocked());
    for run in 0..40 {
        let wobble = 0.002 * f64::from(run % 5 - 2);
        search.observe(0, 0, &[wobble]);
        search.observe(8, 0, &[0.01 + wobble]);
    }
    let none = search.posterior().probabilities()[0];
    assert!(none > 0.05, "{none}");
    for link in 1..12 {
        search.observe(0, link, &[0.002 * f64::from(link % 5) - 0.004]);
        search.observe(8, link, &[0.01 + 0.002 * f64::from(link % 5) - 0.004]);
    }
    let none = search.posterior().probabilities()[0];
    assert!(none < 0.01, "{none}");
}

#[test]
fn the_good_end_is_measured_less_where_figures_are_relative_to_it() {
    let good_runs = |reference| {
        let settings = Settings {
            reference,
            ..clocked()
        };
        let mut search = Search::new(&[1.0; 8], settings);
        let asked = (0..8).map(|run| {
            let Step::Measure(request) = search.step(FREE) else {
                panic!("the ends are not told apart")
            };
            search.observe(request.commit, request.link, &[0.01 * f64::from(run % 3)]);
            request
        });
        asked.filter(|request| request.commit == 0).count()
    };
    assert_eq!([good_runs(None), good_runs(Some(0.005))], [4, 3]);
}

#[test]
fn the_culprit_is_found_in_noise_and_nobody_is_accused_of_nothing() {
    // 25 histories each; the example counts thousands.
    let count = |world, right: &mut u32, runs: &mut u32, accused: &mut u32| {
        for seed in 0..25 {
            let outcome = search(world, clocked(), FREE, seed);
            *right += u32::from(outcome.right);
            *runs += outcome.runs[0];
            *accused += u32::from(outcome.accused.is_some());
        }
    };
    let (mut right, mut runs, mut accused) = (0, 0, 0);
    count(
        World {
            slower: 0.05,
            ..World::PLAIN
        },
        &mut right,
        &mut runs,
        &mut accused,
    );
    assert!(right >= 23 && runs < 25 * 45, "{right} right, {runs} runs");
    let (mut right, mut runs, mut accused) = (0, 0, 0);
    count(
        World {
            slower: 0.0,
            ..World::PLAIN
        },
        &mut right,
        &mut runs,
        &mut accused,
    );
    assert!(accused <= 1 && right >= 24 && runs > 0, "{accused}");
    let one = (0..25)
        .filter(|seed| git_bisect(World::PLAIN, 1, *seed).right)
        .count();
    assert!(one < 12, "{one}");
}

#[test]
fn the_tail_of_the_normal_distribution_is_continuous() {
    for x in [-40.0, -30.0, -29.999, -5.0, 0.0, 5.999, 6.0] {
        let (below, above) = (log_normal_cdf(x - 1e-6), log_normal_cdf(x + 1e-6));
        assert!(
            (below - above).abs() < 1e-3 && below <= above + 1e-7,
            "{x}: {below} {above}"
        );
    }
}
