//! What people and programs read: the judgement in words, as JSON, and as a monitoring plugin
//! has it. Pure rendering: what a terminal can do is told by a [`Style`], never looked up.

pub mod human;
pub mod json;
pub mod nagios;
pub mod plan;
pub mod policy;
pub mod status;
mod table;
pub mod text;
pub mod timeouts;

use std::time::Duration;

use crate::{
    judge::Judgement,
    names::{Namer, Names, short_task},
    session::{LifetimeSource, Session, SocketRef, Why},
    snapshot::{Namespace, Process, Snapshot},
};

/// What a check is rendered from.
#[derive(Debug)]
pub struct Check<'a> {
    snapshot: &'a Snapshot,
    judgement: &'a Judgement,
    /// What the Engine calls the parts of a session.
    namer: Namer<'a>,
    all: bool,
}

impl<'a> Check<'a> {
    /// What was seen, and what it means. `all`: list untracked sessions too, and show safe ones on
    /// a healthy machine.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot, judgement: &'a Judgement, all: bool) -> Self {
        Self { snapshot, judgement, namer: Namer::new(snapshot), all }
    }

    fn namespace(&self, at: SocketRef) -> &'a Namespace {
        &self.snapshot.namespaces[at.namespace]
    }

    fn director(&self, session: &Session) -> Option<&'a Namespace> {
        session.director.map(|at| &self.snapshot.namespaces[at])
    }

    /// The owner of the socket that a session is seen by.
    fn process(&self, session: &Session) -> Option<&'a Process> {
        let namespace = self.namespace(session.socket);
        let inode = namespace.sockets[session.socket.socket].inode;
        namespace.processes.get(&inode)
    }

    /// Sessions through a load balancer, whatever their verdict.
    fn tracked(&self) -> usize {
        let summary = &self.judgement.summary;
        summary.safe + summary.at_risk + summary.orphaned + summary.unknown
    }

    /// How soon the next session is lost.
    fn next_loss(&self) -> Option<Duration> {
        let at_risk = |session: &&Session| session.verdict == crate::Verdict::AtRisk;
        let sessions = self.judgement.sessions.iter().filter(at_risk);
        sessions.filter_map(|session| session.orphaned_in).min()
    }
}

/// A session's reason: where it goes straight to a task, to which; and with a word on where its lifetime is known from if that is not the entry.
fn reason(session: &Session, names: &Names<'_>) -> String {
    let reason = session.reason();
    if let (Why::NoDirector, Some(task)) = (session.why, names.task) {
        let task = text::escape(&short_task(&task.name), text::NAME);
        return format!("{reason}: the client took the address of task {task} itself");
    }
    match session.entry {
        Some(entry) if entry.source == LifetimeSource::IdleTime => {
            format!("{reason} (told from the timeout and the silence, not read from the entry)")
        }
        _ => reason,
    }
}

/// How the reader's screen is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether colours (ANSI SGR sequences) are understood and wanted.
    pub colour: bool,
    /// Columns.
    pub width: usize,
}

impl Style {
    /// For a file or a pipe: 80 columns, no colours.
    pub const PLAIN: Self = Self { colour: false, width: 80 };

    /// `text` with an SGR attribute (`1;31`), or as it is without colours.
    #[must_use]
    pub fn paint(&self, attribute: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{attribute}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// `1 session`, `1,234 sessions`.
#[must_use]
pub fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{} {many}", grouped(count as u64)) }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "session", "sessions"), "1 session");
        assert_eq!(counted(1200, "session", "sessions"), "1,200 sessions");
    }

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Style::PLAIN.paint("1;31", "x"), "x");
        assert_eq!(Style { colour: true, width: 80 }.paint("1;31", "x"), "\x1b[1;31mx\x1b[0m");
    }
}
