//! `tokgate gate` on a repository made for the purpose. Its harness is a stand-in that is called criterion and writes
//! what criterion writes, with times that a file gives: no test here depends on how fast the machine is.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::Assert;
use tempfile::TempDir;
use tokgate::judge::Verdict;
use tokgate::record::trial::{Code, Trial};

/// A stand-in for criterion: `full_id ns` a line, with a scatter of 0.2 % drawn from the process's number.
const HARNESS: &str = r#"
use std::{env, fs, path::Path, process};

pub fn main(benches: &[(&str, f64)]) {
    let args: Vec<String> = env::args().collect();
    if args.iter().any(|arg| arg == "--list") {
        for (id, _) in benches { println!("{id}: benchmark"); }
        return;
    }
    let home = env::var("CRITERION_HOME").expect("CRITERION_HOME");
    let filter = args.last().unwrap();
    let wanted = filter.trim_start_matches('^').trim_end_matches('$').replace('\\', "");
    let (id, ns) = benches.iter().find(|(id, _)| *id == wanted).expect("a bench");
    if *ns < 0.0 { eprintln!("this bench is out of order"); process::exit(3); }
    let folder = Path::new(&home).join("a/new");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("benchmark.json"), format!("{{\"full_id\":\"{id}\"}}")).unwrap();
    let noise = |k: u32| 1.0 + f64::from((process::id().wrapping_mul(2654435761) >> k) & 255) / 255.0 * 0.002;
    let times: Vec<String> = (0..10).map(|k| format!("{:?}", 1000.0 * ns * noise(k))).collect();
    let iters = vec!["1000.0"; 10].join(",");
    fs::write(
        folder.join("sample.json"),
        format!("{{\"sampling_mode\":\"Flat\",\"iters\":[{iters}],\"times\":[{}]}}", times.join(",")),
    ).unwrap();
}
"#;

struct Repository {
    folder: TempDir,
    lab: TempDir,
}

impl Repository {
    /// A repository whose first commit has these benches.
    fn new(benches: &str) -> Self {
        let repository = Self {
            folder: tempfile::tempdir().unwrap(),
            lab: tempfile::tempdir().unwrap(),
        };
        for (path, text) in [
            (
                "Cargo.toml",
                "[workspace]\nmembers = [\".\", \"criterion\"]\n[package]\nname = \"sample\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
                 [lib]\nbench = false\n[dev-dependencies]\ncriterion = { path = \"criterion\" }\n[[bench]]\nname = \"speed\"\nharness = false\n",
            ),
            (
                "criterion/Cargo.toml",
                "[package]\nname = \"criterion\"\nversion = \"0.0.0\"\nedition = \"2021\"\n",
            ),
            ("criterion/src/lib.rs", HARNESS),
            ("src/lib.rs", "//! Nothing.\n"),
            (".gitignore", "target\n"),
        ] {
            repository.write(path, text);
        }
        repository.benches(benches);
        repository.git(&["init", "--quiet"]);
        repository.commit();
        repository
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Benches as `("id", nanoseconds)` pairs.
    fn benches(&self, benches: &str) {
        self.write(
            "benches/speed.rs",
            &format!("fn main() {{ criterion::main(&[{benches}]); }}\n"),
        );
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.path())
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", "c"]);
    }

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

    fn state(&self) -> String {
        let parts = [
            self.git(&["status", "--porcelain", "--", ":!record.json"]),
            self.git(&["worktree", "list"]),
            self.git(&["for-each-ref"]),
        ];
        parts.concat()
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
