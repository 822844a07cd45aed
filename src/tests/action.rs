//! The scripts of the GitHub actions, on a throw-away repository with a bare remote and programs that only note what
//! they are asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder with a remote, a shallow clone of it, and programs that stand in for others.
struct Place {
    folder: TempDir,
}

impl Place {
    /// `main` has 200 commits; `feature` leaves it after the 50th and has 30 of its own.
    fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        place.make_folders(&["bin", "temp", "remote"]);
        let mut history = String::new();
        for (branch, first, count, from) in [("main", 1, 200, 0), ("feature", 201, 30, 50)] {
            for at in 0..count {
                let (mark, time) = (first + at, 1_700_000_000 + first + at);
                let parent = if at == 0 { from } else { mark - 1 };
                let message = format!("{branch} {at}");
                history.push_str(&format!(
                    "commit refs/heads/{branch}\nmark :{mark}\ncommitter A <a@b> {time} +0000\ndata {}\n{message}\n",
                    message.len()
                ));
                if parent > 0 {
                    history.push_str(&format!("from :{parent}\n"));
                }
                history.push_str(&format!(
                    "M 644 inline file\ndata {}\n{mark}\n",
                    mark.to_string().len()
                ));
            }
        }
        fs::write(place.path("history"), history).unwrap();
        place.shell(
            "git init -q --bare -b main remote && git -C remote fast-import --quiet < history \
             && git -C remote config uploadpack.allowAnySHA1InWant true \
             && git clone -q --depth 1 --branch feature \"file://$PWD/remote\" clone",
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make_folders(&self, names: &[&str]) {
        for name in names {
            fs::create_dir_all(self.path(name)).unwrap();
        }
    }

    fn shell(&self, script: &str) -> String {
        let mut command = isolated("bash");
        let output = command
            .args(["-ec", script])
            .current_dir(self.folder.path())
            .output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{script}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).trim().to_owned()
    }

