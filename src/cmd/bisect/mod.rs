//! `tokgate bisect`: which commit made a bench slower.

mod bench;
mod history;
#[cfg(feature = "github")]
mod publish;
#[cfg(not(feature = "github"))]
#[path = "unpublished.rs"]
mod publish;
mod state;

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::Outcome;
use crate::cli::{BisectArgs, BisectMetric, ReportFormat};
use crate::judge::bisect::{Answer, Costs, Ending, Noise, Phase, Search, Settings, Step};
use crate::lab::Lab;
use crate::render::bisection::{self, Bisection, Found, Suspect, Work};
use crate::session::stdout_style;

use bench::Counts;
pub use bench::{Measured, WallClock, Workbench};
use publish::Publisher;
use state::{Event, Spent, Stage, State, Subject};

/// Counts that differ by less say nothing of time; below it a clock is asked.
const LEAST_COUNT_EFFECT: f64 = 0.005;

/// How long a process measures on its own, and how long two take turns.
const APART: Duration = Duration::from_millis(200);
const IN_TURN: Duration = Duration::from_secs(3);

/// The deepest that merges are followed into the branches that they merged.
const MAX_STAGES: usize = 8;

/// Searches, prints the answer, and tells by the outcome whether a commit was found.
pub fn run(args: &BisectArgs) -> anyhow::Result<Outcome> {
    let publisher = args
        .comment
        .then(|| Publisher::of(args).context("--comment"))
        .transpose()?;
    let folder = env::current_dir().context("the current folder")?;
    let lab = Lab::open(&folder)?;
    let root = lab.project().root().to_owned();
    let range = history::between(&root, &args.good, &args.bad)?;
    let good = lab.resolve(&range.good)?;

    let mut metric = args.metric;
    let counts = match metric {
        Some(BisectMetric::Wall | BisectMetric::Rate) => None,
        _ => counts(
            &lab,
            &good,
            args,
            range.commits.last().map_or("", String::as_str),
        )?,
    };
    if counts.is_some() {
        metric = Some(BisectMetric::Ir);
    } else if metric == Some(BisectMetric::Ir) {
        bail!(
            "no callgrind bench of the good commit is called '{}'; leave --metric ir out to measure time",
            args.bench
        );
    }
    let by_count = metric == Some(BisectMetric::Ir);
    let subject = Subject {
        good: range.good.clone(),
        bad: range.commits.last().cloned().unwrap_or_default(),
        bench: args.bench.clone(),
        metric: metric.unwrap_or(BisectMetric::Wall).name().to_owned(),
        compiler: lab.toolchain().rustc.clone(),
    };
    let mut settings = Settings::of(if by_count {
        Noise::Counted
    } else {
        Noise::Clocked
    });
    settings.confidence = args.confidence;
    let mut workbench: Box<dyn Workbench + '_> = match counts {
        Some(counts) => Box::new(counts),
        None => {
            let in_turn = metric == Some(BisectMetric::Rate);
            let time = args.time.unwrap_or(if in_turn { IN_TURN } else { APART });
            let target = args.target.as_deref();
            let clock = WallClock::new(&lab, &good, &args.bench, target, in_turn, time)?;
            settings.relinks = clock.relinks;
            Box::new(clock)
        }
    };

    let path = lab
        .folder()
        .join(format!("bisect-{:016x}.json", hash(&subject)));
    let known = if args.resume {
        State::load(&path)?
    } else {
        None
    };
    if args.resume && known.is_none() {
        eprintln!("tokgate: nothing to resume; the search starts anew");
    }
    let state = known.unwrap_or_else(|| State::new(subject, range.good, range.commits));
    let mut driver = Driver {
        state,
        path: &path,
        settings,
        deadline: args.budget.map(|budget| Instant::now() + budget),
        progress: progress(),
    };
    let answer = driver.follow(&root, workbench.as_mut(), !args.first_parent);
    driver.progress.finish_and_clear();
    let (stage, ending) = answer.with_context(|| {
        format!(
            "what was measured so far is kept; --resume goes on ({})",
            path.display()
        )
    })?;
    drop(workbench);

    let report = report(&root, args, &driver.state, stage, settings, &ending)?;
    super::print(&match args.output {
        ReportFormat::Text => bisection::text(&report, stdout_style()),
        ReportFormat::Md => bisection::markdown(&report),
        ReportFormat::Json => bisection::json(&report),
    })?;
    if let Some(publisher) = publisher {
        // The answer stands, whatever the network does.
        match publisher.publish(&report) {
            Ok(said) => eprintln!("tokgate: {said}"),
            Err(error) => eprintln!("tokgate: no comment: {error:#}"),
        }
    }
    match report.found {
        Found::Commit | Found::OneOf => Ok(Outcome::Regression),
        Found::NoDifference | Found::Faster => Ok(Outcome::Clean),
        Found::EndBroken => bail!("an end of the search does not build; name another commit"),
        Found::Nothing => bail!("no answer yet; --resume goes on from here"),
    }
}

