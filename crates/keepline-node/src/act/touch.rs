//! A probe on every session, in all namespaces at the same time: another Keepline waits meanwhile.
//!
//! For as long as it takes, sockets of others have settings that are not theirs. Those that are theirs
//! are written down before: should this process be killed, that stands, and `undo` gives them back.

use std::{
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use keepline_core::{
    parallel,
    plan::{Change, KeepaliveChange, Plan, SocketId, What},
};
use keepline_kernel::{
    netlink::{Protocol, Socket as Netlink},
    pidfd::{self, Keepalive},
};
use keepline_wire::sock_diag::TcpState;

use super::{
    Obstacle, Report, Step, inside,
    sockets::{ask, borrow, exact, settings, unreached},
};
use crate::{
    place::Place,
    run::{Exclusive, RunError},
};

/// How long an answer to a probe is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of one namespace.
type Result<T, E = Obstacle> = std::result::Result<T, E>;

/// Sends a keepalive probe on every socket of a plan, and says which were answered.
///
/// # Errors
/// When nothing could be written down before.
pub(super) fn all(
    exclusive: &mut Exclusive,
    places: &[Place],
    id: u64,
    plan: &Plan,
    stop: &AtomicBool,
) -> Result<Report, RunError> {
    let mut report = Report::default();
    let mut ready = Vec::new();
    for (step, change) in plan.changes.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            report.left = plan.changes.len() - step;
            break;
        }
        let result = match Probe::prepare(places, change) {
            Ok(probe) if probe.sockets.is_empty() => Ok(probe.said(Vec::new())),
            Ok(probe) => match exclusive.intend(id, step, &probe.written()) {
                Ok(()) => {
                    ready.push((step, probe));
                    // Told below.
                    Ok(Vec::new())
                }
                Err(error) if ready.is_empty() => return Err(error),
                Err(error) => Err(Obstacle::NotBegun(error)),
            },
            Err(obstacle) => Err(obstacle),
        };
        let last = matches!(result, Err(Obstacle::NotBegun(_)));
        report.steps.push(Step { change: change.clone(), result });
        if last {
            report.left = plan.changes.len() - step - 1;
            break;
        }
    }
    let results = parallel::map_on(ready.len(), &ready, |(_, probe)| {
        inside(probe.place, probe.change, || send(&probe.sockets))
    });
    for ((step, probe), result) in ready.into_iter().zip(results) {
        let result = match probe.not_given_back() {
            0 => match exclusive.undone(id, step) {
                Ok(()) => result.map(|said| probe.said(said)),
                Err(error) => result.and(Err(Obstacle::EndUnwritten(error))),
            },
            left => Err(Obstacle::InPart(Box::new(Obstacle::Refused(format!(
                "{left} did not get their own settings back: `keepline undo` tries it again"
            ))))),
        };
        report.steps[step].result = result;
    }
    Ok(report)
}

/// The sockets of one namespace.
struct Probe<'a> {
    place: &'a Place,
    change: &'a Change,
    sockets: Vec<Lent>,
    unreached: usize,
}

/// A socket of another process, and what that has set.
struct Lent {
    id: SocketId,
    copy: OwnedFd,
    before: Keepalive,
}

impl Lent {
    /// A probe is due when the socket has been silent for as long as this.
    fn probing(&self) -> Keepalive {
        Keepalive { enabled: true, idle: Duration::from_secs(1), ..self.before }
    }
}

impl<'a> Probe<'a> {
    fn prepare(places: &'a [Place], change: &'a Change) -> Result<Self> {
        let What::Touch { sockets } = &change.what else {
            return Err(Obstacle::Refused("only probes are sent by touch".to_owned()));
        };
        let place = places.iter().find(|place| place.inode == change.place.inode);
        let place = place.ok_or(Obstacle::Gone)?;
        let copies = inside(place, change, || borrow(place, sockets.iter()))?;
        let lent: Vec<Lent> = sockets
            .iter()
            .zip(copies)
            .filter_map(|(id, copy)| {
                let copy = copy?;
                let before = pidfd::keepalive(&copy).ok()?;
                Some(Lent { id: *id, copy, before })
            })
            .collect();
        let unreached = sockets.len() - lent.len();
        Ok(Self { place, change, sockets: lent, unreached })
    }

    /// What is changed for the moment.
    fn written(&self) -> Change {
        let sockets = self.sockets.iter().map(|it| KeepaliveChange {
            socket: it.id,
            before: Some(settings(it.before)),
            after: settings(it.probing()),
            in_kernel: false,
        });
        Change {
            place: self.change.place.clone(),
            what: What::Keepalive { sockets: sockets.collect() },
        }
    }

    fn said(&self, mut said: Vec<String>) -> Vec<String> {
        said.extend(unreached(self.unreached));
        said
    }

    /// How many have still what they got for the probe.
    fn not_given_back(&self) -> usize {
        let still = self.sockets.iter().filter(|it| {
            let probing = it.probing();
            probing != it.before && pidfd::keepalive(&it.copy).is_ok_and(|is| is == probing)
        });
        still.count()
    }
}

/// Sends the probes of the current namespace.
fn send(sockets: &[Lent]) -> Result<Vec<String>> {
    let netlink = Netlink::open(Protocol::SockDiag)?;
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for socket in sockets {
        let guard = Restore(socket);
        pidfd::set_keepalive(&socket.copy, &socket.probing())?;
        waiting.push(guard);
    }
    let (mut answered, mut ended) = (0, 0);
    while !waiting.is_empty() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
        let mut left = Vec::new();
        for guard in waiting {
            match ask(&netlink, &exact(&guard.0.id).get_with_info(1))? {
                None => ended += 1,
                Some(now)
                    if now.state != TcpState::Established && now.state != TcpState::CloseWait =>
                {
                    ended += 1;
                }
                Some(now) => {
                    let heard = now.info.map(|info| info.last_ack_recv.min(info.last_data_recv));
                    // Its own times are restored when the guard goes.
                    if heard.is_some_and(|heard| heard < begun.elapsed()) {
                        answered += 1;
                    } else {
                        left.push(guard);
                    }
                }
            }
        }
        waiting = left;
    }
    let mut said = vec![format!("{answered} answered")];
    if ended > 0 {
        said.push(format!("{ended} were refused by the other side and are closed"));
    }
    if !waiting.is_empty() {
        let which: Vec<String> = waiting
            .iter()
            .take(5)
            .map(|Restore(Lent { id, .. })| format!("{} → {}", id.local, id.remote))
            .collect();
        said.push(format!(
            "{} did not answer within {} s: {}",
            waiting.len(),
            PATIENCE.as_secs(),
            which.join(", ")
        ));
    }
    Ok(said)
}

/// Gives a socket its own settings back, whatever happens to this thread.
struct Restore<'a>(&'a Lent);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // Where it fails, it is seen afterwards. A socket that has closed meanwhile needs none.
        let _ = pidfd::set_keepalive(&self.0.copy, &self.0.before);
    }
}
