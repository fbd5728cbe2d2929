//! The sessions of a check, grouped by the address that the client connected to.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rustc_hash::FxHashMap;

use super::{
    Check, Style, counted, grouped,
    text::{self, escape, pad, width},
};
use crate::{
    duration::human,
    names::{Names, short_task},
    session::{End, LifetimeSource, Session, Table, Verdict, Why},
    snapshot::Namespace,
};

/// Rows of one address; the most urgent are shown.
const ROWS: usize = 10;
/// Addresses; those with the most urgent sessions are shown.
const GROUPS: usize = 10;
/// Columns of who holds the socket.
const WHO: usize = 26;

/// Sessions to one address.
struct Group<'a> {
    title: String,
    count: usize,
    shown: Vec<&'a Session>,
}

/// The table, or nothing if there is no session to show.
pub(super) fn sessions(check: &Check<'_>, style: Style) -> String {
    let groups = groups(check);
    let shown = &groups[..groups.len().min(GROUPS)];
    let rows: Vec<Vec<Row>> = shown
        .iter()
        .map(|group| group.shown.iter().map(|session| Row::new(check, session)).collect())
        .collect();
    let widths = Widths::of(rows.iter().flatten());
    let mut out = String::new();
    for (at, (group, rows)) in shown.iter().zip(&rows).enumerate() {
        if at > 0 {
            out.push('\n');
        }
        for (line, part) in
            text::wrap(&group.title, style.width.saturating_sub(4)).iter().enumerate()
        {
            let indent = if line == 0 { "" } else { "    " };
            out.push_str(&format!("{indent}{}\n", style.paint("1", part)));
        }
        if at == 0 {
            out.push_str(&widths.header(style));
        }
        for row in rows {
            out.push_str(&widths.row(row, style));
        }
        if group.count > rows.len() {
            let more = grouped((group.count - rows.len()) as u64);
            out.push_str(&format!("  … and {more} more (-o json lists all)\n"));
        }
    }
    if let Some(rest) = groups.get(GROUPS..).filter(|rest| !rest.is_empty()) {
        let sessions: usize = rest.iter().map(|group| group.count).sum();
        out.push_str(&format!(
            "\n… and {} to {} (-o json lists all)\n",
            counted(sessions, "session", "sessions"),
            counted(rest.len(), "more address", "more addresses"),
        ));
    }
    out
}