/// Instruction counts, if they can be had and tell the ends apart.
fn counts<'a>(
    lab: &'a Lab,
    good: &crate::lab::Commit,
    args: &BisectArgs,
    bad: &str,
) -> anyhow::Result<Option<Counts<'a>>> {
    let asked = args.metric == Some(BisectMetric::Ir);
    match lab.counting_needs() {
        Some(missing) if asked => bail!("instructions cannot be counted: {missing}"),
        Some(_) => return Ok(None),
        None => {}
    }
    let Some(mut counts) = Counts::new(lab, good, &args.bench, args.target.as_deref())? else {
        return Ok(None);
    };
    if asked {
        return Ok(Some(counts));
    }
    let separated = match counts.measure(bad, 0, 1)? {
        Measured::Figures { figures, .. } => {
            figures.iter().all(|figure| *figure > LEAST_COUNT_EFFECT)
        }
        Measured::Unbuildable(_) => false,
    };
    Ok(separated.then_some(counts))
}

/// Runs searches on a workbench and keeps what they see.
struct Driver<'a> {
    state: State,
    path: &'a Path,
    settings: Settings,
    deadline: Option<Instant>,
    progress: ProgressBar,
}

impl Driver<'_> {
    /// Searches the first parents, and where the culprit is a merge, the branch that it merged. Returns the stage that
    /// has the answer, and the answer.
    fn follow(
        &mut self,
        root: &Path,
        workbench: &mut dyn Workbench,
        into_merges: bool,
    ) -> anyhow::Result<(usize, Ending)> {
        let mut found: Option<(usize, Ending)> = None;
        for at in 0..MAX_STAGES {
            let ending = self.search(at, workbench)?;
            let Ending::Found(answer) = &ending else {
                // A branch without the step leaves the merge itself as the culprit.
                return Ok(found.unwrap_or((at, ending)));
            };
            let culprit = self.state.stages[at].commits[answer.culprit - 1].clone();
            found = Some((at, ending));
            if at + 1 < self.state.stages.len() {
                continue;
            }
            let Some(branch) = into_merges
                .then(|| history::merged(root, &culprit))
                .transpose()?
                .flatten()
            else {
                break;
            };
            let (good, commits) = (branch.good, branch.commits);
            self.state.stages.push(Stage {
                good,
                commits,
                events: Vec::new(),
            });
        }
        found.context("no commits to search")
    }

    fn search(&mut self, at: usize, workbench: &mut dyn Workbench) -> anyhow::Result<Ending> {
        let (mut search, mut position) =
            replay(&self.state.stages[at], of_stage(self.settings, at));
        loop {
            let request = match search.step(self.state.spent.costs()) {
                Step::Done(ending) => return Ok(ending),
                Step::Measure(request) => request,
            };
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(Ending::OutOfRuns(search.answer()));
            }
            let stage = &self.state.stages[at];
            let commit = stage.id(request.commit).to_owned();
            self.tell(&search, &commit, stage.commits.len());
            let event = match workbench.measure(&commit, request.link, request.runs)? {
                Measured::Figures {
                    figures,
                    first,
                    build,
                    run,
                } => {
                    self.state
                        .spent
                        .add(first, build, run, figures.len() as u32);
                    Event::Measured {
                        commit: request.commit,
                        link: request.link,
                        figures,
                    }
                }
                Measured::Unbuildable(why) => {
                    self.progress.println(format!(
                        "{}: skipped, it does not build or run",
                        short(&commit)
                    ));
                    Event::Unbuildable {
                        commit: request.commit,
                        why,
                    }
                }
            };
            apply(&mut search, &event);
            position += 1;
            let stage = &mut self.state.stages[at];
            stage.events.truncate(position - 1);
            stage.events.push(event);
            self.state.save(self.path)?;
        }
    }

    fn tell(&self, search: &Search, commit: &str, commits: usize) {
        let posterior = search.posterior();
        let of = posterior.probabilities();
        let phase = match search.phase() {
            Phase::Ends => format!("ends: P(slower) {:.0} %", 100.0 * (1.0 - of[0])),
            Phase::Commits => {
                let answer = search.answer();
                format!(
                    "{commits} commits: {:.1} bits left, {:.0} % within {}",
                    posterior.entropy_bits(),
                    100.0 * self.settings.confidence,
                    answer.credible.len()
                )
            }
            Phase::Verification { .. } => {
                let probability = search.answer().verification.map_or(0.5, |v| v.probability);
                format!("verifying with fresh links: {:.0} %", 100.0 * probability)
            }
        };
        let line = format!(
            "{phase}; {} runs; now {}",
            self.state.spent.runs.0,
            short(commit)
        );
        if stderr().is_terminal() {
            self.progress.set_message(line);
            self.progress.tick();
        } else {
            eprintln!("tokgate: {line}");
        }
    }
}

