//! The report in tables of 80 columns.

use std::collections::BTreeSet;
use std::fmt::Write;

use indicatif::BinaryBytes;

use crate::probe::Rate;
use crate::probe::report::Report;
use crate::probe::system::{Pages, System};

/// Columns of a name before its value.
const NAME: usize = 11;

/// Columns of a line.
const WIDTH: usize = 80;

/// Everything that was found out.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for (name, value) in system(report) {
        line(&mut out, name, &value);
    }
    memory(&mut out, report);
    working_sets(&mut out, report);
    peaks(&mut out, report);
    out
}

/// A name and its value, broken between words where it is too long.
fn line(out: &mut String, name: &str, value: &str) {
    let mut at = format!("{name:<NAME$} ");
    for word in value.split(' ') {
        if at.chars().count() + word.chars().count() >= WIDTH && at.trim() != name {
            let _ = writeln!(out, "{}", at.trim_end());
            at = " ".repeat(NAME + 1);
        }
        at += word;
        at.push(' ');
    }
    let _ = writeln!(out, "{}", at.trim_end());
}

fn system(report: &Report) -> Vec<(&'static str, String)> {
    let System {
        machine_key,
        cpu,
        topology,
        levels,
        preferred_level,
        caches,
        memory,
        virtualisation,
        pages,
        ..
    } = &report.system;
    let count = |n: usize, of: &str| match n {
        0 => None,
        1 => Some(format!("1 {of}")),
        n => Some(format!("{n} {of}s")),
    };
    let parts = [
        count(topology.cpus as usize, "CPU"),
        (topology.usable != topology.cpus as usize).then(|| format!("{} usable", topology.usable)),
        count(topology.cores, "core"),
        count(topology.sockets, "socket"),
        count(topology.numa_nodes, "NUMA node"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let caches: Vec<String> = caches
        .iter()
        .map(|cache| {
            let shared = match cache.shared_by {
                0 | 1 => String::new(),
                n => format!(" for {n} CPUs"),
            };
            let name = if cache.level == 1 { "L1d" } else { "L" };
            let level = if cache.level == 1 {
                String::new()
            } else {
                cache.level.to_string()
            };
            format!(
                "{name}{level} {} × {}{shared}",
                cache.instances,
                BinaryBytes(cache.bytes as u64)
            )
        })
        .collect();
    let modules = match &memory.modules {
        Some(modules) => format!(
            "{} × {} at {} MT/s on {} channels: {:.1} GB/s in theory{}",
            modules.modules,
            modules.kind,
            modules.megatransfers,
            modules.channels,
            modules.theoretical_gbs,
            if modules.channels_named {
                ""
            } else {
                " at most (the slots do not name their channels)"
            }
        ),
        None => "modules not told by the firmware, so no bandwidth in theory".to_owned(),
    };
    let activity = &report.activity;
    let told = |value: Option<f64>, unit: &str| {
        value.map_or("unknown".to_owned(), |value| format!("{value:.2}{unit}"))
    };
    vec![
        ("machine", machine_key.clone()),
        ("cpu", format!("{cpu}: {}", parts.join(", "))),
        (
            "runs on",
            virtualisation
                .clone()
                .unwrap_or_else(|| "the bare machine, as far as it tells".to_owned()),
        ),
        (
            "levels",
            format!("{}; {preferred_level} preferred", levels.join(", ")),
        ),
        ("clock", clock(report)),
        (
            "caches",
            if caches.is_empty() {
                "not told".to_owned()
            } else {
                caches.join(", ")
            },
        ),
        (
            "memory",
            format!(
                "{}, {} available; {modules}",
                BinaryBytes(memory.total),
                BinaryBytes(memory.available)
            ),
        ),
        ("pages", self::pages(pages)),
        (
            "meanwhile",
            format!(
                "others used {}, stolen {}, load average {}",
                told(activity.others_cpus, " CPUs"),
                told(activity.steal_pct, " %"),
                told(activity.load_1m, "")
            ),
        ),
    ]
}

fn clock(report: &Report) -> String {
    let measured: Vec<String> = report
        .clock
        .iter()
        .map(|row| format!("{:.2} GHz ({} busy)", row.ghz.median, row.threads))
        .collect();
    let frequency = &report.system.frequency;
    let mut parts = vec![if measured.is_empty() {
        "not measured".to_owned()
    } else {
        format!("measured {}", measured.join(", "))
    }];
    if let Some(mhz) = frequency.told_mhz {
        parts.push(format!("the system says {:.2}", mhz / 1e3));
    }
    if let (Some(min), Some(max)) = (frequency.min_mhz, frequency.max_mhz) {
        parts.push(format!("allowed {:.2} to {:.2}", min / 1e3, max / 1e3));
    }
    parts.push(match (&frequency.governor, &frequency.driver) {
        (Some(governor), Some(driver)) => format!("governor {governor} ({driver})"),
        (Some(governor), None) => format!("governor {governor}"),
        _ => "no governor to be seen".to_owned(),
    });
    if let Some(boost) = frequency.boost {
        parts.push(format!("boost {}", if boost { "on" } else { "off" }));
    }
    parts.join("; ")
}

fn pages(pages: &Pages) -> String {
    let told = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "none".to_owned());
    let pools: Vec<String> = pages
        .hugetlb
        .iter()
        .map(|pool| {
            format!(
                "{} of {} × {} free",
                pool.free,
                pool.total,
                BinaryBytes(pool.page_bytes)
            )
        })
        .collect();
    format!(
        "transparent huge pages {}, for shared memory {}; hugetlb {}",
        told(&pages.transparent),
        told(&pages.transparent_shmem),
        if pools.is_empty() {
            "none".to_owned()
        } else {
            pools.join(", ")
        }
    )
}

/// Median ± spread (best), in 17 columns.
fn rate(rate: &Rate) -> String {
    let decimals = usize::from(rate.best < 99.95);
    format!(
        "{:.decimals$} ±{:.0} % ({:.decimals$})",
        rate.median, rate.spread_pct, rate.best
    )
}

fn memory(out: &mut String, report: &Report) {
    let Some(first) = report.memory.first() else {
        return;
    };
    let _ = writeln!(
        out,
        "\nmemory, GB/s: median ± spread (best); arrays of {}",
        BinaryBytes(first.array_bytes as u64)
    );
    let _ = writeln!(
        out,
        "threads {:>17} {:>17} {:>17} {:>17}",
        "read", "copy", "triad", "read, 4K pages"
    );
    for row in &report.memory {
        let _ = write!(out, "{:>7}", row.threads);
        for one in [&row.read, &row.copy, &row.triad, &row.read_small_pages] {
            let _ = write!(out, " {:>17}", rate(one));
        }
        out.push('\n');
    }
    let theory = report.system.memory.modules.as_ref();
    if let (Some(theory), Some(last)) = (theory, report.memory.last()) {
        let pct = 100.0 * last.read.median / theory.theoretical_gbs;
        let _ = writeln!(out, "read is {pct:.0} % of the bandwidth in theory");
    }
}

fn working_sets(out: &mut String, report: &Report) {
    let threads: BTreeSet<usize> = report.working_sets.iter().map(|set| set.threads).collect();
    let sizes: BTreeSet<usize> = report.working_sets.iter().map(|set| set.bytes).collect();
    if sizes.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nread again and again, GB/s");
    let _ = write!(out, "{:>11}", "a thread's");
    for threads in &threads {
        let plural = if *threads == 1 { "" } else { "s" };
        let _ = write!(out, " {:>26}", format!("{threads} thread{plural}"));
    }
    out.push('\n');
    for bytes in sizes {
        let _ = write!(out, "{:>11}", BinaryBytes(bytes as u64).to_string());
        for threads in &threads {
            let set = report
                .working_sets
                .iter()
                .find(|set| set.bytes == bytes && set.threads == *threads);
            let cell = set.map_or(String::new(), |set| {
                format!("{:<17} {:>4}", rate(&set.read), set.fits)
            });
            let _ = write!(out, " {cell:>26}");
        }
        out.push('\n');
    }
}

fn peaks(out: &mut String, report: &Report) {
    let _ = writeln!(out, "\nmultiply–accumulates from registers, GMAC/s");
    if report.peaks.is_empty() {
        let _ = writeln!(out, "no loops for this architecture");
        return;
    }
    let _ = writeln!(
        out,
        "{:<5} {:<10} {:>7} {:>17} {:>7}  instructions",
        "type", "level", "threads", "", "a cycle"
    );
    for peak in &report.peaks {
        let clock = report.clock.iter().find(|row| row.threads == peak.threads);
        let a_cycle = clock.map_or(String::new(), |row| {
            let cycles = row.ghz.median * peak.threads as f64;
            format!("{:.1}", peak.macs.median / cycles)
        });
        let _ = writeln!(
            out,
            "{:<5} {:<10} {:>7} {:>17} {a_cycle:>7}  {}",
            peak.factor,
            peak.tier,
            peak.threads,
            rate(&peak.macs),
            peak.instructions
        );
    }
}
