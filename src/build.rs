//! Tells the binary which commit it was built from, so that a result can name it.

use std::process::Command;

fn main() {
    // Outside a checkout (a packaged crate) nothing is known, which is said rather than guessed.
    let commit = git(&["rev-parse", "--short=9", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let number = git(&["rev-list", "--count", "HEAD"]).unwrap_or_else(|| "0".to_owned());
    println!("cargo::rustc-env=TOKGATE_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=TOKGATE_BUILD_NUMBER={number}");
    println!("cargo::rerun-if-changed=src/build.rs");
    if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={head}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}
