//! `/proc/net/sockstat` and `sockstat6`: how many sockets there are, at almost no cost.
//!
//! Source: `sockstat_seq_show()` in `net/ipv4/proc.c`, `sockstat6_seq_show()` in
//! `net/ipv6/proc.c`.

use crate::nl::WireError;

/// TCP sockets in numbers. Only what says so belongs to the namespace whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SockStat {
    /// The namespace's IPv4 sockets in any state but TIME_WAIT, listeners included.
    pub tcp_inuse: u64,
    /// The namespace's IPv6 sockets, likewise.
    pub tcp6_inuse: u64,
    /// Sockets that no process holds any more, of the whole machine.
    pub orphan: u64,
    /// The namespace's sockets in TIME_WAIT, IPv4 and IPv6.
    pub tw: u64,
    /// TCP sockets allocated, of the whole machine.
    pub alloc: u64,
    /// Pages of memory in TCP buffers, of the whole machine.
    pub mem_pages: u64,
}

/// Reads both files; `sockstat6` is empty where there is no IPv6.
///
/// # Errors
/// No line `TCP:` with `inuse` in `sockstat`, or a value that is no number.
pub fn parse(sockstat: &str, sockstat6: &str) -> Result<SockStat, WireError> {
    const WHAT: &str = "sockstat";
    let mut stat = SockStat::default();
    let mut inuse = None;
    for (name, value) in pairs(sockstat, "TCP:") {
        let value = number(WHAT, name, value)?;
        match name {
            "inuse" => inuse = Some(value),
            "orphan" => stat.orphan = value,
            "tw" => stat.tw = value,
            "alloc" => stat.alloc = value,
            "mem" => stat.mem_pages = value,
            _ => {}
        }
    }
    stat.tcp_inuse = inuse.ok_or_else(|| WireError::invalid(WHAT, "no TCP sockets in use"))?;
    for (name, value) in pairs(sockstat6, "TCP6:") {
        if name == "inuse" {
            stat.tcp6_inuse = number("sockstat6", name, value)?;
        }
    }
    Ok(stat)
}

/// The `name value` pairs of the line that begins with `label`.
fn pairs<'a>(text: &'a str, label: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or("");
    let mut words = line.split_ascii_whitespace();
    std::iter::from_fn(move || Some((words.next()?, words.next().unwrap_or(""))))
}

fn number(what: &'static str, name: &str, value: &str) -> Result<u64, WireError> {
    value.parse().map_err(|_| WireError::invalid(what, format!("{name} is {value:?}")))
}
