//! Rules of nftables that mark packets.
//!
//! A rule is a list of expressions that load parts of the packet into registers, compare them, and
//! act. They are followed here as the kernel would, with what is not known in place of the packet:
//! what must hold until `meta mark set` is what the rule marks. So it makes no difference which
//! program wrote the rule, and whether it used expressions or extensions of x_tables
//! (`nft_compat`) as iptables-nft does.
//! Source: `net/netfilter/nft_payload.c`, `nft_meta.c`, `nft_cmp.c`, `nft_range.c`,
//! `nft_bitwise.c`, `nft_immediate.c`, `nft_compat.c`.

use super::{NFGENMSG_LEN, SUBSYSTEM};
use crate::common::{AF_INET, AF_INET6, ipv4, ipv6};
use crate::iptables::{Conditions, MarkRule, mark_target, until_nul};
use crate::nl::{Attr, NLM_F_DUMP, Request, WireError, array, attrs};

const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
/// Type of an answer to [`dump_rules`].
pub const NEW_RULE: u16 = SUBSYSTEM << 8 | NFT_MSG_NEWRULE;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;

const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_META_PROTOCOL: u32 = 1;
const NFT_META_MARK: u32 = 3;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LT: u32 = 2;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GT: u32 = 4;
const NFT_CMP_GTE: u32 = 5;

/// Expressions that let every packet pass. All others that are not followed may hold it up.
const NEUTRAL: [&[u8]; 5] = [b"counter", b"log", b"last", b"notrack", b"ct"];

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `NFPROTO_…`: 1 inet, 2 ip, 5 netdev, 7 bridge, 10 ip6, 3 arp.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// What it marks, if it does. Ports or addresses that are looked up in a set are not known:
    /// the rule is then `partial`.
    pub marks: Option<MarkRule>,
}

/// Asks for every rule of every family. Needs CAP_NET_ADMIN. Answers are of type [`NEW_RULE`].
#[must_use]
pub fn dump_rules(sequence: u32) -> Vec<u8> {
    // struct nfgenmsg: family 0 (any), version 0, resource 0.
    Request::new(SUBSYSTEM << 8 | NFT_MSG_GETRULE, NLM_F_DUMP, sequence)
        .bytes(&[0; NFGENMSG_LEN])
        .finish()
}

/// Reads the payload of one answer to [`dump_rules`].
///
/// # Errors
/// Too short, malformed attributes, or no table or chain.
pub fn parse_rule(payload: &[u8]) -> Result<Rule, WireError> {
    const WHAT: &str = "nftables rule";
    let [family, ..] = array::<NFGENMSG_LEN>(payload, 0, WHAT)?;
    let (mut table, mut chain, mut marks) = (None, None, None);
    for attr in attrs(payload.get(NFGENMSG_LEN..).unwrap_or(&[])) {
        let attr = attr?;
        match attr.kind {
            NFTA_RULE_TABLE => table = Some(attr.text()),
            NFTA_RULE_CHAIN => chain = Some(attr.text()),
            NFTA_RULE_EXPRESSIONS => {
                let mut walk = Walk::new(family);
                for expression in attr.nested() {
                    let expression = Fields::<2>::of(&expression?)?;
                    let name = until_nul(expression.bytes(NFTA_EXPR_NAME));
                    // `notrack` has no data.
                    walk.step(name, expression.bytes(NFTA_EXPR_DATA))?;
                }
                marks = walk.marks;
            }
            _ => {}
        }
    }
    Ok(Rule {
        family,
        table: table.ok_or_else(|| WireError::invalid(WHAT, "no table"))?,
        chain: chain.ok_or_else(|| WireError::invalid(WHAT, "no chain"))?,
        marks,
    })
}

/// The attributes 1 to `N` of a list.
struct Fields<'a, const N: usize>([Option<Attr<'a>>; N]);

impl<'a, const N: usize> Fields<'a, N> {
    fn of(list: &Attr<'a>) -> Result<Self, WireError> {
        Self::read(list.value)
    }

    fn read(list: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = [None; N];
        for attr in attrs(list) {
            let attr = attr?;
            let slot = usize::from(attr.kind).checked_sub(1).and_then(|at| fields.get_mut(at));
            if let Some(slot) = slot {
                *slot = Some(attr);
            }
        }
        Ok(Self(fields))
    }

