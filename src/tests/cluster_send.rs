//! Ranks without a model's file get it from rank 0, once, whole, and only what was announced. Ranks are threads here;
//! `cluster_mpi` has processes.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use tokgate::cluster::exchange::{Exchange, Purpose};
use tokgate::cluster::manifest::{Manifest, PIECE};
use tokgate::cluster::send::{Cache, Provided, SendError, Watcher, provide};
use tokgate::cluster::wire::{ThreadWire, Wire};

/// Keeps what a rank was told.
#[derive(Default)]
struct Heard {
    sentences: RefCell<Vec<String>>,
    sent: RefCell<(u64, u64)>,
}

impl Watcher for Heard {
    fn sent(&self, done: u64, total: u64) {
        assert!(done > self.sent.borrow().0 && done <= total);
        self.sent.replace((done, total));
    }

    fn say(&self, what: &str) {
        self.sentences.borrow_mut().push(what.to_owned());
    }
}

/// What became of a rank, and the sentences that it was told.
type Outcome = (Result<Provided, SendError>, Vec<String>);

/// Ranks whose model is at these paths, if it is there, with one cache for each of `caches`, the last one's for the rest.
fn ranks(paths: &[PathBuf], caches: &[&Path]) -> Vec<Outcome> {
    let wires = ThreadWire::all(paths.len(), Duration::from_secs(60));
    thread::scope(|scope| {
        let ranks = wires.into_iter().zip(paths).map(|(mut wire, path)| {
            scope.spawn(move || {
                let folder = caches[wire.rank().min(caches.len() - 1)];
                let cache = Cache { folder, threads: 2 };
                let heard = Heard::default();
                let mut exchange = Exchange::new(&mut wire, Duration::ZERO);
                let provided = provide(&mut exchange, path, cache, &heard);
                let (done, total) = heard.sent.take();
                assert_eq!(done, total, "what is begun is finished");
                (provided, heard.sentences.take())
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn provided(outcomes: Vec<Outcome>) -> Vec<Provided> {
    outcomes.into_iter().map(|(got, _)| got.unwrap()).collect()
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/models")
}

/// A folder as it is downloaded, whose weights take several pieces and a bit.
fn folder_model(at: &Path) -> PathBuf {
    let folder = at.join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join("notes.txt"), "of no use").unwrap();
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let map: serde_json::Map<_, _> = shards
        .iter()
        .map(|shard| (format!("of {shard}"), (*shard).into()))
        .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    for (shard, len) in shards.iter().zip([2 * PIECE + 77, PIECE]) {
        let bytes: Vec<u8> = (0..len).map(|at| (at * at / 13) as u8).collect();
        fs::write(folder.join(shard), bytes).unwrap();
    }
    folder
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn who_lacks_the_file_gets_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let own = models().join("sort-dense.gguf");
    let bytes = fs::read(&own).unwrap();
    let missing = folder.path().join("missing.gguf");
    let other = models().join("sort-moe.gguf");
    let copy = folder.path().join("renamed.gguf");
    fs::copy(&own, &copy).unwrap();
    let caches = ["0", "1", "2", "3"].map(|rank| folder.path().join(rank));
    let caches: Vec<&Path> = caches.iter().map(PathBuf::as_path).collect();
    let paths = [&own, &missing, &copy, &other].map(Clone::clone);

    let first = provided(ranks(&paths, &caches));
    let received: Vec<u64> = first.iter().map(|rank| rank.received).collect();
    let len = bytes.len() as u64;
    assert_eq!(received, [0, len, 0, len]);
    assert_eq!((&first[0].path, &first[2].path), (&own, &copy));
    for rank in [1, 3] {
        assert!(first[rank].path.starts_with(caches[rank]));
        assert!(fs::read(&first[rank].path).unwrap() == bytes);
    }
    assert!(!caches[0].exists() && !caches[2].exists(), "they need none");

    let again = provided(ranks(&paths, &caches));
    assert!(again.iter().all(|rank| rank.received == 0), "{again:?}");
    assert_eq!(again[1].path, first[1].path);
}

#[test]
fn files_of_a_folder_come_whole_along_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder_model(folder.path());
    let id = Manifest::of(&own, 3).unwrap().id();
    let caches: Vec<PathBuf> = (0..4)
        .map(|rank| folder.path().join(rank.to_string()))
        .collect();
    let caches: Vec<&Path> = caches.iter().map(PathBuf::as_path).collect();
    let mut paths = vec![folder.path().join("nowhere"); 4];
    paths[0] = own.clone();
    let got = provided(ranks(&paths, &caches));
    for rank in 1..4 {
        assert_eq!(got[rank].path, caches[rank].join(&id));
        let mut names = entries(&own);
        names.retain(|name| name != "notes.txt");
        assert_eq!(entries(&got[rank].path), names);
        for name in names {
            let (sent, kept) = (own.join(&name), got[rank].path.join(&name));
            assert!(fs::read(sent).unwrap() == fs::read(kept).unwrap(), "{name}");
        }
        assert_eq!(entries(caches[rank]), [id.clone(), format!("{id}.lock")]);
    }
}

#[test]
fn ranks_of_one_cache_receive_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let own = models().join("sort-dense.gguf");
    let cache = folder.path().join("cache");
    let mut paths = vec![folder.path().join("missing.gguf"); 4];
    paths[0] = own.clone();
    let outcomes = ranks(&paths, &[&cache]);
    let waited = outcomes.iter().flat_map(|(_, said)| said);
    let waited = waited
        .filter(|said| said.contains("waiting for it"))
        .count();
    let got = provided(outcomes);
    let received = got.iter().filter(|rank| rank.received > 0).count();
    assert_eq!(received, 1, "{got:?}");
    assert!(waited <= 2, "each says so once");
    assert!(got[1..].iter().all(|rank| rank.path == got[1].path));
}

#[test]
fn damage_and_what_a_killed_process_left_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let own = models().join("sort-dense.gguf");
    let cache = folder.path().join("cache");
    let paths = [own.clone(), folder.path().join("missing.gguf")];
    let got = provided(ranks(&paths, &[&cache]));
    let len = got[1].received;

    // Of the same length, so that only the hash can tell.
    let mut bytes = fs::read(&got[1].path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&got[1].path, &bytes).unwrap();
    let id = Manifest::of(&own, 1).unwrap().id();
    let partial = cache.join(format!("{id}.partial"));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("model.gguf"), "half").unwrap();

    let outcomes = ranks(&paths, &[&cache]);
    assert!(outcomes[1].1[0].ends_with("is damaged: it is received again"));
    let again = provided(outcomes);
    assert_eq!(again[1].received, len);
    assert!(fs::read(&again[1].path).unwrap() == fs::read(&own).unwrap());
    assert!(!partial.exists());
}

#[test]
fn a_cache_that_cannot_be_is_named_on_its_rank() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    let paths = [
        models().join("sort-dense.gguf"),
        folder.path().join("missing.gguf"),
    ];
    let mut outcomes = ranks(&paths, &[&file]);
    let (error, _) = outcomes.pop().unwrap();
    let error = error.unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    assert!(matches!(outcomes[0].0, Err(SendError::Lost(_))));
}

/// The folder of a small disk, for the process that has one.
const SMALL_DISK: &str = "TOKGATE_TEST_SMALL_DISK";

/// The rest of the disk is taken by somebody else while the model comes: there was room for it when it was asked for.
#[test]
fn a_disk_that_fills_up_meanwhile_is_named_and_keeps_nothing() {
    if let Some(disk) = env::var_os(SMALL_DISK) {
        return receive_while_the_disk_fills_up(Path::new(&disk));
    }
    // A disk of its own takes a mount, which only this test and what it starts see.
    let folder = tempfile::tempdir().unwrap();
    let privileges: [&[&str]; 2] = [&[], &["--map-root-user"]];
    let unshare = |privileges: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        command.args(privileges).args(["--mount", "sh", "-c"]);
        let mount = format!("mount -t tmpfs -o size=20m small \"${SMALL_DISK}\"");
        command.arg(format!("{mount} && {script}"));
        command.env(SMALL_DISK, folder.path());
        command
    };
    let allowed = privileges.into_iter().find(|privileges| {
        let output = unshare(privileges, "true").output();
        output.is_ok_and(|output| output.status.success())
    });
    let Some(privileges) = allowed else {
        eprintln!("skipped: this user may not mount a disk of its own");
        return;
    };
    let itself = env::current_exe().unwrap();
    let name = "a_disk_that_fills_up_meanwhile_is_named_and_keeps_nothing";
    let mut command = unshare(privileges, r#"exec "$0" "$@""#);
    let output = command
        .arg(itself)
        .args(["--exact", name, "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("the disk was full"), "{said}{errors}");
}

fn receive_while_the_disk_fills_up(disk: &Path) {
    /// Takes what is left of the disk after the first piece; nothing more is sent until it has.
    struct Greedy<'a>(&'a Path);

    impl Watcher for Greedy<'_> {
        fn sent(&self, done: u64, _: u64) {
            let theirs = self.0.join("somebody's");
            if done >= PIECE as u64 && !theirs.exists() {
                let mut file = File::create(theirs).unwrap();
                let full = file.write_all(&vec![1; 64 << 20]).unwrap_err();
                assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            }
        }

        fn say(&self, _: &str) {}
    }

    let folder = tempfile::tempdir().unwrap();
    let own = folder_model(folder.path());
    let cache = disk.join("cache");
    let mut wires = ThreadWire::all(2, Duration::from_secs(60));
    let (mut one, mut zero) = (wires.pop().unwrap(), wires.pop().unwrap());
    let get = |wire: &mut ThreadWire, path: &Path| {
        let cache = Cache {
            folder: &cache,
            threads: 1,
        };
        let mut exchange = Exchange::new(wire, Duration::ZERO);
        provide(&mut exchange, path, cache, &Greedy(disk))
    };
    let (sender, receiver) = thread::scope(|scope| {
        let sender = scope.spawn(move || get(&mut zero, &own).unwrap_err());
        let receiver = scope.spawn(move || get(&mut one, Path::new("missing.gguf")).unwrap_err());
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    assert!(
        matches!(receiver, SendError::Full { free: 0, .. }),
        "{receiver}"
    );
    let said = receiver.to_string();
    assert!(said.contains("has room for 0.0 MB"), "{said}");
    assert!(said.contains("--weights-cache"), "{said}");
    assert!(matches!(sender, SendError::Lost(_)), "{sender}");
    let left = entries(&cache);
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
    println!("the disk was full");
}

/// A rank 0 that sends what it likes.
fn liar(manifest: &[u8], then: impl Fn(&mut Exchange<'_>) + Send, cache: &Path) -> SendError {
    let mut wires = ThreadWire::all(2, Duration::from_secs(60));
    thread::scope(|scope| {
        let (mut one, mut zero) = (wires.pop().unwrap(), wires.pop().unwrap());
        scope.spawn(move || {
            let mut exchange = Exchange::new(&mut zero, Duration::ZERO);
            let mut text = manifest.to_vec();
            if exchange.broadcast_any(&mut text).is_ok() {
                then(&mut exchange);
            }
        });
        let mut exchange = Exchange::new(&mut one, Duration::ZERO);
        let cache = Cache {
            folder: cache,
            threads: 1,
        };
        provide(
            &mut exchange,
            Path::new("missing.gguf"),
            cache,
            &Heard::default(),
        )
        .unwrap_err()
    })
}

#[test]
fn nothing_that_was_not_announced_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let list = |name: &str, len: u64| {
        let file = serde_json::json!({ "name": name, "len": len, "hash": "a".repeat(64) });
        serde_json::json!({ "files": [file] }).to_string()
    };
    let ends = |_: &mut Exchange<'_>| ();
    let error = liar(b"not a list", ends, &cache);
    assert!(matches!(error, SendError::Manifest(_)), "{error}");
    let error = liar(list("../escape", 4).as_bytes(), ends, &cache);
    assert!(error.to_string().contains("makes no sense"), "{error}");

    let huge = list("model.gguf", 1 << 60);
    let error = liar(huge.as_bytes(), ends, &cache);
    assert!(matches!(error, SendError::Full { .. }), "{error}");
    assert!(error.to_string().contains("--weights-cache"), "{error}");

    let other = |exchange: &mut Exchange<'_>| {
        exchange.gather(Purpose::Setup, &[0]).unwrap();
        exchange.broadcast(Purpose::Setup, &mut [0, 1]).unwrap();
        exchange
            .round(&[(1, b"evil")], &mut [(1, &mut [0])])
            .unwrap();
    };
    let error = liar(list("model.gguf", 4).as_bytes(), other, &cache);
    assert!(matches!(error, SendError::Changed { .. }), "{error}");

    // Rank 1 wants the model; rank 0 says that nobody does.
    let deaf = |exchange: &mut Exchange<'_>| {
        exchange.gather(Purpose::Setup, &[0]).unwrap();
        exchange.broadcast(Purpose::Setup, &mut [0, 0]).unwrap();
    };
    let error = liar(list("model.gguf", 4).as_bytes(), deaf, &cache);
    assert!(error.to_string().contains("nobody wants"), "{error}");

    let left = entries(&cache);
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
}