    /// A program in the search path that does what `script` says.
    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/usr/bin/env bash\nset -eu\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Runs one of our scripts in the clone; what it hands on to later steps is in `output`.
    fn run(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        let _ = fs::remove_file(self.path("output"));
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github");
        let search = std::env::var("PATH").unwrap();
        isolated("bash")
            .arg(scripts.join(script))
            .current_dir(self.path("clone"))
            .env("PATH", format!("{}:{search}", self.path("bin").display()))
            .env("RUNNER_TEMP", self.path("temp"))
            .env("GITHUB_OUTPUT", self.path("output"))
            .env("GITHUB_STEP_SUMMARY", self.path("summary"))
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    fn output(&self, name: &str) -> Option<String> {
        let written = fs::read_to_string(self.path("output")).unwrap_or_default();
        let found = written
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        found.map(str::to_owned)
    }

    fn commit(&self, of: &str) -> String {
        self.shell(&format!("git -C remote rev-parse {of}"))
    }
}

/// A program that sees nothing of this machine's git configuration or of a workflow that runs this test.
fn isolated(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        if name.starts_with("GITHUB_") || name.starts_with("GIT_") || name.starts_with("GATE_") {
            command.env_remove(name);
        }
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_shallow_clone_gets_the_history_that_its_merge_base_needs() {
    let merge_base = |place: &Place| place.commit("main~150");
    for base in ["main", "sha", "feature~1"] {
        let place = Place::new();
        let (sha, expected) = match base {
            "sha" => (place.commit("main"), merge_base(&place)),
            "main" => ("main".to_owned(), merge_base(&place)),
            other => ("HEAD~1".to_owned(), place.commit(other)),
        };
        let ended = place.run("actions/gate/history.sh", &[("GATE_BASE", &sha)]);
        assert!(ended.status.success(), "{base}: {}", text(&ended.stderr));
        assert_eq!(place.output("merge-base").unwrap(), expected, "{base}");
        assert_eq!(place.output("head").unwrap(), place.commit("feature"));
    }
    let place = Place::new();
    let ended = place.run(
        "actions/gate/history.sh",
        &[("GATE_BASE", "--upload-pack=touch x")],
    );
    assert!(!ended.status.success() && !place.path("clone/x").exists());
    assert!(text(&ended.stderr).contains("::error::git knows no commit"));
}

#[test]
fn the_gates_exit_code_and_record_are_handed_on() {
    let place = Place::new();
    let tokgate = place.program(
        "tokgate",
        r#"printf '%s\n' "$@" >"$RUNNER_TEMP/asked"
        while [ $# -gt 0 ]; do if [ "$1" = --record ]; then echo '{}' >"$2"; fi; shift; done
        exit "${STUB_CODE:-0}""#,
    );
    let tokgate = tokgate.to_str().unwrap();
    let bench = "a b;$(touch x)";
    let variables = [
        ("TOKGATE", tokgate),
        ("GATE_BASE", "b"),
        ("GATE_HEAD", "h"),
        ("GATE_BENCH", bench),
        ("GATE_BUDGET", "90s"),
        ("STUB_CODE", "1"),
    ];
    let ended = place.run("actions/gate/gate.sh", &variables);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    assert_eq!(place.output("code").as_deref(), Some("1"));
    let record = place.output("record").unwrap();
    let asked = fs::read_to_string(place.path("temp/asked")).unwrap();
    let asked: Vec<&str> = asked.lines().collect();
    assert_eq!(
        asked,
        [
            "gate", "--base", "b", "--head", "h", "--record", &record, "--budget", "90s",
            "--bench", bench
        ]
    );
    assert!(!place.path("clone/x").exists());

    // The report follows; its exit code is the verdict again, and only a crash is one's own.
    for (code, success) in [("0", true), ("1", true), ("2", true), ("101", false)] {
        let variables = [
            ("TOKGATE", tokgate),
            ("GATE_RECORD", &record),
            ("STUB_CODE", code),
        ];
        let ended = place.run("actions/gate/comment.sh", &variables);
        assert_eq!(ended.status.success(), success, "{code}");
        let asked = fs::read_to_string(place.path("temp/asked")).unwrap();
        assert_eq!(
            asked.lines().collect::<Vec<_>>(),
            ["comment", "--record", &record]
        );
    }

    let silent = place.program("silent", "exit 2");
    let variables = [
        ("TOKGATE", silent.to_str().unwrap()),
        ("GATE_BASE", "b"),
        ("GATE_HEAD", "h"),
    ];
    place.run("actions/gate/gate.sh", &variables);
    assert_eq!(place.output("code").as_deref(), Some("2"));
    assert_eq!(place.output("record"), None);
    let variables = [("TOKGATE", silent.to_str().unwrap()), ("GATE_CODE", "2")];
    assert!(
        place
            .run("actions/gate/comment.sh", &variables)
            .status
            .success()
    );
    let summary = fs::read_to_string(place.path("summary")).unwrap();
    assert!(
        summary.contains("left no record (exit code 2)"),
        "{summary}"
    );
}

#[test]
fn tokgate_is_built_from_the_actions_own_sources_once() {
    let place = Place::new();
    let built = r#"mkdir -p "$RUNNER_TEMP/tokgate/bin"; echo "$@" >>"$RUNNER_TEMP/built"
        printf '#!/bin/sh\necho tokgate 0\n' >"$RUNNER_TEMP/tokgate/bin/tokgate"
        chmod +x "$RUNNER_TEMP/tokgate/bin/tokgate""#;
    place.program("cargo", built);
    place.program("rustc", "echo rustc 1");
    assert!(place.run("actions/gate/key.sh", &[]).status.success());
    let (root, key) = (place.output("root").unwrap(), place.output("key").unwrap());
    assert_eq!(key.len(), "tokgate-".len() + 32);
    place.program("rustc", "echo rustc 2");
    place.run("actions/gate/key.sh", &[]);
    assert_ne!(place.output("key").unwrap(), key);
    for _ in 0..2 {
        let ended = place.run("actions/gate/install.sh", &[("TOKGATE_ROOT", &root)]);
        assert!(ended.status.success(), "{}", text(&ended.stderr));
        assert_eq!(
            place.output("tokgate").unwrap(),
            format!("{root}/bin/tokgate")
        );
    }
    let built = fs::read_to_string(place.path("temp/built")).unwrap();
    assert_eq!(built.lines().count(), 1, "{built}");
    assert!(
        built.contains(&format!("--path {}", env!("CARGO_MANIFEST_DIR"))),
        "{built}"
    );

    let given = place.program("given", "echo tokgate 1");
    let given = given.to_str().unwrap();
    assert!(
        place
            .run("actions/gate/install.sh", &[("TOKGATE_BINARY", given)])
            .status
            .success()
    );
    assert_eq!(place.output("tokgate").as_deref(), Some(given));
}

#[test]
fn of_a_forks_archive_one_bounded_file_is_read() {
    let place = Place::new();
    place.program(
        "curl",
        r#"while [ $# -gt 1 ]; do if [ "$1" = --output ]; then out=$2; fi; shift; done
        echo "$1" >>"$RUNNER_TEMP/urls"
        case $1 in */zip) cp "$RUNNER_TEMP/archive.zip" "$out" ;; *) cp "$RUNNER_TEMP/list.json" "$out" ;; esac"#,
    );
    let list = |size: u64| {
        let list = format!(
            r#"{{"artifacts":[{{"id":4,"size_in_bytes":9,"expired":true}},{{"id":2,"size_in_bytes":9,"expired":false}},
            {{"id":3,"size_in_bytes":{size},"expired":false}}]}}"#
        );
        fs::write(place.path("temp/list.json"), list).unwrap();
    };
    place.shell(
        "python3 -c \"import zipfile; z = zipfile.ZipFile('temp/archive.zip', 'w')
z.writestr('gate.json', '{\\\"schema\\\":1}'); z.writestr('../../evil', 'x'); z.close()\"",
    );
    let variables = [
        ("GATE_RUN", "17"),
        ("GATE_ARTIFACT", "tokgate-gate"),
        ("GITHUB_TOKEN", "s3cret"),
        ("GITHUB_REPOSITORY", "tokgate/tokgate"),
    ];
    list(100);
    let ended = place.run("actions/comment/fetch-record.sh", &variables);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let record = place.output("record").unwrap();
    assert_eq!(fs::read_to_string(record).unwrap(), "{\"schema\":1}");
    assert!(!place.path("evil").exists() && !place.path("temp/evil").exists());
    let urls = fs::read_to_string(place.path("temp/urls")).unwrap();
    let urls: Vec<&str> = urls.lines().collect();
    let api = "https://api.github.com/repos/tokgate/tokgate/actions";
    assert_eq!(
        urls[0],
        format!("{api}/runs/17/artifacts?name=tokgate-gate&per_page=100")
    );
    assert_eq!(urls[1], format!("{api}/artifacts/3/zip"));

    list(100 << 20);
    let ended = place.run("actions/comment/fetch-record.sh", &variables);
    assert!(!ended.status.success() && text(&ended.stderr).contains("larger than"));
    fs::write(place.path("temp/list.json"), r#"{"artifacts":[]}"#).unwrap();
    let ended = place.run("actions/comment/fetch-record.sh", &variables);
    assert!(ended.status.success() && place.output("record").is_none());
    let mut hostile = variables;
    hostile[1].1 = "x&per_page=1#";
    assert!(
        !place
            .run("actions/comment/fetch-record.sh", &hostile)
            .status
            .success()
    );
}

