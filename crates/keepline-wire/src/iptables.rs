//! Rules of iptables-legacy that mark packets, by which IPVS knows what to balance.
//!
//! The answer of `getsockopt(SOL_IP, IPT_SO_GET_ENTRIES)` holds a whole table: `struct
//! ipt_get_entries`, then `struct ipt_entry` after `struct ipt_entry`, each with its matches and
//! its target, all in host byte order and aligned as on 64-bit machines. Rules of iptables-nft are
//! not here but in [`nftables`](crate::nftables).
//! Source: `include/uapi/linux/netfilter_ipv4/ip_tables.h`, `netfilter_ipv6/ip6_tables.h`,
//! `netfilter/x_tables.h`, `netfilter/xt_mark.h`, `xt_tcpudp.h`, `xt_multiport.h`.

use std::net::IpAddr;

use crate::common::{ipv4, ipv6};
use crate::nl::{WireError, array};

/// `IPPROTO_TCP`.
pub(crate) const TCP: u8 = 6;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
const ANY_PORT: (u16, u16) = (0, u16::MAX);

/// A rule that sets the mark of the packets it matches: `… -j MARK --set-mark 256`.
///
/// Rules with an inverted destination, protocol or destination port make no `MarkRule`: they say
/// what is not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRule {
    /// Destination address and length of its prefix; `None` where any.
    pub destination: Option<(IpAddr, u8)>,
    /// `IPPROTO_…`; 0 where any.
    pub protocol: u8,
    /// First and last of each range of destination ports; empty where any.
    pub ports: Vec<(u16, u16)>,
    /// The new mark is the old one without the bits of `mask`, XOR this.
    pub mark: u32,
    /// All bits in `--set-mark N`; only those of `mark` in `--or-mark N`.
    pub mask: u32,
    /// Something else narrows the rule too: source, interface, another match.
    pub partial: bool,
}

/// What is known so far of the packets that a rule matches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    destination: Option<(IpAddr, u8)>,
    protocol: u8,
    ports: Vec<(u16, u16)>,
    partial: bool,
    excluded: bool,
}

impl Conditions {
    /// Something that a [`MarkRule`] cannot say narrows the rule.
    pub(crate) fn narrow(&mut self) {
        self.partial = true;
    }

    /// The rule says what is not meant.
    pub(crate) fn exclude(&mut self) {
        self.excluded = true;
    }

    pub(crate) fn protocol(&mut self, protocol: u8) {
        // `-m tcp` says again what `-p tcp` said; two different ones match nothing.
        self.excluded |= self.protocol != 0 && self.protocol != protocol;
        self.protocol = protocol;
    }

    /// `mask` has as many bytes as the address, in network order.
    pub(crate) fn destination(&mut self, address: IpAddr, mask: &[u8]) {
        let bits = mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
        if bits == 0 {
            return;
        }
        let full = mask.iter().take_while(|byte| **byte == 0xff).count();
        let prefix = 8 * full + mask.get(full).map_or(0, |byte| byte.leading_ones() as usize);
        // Bits with gaps between are no prefix: not for us to name.
        match u8::try_from(prefix) {
            Ok(prefix) if u32::from(prefix) == bits => self.destination = Some((address, prefix)),
            _ => self.narrow(),
        }
    }

    /// Ranges of destination ports.
    pub(crate) fn ports(&mut self, ranges: Vec<(u16, u16)>) {
        if ranges == [ANY_PORT] {
            return;
        }
        if self.ports.is_empty() {
            self.ports = ranges;
        } else {
            // Both must hold: the first stands, the second narrows it.
            self.narrow();
        }
    }

    /// One match of x_tables: what `-m NAME` added.
    pub(crate) fn extension(
        &mut self,
        name: &[u8],
        revision: u8,
        info: &[u8],
    ) -> Result<(), WireError> {
        match (name, revision) {
            (b"comment", _) => {}
            (b"tcp", 0) => {
                // struct xt_tcp
                let [option, flags, _, inverted] = array(info, 8, "xt_tcp")?;
                self.protocol(TCP);
                self.port_match(info, inverted)?;
                self.partial |= option != 0 || flags != 0 || inverted & 0x0c != 0;
            }
            (b"udp", 0) => {
                // struct xt_udp
                let [inverted] = array(info, 8, "xt_udp")?;
                self.protocol(UDP);
                self.port_match(info, inverted)?;
            }
            (b"multiport", 1) => self.multiport(info)?,
            _ => self.narrow(),
        }
        Ok(())
    }

