//! From two commits to binaries: what there is to measure, and what need not be measured.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::state::Earlier;
use super::{is_the_targets, say};
use crate::cli::MeasuringArgs;
use crate::judge::Gate;
use crate::judge::policy::CheckCommand;
use crate::lab::{BenchTarget, Binary, Commit, Lab, LabError, Worktree, code};
use crate::probe::machine;
use crate::record::trial::{
    Arm, Build, Check, Code, Failure, Harness, Link, Machine, Outcome, Revision, Target, Trial,
    TrialBench,
};
use crate::record::{BenchId, MachineKey};
use crate::session::{Circumstances, CircumstancesError};

/// Links of each side where nobody says how many: three show that layouts differ. The more there are, the nearer is their
/// mean, and with two dozen no two processes of a side need have the same one. They are made as long as linking all targets
/// takes less than about this share of the budget, and all files together less than so many bytes.
const LINKS: [usize; 2] = [3, 24];
const LINKING_SHARE: f64 = 0.25;
const LINKS_BYTES: u64 = 4 << 30;

/// What is compared with what.
pub(crate) struct Sides {
    pub base: Commit,
    pub head: Commit,
    /// Whether the same machine code is measured all the same.
    pub even_if_same: bool,
}

/// Everything that measuring needs.
pub(crate) struct Prepared<'a> {
    pub trial: Trial,
    /// The binaries of each of the trial's targets, by arm and link.
    pub links: Vec<[Vec<Binary>; 2]>,
    /// The bench targets, as the lab knows them.
    pub targets: Vec<BenchTarget>,
    /// Seconds of the budget that an interrupted run has spent.
    pub elapsed_s: f64,
    pub base: Worktree<'a>,
    pub head: Worktree<'a>,
}

impl Prepared<'_> {
    /// The head's project, where its policy is.
    pub fn head_root(&self) -> PathBuf {
        self.head.root()
    }

    /// Runs what must hold for the head, whatever the clock says.
    pub fn check(
        &mut self,
        lab: &Lab,
        checks: &[CheckCommand],
        progress: &ProgressBar,
    ) -> Result<(), LabError> {
        for check in checks {
            say(progress, &format!("checking {}", check.name));
            let (outcome, detail) = match lab.check(&self.head, &check.command) {
                Ok(said) => (Outcome::Passed, said),
                Err(LabError::Ended { said_last, .. }) => (Outcome::Failed, said_last),
                Err(error) if is_the_targets(&error) => (Outcome::Failed, error.to_string()),
                Err(error) => return Err(error),
            };
            self.trial.checks.push(Check {
                name: check.name.clone(),
                outcome,
                detail,
            });
        }
        Ok(())
    }

    /// What was measured; the worktrees end.
    pub fn into_trial(self) -> Trial {
        self.trial
    }
}

/// Why a run could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Circumstances(#[from] CircumstancesError),
    #[error(transparent)]
    Key(#[from] crate::record::NameError),
}

/// What `head` alone decides, before hours go into building: lets both sides be built with the flags that it configures,
/// where a side configures any, and reads its policy with `policy` from its project's root.
pub(crate) fn settle(
    lab: &mut Lab,
    head: &Commit,
    policy: impl FnOnce(&Path) -> anyhow::Result<Gate>,
) -> anyhow::Result<Gate> {
    let (flags, gate) = {
        let tree = lab.worktree("head", head)?;
        let root = tree.root();
        (Circumstances::rustflags_of(&root)?, policy(&root)?)
    };
    if !flags.is_empty() {
        lab.set_rustflags(flags);
    }
    Ok(gate)
}