#[test]
fn baselines_are_pushed_or_become_a_pull_request() {
    let place = Place::new();
    let script = "scripts/push-baselines.sh";
    place.shell("cd clone && git fetch -q origin main:refs/remotes/origin/main && git checkout -q -B main origin/main");
    let push = [("BASELINES_BRANCH", "main")];
    let ended = place.run(script, &push);
    assert!(
        text(&ended.stdout).contains("as they were"),
        "{}",
        text(&ended.stderr)
    );

    // Somebody else was faster: the commit goes on top of theirs.
    place.shell("git clone -q remote other && cd other && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m other && git push -q");
    place.make_folders(&["clone/baselines"]);
    fs::write(place.path("clone/baselines/a.jsonl"), "1\n").unwrap();
    fs::write(place.path("clone/stray"), "not a baseline\n").unwrap();
    let ended = place.run(script, &push);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let files = place.shell("git -C remote show --name-only --format=%s main");
    assert!(files.starts_with("Record the baselines of "), "{files}");
    assert!(files.ends_with("\nbaselines/a.jsonl"), "{files}");
    assert_eq!(
        place.shell("git -C remote log -1 --format=%s main~1"),
        "other"
    );

    // The branch is protected.
    place.shell("printf '#!/bin/sh\\nread -r _ _ ref; [ \"$ref\" != refs/heads/main ]\\n' > remote/hooks/pre-receive && chmod +x remote/hooks/pre-receive");
    let main = place.commit("main");
    place.program(
        "curl",
        r#"for argument; do case $argument in @*) cat "${argument#@}" >"$RUNNER_TEMP/body" ;; esac; done
        echo "$@" >"$RUNNER_TEMP/curl"; printf '%s' "${STUB_STATUS:-201}""#,
    );
    for (content, status, success) in [
        ("2\n", "201", true),
        ("3\n", "422", true),
        ("4\n", "403", false),
    ] {
        fs::write(place.path("clone/baselines/a.jsonl"), content).unwrap();
        let variables = [
            ("BASELINES_BRANCH", "main"),
            ("GITHUB_TOKEN", "s3cret"),
            ("GITHUB_REPOSITORY", "tokgate/tokgate"),
            ("STUB_STATUS", status),
        ];
        let ended = place.run(script, &variables);
        assert_eq!(ended.status.success(), success, "{}", text(&ended.stderr));
        assert_eq!(place.commit("main"), main);
        assert_eq!(
            place.shell("git -C remote show tokgate/baselines:baselines/a.jsonl"),
            content.trim()
        );
        let body = fs::read_to_string(place.path("temp/body")).unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&body["head"], &body["base"]),
            (&"tokgate/baselines".into(), &"main".into())
        );
        let asked = fs::read_to_string(place.path("temp/curl")).unwrap();
        assert!(!asked.contains("s3cret"), "{asked}");
    }
}
