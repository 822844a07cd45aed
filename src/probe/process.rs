//! What this process uses, and what the system says of the cores while it runs: counters at one moment, and what
//! changed between two.
//!
//! | figure | source |
//! |---|---|
//! | CPU time | `/proc/self/stat`, fields `utime` and `stime`, in ticks of 10 ms |
//! | page faults that waited for a disk | `/proc/self/stat`, field `majflt` |
//! | resident memory, its peak | `/proc/self/status`, `VmRSS` and `VmHWM` |
//! | what is mapped of a file, in huge pages and in all | `/proc/self/smaps`, `FilePmdMapped` and `Rss` |
//! | bytes that a disk gave or got | `/proc/self/io`, `read_bytes` and `write_bytes`; pages of a mapped file count |
//! | reads and writes | `/proc/self/io`, `syscr` and `syscw`: calls, wherever their bytes came from |
//! | time that a hypervisor gave to others | `/proc/stat`, field `steal` of all CPUs |
//! | energy | `/sys/class/powercap/intel-rapl:*/energy_uj`, packages only; often readable by root alone |
//! | thermal throttling | `/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count` |
//! | frequency | `cpufreq/scaling_cur_freq` of each CPU, or "cpu MHz" of `/proc/cpuinfo` |
//!
//! Each is `None` where the system does not tell it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use procfs::process::{MMapPath, Process};
use serde::{Deserialize, Serialize};

/// Ticks of a second on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;

/// The counters at one moment.
#[derive(Clone, Debug)]
pub struct Moment {
    at: Instant,
    ticks: Option<(u64, u64)>,
    major_faults: Option<u64>,
    io: Option<Io>,
    /// Ticks of all CPUs: stolen, and all.
    steal: Option<(u64, u64)>,
    energy_uj: Option<Vec<Energy>>,
    throttles: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Io {
    read_bytes: u64,
    write_bytes: u64,
    reads: u64,
    writes: u64,
}

/// The counter of a package, and where it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Energy {
    microjoules: u64,
    range: u64,
}

/// What happened between two moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds between the two.
    pub wall_s: f64,
    /// CPU time in user mode.
    pub user_s: Option<f64>,
    /// CPU time in the kernel.
    pub system_s: Option<f64>,
    /// Page faults that waited for a disk.
    pub major_faults: Option<u64>,
    /// Bytes that a disk gave.
    pub read_bytes: Option<u64>,
    /// Bytes that a disk got, or will get.
    pub write_bytes: Option<u64>,
    /// Calls that read.
    pub reads: Option<u64>,
    /// Calls that wrote.
    pub writes: Option<u64>,
    /// Share of the CPUs' time that a hypervisor gave to others while there was work here, in percent.
    pub steal_pct: Option<f64>,
    /// Energy of all packages, whoever used it.
    pub joules: Option<f64>,
    /// How often a core was throttled for heat.
    pub throttles: Option<u64>,
}

/// Memory of this process and of the system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident now.
    pub rss: Option<u64>,
    /// The most that was ever resident.
    pub hwm: Option<u64>,
    /// All that the system has.
    pub total: Option<u64>,
    /// What programs could still get.
    pub available: Option<u64>,
}

/// What is in memory of files that this process maps, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// In pages of any size.
    pub resident: u64,
    /// In huge pages.
    pub huge: u64,
}

impl Moment {
    /// This moment's counters.
    pub fn now() -> Self {
        let text = |path: &str| fs::read_to_string(path).ok();
        let stat = text("/proc/self/stat");
        let fields = stat.as_deref().and_then(stat_fields);
        Self {
            ticks: fields.map(|(_, user, system)| (user, system)),
            major_faults: fields.map(|(faults, ..)| faults),
            io: text("/proc/self/io").as_deref().and_then(io),
            steal: text("/proc/stat").as_deref().and_then(steal),
            energy_uj: energy(Path::new("/sys/class/powercap")),
            throttles: throttles(Path::new("/sys/devices/system/cpu")),
            at: Instant::now(),
        }
    }

    /// What happened from this moment to `later`.
    pub fn until(&self, later: &Self) -> Usage {
        let (was, is) = (self, later);
        let ticks = was.ticks.zip(is.ticks);
        let seconds = |was: u64, is: u64| is.saturating_sub(was) as f64 / TICKS_PER_SECOND;
        let io = |field: fn(&Io) -> u64| {
            let (was, is) = (was.io?, is.io?);
            Some(field(&is).saturating_sub(field(&was)))
        };
        let count = |was: Option<u64>, is: Option<u64>| Some(is?.saturating_sub(was?));
        Usage {
            wall_s: (is.at - was.at).as_secs_f64(),
            user_s: ticks.map(|(was, is)| seconds(was.0, is.0)),
            system_s: ticks.map(|(was, is)| seconds(was.1, is.1)),
            major_faults: count(was.major_faults, is.major_faults),
            read_bytes: io(|io| io.read_bytes),
            write_bytes: io(|io| io.write_bytes),
            reads: io(|io| io.reads),
            writes: io(|io| io.writes),
            steal_pct: was.steal.zip(is.steal).and_then(|(was, is)| {
                let all = is.1.saturating_sub(was.1);
                let stolen = is.0.saturating_sub(was.0);
                (all > 0).then(|| 100.0 * stolen as f64 / all as f64)
            }),
            joules: was
                .energy_uj
                .as_ref()
                .zip(is.energy_uj.as_ref())
                .map(|(was, is)| {
                    let parts = was.iter().zip(is).map(|(was, is)| was.until(*is));
                    parts.sum::<u64>() as f64 / 1e6
                }),
            throttles: count(was.throttles, is.throttles),
        }
    }
}

