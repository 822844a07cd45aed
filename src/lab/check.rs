//! Commands of a project's own that say whether its results are right.

use std::process::Command;
use std::time::Duration;

use super::process::run;
use super::{Lab, LabError, Worktree};

/// A check may build first.
const CHECK_LIMIT: Duration = Duration::from_secs(3600);

impl Lab {
    /// Runs `command` in the project of a worktree, with what was built there at hand; the last line that it says.
    ///
    /// # Errors
    /// [`LabError::Ended`] with its last lines if the check does not hold.
    pub fn check(&self, tree: &Worktree<'_>, command: &[String]) -> Result<String, LabError> {
        let cargo = self.cargo(tree);
        let (program, arguments) = command.split_first().ok_or_else(|| LabError::Answer {
            program: "check".to_owned(),
            what: "names no command".to_owned(),
        })?;
        let mut check = Command::new(program);
        check.args(arguments).current_dir(tree.root());
        for (name, value) in cargo.get_envs() {
            match value {
                Some(value) => check.env(name, value),
                None => check.env_remove(name),
            };
        }
        let said = run(&mut check, CHECK_LIMIT, self.interrupt())?;
        let lines = said.lines().rev();
        let last = lines.map(str::trim).find(|line| !line.is_empty());
        Ok(last.unwrap_or_default().chars().take(200).collect())
    }
}