    fn get(&self, kind: u16) -> Option<Attr<'a>> {
        self.0[usize::from(kind) - 1]
    }

    /// The value, empty where absent.
    fn bytes(&self, kind: u16) -> &'a [u8] {
        self.get(kind).map_or(&[], |attr| attr.value)
    }

    fn number(&self, kind: u16) -> Result<u32, WireError> {
        let absent = || WireError::invalid("nftables expression", format!("no attribute {kind}"));
        self.get(kind).ok_or_else(absent)?.be32("nftables expression")
    }

    /// The value of a nested `nft_data_attributes`; empty where it is a verdict.
    fn data(&self, kind: u16) -> Result<&'a [u8], WireError> {
        Ok(Fields::<1>::read(self.bytes(kind))?.bytes(NFTA_DATA_VALUE))
    }
}

/// What is known of a register.
#[derive(Debug, Clone, Default)]
enum Value {
    #[default]
    Unknown,
    /// Bytes of the packet, perhaps only the bits of `mask`.
    Packet { base: u32, offset: usize, mask: Option<Vec<u8>> },
    /// Something about the packet, `NFT_META_…`.
    Meta(u32),
    /// The packet's mark: its bits of `keep`, XOR `xor`.
    Mark { keep: u32, xor: u32 },
    /// Known bytes.
    Bytes(Vec<u8>),
}

/// The first bytes of a header, as far as they are known: only the bits of `mask` are.
#[derive(Debug, Clone, Copy)]
struct Header<const N: usize> {
    value: [u8; N],
    mask: [u8; N],
}

impl<const N: usize> Header<N> {
    const UNKNOWN: Self = Self { value: [0; N], mask: [0; N] };

    fn learn(&mut self, at: usize, value: u8, mask: u8) -> Option<()> {
        *self.value.get_mut(at)? |= value & mask;
        *self.mask.get_mut(at)? |= mask;
        Some(())
    }
}

/// Where things are in an IP header: protocol, then destination from and to.
const fn ip_fields(version: u8) -> Option<(usize, usize, usize)> {
    match version {
        AF_INET => Some((9, 16, 20)),
        AF_INET6 => Some((6, 24, 40)),
        _ => None,
    }
}

struct Walk {
    /// `AF_INET` or `AF_INET6`; another where both can be.
    version: u8,
    /// `NFT_REG32_00` and following; `NFT_REG_1` is the first four of these.
    registers: [Value; 16],
    network: Header<40>,
    /// Source and destination port.
    transport: Header<4>,
    /// Bounds of the destination port, where it was compared.
    port: (u16, u16),
    conditions: Conditions,
    marks: Option<MarkRule>,
}

fn register(number: u32) -> Option<usize> {
    const NFT_REG_1: u32 = 1;
    const NFT_REG_4: u32 = 4;
    const NFT_REG32_00: u32 = 8;
    const NFT_REG32_15: u32 = 23;
    match number {
        NFT_REG_1..=NFT_REG_4 => Some((number as usize - 1) * 4),
        NFT_REG32_00..=NFT_REG32_15 => Some(number as usize - 8),
        _ => None,
    }
}

impl Walk {
    fn new(family: u8) -> Self {
        Self {
            version: family,
            registers: Default::default(),
            network: Header::UNKNOWN,
            transport: Header::UNKNOWN,
            port: (0, u16::MAX),
            conditions: Conditions::default(),
            marks: None,
        }
    }

    fn load(&mut self, number: u32, value: Value) {
        if let Some(at) = register(number) {
            self.registers[at] = value;
        }
    }

    fn register(&self, number: u32) -> Value {
        register(number).map_or(Value::Unknown, |at| self.registers[at].clone())
    }

    fn step(&mut self, name: &[u8], data: &[u8]) -> Result<(), WireError> {
        match name {
            b"payload" => self.payload(data),
            b"meta" => self.meta(data),
            b"bitwise" => self.bitwise(data),
            b"immediate" => {
                let fields = Fields::<2>::read(data)?;
                self.load(fields.number(1)?, Value::Bytes(fields.data(2)?.to_vec()));
                Ok(())
            }
            b"cmp" => {
                let fields = Fields::<3>::read(data)?;
                self.compare(fields.number(1)?, fields.number(2)?, fields.data(3)?);
                Ok(())
            }
            b"range" => self.range(data),
            b"match" | b"target" => self.compat(name, data),
            _ => {
                // Whatever it loads, it is not what was there before.
                self.registers.fill(Value::Unknown);
                if !NEUTRAL.contains(&name) {
                    self.conditions.narrow();
                }
                Ok(())
            }
        }
    }