fn groups<'a>(check: &Check<'a>) -> Vec<Group<'a>> {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'n> {
        Server(SocketAddr, End, Option<&'n str>),
        Untracked,
    }
    // In the order of their most urgent session, as the judge sorts them.
    let mut groups: Vec<(Group<'a>, BTreeSet<usize>)> = Vec::new();
    let mut index: FxHashMap<Key<'_>, usize> = FxHashMap::default();
    for session in &check.judgement.sessions {
        let key = match session.verdict {
            Verdict::Untracked if !check.all => continue,
            Verdict::Untracked => Key::Untracked,
            // The same address may be another service in another network.
            _ => {
                let network = check.namer.of(session).network;
                Key::Server(session.server, session.end, network.map(|it| it.id.as_str()))
            }
        };
        let at = *index.entry(key).or_insert_with(|| {
            groups.push((
                Group { title: String::new(), count: 0, shown: Vec::new() },
                BTreeSet::new(),
            ));
            groups.len() - 1
        });
        let (group, directors) = &mut groups[at];
        group.count += 1;
        directors.extend(session.director);
        if group.shown.len() < ROWS {
            group.shown.push(session);
        }
    }
    groups
        .into_iter()
        .map(|(mut group, directors)| {
            group.title = title(check, &group, &directors);
            group
        })
        .collect()
}

fn title(check: &Check<'_>, group: &Group<'_>, directors: &BTreeSet<usize>) -> String {
    let Some(first) = group.shown.first() else { return String::new() };
    if first.verdict == Verdict::Untracked {
        return "No load balancer between".to_owned();
    }
    let server = first.server;
    let address = match first.end {
        End::Client => server.to_string(),
        End::Backend => format!("backend {server}"),
    };
    let names = check.namer.of(first);
    let what = names.describe(&address);
    let namespaces = directors.iter().map(|at| &check.snapshot.namespaces[*at]);
    let mut timeouts: Vec<Option<Duration>> =
        namespaces.map(|it| timeout(it, first.table)).collect();
    timeouts.dedup();
    let memory = match (timeouts.as_slice(), first.table) {
        ([Some(timeout)], Some(table)) => {
            format!(" ({}, forgets after {})", table.name(), human(*timeout))
        }
        (_, Some(table)) => format!(" ({})", table.name()),
        _ => String::new(),
    };
    match directors.first() {
        None => what,
        // Its network's own director: the network says it better.
        Some(_) if directors.len() == 1 && names.network.is_some() => format!("{what}{memory}"),
        Some(only) if directors.len() == 1 => {
            let name = escape(&check.snapshot.namespaces[*only].name, text::NAME);
            format!("{what} through {name}{memory}")
        }
        Some(_) => format!("{what} through {} directors{memory}", directors.len()),
    }
}

/// After how much silence a director forgets an established session.
fn timeout(director: &Namespace, table: Option<Table>) -> Option<Duration> {
    match table? {
        Table::Ipvs => Some(director.ipvs.as_ref()?.timeouts.tcp),
        Table::Conntrack => Some(director.conntrack.as_ref()?.timeouts?.established),
    }
}

struct Row {
    verdict: Verdict,
    who: String,
    way: String,
    idle: String,
    forgotten: String,
}

impl Row {
    fn new(check: &Check<'_>, session: &Session) -> Self {
        let names = check.namer.of(session);
        let way = match (session.verdict, session.backend) {
            _ if names.task.is_some() => format!("{} → {}", session.client, task(&names)),
            (Verdict::Untracked, _) => format!("{} → {}", session.client, session.server),
            // The port is mostly the same, and stands above.
            (_, Some(backend)) if backend.port() == session.server.port() => match backend.ip() {
                IpAddr::V4(address) => format!("{} → {address}", session.client),
                IpAddr::V6(address) => format!("{} → [{address}]", session.client),
            },
            (_, Some(backend)) => format!("{} → {backend}", session.client),
            (_, None) => format!("{} → ?", session.client),
        };
        Self {
            verdict: session.verdict,
            who: who(check, session),
            way,
            idle: session.idle.map_or_else(|| "?".to_owned(), human),
            forgotten: forgotten(session),
        }
    }
}

/// `db.1@node2`: the backend's task, which says more than its address.
fn task(names: &Names<'_>) -> String {
    let task = names.task.map_or(String::new(), |task| escape(&short_task(&task.name), WHO));
    names.node().map_or(task.clone(), |node| format!("{task}@{}", escape(&node, WHO)))
}

/// The container and the process that hold the socket, as far as they are known.
fn who(check: &Check<'_>, session: &Session) -> String {
    let namespace = check.namespace(session.socket);
    let process = check.process(session).map(|process| {
        let command = escape(&process.command, 16);
        format!("{command}[{}]", process.pid)
    });
    let container = namespace.container.as_ref();
    let container = match container.and_then(|container| container.name.as_deref()) {
        Some(name) => Some(escape(&short_task(name), WHO)),
        // A short ID says little: it stands in only where nothing better is there.
        None if process.is_none() => container.map(|container| escape(&container.id, 12)),
        None => None,
    };
    let who = match (container, process) {
        (Some(container), Some(process)) => format!("{container}/{process}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => escape(&namespace.name, WHO),
    };
    escape(&who, WHO)
}

fn forgotten(session: &Session) -> String {
    let told = session.entry.is_some_and(|entry| entry.source == LifetimeSource::IdleTime);
    let about = if told { "~" } else { "" };
    let left = session.orphaned_in.map(|left| format!("in {about}{}", human(left)));
    match session.why {
        Why::Forgotten | Why::ForgottenAtBackend => "already".to_owned(),
        Why::KeptAlive => "kept alive".to_owned(),
        Why::Held => "held".to_owned(),
        Why::Rehashed => "rehashed".to_owned(),
        Why::NoDirector => "-".to_owned(),
        Why::NotConfirmed => "not confirmed".to_owned(),
        Why::Ambiguous => "ambiguous".to_owned(),
        Why::Unreadable => "not readable".to_owned(),
        Why::KeepaliveUnproven => left.map_or("?".to_owned(), |left| format!("{left}?")),
        Why::BeyondHorizon
        | Why::NoKeepalive
        | Why::KeepaliveLate
        | Why::KeepaliveTight
        | Why::HalfClosed => left.unwrap_or_else(|| "?".to_owned()),
    }
}

/// How a verdict looks.
pub(super) fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Orphaned => "1;31",
        Verdict::AtRisk => "1;33",
        Verdict::Unknown => "35",
        Verdict::Safe => "32",
        Verdict::Untracked => "2",
    }
}

