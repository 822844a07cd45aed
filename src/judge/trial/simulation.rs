//! Gate runs on a simulated machine whose truth is known: how often the judge cries wolf, and what it finds.
//!
//! The noise has the sizes that were measured on shared two-CPU guests: the spread of a process's minimum and median by
//! kind of code, a drift of up to 2.7 % within a session, neighbours that come and go in bursts longer than a process
//! and then slow whole processes down, and layouts that differ by some tenths of a percent. Blocks, looks and the
//! sharing of the budget are those of a real run.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{FIRST_BLOCKS, LOOK_SHARES, MOST_BLOCKS, Report, judge, links_of};
use crate::judge::{Gate, Verdict};
use crate::record::trial::{
    Arm, Block, Build, Code, Harness, Link, Machine, ProcessRun, Revision, Target, Trial,
    TrialBench,
};
use crate::record::{MachineKey, TimedSamples};

/// Spread of a process's minimum and of its median over processes, as median absolute deviations in percent: dot
/// product, softmax, matrix-vector product from the last-level cache, byte loop, parser.
const KINDS: [[f64; 2]; 5] = [
    [0.11, 2.98],
    [0.15, 2.79],
    [0.50, 2.71],
    [0.05, 1.66],
    [1.18, 7.34],
];

/// The standard deviation of a normal distribution over its median absolute deviation.
const NORMAL_MAD: f64 = 1.4826;

/// How loud the simulated machine is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// The share of time in which a neighbour is at work.
    pub busy: f64,
    /// How likely it comes or goes between two processes.
    pub turns: f64,
    /// The share of processes that it slows down from beginning to end while it is at work.
    pub hits: f64,
    /// How much it then adds on average, relative to the bench's time.
    pub added: f64,
    /// The amplitude of the session's drift, as a logarithm.
    pub drift: f64,
    /// The standard deviation of a link's layout, as a logarithm.
    pub layout: f64,
}

impl Noise {
    /// Nobody else on the machine.
    pub const QUIET: Self = Self {
        busy: 0.0,
        turns: 0.0,
        hits: 0.0,
        added: 0.0,
        drift: 0.001,
        layout: 0.001,
    };

    /// Neighbours in bursts, a third of the time.
    pub const SHARED: Self = Self {
        busy: 0.33,
        turns: 0.15,
        hits: 0.5,
        added: 0.10,
        drift: 0.0135,
        layout: 0.002,
    };

    /// As that, of code whose layout matters ten times as much.
    pub const RELINKED: Self = Self {
        layout: 0.02,
        ..Self::SHARED
    };

    /// A neighbour that loads a core half of the time.
    pub const LOADED: Self = Self {
        busy: 0.5,
        turns: 0.08,
        hits: 0.7,
        added: 0.30,
        drift: 0.0135,
        layout: 0.002,
    };
}

/// A gate run to be simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// The machine.
    pub noise: Noise,
    /// How many benches there are.
    pub benches: usize,
    /// How many of them became slower.
    pub slowed: usize,
    /// By how much, in percent.
    pub slower_pct: f64,
    /// Blocks a bench that the budget is for.
    pub blocks: usize,
    /// Links an arm.
    pub links: usize,
}

/// What came of simulated runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub runs: usize,
    /// Runs with a false alarm: an untouched bench called regressed.
    pub false_runs: usize,
    /// Untouched benches called regressed.
    pub false_alarms: usize,
    /// Benches called improved although none was.
    pub false_praise: usize,
    /// Slowed benches.
    pub slowed: usize,
    /// Slowed benches called regressed.
    pub found: usize,
    /// Slowed benches called unchanged.
    pub missed: usize,
    /// Untouched benches of which nothing could be said.
    pub unsure: usize,
    /// Untouched benches.
    pub untouched: usize,
}

