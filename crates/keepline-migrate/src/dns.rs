//! One question to the resolver of the network namespace that the caller's thread is in.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

/// The Engine's resolver, in every container that has a network with names.
const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// It answers from memory. A name that it does not know it passes on to servers outside, which
/// may take longer than anybody waits here.
const PATIENCE: Duration = Duration::from_secs(2);

/// Record type A (RFC 1035, 3.2.2).
const A: u16 = 1;
/// Record type AAAA (RFC 3596, 2.1).
const AAAA: u16 = 28;

/// Addresses of `name`, both kinds; none where it is not known.
///
/// # Errors
/// When there is no resolver.
pub(crate) fn ask(name: &str) -> io::Result<BTreeSet<IpAddr>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut addresses = BTreeSet::new();
    for (id, kind) in [(0x4b4c, A), (0x4b4d, AAAA)] {
        socket.send(&question(id, name, kind))?;
        let mut answer = [0; 4096];
        match socket.recv(&mut answer) {
            Ok(length) => addresses.extend(parse(&answer[..length], id)),
            // Passed on, and nobody answers: not known here.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        // A service has addresses of one kind.
        if !addresses.is_empty() {
            break;
        }
    }
    Ok(addresses)
}

/// A query with one question (RFC 1035, 4.1).
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut query = Vec::new();
    // Flags: recursion desired; one question.
    for field in [id, 0x0100, 1, 0, 0, 0] {
        query.extend(field.to_be_bytes());
    }
    for label in name.split('.') {
        let label = &label.as_bytes()[..label.len().min(63)];
        query.push(u8::try_from(label.len()).unwrap_or(63));
        query.extend(label);
    }
    query.push(0);
    // Class IN.
    for field in [kind, 1] {
        query.extend(field.to_be_bytes());
    }
    query
}

/// Addresses in an answer to `id`; what cannot be understood is left out.
fn parse(answer: &[u8], id: u16) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let Some((questions, records)) = header(answer, id) else { return found };
    let mut at = 12;
    for _ in 0..questions {
        let Some(after) = skip_name(answer, at) else { return found };
        at = after + 4;
    }
    for _ in 0..records {
        let Some((address, after)) = record(answer, at) else { return found };
        found.extend(address);
        at = after;
    }
    found
}

/// Questions and answers, of an answer to `id`.
fn header(answer: &[u8], id: u16) -> Option<(u16, u16)> {
    (short(answer, 0)? == id).then_some(())?;
    Some((short(answer, 4)?, short(answer, 6)?))
}

/// A record's address, where it has one, and where the next record begins.
fn record(answer: &[u8], at: usize) -> Option<(Option<IpAddr>, usize)> {
    let fields = skip_name(answer, at)?;
    let kind = short(answer, fields)?;
    let length = usize::from(short(answer, fields + 8)?);
    let data = answer.get(fields + 10..)?.get(..length)?;
    let address = match kind {
        A => <[u8; 4]>::try_from(data).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        AAAA => <[u8; 16]>::try_from(data).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    };
    Some((address, fields + 10 + length))
}

/// Where a name ends: at a zero, or after a pointer (RFC 1035, 4.1.4).
fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The Engine's answer for two tasks, as it came.
    fn answer() -> Vec<u8> {
        let mut answer = question(7, "db", A);
        answer[2] = 0x81;
        answer[7] = 2;
        for last in [3, 4] {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 0x58, 0, 4, 10, 0, 1, last]);
        }
        answer
    }

    #[test]
    fn addresses_are_found() {
        let expected = [3, 4].map(|last| IpAddr::from([10, 0, 1, last]));
        assert_eq!(parse(&answer(), 7), expected);
        assert!(parse(&answer(), 8).is_empty());
    }

    proptest! {
        #[test]
        fn nonsense_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0usize..80) {
            parse(&bytes, 7);
            let whole = answer();
            parse(&whole[..cut.min(whole.len())], 7);
        }
    }
}
