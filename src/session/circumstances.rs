//! Under which circumstances code is measured here and now.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use tokgate_kernels::Level;

use crate::probe::machine::Machine;
use crate::record::{MachineKey, NameError, Project, Provenance, Witness, git, read_text};

/// The largest cargo configuration that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The machine, the compiler, the sources and the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The key of what a clock measures here.
    pub machine_key: MachineKey,
    /// The key of what callgrind counts here.
    pub counts_key: MachineKey,
    /// When the commit was made that is checked out, if one is.
    pub committed_at: Option<Timestamp>,
    /// Everything else; the harness is left empty.
    pub provenance: Provenance,
}

/// Why the circumstances are not known.
#[derive(Debug, thiserror::Error)]
pub enum CircumstancesError {
    /// The compiler does not answer, so that nothing could be compared later.
    #[error("`rustc -vV` does not answer: {0}; set RUSTC to the compiler that built the benches")]
    Rustc(String),
    /// The machine's key cannot be a folder.
    #[error(transparent)]
    Key(#[from] NameError),
}

impl Circumstances {
    /// What holds for a bench of this repository that runs now.
    ///
    /// # Errors
    /// [`CircumstancesError`] if the compiler cannot be asked.
    pub fn of_bench(project: &Project) -> Result<Self, CircumstancesError> {
        let mut here = Self::of_observer(project)?;
        here.provenance.witness = Witness::Bench;
        here.provenance.level = Level::from_env().ok().map(|level| level.to_string());
        if cfg!(debug_assertions) {
            here.provenance.profile = "dev".to_owned();
        }
        Ok(here)
    }

    /// What can be said by someone who finds results of `project` and did not see them taken.
    ///
    /// # Errors
    /// [`CircumstancesError`] if the compiler cannot be asked.
    pub fn of_observer(project: &Project) -> Result<Self, CircumstancesError> {
        let machine = Machine::detect();
        let (rustc, target) = compiler(project.root())?;
        let head = git::head(project.root());
        Ok(Self {
            machine_key: MachineKey::new(machine.key())?,
            counts_key: MachineKey::new(machine.counts_key(&rustc))?,
            committed_at: head
                .as_ref()
                .and_then(|head| Timestamp::from_second(head.committed_at).ok()),
            provenance: Provenance {
                measured_at: now(),
                witness: Witness::Afterwards,
                harness: String::new(),
                commit: head.as_ref().map(|head| head.commit.clone()),
                dirty: head.is_none_or(|head| head.dirty),
                rustflags: rustflags(project.root(), &target),
                rustc,
                target,
                profile: "bench".to_owned(),
                cpu: machine.model().to_owned(),
                cpus: machine.cpus(),
                governor: machine.governor().map(str::to_owned),
                level: None,
            },
        })
    }
}

impl Circumstances {
    /// The flags for rustc that the project at `root` is built with; empty where it configures none.
    ///
    /// # Errors
    /// [`CircumstancesError`] if the compiler cannot be asked for its target.
    pub fn rustflags_of(root: &Path) -> Result<String, CircumstancesError> {
        let (_, target) = compiler(root)?;
        Ok(rustflags(root, &target))
    }
}

/// The present second; finer figures would only make notes harder to read.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// What `rustc --version` prints, and the host's target triple.
fn compiler(folder: &Path) -> Result<(String, String), CircumstancesError> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc)
        .arg("-vV")
        .current_dir(folder)
        .output()
        .map_err(|error| CircumstancesError::Rustc(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said
        .lines()
        .next()
        .filter(|line| line.starts_with("rustc "));
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    match (version, host) {
        (Some(version), Some(host)) if output.status.success() => {
            Ok((version.trim().to_owned(), host.trim().to_owned()))
        }
        _ => Err(CircumstancesError::Rustc(format!(
            "it ended with {}",
            output.status
        ))),
    }
}

/// The flags that cargo gives to rustc, by cargo's own order of precedence: the environment, then the workspace's
/// configuration. Configuration above the workspace is not looked for.
fn rustflags(root: &Path, target: &str) -> String {
    if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
        return flags.replace('\u{1f}', " ");
    }
    for variable in ["RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        if let Ok(flags) = env::var(variable) {
            return flags;
        }
    }
    let text = read_text(&root.join(".cargo/config.toml"), MAX_CONFIG_BYTES).unwrap_or_default();
    let config: toml::Table = text.parse().unwrap_or_default();
    let flags = |value: Option<&toml::Value>| match value?.get("rustflags")? {
        toml::Value::String(flags) => Some(flags.clone()),
        toml::Value::Array(flags) => {
            let flags: Vec<&str> = flags.iter().filter_map(toml::Value::as_str).collect();
            Some(flags.join(" "))
        }
        _ => None,
    };
    let of_target = config.get("target").and_then(|targets| targets.get(target));
    flags(of_target)
        .or_else(|| flags(config.get("build")))
        .unwrap_or_default()
}
