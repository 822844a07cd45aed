//! The memory modules as the firmware lists them (SMBIOS, structures of type 17), and the bandwidth that they have in
//! theory. Most systems let only root read the list, and most virtual machines have none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use serde::Serialize;

/// The largest table that is read.
const MAX_BYTES: u64 = 1 << 20;

/// What the firmware says of the memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Modules {
    /// Modules that are plugged in.
    pub modules: usize,
    /// Their kind, such as `DDR5`.
    pub kind: String,
    /// Transfers a second of the slowest, in millions.
    pub megatransfers: u32,
    /// Channels that have a module.
    pub channels: usize,
    /// Whether the slots' names tell the channels; otherwise each module is taken for a channel of its own, so that the
    /// bandwidth is the most that it can be.
    pub channels_named: bool,
    /// Σ over channels of transfers × width, in 10⁹ bytes a second.
    pub theoretical_gbs: f64,
}

/// The running machine's modules; `None` where the firmware's table is not there or may not be read.
pub fn modules() -> Option<Modules> {
    let mut table = Vec::new();
    let file = File::open("/sys/firmware/dmi/tables/DMI").ok()?;
    file.take(MAX_BYTES).read_to_end(&mut table).ok()?;
    from_table(&table)
}

/// One module's line of the table.
struct Module {
    channel: Option<String>,
    kind: u8,
    megatransfers: u32,
    bytes_wide: u32,
}

fn from_table(table: &[u8]) -> Option<Modules> {
    let modules: Vec<Module> = Structures(table).filter_map(module).collect();
    let channels_named = modules.iter().all(|module| module.channel.is_some());
    // A channel runs at the rate of its slowest module.
    let mut channels: BTreeMap<String, u64> = BTreeMap::new();
    for (at, module) in modules.iter().enumerate() {
        let rate = u64::from(module.megatransfers) * u64::from(module.bytes_wide);
        let name = match &module.channel {
            Some(name) if channels_named => name.clone(),
            _ => at.to_string(),
        };
        let slowest = channels.entry(name).or_insert(rate);
        *slowest = rate.min(*slowest);
    }
    let slowest = modules.iter().map(|module| module.megatransfers).min()?;
    Some(Modules {
        modules: modules.len(),
        kind: kind_name(modules.first()?.kind).to_owned(),
        megatransfers: slowest,
        channels: channels.len(),
        channels_named,
        theoretical_gbs: channels.values().sum::<u64>() as f64 / 1e3,
    })
}

/// A structure's fixed part, of which byte 4 is the first that means something, and the strings behind it.
type Structure<'a> = (&'a [u8], Vec<String>);

/// Walks the table; ends where it is damaged.
struct Structures<'a>(&'a [u8]);

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        let length = usize::from(*self.0.get(1)?);
        if length < 4 {
            return None;
        }
        let fixed = self.0.get(..length)?;
        let behind = &self.0[length..];
        let end = behind.windows(2).position(|pair| pair == [0, 0])?;
        let strings = behind[..end].split(|byte| *byte == 0);
        let strings = strings.map(|text| String::from_utf8_lossy(text).into_owned());
        self.0 = &behind[end + 2..];
        Some((fixed, strings.collect()))
    }
}

/// The module that a structure describes; `None` for other structures, empty slots, and speeds that are not told.
fn module((fixed, strings): Structure) -> Option<Module> {
    const MEMORY_DEVICE: u8 = 17;
    let word = |at: usize| Some(u16::from_le_bytes(fixed.get(at..at + 2)?.try_into().ok()?));
    let string = |at: usize| {
        let number = usize::from(*fixed.get(at)?);
        strings.get(number.checked_sub(1)?)
    };
    if *fixed.first()? != MEMORY_DEVICE || word(0x0c)? == 0 {
        return None;
    }
    // What it was set to, or else what it could do; 0 is unknown, 0xffff is told elsewhere.
    let known = |speed: Option<u16>| speed.filter(|speed| !matches!(speed, 0 | 0xffff));
    let megatransfers = known(word(0x20)).or_else(|| known(word(0x15)))?;
    let bits = word(0x0a).filter(|bits| matches!(bits, 8..=512))?;
    let names = [string(0x11), string(0x10)];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    Some(Module {
        channel: channel(&names.join(" ")),
        kind: *fixed.get(0x12)?,
        megatransfers: megatransfers.into(),
        bytes_wide: u32::from(bits) / 8,
    })
}

/// Everything up to the letter or number of a channel: `P0 CHANNEL A`, `NODE 1 CHANNEL 3`.
fn channel(slot: &str) -> Option<String> {
    let slot = slot.to_ascii_uppercase();
    let (socket, rest) = slot.split_once("CHANNEL")?;
    let label: String = rest
        .trim_start_matches([' ', '_', '-'])
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    (!label.is_empty()).then(|| format!("{socket}CHANNEL {label}"))
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => "memory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(size: u16, speed: u16, configured: u16, bank: &str, slot: &str) -> Vec<u8> {
        let mut fixed = vec![0; 0x22];
        fixed[0] = 17;
        fixed[1] = 0x22;
        fixed[0x0a..0x0c].copy_from_slice(&64_u16.to_le_bytes());
        fixed[0x0c..0x0e].copy_from_slice(&size.to_le_bytes());
        (fixed[0x10], fixed[0x11], fixed[0x12]) = (1, 2, 0x22);
        fixed[0x15..0x17].copy_from_slice(&speed.to_le_bytes());
        fixed[0x20..0x22].copy_from_slice(&configured.to_le_bytes());
        fixed.extend(format!("{slot}\0{bank}\0\0").bytes());
        fixed
    }

    #[test]
    fn channels_are_counted_once() {
        let table = [
            vec![0, 4, 0, 0, b'x', 0, 0],
            device(0x7fff, 5600, 4800, "P0 CHANNEL A", "DIMM 0"),
            device(0x7fff, 5600, 4800, "P0 CHANNEL A", "DIMM 1"),
            device(0x7fff, 5600, 5200, "P0 CHANNEL B", "DIMM 0"),
            device(0, 0, 0, "P0 CHANNEL C", "DIMM 0"),
            vec![127, 4, 0, 0, 0, 0],
        ]
        .concat();
        let modules = from_table(&table).unwrap();
        assert_eq!((modules.modules, modules.channels), (3, 2));
        assert_eq!((modules.megatransfers, &*modules.kind), (4800, "DDR5"));
        assert!(modules.channels_named);
        assert_eq!(modules.theoretical_gbs, 80.0);
    }

    #[test]
    fn slots_without_names_are_channels_of_their_own() {
        let table = [
            device(8192, 3200, 0, "BANK 0", "DIMM_A1"),
            device(8192, 3200, 0, "BANK 1", "DIMM_B1"),
        ]
        .concat();
        let modules = from_table(&table).unwrap();
        assert!(!modules.channels_named);
        assert_eq!(modules.theoretical_gbs, 51.2);
    }

    #[test]
    fn damaged_tables_are_no_trouble() {
        let table = device(8192, 3200, 0, "BANK 0", "DIMM_A1");
        for end in 0..table.len() {
            assert!(from_table(&table[..end]).is_none_or(|modules| modules.modules <= 1));
        }
        for at in 0..table.len() {
            for byte in [0, 1, 17, 0xff] {
                let mut damaged = table.clone();
                damaged[at] = byte;
                from_table(&damaged);
            }
        }
        // A guest's module, whose speed nobody knows.
        assert_eq!(from_table(&device(8192, 0, 0, "", "DIMM 0")), None);
    }
}