struct Widths {
    verdict: usize,
    who: usize,
    way: usize,
    idle: usize,
    forgotten: usize,
}

const HEADER: [&str; 5] = ["VERDICT", "PROCESS", "CLIENT → BACKEND", "IDLE", "FORGOTTEN"];

impl Widths {
    fn of<'r>(rows: impl Iterator<Item = &'r Row>) -> Self {
        let [verdict, who, way, idle, forgotten] = HEADER.map(width);
        let mut widths = Self { verdict, who, way, idle, forgotten };
        for row in rows {
            widths.verdict = widths.verdict.max(row.verdict.name().len());
            widths.who = widths.who.max(width(&row.who));
            widths.way = widths.way.max(width(&row.way));
            widths.idle = widths.idle.max(row.idle.len());
            widths.forgotten = widths.forgotten.max(row.forgotten.len());
        }
        widths
    }

    /// Whether a row with the addresses in it fits the screen. Those of IPv6 often do not, and go
    /// to a line of their own.
    fn fits(&self, style: Style) -> bool {
        let columns = [self.verdict, self.who, self.way, self.idle, self.forgotten];
        columns.iter().sum::<usize>() + 2 * columns.len() <= style.width
    }

    fn header(&self, style: Style) -> String {
        let [verdict, who, way, idle, forgotten] = HEADER;
        let line = if self.fits(style) {
            self.line([verdict, who, way, idle, forgotten], Style::PLAIN, "")
        } else {
            self.short_line([verdict, who, idle, forgotten], Style::PLAIN, "")
        };
        format!("{}\n", style.paint("2", &line))
    }

    fn row(&self, row: &Row, style: Style) -> String {
        let colour = colour(row.verdict);
        let verdict = row.verdict.name();
        if self.fits(style) {
            let cells = [verdict, &row.who, &row.way, &row.idle, &row.forgotten];
            return format!("{}\n", self.line(cells, style, colour));
        }
        let line = self.short_line([verdict, &row.who, &row.idle, &row.forgotten], style, colour);
        let indent = " ".repeat(self.verdict + 4);
        let columns = style.width.saturating_sub(indent.len());
        let way = text::wrap(&row.way, columns).join(&format!("\n{indent}"));
        format!("{line}\n{indent}{way}\n")
    }

    fn line(&self, cells: [&str; 5], style: Style, colour: &str) -> String {
        let [verdict, who, way, idle, forgotten] = cells;
        format!(
            "  {}  {}  {}  {}  {}",
            style.paint(colour, &pad(verdict, self.verdict)),
            pad(who, self.who),
            pad(way, self.way),
            pad(idle, self.idle),
            style.paint(colour, forgotten),
        )
    }

    fn short_line(&self, cells: [&str; 4], style: Style, colour: &str) -> String {
        let [verdict, who, idle, forgotten] = cells;
        format!(
            "  {}  {}  {}  {}",
            style.paint(colour, &pad(verdict, self.verdict)),
            pad(who, self.who),
            pad(idle, self.idle),
            style.paint(colour, forgotten),
        )
    }
}
