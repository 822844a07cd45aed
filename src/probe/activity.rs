//! What else ran while something was measured.

use std::fs;
use std::time::Instant;

use serde::Serialize;

/// The system's counters at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    at: Instant,
    counters: Option<Counters>,
}

/// Clock ticks since the system started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    /// Of all CPUs: user, nice, system, interrupts.
    busy: u64,
    /// Of all CPUs, everything.
    all: u64,
    /// Time that a hypervisor gave to others while there was work here.
    steal: u64,
    /// Of this process.
    own: u64,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Activity {
    /// Seconds between the two.
    pub seconds: f64,
    /// CPUs' worth of time that other processes used.
    pub others_cpus: Option<f64>,
    /// Of the CPUs' time, what a hypervisor gave to others while there was work here, in percent.
    pub steal_pct: Option<f64>,
    /// Load average of the last minute, at the end.
    pub load_1m: Option<f64>,
}

impl Snapshot {
    /// This moment's.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").ok();
        let own = fs::read_to_string("/proc/self/stat").ok();
        Self {
            at: Instant::now(),
            counters: stat.zip(own).and_then(|(stat, own)| counters(&stat, &own)),
        }
    }

    /// What happened since.
    pub fn until_now(&self) -> Activity {
        let now = Self::now();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut activity = Activity {
            seconds: (now.at - self.at).as_secs_f64(),
            load_1m: load.split(' ').next().and_then(|load| load.parse().ok()),
            ..Activity::default()
        };
        if let (Some(was), Some(is)) = (self.counters, now.counters) {
            activity.others_cpus = others_cpus(was, is, activity.seconds);
            let all = is.all.saturating_sub(was.all);
            let steal = is.steal.saturating_sub(was.steal);
            activity.steal_pct = (all > 0).then(|| 100.0 * steal as f64 / all as f64);
        }
        activity
    }
}

/// Busy time that is not this process's, over the time of one CPU, which is all CPUs' over their number; a tick more of
/// this process than of the system is none.
fn others_cpus(was: Counters, is: Counters, seconds: f64) -> Option<f64> {
    let others = (is.busy - was.busy.min(is.busy)).saturating_sub(is.own - was.own.min(is.own));
    // Ticks are a hundredth of a second on every Linux that people run.
    (seconds > 0.0).then(|| others as f64 / 100.0 / seconds)
}

fn counters(stat: &str, own: &str) -> Option<Counters> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    // The name is in parentheses and may hold anything; utime and stime are the 14th and 15th fields.
    let (_, rest) = own.rsplit_once(')')?;
    let mut times = rest
        .split_ascii_whitespace()
        .skip(11)
        .map_while(|field| field.parse::<u64>().ok());
    let busy = user
        .checked_add(nice)?
        .checked_add(system)?
        .checked_add(irq)?
        .checked_add(softirq)?;
    Some(Counters {
        busy,
        all: busy
            .checked_add(idle)?
            .checked_add(iowait)?
            .checked_add(steal)?,
        steal,
        own: times.next()?.checked_add(times.next()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 20 30 400 5 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
    const OWN: &str =
        "42 (a) b) R 1 42 42 0 -1 4194304 100 0 0 0 33 11 0 0 20 0 1 0 100 1 1 1 1 1 1 1\n";

    #[test]
    fn counters_are_read() {
        let read = counters(STAT, OWN).unwrap();
        let want = Counters {
            busy: 163,
            all: 576,
            steal: 8,
            own: 44,
        };
        assert_eq!(read, want);
        assert_eq!(counters("cpu 1 2 3", OWN), None);
        assert_eq!(counters(STAT, "42 (a"), None);
        assert_eq!(counters("", ""), None);
        assert_eq!(
            counters(&format!("cpu {0} {0} 1 1 1 1 1 1", u64::MAX), OWN),
            None
        );
    }

    #[test]
    fn the_others_are_what_is_not_ours() {
        let was = Counters::default();
        let is = Counters {
            busy: 300,
            all: 400,
            steal: 40,
            own: 200,
        };
        assert_eq!(others_cpus(was, is, 2.0), Some(0.5));
        assert_eq!(others_cpus(is, was, 2.0), Some(0.0));
        assert_eq!(others_cpus(was, is, 0.0), None);
        assert!(Snapshot::now().until_now().seconds >= 0.0);
    }
}