/// Checks both sides out, builds them, and finds out what there is to measure.
pub(crate) fn prepare<'a>(
    lab: &'a Lab,
    sides: &Sides,
    measuring: &MeasuringArgs,
    earlier: Option<Earlier>,
    progress: &ProgressBar,
) -> Result<Prepared<'a>, PrepareError> {
    let started_at = Timestamp::now();
    let seed = earlier
        .as_ref()
        .map(|earlier| earlier.trial.seed)
        .or(measuring.seed)
        .unwrap_or(started_at.as_microsecond() as u64 % 1_000_000);
    let base = lab.worktree("base", &sides.base)?;
    let mut builder = Builder {
        lab,
        measuring,
        progress,
        even_if_same: sides.even_if_same,
        link_seeds: link_seeds(seed, measuring.links.unwrap_or(LINKS[1])),
        linking: Duration::MAX,
        linked_bytes: LINKS_BYTES,
        earlier: earlier.as_ref().map(|earlier| &earlier.trial),
        notes: Vec::new(),
    };
    let targets = |tree: &Worktree<'_>| -> Result<Vec<BenchTarget>, LabError> {
        let mut targets = lab.targets(tree)?;
        targets.retain(|target| measuring.takes(&target.name));
        Ok(targets)
    };
    let base_targets = targets(&base)?;
    // The base is built before the head is checked out: sources newer than what was built are built again.
    let mut of_base = Vec::new();
    for target in &base_targets {
        of_base.push(builder.first(&base, target, Arm::Base)?);
    }
    lab.share_dependencies("base", "head")?;
    let head = lab.worktree("head", &sides.head)?;
    let head_targets = targets(&head)?;
    let names: BTreeSet<(&str, &str)> = base_targets
        .iter()
        .chain(&head_targets)
        .map(|target| (target.package.as_str(), target.name.as_str()))
        .collect();
    let of_all = names.len().max(1);
    builder.linking = measuring.budget.mul_f64(LINKING_SHARE / of_all as f64);
    builder.linked_bytes = LINKS_BYTES / of_all as u64;
    let place = |targets: &[BenchTarget], name: (&str, &str)| {
        targets
            .iter()
            .position(|target| (target.package.as_str(), target.name.as_str()) == name)
    };
    let mut prepared = Prepared {
        trial: blank(lab, sides, measuring, seed, started_at)?,
        links: Vec::new(),
        targets: Vec::new(),
        elapsed_s: 0.0,
        base,
        head,
    };
    for name in names {
        let of_base = place(&base_targets, name).map(|at| of_base[at].clone());
        let of_head = match place(&head_targets, name) {
            Some(at) => Some(builder.first(&prepared.head, &head_targets[at], Arm::Head)?),
            None => None,
        };
        builder.add(&mut prepared, name, of_base, of_head)?;
    }
    let notes = std::mem::take(&mut builder.notes);
    prepared.trial.notes.extend(notes);
    prefer_lockstep(&mut prepared.trial);
    if let Some(earlier) = earlier {
        take_up(&mut prepared, earlier);
    }
    Ok(prepared)
}

/// Leaves out the criterion benches that programs which take turns measure by the same name, and more sharply.
fn prefer_lockstep(trial: &mut Trial) {
    let harness = |bench: &TrialBench| trial.targets[bench.target].harness;
    let in_turn: BTreeSet<BenchId> = trial
        .benches
        .iter()
        .filter(|bench| harness(bench) == Harness::Lockstep && bench.in_base && bench.in_head)
        .map(|bench| bench.id.clone())
        .collect();
    let targets = &trial.targets;
    trial.benches.retain(|bench| {
        targets[bench.target].harness != Harness::Criterion || !in_turn.contains(&bench.id)
    });
}

/// Goes on with what an interrupted run measured, if it found the same benches.
fn take_up(prepared: &mut Prepared<'_>, earlier: Earlier) {
    let trial = &mut prepared.trial;
    let same = earlier.trial.benches.len() == trial.benches.len()
        && earlier.trial.targets == trial.targets
        && earlier
            .trial
            .benches
            .iter()
            .zip(&trial.benches)
            .all(|(old, new)| old.id == new.id && old.target == new.target);
    if same {
        trial.benches = earlier.trial.benches;
        trial.started_at = earlier.trial.started_at;
        trial
            .notes
            .push("interrupted and taken up again".to_owned());
        prepared.elapsed_s = earlier.elapsed_s;
    }
}

/// Seeds of the links beside the linker's own order; the same for both sides, so that their layouts are as like as
/// their code.
fn link_seeds(seed: u64, links: usize) -> Vec<Option<u32>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut seeds = vec![None];
    seeds.extend((1..links).map(|_| Some(rng.random_range(1..1_000_000))));
    seeds
}

/// Bytes that a link takes on the disk.
fn size(binary: &Binary) -> u64 {
    fs::metadata(&binary.path).map_or(0, |file| file.len())
}

/// The first link of a target on one side, and its benches.
#[derive(Clone)]
struct First {
    target: BenchTarget,
    built: Result<(Binary, Vec<BenchId>), String>,
}