impl Energy {
    /// Microjoules from here to `later`; the counter may have started again once.
    fn until(self, later: Self) -> u64 {
        if later.microjoules >= self.microjoules {
            later.microjoules - self.microjoules
        } else {
            (self.range.saturating_sub(self.microjoules)).saturating_add(later.microjoules)
        }
    }
}

impl Usage {
    /// CPU time, user and system.
    pub fn cpu_s(&self) -> Option<f64> {
        Some(self.user_s? + self.system_s?)
    }
}

impl Memory {
    /// This moment's.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let system = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            rss: kibibytes(&status, "VmRSS"),
            hwm: kibibytes(&status, "VmHWM"),
            total: kibibytes(&system, "MemTotal"),
            available: kibibytes(&system, "MemAvailable"),
        }
    }
}

impl Mapped {
    /// Of a file, or of all files in a folder.
    pub fn of(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let mut mapped = Self::default();
        for map in Process::myself().ok()?.smaps().ok()? {
            if matches!(&map.pathname, MMapPath::Path(file) if file.starts_with(&path)) {
                let bytes = |what| map.extension.map.get(what).copied().unwrap_or_default();
                mapped.resident += bytes("Rss");
                mapped.huge += bytes("FilePmdMapped");
            }
        }
        Some(mapped)
    }
}

/// Mean frequency of all CPUs at this moment, in MHz.
pub fn mhz() -> Option<f64> {
    let folders = fs::read_dir("/sys/devices/system/cpu")
        .into_iter()
        .flatten()
        .flatten();
    let scaling: Vec<f64> = folders
        .filter_map(|folder| number(&folder.path().join("cpufreq/scaling_cur_freq")))
        .map(|khz| khz as f64 / 1e3)
        .collect();
    if !scaling.is_empty() {
        return mean(&scaling);
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let told: Vec<f64> = cpuinfo
        .lines()
        .filter_map(|line| {
            line.strip_prefix("cpu MHz")?
                .split_once(':')?
                .1
                .trim()
                .parse()
                .ok()
        })
        .collect();
    mean(&told)
}

fn mean(figures: &[f64]) -> Option<f64> {
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}

/// `majflt`, `utime` and `stime`: the 12th, 14th and 15th fields. The name, in parentheses, may hold anything.
fn stat_fields(stat: &str) -> Option<(u64, u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse().ok();
    Some((field(9)?, field(11)?, field(12)?))
}

fn io(text: &str) -> Option<Io> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some(Io {
        read_bytes: field("read_bytes")?,
        write_bytes: field("write_bytes")?,
        reads: field("syscr")?,
        writes: field("syscw")?,
    })
}

/// Ticks of all CPUs that were stolen, and all of them.
fn steal(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let stolen = *fields.get(7)?;
    Some((
        stolen,
        fields
            .iter()
            .fold(0, |sum, field| sum.saturating_add(*field)),
    ))
}

fn energy(folder: &Path) -> Option<Vec<Energy>> {
    let mut packages: Vec<_> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // Packages are `intel-rapl:0`, their parts `intel-rapl:0:0`, which are counted in them.
    packages.retain(|path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        name.starts_with("intel-rapl:") && name.matches(':').count() == 1
    });
    packages.sort();
    let read = |path: &std::path::PathBuf| {
        Some(Energy {
            microjoules: number(&path.join("energy_uj"))?,
            range: number(&path.join("max_energy_range_uj"))?,
        })
    };
    let counters: Option<Vec<Energy>> = packages.iter().map(read).collect();
    counters.filter(|counters| !counters.is_empty())
}

fn throttles(folder: &Path) -> Option<u64> {
    let counts: Vec<u64> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|cpu| number(&cpu.path().join("thermal_throttle/core_throttle_count")))
        .collect();
    (!counts.is_empty()).then(|| {
        counts
            .iter()
            .fold(0, |sum: u64, count| sum.saturating_add(*count))
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of a line `name:   123 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_damaged_ones_are_none() {
        let stat = "42 (a) b) R 1 42 42 0 -1 4194304 100 0 7 0 33 11 0 0 20 0 1 0 100 1 1 1";
        assert_eq!(stat_fields(stat), Some((7, 33, 11)));
        assert_eq!(stat_fields("42 (a) R 1 42"), None);
        assert_eq!(stat_fields(""), None);
        let text = "rchar: 9\nwchar: 9\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 0\n";
        let read = io(text).unwrap();
        assert_eq!((read.read_bytes, read.reads, read.writes), (4096, 3, 4));
        assert_eq!(io("syscr: 3"), None);
        assert_eq!(steal("cpu  1 2 3 4 5 6 7 8 9 9\n"), Some((8, 36)));
        assert_eq!(steal("cpu  1 2 3\n"), None);
        assert_eq!(kibibytes("VmRSS:\t    12 kB\n", "VmRSS"), Some(12_288));
        assert_eq!(kibibytes("VmRSS: 18446744073709551615 kB", "VmRSS"), None);
    }

    #[test]
    fn energy_counters_start_again() {
        let energy = |microjoules| Energy {
            microjoules,
            range: 1000,
        };
        assert_eq!(energy(10).until(energy(30)), 20);
        assert_eq!(energy(990).until(energy(30)), 40);
    }

    #[test]
    fn a_stretch_of_work_is_seen() {
        let before = Moment::now();
        let usage = before.until(&Moment::now());
        assert!(usage.wall_s >= 0.0);
        assert!(usage.cpu_s().is_none_or(|seconds| seconds >= 0.0));
        let memory = Memory::now();
        assert!(
            memory
                .rss
                .zip(memory.hwm)
                .is_none_or(|(rss, hwm)| rss <= hwm)
        );
    }
}
