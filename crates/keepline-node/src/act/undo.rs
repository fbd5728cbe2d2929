//! Back to what was there, and what was left behind.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use keepline_core::plan::{self, Change, Undo, What};
use keepline_kernel::namespaces;

use super::{ActError, Obstacle, Report, Step, Way, inside, make, receiver};
use crate::{
    NodeError, parallel, place,
    run::{self, Exclusive},
};

/// Takes changes back, the last first. A namespace that is gone took them with it.
///
/// What is taken back and cannot be written down is gone on with: it is found as before by the next.
///
/// # Errors
/// When no namespace can be found.
pub fn undo(
    exclusive: &mut Exclusive,
    undos: &[Undo],
    stop: &AtomicBool,
) -> Result<Report, ActError> {
    let places = place::all()?;
    let finished: BTreeSet<(u64, usize)> = exclusive
        .standing()
        .into_iter()
        .filter(|it| it.finished)
        .map(|it| (it.id, it.step))
        .collect();
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
            Some(place) => {
                let way = Way::Back { finished: undo.of.is_some_and(|of| finished.contains(&of)) };
                inside(place, change, || make(place, &change.what, way))
            }
        };
        let result = match result {
            Err(Obstacle::Gone) => {
                Ok(vec!["the network namespace is gone, and the change with it".to_owned()])
            }
            other => other,
        };
        let result = result.and_then(|said| {
            if let Some((id, step)) = undo.of {
                exclusive.undone(id, step).map_err(Obstacle::EndUnwritten)?;
            }
            Ok(said)
        });
        report.steps.push(Step { change: change.clone(), result });
    }
    Ok(report)
}

/// What Keeplines left that were killed, and the journal has no word of. None where another Keepline is
/// at work: what it has started it stops itself. `exclusive` tells that this one is alone.
///
/// # Errors
/// When no namespace can be found.
pub fn left(exclusive: Option<&Exclusive>) -> Result<Vec<Change>, NodeError> {
    let _alone = match exclusive {
        Some(_) => None,
        None => match run::alone() {
            Some(alone) => Some(alone),
            None => return Ok(Vec::new()),
        },
    };
    let places = place::all()?;
    let found = parallel::map(&places, |place| {
        // What cannot be looked into has been left by nobody who could be known.
        let cookie = place.enter(|| receiver::is_left().then(namespaces::cookie)).ok().flatten()?;
        let (inode, name) = (place.inode, place.name.clone());
        Some(Change { place: plan::Place { inode, cookie, name }, what: What::Receiver })
    });
    Ok(found.into_iter().flatten().collect())
}
