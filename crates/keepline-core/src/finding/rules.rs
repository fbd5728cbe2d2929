//! The rules: from judged sessions and the tables of directors to findings.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Code, Finding, fix};
use crate::{
    duration::human,
    names::Namer,
    policy,
    session::{End, Session, Table, Why},
    snapshot::{Incomplete, Snapshot},
};

/// Findings on `snapshot`, the gravest first; each session learns which are about it.
pub(crate) fn find(snapshot: &Snapshot, sessions: &mut [Session]) -> Vec<Finding> {
    for session in &mut *sessions {
        session.findings.extend(about(session.why));
        if backend_gone(snapshot, session) {
            session.findings.push(Code::BACKEND_GONE);
        }
    }
    let mut findings = of_sessions(snapshot, sessions);
    findings.extend(super::directors::find(snapshot, sessions));
    findings.extend(of_the_scan(&snapshot.incomplete));
    findings.extend(without_names(&snapshot.unnamed));
    findings.extend(labels_that_say_nothing(snapshot));
    findings.sort_by(|a, b| {
        (a.code.severity(), a.code, std::cmp::Reverse(a.sessions)).cmp(&(
            b.code.severity(),
            b.code,
            std::cmp::Reverse(b.sessions),
        ))
    });
    findings
}

fn about(why: Why) -> Option<Code> {
    match why {
        Why::Forgotten => Some(Code::ORPHANED),
        Why::ForgottenAtBackend => Some(Code::FORGOTTEN_AT_BACKEND),
        Why::NoKeepalive => Some(Code::NO_KEEPALIVE),
        Why::KeepaliveLate => Some(Code::KEEPALIVE_LATE),
        Why::KeepaliveTight => Some(Code::KEEPALIVE_TIGHT),
        Why::HalfClosed => Some(Code::HALF_CLOSED),
        Why::KeepaliveUnproven => Some(Code::KEEPALIVE_UNPROVEN),
        Why::Ambiguous => Some(Code::AMBIGUOUS),
        Why::NotConfirmed | Why::Unreadable => Some(Code::SCAN_INCOMPLETE),
        Why::NoDirector | Why::KeptAlive | Why::Held | Why::Rehashed | Why::BeyondHorizon => None,
    }
}

/// Whether the session's entry leads to a backend that its director no longer has.
fn backend_gone(snapshot: &Snapshot, session: &Session) -> bool {
    let (Some(director), Some(backend), Some(_)) =
        (session.director, session.backend, session.entry)
    else {
        return false;
    };
    let Some(ipvs) = &snapshot.namespaces[director].ipvs else { return false };
    session.table == Some(Table::Ipvs)
        && ipvs.expire_nodest_conn == Some(false)
        && !ipvs.services.iter().flat_map(|service| &service.destinations).any(|destination| {
            destination.address.ip() == backend.ip()
                && [0, backend.port()].contains(&destination.address.port())
        })
}

/// One finding for every code, director and virtual address.
fn of_sessions(snapshot: &Snapshot, sessions: &[Session]) -> Vec<Finding> {
    let mut groups: BTreeMap<(Code, Option<usize>, SocketAddr), Vec<&Session>> = BTreeMap::new();
    for session in sessions {
        for code in &session.findings {
            groups.entry((*code, session.director, session.server)).or_default().push(session);
        }
    }
    let namer = Namer::new(snapshot);
    groups
        .into_iter()
        .map(|((code, director, server), sessions)| Finding {
            code,
            sessions: sessions.len(),
            detail: detail(snapshot, &namer, code, director, server, &sessions),
            fix: fixes(snapshot, code, director, server, &sessions),
            director,
        })
        .collect()
}

/// `1 session`, `3 sessions`.
fn counted(count: usize) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

fn detail(
    snapshot: &Snapshot,
    namer: &Namer<'_>,
    code: Code,
    director: Option<usize>,
    server: SocketAddr,
    sessions: &[&Session],
) -> String {
    let many = counted(sessions.len());
    let address = server.to_string();
    let to = sessions.first().map_or(address.clone(), |first| namer.of(first).describe(&address));
    let (has, is) = if sessions.len() == 1 { ("has", "is") } else { ("have", "are") };
    let name = director.map_or("the director", |at| snapshot.namespaces[at].name.as_str());
    let silent = sessions.iter().filter_map(|session| session.idle).max();
    let silent = silent.map_or(String::new(), |idle| format!(", silent for up to {}", human(idle)));
    let soonest = sessions.iter().filter_map(|session| session.orphaned_in).min();
    let soonest = soonest.map_or_else(|| "an unknown time".to_owned(), human);
    let timeout = sessions.iter().filter_map(|session| session.entry).map(|entry| entry.timeout);
    let timeout = timeout.min().map_or_else(|| "its timeout".to_owned(), human);
    let consequence = consequence(sessions);
    match code {
        Code::ORPHANED => format!(
            "{many} to {to} {has} an open socket but no entry in {name}{silent}. {consequence}"
        ),
        Code::FORGOTTEN_AT_BACKEND => format!(
            "{many} at backend {to} {has} an open socket but no entry in the director \
             {name}{silent}. What the backend sends reaches nobody, and it keeps the session \
             open until it writes"
        ),
        Code::NO_KEEPALIVE => format!(
            "{many} to {to} {has} no keepalive, and {name} forgets after {timeout} of \
             silence; the next is lost in {soonest} unless traffic comes. {consequence}"
        ),
        Code::KEEPALIVE_LATE => format!(
            "{many} to {to} {has} keepalive that first fires after {name} has forgotten \
             ({timeout} of silence); the next is lost in {soonest} unless traffic comes. \
             {consequence}"
        ),
        Code::KEEPALIVE_TIGHT => format!(
            "{many} to {to} {has} keepalive below the {timeout} after which {name} forgets, \
             but one lost probe is enough to lose them"
        ),
        Code::HALF_CLOSED => format!(
            "{many} to {to} {is} half-closed: for these {name} runs a shorter clock; the \
             next is lost in {soonest}. What is still to be sent then meets a reset"
        ),
        Code::BACKEND_GONE => format!(
            "{many} to {to} lead to a backend that {name} no longer has, and \
             expire_nodest_conn is 0: packets vanish until the entry runs out ({soonest})"
        ),
        Code::KEEPALIVE_UNPROVEN => format!(
            "{many} to {to} may have keepalive, but its timing could not be read; without \
             it the next is lost in {soonest}"
        ),
        Code::AMBIGUOUS => format!(
            "{many} to {to}: several namespaces own this address and balance it; which one \
             answers this client could not be told, so neither could the verdict"
        ),
        _ => format!("{many} to {to}: the tables of {name} could not be read completely"),
    }
}

