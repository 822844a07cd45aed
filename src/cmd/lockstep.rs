//! Programs that take turns with another build of themselves. The protocol is [`crate::lab::lockstep`]'s.

use std::io::{BufRead, Read, Write, stdin, stdout};

use anyhow::{Context, ensure};

use super::Outcome;
use crate::lab::lockstep::{Hello, VERSION};
use crate::record::BenchId;

/// A question is an empty line; whoever sends more than this asks something else.
const MAX_QUESTION_BYTES: u64 = 256;

/// Says what is measured, and answers each question with the nanoseconds of a pass until standard input ends.
///
/// # Errors
/// What `pass` fails with, a question that is none, or standard output that nobody reads.
pub fn take_turns(
    id: BenchId,
    mut pass: impl FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Outcome> {
    let hello = Hello {
        lockstep: VERSION,
        id,
    };
    let mut out = stdout().lock();
    let mut say = |line: &str| {
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .context("standard output")
    };
    say(&serde_json::to_string(&hello)?)?;
    let mut questions = stdin().lock();
    let mut question = String::new();
    loop {
        question.clear();
        let mut bounded = Read::take(&mut questions, MAX_QUESTION_BYTES);
        if bounded.read_line(&mut question).context("standard input")? == 0 {
            return Ok(Outcome::Clean);
        }
        ensure!(
            question.ends_with('\n') && question.trim().is_empty(),
            "a question is an empty line, not {:?}",
            question.trim()
        );
        say(&pass()?.to_string())?;
    }
}
