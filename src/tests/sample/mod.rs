//! A repository made for the purpose. Its harness is a stand-in that is called criterion and writes what criterion writes,
//! with times that its commits give: no test that measures it depends on how fast the machine is.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

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

/// A git repository, and a lab for it.
pub struct Repository {
    folder: TempDir,
    /// Another version of the package, which it depends on: its name alone does not tell which is meant.
    older: TempDir,
    pub lab: TempDir,
}

impl Repository {
    /// A repository whose first commit has these benches.
    pub fn new(benches: &str) -> Self {
        let repository = Self {
            folder: tempfile::tempdir().unwrap(),
            older: tempfile::tempdir().unwrap(),
            lab: tempfile::tempdir().unwrap(),
        };
        let older = repository.older.path();
        fs::create_dir(older.join("src")).unwrap();
        fs::write(older.join("src/lib.rs"), "//! Nothing.\n").unwrap();
        let package = |version| {
            format!("[package]\nname = \"sample\"\nversion = \"{version}\"\nedition = \"2021\"\n")
        };
        fs::write(older.join("Cargo.toml"), package("0.0.1")).unwrap();
        let manifest = format!(
            "{}[workspace]\nmembers = [\".\", \"criterion\"]\n[lib]\nbench = false\n\
             [dependencies]\nolder = {{ path = {older:?}, package = \"sample\" }}\n\
             [dev-dependencies]\ncriterion = {{ path = \"criterion\" }}\n[[bench]]\nname = \"speed\"\nharness = false\n",
            package("0.0.0"),
        );
        for (path, text) in [
            ("Cargo.toml", manifest.as_str()),
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

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Benches as `("id", nanoseconds)` pairs.
    pub fn benches(&self, benches: &str) {
        self.write(
            "benches/speed.rs",
            &format!("fn main() {{ criterion::main(&[{benches}]); }}\n"),
        );
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.path())
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", "c"]);
    }

    pub fn state(&self) -> String {
        let parts = [
            self.git(&["status", "--porcelain", "--", ":!record.json"]),
            self.git(&["worktree", "list"]),
            self.git(&["for-each-ref"]),
        ];
        parts.concat()
    }
}
