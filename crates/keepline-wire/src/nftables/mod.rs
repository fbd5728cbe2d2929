//! Chains and rules of nftables, as far as needed to know whether a namespace does NAT and what
//! it marks.
//!
//! Rules of iptables-nft are seen here too; those of iptables-legacy are in
//! [`iptables`](crate::iptables).
//! Source: `include/uapi/linux/netfilter/nf_tables.h`, `nf_tables_fill_chain_info()` and
//! `nf_tables_fill_rule_info()` in `net/netfilter/nf_tables_api.c`. The protocol is
//! `NETLINK_NETFILTER` (12).

mod rule;

pub use rule::{NEW_RULE, Rule, dump_rules, parse_rule};

use crate::nl::{Attr, NLM_F_DUMP, Request, WireError, array, attrs};

/// `NFNL_SUBSYS_NFTABLES`, the high byte of every message type.
const SUBSYSTEM: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
/// Type of an answer to [`dump_chains`].
pub const NEW_CHAIN: u16 = SUBSYSTEM << 8 | NFT_MSG_NEWCHAIN;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
/// Length of `struct nfgenmsg`.
const NFGENMSG_LEN: usize = 4;

/// One chain. Base chains (those with a hook) have `kind`, `hook` and `priority`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// `NFPROTO_…`: 1 inet, 2 ip, 5 netdev, 7 bridge, 10 ip6, 3 arp.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `nat`, `filter` or `route`; `None` if no base chain.
    pub kind: Option<String>,
    /// `NF_INET_…`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: Option<u32>,
    /// Place among the chains of the hook; lower is earlier.
    pub priority: Option<i32>,
}

/// Asks for every chain of every family. Needs CAP_NET_ADMIN. Answers are of type
/// [`NEW_CHAIN`].
#[must_use]
pub fn dump_chains(sequence: u32) -> Vec<u8> {
    // struct nfgenmsg: family 0 (any), version 0, resource 0.
    Request::new(SUBSYSTEM << 8 | NFT_MSG_GETCHAIN, NLM_F_DUMP, sequence)
        .bytes(&[0; NFGENMSG_LEN])
        .finish()
}

/// Reads the payload of one answer to [`dump_chains`].
///
/// # Errors
/// Too short, malformed attributes, or no table or name.
pub fn parse_chain(payload: &[u8]) -> Result<Chain, WireError> {
    const WHAT: &str = "nftables chain";
    let [family, ..] = array::<NFGENMSG_LEN>(payload, 0, WHAT)?;
    let (mut table, mut name, mut kind, mut hook) = (None, None, None, (None, None));
    for attr in attrs(payload.get(NFGENMSG_LEN..).unwrap_or(&[])) {
        let attr = attr?;
        match attr.kind {
            NFTA_CHAIN_TABLE => table = Some(attr.text()),
            NFTA_CHAIN_NAME => name = Some(attr.text()),
            NFTA_CHAIN_TYPE => kind = Some(attr.text()),
            NFTA_CHAIN_HOOK => hook = parse_hook(&attr)?,
            _ => {}
        }
    }
    Ok(Chain {
        family,
        table: table.ok_or_else(|| WireError::invalid(WHAT, "no table"))?,
        name: name.ok_or_else(|| WireError::invalid(WHAT, "no name"))?,
        kind,
        hook: hook.0,
        priority: hook.1,
    })
}

fn parse_hook(attr: &Attr<'_>) -> Result<(Option<u32>, Option<i32>), WireError> {
    let (mut hook, mut priority) = (None, None);
    for attr in attr.nested() {
        let attr = attr?;
        match attr.kind {
            NFTA_HOOK_HOOKNUM => hook = Some(attr.be32("NFTA_HOOK_HOOKNUM")?),
            NFTA_HOOK_PRIORITY => {
                priority = Some(attr.be32("NFTA_HOOK_PRIORITY")?.cast_signed());
            }
            _ => {}
        }
    }
    Ok((hook, priority))
}
