//! The targets of a project that measure something, as cargo tells them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::lockstep::Program;
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
    /// The program that takes turns, where it is one and no bench target of cargo's.
    pub lockstep: Option<Program>,
}

impl BenchTarget {
    /// What cargo calls the target's package in the worktree at `root`: its name alone may be that of another version of it
    /// as well, among its own dependencies.
    ///
    /// # Errors
    /// [`LabError`] if `root` is not there.
    pub(super) fn package_id(&self, root: &Path) -> Result<String, LabError> {
        // Cargo tells paths without symbolic links, and without a slash at the end.
        let root = root.canonicalize().map_err(LabError::io(root))?;
        let folder: PathBuf = root.join(&self.folder).components().collect();
        Ok(format!("file://{}#{}", in_url(&folder), self.package))
    }
}

/// A path as it stands in a URL.
fn in_url(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'!'..=b'~' if !b"\"#%<>?`{}".contains(byte) => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
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
    #[serde(default)]
    metadata: Value,
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
            if !metadata.workspace_members.contains(&package.id) {
                continue;
            }
            let folder = package.manifest_path.parent().unwrap_or(&root);
            let folder = folder.strip_prefix(&root).unwrap_or(folder).to_owned();
            for program in programs(&package)? {
                found.push(BenchTarget {
                    package: package.name.clone(),
                    name: program.name.clone(),
                    features: program.features.clone(),
                    folder: folder.clone(),
                    lockstep: Some(program),
                });
            }
            for target in package.targets {
                if measures && target.kind.iter().any(|kind| kind == "bench") {
                    found.push(BenchTarget {
                        package: package.name.clone(),
                        name: target.name,
                        features: target.required_features,
                        folder: folder.clone(),
                        lockstep: None,
                    });
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// What the manifest says of programs that take turns.
fn programs(package: &Package) -> Result<Vec<Program>, LabError> {
    let wrong = |what: String| LabError::Answer {
        program: package.manifest_path.display().to_string(),
        what: format!("package.metadata.tokgate.lockstep: {what}"),
    };
    let Some(said) = package.metadata.pointer("/tokgate/lockstep") else {
        return Ok(Vec::new());
    };
    let programs: Vec<Program> =
        Deserialize::deserialize(said).map_err(|error| wrong(error.to_string()))?;
    for program in &programs {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if program.name.is_empty() || !program.name.chars().all(is_plain) {
            return Err(wrong(format!(
                "the name {:?} must be of letters, digits, '.', '_' and '-'",
                program.name
            )));
        }
        if program.file.is_some() == program.make.is_empty() {
            return Err(wrong(format!(
                "'{}': 'file' and 'make' belong together",
                program.name
            )));
        }
        let taken = |target: &Target| {
            target.name == program.name && target.kind.iter().any(|kind| kind == "bench")
        };
        let namesakes = programs.iter().filter(|other| other.name == program.name);
        if package.targets.iter().any(taken) || namesakes.count() > 1 {
            return Err(wrong(format!(
                "another target is called '{}' as well",
                program.name
            )));
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_in_urls_as_cargo_writes_them() {
        assert_eq!(in_url(Path::new("/a/b-1.0_c~d+e")), "/a/b-1.0_c~d+e");
        assert_eq!(in_url(Path::new("/a b/#1/50%")), "/a%20b/%231/50%25");
        assert_eq!(in_url(Path::new("/ü")), "/%C3%BC");
    }
}
