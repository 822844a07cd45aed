//! The search of `tokgate bisect` against `git bisect run`, counted over seeded histories; the tables of
//! `.github/BISECT.md`.
//!
//! ```sh
//! cargo run --release --example bisect-simulation -- 1000
//! ```

use std::thread;

use tokgate::judge::bisect::simulation::{Outcome, World, git_bisect, search};
use tokgate::judge::bisect::{Costs, Noise, Settings};

/// Every link costs nothing: only measurements are counted.
const FREE: Costs = Costs {
    build: 0.0,
    link: 0.0,
    run: 1.0,
};

/// A build costs as much as twenty measurements, a link as much as four.
const DEAR: Costs = Costs {
    build: 20.0,
    link: 4.0,
    run: 1.0,
};

fn main() {
    let histories: u64 = match std::env::args().nth(1).map(|text| text.parse()) {
        None => 200,
        Some(Ok(count)) => count,
        Some(Err(_)) => {
            eprintln!("usage: bisect-simulation [HISTORIES]");
            std::process::exit(2);
        }
    };
    let plain = World::PLAIN;
    let slower = |slower| World { slower, ..plain };
    println!(
        "{histories} histories a row, seeds 0 to {}.\n",
        histories - 1
    );
    println!(
        "| history | right | at first | wrong & verified | runs to accuse | with verification | builds | links | git ×1 | git ×5 | git ×20 |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut all = Vec::new();
    for (name, world, costs) in [
        ("128 commits, +3 %, noise 2 %", plain, FREE),
        ("+5 %", slower(0.05), FREE),
        ("+10 %", slower(0.1), FREE),
        (
            "32 commits, +3 %",
            World {
                commits: 32,
                ..plain
            },
            FREE,
        ),
        (
            "32 commits, +5 %",
            World {
                commits: 32,
                ..slower(0.05)
            },
            FREE,
        ),
        (
            "layout 1 %",
            World {
                layout: 0.01,
                ..plain
            },
            FREE,
        ),
        (
            "layout 1 %, builds cost 20",
            World {
                layout: 0.01,
                ..plain
            },
            DEAR,
        ),
        (
            "20 % do not build",
            World {
                broken: 0.2,
                ..plain
            },
            FREE,
        ),
        (
            "bursts in 10 % of runs",
            World {
                bursts: 0.1,
                ..plain
            },
            FREE,
        ),
        (
            "noise 0.5 %, builds cost 20",
            World {
                noise: 0.005,
                ..plain
            },
            DEAR,
        ),
    ] {
        let outcomes = run(world, costs, histories);
        println!("| {name} | {} |", row(world, &outcomes, histories));
        all.extend(outcomes);
    }
    println!("\n| history without a culprit | accused | verified | runs |");
    println!("|---|---:|---:|---:|");
    for (name, world) in [
        ("noise 2 %", slower(0.0)),
        (
            "layout 1 %",
            World {
                layout: 0.01,
                ..slower(0.0)
            },
        ),
        (
            "bursts in 10 % of runs",
            World {
                bursts: 0.1,
                ..slower(0.0)
            },
        ),
    ] {
        let outcomes = run(world, FREE, histories);
        println!(
            "| {name} | {:.2} % | {:.2} % | {:.1} |",
            percent(&outcomes, |outcome| outcome.accused.is_some()),
            percent(&outcomes, |outcome| outcome.verified == Some(true)),
            mean(&outcomes, |outcome| f64::from(outcome.runs[1])),
        );
    }
    calibration(&all);
}

fn run(world: World, costs: Costs, histories: u64) -> Vec<Outcome> {
    let settings = Settings::of(Noise::Clocked);
    let one = |seed| search(world, settings, costs, seed);
    let middle = histories / 2;
    thread::scope(|scope| {
        let half = scope.spawn(|| (0..middle).map(one).collect::<Vec<_>>());
        let rest: Vec<Outcome> = (middle..histories).map(one).collect();
        let mut outcomes = half.join().expect("the simulation does not panic");
        outcomes.extend(rest);
        outcomes
    })
}

fn row(world: World, outcomes: &[Outcome], histories: u64) -> String {
    let git = |runs| {
        let right = (0..histories).filter(|seed| git_bisect(world, runs, *seed).right);
        100.0 * right.count() as f64 / histories as f64
    };
    format!(
        "{:.1} % | {:.1} % | {:.1} % | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} % | {:.1} % | {:.1} %",
        percent(outcomes, |outcome| outcome.right),
        percent(outcomes, |outcome| outcome.right_at_first),
        percent(outcomes, |outcome| outcome.verified == Some(true)
            && !outcome.right),
        mean(outcomes, |outcome| f64::from(outcome.runs[0])),
        mean(outcomes, |outcome| f64::from(outcome.runs[1])),
        mean(outcomes, |outcome| f64::from(outcome.builds)),
        mean(outcomes, |outcome| f64::from(outcome.links)),
        git(1),
        git(5),
        git(20),
    )
}

/// Of accusations with a stated probability, how many were right; of intervals of the effect, how many hold it.
fn calibration(all: &[Outcome]) {
    println!("\n| stated at the accusation | accusations | right |");
    println!("|---|---:|---:|");
    for (from, to) in [
        (0.95, 0.96),
        (0.96, 0.97),
        (0.97, 0.98),
        (0.98, 0.99),
        (0.99, 1.01),
    ] {
        let within = |outcome: &&Outcome| (from..to).contains(&outcome.probability[0]);
        let bin: Vec<Outcome> = all.iter().filter(within).cloned().collect();
        if !bin.is_empty() {
            println!(
                "| {:.1} % (mean) | {} | {:.1} % |",
                100.0 * mean(&bin, |outcome| outcome.probability[0]),
                bin.len(),
                percent(&bin, |outcome| outcome.right_at_first)
            );
        }
    }
    let effects: Vec<Outcome> = all
        .iter()
        .filter(|o| o.effect_covered.is_some())
        .cloned()
        .collect();
    let sets: Vec<Outcome> = all
        .iter()
        .filter(|o| o.covered.is_some())
        .cloned()
        .collect();
    println!(
        "\n95 % intervals of the effect that hold it: {:.1} % of {}; credible sets that hold the culprit: {:.1} % of {}.",
        percent(&effects, |outcome| outcome.effect_covered == Some(true)),
        effects.len(),
        percent(&sets, |outcome| outcome.covered == Some(true)),
        sets.len()
    );
}

fn percent(outcomes: &[Outcome], of: impl Fn(&Outcome) -> bool) -> f64 {
    100.0 * mean(outcomes, |outcome| f64::from(u8::from(of(outcome))))
}

fn mean(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    outcomes.iter().map(of).sum::<f64>() / outcomes.len().max(1) as f64
}
