//! What directors are set to: `ipvsadm -L --timeout` and the timeouts of conntrack, for each.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::{
    Style, counted, grouped,
    json::{self, ContainerView},
    text::{self, escape, pad, width},
};
use crate::{
    duration::seconds::rounded,
    snapshot::{Conntrack, Incomplete, Ipvs, Namespace, Snapshot},
};

/// Name and version of the JSON form, documented in `docs/commands/timeouts.md`.
pub const SCHEMA: &str = "keepline.timeouts/v1";

/// The selected namespaces that balance or translate. A container whose engine set up address
/// translation for its name server, as Docker does, is no director for that.
fn directors(snapshot: &Snapshot) -> impl Iterator<Item = &Namespace> {
    snapshot.namespaces.iter().filter(|namespace| {
        let translating = namespace.conntrack.as_ref().is_some_and(|conntrack| {
            !conntrack.entries.is_empty() || (namespace.translates && namespace.container.is_none())
        });
        snapshot.concerns(namespace) && (namespace.ipvs.is_some() || translating)
    })
}

/// Writes the directors as one line of JSON.
///
/// # Errors
/// Those of `out`.
pub fn json(out: impl Write, snapshot: &Snapshot) -> io::Result<()> {
    let document = Document {
        schema: SCHEMA,
        host: &snapshot.host,
        started: snapshot.started,
        directors: Directors(snapshot),
        incomplete: &snapshot.incomplete,
    };
    json::write(out, &document)
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    host: &'a str,
    started: jiff::Timestamp,
    directors: Directors<'a>,
    incomplete: &'a [Incomplete],
}

struct Directors<'a>(&'a Snapshot);

impl Serialize for Directors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(directors(self.0).map(|namespace| Director {
            director: &namespace.name,
            path: namespace.path.as_deref(),
            container: ContainerView::of(namespace),
            ipvs: namespace.ipvs.as_ref().map(IpvsView::new),
            conntrack: namespace.conntrack.as_ref().map(ConntrackView::new),
        }))
    }
}

#[derive(Serialize)]
struct Director<'a> {
    director: &'a str,
    path: Option<&'a str>,
    container: Option<ContainerView<'a>>,
    ipvs: Option<IpvsView>,
    conntrack: Option<ConntrackView>,
}

#[derive(Serialize)]
struct IpvsView {
    tcp_seconds: f64,
    tcp_fin_seconds: f64,
    udp_seconds: f64,
    services: usize,
    destinations: usize,
    conntrack: Option<bool>,
    expire_nodest_conn: Option<bool>,
}

impl IpvsView {
    fn new(ipvs: &Ipvs) -> Self {
        Self {
            tcp_seconds: rounded(ipvs.timeouts.tcp),
            tcp_fin_seconds: rounded(ipvs.timeouts.tcp_fin),
            udp_seconds: rounded(ipvs.timeouts.udp),
            services: ipvs.services.len(),
            destinations: ipvs.services.iter().map(|service| service.destinations.len()).sum(),
            conntrack: ipvs.conntrack,
            expire_nodest_conn: ipvs.expire_nodest_conn,
        }
    }
}

#[derive(Serialize)]
struct ConntrackView {
    established_seconds: Option<f64>,
    fin_wait_seconds: Option<f64>,
    close_wait_seconds: Option<f64>,
    count: u64,
    max: Option<u64>,
}

impl ConntrackView {
    fn new(conntrack: &Conntrack) -> Self {
        let timeouts = conntrack.timeouts;
        Self {
            established_seconds: timeouts.map(|timeouts| rounded(timeouts.established)),
            fin_wait_seconds: timeouts.map(|timeouts| rounded(timeouts.fin_wait)),
            close_wait_seconds: timeouts.map(|timeouts| rounded(timeouts.close_wait)),
            count: conntrack.count,
            max: conntrack.max,
        }
    }
}

/// The directors as a table, or one line if there is none.
#[must_use]
pub fn human(snapshot: &Snapshot, style: Style) -> String {
    let mut rows = vec![["DIRECTOR", "TABLE", "TCP", "FIN", "UDP", "IN USE"].map(str::to_owned)];
    for namespace in directors(snapshot) {
        let mut name = escape(&namespace.name, text::NAME);
        if let Some(ipvs) = &namespace.ipvs {
            let timeouts = &ipvs.timeouts;
            rows.push([
                std::mem::take(&mut name),
                "ipvs".to_owned(),
                seconds(timeouts.tcp),
                seconds(timeouts.tcp_fin),
                seconds(timeouts.udp),
                counted(ipvs.services.len(), "service", "services"),
            ]);
        }
        if let Some(conntrack) = &namespace.conntrack {
            let unknown = || "?".to_owned();
            let timeouts = conntrack.timeouts;
            let max = conntrack.max.map_or_else(unknown, grouped);
            rows.push([
                name,
                "conntrack".to_owned(),
                timeouts.map_or_else(unknown, |timeouts| seconds(timeouts.established)),
                timeouts.map_or_else(unknown, |timeouts| seconds(timeouts.fin_wait)),
                String::new(),
                format!("{} of {max} entries", grouped(conntrack.count)),
            ]);
        }
    }
    if rows.len() == 1 {
        let seen = counted(snapshot.namespaces.len(), "namespace", "namespaces");
        return format!("No load balancer: nothing is balanced or translated in {seen}.\n");
    }
    let mut out = render(&rows, style);
    out.push_str("\nHow long a silent session is remembered. FIN: after one side has closed.\n");
    out
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{} s", grouped(duration.as_secs()))
}

fn render<const N: usize>(rows: &[[String; N]], style: Style) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            // Times to the right, so that digits stand under digits.
            .map(|(column, (cell, columns))| match column {
                2..=4 => format!("{}{cell}", " ".repeat(columns - width(cell))),
                _ => pad(cell, columns),
            })
            .collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        out.push_str(&if at == 0 { style.paint("2", line) } else { line.to_owned() });
        out.push('\n');
    }
    out
}
