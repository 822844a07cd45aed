//! Arguments of `tokgate probe`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::positive;

/// Arguments of `probe`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Rates are medians ± spread (scaled median absolute deviation) and the best in
parentheses. Bytes: a read counts what is read, a copy what is read and written,
a triad its two reads and its write; writes go past the caches.

Examples:
  tokgate probe
  tokgate probe --threads 1,2 --svg roofline.svg -o json > probe.json"
)]
pub struct ProbeArgs {
    /// Something narrower than everything.
    #[command(subcommand)]
    pub what: Option<ProbeCommand>,

    /// Threads, each pinned to a CPU [default: 1, 2, 4 … and all cores].
    #[arg(short, long, value_delimiter = ',', value_name = "N", value_parser = positive)]
    pub threads: Vec<usize>,

    /// Bytes of each of the three arrays, such as 512M [default: four times the last-level cache, at least 256M].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<u64>,

    /// Seconds to measure, about.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub time: f64,

    /// Draw a roofline picture (SVG) to this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Output on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ProbeFormat,
}

/// What `probe` can measure alone.
#[derive(Debug, Subcommand)]
pub enum ProbeCommand {
    /// Move files of a tmpfs with 1, 1, 2, 4 and 8 processes, and measure the memory beside it.
    Memory(ProbeMemoryArgs),
}

/// Arguments of `probe memory`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every process writes a file of its own, reads it, and reads it again, all processes
at the same time. That times system calls, page faults and copies, as programs pay
them that read files; the table below it is the memory itself. The files have no
names and are gone when the program ends, however it ends.

Example:
  tokgate probe memory --size 4G --log memory.txt")]
pub struct ProbeMemoryArgs {
    /// Bytes of each process's file, such as 4G; less where all together would fill half of the available memory.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    pub size: u64,

    /// Processes at a time, round after round.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,1,2,4,8", value_parser = processes)]
    pub processes: Vec<usize>,

    /// Where the files are made.
    #[arg(long = "dir", value_name = "FOLDER", default_value = "/dev/shm")]
    pub folder: PathBuf,

    /// Write the text to this file as well.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Output on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ProbeFormat,

    /// Be one of the processes, told by standard input what to do.
    #[arg(long, hide = true)]
    pub worker: bool,
}

/// Output format of `probe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeFormat {
    /// Tables of 80 columns.
    Text,
    /// One JSON object, with rates in 10⁹ a second.
    Json,
}

/// Bytes: a number, with K, M, G or T for powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.trim_end_matches(['I', 'B']);
    let (number, shift) = match number.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(rest) => {
            let shift = match number.as_bytes()[rest.len()] {
                b'K' => 10,
                b'M' => 20,
                b'G' => 30,
                _ => 40,
            };
            (rest, shift)
        }
        None => (number, 0),
    };
    let bytes = number
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(0) | None => Err("must be a size such as 512M or 4G".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}

fn processes(text: &str) -> Result<usize, String> {
    positive(text).and_then(|number| match number {
        1..=256 => Ok(number),
        _ => Err("must be at most 256".to_owned()),
    })
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number of seconds from 0 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("4G"), Ok(4 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("123"), Ok(123));
        for wrong in ["", "G", "0", "-1", "1.5G", "4X", "99999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_finite() {
        assert_eq!(seconds("2.5"), Ok(2.5));
        for wrong in ["-1", "inf", "NaN", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
