//! One bench of any commit, measured against the good end in turn.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::judge::{Statistic, evidence, stats};
use crate::lab::{BenchTarget, Binary, Commit, Lab, LabError, Pace, Worktree};
use crate::record::trial::Harness;
use crate::record::{BenchId, TimedSamples};

/// Where measurements come from; tests have one that is made of numbers.
pub trait Workbench {
    /// Measures link number `link` of `commit` `runs` times. The figures are logarithms of a cost, relative to a
    /// reference that never changes.
    ///
    /// # Errors
    /// What ends the search: an interruption, or trouble that another commit would meet as well.
    fn measure(&mut self, commit: &str, link: u32, runs: u32) -> anyhow::Result<Measured>;
}

/// What came of an attempt to measure.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// One figure a run, and how long it took to link and to run.
    Figures {
        /// The figures.
        figures: Vec<f64>,
        /// Whether the commit was built for the first time.
        first: bool,
        /// Until there was a binary.
        build: Duration,
        /// All runs.
        run: Duration,
    },
    /// The commit does not build, or its bench does not run.
    Unbuildable(String),
}

/// The good end's own binary, and the checkout that all other commits take turns in.
pub struct WallClock<'a> {
    lab: &'a Lab,
    bench: BenchId,
    pace: Pace,
    target: BenchTarget,
    reference: Binary,
    here: Worktree<'a>,
    /// The checkout that the reference runs in.
    _good: Worktree<'a>,
    built: std::collections::BTreeSet<String>,
    turns: u32,
    /// Whether the linker can be told an order of sections.
    pub relinks: bool,
}

/// What the linker's order of sections of a link is drawn from; the reference has the linker's own.
const FIRST_SEED: u32 = 101;

impl<'a> WallClock<'a> {
    /// Builds the good end and finds the bench in it: a criterion bench, or a program that takes turns, for which two
    /// processes measure `time` at once.
    pub fn new(
        lab: &'a Lab,
        good: &Commit,
        bench: &str,
        target: Option<&str>,
        in_turn: bool,
        time: Duration,
    ) -> anyhow::Result<Self> {
        let bench: BenchId = bench.parse()?;
        let tree = lab.worktree("good", good)?;
        let (target, reference) = find(lab, &tree, &bench, target, in_turn)?;
        lab.share_dependencies("good", "here")?;
        let here = lab.worktree("here", good)?;
        let relinks = match lab.build(&here, &target, Some(FIRST_SEED)) {
            Ok(_) => true,
            Err(error) if error.is_interrupt() => return Err(error.into()),
            Err(_) => false,
        };
        let pace = Pace {
            measure: time,
            warm_up: time / 5,
            ..Pace::default()
        };
        let built = [good.id.clone()].into();
        Ok(Self {
            lab,
            bench,
            pace,
            target,
            reference,
            here,
            _good: tree,
            built,
            turns: 0,
            relinks,
        })
    }

    /// One process of the reference and one of `binary`; which is first alternates.
    fn pair(&mut self, binary: &Binary) -> Result<f64, LabError> {
        self.turns += 1;
        let first = self.turns.is_multiple_of(2);
        if let Some(program) = &self.target.lockstep {
            let binaries = [&self.reference, binary];
            let binaries = if first {
                binaries
            } else {
                [binary, &self.reference]
            };
            let samples = self.lab.lockstep(binaries, program, self.pace.measure);
            let [a, b] = samples.map_err(|(_, error)| error)?;
            let ratio = evidence::in_turn(&a, &b);
            return Ok(if first { ratio } else { -ratio });
        }
        let mut costs = [0.0; 2];
        for at in if first { [0, 1] } else { [1, 0] } {
            let binary = [&self.reference, binary][at];
            costs[at] = cost(&self.lab.measure(binary, &self.bench, self.pace)?);
        }
        Ok((costs[1] / costs[0]).ln())
    }
}

impl Workbench for WallClock<'_> {
    fn measure(&mut self, commit: &str, link: u32, runs: u32) -> anyhow::Result<Measured> {
        let begun = Instant::now();
        if self.here.commit().id != commit {
            let commit = self.lab.resolve(commit)?;
            self.here.switch(&commit)?;
        }
        let seed = self.relinks.then_some(FIRST_SEED + link);
        let binary = match self.lab.build(&self.here, &self.target, seed) {
            Ok(binary) => binary,
            Err(error) => return unbuildable(error),
        };
        let build = begun.elapsed();
        let first = self.built.insert(commit.to_owned());
        let begun = Instant::now();
        let mut figures = Vec::new();
        for _ in 0..runs {
            match self.pair(&binary) {
                Ok(figure) if figure.is_finite() => figures.push(figure),
                Ok(_) => return Ok(Measured::Unbuildable("the bench takes no time".to_owned())),
                Err(error) => return unbuildable(error),
            }
        }
        Ok(Measured::Figures {
            figures,
            first,
            build,
            run: begun.elapsed(),
        })
    }
}

