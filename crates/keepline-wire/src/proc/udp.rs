//! `/proc/net/udp`: UDP sockets of a namespace, those of the kernel itself included.
//!
//! Source: `udp4_format_sock()` in `net/ipv4/udp.c`.

use std::net::{Ipv4Addr, SocketAddrV4};

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpSocket {
    /// Own address.
    pub local: SocketAddrV4,
    /// Bytes received and not read yet, with what the kernel needs to keep them.
    pub receive_queue: u64,
    /// Datagrams dropped because that was full.
    pub drops: u64,
}

/// Reads one line; an error says what is wrong with it. The heading is no socket.
///
/// # Errors
/// A field is missing or no number of its kind.
pub fn parse_line(line: &str) -> Result<UdpSocket, String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at).copied().ok_or_else(|| format!("no field {at}"));
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).map_err(|_| format!("`{text}`"));
    let (address, port) = field(1)?.split_once(':').ok_or("no local address")?;
    let address = u32::from_str_radix(address, 16).map_err(|_| format!("`{address}`"))?;
    let port = u16::from_str_radix(port, 16).map_err(|_| format!("`{port}`"))?;
    let (_, receive) = field(4)?.split_once(':').ok_or("no queues")?;
    // The address is printed as the number that its bytes are in memory.
    let address = Ipv4Addr::from(address.to_ne_bytes());
    Ok(UdpSocket {
        local: SocketAddrV4::new(address, port),
        receive_queue: hexadecimal(receive)?,
        drops: field(12)?.parse().map_err(|_| "drops are no number".to_owned())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As printed by kernel 6.1 with a backup daemon of IPVS on `lo`.
    const LINE: &str = "  733: 510000E0:2290 00000000:0000 07 00000000:00000A00 00:00000000 \
                        00000000     0        0 18342 2 00000000a3c0bd4e 7";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_kernel() {
        let socket = parse_line(LINE).unwrap();
        assert_eq!(socket.local, "224.0.0.81:8848".parse().unwrap());
        assert_eq!((socket.receive_queue, socket.drops), (2560, 7));
    }

    #[test]
    fn other_lines_are_no_sockets() {
        let heading =
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        for line in ["", "x", heading, &LINE[..70], &LINE.replace("2290", "zz")] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
