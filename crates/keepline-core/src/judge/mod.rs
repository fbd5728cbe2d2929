//! Judge: from a snapshot to sessions with verdicts, and findings.
//!
//! Who is client and who backend is told in [`ends`], the way of a session is followed in
//! [`route`], its clock is read in [`clock`]; what is wrong and what to do about it is stated
//! in [`crate::finding`].

mod clock;
mod ends;
mod index;
mod networks;
mod route;
mod strategies;

use std::{cmp::Reverse, net::SocketAddr, time::Duration};

use crate::{
    finding::{self, Finding},
    names::Namer,
    parallel,
    session::{End, Session, SocketRef, Table, Verdict, Why},
    snapshot::{SecondLookResult, Snapshot, Timer},
};
pub(crate) use index::entry;
pub(crate) use route::{marked, single_backend};

use ends::{Backends, Candidate, Ends};
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
    /// From and to of what the director is sent on this session by the socket's side; behind
    /// another director these are not the socket's own addresses.
    pub pair: (SocketAddr, SocketAddr),
    /// Whether the socket is the backend's.
    pub backend_end: bool,
}

/// What must be known before sessions can be judged and shown.
#[derive(Debug, Default)]
pub struct Questions {
    /// Seem orphaned.
    pub suspects: Vec<Suspect>,
    /// Whose owner will be named, the most urgent first.
    pub processes: Vec<SocketRef>,
    /// How many of these belong to sessions that are not safe.
    pub urgent: usize,
    /// On which a timer runs: their keepalive settings decide the verdict.
    pub keepalive: Vec<SocketRef>,
}

/// The sessions of `snapshot` with verdicts, and the findings.
#[must_use]
pub fn judge(snapshot: &Snapshot, options: &Options) -> Judgement {
    first_judgement(snapshot, options).conclude(snapshot)
}

/// The sessions of selected namespaces that seem orphaned: what the second look has to confirm.
#[must_use]
pub fn suspects(snapshot: &Snapshot) -> Vec<Suspect> {
    questions(snapshot).suspects
}

/// What a first look leaves open.
#[must_use]
pub fn questions(snapshot: &Snapshot) -> Questions {
    first_judgement(snapshot, &Options::default()).questions(snapshot)
}

/// Sessions judged by a first look: the last word too, where that leaves nothing open.
#[derive(Debug)]
pub struct FirstJudgement {
    /// The most urgent first.
    sessions: Vec<Session>,
}

/// Judges the sessions of selected namespaces.
#[must_use]
pub fn first_judgement(snapshot: &Snapshot, options: &Options) -> FirstJudgement {
    FirstJudgement { sessions: by_urgency(sessions(snapshot, options)) }
}

impl FirstJudgement {
    /// What must be known before this is the last word on `snapshot`.
    #[must_use]
    pub fn questions(&self, snapshot: &Snapshot) -> Questions {
        let mut questions = Questions::default();
        for session in &self.sessions {
            if session.verdict == Verdict::Untracked {
                continue;
            }
            questions.processes.push(session.socket);
            questions.urgent += usize::from(session.verdict != Verdict::Safe);
            for end in std::iter::once(session.socket).chain(session.other_end) {
                let socket = index::socket(snapshot, end);
                if socket.timer != Timer::Off && socket.keepalive.is_none() {
                    questions.keepalive.push(end);
                }
            }
            if session.why == Why::NotConfirmed
                && let (Some(director), Some(pair)) = (session.director, session.sent.as_deref())
            {
                let backend_end = session.end == End::Backend;
                let socket = session.socket;
                questions.suspects.push(Suspect { socket, director, pair: *pair, backend_end });
            }
        }
        questions
    }

    /// The last word on `snapshot`, of which nothing was learnt since that bears on a verdict.
    #[must_use]
    pub fn conclude(mut self, snapshot: &Snapshot) -> Judgement {
        let mut summary = Summary::default();
        self.sessions.iter().for_each(|session| summary.add(session.verdict));
        let findings = finding::find(snapshot, &mut self.sessions);
        Judgement { sessions: self.sessions, findings, summary }
    }
}

/// The most urgent first; addresses last so that the order is the same every time.
fn by_urgency(chunks: Vec<Vec<Option<Session>>>) -> Vec<Session> {
    type Key = (Verdict, Duration, Reverse<Option<Duration>>);
    let key = |session: &Session| -> Key {
        let left = session.orphaned_in.unwrap_or(Duration::MAX);
        (session.verdict, left, Reverse(session.idle))
    };
    // Positions are sorted, and each session moved once.
    let mut places: Vec<(Key, u32, u32)> = Vec::with_capacity(chunks.iter().map(Vec::len).sum());
    for (chunk, sessions) in (0..).zip(&chunks) {
        let some = (0..).zip(sessions).filter_map(|(at, it)| Some((at, it.as_ref()?)));
        places.extend(some.map(|(at, session)| (key(session), chunk, at)));
    }
    let addresses = |chunk: u32, at: u32| {
        let session = chunks[chunk as usize][at as usize].as_ref();
        session.map(|session| (session.client, session.server))
    };
    places.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| addresses(a.1, a.2).cmp(&addresses(b.1, b.2)))
    });
    let mut chunks = chunks;
    let taken =
        places.iter().filter_map(|(_, chunk, at)| chunks[*chunk as usize][*at as usize].take());
    let mut sessions = Vec::with_capacity(places.len());
    sessions.extend(taken);
    sessions
}

