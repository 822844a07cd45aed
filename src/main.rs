//! Parses the command line, runs one subcommand, and turns its outcome into an exit code:
//! 0 clean, 1 a regression was found, 2 wrong usage or trouble on the way.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(text) = tokgate::cli::topic(std::env::args_os()) {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    let cli = tokgate::cli::Cli::of_process();
    match tokgate::cmd::run(cli) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            // Messages quote what files say, and nothing in those may act on the terminal.
            let text = format!("tokgate: {error:#}\n");
            let line = text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
            // In one piece, as processes that a launcher started may write at the same time.
            eprint!("{line}");
            ExitCode::from(2)
        }
    }
}
