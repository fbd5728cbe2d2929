//! Findings about a director rather than a session.

use std::time::Duration;

use super::{Code, Finding, fix};
use crate::{
    duration::human,
    session::Session,
    snapshot::{Ipvs, Listing, Namespace, Snapshot, topology::Network},
};

/// A conntrack table fuller than this is nearly full (per cent).
const NEARLY_FULL: u64 = 90;

/// Findings on the directors that were asked for, or that sessions go through.
pub(super) fn find(snapshot: &Snapshot, sessions: &[Session]) -> Vec<Finding> {
    let mut through = vec![0; snapshot.namespaces.len()];
    for director in sessions.iter().filter_map(|session| session.director) {
        through[director] += 1;
    }
    let mut findings = Vec::new();
    let topology = snapshot.topology.as_ref();
    for (at, namespace) in snapshot.namespaces.iter().enumerate() {
        if through[at] == 0 && !snapshot.concerns(namespace) {
            continue;
        }
        let mut add = |code: Code, detail: String, fix: String| {
            findings.push(Finding {
                code,
                sessions: through[at],
                detail,
                fix: vec![fix],
                director: Some(at),
            });
        };
        if let Some((detail, longer)) = conntrack_shorter(namespace) {
            let command = format!("apply timeout --tcp {}s", longer.as_secs());
            let fix = fix::keepline(snapshot, Some(at), &command);
            add(Code::CONNTRACK_SHORTER, detail, fix);
        }
        if let Some((detail, fix)) = table_full(namespace) {
            add(Code::TABLE_FULL, detail, fix);
        }
        if let Some(detail) = slow_table(namespace, &snapshot.kernel) {
            add(Code::SLOW_TABLE, detail, fix::inside(namespace, "conntrack -C"));
        }
        let network = topology.and_then(|it| it.network_of_director(namespace.file()));
        for (detail, fix) in not_as_intended(namespace, network) {
            add(Code::DIRECTOR_SETTINGS, detail, fix);
        }
        if let Some((detail, fix)) = without_conntrack(namespace, network) {
            add(Code::CONNTRACK_OFF, detail, fix);
        }
        if let Some((detail, fix)) = network.and_then(|it| replies_go_past(namespace, it)) {
            add(Code::DIRECT_REPLIES, detail, fix);
        }
        if namespace.nftables_balances {
            let detail = format!(
                "{} balances with nftables (tables docker-lb-…), not with IPVS: conntrack decides \
                 there how long a session is remembered",
                namespace.name
            );
            add(Code::NFTABLES_BALANCES, detail, fix::inside(namespace, "nft list ruleset"));
        }
    }
    findings
}

/// The table was not read: conntrack stands in for it, as far as it can.
fn slow_table(namespace: &Namespace, kernel: &str) -> Option<String> {
    let ipvs = namespace.ipvs.as_ref().filter(|it| it.listing == Listing::TooSlow)?;
    let mut detail = format!(
        "the IPVS table of {} is large, kernel {kernel} lists it in quadratic time (mended in 6.14), \
         and it could not be walked: lifetimes are told from conntrack and each session's silence",
        namespace.name
    );
    if let Some(conntrack) = namespace.conntrack.as_ref().filter(|it| !ipvs.is_known_to(it)) {
        let (remembered, tracked) = (ipvs.remembered(), conntrack.count);
        detail += &format!(
            ". IPVS has {remembered} entries and conntrack {tracked}: it was emptied by somebody, and \
             sessions that it does not know cannot be judged"
        );
    }
    Some(detail)
}

/// IPVS keeps its entry, but conntrack drops the one that holds the translation.
fn conntrack_shorter(namespace: &Namespace) -> Option<(String, Duration)> {
    let ipvs = namespace.ipvs.as_ref().filter(|ipvs| ipvs.conntrack == Some(true))?;
    let conntrack = namespace.conntrack.as_ref()?.timeouts?;
    let (longer, shorter) = (ipvs.timeouts.tcp, conntrack.established);
    (longer > shorter && !ipvs.services.is_empty()).then(|| {
        let detail = format!(
            "{} remembers sessions for {} in IPVS, but for {} in conntrack, which holds their \
             translation: they are lost after the shorter time",
            namespace.name,
            human(longer),
            human(shorter)
        );
        (detail, longer)
    })
}

