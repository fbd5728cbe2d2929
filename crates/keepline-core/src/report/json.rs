//! `keepline.check/v1`: the machine-readable form of a check, documented in
//! `docs/commands/check.md`. Every key is always there; what is not known is null.

use std::io::{self, Write};
use std::net::SocketAddr;

use serde::{Serialize, Serializer};

use super::{Check, reason};
use crate::{
    duration::seconds::{option, rounded},
    finding::{Code, Finding},
    session::{Keepalive, Session, Verdict, Why},
    snapshot::{Incomplete, Process},
};

/// Name and version of this form.
pub const SCHEMA: &str = "keepline.check/v1";

/// Writes the check as one line of JSON, session by session.
///
/// # Errors
/// Those of `out`.
pub fn check(out: impl Write, check: &Check<'_>) -> io::Result<()> {
    let snapshot = check.snapshot;
    let summary = check.judgement.summary;
    let document = Document {
        schema: SCHEMA,
        host: &snapshot.host,
        scan: Scan {
            started: snapshot.started,
            duration_seconds: rounded(snapshot.duration),
            namespaces: snapshot.namespaces.len(),
            sockets: snapshot.sockets(),
            entries: snapshot.entries(),
            incomplete: &snapshot.incomplete,
        },
        summary: Summary {
            safe: summary.safe,
            at_risk: summary.at_risk,
            orphaned: summary.orphaned,
            untracked: summary.untracked,
            unknown: summary.unknown,
        },
        sessions: Sessions(check),
        findings: Findings(&check.judgement.findings),
    };
    write(out, &document)
}

/// Writes `document` as one line of JSON that is harmless on a terminal too.
pub(super) fn write(mut out: impl Write, document: &impl Serialize) -> io::Result<()> {
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Harmless))?;
    out.write_all(b"\n")
}

/// Writes characters that a terminal acts upon, and that JSON allows as they are, as `\uXXXX`:
/// the same text to every parser.
struct Harmless;

impl serde_json::ser::Formatter for Harmless {
    fn write_string_fragment<W>(&mut self, out: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        if fragment.is_ascii() && !fragment.contains('\x7f') {
            return out.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for character in fragment.chars() {
            // escape_debug leaves printable characters alone, and '"' and '\\' never come here.
            if character == '\'' || character.escape_debug().len() == 1 {
                out.write_all(character.encode_utf8(&mut [0; 4]).as_bytes())?;
            } else {
                for unit in character.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    host: &'a str,
    scan: Scan<'a>,
    summary: Summary,
    sessions: Sessions<'a>,
    findings: Findings<'a>,
}

#[derive(Serialize)]
struct Scan<'a> {
    started: jiff::Timestamp,
    duration_seconds: f64,
    namespaces: usize,
    sockets: usize,
    entries: usize,
    incomplete: &'a [Incomplete],
}

#[derive(Serialize)]
struct Summary {
    safe: usize,
    at_risk: usize,
    orphaned: usize,
    untracked: usize,
    unknown: usize,
}

/// Serialised one by one: a hundred thousand sessions are never in memory as JSON.
struct Sessions<'a>(&'a Check<'a>);

impl Serialize for Sessions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let check = self.0;
        let listed = |session: &&Session| check.all || session.verdict != Verdict::Untracked;
        let sessions = check.judgement.sessions.iter().filter(listed);
        serializer.collect_seq(sessions.map(|session| SessionView::new(check, session)))
    }
}

#[derive(Serialize)]
struct SessionView<'a> {
    client: SocketAddr,
    server: SocketAddr,
    backend: Option<SocketAddr>,
    verdict: &'static str,
    reason: String,
    #[serde(with = "option")]
    idle_seconds: Option<std::time::Duration>,
    #[serde(with = "option")]
    orphaned_in_seconds: Option<std::time::Duration>,
    entry: Option<EntryView>,
    keepalive: KeepaliveView,
    held: bool,
    netns: &'a str,
    director: Option<&'a str>,
    table: Option<&'static str>,
    network: Option<&'a str>,
    service: Option<&'a str>,
    task: Option<TaskView<'a>>,
    container: Option<ContainerView<'a>>,
    process: Option<&'a Process>,
    #[serde(serialize_with = "codes")]
    findings: &'a [Code],
}