    /// What `struct xt_tcp` and `xt_udp` begin with: `spts[2]`, `dpts[2]`.
    fn port_match(&mut self, info: &[u8], inverted: u8) -> Result<(), WireError> {
        const XT_TCP_INV_SRCPT: u8 = 1;
        const XT_TCP_INV_DSTPT: u8 = 2;
        let range = |at| Ok::<_, WireError>((word(info, at)?, word(info, at + 2)?));
        if range(0)? != ANY_PORT || inverted & XT_TCP_INV_SRCPT != 0 {
            self.narrow();
        }
        if inverted & XT_TCP_INV_DSTPT != 0 {
            self.exclude();
        }
        self.ports(vec![range(4)?]);
        Ok(())
    }

    /// `struct xt_multiport_v1`: `flags`, `count`, `ports[15]`, `pflags[15]`, `invert`.
    fn multiport(&mut self, info: &[u8]) -> Result<(), WireError> {
        const WHAT: &str = "xt_multiport_v1";
        const XT_MULTIPORT_DESTINATION: u8 = 1;
        let [flags, count] = array(info, 0, WHAT)?;
        let range_begins: [u8; 15] = array(info, 32, WHAT)?;
        let [inverted] = array(info, 47, WHAT)?;
        if flags != XT_MULTIPORT_DESTINATION {
            self.narrow();
            return Ok(());
        }
        let mut ranges = Vec::new();
        let mut first = None;
        for (at, begins) in range_begins.iter().enumerate().take(usize::from(count)) {
            let port = word(info, 2 + 2 * at)?;
            // A port with a flag is the first of a range, the next one its last.
            match first.take() {
                None if *begins != 0 => first = Some(port),
                first => ranges.push((first.unwrap_or(port), port)),
            }
        }
        if inverted != 0 {
            self.exclude();
        }
        self.ports(ranges);
        Ok(())
    }

    /// The rule, if it is one that says what is meant.
    pub(crate) fn rule(self, mark: u32, mask: u32) -> Option<MarkRule> {
        let Self { destination, protocol, ports, partial, excluded } = self;
        let rule = MarkRule { destination, protocol, ports, mark, mask, partial };
        (!excluded).then_some(rule)
    }
}

/// Mark and mask of a target of x_tables (`struct xt_mark_tginfo2`); `None` if it is another.
pub(crate) fn mark_target(
    name: &[u8],
    revision: u8,
    info: &[u8],
) -> Result<Option<(u32, u32)>, WireError> {
    if (name, revision) != (b"MARK", 2) {
        return Ok(None);
    }
    let half = |at| array(info, at, "xt_mark_tginfo2").map(u32::from_ne_bytes);
    Ok(Some((half(0)?, half(4)?)))
}

/// Where things are in an entry of one address family.
struct Layout {
    entry: &'static str,
    /// `sizeof(struct ipt_entry)`: the matches follow.
    len: usize,
    address: fn(&[u8]) -> Result<IpAddr, WireError>,
    /// Offset and length of the mask of the source.
    source_mask: (usize, usize),
    destination_mask: (usize, usize),
    /// `iniface_mask` and `outiface_mask`, 32 bytes.
    interface_masks: usize,
    protocol: usize,
    flags: usize,
    /// Flags that narrow the rule.
    narrowing: u8,
    /// Flag without which `protocol` does not count; 0 where it always does.
    has_protocol: u8,
    inverted: usize,
    /// `target_offset`; `next_offset` is behind it.
    target: usize,
}

const V4: Layout = Layout {
    entry: "ipt_entry",
    len: 112,
    address: |entry| array(entry, 4, "ipt_entry").map(ipv4),
    source_mask: (8, 4),
    destination_mask: (12, 4),
    interface_masks: 48,
    protocol: 80,
    flags: 82,
    // IPT_F_FRAG
    narrowing: 1,
    has_protocol: 0,
    inverted: 83,
    target: 88,
};

const V6: Layout = Layout {
    entry: "ip6t_entry",
    len: 168,
    address: |entry| array(entry, 16, "ip6t_entry").map(ipv6),
    source_mask: (32, 16),
    destination_mask: (48, 16),
    interface_masks: 96,
    protocol: 128,
    flags: 131,
    // IP6T_F_TOS
    narrowing: 2,
    // IP6T_F_PROTO
    has_protocol: 1,
    inverted: 132,
    target: 140,
};

/// The marking rules in the answer to `IPT_SO_GET_ENTRIES`, of all chains, in their order.
///
/// # Errors
/// Too short, or sizes in it that cannot be.
pub fn parse(answer: &[u8]) -> Result<Vec<MarkRule>, WireError> {
    parse_table(&V4, answer)
}