struct Builder<'a> {
    lab: &'a Lab,
    measuring: &'a MeasuringArgs,
    progress: &'a ProgressBar,
    even_if_same: bool,
    link_seeds: Vec<Option<u32>>,
    /// How long linking a target may take before the fewest links are enough, and how large its links may be.
    linking: Duration,
    linked_bytes: u64,
    /// The run that this one goes on with.
    earlier: Option<&'a Trial>,
    notes: Vec<String>,
}

impl Builder<'_> {
    fn first(
        &self,
        tree: &Worktree<'_>,
        target: &BenchTarget,
        arm: Arm,
    ) -> Result<First, LabError> {
        say(
            self.progress,
            &format!("building {} of the {}", target.name, arm.name()),
        );
        let built = self.lab.build(tree, target, None).and_then(|binary| {
            let benches = match binary.harness {
                Some(Harness::Criterion) => self.lab.list(&binary)?,
                Some(Harness::Lockstep) => match &target.lockstep {
                    Some(program) => vec![self.lab.ask_lockstep(&binary, program)?],
                    None => Vec::new(),
                },
                _ => Vec::new(),
            };
            Ok((binary, benches))
        });
        let built = match built {
            Ok(built) => Ok(built),
            Err(error) if is_the_targets(&error) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        Ok(First {
            target: target.clone(),
            built,
        })
    }

    /// Adds a target with its benches to the trial, and links it in further ways if it is to be measured.
    fn add(
        &mut self,
        prepared: &mut Prepared<'_>,
        (package, name): (&str, &str),
        base: Option<First>,
        head: Option<First>,
    ) -> Result<(), LabError> {
        let mut target = Target {
            package: package.to_owned(),
            name: name.to_owned(),
            harness: Harness::Criterion,
            code: Code::OneSided,
            links: Vec::new(),
            failure: None,
        };
        let of_lab = [&head, &base].into_iter().flatten().next();
        let Some(of_lab) = of_lab.map(|first| first.target.clone()) else {
            return Ok(());
        };
        let mut built = [None, None];
        for (arm, first) in [(Arm::Base, &base), (Arm::Head, &head)] {
            match first.as_ref().map(|first| &first.built) {
                Some(Ok(first)) => built[arm as usize] = Some(first),
                Some(Err(what)) => {
                    target.failure.get_or_insert(Failure {
                        arm,
                        what: what.clone(),
                    });
                }
                None => {}
            }
        }
        let mut harnesses = built.iter().flatten().map(|(binary, _)| binary.harness);
        let Some(harness) = harnesses.next_back().unwrap_or(Some(Harness::Criterion)) else {
            self.notes.push(format!(
                "{package} {name} is neither a criterion nor a callgrind target: left out"
            ));
            return Ok(());
        };
        target.harness = harness;
        if harness == Harness::Lockstep {
            let note =
                format!("{package} {name} is built with the profile release, as its users run it");
            self.notes.push(note);
        }
        let mut links = [Vec::new(), Vec::new()];
        if let [Some((base, _)), Some((head, _))] = built {
            target.code = if code::same(base, head)? {
                Code::Same
            } else {
                Code::Differs
            };
        }
        let at = prepared.trial.targets.len();
        let ids = |side: usize| -> BTreeSet<BenchId> {
            let listed = built[side].map(|(_, benches)| benches.clone());
            let selected = listed.into_iter().flatten();
            selected
                .filter(|id| self.measuring.selects(id.as_str()))
                .collect()
        };
        let (in_base, in_head) = (ids(0), ids(1));
        let all: BTreeSet<&BenchId> = in_base.union(&in_head).collect();
        let nothing_asked = harness != Harness::Callgrind && all.is_empty();
        if nothing_asked && target.failure.is_none() {
            return Ok(());
        }
        if target.failure.is_none() {
            for id in &all {
                prepared.trial.benches.push(TrialBench::new(
                    (*id).clone(),
                    at,
                    in_base.contains(*id),
                    in_head.contains(*id),
                ));
            }
        }
        let both = in_base.intersection(&in_head).next().is_some();
        let measured = both && (target.code != Code::Same || self.even_if_same);
        if measured && target.code == Code::Same {
            target.code = Code::Unknown;
        }
        if let ([Some((base, _)), Some((head, _))], true) = (built, measured) {
            links = [vec![base.clone()], vec![head.clone()]];
            self.further_links(prepared, &of_lab, &mut links)?;
            for (arm, binaries) in Arm::ALL.into_iter().zip(&links) {
                for binary in binaries {
                    target.links.push(Link {
                        arm,
                        seed: binary.link_seed,
                        text: code::layout(binary)?,
                    });
                }
            }
            self.check_layouts(&target);
        }
        prepared.trial.targets.push(target);
        prepared.targets.push(of_lab);
        prepared.links.push(links);
        Ok(())
    }

    fn further_links(
        &mut self,
        prepared: &Prepared<'_>,
        target: &BenchTarget,
        links: &mut [Vec<Binary>; 2],
    ) -> Result<(), LabError> {
        let start = Instant::now();
        let known = self.links_before(target);
        let mut bytes = 0;
        for seed in self.link_seeds.iter().skip(1) {
            let enough = match (known, self.measuring.links) {
                (Some(known), _) => links[0].len() >= known,
                (None, Some(_)) => false,
                (None, None) => {
                    let dear = start.elapsed() > self.linking || bytes > self.linked_bytes;
                    links[0].len() >= LINKS[0] && dear
                }
            };
            if enough {
                break;
            }
            let what = format!("linking {} in another order", target.name);
            say(self.progress, &what);
            let pair =
                [&prepared.base, &prepared.head].map(|tree| self.lab.build(tree, target, *seed));
            match pair {
                [Ok(base), Ok(head)] => {
                    bytes += [&base, &head].map(size).iter().sum::<u64>();
                    links[0].push(base);
                    links[1].push(head);
                }
                [Err(error), _] | [_, Err(error)] if is_the_targets(&error) => {
                    self.notes.push(format!(
                        "{} cannot be linked in another order, so that layout is not told from code: {}",
                        target.name,
                        error.to_string().lines().last().unwrap_or_default()
                    ));
                    return Ok(());
                }
                [Err(error), _] | [_, Err(error)] => return Err(error),
            }
        }
        Ok(())
    }

    /// How many links of a target there were in the run that was interrupted: binaries are found again faster than they
    /// were linked, and another number of them would be another run.
    fn links_before(&self, target: &BenchTarget) -> Option<usize> {
        let is_it = |known: &&Target| known.package == target.package && known.name == target.name;
        let known = self.earlier?.targets.iter().find(is_it)?;
        let of_base = known.links.iter().filter(|link| link.arm == Arm::Base);
        Some(of_base.count())
    }

    /// A re-link that changes nothing shows nothing.
    fn check_layouts(&mut self, target: &Target) {
        for arm in Arm::ALL {
            let layouts = || target.links.iter().filter(|link| link.arm == arm);
            let distinct: BTreeSet<&str> = layouts().map(|link| link.text.as_str()).collect();
            if distinct.len() < layouts().count() {
                self.notes.push(format!(
                    "{} of the {}: {} links have {} layouts",
                    target.name,
                    arm.name(),
                    layouts().count(),
                    distinct.len()
                ));
            }
        }
    }
}

