//! Plans for people: namespace by namespace what is there now and what will be.

use super::{
    Style, counted,
    text::{self, escape, pad, width, wrap},
};
use crate::{
    plan::{Change, Plan},
    snapshot::Topology,
};

/// Refusals that are printed one by one; the rest is counted.
const REFUSALS: usize = 10;
/// Columns of the object of a change.
const OBJECT: usize = 34;

/// The plan as text, each line ended.
#[must_use]
pub fn human(plan: &Plan, topology: Option<&Topology>, style: Style) -> String {
    let mut out = String::new();
    if plan.changes.is_empty() {
        out.push_str(&format!("{}: nothing to change.\n", plan.action));
    } else {
        let changes = counted(plan.changes.len(), "change", "changes");
        out.push_str(&format!("{}\n", style.paint("1", &format!("{}: {changes}", plan.action))));
        out.push_str(&self::changes(plan.changes.iter(), topology, style));
    }
    for refused in plan.refused.iter().take(REFUSALS) {
        let line = format!("not {}: {}", refused.what, refused.why);
        out.push_str(&paragraph("refused: ", "1;33", &line, style));
    }
    if let Some(rest) = plan.refused.get(REFUSALS..).filter(|rest| !rest.is_empty()) {
        out.push_str(&format!("refused: and {} more\n", rest.len()));
    }
    for note in &plan.notes {
        out.push_str(&paragraph("note: ", "36", note, style));
    }
    out
}

/// Changes, grouped by namespace.
#[must_use]
pub fn changes<'a>(
    changes: impl Iterator<Item = &'a Change>,
    topology: Option<&Topology>,
    style: Style,
) -> String {
    let mut groups: Vec<(&Change, Vec<(String, String)>)> = Vec::new();
    for change in changes {
        let described = change.what.describe();
        match groups.iter_mut().find(|(first, _)| first.place == change.place) {
            Some((_, rows)) => rows.push(described),
            None => groups.push((change, vec![described])),
        }
    }
    let objects = groups.iter().flat_map(|(_, rows)| rows).map(|(object, _)| width(object));
    let column = objects.max().unwrap_or_default().min(OBJECT);
    let mut out = String::new();
    for (first, rows) in groups {
        let name = escape(&first.place.name, text::NAME);
        let network = topology.and_then(|it| it.network_of_director(&first.place.name));
        let network = network.map_or(String::new(), |network| {
            format!(" (network {})", escape(&network.name, text::NAME))
        });
        out.push_str(&format!("\n  {}{network}\n", style.paint("1", &name)));
        for (object, change) in rows {
            let object = escape(&object, text::SENTENCE);
            let indent = " ".repeat(4 + column + 2);
            let columns = style.width.saturating_sub(indent.len()).max(20);
            let lines = wrap(&escape(&change, text::SENTENCE), columns);
            let joined = lines.join(&format!("\n{indent}"));
            if width(&object) > column {
                out.push_str(&format!("    {object}\n{indent}{joined}\n"));
            } else {
                out.push_str(&format!("    {}  {joined}\n", pad(&object, column)));
            }
        }
    }
    out.push('\n');
    out
}

fn paragraph(label: &str, colour: &str, text: &str, style: Style) -> String {
    let columns = style.width.saturating_sub(label.len()).max(20);
    let lines = wrap(&escape(text, text::SENTENCE), columns);
    let indent = " ".repeat(label.len());
    format!("{}{}\n", style.paint(colour, label), lines.join(&format!("\n{indent}")))
}
