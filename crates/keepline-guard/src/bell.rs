//! What wakes the guard: namespaces that come and go, the Engine's events, signals, the control
//! socket. Each says only that there is something to look at.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use keepline_docker::Options as Docker;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// Why the guard wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    /// A look was asked for: by the control socket, or as backends have changed.
    Asked,
    /// A namespace came or went.
    Namespaces,
    /// The Engine told of something, or answers again.
    Engine,
    /// The file is to be read again.
    Reload,
    /// To end.
    Stop,
}

impl Ring {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Namespaces => "namespaces",
            Self::Engine => "engine",
            Self::Reload => "reload",
            Self::Stop => "stop",
        }
    }

    /// For so long others of a crowd are waited for. Who asks for a look gets it at once.
    fn waits_for_company(self) -> Duration {
        if self == Self::Asked { Duration::ZERO } else { CROWD }
    }
}

/// What comes near to each other is one: a service of ten tasks makes a crowd of events.
const CROWD: Duration = Duration::from_millis(100);

/// The guard's ear.
#[derive(Debug)]
pub(crate) struct Bell {
    rope: Sender<Ring>,
    heard: Receiver<Ring>,
}

impl Bell {
    pub(crate) fn new() -> Self {
        let (rope, heard) = channel();
        Self { rope, heard }
    }

    /// By which it is rung.
    pub(crate) fn rope(&self) -> Sender<Ring> {
        self.rope.clone()
    }

    /// Waits for a ring; the gravest of those that come together. Who asks for a look gets it at once,
    /// together with those who asked before it. None when time has run out.
    pub(crate) fn wait(&self, time: Duration) -> Option<Ring> {
        let mut ring = match self.heard.recv_timeout(time) {
            Ok(ring) => ring,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        let until = Instant::now() + ring.waits_for_company();
        while ring != Ring::Stop {
            let left = until.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(other) => ring = ring.max(other),
                Err(_) => break,
            }
        }
        Some(ring)
    }
}

/// Rings on signals.
///
/// # Errors
/// When they cannot be caught.
pub(crate) fn on_signals(rope: Sender<Ring>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let ring = if signal == SIGHUP { Ring::Reload } else { Ring::Stop };
            if rope.send(ring).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Rings when the Engine tells of something. One that is not there is asked for again: it may be
/// starting.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn on_events(rope: Sender<Ring>) -> std::io::Result<()> {
    /// An Engine that comes back is heard within this time.
    const AGAIN: Duration = Duration::from_secs(1);
    thread::Builder::new().name("events".to_owned()).spawn(move || {
        loop {
            let options = Docker::from_env();
            let mut open = true;
            // Why it is silent is told by the look, which asks it too.
            let _ = keepline_docker::follow_events(&options, || {
                open = rope.send(Ring::Engine).is_ok();
                open
            });
            if !open {
                return;
            }
            thread::sleep(AGAIN);
        }
    })?;
    Ok(())
}

/// Rings when a namespace gets a name in `folder`, or loses it. A folder that is not there yet is
/// waited for.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn on_namespaces(rope: Sender<Ring>, folder: PathBuf) -> std::io::Result<()> {
    /// So often a folder that is not there is looked for.
    const AGAIN: Duration = Duration::from_secs(2);
    thread::Builder::new().name("namespaces".to_owned()).spawn(move || {
        loop {
            if watch(&folder, &rope).is_none() {
                return;
            }
            thread::sleep(AGAIN);
        }
    })?;
    Ok(())
}

/// Watches until the folder goes; None where nobody listens any more.
fn watch(folder: &Path, rope: &Sender<Ring>) -> Option<()> {
    let Ok(inotify) = inotify::init(CreateFlags::CLOEXEC) else { return Some(()) };
    let events = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::ONLYDIR;
    if inotify::add_watch(&inotify, folder, events).is_err() {
        return Some(());
    }
    // It may have been filled before it was watched.
    rope.send(Ring::Namespaces).ok()?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => {
                rope.send(Ring::Namespaces).ok()?;
                if event.events().intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED) {
                    return Some(());
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_folder_rings() {
        let patience = Duration::from_secs(20);
        let folder = tempfile::tempdir().unwrap();
        let bell = Bell::new();
        on_namespaces(bell.rope(), folder.path().to_owned()).unwrap();
        assert_eq!(bell.wait(patience), Some(Ring::Namespaces), "it may have had some before");
        std::fs::write(folder.path().join("lb_edja88p19"), "").unwrap();
        assert_eq!(bell.wait(patience), Some(Ring::Namespaces));
    }

    #[test]
    fn what_is_asked_for_does_not_wait_for_a_crowd() {
        let bell = Bell::new();
        let rope = bell.rope();
        assert_eq!(Ring::Asked.waits_for_company(), Duration::ZERO);
        for ring in [Ring::Asked, Ring::Asked, Ring::Reload] {
            rope.send(ring).unwrap();
        }
        assert_eq!(bell.wait(Duration::ZERO), Some(Ring::Reload), "all that is there is one");
        assert_eq!(bell.wait(Duration::ZERO), None);
        // More of the same may come.
        let begun = Instant::now();
        rope.send(Ring::Engine).unwrap();
        assert_eq!(bell.wait(Duration::ZERO), Some(Ring::Engine));
        assert!(begun.elapsed() >= CROWD);
    }
}
