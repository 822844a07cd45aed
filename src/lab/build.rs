//! From a commit to binaries: one compiler, one set of flags, many layouts.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::process::{Interrupt, run};
use super::relink::{Call, shuffle};
use super::{BenchTarget, Lab, LabError, Toolchain, Worktree};
use crate::record::trial::Harness;

/// The longest that a build may take; a first one compiles all dependencies.
const BUILD_LIMIT: Duration = Duration::from_secs(3 * 3600);

const ASK_LIMIT: Duration = Duration::from_secs(60);

/// Texts that a harness's own code carries into every binary that is linked with it.
const MARKS: [(&[u8], Harness); 4] = [
    (b"IAI_CALLGRIND_RUNNER", Harness::Callgrind),
    (b"iai-callgrind-runner", Harness::Callgrind),
    (b"GUNGRAUN_RUNNER", Harness::Callgrind),
    (b"CRITERION_HOME", Harness::Criterion),
];

/// A bench target of a commit, linked in one layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// The file.
    pub path: PathBuf,
    /// What it was built from.
    pub target: BenchTarget,
    /// Where its benches run: the package's folder in the worktree.
    pub folder: PathBuf,
    /// The slot that it was built in: a path that its code and data may name.
    pub slot: PathBuf,
    /// What the order of its sections was drawn from; none for the linker's own.
    pub link_seed: Option<u32>,
    /// Who measures in it; `None` if no known harness does.
    pub harness: Option<Harness>,
}

impl Lab {
    /// Builds a bench target with the sections of its code in an order drawn from `link_seed`, or as the linker has
    /// them. Dependencies are compiled once for all links of a worktree; a binary that was built before is found again.
    ///
    /// # Errors
    /// [`LabError`] with the compiler's last lines.
    pub fn build(
        &self,
        tree: &Worktree<'_>,
        target: &BenchTarget,
        link_seed: Option<u32>,
    ) -> Result<Binary, LabError> {
        let name = self.key(tree, target, link_seed);
        let mut kept = self.binaries().join(&name);
        let relinked = self.links().join(&name);
        let is_relinked = match link_seed {
            Some(_) if relinked.is_file() => true,
            Some(seed) if !kept.is_file() => self.link(tree, target, seed, &relinked)?,
            _ => false,
        };
        if is_relinked {
            kept = relinked;
        } else if kept.is_file() {
            let now = SystemTime::now();
            let touched = File::options().append(true).open(&kept);
            let _ = touched.and_then(|file| file.set_modified(now));
        } else {
            let built = self.compile(tree, target, link_seed)?;
            fs::create_dir_all(self.binaries()).map_err(LabError::io(&self.binaries()))?;
            // Under another name first: a copy that was cut short is no binary.
            let half = kept.with_extension("half");
            fs::copy(&built, &half).map_err(LabError::io(&half))?;
            fs::rename(&half, &kept).map_err(LabError::io(&kept))?;
        }
        Ok(Binary {
            harness: match target.lockstep {
                Some(_) => Some(Harness::Lockstep),
                None => harness(&kept)?,
            },
            path: kept,
            target: target.clone(),
            folder: tree.root().join(&target.folder),
            slot: tree.slot().to_owned(),
            link_seed,
        })
    }

