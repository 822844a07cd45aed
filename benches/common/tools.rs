//! Whether what counts instructions is installed, and whether that matters to whoever called.

use std::process::Command;

/// The runner must have the library's version to the last digit.
const RUNNER_VERSION: &str = "0.16.1";

/// What is missing and how to get it; `None` if all is there.
pub fn missing() -> Option<String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("iai-callgrind's counts are taken on x86-64 Linux only".to_owned());
    }
    let mut advice = Vec::new();
    if output("valgrind").is_none() {
        advice.push(
            "valgrind is not installed; get it from your system's packages (apt-get install valgrind)"
                .to_owned(),
        );
    }
    let install = format!("cargo install iai-callgrind-runner --version {RUNNER_VERSION} --locked");
    match output(option_env!("IAI_CALLGRIND_RUNNER").unwrap_or("iai-callgrind-runner")) {
        None => advice.push(format!(
            "iai-callgrind-runner is not in the PATH; {install}"
        )),
        // Called without a library it names its own version in an error.
        Some(text) if !text.contains(&format!("({RUNNER_VERSION})")) => advice.push(format!(
            "iai-callgrind-runner is not of version {RUNNER_VERSION}; {install}"
        )),
        Some(_) => {}
    }
    (!advice.is_empty()).then(|| advice.join("; "))
}

/// Whether the user named this bench target, rather than to run all that there are. Cargo does not tell its children;
/// its own command line does.
pub fn asked_for(target: &str) -> bool {
    #[cfg(target_os = "linux")]
    {
        let path = format!("/proc/{}/cmdline", std::os::unix::process::parent_id());
        let Ok(command) = std::fs::read(path) else {
            return false;
        };
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        let ours = words.iter().take_while(|word| **word != b"--");
        let ours: Vec<&[u8]> = ours.copied().collect();
        let with_equals = format!("--bench={target}");
        ours.windows(2)
            .any(|pair| pair == [b"--bench", target.as_bytes()])
            || ours.contains(&with_equals.as_bytes())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = target;
        false
    }
}

/// What a program answers to `--version`, on either stream; `None` if it cannot be run.
fn output(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let streams = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&streams).into_owned())
}
