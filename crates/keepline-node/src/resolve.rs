//! From paths, names of namespaces and process ids to namespaces. Names that the Engine knows are
//! resolved with its answer, in `Snapshot::select`.

use std::{collections::BTreeSet, path::Path};

use keepline_core::snapshot::Select;
use keepline_kernel::namespaces;

use crate::{
    NodeError,
    place::{PROC, Place},
};

/// The inodes of the namespaces and processes that are selected.
pub(crate) fn resolve(select: &Select, places: &[Place]) -> Result<BTreeSet<u64>, NodeError> {
    let named = select.netns.iter().map(|name| by_name(name, places));
    let found = named.chain(select.pids.iter().map(|pid| of_process(*pid)));
    let seen = |inode: &u64| places.iter().any(|place| place.inode == *inode);
    if select.exact {
        return Ok(found.flatten().filter(seen).collect());
    }
    let chosen = found.collect::<Result<BTreeSet<u64>, NodeError>>()?;
    // A file of another kind of namespace, or one that cannot be entered from here.
    if let Some(inode) = chosen.iter().find(|inode| !seen(inode)) {
        return Err(NodeError::Unknown {
            kind: "network namespace",
            name: format!("net:[{inode}]"),
            near: "what was given is no network namespace that is visible from here".to_owned(),
        });
    }
    Ok(chosen)
}

fn of_process(pid: u32) -> Result<u64, NodeError> {
    let path = Path::new(PROC).join(format!("{pid}/ns/net"));
    namespaces::identify(&path).map_err(|_| NodeError::Unknown {
        kind: "process",
        name: pid.to_string(),
        near: "it is not running, or belongs to another user".to_owned(),
    })
}

fn by_name(name: &str, places: &[Place]) -> Result<u64, NodeError> {
    if name.contains('/') {
        return namespaces::identify(Path::new(name)).map_err(|error| NodeError::Unknown {
            kind: "network namespace",
            name: name.to_owned(),
            near: error.to_string(),
        });
    }
    let known = |place: &&Place| place.name == name || place.aliases.iter().any(|it| it == name);
    places.iter().find(known).map(|place| place.inode).ok_or_else(|| NodeError::Unknown {
        kind: "network namespace",
        name: name.to_owned(),
        near: there_are(places.iter().map(|place| place.name.as_str()), name),
    })
}

/// Some of the names there are, those alike first.
fn there_are<'a>(names: impl Iterator<Item = &'a str>, like: &str) -> String {
    const SHOWN: usize = 6;
    let alike = |name: &str| {
        name.bytes().zip(like.bytes()).take_while(|(mine, other)| mine == other).count()
    };
    let mut names: Vec<&str> = names.filter(|name| !name.starts_with("net:[")).collect();
    names.sort_by_key(|name| (std::cmp::Reverse(alike(name)), *name));
    names.dedup();
    match names.len() {
        0 => "none has a name here; give a path or --pid".to_owned(),
        count if count > SHOWN => {
            format!("there are {} and {} more", names[..SHOWN].join(", "), count - SHOWN)
        }
        _ => format!("there are {}", names.join(", ")),
    }
}
