//! `/proc/net/snmp`: counters of a namespace, a line of names and a line of values per protocol.
//!
//! Source: `snmp_seq_show()` in `net/ipv4/proc.c`.

use crate::nl::WireError;

/// UDP datagrams that were read from their sockets, those of the kernel itself included
/// (`UDP_MIB_INDATAGRAMS`, counted in `udp_recvmsg()`, `net/ipv4/udp.c`).
///
/// # Errors
/// No such counter, or it is no number.
pub fn udp_in_datagrams(text: &str) -> Result<u64, WireError> {
    const WHAT: &str = "snmp";
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let at = names.split_ascii_whitespace().position(|name| name == "InDatagrams");
    let value = at.and_then(|at| values.split_ascii_whitespace().nth(at));
    let value = value.ok_or_else(|| WireError::invalid(WHAT, "no Udp InDatagrams"))?;
    value.parse().map_err(|_| WireError::invalid(WHAT, format!("InDatagrams is {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Icmp: InMsgs\nIcmp: 3\n\
                        Udp: InDatagrams NoPorts InErrors\nUdp: 369 1 2\n\
                        UdpLite: InDatagrams NoPorts\nUdpLite: 7 0\n";

    #[test]
    fn the_counter_is_found_by_its_name() {
        assert_eq!(udp_in_datagrams(TEXT).unwrap(), 369);
        let swapped = TEXT.replace("InDatagrams NoPorts InErrors", "NoPorts InDatagrams InErrors");
        assert_eq!(udp_in_datagrams(&swapped).unwrap(), 1);
    }

    #[test]
    fn other_texts_have_none() {
        let unlike = [TEXT.replace("369", "x"), TEXT.replace("Udp: 369 1 2\n", "")];
        for text in
            unlike.iter().map(String::as_str).chain(["", "Udp: InDatagrams", "Udp: \nUdp: 1"])
        {
            assert!(udp_in_datagrams(text).is_err(), "{text}");
        }
    }
}
