//! `/proc/net/ip_vs_conn`: the connection table of IPVS, one namespace's entries.
//!
//! Source: `ip_vs_conn_seq_show()` in `net/netfilter/ipvs/ip_vs_conn.c`, the names in
//! `ip_vs_proto.c` and `ip_vs_proto_tcp.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Parsed, parse_lines};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP; 0 for templates of fwmark services.
    pub protocol: u8,
    /// The client. Port 0 in templates of persistent services.
    pub client: SocketAddr,
    /// The virtual address and the port the client sees. In templates of fwmark services
    /// the address is the mark.
    pub vip: SocketAddr,
    /// The backend. With tunnelling its family may differ from the client's.
    pub backend: SocketAddr,
    /// State of the entry, which is not the state of either end's socket.
    pub state: State,
    /// Lifetime left, in whole seconds, rounded down; 0 if it is running out right now.
    pub expires: Duration,
    /// Persistence engine and its data, as printed: `sip 4711@10.0.0.9`. Untrusted text.
    pub pe: Option<String>,
}

/// State of an entry (`tcp_state_name_table` and the other protocols' names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// `NONE`: nothing seen yet, or a template.
    None,
    /// `ESTABLISHED`
    Established,
    /// `SYN_SENT`
    SynSent,
    /// `SYN_RECV`
    SynRecv,
    /// `FIN_WAIT`
    FinWait,
    /// `TIME_WAIT`
    TimeWait,
    /// `CLOSE`
    Close,
    /// `CLOSE_WAIT`
    CloseWait,
    /// `LAST_ACK`
    LastAck,
    /// `LISTEN`
    Listen,
    /// `SYNACK`
    SynAck,
    /// `UDP`, the only state of UDP.
    Udp,
    /// `ASSURED`: a template that a connection has confirmed.
    Assured,
    /// Any other: SCTP's own states, protocols without states.
    Other,
}

impl State {
    /// The state of this name; [`State::Other`] if unknown.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "NONE" => Self::None,
            "ESTABLISHED" => Self::Established,
            "SYN_SENT" => Self::SynSent,
            "SYN_RECV" => Self::SynRecv,
            "FIN_WAIT" => Self::FinWait,
            "TIME_WAIT" => Self::TimeWait,
            "CLOSE" => Self::Close,
            "CLOSE_WAIT" => Self::CloseWait,
            "LAST_ACK" => Self::LastAck,
            "LISTEN" => Self::Listen,
            "SYNACK" => Self::SynAck,
            "UDP" => Self::Udp,
            "ASSURED" => Self::Assured,
            _ => Self::Other,
        }
    }

    /// The state of TCP with this number (`IP_VS_TCP_S_*`, `include/net/ip_vs.h`);
    /// [`State::Other`] if unknown.
    #[must_use]
    pub const fn from_tcp(number: u16) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait,
            5 => Self::TimeWait,
            6 => Self::Close,
            7 => Self::CloseWait,
            8 => Self::LastAck,
            9 => Self::Listen,
            10 => Self::SynAck,
            _ => Self::Other,
        }
    }

    /// The name as the kernel prints it; `OTHER` for [`State::Other`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::SynAck => "SYNACK",
            Self::Udp => "UDP",
            Self::Assured => "ASSURED",
            Self::Other => "OTHER",
        }
    }
}

/// Reads the whole table.
#[must_use]
pub fn parse(text: &str) -> Parsed<Connection> {
    parse_lines(text, is_header, parse_line)
}

/// Whether the line is the table's heading, which [`parse_line`] would refuse.
#[must_use]
pub fn is_header(line: &str) -> bool {
    line.starts_with("Pro FromIP")
}

/// Reads one line, so that a big table need not be held as text.
///
/// # Errors
/// What is wrong with the line, for people to read.
pub fn parse_line(line: &str) -> Result<Connection, String> {
    let mut rest = line;
    let mut field = |name: &str| {
        let start = rest.trim_ascii_start();
        let end = start.find(|c: char| c.is_ascii_whitespace()).unwrap_or(start.len());
        let (field, tail) = start.split_at(end);
        rest = tail;
        if field.is_empty() { Err(format!("{name} is missing")) } else { Ok(field) }
    };
    let protocol = protocol(field("protocol")?)?;
    let client = address(field("client address")?, field("client port")?)?;
    let vip = address(field("virtual address")?, field("virtual port")?)?;
    let backend = address(field("backend address")?, field("backend port")?)?;
    let state = State::from_name(field("state")?);
    let expires = expires(field("lifetime")?)?;
    let pe = Some(rest.trim_ascii()).filter(|pe| !pe.is_empty()).map(str::to_owned);
    Ok(Connection { protocol, client, vip, backend, state, expires, pe })
}

/// `ip_vs_proto_name()`.
fn protocol(name: &str) -> Result<u8, String> {
    Ok(match name {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        "IP" => 0,
        "AH" => 51,
        "ESP" => 50,
        "ICMP" => 1,
        "ICMPv6" => 58,
        _ => name
            .strip_prefix("IP_")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("unknown protocol {name:?}"))?,
    })
}

/// `%08X` or `%pI6`, then `%04X`.
fn address(ip: &str, port: &str) -> Result<SocketAddr, String> {
    let address = if ip.contains(':') {
        ip.parse::<Ipv6Addr>().ok().map(IpAddr::from)
    } else {
        hex(ip, 8).map(|bits| Ipv4Addr::from_bits(bits).into())
    };
    let address = address.ok_or_else(|| format!("bad address {ip:?}"))?;
    let port = hex(port, 4)
        .and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| format!("bad port {port:?}"))?;
    Ok(SocketAddr::new(address, port))
}

fn hex(text: &str, digits: usize) -> Option<u32> {
    // from_str_radix alone would take a sign.
    let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if valid { u32::from_str_radix(text, 16).ok() } else { None }
}

fn expires(seconds: &str) -> Result<Duration, String> {
    let seconds: u64 = seconds.parse().map_err(|_| format!("bad lifetime {seconds:?}"))?;
    // In older kernels (seen in 2.6.38) the value is an unsigned difference of jiffies: an
    // entry past its time, its timer about to run, wraps around. No timeout exceeds INT_MAX seconds
    // (ip_vs_set_timeout()).
    Ok(Duration::from_secs(if i32::try_from(seconds).is_ok() { seconds } else { 0 }))
}
