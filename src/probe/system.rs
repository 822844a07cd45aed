//! What the machine consists of, as the system tells it. Everything is optional: containers and virtual machines hide
//! much, and other systems than Linux nearly all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokgate_kernels::Level;

use super::dmi::{self, Modules};
use super::machine::Machine;

/// More CPUs than this are not looked at.
const MAX_CPUS: usize = 4096;

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct System {
    /// The key under which its measurements are kept.
    pub machine_key: String,
    /// The CPU's name.
    pub cpu: String,
    /// How its CPUs belong together.
    pub topology: Topology,
    /// The kernel levels that it has, lowest first.
    pub levels: Vec<String>,
    /// The level that kernels run at unless told otherwise.
    pub preferred_level: String,
    /// Frequency, as far as the system sets or tells it.
    pub frequency: Frequency,
    /// Caches for data, smallest first.
    pub caches: Vec<Cache>,
    /// Memory.
    pub memory: Memory,
    /// Sizes of pages.
    pub pages: Pages,
    /// Whether this is a virtual machine or a container, and of which kind; `None` if nothing says so.
    pub virtualisation: Option<String>,
}

/// Logical CPUs and what they share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Logical CPUs that the system may use.
    pub cpus: u32,
    /// Logical CPUs that this process may run on.
    pub usable: usize,
    /// Cores; 0 if nobody tells. A virtual machine may call threads of one core cores.
    pub cores: usize,
    /// Sockets; 0 if nobody tells.
    pub sockets: usize,
    /// NUMA nodes; 0 if nobody tells.
    pub numa_nodes: usize,
}

/// Frequency of the first CPU, in MHz.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Frequency {
    /// The policy that chooses the frequency; not told to most virtual machines.
    pub governor: Option<String>,
    /// The driver that sets it.
    pub driver: Option<String>,
    /// Whether the CPU may exceed its nominal frequency.
    pub boost: Option<bool>,
    /// The lowest that is allowed.
    pub min_mhz: Option<f64>,
    /// The highest that is allowed.
    pub max_mhz: Option<f64>,
    /// What the system believes it to be.
    pub told_mhz: Option<f64>,
}

/// A cache that holds data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u32,
    /// Bytes of one instance.
    pub bytes: usize,
    /// Logical CPUs that share an instance.
    pub shared_by: usize,
    /// Instances.
    pub instances: usize,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// All that the system has.
    pub total: u64,
    /// What programs can get without swapping.
    pub available: u64,
    /// Swap in use.
    pub swap_used: u64,
    /// What the firmware says of the modules.
    pub modules: Option<Modules>,
}

/// Pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pages {
    /// When transparent huge pages are given: `always`, `madvise` or `never`.
    pub transparent: Option<String>,
    /// The same for tmpfs and shared memory.
    pub transparent_shmem: Option<String>,
    /// Pools of pages that are kept for who asks for them by size.
    pub hugetlb: Vec<HugePool>,
}

/// Pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HugePool {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Of these, pages that nobody uses.
    pub free: u64,
}

impl System {
    /// The running machine.
    pub fn detect() -> Self {
        let machine = Machine::detect();
        let root = Path::new("/");
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            machine_key: machine.key(),
            cpu: machine.model().to_owned(),
            topology: topology(root, &machine),
            levels: Level::available().map(|level| level.to_string()).collect(),
            preferred_level: Level::preferred().to_string(),
            frequency: frequency(root, &cpuinfo),
            caches: caches(root),
            memory: Memory {
                total: meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0),
                available: meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(0),
                swap_used: swap_used(&meminfo),
                modules: dmi::modules(),
            },
            pages: pages(root),
            virtualisation: virtualisation(root, &cpuinfo),
        }
    }

    /// Bytes of an instance of the cache of `level`, if there is one.
    pub fn cache(&self, level: u32) -> Option<&Cache> {
        self.caches.iter().find(|cache| cache.level == level)
    }

    /// Bytes of last-level cache that `threads` have together, when each is on a CPU of its own.
    pub fn last_cache(&self, threads: usize) -> usize {
        let last = self.caches.last();
        last.map_or(0, |cache| {
            cache
                .bytes
                .saturating_mul(cache.instances.min(threads).max(1))
        })
    }
}

/// Memory that programs can get without swapping, in bytes; 0 if nobody tells.
pub fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(0)
}

