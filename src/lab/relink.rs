//! Links what was compiled once in another order.
//!
//! WHY not by the compiler: another argument for the linker is another compilation of the crate, seconds to a minute for
//! each link. `rustc --print link-args` tells how it called the linker, and `-C save-temps` leaves it the objects, so that
//! the same call with one argument more takes a tenth of a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::run;
use super::{Lab, LabError};

/// The longest that linking may take.
const LIMIT: Duration = Duration::from_secs(600);

/// How the linker was called for a target of a slot, and for what.
pub(super) struct Call {
    /// The file that the compiler wrote.
    pub args: PathBuf,
    /// The file with the name of what was compiled.
    of: PathBuf,
}

impl Call {
    /// That of `target`, among what cargo builds into `folder`.
    pub fn of(folder: &Path, target: &str) -> Self {
        let file = |ending: &str| folder.join("tokgate").join(format!("{target}.{ending}"));
        Self {
            args: file("link-args"),
            of: file("compiled"),
        }
    }

    /// Makes room for a compilation, of which nothing is known until it is over.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn prepare(&self) -> Result<(), LabError> {
        let folder = self.args.parent().unwrap_or(&self.args);
        fs::create_dir_all(folder).map_err(LabError::io(folder))?;
        if !self.of.exists() {
            return Ok(());
        }
        fs::remove_file(&self.of).map_err(LabError::io(&self.of))
    }

    /// Keeps that `name` was compiled.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn keep(&self, name: &str) -> Result<(), LabError> {
        fs::write(&self.of, name).map_err(LabError::io(&self.of))
    }

    /// Whether the objects are those of `name`.
    pub fn is_of(&self, name: &str) -> bool {
        fs::read_to_string(&self.of).is_ok_and(|of| of == name)
    }
}

impl Lab {
    /// Links again, in `folder`, with the sections of the code in an order drawn from `seed`, into `to`. `None` if the
    /// compiler's call is in no form that is known.
    ///
    /// # Errors
    /// [`LabError`] with the linker's last lines.
    pub(super) fn relink(
        &self,
        call: &Call,
        folder: &Path,
        seed: u32,
        to: &Path,
    ) -> Result<Option<()>, LabError> {
        let text = fs::read_to_string(&call.args).map_err(LabError::io(&call.args))?;
        let Some(mut linking) = command(&text, to) else {
            return Ok(None);
        };
        // What debuggers read is most of a file, and no part of what runs.
        linking.args([&shuffle(seed), "-Wl,--strip-debug"]);
        linking.current_dir(folder);
        run(&mut linking, LIMIT, self.interrupt()).map(|_| Some(()))
    }
}

/// What has the linker put sections of code in an order drawn from `seed`.
pub(super) fn shuffle(seed: u32) -> String {
    format!("-Wl,--shuffle-sections=.text*={seed}")
}

/// The call that `text` tells, with another output. The compiler writes it as Rust's `Command` is shown: `env -u` for
/// variables that are unset, then those that are set, the program, and its arguments, each in quotes.
fn command(text: &str, to: &Path) -> Option<Command> {
    let mut rest = text.trim();
    let (mut unset, mut set, mut words) = (Vec::new(), Vec::new(), Vec::new());
    while !rest.is_empty() {
        let end = rest.find([' ', '"']).unwrap_or(rest.len());
        let (bare, after) = rest.split_at(end);
        if let Some(quoted) = after.strip_prefix('"') {
            let (word, after) = unquoted(quoted)?;
            match bare.strip_suffix('=') {
                Some(variable) if words.is_empty() => set.push((variable, word)),
                None if bare.is_empty() => words.push(word),
                _ => return None,
            }
            rest = after.trim_start();
        } else {
            if bare == "-u" {
                let name = after.trim_start();
                let (name, after) = name.split_once(' ')?;
                unset.push(name);
                rest = after.trim_start();
                continue;
            }
            if bare != "env" {
                return None;
            }
            rest = after.trim_start();
        }
    }
    let (program, args) = words.split_first()?;
    let mut command = Command::new(program);
    unset.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.envs(set);
    let mut outputs = 0;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        command.arg(arg);
        if arg == "-o" {
            args.next()?;
            command.arg(to);
            outputs += 1;
        }
    }
    (outputs == 1).then_some(command)
}

/// The text up to the closing quote, as Rust's `Debug` escapes it, and what follows the quote. `None` for bytes that are
/// not UTF-8.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((word, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => word.push('\n'),
                'r' => word.push('\r'),
                't' => word.push('\t'),
                '0' => word.push('\0'),
                'u' => {
                    let (at, _) = chars.next().filter(|(_, brace)| *brace == '{')?;
                    let (number, _) = text[at + 1..].split_once('}')?;
                    word.push(char::from_u32(u32::from_str_radix(number, 16).ok()?)?);
                    chars.nth(number.len())?;
                }
                plain @ ('"' | '\'' | '\\') => word.push(plain),
                _ => return None,
            },
            _ => word.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_command_is_understood() {
        let awkward = "a \"b\" \\ \u{1b}\n'c' é $HOME";
        let mut shown = Command::new("/usr/bin/c c");
        shown.args(["-m64", awkward, "-o", "old", "-Wl,-x"]);
        shown
            .env("LC_ALL", "C")
            .env("VSLANG", "10 33")
            .env_remove("SDK");
        let read = command(&format!("{shown:?}\n"), Path::new("new")).unwrap();
        shown = Command::new("/usr/bin/c c");
        shown.args(["-m64", awkward, "-o", "new", "-Wl,-x"]);
        shown
            .env("LC_ALL", "C")
            .env("VSLANG", "10 33")
            .env_remove("SDK");
        assert_eq!(format!("{read:?}"), format!("{shown:?}"));
    }

    #[test]
    fn what_is_no_call_of_a_linker_is_none() {
        for text in [
            "",
            "\"cc\"",
            "\"cc\" \"-o\"",
            "\"cc\" \"-o\" \"a\" \"-o\" \"b\"",
            "\"cc\" \"-o\" \"a",
            "\"cc\" \"-o\" \"\\x80\"",
            "cc -o a",
            "A=b \"cc\" \"-o\" \"a\"",
        ] {
            assert!(command(text, Path::new("new")).is_none(), "{text}");
        }
    }
}
