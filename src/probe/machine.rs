//! Which machine this is: the name under which its measurements are kept, so that figures of different machines are
//! never compared by accident.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Feature names that decide how fast code can run and that the same machine reports after every boot. Others, above
/// all those of mitigations, come and go with kernel and microcode.
const LASTING_FEATURES: [&str; 20] = [
    "aes",
    "amx",
    "asimd",
    "avx",
    "bf16",
    "bmi",
    "erms",
    "f16c",
    "fma",
    "fphp",
    "fsrm",
    "gfni",
    "hypervisor",
    "i8mm",
    "popcnt",
    "sha",
    "sme",
    "sse",
    "sve",
    "vaes",
];

/// The longest that a model name gets in a key.
const MAX_MODEL_SLUG: usize = 48;

/// The CPU as far as it tells machines apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    arch: String,
    vendor: String,
    model: String,
    family: String,
    stepping: String,
    features: BTreeSet<String>,
    cpus: u32,
    governor: Option<String>,
}

impl Machine {
    /// The running machine.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut machine = Self::from_cpuinfo(&cpuinfo, std::env::consts::ARCH);
        if machine.cpus == 0 {
            machine.cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        }
        if machine.model.is_empty() {
            machine.model = model_from_sysctl().unwrap_or_else(|| "unknown".to_owned());
        }
        let quota = fs::read_to_string("/sys/fs/cgroup/cpu.max");
        if let Some(quota) = quota.ok().and_then(|quota| cpus_in_quota(&quota)) {
            machine.cpus = machine.cpus.min(quota);
        }
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        machine.governor = governor.ok().map(|governor| governor.trim().to_owned());
        machine
    }

    /// What the text of Linux's `/proc/cpuinfo` tells of a machine of architecture `arch`.
    pub fn from_cpuinfo(cpuinfo: &str, arch: &str) -> Self {
        let value = |key: &str| {
            let of_key = |line: &str| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then(|| value.trim().to_owned())
            };
            cpuinfo.lines().find_map(of_key).unwrap_or_default()
        };
        let either = |first: String, second: String| if first.is_empty() { second } else { first };
        let features = either(value("flags"), value("Features"));
        let lasting = |name: &&str| {
            LASTING_FEATURES
                .iter()
                .any(|feature| name.starts_with(feature))
        };
        let processors = cpuinfo
            .lines()
            .filter(|line| {
                line.split(':')
                    .next()
                    .is_some_and(|key| key.trim() == "processor")
            })
            .count();
        Self {
            arch: arch.to_owned(),
            vendor: either(value("vendor_id"), value("CPU implementer")),
            model: value("model name"),
            family: either(value("cpu family"), value("CPU architecture")),
            stepping: either(
                join_known(["m", "s"], [value("model"), value("stepping")]),
                join_known(["p", "r"], [value("CPU part"), value("CPU revision")]),
            ),
            features: features
                .split_ascii_whitespace()
                .filter(lasting)
                .map(str::to_owned)
                .collect(),
            cpus: processors as u32,
            governor: None,
        }
    }

    /// The CPU's model name as it calls itself, such as `Intel(R) Xeon(R) Processor`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Logical CPUs that this system may use, whatever the affinity of the process.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The frequency governor, where the system tells one.
    pub fn governor(&self) -> Option<&str> {
        self.governor.as_deref()
    }

    /// The key of measurements taken with a clock, such as `x86_64-intel-xeon-processor-f6m207s2-2c-5d0f2c1b`.
    ///
    /// A virtual CPU's name says little, so family, model, stepping and the instruction sets are part of it, the last
    /// as a checksum. It stays the same over reboots, and changes where figures stop being comparable.
    pub fn key(&self) -> String {
        let mut parts = vec![slug(&self.arch)];
        parts.push(slug(&self.model));
        let family = slug(&self.family);
        let prefix = if family.is_empty() { "" } else { "f" };
        parts.push(format!("{prefix}{family}{}", slug(&self.stepping)));
        parts.push(format!("{}c", self.cpus));
        parts.push(self.checksum());
        parts.retain(|part| !part.is_empty());
        parts.join("-")
    }

    /// The key of counts under callgrind, such as `callgrind-x86_64-genuineintel-f6-rustc-1.95.0`: they hold for a CPU
    /// family, whose libc paths are the same, and for a compiler. `rustc` is what `rustc --version` prints.
    pub fn counts_key(&self, rustc: &str) -> String {
        let mut words = rustc.split_ascii_whitespace().skip(1);
        let version = words.next().unwrap_or("unknown");
        // The version of a nightly does not name a compiler; its commit does.
        let commit = if version.contains('-') {
            words.next().unwrap_or_default()
        } else {
            ""
        };
        let mut parts = vec!["callgrind".to_owned(), slug(&self.arch), slug(&self.vendor)];
        parts.push(format!("f{}", slug(&self.family)));
        parts.push(format!("rustc-{}", slug(version)));
        parts.push(slug(commit));
        parts.retain(|part| !part.is_empty());
        parts.join("-")
    }

    /// FNV-1a of the features: short, and the same on every build of this code.
    fn checksum(&self) -> String {
        let mut hash = 0x811c_9dc5_u32;
        for byte in self
            .features
            .iter()
            .flat_map(|name| name.bytes().chain([0]))
        {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
        format!("{hash:08x}")
    }
}

