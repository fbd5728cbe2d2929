//! Observe this machine: ties the kernel doors to the core.
#![forbid(unsafe_code)]

mod act;
mod engine;
mod error;
mod marks;
mod owners;
mod parallel;
mod place;
mod resolve;
pub mod run;
mod scan;
mod second_look;
mod tables;

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Instant};

use keepline_core::{
    Snapshot,
    judge::{Questions, questions},
    snapshot::{Asked, Incomplete, SCHEMA, ServiceId, Topology},
};
use keepline_kernel::rights::{Capability, Facts};

pub use act::{
    ActError, Now, Obstacle, Report, Step, act, answered_directly, compare, keepalive_rules, undo,
};
pub use error::NodeError;
pub use keepline_core::snapshot::Select;
pub use owners::Owners;

use owners::Holders;

/// Looks at this machine: its namespaces, sockets and tables, and a second time at every
/// session that seems orphaned. Changes nothing.
///
/// What cannot be seen stands in [`Snapshot::incomplete`].
///
/// # Errors
/// When something selected does not exist, or nothing at all can be seen.
pub fn observe(select: &Select, owners: Owners) -> Result<Snapshot, NodeError> {
    observe_with(select, owners, engine::ask)
}

/// The same for one who knows already what the Engine told, and does not ask again.
///
/// # Errors
/// As [`observe`].
pub fn observe_knowing(
    select: &Select,
    owners: Owners,
    topology: Option<Topology>,
) -> Result<Snapshot, NodeError> {
    observe_with(select, owners, |_host| Ok(topology))
}

/// What the Engine of this machine tells; none where there is no Engine.
///
/// # Errors
/// Why it tells nothing, in words.
pub fn topology() -> Result<Option<Topology>, String> {
    engine::ask(&Facts::read(Path::new(place::PROC)).host)
}

/// A service, and its backends with their weights.
pub type Balanced = (ServiceId, Vec<(SocketAddr, u32)>);

/// What directors among the namespaces with these inodes balance: to be compared with an earlier
/// answer, much cheaper than a whole look. One that cannot be read now is left out.
///
/// # Errors
/// When no namespace can be found.
pub fn balanced(inodes: &BTreeSet<u64>) -> Result<Vec<(u64, Vec<Balanced>)>, NodeError> {
    let mut places = place::all()?;
    places.retain(|place| inodes.contains(&place.inode));
    let seen = places.iter().filter_map(|place| {
        let (_, services) = place.enter(tables::ipvs_of_here).ok()?.ok()??;
        let services = services.into_iter().map(|service| {
            let backends = service.destinations.iter().map(|it| (it.address, it.weight));
            (service.id, backends.collect())
        });
        Some((place.inode, services.collect()))
    });
    Ok(seen.collect())
}

fn observe_with(
    select: &Select,
    owners: Owners,
    ask: impl FnOnce(&str) -> engine::Answer + Send,
) -> Result<Snapshot, NodeError> {
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
    let kernel_lists_fast = tables::lists_fast(&facts);
    let (looks, engine) = std::thread::scope(|scope| {
        let engine = scope.spawn(|| ask(&facts.host));
        let looks = parallel::map(&places, |place| scan::scan(place, kernel_lists_fast));
        (looks, engine.join().expect("asking the Engine does not panic"))
    });
    let mut namespaces = Vec::with_capacity(places.len());
    for mut found in looks.into_iter().flatten() {
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
    let questions = questions(&snapshot);
    second_look::look(&mut snapshot, &places, &questions.suspects);
    name(&mut snapshot, &places, questions, owners);
    snapshot.duration = clock.elapsed();
    Ok(snapshot)
}

/// So many owners are looked for even where all is well.
const FEW: usize = 20;

/// Reads what only the holders of sockets can tell: their names, and exact keepalive settings.
fn name(
    snapshot: &mut Snapshot,
    places: &[place::Place],
    mut questions: Questions,
    owners: Owners,
) {
    if let Owners::MostUrgent(most) = owners {
        // Safe sessions are shown beside others, a few of them.
        questions.processes.truncate(most.min(questions.urgent.max(FEW)));
    }
    let Questions { processes, keepalive, .. } = questions;
    if owners == Owners::Nobody {
        return;
    }
    let sockets: Vec<_> = processes.iter().chain(&keepalive).copied().collect();
    let holders = Holders::find(snapshot, places, &sockets);
    owners::read_keepalive(snapshot, &holders, &keepalive);
    owners::name_processes(snapshot, &holders, &processes);
    snapshot.incomplete.extend(holders.missed());
}