    /// `NFTA_PAYLOAD_DREG`, `BASE`, `OFFSET`, `LEN`.
    fn payload(&mut self, data: &[u8]) -> Result<(), WireError> {
        let fields = Fields::<4>::read(data)?;
        // Without a destination it changes the packet.
        if fields.get(1).is_some() {
            let offset = fields.number(3)? as usize;
            let value = Value::Packet { base: fields.number(2)?, offset, mask: None };
            self.load(fields.number(1)?, value);
        }
        Ok(())
    }

    /// `NFTA_META_DREG`, `KEY`, `SREG`.
    fn meta(&mut self, data: &[u8]) -> Result<(), WireError> {
        let fields = Fields::<3>::read(data)?;
        let key = fields.number(2)?;
        if fields.get(3).is_none() {
            let value = match key {
                NFT_META_MARK => Value::Mark { keep: u32::MAX, xor: 0 },
                _ => Value::Meta(key),
            };
            self.load(fields.number(1)?, value);
        } else if key == NFT_META_MARK {
            match self.register(fields.number(3)?) {
                Value::Mark { keep, xor } => self.set_mark(xor, !keep),
                // A mark is in host byte order.
                Value::Bytes(bytes) => {
                    self.set_mark(u32::from_ne_bytes(array(&bytes, 0, "mark")?), u32::MAX);
                }
                // Taken from elsewhere, for instance from conntrack.
                _ => {}
            }
        }
        Ok(())
    }

    /// `NFTA_BITWISE_SREG`, `DREG`, `LEN`, `MASK`, `XOR`, `OP`.
    fn bitwise(&mut self, data: &[u8]) -> Result<(), WireError> {
        const NFT_BITWISE_MASK_XOR: u32 = 0;
        let fields = Fields::<6>::read(data)?;
        // Kernels before 5.6 have no operation but this.
        let operation = fields.get(6).map_or(Ok(NFT_BITWISE_MASK_XOR), |_| fields.number(6))?;
        let (mask, xor) = (fields.data(4)?, fields.data(5)?);
        let value = match self.register(fields.number(1)?) {
            Value::Packet { base, offset, mask: None }
                if operation == NFT_BITWISE_MASK_XOR && xor.iter().all(|byte| *byte == 0) =>
            {
                Value::Packet { base, offset, mask: Some(mask.to_vec()) }
            }
            Value::Mark { keep, xor: before } if operation == NFT_BITWISE_MASK_XOR => {
                let number = |bytes| array(bytes, 0, "bitwise").map(u32::from_ne_bytes);
                let mask = number(mask)?;
                Value::Mark { keep: keep & mask, xor: before & mask ^ number(xor)? }
            }
            _ => Value::Unknown,
        };
        self.load(fields.number(2)?, value);
        Ok(())
    }

    /// `NFTA_RANGE_SREG`, `OP`, `FROM_DATA`, `TO_DATA`.
    fn range(&mut self, data: &[u8]) -> Result<(), WireError> {
        const NFT_RANGE_EQ: u32 = 0;
        let fields = Fields::<4>::read(data)?;
        let (sreg, from, to) = (fields.number(1)?, fields.data(3)?, fields.data(4)?);
        if fields.number(2)? == NFT_RANGE_EQ {
            self.compare(sreg, NFT_CMP_GTE, from);
            self.compare(sreg, NFT_CMP_LTE, to);
        } else {
            self.compare(sreg, NFT_CMP_NEQ, from);
        }
        Ok(())
    }

    /// `NFTA_MATCH_NAME`, `REV`, `INFO`; the same numbers in `NFTA_TARGET_…`.
    fn compat(&mut self, kind: &[u8], data: &[u8]) -> Result<(), WireError> {
        let fields = Fields::<3>::read(data)?;
        let (name, info) = (until_nul(fields.bytes(1)), fields.bytes(3));
        // x_tables has 256 revisions at most.
        let revision = u8::try_from(fields.number(2)?).unwrap_or(u8::MAX);
        if kind == b"match" {
            self.conditions.extension(name, revision, info)?;
        } else if let Some((mark, mask)) = mark_target(name, revision, info)? {
            self.set_mark(mark, mask);
        }
        Ok(())
    }

