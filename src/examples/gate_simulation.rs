//! The judge on simulated machines whose truth is known:
//! `cargo run --release --example gate-simulation [RUNS] [MACHINE]`.
//!
//! Prints, for runs of 50 benches, how many had a false alarm, and which share of planted slow-downs was found.

use std::thread;

use tokgate::judge::Gate;
use tokgate::judge::trial::simulation::{Noise, Scenario, Tally, simulate};

const SEED: u64 = 2027;

fn main() {
    let runs: usize = std::env::args()
        .nth(1)
        .map_or(10_000, |runs| runs.parse().expect("a number of runs"));
    let only = std::env::args().nth(2);
    println!("{runs} runs a line, 50 benches, 12 blocks a bench, seed {SEED}\n");
    println!("| machine | slowed | false alarms, runs | found | passed | praised | unsure |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    let machines = [
        ("quiet", Noise::QUIET, 24),
        ("shared", Noise::SHARED, 24),
        ("shared, 3 links", Noise::SHARED, 3),
        ("loaded", Noise::LOADED, 24),
        ("layouts", Noise::RELINKED, 24),
        ("layouts, 8 links", Noise::RELINKED, 8),
        ("layouts, 3 links", Noise::RELINKED, 3),
    ];
    for (name, noise, links) in machines {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        for (slowed, slower_pct) in [(0, 0.0), (5, 2.0), (5, 3.0), (5, 5.0), (5, 10.0)] {
            let scenario = Scenario {
                noise,
                benches: 50,
                slowed,
                slower_pct,
                blocks: 12,
                links,
            };
            // False alarms are rare and need many runs; what is found is not.
            let runs = if slowed == 0 { runs } else { runs.div_ceil(10) };
            let tally = on_all_cores(&scenario, runs);
            let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
            println!(
                "| {name} | {slowed} by {slower_pct} % | {} of {} ({:.2} %) | {:.1} % | {:.1} % | {} | {:.1} % |",
                tally.false_runs,
                tally.runs,
                share(tally.false_runs, tally.runs),
                share(tally.found, tally.slowed),
                share(tally.missed, tally.slowed),
                tally.false_praise,
                share(tally.unsure, tally.untouched),
            );
        }
    }
}

fn on_all_cores(scenario: &Scenario, runs: usize) -> Tally {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(runs.max(1));
    let mut total = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let share = runs / threads + usize::from(thread < runs % threads);
                let seed = SEED + 1_000_003 * thread as u64;
                scope.spawn(move || simulate(scenario, &Gate::default(), seed, share))
            })
            .collect();
        for worker in workers {
            total.add(worker.join().expect("the simulation does not panic"));
        }
    });
    total
}
