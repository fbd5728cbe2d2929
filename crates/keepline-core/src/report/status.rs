//! What is applied, for people and for programs (`keepline.status/v1`).

use std::io::{self, Write};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{
    Style, counted, json,
    text::{self, escape},
};
use crate::{
    plan::{
        Action, Change,
        journal::{By, Standing},
    },
    snapshot::Scope,
};

/// Name and version of the JSON form, documented in `docs/commands/status.md`.
pub const SCHEMA: &str = "keepline.status/v1";

/// A change that stands, and how it is now.
#[derive(Debug)]
pub struct Applied<'a> {
    /// The change.
    pub standing: &'a Standing,
    /// `in-force`, `as-before`, `drifted`, `gone` or `unknown`.
    pub state: &'static str,
    /// What is to be said of that.
    pub detail: Option<String>,
}

/// Something that runs.
#[derive(Debug)]
pub struct Held {
    /// What it is.
    pub strategy: Action,
    /// Since when.
    pub since: Timestamp,
    /// By whom.
    pub by: By,
    /// Which sessions.
    pub scope: Scope,
}

/// The guard that runs.
#[derive(Debug, Serialize)]
pub struct Guard {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it last looked.
    pub last_look: Option<Timestamp>,
    /// Entries it has renewed.
    pub held: u64,
    /// Sessions it has brought back.
    pub healed: u64,
    /// What it cannot do or understand; untrusted.
    pub troubles: Vec<String>,
}

/// All of it.
#[derive(Debug)]
pub struct Status<'a> {
    /// Changes that stand.
    pub applied: &'a [Applied<'a>],
    /// What runs.
    pub holds: &'a [Held],
    /// What leads back from what Keeplines left that were killed.
    pub left: &'a [Change],
    /// The guard, where one runs.
    pub guard: Option<&'a Guard>,
}

/// The status as text, each line ended.
#[must_use]
pub fn human(status: &Status<'_>, style: Style) -> String {
    let Status { applied, holds, left, guard } = *status;
    let mut out = guard.map_or_else(String::new, |guard| guarded(guard, style));
    if applied.is_empty() && holds.is_empty() && left.is_empty() {
        out.push_str("Nothing is applied.\n");
        return out;
    }
    for held in holds {
        let whole = held.scope.is_everything();
        let what = if whole { "every session of this machine" } else { "some sessions" };
        out.push_str(&format!(
            "{}: {what}, since {} by {}\n",
            style.paint("1", held.strategy.name()),
            local(held.since),
            by(&held.by)
        ));
    }
    let mut last = None;
    for it in applied {
        let standing = it.standing;
        if last != Some(standing.id) {
            last = Some(standing.id);
            out.push_str(&format!(
                "{}: since {} by {}\n",
                style.paint("1", standing.action.name()),
                local(standing.at),
                by(&standing.by)
            ));
        }
        let (object, change) = standing.change.what.describe();
        let name = escape(&standing.change.place.name, text::NAME);
        let colour = match it.state {
            "in-force" => "32",
            "drifted" | "unknown" => "1;33",
            _ => "2",
        };
        let detail = it
            .detail
            .as_deref()
            .map_or(String::new(), |detail| format!(": {}", escape(detail, text::SENTENCE)));
        let line = format!("{name}: {object}: {}", escape(&change, text::SENTENCE));
        let lines = text::wrap(&line, style.width.saturating_sub(6));
        out.push_str(&format!("  {}\n", lines.join("\n      ")));
        out.push_str(&format!("      {}{detail}\n", style.paint(colour, it.state)));
    }
    if !left.is_empty() {
        out.push_str(&format!(
            "{}, by a Keepline that was killed; `keepline undo` takes it away\n",
            style.paint("1", "left behind")
        ));
    }
    for change in left {
        let (object, _) = change.what.describe();
        out.push_str(&format!("  {}: {object}\n", escape(&change.place.name, text::NAME)));
    }
    out
}

fn guarded(guard: &Guard, style: Style) -> String {
    let time = |at: Option<Timestamp>| at.map_or_else(|| "not yet".to_owned(), local);
    let mut out = format!(
        "{}: since {} ({}[{}]), last look {}\n  {} renewed, {} brought back\n",
        style.paint("1", "guard"),
        time(guard.since),
        escape(&guard.version, text::NAME),
        guard.pid,
        time(guard.last_look),
        counted(usize::try_from(guard.held).unwrap_or(usize::MAX), "entry", "entries"),
        counted(usize::try_from(guard.healed).unwrap_or(usize::MAX), "session", "sessions"),
    );
    for trouble in &guard.troubles {
        let lines = text::wrap(&escape(trouble, text::SENTENCE), style.width.saturating_sub(6));
        out.push_str(&format!("  {} {}\n", style.paint("1;33", "!"), lines.join("\n    ")));
    }
    out
}

fn local(at: Timestamp) -> String {
    at.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn by(by: &By) -> String {
    format!("{} ({}[{}])", escape(&by.user, 32), escape(&by.command, text::NAME), by.pid)
}

/// Writes the status as one line of JSON.
///
/// # Errors
/// Those of `out`.
pub fn json(out: impl Write, status: &Status<'_>) -> io::Result<()> {
    let Status { applied, holds, left, guard } = *status;
    #[derive(Serialize)]
    struct Document<'a> {
        schema: &'static str,
        applied: Vec<AppliedView<'a>>,
        running: Vec<RunningView<'a>>,
        left: Vec<LeftView<'a>>,
        guard: Option<&'a Guard>,
    }
    #[derive(Serialize)]
    struct AppliedView<'a> {
        strategy: Action,
        since: Timestamp,
        by: &'a By,
        netns: &'a str,
        object: String,
        change: String,
        state: &'a str,
        detail: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct RunningView<'a> {
        strategy: Action,
        since: Timestamp,
        by: &'a By,
        everything: bool,
    }
    #[derive(Serialize)]
    struct LeftView<'a> {
        netns: &'a str,
        object: String,
    }
    let applied = applied.iter().map(|it| {
        let (object, change) = it.standing.change.what.describe();
        AppliedView {
            strategy: it.standing.action,
            since: it.standing.at,
            by: &it.standing.by,
            netns: &it.standing.change.place.name,
            object,
            change,
            state: it.state,
            detail: it.detail.as_deref(),
        }
    });
    let running = holds.iter().map(|it| RunningView {
        strategy: it.strategy,
        since: it.since,
        by: &it.by,
        everything: it.scope.is_everything(),
    });
    let left =
        left.iter().map(|it| LeftView { netns: &it.place.name, object: it.what.describe().0 });
    let (applied, running, left) = (applied.collect(), running.collect(), left.collect());
    let document = Document { schema: SCHEMA, applied, running, left, guard };
    json::write(out, &document)
}
