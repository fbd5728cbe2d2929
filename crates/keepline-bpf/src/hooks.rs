//! Programs at their hooks: attached by a pinned link, replaced without a gap, taken off.

use std::{fs, io, os::fd::AsRawFd, path::Path};

use libbpf_rs::{Link, Object, ProgramMut, query::LinkTypeInfo};

use crate::{
    Error, RunCost,
    facts::ProgramFacts,
    place::{Cgroup, Pins},
};

/// Added to the name of a link that is about to take another's place.
const NEXT: &str = "_next";

/// A program at its hook, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Name of the pin.
    pub name: String,
    /// Number of the program.
    pub program: u32,
    /// Hash of its instructions (`tag`, eight bytes in hexadecimal): the same code has the same.
    pub tag: String,
    /// Number of the control group (inode of its directory). None: it was removed, and the program
    /// with it.
    pub cgroup: Option<u64>,
    /// What it has cost.
    pub cost: RunCost,
}

/// Attaches `program` under this name, or puts it in the place of the one that is there: no moment
/// is without a program.
pub(crate) fn attach(
    pins: &Pins,
    name: &str,
    program: &ProgramMut<'_>,
    cgroup: &Cgroup,
) -> Result<(), Error> {
    let pin = pins.directory.join(name);
    let object = || format!("{name} at {}", cgroup.path.display());
    if let Some(mut link) = open(&pin)?
        && cgroup_of(&link)? == Some(cgroup.id)
    {
        return link.update_prog(program).map_err(|source| Error::bpf("replace", object(), source));
    }
    // None, or at another control group: the new one is there before the old one goes.
    let mut link = program
        .attach_cgroup(cgroup.file.as_raw_fd())
        .map_err(|source| Error::bpf("attach", object(), source))?;
    let next = pins.directory.join(format!("{name}{NEXT}"));
    link.pin(&next).map_err(|source| Error::bpf("pin", next.display().to_string(), source))?;
    fs::rename(&next, &pin)
        .map_err(|source| Error::call("rename", next.display().to_string(), source))
}

/// The link pinned at a path.
fn open(pin: &Path) -> Result<Option<Link>, Error> {
    match pin.try_exists() {
        Ok(false) => Ok(None),
        Ok(true) => Link::open(pin)
            .map(Some)
            .map_err(|source| Error::bpf("open", pin.display().to_string(), source)),
        Err(source) => Err(Error::call("open", pin.display().to_string(), source)),
    }
}

fn cgroup_of(link: &Link) -> Result<Option<u64>, Error> {
    let info = link.info().map_err(|source| Error::bpf("read", "a link", source))?;
    Ok(match info.info {
        // 0: the control group is gone (`bpf_cgroup_link_fill_link_info`).
        LinkTypeInfo::Cgroup(at) => Some(at.cgroup_id).filter(|id| *id != 0),
        _ => None,
    })
}

/// Everything that is attached, with the facts of each program.
pub(crate) fn read(pins: &Pins) -> Result<Vec<(Hook, ProgramFacts)>, Error> {
    let mut found = Vec::new();
    for name in pins.names()? {
        let pin = pins.directory.join(&name);
        let Some(link) = open(&pin)? else { continue };
        let program = link
            .info()
            .map_err(|source| Error::bpf("read", pin.display().to_string(), source))?
            .prog_id;
        let facts = ProgramFacts::of(program)?;
        let hook = Hook {
            name,
            program,
            tag: facts.tag.clone(),
            cgroup: cgroup_of(&link)?,
            cost: facts.cost,
        };
        found.push((hook, facts));
    }
    Ok(found)
}

/// Takes off what `which` names. When this returns, it does not run any more.
pub(crate) fn detach(pins: &Pins, which: impl Fn(&str) -> bool) -> Result<(), Error> {
    for name in pins.names()?.into_iter().filter(|name| which(name)) {
        let pin = pins.directory.join(&name);
        // Unpinning alone detaches a moment later, from a work queue.
        if let Some(link) = open(&pin)?
            && cgroup_of(&link)?.is_some()
        {
            link.detach()
                .map_err(|source| Error::bpf("detach", pin.display().to_string(), source))?;
        }
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::call("remove", pin.display().to_string(), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes off what a Keepline left that died between attaching and renaming.
pub(crate) fn detach_leftovers(pins: &Pins) -> Result<(), Error> {
    detach(pins, |name| name.ends_with(NEXT))
}

/// A program of a loaded object.
pub(crate) fn program<'a>(object: &'a Object, name: &str) -> Option<ProgramMut<'a>> {
    object.progs_mut().find(|program| program.name() == name)
}