/// The same for `IP6T_SO_GET_ENTRIES`.
///
/// # Errors
/// Too short, or sizes in it that cannot be.
pub fn parse_v6(answer: &[u8]) -> Result<Vec<MarkRule>, WireError> {
    parse_table(&V6, answer)
}

/// `struct ipt_get_entries`: `name[32]`, `size`, and the entries from the next multiple of eight.
fn parse_table(layout: &Layout, answer: &[u8]) -> Result<Vec<MarkRule>, WireError> {
    const WHAT: &str = "ipt_get_entries";
    const ENTRIES: usize = 40;
    let size = u32::from_ne_bytes(array(answer, 32, WHAT)?) as usize;
    let mut rest =
        answer.get(ENTRIES..).and_then(|entries| entries.get(..size)).ok_or(WireError::Short {
            what: WHAT,
            need: ENTRIES.saturating_add(size),
            have: answer.len(),
        })?;
    let mut rules = Vec::new();
    while !rest.is_empty() {
        let next = usize::from(word(rest, layout.target + 2)?);
        // Entries without length would never end.
        if next < layout.len {
            return Err(WireError::invalid(layout.entry, format!("next_offset {next}")));
        }
        let (entry, after) = rest.split_at_checked(next).ok_or(WireError::Short {
            what: layout.entry,
            need: next,
            have: rest.len(),
        })?;
        rules.extend(parse_entry(layout, entry)?);
        rest = after;
    }
    Ok(rules)
}

fn parse_entry(layout: &Layout, entry: &[u8]) -> Result<Option<MarkRule>, WireError> {
    const IPT_INV_DSTIP: u8 = 0x10;
    const XT_INV_PROTO: u8 = 0x40;
    let target_offset = usize::from(word(entry, layout.target)?);
    let (Some(mut matches), Some(target)) =
        (entry.get(layout.len..target_offset), entry.get(target_offset..))
    else {
        return Err(WireError::invalid(layout.entry, format!("target_offset {target_offset}")));
    };
    let (target, _) = extension(target)?;
    let Some((mark, mask)) = mark_target(target.name, target.revision, target.info)? else {
        return Ok(None);
    };

    // All fields are before `target`, which was there.
    let set = |from: usize, len: usize| entry[from..from + len].iter().any(|byte| *byte != 0);
    let (flags, inverted) = (entry[layout.flags], entry[layout.inverted]);
    let mut conditions = Conditions::default();
    let (from, len) = layout.destination_mask;
    conditions.destination((layout.address)(entry)?, &entry[from..from + len]);
    let protocol = word(entry, layout.protocol)?;
    if protocol != 0 && flags & layout.has_protocol == layout.has_protocol {
        match u8::try_from(protocol) {
            Ok(protocol) => conditions.protocol(protocol),
            // No packet has such a protocol.
            Err(_) => conditions.exclude(),
        }
    }
    if inverted & (IPT_INV_DSTIP | XT_INV_PROTO) != 0 {
        conditions.exclude();
    }
    let (from, len) = layout.source_mask;
    if inverted != 0
        || flags & layout.narrowing != 0
        || set(from, len)
        || set(layout.interface_masks, 32)
    {
        conditions.narrow();
    }
    while !matches.is_empty() {
        let (found, after) = extension(matches)?;
        conditions.extension(found.name, found.revision, found.info)?;
        matches = after;
    }
    Ok(conditions.rule(mark, mask))
}

/// A match or a target.
struct Extension<'a> {
    name: &'a [u8],
    revision: u8,
    info: &'a [u8],
}

/// `struct xt_entry_match` and `xt_entry_target`: `size`, `name[29]`, `revision`, and the data.
/// Gives what comes after it too.
fn extension(bytes: &[u8]) -> Result<(Extension<'_>, &[u8]), WireError> {
    const WHAT: &str = "xt_entry_match";
    const LEN: usize = 32;
    let size = usize::from(word(bytes, 0)?);
    if size < LEN {
        return Err(WireError::invalid(WHAT, format!("size {size}")));
    }
    let (whole, after) = bytes.split_at_checked(size).ok_or(WireError::Short {
        what: WHAT,
        need: size,
        have: bytes.len(),
    })?;
    let name = until_nul(&whole[2..LEN - 1]);
    Ok((Extension { name, revision: whole[LEN - 1], info: &whole[LEN..] }, after))
}

/// What is before the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

/// A `u16` in host byte order.
fn word(bytes: &[u8], at: usize) -> Result<u16, WireError> {
    array(bytes, at, "x_tables field").map(u16::from_ne_bytes)
}
