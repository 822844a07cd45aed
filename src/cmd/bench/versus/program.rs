//! Somebody's llama-bench, as a program.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::cli::BenchArgs;
use crate::record::llama_bench::{Theirs, test_name};
use crate::throughput::Case;

/// The most that is read of what the program prints.
const MAX_OUTPUT: u64 = 16 << 20;

/// The lines of its complaint that are passed on.
const COMPLAINT: usize = 8;

/// A program that takes llama-bench's arguments and prints its JSON.
pub struct Program {
    path: PathBuf,
    extra: Vec<String>,
}

impl Program {
    /// The program at `path`, called with `extra` arguments as well, which are separated by spaces.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn new(path: &Path, extra: &[String]) -> anyhow::Result<Self> {
        if !path.is_file() {
            bail!(
                "{} is no file; --llama-bench takes the path of llama.cpp's program llama-bench",
                path.display()
            );
        }
        let words = extra.iter().flat_map(|text| text.split_ascii_whitespace());
        Ok(Self {
            // A name without a slash would be looked for in the PATH.
            path: path
                .canonicalize()
                .with_context(|| path.display().to_string())?,
            extra: words.map(str::to_owned).collect(),
        })
    }

    /// The extra arguments.
    pub fn extra(&self) -> &[String] {
        &self.extra
    }

    /// Calls the program for one test.
    ///
    /// # Errors
    /// If it cannot be started, fails, or prints another test's result or none.
    pub fn measure(
        &self,
        args: &BenchArgs,
        model: &Path,
        case: Case,
        threads: usize,
    ) -> anyhow::Result<Theirs> {
        let mut command = Command::new(&self.path);
        command.arg("-m").arg(model);
        let (prompt, generated) = match (case.n_prompt, case.n_gen) {
            (prompt, generated) if prompt > 0 && generated > 0 => {
                command.args(["-pg", &format!("{prompt},{generated}")]);
                (0, 0)
            }
            alone => alone,
        };
        command.args(["-p", &prompt.to_string(), "-n", &generated.to_string()]);
        if case.n_depth > 0 {
            // Older programs do not know it.
            command.args(["-d", &case.n_depth.to_string()]);
        }
        command.args(["-t", &threads.to_string(), "-ub", &case.ubatch.to_string()]);
        command.args(["-r", &args.repetitions.to_string(), "-o", "json"]);
        command.args(&self.extra);
        let shown = format!("{command:?}");
        let output = self.output(command).with_context(|| shown.clone())?;
        let asked = test_name(case.n_prompt as u64, case.n_gen as u64, case.n_depth as u64);
        let results = Theirs::parse(&output)
            .with_context(|| format!("{shown} did not print llama-bench's JSON"))?;
        let fits = |result: &&Theirs| result.test() == asked && result.n_threads == threads as u64;
        let Some(result) = results.iter().find(fits) else {
            let seen: Vec<String> = results
                .iter()
                .map(|result| format!("{} at {} threads", result.test(), result.n_threads))
                .collect();
            bail!(
                "{shown} was asked for {asked} at {threads} threads and measured {}; tests and threads are chosen by \
                 the options of `tokgate bench`, not in --llama-bench-args",
                if seen.is_empty() {
                    "nothing".to_owned()
                } else {
                    seen.join(", ")
                }
            );
        };
        if !(result.avg_ts.is_finite() && result.avg_ts > 0.0) {
            bail!("{shown} measured {} tokens a second", result.avg_ts);
        }
        Ok(result.clone())
    }

    fn output(&self, mut command: Command) -> anyhow::Result<String> {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("it could not be started")?;
        // Both are read at once: a program that waits for one of them to be taken would never end.
        let stderr = child.stderr.take();
        let complaint = std::thread::spawn(move || bounded(stderr));
        let output = bounded(child.stdout.take());
        let status = child.wait()?;
        let complaint = complaint.join().unwrap_or_default();
        if !status.success() {
            let lines: Vec<&str> = complaint.lines().collect();
            let last = &lines[lines.len().saturating_sub(COMPLAINT)..];
            bail!("it ended with {status}:\n{}", last.join("\n"));
        }
        Ok(output)
    }
}

/// What comes from a pipe, up to the limit; what comes after it is taken and thrown away, so that nobody waits.
fn bounded(pipe: Option<impl Read>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut bytes = Vec::new();
    // What was read before an error is all that there is.
    let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}
