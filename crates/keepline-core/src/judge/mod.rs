//! Judge: from a snapshot to sessions with verdicts, and findings.
//!
//! Who is client and who backend is told in [`ends`], the way of a session is followed in
//! [`route`], its clock is read in [`clock`]; what is wrong and what to do about it is stated
//! in [`crate::finding`].

mod clock;
mod ends;
mod index;
mod route;

use std::time::Duration;

use crate::{
    finding::{self, Finding},
    session::{End, Keepalive, Session, SocketRef, Table, Verdict, Why},
    snapshot::{SecondLookResult, Snapshot, Timer},
};
use ends::{Backends, Ends};
use index::Index;
use route::Route;

/// What the judge is asked.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A session whose entry runs out later than this is safe in this look.
    pub horizon: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { horizon: Duration::from_secs(900) }
    }
}

/// How many sessions have which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Verdict safe.
    pub safe: usize,
    /// Verdict at-risk.
    pub at_risk: usize,
    /// Verdict orphaned.
    pub orphaned: usize,
    /// Verdict untracked.
    pub untracked: usize,
    /// Verdict unknown.
    pub unknown: usize,
}

impl Summary {
    fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Safe => &mut self.safe,
            Verdict::AtRisk => &mut self.at_risk,
            Verdict::Orphaned => &mut self.orphaned,
            Verdict::Untracked => &mut self.untracked,
            Verdict::Unknown => &mut self.unknown,
        } += 1;
    }
}

/// The judge's word on a snapshot.
#[derive(Debug)]
pub struct Judgement {
    /// Sessions of the selected namespaces, the most urgent first.
    pub sessions: Vec<Session>,
    /// Findings, the gravest first.
    pub findings: Vec<Finding>,
    /// Counts over `sessions`.
    pub summary: Summary,
}

/// A session that seems orphaned and wants a second look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// The socket.
    pub socket: SocketRef,
    /// Index of the namespace that should have an entry for it.
    pub director: usize,
    /// Whether the socket is the backend's.
    pub backend_end: bool,
}

/// Sockets of which more must be known before they can be judged and shown.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Whose owner will be named.
    pub processes: Vec<SocketRef>,
    /// Whose keepalive settings decide the verdict.
    pub keepalive: Vec<SocketRef>,
}

/// The sessions of `snapshot` with verdicts, and the findings.
#[must_use]
pub fn judge(snapshot: &Snapshot, options: &Options) -> Judgement {
    let mut summary = Summary::default();
    let mut sessions = sessions(snapshot, options);
    sessions.iter().for_each(|session| summary.add(session.verdict));
    // Most urgent first; addresses last so that the order is the same every time.
    sessions.sort_unstable_by_key(|session| {
        let left = session.orphaned_in.unwrap_or(Duration::MAX);
        let idle = std::cmp::Reverse(session.idle);
        (session.verdict, left, idle, session.client, session.server)
    });
    let findings = finding::find(snapshot, &mut sessions);
    Judgement { sessions, findings, summary }
}

/// The sessions of selected namespaces that seem orphaned: what the second look has to confirm.
#[must_use]
pub fn suspects(snapshot: &Snapshot) -> Vec<Suspect> {
    sessions(snapshot, &Options::default())
        .iter()
        .filter(|session| session.why == Why::NotConfirmed)
        .filter_map(|session| {
            Some(Suspect {
                socket: session.socket,
                director: session.director?,
                backend_end: session.end == End::Backend,
            })
        })
        .collect()
}

/// The sockets of sessions through a director: their owners are named, and where a timer runs
/// on them their keepalive settings decide.
#[must_use]
pub fn wanted(snapshot: &Snapshot) -> Wanted {
    let mut wanted = Wanted::default();
    for session in sessions(snapshot, &Options::default()) {
        if session.verdict == Verdict::Untracked {
            continue;
        }
        wanted.processes.push(session.socket);
        for end in std::iter::once(session.socket).chain(session.other_end) {
            if index::socket(snapshot, end).timer != Timer::Off {
                wanted.keepalive.push(end);
            }
        }
    }
    wanted
}