/// Simulates `runs` gate runs, drawn from `seed`.
pub fn simulate(scenario: &Scenario, gate: &Gate, seed: u64, runs: usize) -> Tally {
    let mut tally = Tally::default();
    for run in 0..runs {
        let seed = seed.wrapping_mul(0x9e37_79b9).wrapping_add(run as u64);
        let report = one_run(scenario, gate, seed);
        let mut is_false = false;
        for row in &report.rows {
            let number: usize = row.id.as_str().parse().unwrap_or(usize::MAX);
            let slowed = number < scenario.slowed;
            tally.false_praise += usize::from(row.verdict == Verdict::Improved);
            if slowed {
                tally.slowed += 1;
                tally.found += usize::from(row.verdict == Verdict::Regressed);
                tally.missed += usize::from(row.verdict == Verdict::Unchanged);
            } else {
                tally.untouched += 1;
                tally.unsure += usize::from(matches!(
                    row.verdict,
                    Verdict::Inconclusive | Verdict::NotMeasurable
                ));
                if row.verdict == Verdict::Regressed {
                    tally.false_alarms += 1;
                    is_false = true;
                }
            }
        }
        tally.runs += 1;
        tally.false_runs += usize::from(is_false);
    }
    tally
}

impl Tally {
    /// Adds what came of other runs.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.false_runs += other.false_runs;
        self.false_alarms += other.false_alarms;
        self.false_praise += other.false_praise;
        self.slowed += other.slowed;
        self.found += other.found;
        self.missed += other.missed;
        self.unsure += other.unsure;
        self.untouched += other.untouched;
    }
}

/// What a run of identical code measures of `benches` benches with `blocks` blocks each.
pub fn aa_round(noise: Noise, benches: usize, blocks: usize, seed: u64) -> Trial {
    let scenario = Scenario {
        noise,
        benches,
        slowed: 0,
        slower_pct: 0.0,
        blocks,
        links: 24,
    };
    let mut session = Session::new(&scenario, seed);
    for _ in 0..blocks {
        (0..benches).for_each(|at| session.block(at));
    }
    session.look(0);
    session.trial
}

/// One run, with its looks: benches whose verdict is clear give their time to the others.
fn one_run(scenario: &Scenario, gate: &Gate, seed: u64) -> Report {
    let mut session = Session::new(scenario, seed);
    let total = scenario.benches * scenario.blocks;
    let mut open: Vec<usize> = (0..scenario.benches).collect();
    let mut spent = 0;
    let mut report = None;
    for (look, share) in LOOK_SHARES.into_iter().enumerate() {
        let until = (total as f64 * share) as usize;
        loop {
            let few = look == 0 && open.iter().any(|at| session.blocks(*at) < FIRST_BLOCKS);
            open.retain(|at| session.blocks(*at) < MOST_BLOCKS);
            if open.is_empty() || (spent >= until && !few) {
                break;
            }
            for at in &open {
                session.block(*at);
            }
            spent += open.len();
        }
        session.look(look);
        let judged = judge(&session.trial, gate, None);
        let is_open = |at: &usize| {
            let name = at.to_string();
            let row = judged.rows.iter().find(|row| row.id.as_str() == name);
            row.is_some_and(|row| row.verdict == Verdict::Inconclusive)
        };
        open = (0..scenario.benches).filter(is_open).collect();
        report = Some(judged);
        if open.is_empty() {
            break;
        }
    }
    report.expect("there is at least one look")
}

struct Session {
    rng: StdRng,
    noise: Noise,
    trial: Trial,
    /// Logarithms of each bench's links, by arm.
    layouts: Vec<[Vec<f64>; 2]>,
    slowed: usize,
    slower: f64,
    links: usize,
    busy: bool,
    time: f64,
    pace: f64,
}