/// The settings of the stage `at`. All figures are relative to the good end of the first stage; what a branch began from
/// may be as slow as what came after it, for all that is known.
fn of_stage(settings: Settings, at: usize) -> Settings {
    Settings {
        reference: settings.reference.filter(|_| at == 0),
        ..settings
    }
}

/// A search that has seen what `stage` holds, and how many events those are.
fn replay(stage: &Stage, settings: Settings) -> (Search, usize) {
    let mut search = Search::new(&vec![1.0; stage.commits.len()], settings);
    for event in &stage.events {
        apply(&mut search, event);
    }
    (search, stage.events.len())
}

fn apply(search: &mut Search, event: &Event) {
    match event {
        Event::Measured {
            commit,
            link,
            figures,
        } => search.observe(*commit, *link, figures),
        Event::Unbuildable { commit, .. } => search.cannot_build(*commit),
    }
}

impl Stage {
    /// The commit at a position.
    fn id(&self, position: usize) -> &str {
        match position.checked_sub(1) {
            None => &self.good,
            Some(at) => &self.commits[at],
        }
    }
}

impl Spent {
    fn add(&mut self, first: bool, build: Duration, run: Duration, runs: u32) {
        let built = if first {
            &mut self.builds
        } else {
            &mut self.links
        };
        *built = (built.0 + 1, built.1 + build.as_secs_f64());
        self.runs = (self.runs.0 + runs, self.runs.1 + run.as_secs_f64());
    }

    /// What things cost on average, or are likely to before they were done.
    fn costs(&self) -> Costs {
        let mean = |(count, seconds): (u32, f64), guess: f64| {
            if count == 0 {
                guess
            } else {
                seconds / f64::from(count)
            }
        };
        let build = mean(self.builds, 10.0);
        Costs {
            build,
            link: mean(self.links, build / 4.0),
            run: mean(self.runs, 1.0).max(1e-3),
        }
    }
}

