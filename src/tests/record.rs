//! What `tokgate record` and `tokgate compare` do with the files of real harnesses, sound and damaged.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokgate::record::adapters::{AdapterError, Finding, callgrind, criterion};
use tokgate::record::{Metric, Samples, Throughput, store};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/fixtures")
}

fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.id.as_str()).collect()
}

fn count(finding: &Finding, metric: Metric) -> Vec<u64> {
    let mut figures = finding.figures.iter();
    match figures.find(|(of, _)| *of == metric) {
        Some((_, Samples::Counts(counts))) => counts.clone(),
        other => panic!("{other:?}"),
    }
}

/// A copy of a fixture that a test may damage.
fn copied(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures().join(name), folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[test]
fn criterions_tree_is_read_by_name_and_not_by_path() {
    let found = criterion::read(&fixtures().join("criterion"), criterion::LAST_RUN).unwrap();
    let long = "a-group-whose-name-is-so-long-that-criterion-cuts-the-folder-it-makes-for-it";
    assert_eq!(
        ids(&found),
        [
            &format!("{long}/again/one"),
            &format!("{long}/one"),
            "matmul/q8_0/avx2/m1_k64_n64",
            "plain",
            "sums/a \"b\" | <c>",
            "sums/wrapping/64",
        ]
    );
    let matmul = &found[2];
    assert!(matmul.id.parts().is_some());
    let work = Throughput {
        elements: Some(4096),
        bytes: Some(4352),
        bits: None,
    };
    assert_eq!(matmul.throughput, work);
    let [(Metric::Time, Samples::Timed(timed))] = &matmul.figures[..] else {
        panic!("{:?}", matmul.figures);
    };
    assert_eq!(timed.iters()[..3], [117, 234, 351]);
    assert_eq!(timed.total_ns()[..3], [2_424_230, 956_149, 1_433_868]);
    assert_eq!(timed.iters().len(), 12);
    assert_eq!(found[4].throughput.bits, Some(4096));
    assert_eq!(found[5].throughput.bytes, Some(512));
}

#[test]
fn criterions_named_baselines_and_quick_runs_are_read() {
    let tree = fixtures().join("criterion");
    assert_eq!(ids(&criterion::read(&tree, "before").unwrap()), ["plain"]);
    assert_eq!(
        ids(&criterion::read(&tree, "base").unwrap()),
        ["sums/wrapping/64"]
    );
    assert!(criterion::read(&tree, "none").unwrap().is_empty());
    let quick = criterion::read(&fixtures().join("criterion-quick"), "new").unwrap();
    let (_, Samples::Timed(timed)) = &quick[0].figures[0] else {
        panic!("{quick:?}");
    };
    assert_eq!(timed.iters(), [2_097_152, 4_194_304]);
}

#[test]
fn both_names_and_both_schemas_of_the_callgrind_harness_are_read() {
    let found = callgrind::read(&fixtures().join("iai-callgrind-0.16")).unwrap();
    assert_eq!(
        ids(&found),
        [
            "matmul/q8_0/avx2/m1_k64_n32",
            "matmul/q8_0/scalar/m1_k64_n32",
            "words::group::bare",
            "words::group::counted long_n2048",
            "words::group::counted short",
        ]
    );
    assert_eq!(count(&found[0], Metric::Instructions), [9927]);
    assert_eq!(count(&found[0], Metric::EstimatedCycles), [12_580]);
    assert_eq!(count(&found[0], Metric::L1Hits), [12_045]);
    assert_eq!(count(&found[0], Metric::RamHits), [15]);
    // This one was run twice: the new value, not the old.
    assert_eq!(count(&found[2], Metric::Instructions), [48]);

    for version in ["gungraun-0.17", "gungraun-0.20"] {
        let found = callgrind::read(&fixtures().join(version)).unwrap();
        assert_eq!(
            ids(&found),
            [
                "words::group::bare",
                "words::group::counted long_n2048",
                "words::group::counted short",
            ],
            "{version}"
        );
        assert!(
            count(&found[1], Metric::Instructions)[0] > 9_000,
            "{version}"
        );
        assert_eq!(found[1].figures.len(), 5, "{version}");
    }
}

#[test]
fn damage_in_criterions_tree_is_an_error_that_names_the_file() {
    for (file, text, place) in [
        ("sample.json", "", "EOF"),
        ("sample.json", "{\"iters\":[1.0],", "line 1"),
        ("sample.json", "{\"iters\":[],\"times\":[]}", "no sample"),
        (
            "sample.json",
            "{\"iters\":[1.0],\"times\":[1.0,2.0]}",
            "1 iteration counts",
        ),
        (
            "sample.json",
            "{\"iters\":[0.0],\"times\":[1.0]}",
            "no iteration",
        ),
        (
            "sample.json",
            "{\"iters\":[-1.0],\"times\":[1.0]}",
            "iters: -1",
        ),
        (
            "sample.json",
            "{\"iters\":[1.0],\"times\":[1e300]}",
            "times: 1e300",
        ),
        ("sample.json", "{\"iters\":[1.0],\"times\":[null]}", "null"),
        ("benchmark.json", "[]", "invalid"),
        ("benchmark.json", "{\"full_id\":\"\"}", "must not be empty"),
        (
            "benchmark.json",
            "{\"full_id\":\"x\",\"throughput\":{\"Cups\":3}}",
            "Cups",
        ),
    ] {
        let tree = copied("criterion");
        let path = tree.path().join("plain/new").join(file);
        fs::write(&path, text).unwrap();
        let error = criterion::read(tree.path(), "new").unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains(place), "{error}");
    }
    let tree = copied("criterion");
    fs::remove_file(tree.path().join("plain/new/sample.json")).unwrap();
    let error = criterion::read(tree.path(), "new").unwrap_err().to_string();
    assert!(error.contains("'plain' has no sample.json"), "{error}");
    copy(
        &tree.path().join("sums/wrapping/64/new"),
        &tree.path().join("sums/copy/new"),
    );
    fs::remove_dir_all(tree.path().join("plain")).unwrap();
    let error = criterion::read(tree.path(), "new").unwrap_err();
    assert!(matches!(error, AdapterError::Twice { .. }), "{error}");
}