fn blank(
    lab: &Lab,
    sides: &Sides,
    measuring: &MeasuringArgs,
    seed: u64,
    started_at: Timestamp,
) -> Result<Trial, PrepareError> {
    let here = Circumstances::of_observer(lab.project())?;
    let toolchain = lab.toolchain();
    let rustc = toolchain
        .rustc
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let machine = machine::Machine::detect();
    let revision = |commit: &Commit| Revision {
        asked: commit.asked.clone(),
        commit: commit.on.clone(),
        dirty: commit.dirty,
    };
    Ok(Trial {
        started_at,
        finished_at: started_at,
        seed,
        budget_s: measuring.budget.as_secs_f64(),
        interrupted: false,
        machine: Machine {
            key: here.machine_key,
            counts_key: MachineKey::new(machine.counts_key(&rustc))?,
            cpu: here.provenance.cpu,
            cpus: here.provenance.cpus,
            governor: here.provenance.governor,
        },
        build: Build {
            rustc,
            target: here.provenance.target,
            rustflags: toolchain
                .rustflags
                .clone()
                .unwrap_or(here.provenance.rustflags),
            profile: "bench".to_owned(),
        },
        base: revision(&sides.base),
        head: revision(&sides.head),
        targets: Vec::new(),
        benches: Vec::new(),
        checks: Vec::new(),
        notes: Vec::new(),
    })
}