/// What happens at the next request of an orphaned session.
fn consequence(sessions: &[&Session]) -> &'static str {
    let Some(session) = sessions.first() else { return "" };
    if session.director == Some(session.socket.namespace) {
        // No reset comes from the client's own namespace: the packet leaves untranslated.
        "The next request hangs for about 15 minutes (tcp_retries2); a client that only reads \
         never learns"
    } else if session.table == Some(Table::Conntrack) {
        "The next request is reset, or hangs for about 15 minutes where the director drops it; \
         a client that only reads never learns"
    } else {
        "The next request is reset at once; a client that only reads never learns"
    }
}

fn fixes(
    snapshot: &Snapshot,
    code: Code,
    director: Option<usize>,
    server: SocketAddr,
    sessions: &[&Session],
) -> Vec<String> {
    let Some(first) = sessions.first() else { return Vec::new() };
    let client = &snapshot.namespaces[first.socket.namespace];
    let keepline = |command: &str| fix::keepline(snapshot, director, command);
    // Where the client is outside, its director can still find the backend by itself.
    let outside = first.end == End::Backend && first.table == Some(Table::Ipvs);
    let rehash = outside.then(|| keepline("apply rehash"));
    match code {
        Code::ORPHANED => vec![keepline("heal"), keepline("apply hold")],
        Code::FORGOTTEN_AT_BACKEND => vec![keepline("heal"), keepline("abort")],
        Code::NO_KEEPALIVE => [keepline("apply hold"), keepline("apply timeout --tcp 2h")]
            .into_iter()
            .chain(rehash)
            .collect(),
        Code::HALF_CLOSED => vec![keepline("apply hold")],
        Code::KEEPALIVE_TIGHT | Code::KEEPALIVE_LATE => {
            vec![keepline("apply keepalive"), keepline("apply hold")]
        }
        Code::BACKEND_GONE => director
            .map(|at| fix::ipvs_sysctl(&snapshot.namespaces[at], "expire_nodest_conn", 1))
            .into_iter()
            .collect(),
        Code::AMBIGUOUS => vec![fix::who_answers(client, server)],
        Code::KEEPALIVE_UNPROVEN => vec!["sudo keepline check".to_owned()],
        _ => vec![format!("keepline explain {code}")],
    }
}

/// One finding for everything that could not be seen for the same reason.
fn of_the_scan(incomplete: &[Incomplete]) -> Vec<Finding> {
    let mut groups: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
    for item in incomplete {
        groups.entry((&item.why, item.help.as_deref())).or_default().push(&item.what);
    }
    groups
        .into_iter()
        .map(|((why, help), what)| {
            let more = what.len().saturating_sub(3);
            let shown = what.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            Finding {
                code: Code::SCAN_INCOMPLETE,
                sessions: 0,
                detail: format!("{shown}{rest}: {why}"),
                fix: vec![help.unwrap_or("sudo keepline check").to_owned()],
                director: None,
            }
        })
        .collect()
}

/// The Engine is there, but did not tell all names.
fn without_names(unnamed: &[String]) -> Option<Finding> {
    let why = first_of(unnamed)?;
    Some(Finding {
        code: Code::NAMES_MISSING,
        sessions: 0,
        detail: format!(
            "{why}. Verdicts do not depend on it, but containers, networks and services \
             may be shown without their names"
        ),
        fix: vec!["docker info".to_owned()],
        director: None,
    })
}

/// A label of Keepline that Keepline does not understand: whoever set it believes that it holds.
fn labels_that_say_nothing(snapshot: &Snapshot) -> Option<Finding> {
    let faults = snapshot.topology.as_ref().map(policy::label_faults)?;
    let first = first_of(&faults)?;
    Some(Finding {
        code: Code::POLICY_INVALID,
        sessions: 0,
        detail: format!("{first}; a guard that runs goes on with what was said before"),
        fix: vec!["keepline policy".to_owned()],
        director: None,
    })
}

/// The first of several, and how many there are besides.
fn first_of(all: &[impl std::fmt::Display]) -> Option<String> {
    let first = all.first()?;
    Some(match all.len() - 1 {
        0 => first.to_string(),
        more => format!("{first} (and {more} more)"),
    })
}