/// Every session of the selected namespaces.
fn sessions(snapshot: &Snapshot, options: &Options) -> Vec<Session> {
    let index = Index::new(snapshot);
    let ends = Ends::new(snapshot, &index);
    let mut backends = Backends::new(snapshot, &index, &ends);
    let mut judged = Vec::with_capacity(ends.clients.len());
    let mut forgotten = Vec::new();
    for &at in &ends.clients {
        let socket = index::socket(snapshot, at);
        match route::follow(snapshot, &index, at) {
            Route::Hops(hops) => {
                let backend = backends.claim(&hops);
                judged.push(clock::judge(snapshot, &index, at, backend, &hops, options));
            }
            // The backends of living sessions must be claimed before those of forgotten ones.
            Route::Missing { director, table } => forgotten.push((at, director, table)),
            Route::Direct => {
                judged.push(plain(snapshot, at, Verdict::Untracked, Why::NoDirector));
            }
            Route::Ambiguous => judged.push(plain(snapshot, at, Verdict::Unknown, Why::Ambiguous)),
            Route::Unreadable { director } => {
                let mut session = plain(snapshot, at, Verdict::Unknown, Why::Unreadable);
                session.director = Some(director);
                session.keepalive = clock::keepalive(socket);
                judged.push(session);
            }
        }
    }
    for (at, director, table) in forgotten {
        let Some(mut session) = missing(snapshot, &index, at, director, table, End::Client) else {
            continue;
        };
        if session.verdict != Verdict::Untracked {
            session.other_end = backends.claim_forgotten(at, director);
            session.backend = session.other_end.map(|end| index::socket(snapshot, end).local);
        }
        judged.push(session);
    }
    for at in backends.unclaimed() {
        match route::follow_back(snapshot, &index, at) {
            Route::Hops(hops) => {
                judged.push(clock::judge_from_backend(snapshot, &index, at, &hops, options));
            }
            Route::Missing { director, table } => {
                judged.extend(missing(snapshot, &index, at, director, table, End::Backend));
            }
            Route::Direct | Route::Ambiguous | Route::Unreadable { .. } => {}
        }
    }
    judged.retain(|session| selected(snapshot, session));
    judged
}

fn selected(snapshot: &Snapshot, session: &Session) -> bool {
    let chosen = |namespace: usize| snapshot.namespaces[namespace].selected;
    chosen(session.socket.namespace)
        || session.director.is_some_and(chosen)
        || session.other_end.is_some_and(|end| chosen(end.namespace))
}

/// A session of which nothing but its socket is known.
fn plain(snapshot: &Snapshot, at: SocketRef, verdict: Verdict, why: Why) -> Session {
    let socket = index::socket(snapshot, at);
    Session {
        client: socket.local,
        server: socket.remote,
        backend: None,
        verdict,
        why,
        end: End::Client,
        socket: at,
        other_end: None,
        state: socket.state,
        director: None,
        table: None,
        entry: None,
        idle: socket.idle,
        orphaned_in: None,
        keepalive: Keepalive::Off,
        findings: Vec::new(),
    }
}

/// A session without an entry at `director`, which should have one. None if its socket has
/// closed since.
fn missing(
    snapshot: &Snapshot,
    index: &Index,
    at: SocketRef,
    director: usize,
    table: Table,
    end: End,
) -> Option<Session> {
    let socket = index::socket(snapshot, at);
    let (verdict, why) = match index.second_look(snapshot, at) {
        Some(SecondLookResult::Confirmed) if end == End::Backend => {
            (Verdict::Orphaned, Why::ForgottenAtBackend)
        }
        Some(SecondLookResult::Confirmed) => (Verdict::Orphaned, Why::Forgotten),
        Some(SecondLookResult::Local) => (Verdict::Untracked, Why::NoDirector),
        Some(SecondLookResult::SocketGone) => return None,
        Some(SecondLookResult::Failed) | None => (Verdict::Unknown, Why::NotConfirmed),
    };
    let mut session = plain(snapshot, at, verdict, why);
    session.end = end;
    if end == End::Backend {
        session.client = socket.remote;
        session.server = socket.local;
        session.backend = Some(socket.local);
    }
    if verdict != Verdict::Untracked {
        session.director = Some(director);
        session.table = Some(table);
        session.keepalive = clock::keepalive(socket);
    }
    Some(session)
}