/// Instruction counts of a callgrind bench of any commit.
pub struct Counts<'a> {
    lab: &'a Lab,
    bench: BenchId,
    target: BenchTarget,
    here: Worktree<'a>,
    reference: f64,
    built: std::collections::BTreeSet<String>,
}

impl<'a> Counts<'a> {
    /// Counts the good end; `Ok(None)` if no callgrind target there has the bench.
    pub fn new(
        lab: &'a Lab,
        good: &Commit,
        bench: &str,
        target: Option<&str>,
    ) -> anyhow::Result<Option<Self>> {
        let bench: BenchId = bench.parse()?;
        let here = lab.worktree("here", good)?;
        for candidate in lab.targets(&here)? {
            if target.is_some_and(|name| name != candidate.name) || candidate.lockstep.is_some() {
                continue;
            }
            match lab.build(&here, &candidate, None) {
                Ok(binary) if binary.harness == Some(Harness::Callgrind) => {}
                Err(error) if error.is_interrupt() => return Err(error.into()),
                _ => continue,
            }
            let counts = lab.count(&here, &candidate)?;
            if let Some((_, count)) = counts.iter().find(|(id, _)| *id == bench) {
                let reference = (*count as f64).max(1.0);
                let target = candidate;
                let built = std::collections::BTreeSet::new();
                return Ok(Some(Self {
                    lab,
                    bench,
                    target,
                    here,
                    reference,
                    built,
                }));
            }
        }
        Ok(None)
    }
}

impl Workbench for Counts<'_> {
    fn measure(&mut self, commit: &str, _link: u32, runs: u32) -> anyhow::Result<Measured> {
        let begun = Instant::now();
        if self.here.commit().id != commit {
            let commit = self.lab.resolve(commit)?;
            self.here.switch(&commit)?;
        }
        if let Err(error) = self.lab.build(&self.here, &self.target, None) {
            return unbuildable(error);
        }
        let build = begun.elapsed();
        let begun = Instant::now();
        let mut figures = Vec::new();
        for _ in 0..runs {
            let counts = match self.lab.count(&self.here, &self.target) {
                Ok(counts) => counts,
                Err(error) => return unbuildable(error),
            };
            match counts.iter().find(|(id, _)| *id == self.bench) {
                Some((_, count)) => {
                    figures.push((*count as f64).max(1.0).ln() - self.reference.ln())
                }
                None => {
                    return Ok(Measured::Unbuildable(format!(
                        "has no bench '{}'",
                        self.bench
                    )));
                }
            }
        }
        let first = self.built.insert(commit.to_owned());
        Ok(Measured::Figures {
            figures,
            first,
            build,
            run: begun.elapsed(),
        })
    }
}

/// The target of `tree` that has the bench, built: a program that takes turns, or one of criterion's.
fn find(
    lab: &Lab,
    tree: &Worktree<'_>,
    bench: &BenchId,
    target: Option<&str>,
    in_turn: bool,
) -> anyhow::Result<(BenchTarget, Binary)> {
    let mut seen = Vec::new();
    for candidate in lab.targets(tree)? {
        if target.is_some_and(|name| name != candidate.name)
            || candidate.lockstep.is_some() != in_turn
        {
            continue;
        }
        let binary = match lab.build(tree, &candidate, None) {
            Ok(binary) => binary,
            Err(error) if error.is_interrupt() || target.is_some() => return Err(error.into()),
            Err(_) => continue,
        };
        let benches = match (&candidate.lockstep, binary.harness) {
            (Some(program), _) => lab.ask_lockstep(&binary, program).map(|id| vec![id]),
            (None, Some(Harness::Criterion)) => lab.list(&binary),
            _ => continue,
        };
        let benches = benches.with_context(|| candidate.name.clone())?;
        if benches.contains(bench) {
            return Ok((candidate, binary));
        }
        seen.extend(benches);
    }
    let some: Vec<String> = seen.iter().take(5).map(|id| format!("'{id}'")).collect();
    let known = match &some[..] {
        [] if in_turn => "no program that takes turns was found there that builds".to_owned(),
        [] => "no criterion bench was found there that builds".to_owned(),
        some => format!("it has {} others, such as {}", seen.len(), some.join(", ")),
    };
    bail!("the good commit has no bench '{bench}'; {known}")
}

/// The low quantile of a process's samples: what the code costs when nobody disturbs it.
fn cost(samples: &TimedSamples) -> f64 {
    let mut sorted: Vec<f64> = samples.per_iteration_ns().collect();
    sorted.sort_by(f64::total_cmp);
    stats::of(Statistic::Low, &sorted)
}

/// What went wrong is the commit's fault, unless the lab was asked to stop.
fn unbuildable(error: LabError) -> anyhow::Result<Measured> {
    if error.is_interrupt() {
        return Err(error.into());
    }
    let said: String = error.to_string().chars().take(600).collect();
    Ok(Measured::Unbuildable(said))
}
