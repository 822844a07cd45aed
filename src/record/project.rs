//! Where things are in a Rust project: any cargo workspace, not only this one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::store::Store;

/// The folders of a cargo workspace that matter to its measurements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    root: PathBuf,
    target: PathBuf,
}

/// A folder that is in no cargo project.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not inside a cargo project: no Cargo.toml in it or above it", .0.display())]
pub struct NoProject(PathBuf);

impl Project {
    /// The project that `folder` belongs to, as cargo sees it: `CARGO_TARGET_DIR` and cargo's configuration count.
    /// Where cargo cannot be run or refuses, the nearest `Cargo.toml` and its `target` do.
    ///
    /// # Errors
    /// [`NoProject`] if there is no `Cargo.toml`.
    pub fn find(folder: &Path) -> Result<Self, NoProject> {
        let manifest = folder
            .ancestors()
            .find(|folder| folder.join("Cargo.toml").is_file())
            .ok_or_else(|| NoProject(folder.to_owned()))?;
        Ok(ask_cargo(manifest).unwrap_or_else(|| Self {
            root: manifest.to_owned(),
            target: folder_from_env("CARGO_TARGET_DIR", manifest)
                .unwrap_or_else(|| manifest.join("target")),
        }))
    }

    /// The same project with another target folder.
    #[must_use]
    pub fn with_target(self, target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            ..self
        }
    }

    /// The folder of the workspace.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that cargo builds into.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The baselines, which are part of the sources.
    pub fn store(&self) -> Store {
        Store::new(self.root.join("baselines"))
    }

    /// What the baselines are judged by.
    pub fn gate(&self) -> PathBuf {
        self.root.join("baselines/gate.toml")
    }

    /// Where criterion keeps its results: `CRITERION_HOME`, or `criterion` in the target folder.
    pub fn criterion(&self) -> PathBuf {
        folder_from_env("CRITERION_HOME", &self.root)
            .unwrap_or_else(|| self.target.join("criterion"))
    }

    /// Where iai-callgrind and gungraun keep theirs: `IAI_CALLGRIND_HOME` and `GUNGRAUN_HOME`, or `iai` and `gungraun`
    /// in the target folder.
    pub fn callgrind(&self) -> [PathBuf; 2] {
        [("IAI_CALLGRIND_HOME", "iai"), ("GUNGRAUN_HOME", "gungraun")].map(|(variable, name)| {
            folder_from_env(variable, &self.root).unwrap_or_else(|| self.target.join(name))
        })
    }

    /// Where bench targets write down under which circumstances they ran.
    pub fn sessions(&self) -> PathBuf {
        self.target.join("tokgate/sessions")
    }
}

fn folder_from_env(variable: &str, base: &Path) -> Option<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty())?;
    Some(base.join(value))
}

fn ask_cargo(folder: &Path) -> Option<Project> {
    #[derive(Deserialize)]
    struct Metadata {
        workspace_root: PathBuf,
        target_directory: PathBuf,
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(folder)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).ok()?;
    Some(Project {
        root: metadata.workspace_root,
        target: metadata.target_directory,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_inside_a_project_leads_to_its_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let inner = root.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        assert!(Project::find(&inner).is_err());

        // Cargo refuses this manifest; the folders are still to be found.
        fs::write(root.join("Cargo.toml"), "not a manifest").unwrap();
        let project = Project::find(&inner).unwrap();
        assert_eq!(project.root(), root);
        assert!(project.gate().ends_with("baselines/gate.toml"));

        fs::write(
            root.join("Cargo.toml"),
            "[package]\nname = \"x\"\nversion = \"0.0.0\"\n[lib]\npath = \"x.rs\"\n",
        )
        .unwrap();
        let project = Project::find(&inner).unwrap();
        assert_eq!(project.root(), root);
        let other = project.with_target("/elsewhere");
        assert_eq!(other.sessions(), Path::new("/elsewhere/tokgate/sessions"));
    }
}
