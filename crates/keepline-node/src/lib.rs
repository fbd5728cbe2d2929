//! Observe this machine: ties the kernel doors to the core.
#![forbid(unsafe_code)]

mod act;
mod complete;
mod engine;
mod error;
mod glance;
mod journal;
mod marks;
mod owners;
mod parallel;
mod place;
mod resolve;
pub mod run;
mod scan;
mod second_look;
mod tables;
mod walk;

use std::{path::Path, time::Instant};

use keepline_core::{
    Judgement, Options, Snapshot,
    judge::{FirstJudgement, Questions, first_judgement},
    snapshot::{Asked, Incomplete, SCHEMA, Topology},
};
use keepline_kernel::rights::{Capability, Facts};

pub use act::{
    ActError, Now, Obstacle, Report, Step, act, answered_directly, compare, keepalive_rules, left,
    undo,
};
pub use error::NodeError;
pub use glance::{Balance, topology};
pub use keepline_core::snapshot::Select;
pub use owners::Owners;

use owners::Holders;

/// How the large tables are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By a walk where there is very much to read and the kernel lets us, else by netlink.
    Best,
    /// By netlink, namespace by namespace.
    Netlink,
    /// By a walk over the kernel's tables, if the kernel lets us.
    Walk,
}

/// A look and what it means.
#[derive(Debug)]
pub struct Checked {
    /// What was seen. After a walk, sockets have inode and cookie only where those are needed.
    pub snapshot: Snapshot,
    /// What it means.
    pub judgement: Judgement,
    /// Whether the tables were walked.
    pub walked: bool,
}

/// Looks at this machine: its namespaces, sockets and tables, and a second time at every
/// session that seems orphaned. Changes nothing.
///
/// What cannot be seen stands in [`Snapshot::incomplete`].
///
/// # Errors
/// When something selected does not exist, or nothing at all can be seen.
pub fn observe(select: &Select, owners: Owners) -> Result<Snapshot, NodeError> {
    let by = (Way::Netlink, &mut walk::Walker::for_one_look());
    let (look, first) = look(select, owners, &Options::default(), by, engine::ask)?;
    drop(first);
    Ok(look.snapshot)
}

/// Looks again and again: what makes looking cheap on large machines is kept from one look to the
/// next.
#[derive(Debug)]
pub struct Observer {
    walker: walk::Walker,
}

impl Default for Observer {
    fn default() -> Self {
        Self { walker: walk::Walker::for_many_looks() }
    }
}

impl Observer {
    /// As [`observe`], knowing already what the Engine told. Where nobody's owner is wanted, the
    /// tables are walked if there is much in them: sockets have inode and cookie then only where
    /// those are needed.
    ///
    /// # Errors
    /// As [`observe`].
    pub fn observe(
        &mut self,
        select: &Select,
        owners: Owners,
        topology: Option<Topology>,
    ) -> Result<Snapshot, NodeError> {
        let known = |_: &str| Ok(topology);
        let way = if owners == Owners::Nobody { Way::Best } else { Way::Netlink };
        let options = Options::default();
        let (look, first) = look(select, owners, &options, (way, &mut self.walker), known)?;
        drop(first);
        Ok(look.snapshot)
    }
}

/// The same for who wants to know only what it means.
///
/// # Errors
/// Those of [`observe`].
pub fn check(
    select: &Select,
    owners: Owners,
    options: &Options,
    way: Way,
) -> Result<Checked, NodeError> {
    let by = (way, &mut walk::Walker::for_one_look());
    let (Look { snapshot, walked }, first) = look(select, owners, options, by, engine::ask)?;
    let judgement = match first {
        Some(first) => first.conclude(&snapshot),
        None => keepline_core::judge(&snapshot, options),
    };
    Ok(Checked { snapshot, judgement, walked })
}

/// What was seen, and how.
struct Look {
    snapshot: Snapshot,
    walked: bool,
}

