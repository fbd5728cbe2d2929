//! The backend: sends back whatever comes, on any number of sessions, in one thread.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::{ServeArgs, say};
use crate::error::{LabError, io_error};

/// Connections that may wait to be accepted: std's own 128 are too few for a burst, and what is
/// over it would wait a second for its SYN to be repeated.
const BACKLOG: i32 = 4096;

/// Serves until it is killed; prints `ready` once it listens.
pub(super) fn serve(args: &ServeArgs) -> Result<(), LabError> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io_error("epoll_create"))?;
    let mut listeners: HashMap<RawFd, TcpListener> = HashMap::new();
    for port in args.ports.ports() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .map_err(io_error(format!("listen on port {port}")))?;
        listener.set_nonblocking(true).map_err(io_error("set non-blocking"))?;
        rustix::net::listen(&listener, BACKLOG)
            .map_err(io_error(format!("listen on port {port}")))?;
        watch(&epoll, &listener)?;
        listeners.insert(listener.as_raw_fd(), listener);
    }
    say(format_args!("ready"))?;

    let mut sessions: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(io_error("epoll_wait")(error)),
        }
        for event in &events {
            let Ok(fd) = RawFd::try_from(event.data.u64()) else { continue };
            if let Some(listener) = listeners.get(&fd) {
                // Errors here are the connecting end's (gone again) or a full table of files;
                // either way the others are served on.
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() && watch(&epoll, &stream).is_ok() {
                        sessions.insert(stream.as_raw_fd(), stream);
                    }
                }
            } else if let Some(stream) = sessions.get_mut(&fd)
                && !echo(stream)
            {
                sessions.remove(&fd);
            }
        }
    }
}

fn watch(
    epoll: impl std::os::fd::AsFd,
    source: &(impl std::os::fd::AsFd + std::os::fd::AsRawFd),
) -> Result<(), LabError> {
    let token = u64::try_from(source.as_raw_fd()).unwrap_or(u64::MAX);
    epoll::add(epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        .map_err(io_error("epoll_ctl"))
}

/// Sends back what came; false when the session is over.
fn echo(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        // Messages are a few bytes: a full send buffer means the other end is gone.
        Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
