//! `tokgate cluster` as a user runs it, by `mpirun` on this machine: what it says, and how it ends when a rank fails.
//! `cluster` has the arithmetic, for more ranks and shares.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;
use tokgate::cluster::wire::PATIENCE;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tokgate");

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/tests/models")
        .join(name)
}

/// `mpirun -n RANKS tokgate cluster ARGS`.
fn mpirun(ranks: usize, args: &[&str]) -> Command {
    let mut command = launcher(ranks);
    command.args([PROGRAM, "cluster"]).args(args);
    command
}

/// `mpirun -n RANKS`.
fn launcher(ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
            "-n",
        ])
        .arg(ranks.to_string())
        // Open MPI looks at every network of a machine for one that it could use.
        .env("OMPI_MCA_btl", "self,vader,tcp")
        .env("OMPI_MCA_btl_tcp_if_include", "lo");
    command
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn two_and_three_ranks_say_what_one_process_says() {
    for (name, shares, experts) in [
        ("sort-dense.gguf", "50,50", "auto"),
        ("sort-moe.gguf", "60,10,30", "rows"),
        ("sort-moe.gguf", "60,10,30", "whole"),
    ] {
        let model = model(name);
        let model = model.to_str().unwrap();
        let prompt = "Sort the following numbers from smallest to largest: 31, 4, 15, 92";
        let options = [
            "-m", model, "-p", prompt, "-n", "16", "--temp", "0", "-t", "1",
        ];
        let alone = Command::new(PROGRAM)
            .arg("run")
            .args(options)
            .output()
            .unwrap();
        let mut args = vec!["run", "--shares", shares, "--experts", experts];
        args.extend(options);
        let ranks = shares.split(',').count();
        let together = mpirun(ranks, &args).output().unwrap();
        let ((wanted, _), (said, errors)) = (text(&alone), text(&together));
        assert!(together.status.success(), "{errors}");
        assert_eq!(said, wanted, "{name} {shares} {experts}");
        assert!(errors.contains(&format!("{ranks} ranks: ")), "{errors}");
    }
}

#[test]
fn a_bench_tells_where_the_time_went() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("exchanges.csv");
    let result = folder.path().join("result.json");
    let model = model("sort-dense.gguf");
    let args = [
        "bench",
        "-m",
        model.to_str().unwrap(),
        "-n",
        "8",
        "-p",
        "12",
        "-r",
        "2",
        "-t",
        "1",
        "--inject-latency-us",
        "50",
        "--model-network",
        "160,1",
        "-o",
        "json",
        "--log",
        log.to_str().unwrap(),
        "--result",
        result.to_str().unwrap(),
    ];
    let output = mpirun(2, &args).output().unwrap();
    let (out, errors) = text(&output);
    assert!(output.status.success(), "{errors}");
    assert_eq!(fs::read_to_string(&result).unwrap(), out);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let report = &json["report"];
    assert_eq!(report["ranks"].as_array().unwrap().len(), 2);
    assert_eq!(report["table"].as_array().unwrap().len(), 14);
    let layers = report["layers"].as_u64().unwrap();
    let generated = &report["tests"][1];
    let exchanges = generated["ranks"][1]["exchanges"].as_f64().unwrap();
    assert_eq!(exchanges, (2 * layers + 2) as f64);
    assert!(json["summary"]["measured"].as_f64().unwrap() > 0.0);
    let lines = fs::read_to_string(log).unwrap().lines().count();
    assert_eq!(lines as u64, 1 + 2 * 8 * (2 * layers + 2));
    assert_eq!(json["figures"][1]["key"], "tg8");

    let recorded = recorded(&result, folder.path());
    for test in ["pp12", "tg8", "exchanges"] {
        let id = format!(r#""cluster/\w+/\w+/qwen3-\d+m_{test}_r2_h1_t2_i50""#);
        assert!(
            Regex::new(&id).unwrap().is_match(&recorded),
            "{id}: {recorded}"
        );
    }
}