#[derive(Serialize)]
struct EntryView {
    state: &'static str,
    expires_seconds: f64,
    timeout_seconds: f64,
}

#[derive(Serialize)]
struct KeepaliveView {
    enabled: Option<bool>,
    #[serde(with = "option")]
    idle_seconds: Option<std::time::Duration>,
}

/// The task that is the backend.
#[derive(Serialize)]
struct TaskView<'a> {
    name: &'a str,
    node: Option<String>,
}

#[derive(Serialize)]
pub(super) struct ContainerView<'a> {
    id: &'a str,
    name: Option<&'a str>,
}

impl<'a> ContainerView<'a> {
    pub(super) fn of(namespace: &'a crate::snapshot::Namespace) -> Option<Self> {
        let container = namespace.container.as_ref()?;
        Some(Self { id: &container.id, name: container.name.as_deref() })
    }
}

impl<'a> SessionView<'a> {
    fn new(check: &Check<'a>, session: &'a Session) -> Self {
        let namespace = check.namespace(session.socket);
        let names = check.namer.of(session);
        Self {
            client: session.client,
            server: session.server,
            backend: session.backend,
            verdict: session.verdict.name(),
            reason: reason(session, &names),
            idle_seconds: session.idle,
            orphaned_in_seconds: session.orphaned_in,
            entry: session.entry.map(|entry| EntryView {
                state: entry.state.name(),
                expires_seconds: rounded(entry.expires),
                timeout_seconds: rounded(entry.timeout),
            }),
            keepalive: keepalive(session.keepalive),
            held: session.why == Why::Held,
            netns: &namespace.name,
            director: check.director(session).map(|director| director.name.as_str()),
            table: session.table.map(crate::session::Table::name),
            network: names.network.map(|network| network.name.as_str()),
            service: names.service,
            task: names.task.map(|task| TaskView { name: &task.name, node: names.node() }),
            container: ContainerView::of(namespace),
            process: check.process(session),
            findings: &session.findings,
        }
    }
}

fn keepalive(keepalive: Keepalive) -> KeepaliveView {
    let (enabled, idle_seconds) = match keepalive {
        Keepalive::Off => (Some(false), None),
        Keepalive::On { idle, .. } => (Some(true), Some(idle)),
        Keepalive::OnUnread { .. } => (Some(true), None),
        Keepalive::Hidden => (None, None),
    };
    KeepaliveView { enabled, idle_seconds }
}

fn codes<S: Serializer>(codes: &[Code], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(codes.iter().map(ToString::to_string))
}

struct Findings<'a>(&'a [Finding]);

impl Serialize for Findings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|finding| FindingView {
            code: finding.code.to_string(),
            severity: finding.code.severity().name(),
            title: finding.code.title(),
            sessions: finding.sessions,
            detail: &finding.detail,
            fix: &finding.fix,
        }))
    }
}

#[derive(Serialize)]
struct FindingView<'a> {
    code: String,
    severity: &'static str,
    title: &'static str,
    sessions: usize,
    detail: &'a str,
    fix: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_harmless_and_the_same() {
        for text in ["\x1b[2J\"\\\n", "a\u{202e}b\u{9b}\u{7f}", "it's café 端末 \u{1f600}\u{e0041}"]
        {
            let mut out = Vec::new();
            write(&mut out, &text).unwrap();
            let written = String::from_utf8(out).unwrap();
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            let line = written.strip_suffix('\n').unwrap();
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}' || c == '\u{e0041}'));
        }
    }
}
