//! Change points beside a published implementation, and their false alarms counted.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

use crate::judge::changes::{Options, change_points};

/// Series with the change points that apache-otava 0.8.0 finds in them, and ruptures 1.1.10 (PELT) where the levels are
/// far apart. Otava keeps a change with the statistics that it had before a neighbour was dropped; its own merging was
/// therefore applied again until nothing more was dropped.
const PUBLISHED: &str = include_str!("otava.json");

#[derive(Deserialize)]
struct Published {
    name: String,
    figures: Vec<f64>,
    pelt: Option<Vec<usize>>,
    hunter: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    window: usize,
    max_p: f64,
    min_move: f64,
    at: Vec<usize>,
    p: Vec<f64>,
    delta_pct: Vec<f64>,
}

fn places(figures: &[f64], options: Options) -> Vec<usize> {
    let found = change_points(figures, options);
    found.iter().map(|change| change.at).collect()
}

#[test]
fn the_changes_are_those_of_a_published_implementation() {
    let published: Vec<Published> = serde_json::from_str(PUBLISHED).unwrap();
    let mut compared = 0;
    for series in &published {
        for case in &series.hunter {
            let options = Options {
                window: case.window,
                max_p: case.max_p,
                min_move: case.min_move,
                min_stay: 1,
            };
            let found = change_points(&series.figures, options);
            let at: Vec<usize> = found.iter().map(|change| change.at).collect();
            let name = &series.name;
            assert_eq!(at, case.at, "{name}: {options:?}");
            for (change, (p, delta)) in found.iter().zip(case.p.iter().zip(&case.delta_pct)) {
                let (place, near) = (change.at, |a: f64, b: f64| (a - b).abs() < 1e-6);
                assert!(
                    near(change.delta_pct(), *delta),
                    "{name} at {place}: {delta}"
                );
                // Both are zero where figures repeat exactly; tails of the distribution are compared by their size.
                let alike = change.p == *p || near(change.p.ln() / p.ln(), 1.0);
                assert!(alike, "{name} at {place}: {} {p}", change.p);
                compared += 1;
            }
        }
        if let Some(pelt) = &series.pelt {
            let options = Options {
                min_move: 0.02,
                ..Options::clocked()
            };
            assert_eq!(places(&series.figures, options), *pelt, "{}", series.name);
        }
    }
    assert!(compared > 40, "{compared}");
}

/// What a run of unchanged code measures, relative to its cost.
#[derive(Clone, Copy, Debug)]
enum Noise {
    Normal,
    OnlyAdds,
    Bursts,
}

fn normal(rng: &mut StdRng) -> f64 {
    let sum: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
    sum - 6.0
}

fn figure(rng: &mut StdRng, noise: Noise) -> f64 {
    match noise {
        Noise::Normal => 1.0 + 0.02 * normal(rng),
        Noise::OnlyAdds => 1.0 - 0.01 * (1.0 - rng.random::<f64>()).ln(),
        Noise::Bursts if rng.random_bool(0.03) => 1.0 + rng.random::<f64>(),
        Noise::Bursts => 1.0 + 0.005 * normal(rng),
    }
}

/// False changes per 1,000 commits, counted over 120,000 of them.
fn false_changes(noise: Noise, length: usize, options: Options) -> f64 {
    let mut rng = StdRng::seed_from_u64(7);
    let count = 120_000 / length;
    let found: usize = (0..count)
        .map(|_| {
            let series: Vec<f64> = (0..length).map(|_| figure(&mut rng, noise)).collect();
            change_points(&series, options).len()
        })
        .sum();
    found as f64 * 1_000.0 / (count * length) as f64
}

#[test]
fn fewer_than_one_commit_in_five_thousand_is_falsely_marked() {
    for noise in [Noise::Normal, Noise::OnlyAdds, Noise::Bursts] {
        for length in [20, 100, 500] {
            let rate = false_changes(noise, length, Options::clocked());
            println!("{noise:?}, series of {length}: {rate:.3} false changes per 1,000 commits");
            assert!(rate < 0.2, "{noise:?}, series of {length}: {rate}");
        }
    }
    // What that costs a rule which believes a level at once: bursts are taken for changes.
    let hasty = Options {
        min_stay: 1,
        ..Options::clocked()
    };
    assert!(false_changes(Noise::Bursts, 100, hasty) > 1.0);
}

#[test]
fn slow_downs_are_found_where_they_are() {
    for (noise, before, after, factor, least) in [
        (Noise::Normal, 40, 10, 1.05, 0.9),
        (Noise::Normal, 40, 5, 1.1, 0.95),
        (Noise::OnlyAdds, 40, 3, 1.05, 0.95),
        (Noise::OnlyAdds, 40, 20, 1.02, 0.85),
    ] {
        let mut rng = StdRng::seed_from_u64(8);
        let runs = 200;
        let found = (0..runs).filter(|_| {
            let mut cost = |at| figure(&mut rng, noise) * if at < before { 1.0 } else { factor };
            let series: Vec<f64> = (0..before + after).map(&mut cost).collect();
            let near = |place: &usize| place.abs_diff(before) <= 2;
            places(&series, Options::clocked()).iter().any(near)
        });
        let power = found.count() as f64 / f64::from(runs);
        println!("{noise:?}, {before} + {after} commits, ×{factor}: {power:.3} found");
        assert!(power >= least, "{noise:?} {after} ×{factor}: {power}");
    }
}

#[test]
fn counts_change_at_once_and_what_is_no_series_has_no_change() {
    let counted = Options::counted();
    assert_eq!(places(&[500.0, 500.0, 500.0, 501.0], counted), [3]);
    let back = [&[500.0; 9][..], &[520.0; 9], &[500.0]].concat();
    assert_eq!(places(&back, counted), [9, 18]);
    assert!(places(&[5_000.0, 5_000.0, 5_001.0], counted).is_empty());
    for none in [&[][..], &[1.0], &[1.0, 2.0], &[0.1; 99], &[0.0; 9]] {
        assert!(places(none, counted).is_empty(), "{none:?}");
    }
    assert!(places(&[1.0, f64::NAN, 1.0, 9.0, 9.0], counted).is_empty());
    let huge = [1e300, 1e300, 1e-300, 1e-300, 1e300, f64::MAX];
    assert!(change_points(&huge, counted).len() < huge.len());
}
