//! The bytes of the maps, as `bpf/*.c` declare them: native numbers, big-endian addresses and ports.

use std::net::{IpAddr, Ipv6Addr};

/// An address of 16 bytes, IPv4 as `::ffff:a.b.c.d`. None: any, all zeros.
pub(crate) fn address(address: Option<IpAddr>) -> [u8; 16] {
    match address {
        None => [0; 16],
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(v6)) => v6.octets(),
    }
}

/// The way back.
pub(crate) fn address_of(bytes: [u8; 16]) -> Option<IpAddr> {
    (bytes != [0; 16]).then(|| Ipv6Addr::from(bytes).to_canonical())
}

/// Takes fixed pieces off the front of a value; zeros where it is too short, which only a map of
/// another version can be.
#[derive(Debug)]
pub(crate) struct Pieces<'a>(pub &'a [u8]);

impl Pieces<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut piece = [0; N];
        let (head, tail) = self.0.split_at(N.min(self.0.len()));
        piece[..head.len()].copy_from_slice(head);
        self.0 = tail;
        piece
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }
}

/// A text of at most `N - 1` bytes with zeros behind.
pub(crate) fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

/// The way back.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
