//! `/proc/net/stat/nf_conntrack`: entries of the namespace, and what went wrong with them.
//!
//! Source: `ct_cpu_seq_show()` in `net/netfilter/nf_conntrack_standalone.c`. One line a
//! CPU, hexadecimal, columns named by the first line; names have come and gone.

use crate::nl::WireError;

/// The namespace's numbers, summed over the CPUs. A counter that the kernel does not have is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConntrackStat {
    /// Entries now.
    pub entries: u64,
    /// Packets that could not be tracked.
    pub invalid: u64,
    /// Entries that lost a race or found no place.
    pub insert_failed: u64,
    /// Packets dropped because the table was full.
    pub drop: u64,
    /// Entries thrown out before their time to make room.
    pub early_drop: u64,
}

/// Reads the file.
///
/// # Errors
/// No column `entries`, no line below the heading, or a value that is not hexadecimal.
pub fn parse(text: &str) -> Result<ConntrackStat, WireError> {
    const WHAT: &str = "nf_conntrack statistics";
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split_ascii_whitespace().collect();
    let mut stat = ConntrackStat::default();
    let mut entries = None;
    for line in lines {
        for (name, value) in names.iter().zip(line.split_ascii_whitespace()) {
            let sum = match *name {
                "entries" => entries.insert(0),
                "invalid" => &mut stat.invalid,
                "insert_failed" => &mut stat.insert_failed,
                "drop" => &mut stat.drop,
                "early_drop" => &mut stat.early_drop,
                _ => continue,
            };
            let value = u64::from_str_radix(value, 16)
                .map_err(|_| WireError::invalid(WHAT, format!("{name} is {value:?}")))?;
            // Every line repeats the count of entries: the last one stands.
            *sum = sum.saturating_add(value);
        }
    }
    stat.entries = entries.ok_or_else(|| WireError::invalid(WHAT, "no count of entries"))?;
    Ok(stat)
}
