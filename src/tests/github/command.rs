//! `tokgate comment` as a workflow runs it.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tokgate::record::trial::{
    Arm, Block, Build, Code, Harness, Link, Machine, ProcessRun, Revision, Target, Trial,
    TrialBench,
};
use tokgate::record::{MachineKey, TimedSamples};

use super::HEAD;
use super::fake::{Fake, REPOSITORY, comment, pull};

const FORK: &str = "someone/tokgate";

/// A record of one bench that became slower by `pct`.
fn trial(pct: u64) -> Trial {
    let key = |name: &str| MachineKey::new(name).unwrap();
    let revision = |asked: &str, commit: &str| Revision {
        asked: asked.to_owned(),
        commit: commit.to_owned(),
        dirty: false,
    };
    let link = |arm| Link {
        arm,
        seed: None,
        text: String::new(),
    };
    let run = |arm, ns| ProcessRun {
        arm,
        link: 0,
        samples: TimedSamples::new(vec![1], vec![ns]).unwrap(),
    };
    let mut bench = TrialBench::new("parse | @you".parse().unwrap(), 0, true, true);
    let block = |at: u64| Block {
        round: 0,
        at_ms: at,
        runs: vec![
            run(Arm::Base, 1_000_000 + at),
            run(Arm::Head, 10_000 * (100 + pct)),
            run(Arm::Head, 10_000 * (100 + pct)),
            run(Arm::Base, 1_000_000 + at),
        ],
    };
    bench.blocks = (0..12).map(block).collect();
    bench.looks = vec![12];
    Trial {
        started_at: "2026-10-01T12:00:00Z".parse().unwrap(),
        finished_at: "2026-10-01T12:01:00Z".parse().unwrap(),
        seed: 1,
        budget_s: 60.0,
        interrupted: false,
        machine: Machine {
            key: key("x86_64-test"),
            counts_key: key("callgrind-test"),
            cpu: "Test CPU".to_owned(),
            cpus: 2,
            governor: None,
        },
        build: Build {
            rustc: "rustc 1.95.0".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            rustflags: String::new(),
            profile: "bench".to_owned(),
        },
        base: revision("main", &"b".repeat(40)),
        head: revision(HEAD, HEAD),
        targets: vec![Target {
            package: "p".to_owned(),
            name: "parse".to_owned(),
            harness: Harness::Criterion,
            code: Code::Differs,
            links: vec![link(Arm::Base), link(Arm::Head)],
            failure: None,
        }],
        benches: vec![bench],
        checks: Vec::new(),
        notes: Vec::new(),
    }
}

struct Job {
    folder: tempfile::TempDir,
    fake: Fake,
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
    summary: String,
}

impl Job {
    fn new(base: &'static str) -> Self {
        let job = Self {
            folder: tempfile::tempdir().unwrap(),
            fake: Fake::start(base),
        };
        job.fake
            .edit(|state| state.pulls = vec![pull(7, HEAD, FORK)]);
        fs::write(
            job.path("event.json"),
            format!(
                r#"{{"workflow_run":{{"event":"pull_request","head_branch":"fix","head_sha":"{HEAD}",
                "head_repository":{{"full_name":"{FORK}"}},"pull_requests":[]}}}}"#
            ),
        )
        .unwrap();
        job.record(&trial(20));
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn record(&self, trial: &Trial) {
        trial.write(&self.path("gate.json")).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokgate"));
        command
            .args(["comment", "--record", "gate.json"])
            .current_dir(self.folder.path())
            .env_remove("GH_TOKEN")
            .env("GITHUB_TOKEN", "s3cret")
            .env("GITHUB_API_URL", &self.fake.url)
            .env("GITHUB_REPOSITORY", REPOSITORY)
            .env("GITHUB_EVENT_PATH", self.path("event.json"))
            .env("GITHUB_STEP_SUMMARY", self.path("summary.md"));
        command
    }

    fn run(&self, mut command: Command) -> Ended {
        let _ = fs::remove_file(self.path("summary.md"));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ended = Ended {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            summary: read(&self.path("summary.md")),
        };
        assert!(!ended.stdout.contains("s3cret") && !ended.stderr.contains("s3cret"));
        self.fake.assert_described();
        ended
    }

    fn comments(&self) -> Vec<String> {
        self.fake.edit(|state| {
            let bodies = state.comments.iter().map(|comment| &comment["body"]);
            bodies
                .map(|body| body.as_str().unwrap().to_owned())
                .collect()
        })
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_forks_record_is_reported_under_the_pull_request_that_github_names() {
    let job = Job::new("/api/v3");
    let ended = job.run(job.command());
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(
        ended.stdout.contains("comment created: https://"),
        "{}",
        ended.stdout
    );
    let [comment] = &job.comments()[..] else {
        panic!("one comment is expected");
    };
    assert!(comment.starts_with("<!-- tokgate:gate -->\n### ▲ 1 of 1 benches got slower"));
    assert!(
        comment.contains(HEAD) && comment.contains("`Test CPU`"),
        "{comment}"
    );
    assert_eq!(
        *comment,
        format!("<!-- tokgate:gate -->\n{}", ended.summary)
    );
    job.fake.edit(|state| {
        assert_eq!(state.checks[0]["head_sha"], HEAD);
        assert_eq!(state.checks[0]["conclusion"], "failure");
    });

    job.record(&trial(0));
    let ended = job.run(job.command());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("comment updated"), "{}", ended.stdout);
    assert!(job.comments()[0].contains("### = No bench got slower"));
    let check = job.fake.edit(|state| state.checks[1]["conclusion"].clone());
    assert_eq!(check, "success");
}

