//! `tokgate gate` on a repository made for the purpose.

#[path = "sample/mod.rs"]
mod sample;

use std::fs;
use std::process::Command;

use assert_cmd::assert::Assert;
use sample::Repository;
use tokgate::judge::Verdict;
use tokgate::record::trial::{Code, Harness, Trial};

impl Repository {
    fn gate(&self, arguments: &[&str]) -> Assert {
        let mut command = assert_cmd::Command::cargo_bin("tokgate").unwrap();
        command
            .current_dir(self.path())
            .env("TOKGATE_LAB", self.lab.path())
            .env_remove("RUSTFLAGS")
            .args([
                "gate",
                "--seed",
                "7",
                "--budget",
                "4s",
                "--links",
                "2",
                "--record",
                "record.json",
            ])
            .args(arguments);
        command.assert()
    }

    fn trial(&self) -> Trial {
        Trial::read(&self.path().join("record.json")).unwrap()
    }

    /// What a run must leave as it was.
    fn untouched(&self, before: &str) {
        assert_eq!(self.state(), before);
        let lab = fs::read_dir(self.lab.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        for slot in ["base", "head"] {
            assert!(!lab.path().join(slot).join("tree").exists(), "{slot}");
        }
    }
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
}

#[test]
fn a_slow_down_in_the_working_tree_is_red_and_nothing_else() {
    let repository = Repository::new(r#"("parse/a b", 100.0), ("scan", 50.0), ("gone", 9.0)"#);
    repository.benches(r#"("parse/a b", 105.0), ("scan", 50.0), ("new", 9.0)"#);
    repository.write("notes.txt", "not in git yet");
    let before = repository.state();
    let told = stdout(&repository.gate(&["--base", "HEAD"]).code(1));
    for line in [
        "▲ parse/a b",
        "= scan",
        "- gone",
        "+ new",
        "REGRESSED",
        "+changes",
    ] {
        assert!(told.contains(line), "{line}:\n{told}");
    }
    repository.untouched(&before);

    let trial = repository.trial();
    assert!(trial.head.dirty && !trial.base.dirty);
    assert_eq!(trial.seed, 7);
    let parse = trial
        .benches
        .iter()
        .find(|bench| bench.id.as_str() == "parse/a b")
        .unwrap();
    assert!(parse.blocks.len() >= 4);
    assert!(parse.blocks.iter().all(|block| block.runs.len() == 4));

    // The report is a function of the record.
    let again = stdout(&repository.gate_from(&["--from", "record.json"]).code(1));
    assert_eq!(again, told);
    let json = stdout(
        &repository
            .gate_from(&["--from", "record.json", "-o", "json"])
            .code(1),
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verdict"], "regressed");
    assert_eq!(json["rows"][0]["id"], "parse/a b");
    assert_eq!(
        json["rows"][0]["verdict"],
        serde_json::to_value(Verdict::Regressed).unwrap()
    );
    for (format, said) in [("md", "`parse/a b`"), ("junit", "type=\"regressed\"")] {
        let arguments = ["--from", "record.json", "-o", format];
        let told = stdout(&repository.gate_from(&arguments).code(1));
        assert!(told.contains(said), "{format}:\n{told}");
    }

    // A regression that was agreed to is not red, a bench that may vanish is not missing.
    let accept = |bench: &str, what: &str| {
        format!(
            "[[gate.accept]]\nbench = \"{bench}\"\n{what}\nreason = \"r\"\nexpires = \"2999-01-01\"\n"
        )
    };
    let text = format!(
        "schema = 1\n{}{}",
        accept("parse/*", "bound_pct = 6"),
        accept("gone", "missing = true")
    );
    repository.write("gate.toml", &text);
    repository
        .gate_from(&["--from", "record.json", "--gate", "gate.toml"])
        .code(0);
}

impl Repository {
    fn gate_from(&self, arguments: &[&str]) -> Assert {
        let mut command = assert_cmd::Command::cargo_bin("tokgate").unwrap();
        command.current_dir(self.path()).arg("gate").args(arguments);
        command.assert()
    }
}

#[test]
fn the_same_code_is_not_measured_and_what_fails_is_not_green() {
    let repository = Repository::new(r#"("scan", 50.0), ("broken", 1.0)"#);
    repository.write("README.md", "text alone");
    repository.commit();
    let told = stdout(
        &repository
            .gate(&["--base", "HEAD~1", "--head", "HEAD"])
            .code(0),
    );
    assert!(told.contains("the same machine code"), "{told}");
    assert!(
        repository
            .trial()
            .targets
            .iter()
            .all(|target| target.code == Code::Same)
    );

    repository.benches(r#"("scan", 50.0), ("broken", -1.0)"#);
    let assert = repository.gate(&["--base", "HEAD"]).code(2);
    let told = stdout(&assert);
    assert!(
        told.contains("! broken") && told.contains("out of order"),
        "{told}"
    );
    assert!(told.contains("= scan"), "{told}");

    // Only what is asked for.
    let told = stdout(
        &repository
            .gate(&["--base", "HEAD", "--bench", "scan"])
            .code(0),
    );
    assert!(!told.contains("broken"), "{told}");

    repository.write("benches/speed.rs", "fn main() { no such thing }");
    let told = stdout(&repository.gate(&["--base", "HEAD"]).code(2));
    assert!(
        told.contains("gave no benches on the side of the head"),
        "{told}"
    );

    // A misspelt key is said before anything is measured in vain.
    repository.git(&["checkout", "--quiet", "--", "."]);
    repository.write(
        "baselines/gate.toml",
        "schema = 1\n[gate]\nthreshold_pkt = 1\n",
    );
    let assert = repository.gate(&["--base", "HEAD"]).code(2);
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(said.contains("threshold_pkt"), "{said}");
}

/// A program that takes turns: passes of `NS` nanoseconds, with a drift that only a neighbour in time shares, and its
/// file, which whoever makes it writes.
const TURNS: &str = r#"
use std::{env, fs, io};

fn main() {
    let args: Vec<String> = env::args().collect();
    if args[1] == "make" { return fs::write(&args[2], "made").unwrap(); }
    assert_eq!(fs::read_to_string(&args[1]).expect("the file"), "made");
    println!("{{\"lockstep\":1,\"id\":\"model/tg\"}}");
    for (pass, question) in io::stdin().lines().enumerate() {
        assert_eq!(question.unwrap(), "");
        if NS == 2e6 && pass == 5 { panic!("out of tokens"); }
        println!("{}", (NS * (1.0 + 0.3 * (pass as f64 / 7.0).sin())) as u64);
    }
}
"#;

#[test]
fn programs_that_take_turns_are_compared_pass_by_pass() {
    let repository = Repository::new(r#"("model/tg", 50.0), ("scan", 50.0)"#);
    let turns = |ns: &str| {
        let text = format!("const NS: f64 = {ns};\n{TURNS}");
        repository.write("src/bin/turns.rs", &text);
    };
    let manifest = fs::read_to_string(repository.path().join("Cargo.toml")).unwrap();
    let program = r#"
[[package.metadata.tokgate.lockstep]]
name = "in-turn"
bin = "turns"
args = ["{folder}/tokens"]
file = "tokens"
make = ["make", "{folder}/tokens"]
"#;
    repository.write("Cargo.toml", &format!("{manifest}{program}"));
    turns("1e6");
    repository.commit();

    // Where a program and a criterion bench have one name, the program is asked.
    turns("1.02e6");
    let told = stdout(&repository.gate(&["--base", "HEAD"]).code(1));
    assert!(
        told.contains("▲ model/tg") && told.contains("+2.0"),
        "{told}"
    );
    assert_eq!(told.matches("model/tg").count(), 1, "{told}");
    let trial = repository.trial();
    let bench = trial
        .benches
        .iter()
        .find(|bench| bench.id.as_str() == "model/tg");
    let bench = bench.unwrap();
    assert_eq!(trial.target(bench).unwrap().harness, Harness::Lockstep);
    for block in &bench.blocks {
        let passes: Vec<usize> = block
            .runs
            .iter()
            .map(|run| run.samples.total_ns().len())
            .collect();
        assert!(
            passes.len() == 2 && passes[0] == passes[1] && passes[0] >= 8,
            "{passes:?}"
        );
    }

    // A program that dies says so.
    turns("2e6");
    let told = stdout(
        &repository
            .gate(&["--base", "HEAD", "--bench", "model"])
            .code(2),
    );
    assert!(told.contains("out of tokens"), "{told}");

    // So does a manifest that makes no sense.
    repository.write(
        "Cargo.toml",
        &format!("{manifest}{}", program.replace("make =", "mace =")),
    );
    let assert = repository.gate(&["--base", "HEAD"]).code(2);
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(said.contains("mace") && said.contains("lockstep"), "{said}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing_and_goes_on() {
    let repository = Repository::new(r#"("scan", 50.0), ("parse", 20.0)"#);
    repository.benches(r#"("scan", 50.3), ("parse", 20.1)"#);
    let before = repository.state();
    let line = [
        "gate", "--base", "HEAD", "--seed", "7", "--budget", "60s", "--links", "1",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_tokgate"))
        .current_dir(repository.path())
        .env("TOKGATE_LAB", repository.lab.path())
        .args(line)
        .args(["--record", "record.json"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Once the results folder is there, it measures.
    let lab = || fs::read_dir(repository.lab.path()).ok()?.next()?.ok();
    let measures = || lab().is_some_and(|lab| lab.path().join("results").exists());
    let mut patience = 6_000;
    while !measures() && patience > 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
        patience -= 1;
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    repository.untouched(&before);
    let trial = repository.trial();
    assert!(trial.interrupted);
    let had: usize = trial.benches.iter().map(|bench| bench.blocks.len()).sum();
    assert!(had > 0);

    let told = stdout(&repository.gate(&["--base", "HEAD"]).code(0));
    assert!(!told.contains("cut short"), "{told}");
    repository.untouched(&before);
}
