//! Values as they are written on the command line: durations, keepalive settings, port ranges.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Units of [`parse_duration`], longest first within a letter so that `ms` is not read as `m`.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration such as `15s`, `2m`, `1h30m` or `500ms`.
///
/// # Errors
/// A sentence for the user when the text is empty, has no unit, an unknown one, or is too long.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 15s, 2m or 1h30m");
    let mut rest = text.trim();
    let mut millis = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let (unit, factor) =
            UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
        rest = &rest[unit.len()..];
        millis = number
            .checked_mul(*factor)
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(wrong)?;
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a duration so that [`parse_duration`] reads it back: `15s`, `1h30m`, `500ms`.
/// Anything below a millisecond is dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if millis >= factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads a timeout that the kernel counts in whole seconds, at least one.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn parse_whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.subsec_nanos() != 0 || duration.is_zero() {
        return Err(format!("`{text}`: the kernel counts this in whole seconds, at least 1s"));
    }
    // IPVS_CMD_SET_CONFIG takes at most INT_MAX / HZ (net/netfilter/ipvs/ip_vs_ctl.c,
    // ip_vs_set_timeout); HZ is 1000 at most.
    if duration > Duration::from_secs(2_000_000) {
        return Err(format!("`{text}` is longer than the kernel takes (about 23 days)"));
    }
    Ok(duration)
}

/// TCP keepalive of a client's sockets, written `IDLE,INTERVAL,COUNT`, for example `2s,1s,3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Keepalive {
    /// Silence before the first probe (`TCP_KEEPIDLE`), whole seconds.
    pub idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`), whole seconds.
    pub interval: Duration,
    /// Probes without an answer before the session is given up (`TCP_KEEPCNT`).
    pub count: u32,
}

impl FromStr for Keepalive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let [idle, interval, count] = parts[..] else {
            return Err(format!("`{text}` is not IDLE,INTERVAL,COUNT such as 2s,1s,3"));
        };
        // The kernel's own limits: net/ipv4/tcp.c, do_tcp_setsockopt; include/net/tcp.h,
        // MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT.
        let seconds = |text: &str| match parse_whole_seconds(text)? {
            long if long > Duration::from_secs(32_767) => {
                Err(format!("`{text}` is longer than a keepalive can be (32767 s)"))
            }
            duration => Ok(duration),
        };
        let count = count
            .parse()
            .ok()
            .filter(|count| (1..=127).contains(count))
            .ok_or_else(|| format!("`{count}` is not a number of probes from 1 to 127"))?;
        Ok(Self { idle: seconds(idle)?, interval: seconds(interval)?, count })
    }
}

impl From<Keepalive> for String {
    fn from(keepalive: Keepalive) -> Self {
        keepalive.to_string()
    }
}

impl TryFrom<String> for Keepalive {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Keepalive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{},{},{}",
            format_duration(self.idle),
            format_duration(self.interval),
            self.count
        )
    }
}

/// Neighbouring TCP ports, written `7000-7009`, or `7000` for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Every port of the range, in order.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// The range in so many parts of nearly the same size; fewer when it has fewer ports.
    pub(crate) fn split(self, parts: u16) -> Vec<Self> {
        let ports: Vec<u16> = self.ports().collect();
        let size = ports.len().div_ceil(usize::from(parts.max(1)));
        ports
            .chunks(size)
            .filter_map(|part| Some(Self { first: *part.first()?, last: *part.last()? }))
            .collect()
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a port or a range such as 7000-7009");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: u16 = first.parse().map_err(|_| wrong())?;
        let last = last.parse().map_err(|_| wrong())?;
        if first == 0 || first > last {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [
            ("15s", 15_000),
            ("2m", 120_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1m500ms", 60_500),
            ("5d", 432_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "15", "s", "15x", "-1s", "1.5s", "99999999999999999d", "18446744073709551616s"]
        {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("is not a duration"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0s", "15s", "2m", "1h30m", "2d1h", "500ms", "1s1ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn timeouts_of_the_kernel_are_whole_seconds() {
        assert_eq!(parse_whole_seconds("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "500ms", "1s500ms", "30d"] {
            assert!(parse_whole_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keepalive_has_three_parts_within_the_kernels_limits() {
        let keepalive: Keepalive = "2s,1s,3".parse().unwrap();
        assert_eq!(keepalive.idle, Duration::from_secs(2));
        assert_eq!(keepalive.interval, Duration::from_secs(1));
        assert_eq!(keepalive.count, 3);
        assert_eq!(keepalive.to_string(), "2s,1s,3");
        for text in
            ["2s,1s", "2s,1s,3,4", "2s,1s,0", "2s,1s,128", "10h,1s,3", "2,1,3", "500ms,1s,3"]
        {
            assert!(text.parse::<Keepalive>().is_err(), "{text}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!("7000-7009".parse(), Ok(PortRange { first: 7000, last: 7009 }));
        assert_eq!("7000".parse(), Ok(PortRange { first: 7000, last: 7000 }));
        assert_eq!("7000-7009".parse::<PortRange>().unwrap().to_string(), "7000-7009");
        assert_eq!("7000".parse::<PortRange>().unwrap().to_string(), "7000");
        let parts = |n| "7000-7009".parse::<PortRange>().unwrap().split(n);
        assert_eq!(parts(1), ["7000-7009".parse().unwrap()]);
        assert_eq!(
            parts(3).iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["7000-7003", "7004-7007", "7008-7009"]
        );
        assert_eq!(parts(99).len(), 10);
        for text in ["", "0", "7009-7000", "70000", "a-b", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }
}
