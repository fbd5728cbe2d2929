//! How changes that stand are now.

use keepline_core::plan::{Change, What};
use keepline_kernel::procfs;

use super::{Obstacle, inside, ipvs, programs, sockets};
use crate::{NodeError, place};

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

pub(super) fn now(what: &What) -> Result<Now, Obstacle> {
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
        What::NewSockets { before, after } => match programs::rules()? {
            None if programs::are_left(what)? => in_part(),
            is => which(&is, before, after),
        },
        What::Direct { before, after } => match programs::services()? {
            None if programs::are_left(what)? => in_part(),
            is => which(&is, before, after),
        },
        What::Entries { .. }
        | What::Touch { .. }
        | What::Abort { .. }
        | What::Disconnect { .. }
        | What::Receiver => Now::InForce,
    })
}

/// A Keepline was killed while it put programs on, or took them off.
fn in_part() -> Now {
    Now::Drifted { is: "there in part".to_owned() }
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
