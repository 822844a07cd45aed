//! False alarms and power, counted over seeded sessions of a simulated shared machine.
//!
//! The noise is that of the machines which the gate is for: a common factor a session (the host's load and frequency),
//! an offset a process (layout, page placement), and neighbours that only ever add time, in phases that outlast a
//! sample. Its sizes are taken from the wide end of what was measured on shared two-CPU guests.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const BENCHES: usize = 40;
const SESSIONS: usize = 60;
const SAMPLES: usize = 60;

/// How loud a simulated machine is.
#[derive(Clone, Copy)]
struct Noise {
    /// Standard deviation of a session's common factor, as a logarithm.
    session: f64,
    /// Standard deviation of a bench's own offset in a session.
    process: f64,
    /// The share of time in which a neighbour is at work.
    busy: f64,
    /// The mean of what it then adds, relative to the bench's time.
    added: f64,
}

const SHARED: Noise = Noise {
    session: 0.12,
    process: 0.02,
    busy: 0.3,
    added: 0.4,
};

const HOSTILE: Noise = Noise {
    session: 0.25,
    process: 0.05,
    busy: 0.6,
    added: 1.0,
};

fn normal(rng: &mut StdRng) -> f64 {
    let sum: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
    sum - 6.0
}

/// What one session measures of all benches; the first `slowed` of them cost `factor` times as much.
fn session(rng: &mut StdRng, noise: Noise, benches: usize, slowed: usize, factor: f64) -> Record {
    let common = (noise.session * normal(rng)).exp();
    let ids: Vec<String> = (0..benches).map(|at| format!("bench{at}")).collect();
    let mut found = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let code = if at < slowed { factor } else { 1.0 };
        let cost = 1e6 * code * common * (noise.process * normal(rng)).exp();
        let mut busy = rng.random_bool(noise.busy);
        let samples = (0..SAMPLES).map(|_| {
            // A neighbour stays for ten samples on average.
            if rng.random_bool(0.1) {
                busy = rng.random_bool(noise.busy);
            }
            let waiting = -(1.0 - rng.random::<f64>()).ln();
            let jitter = 0.003 * -(1.0 - rng.random::<f64>()).ln();
            cost * (1.0 + jitter + if busy { noise.added * waiting } else { 0.0 })
        });
        found.push((
            id.as_str(),
            Metric::Time,
            timed(samples.collect::<Vec<_>>()),
        ));
    }
    record("here", &found)
}

/// Shares of benches over all sessions.
#[derive(Debug)]
struct Shares {
    /// Red among the slowed.
    caught: f64,
    /// Red among the others.
    false_alarms: f64,
    /// Of which nothing can be said.
    unsure: f64,
}

/// Compares pairs of sessions in which the first `slowed` of `benches` became `factor` times as slow.
fn count(noise: Noise, gate: &Gate, benches: usize, slowed: usize, factor: f64) -> Shares {
    let mut rng = StdRng::seed_from_u64(7);
    let (mut caught, mut false_alarms, mut unsure) = (0, 0, 0);
    for _ in 0..SESSIONS {
        let base = session(&mut rng, noise, benches, 0, 1.0);
        let now = session(&mut rng, noise, benches, slowed, factor);
        for row in compare(&[now], &[base], gate, Coverage::Whole).rows {
            let number: usize = row.id.as_str()["bench".len()..].parse().unwrap();
            match row.verdict {
                Verdict::Regressed if number < slowed => caught += 1,
                Verdict::Regressed if row.gates => false_alarms += 1,
                Verdict::Inconclusive => unsure += 1,
                _ => {}
            }
        }
    }
    let share = |count: i32, of: usize| f64::from(count) / (of * SESSIONS).max(1) as f64;
    Shares {
        caught: share(caught, slowed),
        false_alarms: share(false_alarms, benches - slowed),
        unsure: share(unsure, benches),
    }
}

#[test]
fn nothing_is_red_where_nothing_changed() {
    let gate = Gate::default();
    // 45 benches in 60 pairs of sessions: 0 of 2,700 are red.
    for benches in [1, 4, BENCHES] {
        let shares = count(SHARED, &gate, benches, 0, 1.0);
        assert_eq!(shares.false_alarms, 0.0, "{benches} benches: {shares:?}");
    }
    let shares = count(SHARED, &gate, BENCHES, 0, 1.0);
    assert!(shares.unsure < 0.45, "{shares:?}");
    let shares = count(HOSTILE, &gate, BENCHES, 0, 1.0);
    assert_eq!(shares.false_alarms, 0.0, "{shares:?}");
    // Few benches do not show what a machine did that is far outside its allowance.
    let shares = count(HOSTILE, &gate, 4, 0, 1.0);
    assert!(shares.false_alarms < 0.1, "{shares:?}");
}

#[test]
fn what_matters_is_caught() {
    let gate = Gate::default();
    for (noise, factor, caught_at_least) in [
        (SHARED, 1.3, 0.15),
        (SHARED, 1.5, 0.7),
        (SHARED, 2.0, 0.99),
        (HOSTILE, 2.0, 0.45),
        (HOSTILE, 3.0, 0.9),
    ] {
        let shares = count(noise, &gate, BENCHES, 8, factor);
        assert!(shares.caught >= caught_at_least, "× {factor}: {shares:?}");
        assert_eq!(shares.false_alarms, 0.0, "× {factor}: {shares:?}");
    }
}

#[test]
fn controls_keep_a_slow_down_of_everything_from_being_laid_to_the_machine() {
    // Benches 3 and 30 to 39 are called controls; 3 is a wrong one, for it is among the 30 that became slower.
    let with_controls = "schema = 1\ncontrols = [\"bench3*\"]";
    let with_controls = Gate::from_toml(with_controls, "").unwrap();
    let shares = count(SHARED, &with_controls, BENCHES, 30, 1.5);
    assert!(
        shares.caught > 0.7 && shares.false_alarms == 0.0,
        "{shares:?}"
    );
    let without = count(SHARED, &Gate::default(), BENCHES, 30, 1.5);
    assert!(
        without.caught < 0.4 && without.false_alarms == 0.0,
        "{without:?}"
    );
}
