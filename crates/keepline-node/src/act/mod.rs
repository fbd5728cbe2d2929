//! Act: plans carried out. Each change is compared with what is there, written down, made, and
//! read back.

mod conntrack;
mod ipvs;
mod programs;
mod receiver;
mod sockets;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use keepline_core::{
    plan::{Action, Change, Plan, Undo, What},
    session::Table,
};
use keepline_kernel::{Error, namespaces, procfs};
use thiserror::Error as ThisError;

use crate::{
    NodeError,
    place::{self, PROC, Place},
    run::{Exclusive, RunError},
};

/// Why a change was not made.
#[derive(Debug, ThisError)]
pub enum Obstacle {
    /// A door was closed.
    #[error(transparent)]
    Kernel(#[from] Error),
    /// Somebody else has changed it since.
    #[error("{object} is {is} by now, where {was} was expected: left as it is")]
    Drifted {
        /// What.
        object: String,
        /// Its value.
        is: String,
        /// Its value as planned.
        was: String,
    },
    /// It was made, and reads otherwise.
    #[error("{object} reads {is} after {should} was written")]
    NotTaken {
        /// What.
        object: String,
        /// Its value.
        is: String,
        /// What was written.
        should: String,
    },
    /// The namespace is gone, or another has its name.
    #[error("the network namespace is gone")]
    Gone,
    /// It is not possible here.
    #[error("{0}")]
    Refused(String),
}

/// What came of one change.
#[derive(Debug)]
pub struct Step {
    /// The change.
    pub change: Change,
    /// What is worth saying of it, or why it was not made.
    pub result: Result<Vec<String>, Obstacle>,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of the plan.
    pub steps: Vec<Step>,
    /// So many changes were not begun, since it was to stop.
    pub left: usize,
}

impl Report {
    /// Whether everything was done.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.left == 0 && self.steps.iter().all(|step| step.result.is_ok())
    }
}

/// Carries out a plan: every change, even where another fails. `stop` ends it between two changes.
///
/// # Errors
/// When the journal cannot be written, or no namespace can be found: what was done until then is
/// in the journal.
pub fn act(exclusive: &mut Exclusive, plan: &Plan, stop: &AtomicBool) -> Result<Report, ActError> {
    let places = place::all()?;
    let mut report = Report::default();
    if plan.changes.is_empty() {
        return Ok(report);
    }
    // Entries that are renewed every few seconds leave nothing to be taken back.
    let written = plan.action != Action::Hold || plan.changes.iter().any(|it| it.what.lasts());
    let id = if written { Some(exclusive.begin(plan.action)?) } else { None };
    for (step, change) in plan.changes.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            report.left = plan.changes.len() - step;
            break;
        }
        let result = one(exclusive, &places, id, step, change)?;
        report.steps.push(Step { change: change.clone(), result });
    }
    Ok(report)
}

/// A plan could not be gone on with.
#[derive(Debug, ThisError)]
pub enum ActError {
    /// The journal.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The machine.
    #[error(transparent)]
    Node(#[from] NodeError),
}

fn one(
    exclusive: &mut Exclusive,
    places: &[Place],
    id: Option<u64>,
    step: usize,
    change: &Change,
) -> Result<Result<Vec<String>, Obstacle>, RunError> {
    let Some(place) = places.iter().find(|place| place.inode == change.place.inode) else {
        return Ok(Err(Obstacle::Gone));
    };
    // Settings of other sockets are read first: what they were must be in the journal.
    let prepared = inside(place, change, || match programs::prepare(&change.what)? {
        Some(what) => Ok(Some(what)),
        None => sockets::prepare(place, &change.what),
    });
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(obstacle) => return Ok(Err(obstacle)),
    };
    let what = prepared.unwrap_or_else(|| change.what.clone());
    let written = Change { place: change.place.clone(), what };
    if let Some(id) = id {
        exclusive.intend(id, step, &written)?;
    }
    let result = inside(place, change, || make(place, &written.what));
    if let Some(id) = id {
        exclusive.done(id, step, result.as_ref().err().map(ToString::to_string))?;
    }
    Ok(result)
}

/// Runs `work` in the namespace of a change, if it is that still.
fn inside<T: Send>(
    place: &Place,
    change: &Change,
    work: impl Fn() -> Result<T, Obstacle> + Send + Sync,
) -> Result<T, Obstacle> {
    let result = place.enter(|| {
        if !change.place.is(place.inode, namespaces::cookie()) {
            return Err(Obstacle::Gone);
        }
        work()
    });
    match result {
        Ok(result) => result,
        Err(error) if error.is_gone() => Err(Obstacle::Gone),
        Err(error) => Err(error.into()),
    }
}

/// Makes one change in the current namespace. Made already is as good as made now.
fn make(place: &Place, what: &What) -> Result<Vec<String>, Obstacle> {
    match what {
        What::Timeouts { before, after } => ipvs::set_timeouts(before, after).map(|()| Vec::new()),
        What::Scheduler { service, before, after } => {
            ipvs::set_scheduler(*service, before, after).map(|()| Vec::new())
        }
        What::Sysctl { path, before, after } => {
            set_sysctl(path, before, after).map(|()| Vec::new())
        }
        What::Keepalive { sockets } => sockets::set_keepalive(place, sockets),
        What::NewSockets { before, after } => programs::set_rules(before.as_ref(), after.as_ref()),
        What::Direct { before, after } => {
            programs::set_services(before.as_deref(), after.as_deref())
        }
        What::Entries { table: Table::Ipvs, entries } => receiver::remember(place, entries),
        What::Entries { table: Table::Conntrack, entries } => conntrack::remember(entries),
        What::Touch { sockets } => sockets::touch(place, sockets),
        What::Abort { sockets } => sockets::abort(sockets),
        What::Disconnect { peers } => sockets::disconnect(peers),
    }
}