fn report(
    root: &Path,
    args: &BisectArgs,
    state: &State,
    at: usize,
    settings: Settings,
    ending: &Ending,
) -> anyhow::Result<Bisection> {
    let stage = &state.stages[at];
    let (search, _) = replay(stage, of_stage(settings, at));
    let suspect = |position: usize, probability: f64| -> anyhow::Result<Suspect> {
        let commit = stage.id(position).to_owned();
        let (by, subject) = history::describe(root, &commit)?;
        Ok(Suspect {
            commit,
            by,
            subject,
            probability,
        })
    };
    let full = |answer: &Answer| {
        let listed = answer.credible.iter().take(bisection::MAX_SUSPECTS);
        listed
            .map(|(position, p)| suspect(*position, *p))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let (found, answer) = match ending {
        Ending::Found(answer) if answer.culprit == answer.parent + 1 => {
            (Found::Commit, Some(answer))
        }
        Ending::Found(answer) => (Found::OneOf, Some(answer)),
        Ending::OutOfRuns(answer) => (Found::Nothing, Some(answer)),
        Ending::EndsUndecided { .. } => (Found::Nothing, None),
        Ending::NoDifference { .. } => (Found::NoDifference, None),
        Ending::Reversed => (Found::Faster, None),
        Ending::EndDoesNotBuild(_) => (Found::EndBroken, None),
    };
    let skipped = stage.events.iter().filter_map(|event| match event {
        Event::Unbuildable { commit, why } => Some((stage.id(*commit).to_owned(), why.clone())),
        Event::Measured { .. } => None,
    });
    let culprit = match answer {
        Some(answer) if found != Found::Nothing => {
            let group = &search.posterior().probabilities()[answer.parent + 1..=answer.culprit];
            let some = 1.0 - answer.none;
            Some(suspect(
                answer.culprit,
                group.iter().sum::<f64>() / some.max(f64::MIN_POSITIVE),
            )?)
        }
        _ => None,
    };
    let merge = match (&culprit, at) {
        (Some(_), 1..) => {
            Some(history::describe(root, &state.stages[at].commits[stage.commits.len() - 1])?.1)
        }
        _ => None,
    };
    let (noise, layout) = search.posterior().noise();
    Ok(Bisection {
        bench: args.bench.clone(),
        metric: state.of.metric.clone(),
        good: state.of.good.clone(),
        bad: state.of.bad.clone(),
        commits: stage.commits.len(),
        confidence: settings.confidence,
        found,
        none: search.posterior().probabilities()[0],
        effect: search.posterior().effect().into(),
        suspects: answer.map(full).transpose()?.unwrap_or_default(),
        credible: answer.map_or(0, |answer| answer.credible.len()),
        parent: answer
            .filter(|_| culprit.is_some())
            .map(|answer| stage.id(answer.parent).to_owned()),
        culprit,
        verification: answer
            .and_then(|answer| answer.verification)
            .map(Into::into),
        branch: merge,
        entropy_bits: search.posterior().entropy_bits(),
        noise_pct: 100.0 * noise.exp_m1(),
        layout_pct: 100.0 * layout.exp_m1(),
        work: Work {
            builds: state.spent.builds.0,
            links: state.spent.links.0,
            runs: state.spent.runs.0,
            seconds: state.spent.builds.1 + state.spent.links.1 + state.spent.runs.1,
        },
        skipped: skipped.collect(),
        again: command(args),
    })
}

/// The command that was given, in a form that can be pasted.
fn command(args: &BisectArgs) -> String {
    let quoted = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~^@:=+".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text.to_owned()
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    let mut line = format!(
        "tokgate bisect --good {} --bad {} --bench {}",
        quoted(&args.good),
        quoted(&args.bad),
        quoted(&args.bench)
    );
    if let Some(metric) = args.metric {
        line.push_str(" --metric ");
        line.push_str(metric.name());
    }
    line
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]");
    ProgressBar::new_spinner()
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

fn hash(subject: &Subject) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{subject:?}").hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
