//! Another process's sockets, by `pidfd_getfd` (kernel 5.6): settings that no listing shows.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::Error;

/// Keepalive settings of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `SO_KEEPALIVE`.
    pub enabled: bool,
    /// `TCP_KEEPIDLE`.
    pub idle: Duration,
    /// `TCP_KEEPINTVL`.
    pub interval: Duration,
    /// `TCP_KEEPCNT`.
    pub probes: u32,
}

/// A copy of file descriptor `fd` of process `pid`.
///
/// # Errors
/// When the process or descriptor is gone, or rights are missing (`CAP_SYS_PTRACE`).
pub fn borrow(pid: u32, fd: i32) -> Result<OwnedFd, Error> {
    let call = |operation, source: rustix::io::Errno| {
        Error::call(operation, format!("descriptor {fd} of process {pid}"), source)
    };
    let process = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| call("open", rustix::io::Errno::SRCH))?;
    let process =
        pidfd_open(process, PidfdFlags::empty()).map_err(|source| call("open", source))?;
    pidfd_getfd(&process, fd as ForeignRawFd, PidfdGetfdFlags::empty())
        .map_err(|source| call("copy", source))
}

/// Reads the keepalive settings of a TCP socket.
///
/// # Errors
/// When it is no TCP socket.
pub fn keepalive(socket: &OwnedFd) -> Result<Keepalive, Error> {
    use rustix::net::sockopt;
    let call = |source: rustix::io::Errno| Error::call("read", "keepalive settings", source);
    Ok(Keepalive {
        enabled: sockopt::socket_keepalive(socket).map_err(call)?,
        idle: sockopt::tcp_keepidle(socket).map_err(call)?,
        interval: sockopt::tcp_keepintvl(socket).map_err(call)?,
        probes: sockopt::tcp_keepcnt(socket).map_err(call)?,
    })
}

/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` (`include/net/tcp.h`).
const MOST: Duration = Duration::from_secs(32_767);
/// `MAX_TCP_KEEPCNT` (`include/net/tcp.h`).
const MOST_PROBES: u32 = 127;

impl Keepalive {
    /// As far as a socket can be given it.
    #[must_use]
    pub fn possible(self) -> Self {
        Self {
            enabled: self.enabled,
            idle: self.idle.min(MOST),
            interval: self.interval.min(MOST),
            probes: self.probes.min(MOST_PROBES),
        }
    }
}

/// Changes the keepalive settings of a TCP socket. Times are whole seconds; what is more than a
/// socket can be given (32,767 s, 127 probes) is set to the most, since a socket without times of its
/// own may show more: its namespace's sysctls know no such limit. What it shows already is not set, so
/// that such a socket goes on as its namespace has it.
///
/// Where keepalive is on, the socket has been silent for `idle` already, and nothing is on its way, a
/// probe leaves at once (`tcp_sock_set_keepidle_locked()`, `net/ipv4/tcp.c`).
///
/// # Errors
/// When it is no TCP socket, or a value is 0.
pub fn set_keepalive(socket: &OwnedFd, settings: &Keepalive) -> Result<(), Error> {
    use rustix::net::sockopt;
    let call = |source: rustix::io::Errno| Error::call("change", "keepalive settings", source);
    let (is, possible) = (keepalive(socket)?, settings.possible());
    // On first: the times set a running timer anew.
    if settings.enabled != is.enabled {
        sockopt::set_socket_keepalive(socket, settings.enabled).map_err(call)?;
    }
    if settings.interval != is.interval {
        sockopt::set_tcp_keepintvl(socket, possible.interval).map_err(call)?;
    }
    if settings.probes != is.probes {
        sockopt::set_tcp_keepcnt(socket, possible.probes).map_err(call)?;
    }
    // A timer that was switched on counts from now, this one from when it last heard something.
    let starts = settings.enabled && !is.enabled && settings.idle <= MOST;
    if settings.idle != is.idle || starts {
        sockopt::set_tcp_keepidle(socket, possible.idle).map_err(call)?;
    }
    Ok(())
}

/// `SO_COOKIE`: the kernel's identity of a socket, as sock_diag shows it.
///
/// # Errors
/// When it is no socket.
pub fn cookie(socket: &OwnedFd) -> Result<u64, Error> {
    rustix::net::sockopt::socket_cookie(socket).map_err(|source| {
        Error::call(
            "read",
            format!("cookie of descriptor {}", socket.as_raw_fd()),
            io::Error::from(source),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
    };

    use super::*;

    #[test]
    fn own_socket_is_read_as_if_foreign() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        rustix::net::sockopt::set_socket_keepalive(&client, true).unwrap();
        rustix::net::sockopt::set_tcp_keepidle(&client, Duration::from_secs(77)).unwrap();
        let copy = borrow(std::process::id(), client.as_raw_fd()).unwrap();
        let settings = keepalive(&copy).unwrap();
        assert!(settings.enabled);
        assert_eq!(settings.idle, Duration::from_secs(77));
        assert_eq!(cookie(&copy).unwrap(), cookie(&client.into()).unwrap());
    }

    #[test]
    fn more_than_a_socket_can_be_given_is_the_most() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let [idle, interval] = [43_200, 40_000].map(Duration::from_secs);
        set_keepalive(&socket, &Keepalive { enabled: true, idle, interval, probes: 200 }).unwrap();
        let most = Keepalive { enabled: true, idle: MOST, interval: MOST, probes: MOST_PROBES };
        assert_eq!(keepalive(&socket).unwrap(), most);
    }

    #[test]
    fn nobodys_socket_is_an_error_that_names_it() {
        let error = borrow(u32::MAX, 3).unwrap_err().to_string();
        assert!(error.contains("process 4294967295"), "{error}");
    }
}