/// Sessions of some clients, and what is still to be told of them.
#[derive(Debug, Default)]
struct Judged {
    sessions: Vec<Option<Session>>,
    /// Where among the sessions one leads to which backend.
    claims: Vec<(usize, Candidate)>,
    forgotten: Vec<(SocketRef, Lost)>,
}

/// What directors remember of the sessions of `clients`, each as if its backend were its alone.
fn remembered(
    snapshot: &Snapshot,
    index: &Index,
    backends: &Backends<'_>,
    clients: &[SocketRef],
    options: &Options,
) -> Judged {
    let mut judged = Judged { sessions: Vec::with_capacity(clients.len()), ..Judged::default() };
    for &at in clients {
        let session = match route::follow(snapshot, index, at) {
            Route::Hops(hops) => {
                let candidate = backends.at_the_end_of(&hops);
                judged.claims.extend(candidate.map(|it| (judged.sessions.len(), it)));
                let backend = candidate.map(|it| backends.socket(it));
                clock::judge(snapshot, index, at, backend, &hops, options)
            }
            Route::Missing { director, table, pair } => {
                judged.forgotten.push((at, Lost { director, table, pair }));
                continue;
            }
            Route::Direct => plain(snapshot, at, Verdict::Untracked, Why::NoDirector),
            Route::Ambiguous => plain(snapshot, at, Verdict::Unknown, Why::Ambiguous),
            Route::Unreadable { director } => {
                let mut session = plain(snapshot, at, Verdict::Unknown, Why::Unreadable);
                session.director = Some(director);
                session
            }
        };
        judged.sessions.push(Some(session));
    }
    judged
}

/// Every session of the selected namespaces, in pieces.
fn sessions(snapshot: &Snapshot, options: &Options) -> Vec<Vec<Option<Session>>> {
    let index = Index::new(snapshot);
    let ends = Ends::new(snapshot, &index);
    let mut backends = Backends::new(snapshot, &index, &ends);
    let pieces: Vec<&[SocketRef]> = ends.clients.chunks(parallel::PIECE).collect();
    let mut pieces =
        parallel::map(&pieces, |clients| remembered(snapshot, &index, &backends, clients, options));
    // The backends of living sessions must be claimed before those of forgotten ones.
    for piece in &mut pieces {
        for (number, candidate) in std::mem::take(&mut piece.claims) {
            if backends.claim(candidate) {
                continue;
            }
            // Another session has it: the same addresses in two networks.
            let session = &mut piece.sessions[number];
            if let Some(at) = session.as_ref().map(|session| session.socket)
                && let Route::Hops(hops) = route::follow(snapshot, &index, at)
            {
                *session = Some(clock::judge(snapshot, &index, at, None, &hops, options));
            }
        }
    }
    let forgotten: Vec<_> =
        pieces.iter_mut().flat_map(|it| std::mem::take(&mut it.forgotten)).collect();
    let mut judged = Vec::new();
    for (at, lost) in forgotten {
        let Some(mut session) = missing(snapshot, &index, at, lost, End::Client) else {
            // It has ended since the first look. So has what was seen of it at its backend then,
            // which nobody was asked about a second time.
            backends.claim_forgotten(lost.pair.0, lost.director);
            continue;
        };
        if session.verdict != Verdict::Untracked {
            session.other_end = backends.claim_forgotten(lost.pair.0, lost.director);
            let holder = session.other_end.map(|end| index::socket(snapshot, end).local);
            // On another node; of one on this machine the socket would have been found.
            session.backend = holder.or_else(|| {
                single_backend(&snapshot.namespaces[lost.director], lost.pair.1)
                    .filter(|backend| index.owners(backend.ip()).is_empty())
            });
        }
        judged.push(session);
    }
    for at in backends.unclaimed() {
        match route::follow_back(snapshot, &index, at) {
            Route::Hops(hops) => {
                judged.push(clock::judge_from_backend(snapshot, &index, at, &hops, options));
            }
            Route::Missing { director, table, pair } => {
                let lost = Lost { director, table, pair };
                judged.extend(missing(snapshot, &index, at, lost, End::Backend));
            }
            Route::Direct | Route::Ambiguous | Route::Unreadable { .. } => {}
        }
    }
    let mut pieces: Vec<Vec<Option<Session>>> = pieces.into_iter().map(|it| it.sessions).collect();
    pieces.push(judged.into_iter().map(Some).collect());
    strategies::regard(snapshot, pieces.iter_mut().flatten().flatten());
    let scope = snapshot.scope();
    if scope.namespaces.is_some() {
        let namer = Namer::new(snapshot);
        for session in pieces.iter_mut().flatten() {
            session.take_if(|session| !strategies::within(snapshot, &scope, &namer, session));
        }
    }
    pieces
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
        sent: None,
        table: None,
        entry: None,
        entry_at: None,
        idle: socket.idle,
        orphaned_in: None,
        keepalive: clock::keepalive(socket),
        findings: Vec::new(),
    }
}

/// The entry that is not there: where it should be, and for which addresses.
#[derive(Debug, Clone, Copy)]
struct Lost {
    director: usize,
    table: Table,
    pair: index::Pair,
}

/// A session without an entry at the director that should have one. None if its socket has
/// closed since.
fn missing(
    snapshot: &Snapshot,
    index: &Index,
    at: SocketRef,
    lost: Lost,
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
        session.director = Some(lost.director);
        session.table = Some(lost.table);
        session.sent = Some(Box::new(lost.pair));
    }
    Some(session)
}