#[test]
fn damage_in_callgrinds_tree_is_an_error_that_names_the_file() {
    let sound = fixtures().join("iai-callgrind-0.16/fix/words/group/bare/summary.json");
    let sound = fs::read_to_string(sound).unwrap();
    for (was, becomes, place) in [
        ("\"version\":\"6\"", "\"version\":\"5\"", "version \"5\""),
        ("\"version\":\"6\"", "\"version\":6", "invalid type"),
        ("\"version\":\"6\"", "\"colour\":\"6\"", "version"),
        ("{\"Int\":", "{\"Integer\":", "Integer"),
        (
            "\"module_path\":\"words::group::bare\"",
            "\"module_path\":\"\"",
            "must not be empty",
        ),
        ("}", "", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        let damaged = sound.replace(was, becomes);
        assert_ne!(damaged, sound, "{was}");
        fs::write(&path, damaged).unwrap();
        match callgrind::read(folder.path()) {
            Ok(found) => panic!("{was}: {found:?}"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(&path.display().to_string()), "{error}");
                assert!(error.contains(place), "{error}");
            }
        }
    }
    for length in (0..sound.len()).step_by(97) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("summary.json"), &sound[..length]).unwrap();
        assert!(callgrind::read(folder.path()).is_err());
    }
}

/// A cargo project of someone else, with results in its target folder, in a git repository.
struct Project {
    folder: TempDir,
}

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::write(
            root.join("Cargo.toml"),
            "[package]\nname = \"other\"\nversion = \"0.0.0\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n",
        )
        .unwrap();
        fs::write(root.join("lib.rs"), "").unwrap();
        fs::write(root.join(".gitignore"), "target\nCargo.lock\n").unwrap();
        copy(
            &fixtures().join("criterion"),
            &root.join("target/criterion"),
        );
        copy(
            &fixtures().join("iai-callgrind-0.16"),
            &root.join("target/iai"),
        );
        let project = Self { folder };
        project.git(&["init", "--quiet"]);
        project.commit("first");
        project
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        let status = Command::new("git")
            .arg("-C")
            .arg(self.root())
            .args(identity)
            .args(arguments)
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    fn tokgate(&self, arguments: &[&str]) -> Output {
        let variables = ["CARGO_TARGET_DIR", "CRITERION_HOME", "IAI_CALLGRIND_HOME"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokgate"));
        for variable in variables {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .current_dir(self.root())
            .output()
            .unwrap()
    }

    /// Runs tokgate, which must end with `code`; what it says on stdout and stderr.
    fn ends(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.tokgate(arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\n{out}\n{err}"
        );
        (out, err)
    }

    fn sample(&self, bench: &str) -> PathBuf {
        self.root()
            .join(format!("target/criterion/{bench}/new/sample.json"))
    }

    /// Replaces a bench's samples by twenty quiet ones.
    fn measure(&self, bench: &str, ns: f64) {
        let times: Vec<f64> = (0..20).map(|at| ns * 1e3 + f64::from(at % 3)).collect();
        let json = format!(
            "{{\"sampling_mode\":\"Flat\",\"iters\":{:?},\"times\":{times:?}}}",
            [1e3; 20]
        );
        fs::write(self.sample(bench), json).unwrap();
    }

    fn count(&self, instructions: u64) {
        let path = self
            .root()
            .join("target/iai/fix/words/group/counted.long_n2048/summary.json");
        let json = fs::read_to_string(&path).unwrap();
        fs::write(
            path,
            json.replace("{\"Int\":9927}", &format!("{{\"Int\":{instructions}}}")),
        )
        .unwrap();
    }

    /// The files of the store, from its folder on.
    fn baselines(&self) -> Vec<String> {
        let mut files = Vec::new();
        for key in fs::read_dir(self.root().join("baselines")).unwrap() {
            for file in fs::read_dir(key.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let path = path.strip_prefix(self.root()).unwrap();
                files.push(path.display().to_string());
            }
        }
        files.sort();
        files
    }
}

#[test]
fn a_run_is_recorded_and_compared_in_any_project() {
    let project = Project::new();
    let (_, error) = project.ends(2, &["compare"]);
    assert!(error.contains("`tokgate record`"), "{error}");

    project.measure("plain", 50.0);
    project.measure("sums/wrapping/64", 70.0);
    let (out, _) = project.ends(0, &["record"]);
    assert!(out.contains("6 measurements of 6 benches"), "{out}");
    assert!(out.contains("25 measurements of 5 benches"), "{out}");
    let files = project.baselines();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files[0].starts_with("baselines/callgrind-"), "{files:?}");

    let record = store::read(&project.root().join(&files[1])).unwrap();
    let (_, provenance) = record.runs().next().unwrap();
    assert_eq!(provenance.commit.as_ref().map(String::len), Some(40));
    assert!(provenance.rustc.starts_with("rustc "), "{provenance:?}");
    assert_eq!(
        (record.len(), provenance.harness.as_str()),
        (6, "criterion")
    );

    project.ends(0, &["compare", "--filter", "plain"]);
    project.measure("plain", 200.0);
    let (out, _) = project.ends(1, &["compare"]);
    assert!(out.contains("▲ plain"), "{out}");
    let (out, _) = project.ends(1, &["compare", "-o", "md"]);
    assert!(
        out.contains("| `plain` | 200.0 ns | 50.00 ns | +300.0 |"),
        "{out}"
    );
    let (out, _) = project.ends(1, &["compare", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["rows"][0]["id"], "plain");
    assert_eq!(json["rows"][0]["verdict"], "regressed");

    // Counts are exact, whatever the clock says.
    project.measure("plain", 50.0);
    project.count(9_927 + 101);
    let (out, _) = project.ends(1, &["compare"]);
    assert!(out.contains("▲ words::group::counted long_n2048"), "{out}");
}

#[test]
fn a_part_is_recorded_beside_the_rest_and_under_names() {
    let project = Project::new();
    project.measure("plain", 50.0);
    project.ends(0, &["record"]);
    project.measure("plain", 200.0);
    let (out, _) = project.ends(0, &["record", "plain"]);
    assert!(
        out.contains("1 measurements of 1 benches") && out.contains("5 older ones kept"),
        "{out}"
    );
    project.ends(0, &["compare", "--filter", "plain"]);

    project.measure("plain", 50.0);
    project.ends(0, &["record", "--as", "before"]);
    project.measure("plain", 400.0);
    project.ends(0, &["record", "--as", "after"]);
    assert_eq!(project.baselines().len(), 6);
    project.ends(1, &["compare", "before", "after", "--filter", "plain"]);
    project.ends(0, &["compare", "after", "before", "--filter", "plain"]);

    let (_, error) = project.ends(2, &["record", "nothing-is-called-so"]);
    assert!(error.contains("cargo bench"), "{error}");
    project.ends(2, &["record", "--as", "../out"]);
    project.ends(0, &["record", "--replace"]);
    project.ends(0, &["record", "--baseline", "before", "--as", "saved"]);
}

#[test]
fn baselines_of_commits_are_compared() {
    let project = Project::new();
    project.measure("plain", 50.0);
    project.ends(0, &["record"]);
    project.commit("faster");
    project.git(&["tag", "v1"]);
    project.measure("plain", 200.0);
    project.ends(1, &["compare", "v1:"]);
    project.ends(0, &["record"]);
    project.commit("slower");
    project.ends(0, &["compare"]);
    project.ends(1, &["compare", "v1:", "HEAD:", "--filter", "plain"]);
    project.ends(1, &["compare", "HEAD~1:", "--filter", "plain"]);
    let (_, error) = project.ends(2, &["compare", "v2:"]);
    assert!(error.contains("'v2'"), "{error}");
    let (_, error) = project.ends(2, &["compare", "HEAD~2:"]);
    assert!(error.contains("no baseline"), "{error}");
    project.ends(2, &["compare", "--output-of-git-is-no-option:"]);
    let (_, error) = project.ends(2, &["compare", "v1:nobody"]);
    assert!(error.contains("There are baselines of"), "{error}");
    let key = project.baselines()[1].split('/').nth(1).unwrap().to_owned();
    project.ends(1, &["compare", &format!("v1:{key}"), "--filter", "plain"]);
    project.ends(
        1,
        &[
            "compare",
            "v1:",
            &project.baselines()[1],
            "--filter",
            "plain",
        ],
    );
    project.ends(
        0,
        &["compare", "v1:", "target/criterion", "--filter", "sums"],
    );
}

#[test]
fn sources_are_dirty_by_themselves_and_not_by_their_baselines() {
    let project = Project::new();
    let dirty = || {
        project.measure("plain", 50.0);
        project.ends(0, &["record", "--replace", "--all"]);
        let record = store::read(&project.root().join(&project.baselines()[1])).unwrap();
        let plain = "plain".parse().unwrap();
        let run = record.provenance(record.get(&plain, Metric::Time).unwrap());
        run.unwrap().dirty
    };
    assert!(!dirty());
    project.commit("baselines");
    assert!(!dirty());
    // The baseline now differs from the commit's.
    assert!(!dirty());
    fs::write(project.root().join("lib.rs"), "fn changed() {}").unwrap();
    assert!(dirty());
}

#[test]
fn another_machine_is_shown_and_never_judged() {
    let project = Project::new();
    project.measure("plain", 50.0);
    project.ends(0, &["record"]);
    let baselines = project.root().join("baselines");
    let file = project.baselines()[1].clone();
    let here = file.split('/').nth(1).unwrap().to_owned();
    let text = fs::read_to_string(project.root().join(&file)).unwrap();
    fs::remove_dir_all(&baselines).unwrap();
    fs::create_dir_all(baselines.join("x86_64-elsewhere-64c")).unwrap();
    let there = baselines.join("x86_64-elsewhere-64c/baseline.jsonl");
    fs::write(&there, text.replace(&here, "x86_64-elsewhere-64c")).unwrap();

    let (_, error) = project.ends(2, &["compare"]);
    assert!(
        error.contains(&here) && error.contains("x86_64-elsewhere-64c"),
        "{error}"
    );
    project.measure("plain", 5_000.0);
    let (out, error) = project.ends(2, &["compare", "baselines/x86_64-elsewhere-64c"]);
    assert!(out.contains("≠ plain") && out.contains("+9900"), "{out}");
    assert!(error.contains("different machines"), "{error}");
}

#[test]
fn results_of_earlier_runs_are_left_out_and_said() {
    let project = Project::new();
    let sample = File::options()
        .write(true)
        .open(project.sample("plain"))
        .unwrap();
    let old = SystemTime::now() - Duration::from_secs(3 * 86_400 + 60);
    sample.set_modified(old).unwrap();
    let (out, error) = project.ends(0, &["record"]);
    assert!(out.contains("5 measurements of 5 benches"), "{out}");
    assert!(error.contains("'plain', 3 days old"), "{error}");
    let (out, _) = project.ends(0, &["record", "--all"]);
    assert!(out.contains("6 measurements of 6 benches"), "{out}");
    // The commit is younger than these figures, so it is not claimed to be what was measured.
    let record = store::read(&project.root().join(&project.baselines()[1])).unwrap();
    assert!(
        record
            .runs()
            .all(|(_, run)| run.measured_at.as_second() > 0)
    );
}

#[test]
fn gates_are_read_and_mistakes_in_them_are_trouble() {
    let project = Project::new();
    project.measure("plain", 50.0);
    project.ends(0, &["record"]);
    project.measure("plain", 200.0);
    let gate = project.root().join("baselines/gate.toml");
    let excuse = "schema = 1\n[[override]]\nbench = \"pl*\"\ngates = false\nreason = \"known\"\n";
    fs::write(&gate, excuse).unwrap();
    project.ends(0, &["compare"]);
    fs::write(&gate, "schema = 1\n[time]\nthreshold_pct = \"much\"\n").unwrap();
    let (_, error) = project.ends(2, &["compare"]);
    assert!(
        error.contains("gate.toml") && error.contains("line 3"),
        "{error}"
    );
    fs::write(project.root().join("other.toml"), "schema = 1\n").unwrap();
    project.ends(1, &["compare", "--gate", "other.toml"]);
    project.ends(2, &["compare", "--gate", "none.toml"]);
}

#[test]
fn trouble_is_exit_code_2() {
    let nowhere = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tokgate"))
        .arg("compare")
        .current_dir(nowhere.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Cargo.toml"));

    let project = Project::new();
    project.ends(2, &["compare", "no-such-thing"]);
    project.ends(2, &["record", "--from", "no-such-folder"]);
    project.ends(0, &["record"]);
    let file = project.root().join(&project.baselines()[1]);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"schema\":1", "\"schema\":99")).unwrap();
    let (_, error) = project.ends(2, &["compare"]);
    assert!(error.contains("99"), "{error}");
    fs::remove_dir_all(project.root().join("target")).unwrap();
    let (_, error) = project.ends(2, &["record"]);
    assert!(error.contains("cargo bench"), "{error}");
}
