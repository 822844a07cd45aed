//! A throw-away project whose commits keep baselines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The machine of the times.
pub const CLOCK: &str = "x86_64-test-2c";

/// The machine of the counts.
pub const COUNTS: &str = "callgrind-x86_64-test";

/// A bench whose name would act if it were taken for markup.
pub const HOSTILE: &str = "</script><img src=x onerror=\"document.title='hacked'\">\u{2028}<b>";

/// The bench that becomes slower.
pub const SLOWED: &str = "matmul/q8_0/avx2/m1_k4096_n4096";

/// The commit that made it slower, of [`COMMITS`].
pub const SLOWED_AT: usize = 25;

/// How many commits there are.
pub const COMMITS: usize = 40;

/// A project in a git repository.
pub struct Repository {
    folder: TempDir,
}

impl Repository {
    /// [`COMMITS`] commits that measure five benches, one of which is missing in a third of them.
    pub fn measured() -> Self {
        let repository = Self::empty();
        let mut stream = String::new();
        for commit in 0..COMMITS {
            let subject = match commit {
                SLOWED_AT => {
                    "Load the scales one by one <script>document.title='hacked'</script>".to_owned()
                }
                _ => format!("Change {commit}"),
            };
            repository.commit(&mut stream, commit, &subject, &baselines(commit));
        }
        repository.import(&stream);
        repository
    }

    /// A cargo project without a commit.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "[package]\nname = \"other\"\nversion = \"0.0.0\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n";
        fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        fs::write(folder.path().join("lib.rs"), "").unwrap();
        let repository = Self { folder };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Appends a commit to a stream of `git fast-import`.
    pub fn commit(
        &self,
        stream: &mut String,
        at: usize,
        subject: &str,
        files: &BTreeMap<String, String>,
    ) {
        let time = 1_760_000_000 + at * 86_400;
        let who = format!("T <t@example.org> {time} +0000");
        write!(
            stream,
            "commit refs/heads/main\nauthor {who}\ncommitter {who}\n"
        )
        .unwrap();
        write!(stream, "data {}\n{subject}\n", subject.len()).unwrap();
        for (path, text) in files {
            write!(
                stream,
                "M 100644 inline {path}\ndata {}\n{text}\n",
                text.len()
            )
            .unwrap();
        }
    }

    pub fn import(&self, stream: &str) {
        let mut git = Command::new("git")
            .arg("-C")
            .arg(self.root())
            .args(["fast-import", "--quiet", "--force"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        git.stdin
            .take()
            .unwrap()
            .write_all(stream.as_bytes())
            .unwrap();
        assert!(git.wait().unwrap().success());
        self.git(&["reset", "--quiet", "--mixed"]);
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(self.root())
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn tokgate(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokgate"));
        for variable in ["CARGO_TARGET_DIR", "CRITERION_HOME", "IAI_CALLGRIND_HOME"] {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .current_dir(self.root())
            .output()
            .unwrap()
    }

    /// Runs tokgate, which must end with `code`; what it says on stdout and stderr.
    pub fn ends(&self, code: i32, arguments: &[&str]) -> (String, String) {
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

    /// Writes the page and returns where it is.
    pub fn page(&self) -> PathBuf {
        let out = self.root().join("out");
        self.ends(0, &["history", "--out", out.to_str().unwrap()]);
        out.join("index.html")
    }
}

/// A page before its data, the data, and what comes after them.
pub fn divided(page: &str) -> [&str; 3] {
    let begin = "<script type=\"application/json\" id=\"data\">";
    let start = page.find(begin).unwrap() + begin.len();
    let (before, rest) = page.split_at(start);
    let (data, after) = rest.split_at(rest.find("</script>").unwrap());
    [before, data, after]
}

/// What a commit's baselines say, by path.
fn baselines(commit: usize) -> BTreeMap<String, String> {
    let (time, count) = (run("bench", commit), run("icount", commit));
    let wobble = |bench: usize, sample: usize| (commit * 7 + bench * 3 + sample * 5) % 11;
    let mut times = format!("{{\"schema\":1,\"machine_key\":\"{CLOCK}\"}}\n{time}\n");
    let row = |id: &str, work: &str, bench: usize, ns: usize| {
        let total: Vec<String> = (0..10)
            .map(|sample| (ns * 1_000 + ns * wobble(bench, sample)).to_string())
            .collect();
        let id = serde_json::to_string(id).unwrap();
        let run = format!("bench@{}", stamp(commit));
        format!(
            "{{\"bench\":{id},\"run\":\"{run}\"{work},\"iters\":1000,\"total_ns\":[{}]}}\n",
            total.join(",")
        )
    };
    times += &row(HOSTILE, "", 0, 500);
    let work = ",\"elements\":16777216,\"bytes\":17825792";
    let slowed = if commit >= SLOWED_AT {
        1_100_000
    } else {
        1_000_000
    };
    times += &row(SLOWED, work, 1, slowed);
    times += &row("matmul/q8_0/scalar/m1_k4096_n4096", work, 2, 9_000_000);
    times += &row("parse/json", "", 3, 40_000);
    // A bench that is not measured keeps the run that it was last measured in.
    let last = commit - commit % 3;
    let mut old = String::new();
    if last == commit {
        old = row("sometimes", "", 4, 7_000);
    } else {
        times = times.replacen('\n', &format!("\n{}\n", run("bench", last)), 1);
        old += &row("sometimes", "", 4, 7_000).replace(&stamp(commit), &stamp(last));
    }
    times += &old;
    let instructions = if commit >= SLOWED_AT { 5_100 } else { 5_000 };
    let counts = format!(
        "{{\"schema\":1,\"machine_key\":\"{COUNTS}\"}}\n{count}\n{{\"bench\":\"{SLOWED}\",\"run\":\"icount@{}\",\"counts\":{{\"instructions\":{instructions},\"ram_hits\":15}}}}\n",
        stamp(commit)
    );
    let path = |key: &str| format!("baselines/{key}/baseline.jsonl");
    [(path(CLOCK), times), (path(COUNTS), counts)].into()
}

fn stamp(commit: usize) -> String {
    format!("2025-10-{:02}T{:02}:00:00Z", 1 + commit / 24, commit % 24)
}

fn run(target: &str, commit: usize) -> String {
    let at = stamp(commit);
    format!(
        "{{\"run\":\"{target}@{at}\",\"measured_at\":\"{at}\",\"witness\":\"bench\",\"harness\":\"criterion\",\"dirty\":true,\"rustc\":\"rustc 1.95.0\",\"target\":\"x86_64-unknown-linux-gnu\",\"rustflags\":\"\",\"profile\":\"bench\",\"cpu\":\"Test CPU\",\"cpus\":2}}"
    )
}
