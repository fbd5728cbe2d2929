//! From what a user types to exactly one thing, or to an answer that helps.

use std::fmt;

use thiserror::Error;

/// Proposals in an answer; more are noise.
const PROPOSALS: usize = 3;

/// Why a name given by the user is not exactly one thing. The text has names of others in it,
/// escaped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// Nothing fits.
    #[error("no {kind} `{}` on this node{}", wanted.escape_debug(), Proposals(near))]
    Unknown {
        /// `container`, `network` or `service`.
        kind: &'static str,
        /// What the user gave.
        wanted: String,
        /// Names that come near, the nearest first.
        near: Vec<String>,
    },
    /// Several fit.
    #[error("{kind} `{}` fits several: {}", wanted.escape_debug(), Listed(candidates))]
    Ambiguous {
        /// `container`, `network` or `service`.
        kind: &'static str,
        /// What the user gave.
        wanted: String,
        /// All that fit, each with the beginning of its id.
        candidates: Vec<String>,
    },
}

struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", name.escape_debug())?;
        }
        Ok(())
    }
}

struct Proposals<'a>(&'a [String]);

impl fmt::Display for Proposals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "; did you mean {}?", Listed(self.0))
    }
}

/// Whether an id and a name fit.
type Way<'a> = &'a dyn Fn(&str, &str) -> bool;

/// The one of `items` that `wanted` names. `keys` gives id and name; an id that is not known is
/// empty.
pub(super) fn one<'a, T>(
    kind: &'static str,
    wanted: &str,
    items: &'a [T],
    keys: impl Fn(&T) -> (&str, &str),
) -> Result<&'a T, ResolveError> {
    let unknown = |near| ResolveError::Unknown { kind, wanted: wanted.to_owned(), near };
    if wanted.is_empty() {
        return Err(unknown(Vec::new()));
    }
    // The strictest way that finds anything decides, so that a full name is never ambiguous
    // because it also begins a longer one.
    let slot = format!("{wanted}.");
    let ways: [Way<'_>; 4] = [
        &|id, _| id == wanted,
        &|_, name| name == wanted,
        &|_, name| name.starts_with(&slot),
        &|id, name| id.starts_with(wanted) || name.starts_with(wanted),
    ];
    for way in ways {
        let fitting: Vec<&T> = items
            .iter()
            .filter(|item| {
                let (id, name) = keys(item);
                way(id, name)
            })
            .collect();
        match fitting[..] {
            [] => {}
            [item] => return Ok(item),
            _ => {
                let mut candidates: Vec<String> =
                    fitting.into_iter().map(|item| labelled(keys(item))).collect();
                candidates.sort_unstable();
                return Err(ResolveError::Ambiguous {
                    kind,
                    wanted: wanted.to_owned(),
                    candidates,
                });
            }
        }
    }
    Err(unknown(near(wanted, items.iter().map(|item| keys(item).1))))
}

/// `name (first 12 of the id)`: names of networks are not unique.
fn labelled((id, name): (&str, &str)) -> String {
    if id.is_empty() {
        return name.to_owned();
    }
    let short: String = id.chars().take(12).collect();
    format!("{name} ({short})")
}

/// Names that differ from `wanted` by a slip of the finger, or contain it.
fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let slips = 1 + wanted.chars().count() / 4;
    let mut scored: Vec<(usize, &str)> = names
        .filter_map(|name| {
            // Of a task's name (service.slot.id) people type the service.
            let head = name.split('.').next().unwrap_or(name);
            let distance = distance(wanted, name).min(distance(wanted, head));
            let close = distance <= slips || name.contains(wanted);
            close.then_some((distance, name))
        })
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().take(PROPOSALS).map(|(_, name)| name.to_owned()).collect()
}

/// Insertions, deletions and replacements that turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