fn set_sysctl(path: &str, before: &str, after: &str) -> Result<(), Obstacle> {
    let is = procfs::read_sysctl(path)?;
    if !due(&path.replace('/', "."), &is, before, after)? {
        return Ok(());
    }
    procfs::write_sysctl(path, after)?;
    taken(&path.replace('/', "."), &procfs::read_sysctl(path)?, after)
}

/// Whether something has to be changed; an error where it is neither what it was nor what it shall
/// be.
fn due(object: &str, is: &str, before: &str, after: &str) -> Result<bool, Obstacle> {
    if is == after {
        Ok(false)
    } else if is == before {
        Ok(true)
    } else {
        let (object, is, was) = (object.to_owned(), is.to_owned(), before.to_owned());
        Err(Obstacle::Drifted { object, is, was })
    }
}

fn taken(object: &str, is: &str, should: &str) -> Result<(), Obstacle> {
    if is == should {
        return Ok(());
    }
    let (object, is, should) = (object.to_owned(), is.to_owned(), should.to_owned());
    Err(Obstacle::NotTaken { object, is, should })
}

/// Takes changes back, the last first. A namespace that is gone took them with it.
///
/// # Errors
/// As [`act`].
pub fn undo(
    exclusive: &mut Exclusive,
    undos: &[Undo],
    stop: &AtomicBool,
) -> Result<Report, ActError> {
    let places = place::all()?;
    let mut report = Report::default();
    for (at, undo) in undos.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            report.left = undos.len() - at;
            break;
        }
        let change = &undo.change;
        let place = places.iter().find(|place| place.inode == change.place.inode);
        let result = match place {
            None => Err(Obstacle::Gone),
            Some(place) => inside(place, change, || make(place, &change.what)),
        };
        let result = match result {
            Err(Obstacle::Gone) => {
                Ok(vec!["the network namespace is gone, and the change with it".to_owned()])
            }
            other => other,
        };
        if result.is_ok() {
            exclusive.undone(undo.id, undo.step)?;
        }
        report.steps.push(Step { change: change.clone(), result });
    }
    Ok(report)
}

/// How a change that stands looks now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// As it was made.
    InForce,
    /// Of so many sockets so many are open still, with their settings.
    Partly {
        /// As they were set.
        in_force: usize,
        /// Of how many.
        of: usize,
    },
    /// As before: it was never made, or somebody has taken it back.
    AsBefore,
    /// Otherwise.
    Drifted {
        /// Its value.
        is: String,
    },
    /// Its namespace is gone.
    Gone,
    /// It could not be told.
    Unknown {
        /// The reason.
        why: String,
    },
}

/// Looks how changes that stand are now.
///
/// # Errors
/// When no namespace can be found.
pub fn compare(changes: &[&Change]) -> Result<Vec<Now>, NodeError> {
    let places = place::all()?;
    Ok(changes
        .iter()
        .map(|change| {
            let Some(place) = places.iter().find(|place| place.inode == change.place.inode) else {
                return Now::Gone;
            };
            inside(place, change, || now(&change.what)).unwrap_or_else(|obstacle| match obstacle {
                Obstacle::Gone => Now::Gone,
                other => Now::Unknown { why: other.to_string() },
            })
        })
        .collect())
}

fn now(what: &What) -> Result<Now, Obstacle> {
    let told = |is: &str, before: &str, after: &str| match is {
        is if is == after => Now::InForce,
        is if is == before => Now::AsBefore,
        is => Now::Drifted { is: is.to_owned() },
    };
    Ok(match what {
        What::Sysctl { path, before, after } => told(&procfs::read_sysctl(path)?, before, after),
        What::Timeouts { before, after } => {
            told(&ipvs::timeouts()?, &ipvs::words(before), &ipvs::words(after))
        }
        What::Scheduler { service, before, after } => {
            told(&ipvs::scheduling(*service)?, &format!("{before:?}"), &format!("{after:?}"))
        }
        What::Keepalive { sockets } => {
            let in_force = sockets::still_open(sockets)?;
            Now::Partly { in_force, of: sockets.len() }
        }
        What::NewSockets { before, after } => which(&programs::rules()?, before, after),
        What::Direct { before, after } => which(&programs::services()?, before, after),
        What::Entries { .. }
        | What::Touch { .. }
        | What::Abort { .. }
        | What::Disconnect { .. } => Now::InForce,
    })
}

fn which<T: PartialEq>(is: &T, before: &T, after: &T) -> Now {
    if is == after {
        Now::InForce
    } else if is == before {
        Now::AsBefore
    } else {
        Now::Drifted { is: "something else".to_owned() }
    }
}

/// The services that programs answer directly now.
///
/// # Errors
/// When they cannot be read.
pub fn answered_directly() -> Result<Option<Vec<keepline_core::plan::DirectService>>, Obstacle> {
    programs::services()
}

/// Keepalive for connections to come, as programs give it now.
///
/// # Errors
/// When it cannot be read.
pub fn keepalive_rules() -> Result<Option<keepline_core::plan::KeepaliveRules>, Obstacle> {
    programs::rules()
}

/// `/proc`, where holders of sockets are looked for.
pub(crate) fn proc() -> &'static Path {
    Path::new(PROC)
}