    /// The rule goes on only where the register compares so.
    fn compare(&mut self, sreg: u32, operation: u32, data: &[u8]) {
        match self.register(sreg) {
            Value::Meta(key) => self.compare_meta(key, operation, data),
            Value::Packet { base, offset, mask } => match operation {
                NFT_CMP_EQ => self.learn(base, offset, mask.as_deref(), data),
                NFT_CMP_NEQ if self.is_named(base, offset, data.len()) => self.conditions.exclude(),
                NFT_CMP_LT..=NFT_CMP_GTE
                    if (base, offset, mask) == (NFT_PAYLOAD_TRANSPORT_HEADER, 2, None) =>
                {
                    self.bound_port(operation, data);
                }
                _ => self.conditions.narrow(),
            },
            Value::Unknown | Value::Mark { .. } | Value::Bytes(_) => self.conditions.narrow(),
        }
    }

    fn compare_meta(&mut self, key: u32, operation: u32, data: &[u8]) {
        match (key, operation, data) {
            (NFT_META_L4PROTO, NFT_CMP_EQ, [protocol, ..]) => self.conditions.protocol(*protocol),
            (NFT_META_L4PROTO, NFT_CMP_NEQ, _) => self.conditions.exclude(),
            (NFT_META_NFPROTO, NFT_CMP_EQ, [version, ..]) => self.version = *version,
            // ETH_P_IP and ETH_P_IPV6, `include/uapi/linux/if_ether.h`.
            (NFT_META_PROTOCOL, NFT_CMP_EQ, [0x08, 0x00]) => self.version = AF_INET,
            (NFT_META_PROTOCOL, NFT_CMP_EQ, [0x86, 0xdd]) => self.version = AF_INET6,
            _ => self.conditions.narrow(),
        }
    }

    fn learn(&mut self, base: u32, offset: usize, mask: Option<&[u8]>, data: &[u8]) {
        for (at, value) in data.iter().enumerate() {
            let mask = mask.map_or(0xff, |mask| mask.get(at).copied().unwrap_or(0));
            let place = offset.saturating_add(at);
            let known = match base {
                NFT_PAYLOAD_NETWORK_HEADER => self.network.learn(place, *value, mask),
                NFT_PAYLOAD_TRANSPORT_HEADER => self.transport.learn(place, *value, mask),
                _ => None,
            };
            if known.is_none() {
                self.conditions.narrow();
            }
        }
    }

    /// Whether these bytes hold something that a [`MarkRule`] names.
    fn is_named(&self, base: u32, offset: usize, len: usize) -> bool {
        let overlaps = |from, to| offset < to && from < offset.saturating_add(len);
        match base {
            NFT_PAYLOAD_TRANSPORT_HEADER => overlaps(2, 4),
            NFT_PAYLOAD_NETWORK_HEADER => ip_fields(self.version)
                .is_some_and(|(at, from, to)| overlaps(at, at + 1) || overlaps(from, to)),
            _ => false,
        }
    }

    fn bound_port(&mut self, operation: u32, data: &[u8]) {
        let Ok(port) = array(data, 0, "port").map(u16::from_be_bytes) else {
            return self.conditions.narrow();
        };
        let (first, last) = &mut self.port;
        match operation {
            NFT_CMP_LT => *last = (*last).min(port.saturating_sub(1)),
            NFT_CMP_LTE => *last = (*last).min(port),
            NFT_CMP_GT => *first = (*first).max(port.saturating_add(1)),
            _ => *first = (*first).max(port),
        }
    }

    /// Here the rule sets the mark: what comes later does not change what is marked.
    fn set_mark(&mut self, mark: u32, mask: u32) {
        let mut conditions = self.conditions.clone();
        let Header { value, mask: mut known } = self.network;
        if let Some((protocol, from, to)) = ip_fields(self.version) {
            if known[protocol] == 0xff {
                conditions.protocol(value[protocol]);
                known[protocol] = 0;
            }
            let address = match self.version {
                AF_INET => array(&value, from, "destination").map(ipv4),
                _ => array(&value, from, "destination").map(ipv6),
            };
            if let Ok(address) = address {
                conditions.destination(address, &known[from..to]);
                known[from..to].fill(0);
            }
        }
        if known.iter().any(|bits| *bits != 0) {
            conditions.narrow();
        }
        let (mut first, mut last) = self.port;
        match self.transport {
            Header { value: [_, _, high, low], mask: [source, other, 0xff, 0xff] } => {
                let port = u16::from_be_bytes([high, low]);
                (first, last) = (first.max(port), last.min(port));
                if source | other != 0 {
                    conditions.narrow();
                }
            }
            Header { mask, .. } if mask != [0; 4] => conditions.narrow(),
            Header { .. } => {}
        }
        if first > last {
            conditions.exclude();
        }
        conditions.ports(vec![(first, last)]);
        self.marks = conditions.rule(mark, mask);
    }
}