/// Looks, and judges what was seen first; None where the second look has changed that.
fn look(
    select: &Select,
    owners: Owners,
    options: &Options,
    (way, walker): (Way, &mut walk::Walker),
    ask: impl FnOnce(&str) -> engine::Answer + Send,
) -> Result<(Look, Option<FirstJudgement>), NodeError> {
    let started = jiff::Timestamp::now();
    let clock = Instant::now();
    let facts = Facts::read(Path::new(place::PROC));
    let mut incomplete = Vec::new();
    let mut places = place::all()?;
    let chosen = resolve::resolve(select, &places)?;
    if !facts.has(Capability::SysAdmin) {
        // Only the namespace this process is in needs no entering.
        places.retain(|place| place.ways.is_empty());
        incomplete.push(Incomplete {
            what: "other network namespaces".to_owned(),
            why: "entering them needs CAP_SYS_ADMIN; only this process's own is looked at"
                .to_owned(),
            help: Some("sudo keepline check".to_owned()),
        });
        if !chosen.is_empty() && !places.iter().any(|place| chosen.contains(&place.inode)) {
            let why = "entering the selected network namespace needs CAP_SYS_ADMIN: run as root";
            return Err(NodeError::Nothing { why: why.to_owned() });
        }
    }
    let (found, walked, ipvs, engine) = std::thread::scope(|scope| {
        let engine = scope.spawn(|| ask(&facts.host));
        let (mut found, walked) = scan(&places, &facts, (way, walker), owners == Owners::All);
        let ipvs = walk::read_slow_ipvs(&facts, &mut found);
        (found, walked, ipvs, engine.join().expect("asking the Engine does not panic"))
    });
    let mut namespaces = Vec::with_capacity(places.len());
    for mut found in found {
        found.namespace.selected = true;
        namespaces.push(found.namespace);
        incomplete.extend(found.incomplete);
    }
    let mut snapshot = Snapshot {
        schema: SCHEMA.to_owned(),
        host: facts.host,
        started,
        duration: clock.elapsed(),
        kernel: facts.release,
        namespaces,
        second_look: Vec::new(),
        incomplete,
        topology: None,
        held: run::holds().into_iter().map(|hold| hold.scope).collect(),
        unnamed: Vec::new(),
        asked: Asked::default(),
    };
    match engine {
        Ok(Some(topology)) => snapshot.join(topology),
        Ok(None) => {}
        Err(why) => snapshot.unnamed.push(why),
    }
    if !select.is_everything() {
        snapshot.select(select, &chosen)?;
    }
    let first = first_judgement(&snapshot, options);
    let mut questions = first.questions(&snapshot);
    owners.limit(&mut questions);
    if walked {
        let wanted = questions.processes.iter().copied();
        complete::complete(&mut snapshot, &places, wanted);
    }
    name(&mut snapshot, &places, &questions);
    let as_first_seen = questions.suspects.is_empty() && questions.keepalive.is_empty();
    let mut first = as_first_seen.then_some(first);
    if !questions.suspects.is_empty() {
        let by = (walked, ipvs, options);
        let looked = second_look::confirm(&mut snapshot, &places, questions.suspects, by);
        first = Some(looked);
    }
    snapshot.duration = clock.elapsed();
    Ok((Look { snapshot, walked }, first))
}

/// What is in all places, and whether their tables were walked.
fn scan(
    places: &[place::Place],
    facts: &Facts,
    (way, walker): (Way, &mut walk::Walker),
    inodes: bool,
) -> (Vec<scan::Found>, bool) {
    let kernel_lists_fast = tables::lists_fast(facts);
    let by_walk = match way {
        Way::Netlink => false,
        Way::Walk => true,
        Way::Best => walk::is_proven(facts) && walker.is_worth_it(),
    };
    let when = if by_walk { scan::Tables::Later } else { scan::Tables::Now };
    std::thread::scope(|scope| {
        // Takes as long as looking into the places.
        let ready = by_walk.then(|| scope.spawn(|| walker.prepare()));
        let looks = parallel::map(places, |place| {
            Some((place, scan::scan(place, kernel_lists_fast, when)?))
        });
        let (places, mut found): (Vec<_>, Vec<_>) = looks.into_iter().flatten().unzip();
        let Some(ready) = ready else { return (found, false) };
        let tables = ready.join().expect("loading programs does not panic");
        // Whatever the reason is that they cannot be walked: netlink tells the same.
        let walked = tables.map(|it| walk::read(it, &places, &mut found, inodes));
        if matches!(walked, Some(Ok(true))) {
            return (found, true);
        }
        let left: Vec<_> = places.into_iter().zip(found).map(std::sync::Mutex::new).collect();
        parallel::map(&left, |left| {
            let mut left = left.lock().expect("each is locked once");
            let (place, found) = &mut *left;
            scan::read_what_is_left(place, found);
        });
        let found = left.into_iter().map(|it| it.into_inner().expect("that has not failed").1);
        (found.collect(), false)
    })
}

/// Reads what only the holders of sockets can tell: their names, and exact keepalive settings.
fn name(snapshot: &mut Snapshot, places: &[place::Place], questions: &Questions) {
    let Questions { processes, keepalive, .. } = questions;
    let sockets: Vec<_> = processes.iter().chain(keepalive).copied().collect();
    let holders = Holders::find(snapshot, places, &sockets);
    owners::read_keepalive(snapshot, &holders, keepalive);
    owners::name_processes(snapshot, &holders, processes);
    snapshot.incomplete.extend(holders.missed());
}