fn meminfo_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn swap_used(meminfo: &str) -> u64 {
    let bytes = |key| meminfo_bytes(meminfo, key).unwrap_or(0);
    bytes("SwapTotal").saturating_sub(bytes("SwapFree"))
}

fn text(path: PathBuf) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The folders of CPUs that are on.
fn cpus(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("sys/devices/system/cpu");
    let online = text(folder.join("online")).unwrap_or_default();
    let folders = list(&online)
        .into_iter()
        .map(|cpu| folder.join(format!("cpu{cpu}")));
    folders.collect()
}

/// The numbers of a list such as `0-3,8`.
fn list(text: &str) -> BTreeSet<usize> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            numbers.extend(first..=last.min(first.saturating_add(MAX_CPUS)));
        }
    }
    numbers
}

fn topology(root: &Path, machine: &Machine) -> Topology {
    let (mut cores, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for cpu in cpus(root) {
        let id = |name: &str| text(cpu.join("topology").join(name));
        if let (Some(socket), Some(core)) = (id("physical_package_id"), id("core_id")) {
            let die = id("die_id").unwrap_or_default();
            cores.insert((socket.clone(), die, core));
            sockets.insert(socket);
        }
    }
    let nodes = text(root.join("sys/devices/system/node/online")).unwrap_or_default();
    Topology {
        cpus: machine.cpus(),
        usable: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        cores: cores.len(),
        sockets: sockets.len(),
        numa_nodes: list(&nodes).len(),
    }
}

fn caches(root: &Path) -> Vec<Cache> {
    // An instance is known by its level and the CPUs that share it.
    let mut instances: BTreeMap<(u32, BTreeSet<usize>), usize> = BTreeMap::new();
    for cpu in cpus(root) {
        for index in 0..8 {
            let value = |name: &str| text(cpu.join(format!("cache/index{index}")).join(name));
            let kind = value("type").unwrap_or_default();
            let level = value("level").and_then(|level| level.parse().ok());
            let bytes = value("size").and_then(|size| bytes(&size));
            if let (Some(level), Some(bytes), "Data" | "Unified") = (level, bytes, kind.as_str()) {
                let shared = list(&value("shared_cpu_list").unwrap_or_default());
                instances.insert((level, shared), bytes);
            }
        }
    }
    let mut caches: BTreeMap<u32, Cache> = BTreeMap::new();
    for ((level, shared), bytes) in instances {
        // Cores of two kinds have caches of two sizes; the smaller is what threads can count on.
        let cache = caches.entry(level).or_insert(Cache {
            level,
            bytes,
            shared_by: shared.len(),
            instances: 0,
        });
        cache.bytes = cache.bytes.min(bytes);
        cache.shared_by = cache.shared_by.max(shared.len());
        cache.instances += 1;
    }
    caches.into_values().collect()
}

/// Bytes of `512K` or `32M`.
fn bytes(size: &str) -> Option<usize> {
    let number = size.trim_end_matches(['K', 'M', 'G']);
    let unit = match &size[number.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

fn frequency(root: &Path, cpuinfo: &str) -> Frequency {
    let folder = root.join("sys/devices/system/cpu");
    let value = |name: &str| text(folder.join("cpu0/cpufreq").join(name));
    let mhz = |name: &str| value(name)?.parse::<f64>().ok().map(|khz| khz / 1e3);
    let told = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'))
        .and_then(|(_, mhz)| mhz.trim().parse().ok());
    let boost = text(folder.join("cpufreq/boost")).map(|boost| boost == "1");
    let no_turbo = text(folder.join("intel_pstate/no_turbo")).map(|off| off == "0");
    Frequency {
        governor: value("scaling_governor"),
        driver: value("scaling_driver"),
        boost: boost.or(no_turbo),
        min_mhz: mhz("scaling_min_freq"),
        max_mhz: mhz("scaling_max_freq"),
        told_mhz: mhz("scaling_cur_freq").or(told),
    }
}

fn pages(root: &Path) -> Pages {
    let mm = root.join("sys/kernel/mm");
    // The choice is in brackets among the possible ones.
    let chosen = |name: &str| {
        let all = text(mm.join("transparent_hugepage").join(name))?;
        let (_, rest) = all.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    let mut hugetlb = Vec::new();
    let folders = fs::read_dir(mm.join("hugepages")).into_iter().flatten();
    for folder in folders.flatten() {
        let name = folder.file_name();
        let kib = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        let count = |name: &str| text(folder.path().join(name))?.parse().ok();
        if let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) {
            hugetlb.push(HugePool {
                page_bytes: kib.saturating_mul(1024),
                total: count("nr_hugepages").unwrap_or(0),
                free: count("free_hugepages").unwrap_or(0),
            });
        }
    }
    hugetlb.sort_by_key(|pool| pool.page_bytes);
    Pages {
        transparent: chosen("enabled"),
        transparent_shmem: chosen("shmem_enabled"),
        hugetlb,
    }
}

fn virtualisation(root: &Path, cpuinfo: &str) -> Option<String> {
    let guest = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split(' ').any(|flag| flag == "hypervisor"));
    let dmi = |name: &str| text(root.join("sys/class/dmi/id").join(name));
    let mut parts = Vec::new();
    if guest {
        let product = [dmi("sys_vendor"), dmi("product_name")];
        let product: Vec<String> = product.into_iter().flatten().collect();
        parts.push(if product.is_empty() {
            "virtual machine".to_owned()
        } else {
            format!("virtual machine ({})", product.join(" "))
        });
    }
    let container = text(root.join("run/systemd/container"));
    let docker = root
        .join(".dockerenv")
        .exists()
        .then(|| "docker".to_owned());
    if let Some(kind) = container.or(docker) {
        parts.push(format!("container ({kind})"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn caches_and_topology_of_two_cores_with_two_threads_each() {
        let mut files = vec![
            ("sys/devices/system/cpu/online".to_owned(), "0-3\n"),
            ("sys/devices/system/node/online".to_owned(), "0\n"),
        ];
        for cpu in 0..4 {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            let core = ["0\n", "1\n"][cpu / 2];
            files.push((format!("{folder}/topology/core_id"), core));
            files.push((format!("{folder}/topology/physical_package_id"), "0\n"));
            let caches = [
                ("Data", "1", "32K", ["0-1", "2-3"][cpu / 2]),
                ("Instruction", "1", "32K", ["0-1", "2-3"][cpu / 2]),
                ("Unified", "2", "512K", ["0-1", "2-3"][cpu / 2]),
                ("Unified", "3", "32M", "0-3"),
            ];
            for (index, (kind, level, size, shared)) in caches.into_iter().enumerate() {
                let folder = format!("{folder}/cache/index{index}");
                files.push((format!("{folder}/type"), kind));
                files.push((format!("{folder}/level"), level));
                files.push((format!("{folder}/size"), size));
                files.push((format!("{folder}/shared_cpu_list"), shared));
            }
        }
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        let root = tree(&files);
        let cache = |level, bytes, shared_by, instances| Cache {
            level,
            bytes,
            shared_by,
            instances,
        };
        assert_eq!(
            caches(root.path()),
            [
                cache(1, 32 << 10, 2, 2),
                cache(2, 512 << 10, 2, 2),
                cache(3, 32 << 20, 4, 1)
            ]
        );
        let topology = topology(root.path(), &Machine::from_cpuinfo("", "x86_64"));
        assert_eq!(
            (topology.cores, topology.sockets, topology.numa_nodes),
            (2, 1, 1)
        );
    }

    #[test]
    fn choices_are_in_brackets() {
        let root = tree(&[
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always [madvise] never\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                "12\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                "3\n",
            ),
            (".dockerenv", ""),
        ]);
        let pages = pages(root.path());
        assert_eq!(pages.transparent.as_deref(), Some("madvise"));
        assert_eq!(pages.transparent_shmem, None);
        assert_eq!(
            pages.hugetlb,
            [HugePool {
                page_bytes: 2 << 20,
                total: 12,
                free: 3
            }]
        );
        assert_eq!(
            virtualisation(root.path(), "flags : fpu hypervisor sse\n").as_deref(),
            Some("virtual machine, container (docker)")
        );
    }

    #[test]
    fn nothing_told_is_nothing_known() {
        let root = tree(&[]);
        assert!(caches(root.path()).is_empty());
        assert_eq!(virtualisation(root.path(), "flags : fpu\n"), None);
        assert_eq!(frequency(root.path(), ""), Frequency::default());
        assert_eq!(list("x-3,,7,5-6"), BTreeSet::from([5, 6, 7]));
        assert_eq!(bytes("12Q"), None);
        assert_eq!(meminfo_bytes("MemTotal: 12 kB\n", "MemTotal"), Some(12288));
        assert_eq!(meminfo_bytes("MemTotal: 12\n", "MemTotal"), None);
        assert!(System::detect().topology.usable > 0);
    }
}