impl Session {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let layouts = (0..scenario.benches)
            .map(|_| {
                [(); 2].map(|()| {
                    let links = 0..scenario.links;
                    links
                        .map(|_| scenario.noise.layout * normal(&mut rng))
                        .collect()
                })
            })
            .collect();
        let benches = (0..scenario.benches).map(|at| {
            let id = at.to_string().parse().expect("a number is an id");
            TrialBench::new(id, 0, true, true)
        });
        Self {
            noise: scenario.noise,
            trial: trial(seed, benches.collect(), scenario.links),
            links: scenario.links,
            layouts,
            slowed: scenario.slowed,
            slower: (scenario.slower_pct / 100.0).ln_1p(),
            busy: rng.random_bool(scenario.noise.busy),
            time: 0.0,
            pace: std::f64::consts::TAU / (scenario.benches * scenario.blocks * 4) as f64,
            rng,
        }
    }

    fn blocks(&self, at: usize) -> usize {
        self.trial.benches[at].blocks.len()
    }

    fn look(&mut self, look: usize) {
        for bench in &mut self.trial.benches {
            let blocks = bench.blocks.len();
            if bench.looks.len() == look && bench.looks.last().is_none_or(|last| *last < blocks) {
                bench.looks.push(blocks);
            }
        }
    }

    fn block(&mut self, at: usize) {
        let round = self.blocks(at);
        let order = if self.rng.random() {
            [Arm::Base, Arm::Head, Arm::Head, Arm::Base]
        } else {
            [Arm::Head, Arm::Base, Arm::Base, Arm::Head]
        };
        let mut pair = links_of(round, self.links);
        if self.rng.random() {
            pair.reverse();
        }
        let runs = order.into_iter().enumerate();
        let runs = runs.map(|(place, arm)| self.process(at, arm, pair[place / 2]));
        let runs = runs.collect();
        self.trial.benches[at].blocks.push(Block {
            round: round as u32,
            at_ms: 0,
            runs,
        });
    }

    /// A process as its minimum, median and tail.
    fn process(&mut self, at: usize, arm: Arm, link: usize) -> ProcessRun {
        let [low, middle] = KINDS[at % KINDS.len()].map(|mad| mad * NORMAL_MAD / 100.0);
        if self.rng.random_bool(self.noise.turns) {
            self.busy = self.rng.random_bool(self.noise.busy);
        }
        self.time += self.pace;
        let drift = self.noise.drift * self.time.sin();
        let code = match arm {
            Arm::Head if at < self.slowed => self.slower,
            _ => 0.0,
        };
        let whole = drift + code + self.layouts[at][arm as usize][link];
        let waiting = -(1.0 - self.rng.random::<f64>()).ln();
        let hit = if self.busy && self.rng.random_bool(self.noise.hits) {
            (self.noise.added * waiting).ln_1p()
        } else {
            0.0
        };
        // One process in twenty is off by several times as much.
        let stray = if self.rng.random_bool(0.05) { 4.0 } else { 1.0 };
        let minimum = whole + hit + (low * stray * normal(&mut self.rng)).abs();
        let median = minimum + (middle * normal(&mut self.rng)).abs() + hit * 0.5;
        let tail = median + 3.0 * middle * self.rng.random::<f64>() + hit;
        let ns = |logarithm: f64| (1e9 * logarithm.exp()) as u64;
        let samples = TimedSamples::new(vec![1; 3], vec![ns(minimum), ns(median), ns(tail)]);
        ProcessRun {
            arm,
            link,
            samples: samples.expect("three samples"),
        }
    }
}

fn normal(rng: &mut StdRng) -> f64 {
    // Box and Muller, one of the two.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn trial(seed: u64, benches: Vec<TrialBench>, links: usize) -> Trial {
    let key = || MachineKey::new("simulated").expect("lower-case letters");
    let revision = |asked: &str| Revision {
        asked: asked.to_owned(),
        commit: asked.to_owned(),
        dirty: false,
    };
    let link = |arm| Link {
        arm,
        seed: None,
        text: String::new(),
    };
    let at = jiff::Timestamp::UNIX_EPOCH;
    Trial {
        started_at: at,
        finished_at: at,
        seed,
        budget_s: 0.0,
        interrupted: false,
        machine: Machine {
            key: key(),
            counts_key: key(),
            cpu: String::new(),
            cpus: 2,
            governor: None,
        },
        build: Build {
            rustc: String::new(),
            target: String::new(),
            rustflags: String::new(),
            profile: String::new(),
        },
        base: revision("base"),
        head: revision("head"),
        targets: vec![Target {
            package: String::new(),
            name: String::new(),
            harness: Harness::Criterion,
            code: Code::Differs,
            links: [link(Arm::Base), link(Arm::Head)]
                .into_iter()
                .flat_map(|link| vec![link; links])
                .collect(),
            failure: None,
        }],
        benches,
        checks: Vec::new(),
        notes: Vec::new(),
    }
}
