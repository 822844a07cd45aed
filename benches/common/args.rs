//! What the command line selects, read as criterion reads it.
//!
//! Criterion does not tell which benches its filter lets through. Knowing it beforehand is what makes it possible to
//! count them, to say how long they will take, and to make no input (let alone a model) for a bench that is not run.

use regex::Regex;

/// Options of criterion that are followed by a value: the word after them is no filter.
const WITH_VALUE: [&str; 20] = [
    "-b",
    "-c",
    "-s",
    "--baseline",
    "--baseline-lenient",
    "--color",
    "--colour",
    "--confidence-level",
    "--format",
    "--load-baseline",
    "--measurement-time",
    "--noise-threshold",
    "--nresamples",
    "--output-format",
    "--plotting-backend",
    "--profile-time",
    "--sample-size",
    "--save-baseline",
    "--significance-level",
    "--warm-up-time",
];

/// What is to be done with the selected benches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Time them.
    Measure,
    /// Print their names.
    List,
    /// Run each once (`cargo bench -- --test`), or run in a loop for a profiler.
    Once,
    /// Run the small ones once: `cargo test` builds without optimisation and runs every target it finds.
    Smoke,
}

/// The command line of a bench target.
#[derive(Clone, Debug)]
pub struct Args {
    /// What to do.
    pub mode: Mode,
    /// Whether the user chose the sampling, which then holds for all benches.
    pub own_sampling: bool,
    /// What iai-callgrind understands as well, in its way of writing it.
    pub for_callgrind: Vec<String>,
    filter: Filter,
}

#[derive(Clone, Debug)]
enum Filter {
    All,
    None,
    Exact(String),
    Regex(Regex),
}

impl Args {
    /// Reads the arguments of this process, which criterion must have accepted already.
    pub fn from_env() -> Self {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(words: impl Iterator<Item = String>) -> Self {
        let (mut flags, mut text, mut for_callgrind) = (Vec::new(), None, Vec::new());
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            if word == "--" {
                text = words.next().or(text);
            } else if word.starts_with('-') && word.len() > 1 {
                let value = WITH_VALUE
                    .contains(&word.as_str())
                    .then(|| words.next())
                    .flatten();
                for_callgrind.extend(callgrind_word(&word, value.as_deref()));
                flags.push(word);
            } else {
                text = Some(word);
            }
        }
        let given = |name: &str| {
            let with_value = |flag: &String| {
                flag.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('='))
            };
            flags.iter().any(|flag| flag == name || with_value(flag))
        };
        let mode = if given("--list") {
            Mode::List
        } else if !given("--bench") {
            Mode::Smoke
        } else if given("--test") || given("--profile-time") {
            Mode::Once
        } else {
            Mode::Measure
        };
        let filter = match text {
            _ if given("--ignored") => Filter::None,
            None => Filter::All,
            Some(text) if given("--exact") => Filter::Exact(text),
            // Criterion has refused what is no regular expression.
            Some(text) => Regex::new(&text).map_or(Filter::None, Filter::Regex),
        };
        let sampling = [
            "--sample-size",
            "--measurement-time",
            "--warm-up-time",
            "--quick",
        ];
        Self {
            mode,
            own_sampling: sampling.into_iter().any(given),
            for_callgrind,
            filter,
        }
    }

    /// Whether the bench `id` is selected.
    pub fn selects(&self, id: &str) -> bool {
        match &self.filter {
            Filter::All => true,
            Filter::None => false,
            Filter::Exact(exact) => id == exact,
            Filter::Regex(regex) => regex.is_match(id),
        }
    }
}

/// An option of criterion as iai-callgrind wants it, if that has it; an option of iai-callgrind's own as it is.
fn callgrind_word(word: &str, value: Option<&str>) -> Option<String> {
    let shared = ["--save-baseline", "--baseline", "--load-baseline"];
    let name = match word {
        "-s" => "--save-baseline",
        "-b" => "--baseline",
        _ => word,
    };
    match value {
        Some(value) => shared.contains(&name).then(|| format!("{name}={value}")),
        None => {
            let own = |prefix: &&str| word.starts_with(&format!("{prefix}="));
            let is_own = shared.iter().any(own) || word.starts_with("--callgrind-");
            is_own.then(|| word.to_owned())
        }
    }
}
