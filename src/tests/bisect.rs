//! `tokgate bisect` and `tokgate bisect-step` on a repository made for the purpose.

#[path = "sample/mod.rs"]
mod sample;

use std::fs;
use std::process::Command;

use sample::Repository;
use serde_json::Value;

/// Commits after the first; the culprit is among them.
const COMMITS: usize = 10;

/// The first slow commit, and two that do not build.
const SLOW_FROM: usize = 7;
const BROKEN: [usize; 2] = [4, 5];

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Commits c0 to c10, the last of which merges nothing.
fn history() -> Repository {
    let repository = Repository::new(r#"("work", 1000.0)"#);
    repository.git(&["tag", "c0"]);
    for at in 1..=COMMITS {
        change(&repository, at, at >= SLOW_FROM);
    }
    repository
}

fn change(repository: &Repository, at: usize, slow: bool) {
    let ns = if slow { 1100 } else { 1000 };
    repository.benches(&format!(r#"("work", {ns}.0), ("change", {at}.0)"#));
    if BROKEN.contains(&at) {
        let broken = format!("fn main() {{ no such thing as {at} }}\n");
        repository.write("benches/speed.rs", &broken);
    }
    repository.commit();
    repository.git(&["tag", &format!("c{at}")]);
}

fn command(repository: &Repository, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokgate"));
    command
        .current_dir(repository.path())
        .env("TOKGATE_LAB", repository.lab.path())
        .env_remove("RUSTFLAGS")
        .args(arguments)
        .args(["--bench", "work", "--time", "10ms"]);
    command
}

fn run(repository: &Repository, arguments: &[&str]) -> Ended {
    let output = command(repository, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn search<'a>(good: &'a str, bad: &'a str) -> Vec<&'a str> {
    let kind = ["--metric", "wall", "-o", "json"];
    [&["bisect", "--good", good, "--bad", bad][..], &kind].concat()
}

fn id(repository: &Repository, name: &str) -> String {
    repository.git(&["rev-parse", name]).trim().to_owned()
}

#[test]
fn the_commit_is_found_and_nothing_of_the_user_is_touched() {
    let repository = history();
    repository.write("src/lib.rs", "//! Half a thought.\n");
    repository.write("notes.txt", "not in git yet");
    let before = repository.state();
    let ended = run(&repository, &search("c0", "c10"));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["found"], "commit", "{found}");
    assert_eq!(found["culprit"]["commit"], id(&repository, "c7"));
    assert_eq!(found["parent"], id(&repository, "c6"));
    assert_eq!(found["verification"]["verified"], true);
    let effect = found["verification"]["effect"]["median"].as_f64().unwrap();
    assert!((9.0..11.0).contains(&effect), "{effect}");
    assert_eq!(repository.state(), before);

    // What was measured is kept: the answer comes without another run, as text within 80 columns.
    let mut again = search("c0", "c10");
    again.truncate(again.len() - 2);
    again.push("--resume");
    let told = run(&repository, &again);
    assert_eq!(told.code, 1, "{}", told.stderr);
    assert!(told.stdout.contains("made work slower"), "{}", told.stdout);
    assert!(!told.stderr.contains("; now "), "{}", told.stderr);

    let same = run(&repository, &search("c0", "c3"));
    assert_eq!(same.code, 0, "{}", same.stderr);
    assert!(same.stdout.contains("\"no_difference\""), "{}", same.stdout);
    let faster = run(&repository, &search("c10", "c0"));
    assert_eq!(faster.code, 2);
    assert!(faster.stderr.contains("no ancestor"), "{}", faster.stderr);
    let broken = run(&repository, &search("c0", "c4"));
    assert_eq!(broken.code, 2, "{}", broken.stderr);
    assert!(
        broken.stderr.contains("does not build"),
        "{}",
        broken.stderr
    );
}

#[test]
fn a_merge_is_followed_into_its_branch() {
    let repository = Repository::new(r#"("work", 1000.0)"#);
    let main = repository.git(&["branch", "--show-current"]);
    repository.git(&["tag", "c0"]);
    repository.git(&["checkout", "--quiet", "-b", "side"]);
    for at in 1..=3 {
        change(&repository, at, at >= 2);
    }
    repository.git(&["checkout", "--quiet", main.trim()]);
    repository.write("README.md", "On the first parents.\n");
    repository.commit();
    repository.git(&["merge", "--quiet", "--no-ff", "-m", "Merge side", "side"]);
    repository.git(&["tag", "merge"]);

    let ended = run(&repository, &search("c0", "merge"));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["culprit"]["commit"], id(&repository, "c2"), "{found}");

    let mut stay = search("c0", "merge");
    stay.push("--first-parent");
    let ended = run(&repository, &stay);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["culprit"]["commit"], id(&repository, "merge"));
}

#[test]
fn git_bisect_run_believes_the_step() {
    let repository = history();
    let step = ["bisect-step", "--good-baseline", "c0", "--threshold", "5"];
    for (commit, code) in [("c3", 0), ("c4", 125), ("c10", 1)] {
        repository.git(&["checkout", "--quiet", commit]);
        let ended = run(&repository, &step);
        assert_eq!(ended.code, code, "{commit}: {}", ended.stderr);
    }
    // Just at the threshold nothing is clear, and nothing is guessed.
    let mut doubtful = step.to_vec();
    doubtful.truncate(3);
    doubtful.extend(["--threshold", "10", "--budget", "1s"]);
    let ended = run(&repository, &doubtful);
    assert_eq!(ended.code, 125, "{}", ended.stderr);
    assert!(ended.stderr.contains("not clear"), "{}", ended.stderr);

    repository.git(&["bisect", "start", "c10", "c0"]);
    let tokgate = env!("CARGO_BIN_EXE_tokgate");
    let output = Command::new("git")
        .current_dir(repository.path())
        .env("TOKGATE_LAB", repository.lab.path())
        .args(["bisect", "run", tokgate])
        .args(step)
        .args(["--bench", "work", "--time", "10ms"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = repository.git(&["bisect", "log"]);
    let culprit = id(&repository, "c7");
    assert!(
        log.contains(&format!("first bad commit: [{culprit}]")),
        "{log}"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupted_search_is_kept_and_goes_on() {
    let repository = history();
    let before = repository.state();
    let mut child = command(&repository, &search("c0", "c10"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let kept = || {
        let lab = fs::read_dir(repository.lab.path()).ok()?.next()?.ok()?;
        let files = fs::read_dir(lab.path()).ok()?.flatten();
        let is_state = |name: &str| name.starts_with("bisect-") && name.ends_with(".json");
        files
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .find(|name| is_state(name))
    };
    let mut patience = 6_000;
    while kept().is_none() && patience > 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(10));
        patience -= 1;
    }
    let pid = child.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert_eq!(repository.state(), before);

    let mut on = search("c0", "c10");
    on.push("--resume");
    let ended = run(&repository, &on);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("nothing to resume"),
        "{}",
        ended.stderr
    );
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["culprit"]["commit"], id(&repository, "c7"));
}
