//! The bench targets of a project, as cargo tells them.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::process::run;
use super::{Lab, LabError, Worktree};

const METADATA_LIMIT: Duration = Duration::from_secs(600);

/// Harnesses whose benches can be run one by one; a package that uses none of them has nothing to measure.
const HARNESSES: [&str; 5] = [
    "criterion",
    "codspeed-criterion-compat",
    "iai-callgrind",
    "gungraun",
    "criterion2",
];

/// A bench target of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BenchTarget {
    /// The package's name.
    pub package: String,
    /// The target's name.
    pub name: String,
    /// Features that it needs.
    pub features: Vec<String>,
    /// The package's folder inside the project, where its benches run.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    #[serde(default, rename = "required-features")]
    required_features: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

impl Lab {
    /// The bench targets of the packages that use a harness which is known, sorted.
    ///
    /// # Errors
    /// [`LabError`] if cargo cannot read the project.
    pub fn targets(&self, tree: &Worktree<'_>) -> Result<Vec<BenchTarget>, LabError> {
        let mut cargo = self.cargo(tree);
        cargo.args(["metadata", "--no-deps", "--format-version=1"]);
        let answer = run(&mut cargo, METADATA_LIMIT, self.interrupt())?;
        let metadata: Metadata =
            serde_json::from_str(&answer).map_err(|error| LabError::Answer {
                program: "cargo metadata".to_owned(),
                what: error.to_string(),
            })?;
        let root = tree.root();
        // Cargo tells paths without symbolic links.
        let root = root.canonicalize().map_err(LabError::io(&root))?;
        let mut found = Vec::new();
        for package in metadata.packages {
            let measures = package
                .dependencies
                .iter()
                .any(|dependency| HARNESSES.contains(&dependency.name.as_str()));
            if !measures || !metadata.workspace_members.contains(&package.id) {
                continue;
            }
            let folder = package.manifest_path.parent().unwrap_or(&root);
            let folder = folder.strip_prefix(&root).unwrap_or(folder).to_owned();
            for target in package.targets {
                if target.kind.iter().any(|kind| kind == "bench") {
                    found.push(BenchTarget {
                        package: package.name.clone(),
                        name: target.name,
                        features: target.required_features,
                        folder: folder.clone(),
                    });
                }
            }
        }
        found.sort();
        Ok(found)
    }
}
