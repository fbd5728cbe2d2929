//! Act: plans carried out. Each change is compared with what is there, written down, made, and
//! read back.

mod compare;
mod conntrack;
mod ipvs;
mod programs;
mod receiver;
mod sockets;
mod touch;
mod undo;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use keepline_core::{
    plan::{self, Action, Change, Plan, What},
    session::Table,
};
use keepline_kernel::{Error, namespaces, procfs};
use thiserror::Error as ThisError;

pub use compare::{Now, compare};
pub use undo::{left, undo};

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
    /// Something failed after a part of it was made: it stands, for `undo` to look at.
    #[error("made in part: {0}")]
    InPart(Box<Obstacle>),
    /// What cannot be written down is not begun.
    #[error("not made, since it could not be written down: {0}")]
    NotBegun(RunError),
    /// It was made, and stands as if it were not finished.
    #[error("made, but its end could not be written down: {0}")]
    EndUnwritten(RunError),
}

impl Obstacle {
    /// Whether all is as it was found.
    fn nothing_made(&self) -> bool {
        matches!(self, Self::Drifted { .. } | Self::Gone)
    }
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
    /// So many changes were not begun, since it was to stop, or nothing could be written down.
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
/// When no namespace can be found, or the journal cannot be written before anything is made.
pub fn act(exclusive: &mut Exclusive, plan: &Plan, stop: &AtomicBool) -> Result<Report, ActError> {
    let places = place::all()?;
    let mut report = Report::default();
    if plan.changes.is_empty() {
        return Ok(report);
    }
    // Entries that are renewed every few seconds leave nothing to be taken back.
    let written = plan.action != Action::Hold || plan.changes.iter().any(|it| it.what.lasts());
    let id = if written { Some(exclusive.begin(plan.action)?) } else { None };
    if let (Action::Touch, Some(id)) = (plan.action, id) {
        return Ok(touch::all(exclusive, &places, id, plan, stop)?);
    }
    let mut nothing_made = true;
    for (step, change) in plan.changes.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            report.left = plan.changes.len() - step;
            break;
        }
        let result = match one(exclusive, &places, id, step, change) {
            Err(error) if nothing_made => return Err(error.into()),
            Err(error) => Err(Obstacle::NotBegun(error)),
            Ok(result) => result,
        };
        nothing_made &= result.as_ref().is_err_and(Obstacle::nothing_made);
        let last = matches!(result, Err(Obstacle::NotBegun(_)));
        report.steps.push(Step { change: change.clone(), result });
        if last {
            report.left = plan.changes.len() - step - 1;
            break;
        }
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

/// Makes one change; an error where it could not be written down before.
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
    let unreached = match (&change.what, &what) {
        (What::Keepalive { sockets: all }, What::Keepalive { sockets }) => {
            let unreached = sockets::unreached(all.len() - sockets.len());
            if sockets.is_empty() {
                return Ok(Ok(Vec::from_iter(unreached)));
            }
            unreached
        }
        _ => None,
    };
    let written = Change { place: change.place.clone(), what };
    if let Some(id) = id {
        exclusive.intend(id, step, &written)?;
    }
    let result = inside(place, change, || make(place, &written.what, Way::There));
    let result = result.map(|mut said| {
        said.extend(unreached);
        said
    });
    let Some(id) = id else { return Ok(result) };
    if let Err(obstacle) = result {
        if is_in_part(place, &written, &obstacle) {
            return Ok(Err(Obstacle::InPart(Box::new(obstacle))));
        }
        // Where this is not written, it stands, and is as before.
        let _ = exclusive.done(id, step, Some(obstacle.to_string()));
        return Ok(Err(obstacle));
    }
    Ok(exclusive.done(id, step, None).map_err(Obstacle::EndUnwritten).and(result))
}

/// Whether a part of a change was made before something failed. What cannot be told counts as made:
/// `undo` looks again.
fn is_in_part(place: &Place, change: &Change, obstacle: &Obstacle) -> bool {
    if obstacle.nothing_made() || !change.what.lasts() {
        return false;
    }
    let now = inside(place, change, || match &change.what {
        What::Keepalive { sockets } => sockets::is_any_set(place, sockets)
            .map(|any| if any { Now::InForce } else { Now::AsBefore }),
        what => compare::now(what),
    });
    !matches!(now, Ok(Now::AsBefore) | Err(Obstacle::Gone))
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

/// Which way a change leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As it was planned.
    There,
    /// Back from what was made.
    Back {
        /// Whether it was made to its end, as far as is known.
        finished: bool,
    },
}

/// Makes one change in the current namespace. Made already is as good as made now.
fn make(place: &Place, what: &What, way: Way) -> Result<Vec<String>, Obstacle> {
    match what {
        What::Timeouts { before, after } => ipvs::set_timeouts(before, after).map(|()| Vec::new()),
        What::Scheduler { service, before, after } => {
            ipvs::set_scheduler(*service, before, after).map(|()| Vec::new())
        }
        What::Sysctl { path, before, after } => {
            set_sysctl(path, before, after).map(|()| Vec::new())
        }
        What::Keepalive { sockets } => sockets::set_keepalive(place, sockets),
        What::NewSockets { before, after } => {
            programs::set_rules(before.as_ref(), after.as_ref(), way)
        }
        What::Direct { before, after } => {
            programs::set_services(before.as_deref(), after.as_deref(), way)
        }
        What::Entries { table: Table::Ipvs, entries } => receiver::remember(place, entries),
        What::Entries { table: Table::Conntrack, entries } => conntrack::remember(entries),
        // All of a plan at once, by `touch`.
        What::Touch { .. } => Err(Obstacle::Refused("probes are no part of this".to_owned())),
        What::Abort { sockets } => sockets::abort(sockets),
        What::Disconnect { peers } => sockets::disconnect(peers),
        What::Receiver => receiver::stop_left().map(|()| Vec::new()),
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

/// The services that programs answer directly now.
///
/// # Errors
/// When they cannot be read.
pub fn answered_directly() -> Result<Option<Vec<plan::DirectService>>, Obstacle> {
    programs::services()
}

/// Keepalive for connections to come, as programs give it now.
///
/// # Errors
/// When it cannot be read.
pub fn keepalive_rules() -> Result<Option<plan::KeepaliveRules>, Obstacle> {
    programs::rules()
}

/// `/proc`, where holders of sockets are looked for.
pub(crate) fn proc() -> &'static Path {
    Path::new(PROC)
}