fn table_full(namespace: &Namespace) -> Option<(String, String)> {
    let conntrack = namespace.conntrack.as_ref()?;
    let max = conntrack.max.filter(|max| *max > 0)?;
    let full = conntrack.count.saturating_mul(100) / max >= NEARLY_FULL;
    if !full && conntrack.early_drop == 0 && conntrack.drop == 0 {
        return None;
    }
    let detail = format!(
        "{} of {max} conntrack entries are in use in {}; {} were dropped early to make room and \
         {} packets refused since it began: sessions are forgotten long before their time",
        conntrack.count, namespace.name, conntrack.early_drop, conntrack.drop
    );
    // One limit for all namespaces, set in the initial one (nf_conntrack_standalone.c).
    Some((detail, format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2))))
}

/// File names of the directors that the Engine makes.
fn is_swarms(namespace: &Namespace, network: Option<&Network>) -> bool {
    let file = namespace.file();
    network.is_some() || file.starts_with("lb_") || file == "ingress_sbox"
}

/// Settings of a Swarm's director that are not those which the Engine gives it
/// (`createLBNetworkSandbox`, `kernelParams` in moby's osl/namespace_linux.go).
fn not_as_intended(namespace: &Namespace, network: Option<&Network>) -> Vec<(String, String)> {
    let Some(ipvs) = namespace.ipvs.as_ref().filter(|_| is_swarms(namespace, network)) else {
        return Vec::new();
    };
    let settings = [
        (
            "expire_nodest_conn",
            ipvs.expire_nodest_conn.map(u32::from),
            1,
            "packets of sessions whose backend was removed vanish until the entry runs out, and \
             a longer timeout makes that worse",
        ),
        (
            "conn_reuse_mode",
            ipvs.conn_reuse_mode,
            0,
            "a connection from a port that was used before can be delayed by a second or go to \
             a backend that is being removed",
        ),
    ];
    let wrong = settings.into_iter().filter_map(|(name, is, should, then)| {
        let is = is.filter(|is| *is != should)?;
        let detail = format!(
            "{}: net.ipv4.vs.{name} is {is}, where Swarm means it to be {should}: {then}",
            namespace.name
        );
        Some((detail, fix::ipvs_sysctl(namespace, name, should)))
    });
    wrong.collect()
}

/// IPVS remembers, but conntrack does not take part: something turned it off there.
fn without_conntrack(namespace: &Namespace, network: Option<&Network>) -> Option<(String, String)> {
    let ipvs = namespace.ipvs.as_ref().filter(|_| is_swarms(namespace, None))?;
    let silent = |ipvs: &Ipvs| {
        let entries = namespace.conntrack.as_ref().map_or(0, |conntrack| conntrack.count);
        entries == 0 && !ipvs.entries.is_empty()
    };
    let (why, fix) = if ipvs.conntrack == Some(false) {
        match network {
            Some(network) if network.dsr => (
                "net.ipv4.vs.conntrack is 0, as it is meant to be with --opt dsr",
                options_of(network),
            ),
            Some(_) => ("net.ipv4.vs.conntrack is 0", fix::ipvs_sysctl(namespace, "conntrack", 1)),
            // Of a network with direct replies it would be wrong to set it.
            None => (
                "net.ipv4.vs.conntrack is 0, which is meant only with --opt dsr",
                fix::inside(namespace, "sysctl net.ipv4.vs.conntrack"),
            ),
        }
    } else if silent(ipvs) {
        let rules = fix::inside(namespace, "iptables -t raw -S");
        (
            "IPVS has entries and conntrack has none (a rule with CT --notrack, such as that of \
          docker-ingress-routing-daemon)",
            rules,
        )
    } else {
        return None;
    };
    let detail = format!(
        "{} keeps its sessions in IPVS alone: {why}. Verdicts there rest on the IPVS listing, \
         which older kernels read slowly and can read with gaps",
        namespace.name
    );
    Some((detail, fix))
}

/// Direct server return: the director sees what clients send, and nothing of what backends do.
fn replies_go_past(namespace: &Namespace, network: &Network) -> Option<(String, String)> {
    network.dsr.then(|| {
        let detail = format!(
            "network {} was made with --opt dsr: replies go past {}, so only what a client sends \
             (its own keepalive, or its answer to the backend's) keeps a session remembered",
            crate::report::text::escape(&network.name, crate::report::text::NAME),
            namespace.name
        );
        (detail, options_of(network))
    })
}

fn options_of(network: &Network) -> String {
    format!("docker network inspect -f '{{{{.Options}}}}' {}", fix::quoted(&network.name))
}