    /// Gives a slot that has built nothing yet what another has built, so that dependencies are not compiled twice.
    /// Cargo finds the project's own sources newer than these files, and builds them again.
    ///
    /// # Errors
    /// [`LabError`] if a signal comes; a copy that fails is a slow start, no error.
    pub fn share_dependencies(&self, from: &str, to: &str) -> Result<(), LabError> {
        let (from, to) = (self.slot(from).join("target"), self.slot(to).join("target"));
        if !from.is_dir() || to.exists() {
            return Ok(());
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(LabError::io(parent))?;
        }
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto", "--"]).args([&from, &to]);
        match run(&mut copy, BUILD_LIMIT, self.interrupt()) {
            Err(LabError::Interrupted) => {
                let _ = fs::remove_dir_all(&to);
                Err(LabError::Interrupted)
            }
            Err(_) => {
                let _ = fs::remove_dir_all(&to);
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// `cargo` in a worktree, with the lab's toolchain.
    pub(super) fn cargo(&self, tree: &Worktree<'_>) -> Command {
        let mut cargo = self.toolchain().cargo();
        cargo
            .current_dir(tree.root())
            .env("CARGO_TARGET_DIR", tree.target_folder())
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_INCREMENTAL", "0");
        cargo
    }

    /// Links what was compiled in an order drawn from `seed`, into `to`; compiles it first where the slot has the objects
    /// of something else. Not where the compiler's call of the linker cannot be repeated.
    fn link(
        &self,
        tree: &Worktree<'_>,
        target: &BenchTarget,
        seed: u32,
        to: &Path,
    ) -> Result<bool, LabError> {
        if !self.toolchain().tells_link_args() {
            return Ok(false);
        }
        let call = Call::of(&tree.target_folder(), &target.name);
        if !call.is_of(&self.key(tree, target, None)) {
            self.compile(tree, target, None)?;
        }
        fs::create_dir_all(self.links()).map_err(LabError::io(&self.links()))?;
        // Under another name first: what the linker did not end is no binary.
        let half = to.with_extension("half");
        match self.relink(&call, &tree.root(), seed, &half) {
            Ok(None) => Ok(false),
            Ok(Some(())) => fs::rename(&half, to)
                .map(|()| true)
                .map_err(LabError::io(to)),
            Err(LabError::Interrupted) => Err(LabError::Interrupted),
            // Compiled and linked in one go it may work, and if it does not, that is what is told.
            Err(_) => Ok(false),
        }
    }

    fn compile(
        &self,
        tree: &Worktree<'_>,
        target: &BenchTarget,
        link_seed: Option<u32>,
    ) -> Result<PathBuf, LabError> {
        let call = Call::of(&tree.target_folder(), &target.name);
        call.prepare()?;
        let mut cargo = self.cargo(tree);
        cargo
            .args(["rustc", "--package", &target.package_id(&tree.root())?])
            .args(match &target.lockstep {
                // With the profile `bench`, cargo would make a harness of the program's own tests.
                Some(program) => ["--profile", "release", "--bin", &program.bin],
                None => ["--profile", "bench", "--bench", &target.name],
            })
            .arg("--message-format=json-render-diagnostics");
        if !target.features.is_empty() {
            cargo.args(["--features", &target.features.join(",")]);
        }
        let keeps_objects = link_seed.is_none() && self.toolchain().tells_link_args();
        if let Some(seed) = link_seed {
            cargo.args(["--", "-C", &format!("link-arg={}", shuffle(seed))]);
        } else if keeps_objects {
            cargo.args(["--", "-C", "save-temps", "--print"]);
            cargo.arg(format!("link-args={}", call.args.display()));
        }
        let answer = run(&mut cargo, BUILD_LIMIT, self.interrupt())?;
        let (name, kind) = match &target.lockstep {
            Some(program) => (&program.bin, "bin"),
            None => (&target.name, "bench"),
        };
        let built = executable(&answer, name, kind).ok_or_else(|| LabError::Answer {
            program: "cargo rustc".to_owned(),
            what: format!("built no executable of the {kind} target '{name}'"),
        })?;
        if keeps_objects {
            call.keep(&self.key(tree, target, None))?;
        }
        Ok(built)
    }

    fn key(&self, tree: &Worktree<'_>, target: &BenchTarget, link_seed: Option<u32>) -> String {
        let mut hasher = DefaultHasher::new();
        // The slot's path may be in the binary.
        (
            tree.slot(),
            tree.root(),
            self.toolchain(),
            target,
            link_seed,
        )
            .hash(&mut hasher);
        for variable in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
        ] {
            env::var_os(variable).hash(&mut hasher);
        }
        format!(
            "{}-{}-{:016x}",
            target.name,
            &tree.commit().id,
            hasher.finish()
        )
    }
}

impl Toolchain {
    /// What builds in `root` now.
    pub(super) fn of(root: &Path, interrupt: &Interrupt) -> Result<Self, LabError> {
        let ask = |program: &str, argument: &[&str]| {
            let mut command = Command::new(program);
            command.args(argument).current_dir(root);
            run(&mut command, ASK_LIMIT, interrupt)
        };
        let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let rustc = ask(&rustc, &["-vV"])?;
        // Rustup would choose by the files in each worktree.
        let active = ask("rustup", &["show", "active-toolchain"]);
        let rustup = active
            .ok()
            .and_then(|said| Some(said.split_whitespace().next()?.to_owned()));
        Ok(Self {
            rustup,
            rustc,
            rustflags: None,
        })
    }

    /// Whether the compiler writes how it calls the linker into a file, as it does from 1.75 on at the latest.
    fn tells_link_args(&self) -> bool {
        let release = |line: &str| -> Option<(u32, u32)> {
            let mut numbers = line.strip_prefix("release: ")?.split('.');
            let mut next = || numbers.next()?.parse().ok();
            Some((next()?, next()?))
        };
        let release = self.rustc.lines().find_map(release);
        release.is_some_and(|release| release >= (1, 75))
    }

    fn cargo(&self) -> Command {
        let mut cargo =
            Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        if let Some(toolchain) = &self.rustup {
            cargo.env("RUSTUP_TOOLCHAIN", toolchain);
        }
        if let Some(flags) = &self.rustflags {
            cargo
                .env("RUSTFLAGS", flags)
                .env_remove("CARGO_ENCODED_RUSTFLAGS");
        }
        // What an outer cargo says of its own package is not for this one.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_")
                || text.starts_with("CARGO_BIN_")
                || text.starts_with("CARGO_MANIFEST_")
            {
                cargo.env_remove(&name);
            }
        }
        cargo
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<MessageTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
    kind: Vec<String>,
}

fn executable(messages: &str, name: &str, kind: &str) -> Option<PathBuf> {
    let of_target = |line: &str| {
        let message: Message = serde_json::from_str(line).ok()?;
        let target = message.target?;
        let is_it = message.reason == "compiler-artifact"
            && target.name == name
            && target.kind.iter().any(|its| its == kind);
        message.executable.filter(|_| is_it)
    };
    messages.lines().rev().find_map(of_target)
}

fn harness(path: &Path) -> Result<Option<Harness>, LabError> {
    let bytes = fs::read(path).map_err(LabError::io(path))?;
    let there = |mark: &[u8]| memchr::memmem::find(&bytes, mark).is_some();
    Ok(MARKS
        .iter()
        .find(|(mark, _)| there(mark))
        .map(|(_, harness)| *harness))
}