/// The values that are known, each behind its prefix.
fn join_known(prefixes: [&str; 2], values: [String; 2]) -> String {
    prefixes
        .iter()
        .zip(values)
        .filter(|(_, value)| !value.is_empty())
        .map(|(prefix, value)| format!("{prefix}{value}"))
        .collect()
}

/// CPUs' worth of time that a control group grants: `cpu.max` is "quota period" in microseconds, or "max period".
fn cpus_in_quota(cpu_max: &str) -> Option<u32> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    let cpus = quota.checked_add(period.checked_sub(1)?)? / period;
    u32::try_from(cpus).ok().filter(|cpus| *cpus > 0)
}

fn model_from_sysctl() -> Option<String> {
    let output = Command::new("sysctl")
        .args(["-n", "machdep.cpu.brand_string"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let model = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!model.is_empty()).then_some(model)
}

/// Lower-case letters, digits, dots and underscores of `text`, everything else as single dashes; marks of trade and
/// the nominal frequency are left out.
fn slug(text: &str) -> String {
    let text = text.split('@').next().unwrap_or_default();
    let text = text
        .replace("(R)", " ")
        .replace("(TM)", " ")
        .replace("CPU", " ");
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let words: Vec<&str> = text
        .split(|c| !allowed(c))
        .filter(|word| !word.is_empty())
        .collect();
    let mut slug = words.join("-").to_ascii_lowercase();
    slug.truncate(MAX_MODEL_SLUG);
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\n\
        model name\t: Intel(R) Xeon(R) Processor\nstepping\t: 2\ncpu MHz\t\t: 2300.000\n\
        flags\t\t: fpu sse2 avx2 fma ibrs avx512_vnni hypervisor\n\nprocessor\t: 1\nmodel name\t: x\n";

    const ARM: &str = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd i8mm bf16\n\
        CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd40\nCPU revision\t: 1\n";

    fn key(cpuinfo: &str) -> String {
        Machine::from_cpuinfo(cpuinfo, "x86_64").key()
    }

    #[test]
    fn a_virtual_cpu_with_a_common_name_has_a_key_of_its_own() {
        let guest = key(GUEST);
        assert!(
            guest.starts_with("x86_64-intel-xeon-processor-f6m207s2-2c-"),
            "{guest}"
        );
        for (was, becomes) in [
            ("model\t\t: 207", "model\t\t: 143"),
            ("stepping\t: 2", "stepping\t: 3"),
            ("cpu family\t: 6", "cpu family\t: 19"),
            (" avx512_vnni", ""),
            (" hypervisor", ""),
            ("Xeon(R) Processor", "Xeon(R) Gold 6430"),
            ("processor\t: 1\n", ""),
        ] {
            let other = key(&GUEST.replacen(was, becomes, 1));
            assert_ne!(other, guest, "{was}");
        }
    }

    #[test]
    fn the_key_outlives_what_a_boot_changes() {
        for (was, becomes) in [
            ("2300.000", "3100.123"),
            (" ibrs", " ibrs_enhanced md_clear"),
            ("sse2 avx2", "avx2 sse2"),
        ] {
            assert_eq!(key(&GUEST.replacen(was, becomes, 1)), key(GUEST));
        }
        assert_eq!(Machine::detect().key(), Machine::detect().key());
    }

    #[test]
    fn other_systems_have_keys_too() {
        let arm = Machine::from_cpuinfo(ARM, "aarch64");
        assert!(
            arm.key().starts_with("aarch64-f8p0xd40r1-1c-"),
            "{}",
            arm.key()
        );
        let nothing = Machine::from_cpuinfo("", "riscv64");
        assert_eq!(nothing.key(), "riscv64-0c-811c9dc5");
        let desktop = "model name : 11th Gen Intel(R) Core(TM) i7-1185G7 @ 3.00GHz";
        assert!(key(desktop).starts_with("x86_64-11th-gen-intel-core-i7-1185g7-"));
    }

    #[test]
    fn counts_are_keyed_by_family_and_compiler() {
        let guest = Machine::from_cpuinfo(GUEST, "x86_64");
        assert_eq!(
            guest.counts_key("rustc 1.95.0 (59807616e 2026-04-14)"),
            "callgrind-x86_64-genuineintel-f6-rustc-1.95.0"
        );
        assert_eq!(
            guest.counts_key("rustc 1.97.0-nightly (0123456789 2026-05-01)"),
            "callgrind-x86_64-genuineintel-f6-rustc-1.97.0-nightly-0123456789"
        );
    }

    #[test]
    fn a_quota_counts_as_cpus() {
        assert_eq!(cpus_in_quota("max 100000\n"), None);
        assert_eq!(cpus_in_quota("150000 100000\n"), Some(2));
        assert_eq!(cpus_in_quota("1000 100000"), Some(1));
        assert_eq!(cpus_in_quota("1000 0"), None);
        assert_eq!(cpus_in_quota(""), None);
    }
}