#[test]
fn what_a_token_may_not_do_changes_no_verdict() {
    let job = Job::new("");
    let denied = r#"{"message":"Resource not accessible by integration"}"#;
    job.fake.edit(|state| {
        state.answers = vec![
            (
                "POST /repos/tokgate/tokgate/issues",
                403,
                Vec::new(),
                denied.to_owned(),
            ),
            (
                "POST /repos/tokgate/tokgate/check-runs",
                403,
                Vec::new(),
                denied.to_owned(),
            ),
        ];
    });
    let ended = job.run(job.command());
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(
        ended.summary.contains("▲ 1 of 1 benches"),
        "{}",
        ended.summary
    );
    assert!(ended.stderr.contains("no comment: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("no check run: "), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("Resource not accessible"),
        "{}",
        ended.stderr
    );

    let mut command = job.command();
    command.env("GITHUB_TOKEN", "");
    let ended = job.run(command);
    assert_eq!(ended.code, 1);
    assert!(ended.summary.contains("▲ 1 of 1 benches"));
    assert!(
        ended.stderr.contains("there is no token"),
        "{}",
        ended.stderr
    );

    let mut command = job.command();
    command.env("GITHUB_TOKEN", "wrong");
    let ended = job.run(command);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("Bad credentials"), "{}", ended.stderr);

    let mut elsewhere = job.command();
    elsewhere.env("GITHUB_API_URL", "http://github.example");
    let ended = job.run(elsewhere);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("https only"), "{}", ended.stderr);
    assert!(job.comments().is_empty());
}

#[test]
fn only_the_current_head_is_reported() {
    let job = Job::new("");
    let other = "c".repeat(40);
    let refuse = |job: &Job, said: &str| {
        let ended = job.run(job.command());
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert!(job.comments().is_empty() && job.fake.edit(|state| state.checks.is_empty()));
    };
    // The pull request went on; another repository has the same branch; two pull requests have the head.
    job.fake
        .edit(|state| state.pulls = vec![pull(7, &other, FORK)]);
    refuse(&job, "no open pull request any more");
    job.fake
        .edit(|state| state.pulls = vec![pull(7, HEAD, "someone/else")]);
    refuse(&job, "no open pull request any more");
    job.fake
        .edit(|state| state.pulls = vec![pull(7, HEAD, FORK), pull(8, HEAD, FORK)]);
    refuse(&job, "2 open pull requests");

    // A record that says it is of another commit than the run was.
    let mut forged = trial(20);
    forged.head.commit = other.clone();
    job.record(&forged);
    job.fake
        .edit(|state| state.pulls = vec![pull(7, HEAD, FORK)]);
    refuse(&job, "but the event is of");

    let mut command = job.command();
    command.args(["--pr", "7"]);
    let ended = job.run(command);
    assert!(ended.stderr.contains("measure that"), "{}", ended.stderr);
    assert!(job.comments().is_empty());
}

#[test]
fn a_number_and_an_author_are_enough() {
    let job = Job::new("");
    job.fake.edit(|state| {
        state.login = Some("octocat");
        state.comments = vec![comment(3, "octocat", "<!-- tokgate:perf -->\nold")];
    });
    let mut command = job.command();
    command
        .args(["--pr", "7", "--name", "perf", "--no-check"])
        .env_remove("GITHUB_EVENT_PATH")
        .env_remove("GITHUB_STEP_SUMMARY");
    let ended = job.run(command);
    assert_eq!(
        (ended.code, ended.summary.as_str()),
        (1, ""),
        "{}",
        ended.stderr
    );
    assert!(job.comments()[0].contains("▲ 1 of 1 benches"));
    assert!(job.fake.edit(|state| state.checks.is_empty()));
}

#[test]
fn what_is_no_record_is_trouble() {
    let job = Job::new("");
    for text in [
        "",
        "{}",
        r#"{"schema":2,"kind":"trial"}"#,
        r#"{"schema":1,"kind":"comparison"}"#,
    ] {
        fs::write(job.path("gate.json"), text).unwrap();
        let ended = job.run(job.command());
        assert_eq!(ended.code, 2, "{text}");
        assert!(ended.stderr.contains("gate.json"), "{}", ended.stderr);
        assert!(job.comments().is_empty() && ended.summary.is_empty());
    }
}