/// The baseline of a new project that `tokgate record --from` makes of a result.
fn recorded(result: &Path, folder: &Path) -> String {
    let project = folder.join("project");
    fs::create_dir_all(project.join("src")).unwrap();
    fs::write(project.join("Cargo.toml"), "[package]\nname = \"p\"\n").unwrap();
    fs::write(project.join("src/lib.rs"), "").unwrap();
    let output = Command::new(PROGRAM)
        .args(["record", "--from", result.to_str().unwrap()])
        .current_dir(&project)
        .output()
        .unwrap();
    let (_, errors) = text(&output);
    assert!(output.status.success(), "{errors}");
    let machines = fs::read_dir(project.join("baselines")).unwrap();
    let texts = machines.map(|machine| {
        let file = machine.unwrap().path().join("baseline.jsonl");
        fs::read_to_string(file).unwrap()
    });
    texts.collect()
}

#[test]
fn a_rank_without_the_file_gets_it_from_rank_0_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model("sort-moe.gguf"), folder.path().join("0.gguf")).unwrap();
    let cache = folder.path().join("cache");
    let prompt = "Sort the following numbers from smallest to largest: 31, 4, 15, 92";
    let script = format!(
        "exec {PROGRAM} cluster run -m {folder}/$OMPI_COMM_WORLD_RANK.gguf -p '{prompt}' -n 16 --temp 0 -t 1 \
         --shares 50,30,20 --send-weights --weights-cache {folder}/cache",
        folder = folder.path().display()
    );
    let run = || {
        let mut command = launcher(3);
        let output = command.args(["sh", "-c", &script]).output().unwrap();
        let (said, errors) = text(&output);
        assert!(output.status.success(), "{errors}");
        (said, errors)
    };
    let alone = Command::new(PROGRAM)
        .args(["run", "-m", model("sort-moe.gguf").to_str().unwrap(), "-p"])
        .args([prompt, "-n", "16", "--temp", "0", "-t", "1"])
        .output()
        .unwrap();
    let (said, errors) = run();
    assert_eq!(said, text(&alone).0);
    // Ranks 1 and 2 have one cache.
    assert_eq!(errors.matches("received the model").count(), 1, "{errors}");
    assert!(errors.contains("rank 0: sent "), "{errors}");
    let (said, errors) = run();
    assert_eq!(said, text(&alone).0);
    assert!(
        !errors.contains("sent ") && !errors.contains("received"),
        "{errors}"
    );

    // A cache that is a file: the error is that rank's, and ends all.
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "").unwrap();
    let output = launcher(3).args(["sh", "-c", &script]).output().unwrap();
    let (_, errors) = text(&output);
    assert!(!output.status.success());
    let named = errors
        .lines()
        .any(|line| line.contains("tokgate: rank 1: ") && line.contains(cache.to_str().unwrap()));
    assert!(named, "{errors}");
}

#[test]
fn another_version_of_the_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // Each rank reads the file of its own name.
    fs::copy(model("sort-dense.gguf"), folder.path().join("0.gguf")).unwrap();
    fs::copy(model("sort-moe.gguf"), folder.path().join("1.gguf")).unwrap();
    let script = format!(
        "exec {PROGRAM} cluster run -m {}/$OMPI_COMM_WORLD_RANK.gguf -p x -t 1",
        folder.path().display()
    );
    let output = launcher(2).args(["sh", "-c", &script]).output().unwrap();
    let (_, errors) = text(&output);
    assert!(!output.status.success());
    for rank in [0, 1] {
        let said = errors
            .lines()
            .find(|line| line.contains(&format!("tokgate: rank {rank}: ")));
        let said = said.unwrap_or_else(|| panic!("rank {rank} says nothing: {errors}"));
        assert!(
            said.contains("rank 1 on ") && said.contains("another version"),
            "{said}"
        );
    }
}

#[test]
fn a_rank_that_hangs_ends_all_and_is_named() {
    let (output, pids, took) = after_signal("-STOP");
    let (_, errors) = text(&output);
    assert!(!output.status.success());
    assert!(
        errors.contains("tokgate: rank 0: rank 1 has shown no sign of life"),
        "{errors}"
    );
    assert!(all_gone(&pids), "{pids:?} after {took:?}");
}

