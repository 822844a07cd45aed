//! The model of a rank that may have no file of it.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use crate::cli::MemberArgs;
use crate::cluster::exchange::Exchange;
use crate::cluster::send::{Cache, Watcher, provide as send};
use crate::whole::cache_folder;

/// `mpirun` makes a pipe of every rank's standard error: there, a line now and then tells how far it is.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where this rank's model is, after rank 0 sent it to those that lack it.
///
/// # Errors
/// If rank 0 has none, it cannot be kept, or a rank is lost.
pub fn provide(
    args: &MemberArgs,
    exchange: &mut Exchange<'_>,
    threads: usize,
) -> anyhow::Result<PathBuf> {
    let default = || cache_folder().join("weights");
    let folder = args.weights_cache.clone().unwrap_or_else(default);
    let cache = Cache {
        folder: &folder,
        threads,
    };
    let teller = Teller::new(exchange.rank());
    let provided = send(exchange, &args.model.model, cache, &teller);
    teller.bar.finish_and_clear();
    Ok(provided?.path)
}

/// Tells the user on standard error.
struct Teller {
    rank: usize,
    bar: ProgressBar,
    last: Cell<Option<Instant>>,
}

impl Teller {
    fn new(rank: usize) -> Self {
        let style = ProgressStyle::with_template(
            "sending {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        );
        Self {
            rank,
            // It draws nothing where standard error is not a terminal.
            bar: ProgressBar::no_length().with_style(style.expect("the template is correct")),
            last: Cell::new(None),
        }
    }
}

impl Watcher for Teller {
    fn sent(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let due = self
            .last
            .get()
            .is_none_or(|last| last.elapsed() > LINE_EVERY)
            || done == total;
        if due && !stderr().is_terminal() {
            self.last.set(Some(Instant::now()));
            self.say(&format!(
                "sent {} of {}, {:.0} MB/s",
                DecimalBytes(done),
                DecimalBytes(total),
                done as f64 / 1e6 / self.bar.elapsed().as_secs_f64().max(1e-3)
            ));
        }
    }

    fn say(&self, what: &str) {
        self.bar.suspend(|| crate::cluster::tell(self.rank, what));
    }
}
