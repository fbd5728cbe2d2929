//! What the field's own tools say, in a form that tests can compare. Nothing here knows Keepline.

use std::collections::BTreeSet;

/// A session as a table remembers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Address and port of the client.
    pub client: String,
    /// What the client connected to.
    pub server: String,
    /// Where it is sent.
    pub backend: String,
    /// As the tool writes it.
    pub state: String,
}

/// TCP lines of `ipvsadm -Lnc`, with the lifetime left in seconds:
/// `TCP 00:19  ESTABLISHED 10.213.1.10:43210 10.213.1.2:7000 10.213.1.11:7000`.
#[must_use]
pub fn ipvs_entries(listing: &str) -> Vec<(Entry, f64)> {
    let entry = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["TCP", expires, state, client, server, backend] = words[..] else { return None };
        let (minutes, seconds) = expires.split_once(':')?;
        let left = minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?;
        let [client, server, backend, state] = [client, server, backend, state].map(String::from);
        Some((Entry { client, server, backend, state }, left))
    };
    listing.lines().filter_map(entry).collect()
}

/// Lines of `conntrack -L -p tcp` that translate an address:
/// `tcp 6 19 ESTABLISHED src=A dst=VIP sport=1 dport=2 src=B dst=LB sport=2 dport=1 [ASSURED] …`.
#[must_use]
pub fn conntrack_entries(listing: &str) -> Vec<(Entry, f64)> {
    let entry = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.len() < 12 || words[0] != "tcp" {
            return None;
        }
        let values = |key: &str| -> Vec<&str> {
            words.iter().filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).collect()
        };
        let (src, dst, sport, dport) =
            (values("src"), values("dst"), values("sport"), values("dport"));
        let [client, server, backend, seen_as] = [
            format!("{}:{}", src[0], sport[0]),
            format!("{}:{}", dst[0], dport[0]),
            format!("{}:{}", src[1], sport[1]),
            format!("{}:{}", dst[1], dport[1]),
        ];
        let translated = client != seen_as || server != backend;
        let entry = Entry { client, server, backend, state: words[3].to_owned() };
        translated.then(|| Some((entry, words[2].parse().ok()?))).flatten()
    };
    listing.lines().filter_map(entry).collect()
}

/// `ss -Htn` restricted to open states: local and remote address.
#[must_use]
pub fn sockets(listing: &str) -> BTreeSet<(String, String)> {
    listing
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            Some((words.get(3)?.to_string(), words.get(4)?.to_string()))
        })
        .collect()
}

/// `Timeout (tcp tcpfin udp): 20 120 300`, or three numbers as `sysctl -n` prints them; seconds.
///
/// # Panics
/// There are no three numbers.
#[must_use]
pub fn timeouts(text: &str) -> [f64; 3] {
    let numbers = text.rsplit(": ").next().unwrap_or_default();
    let numbers: Vec<f64> =
        numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("no three timeouts: {text:?}"))
}

/// Lines of a listing without surrounding blanks, as a set.
#[must_use]
pub fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}