#[test]
fn a_rank_that_dies_ends_all() {
    let (output, pids, took) = after_signal("-KILL");
    let (_, errors) = text(&output);
    assert!(!output.status.success());
    assert!(
        errors.contains("tokgate: rank 0: mpirun ended it"),
        "{errors}"
    );
    assert!(all_gone(&pids), "{pids:?} after {took:?}");
}

/// Rank 0 has the report to write when the other one is done, and whoever reads it may take their time.
#[test]
fn a_rank_that_is_done_is_not_taken_for_one_that_hangs() {
    const PIPE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("out");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut reader = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&pipe)
        .unwrap();
    rustix::pipe::fcntl_setpipe_size(&reader, PIPE).unwrap();
    let script = r#"[ "$OMPI_COMM_WORLD_RANK" != 0 ] || exec >"$OUT"; exec "$@""#;
    let model = model("sort-dense.gguf");
    let args = ["-n", "8", "-p", "8", "-r", "1", "-t", "1", "-o", "json"];
    let mut child = launcher(2)
        .args(["sh", "-c", script, "sh", PROGRAM, "cluster", "bench", "-m"])
        .arg(&model)
        .args(args)
        .env("OUT", &pipe)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let mut report = Vec::new();
    let mut ended = None;
    loop {
        let first = report.is_empty();
        let mut some = [0; PIPE / 4];
        match reader.read(&mut some) {
            Ok(0) if ended.is_some() => break,
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            Ok(0) | Err(_) => {
                ended = child.try_wait().unwrap();
                thread::sleep(Duration::from_millis(10));
            }
            Ok(read) => report.extend_from_slice(&some[..read]),
        }
        if first && !report.is_empty() {
            thread::sleep(PATIENCE + Duration::from_secs(3));
        }
    }
    let (_, errors) = text(&child.wait_with_output().unwrap());
    assert!(ended.unwrap().success(), "{errors}");
    assert!(report.len() > 2 * PIPE, "{} bytes", report.len());
    serde_json::from_slice::<serde_json::Value>(&report).unwrap();
}

/// What comes of a long bench on two ranks where the second gets a signal, the ranks' pids, and how long it took.
fn after_signal(signal: &str) -> (Output, Vec<u32>, Duration) {
    let model = model("sort-dense.gguf");
    let args = [
        "bench",
        "-m",
        model.to_str().unwrap(),
        "-n",
        "20000",
        "-r",
        "50",
        "-t",
        "1",
        "--no-baseline",
    ];
    let mut command = mpirun(2, &args);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ranks = ranks(&child, 2);
    // They measure for longer than this, and wait for each other by then.
    thread::sleep(Duration::from_secs(2));
    let started = Instant::now();
    let second = ranks.iter().find(|(_, rank)| rank == "1").unwrap().0;
    let killed = Command::new("kill")
        .args([signal, &second.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let took = started.elapsed();
    eprintln!("{signal}: all ended after {took:.1?}");
    (
        output,
        ranks.into_iter().map(|(pid, _)| pid).collect(),
        took,
    )
}

/// Pids and ranks of the processes that this `mpirun` started.
fn ranks(mpirun: &Child, wanted: usize) -> Vec<(u32, String)> {
    let parent = mpirun.id().to_string();
    for _ in 0..600 {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let of_parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)? == parent;
            let environment = fs::read(path.join("environ")).ok()?;
            let mut variables = environment.split(|byte| *byte == 0);
            let rank = variables.find_map(|v| v.strip_prefix(b"OMPI_COMM_WORLD_RANK="))?;
            of_parent.then(|| (pid, String::from_utf8_lossy(rank).into_owned()))
        });
        let found: Vec<(u32, String)> = processes.collect();
        if found.len() == wanted {
            return found;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("mpirun started no ranks");
}

/// Whether these processes end: `mpirun` kills them and does not wait for the system to be done with it.
fn all_gone(pids: &[u32]) -> bool {
    (0..100).any(|_| {
        thread::sleep(Duration::from_millis(100));
        pids.iter().all(|pid| gone(*pid))
    })
}

fn gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}
