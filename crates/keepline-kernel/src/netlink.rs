//! A netlink socket: requests out, whole answers in.
//!
//! The kernel works on a request while it is sent (`netlink_unicast_kernel()`) and goes on with a
//! dump while it is read (`netlink_recvmsg()`, both `net/netlink/af_netlink.c`): when a reader
//! comes, an answer is there or never will be. So no read waits. An answer that never comes is a
//! fact: what fails with `EINTR` is not acknowledged (`netlink_rcv_skb()`), as when the sync daemon
//! of IPVS is stopped before its thread ran (`kthread_stop()`, `kernel/kthread.c`).
//!
//! The socket belongs to the network namespace in which it was opened, wherever its owner goes.

use std::{io, os::fd::OwnedFd};

use keepline_wire::nl::{self, Message};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::{Error, sockopt};

/// Kernel subsystem behind a netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Sockets (`sock_diag`).
    SockDiag,
    /// Connection tracking and nftables.
    Netfilter,
    /// Generic netlink, for IPVS.
    Generic,
    /// Addresses and links.
    Route,
}

/// What a dump's reader is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// The dump begins; after an interruption it begins again, and what came before is void.
    Start,
    /// One message of it.
    Message(Message<'a>),
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing changed under it.
    Consistent,
    /// The tables kept changing: objects may be missing or double.
    Interrupted,
}

/// A dump that is interrupted this often is taken as it is: the tables of a busy machine
/// never stand still.
const TRIES: usize = 3;

/// Dumps come in pieces of up to 32 KiB, however large the reader's buffer is (`netlink_dump`,
/// `net/netlink/af_netlink.c`); a larger buffer only costs being cleared.
const BUFFER: usize = 64 * 1024;

/// A netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    name: &'static str,
}

impl Socket {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// When the kernel has no such protocol, or file descriptors are used up.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let (number, name) = match protocol {
            Protocol::SockDiag => (Some(netlink::SOCK_DIAG), "sock_diag"),
            Protocol::Netfilter => (Some(netlink::NETFILTER), "netfilter netlink"),
            Protocol::Generic => (Some(netlink::GENERIC), "generic netlink"),
            // NETLINK_ROUTE is protocol 0.
            Protocol::Route => (None, "route netlink"),
        };
        let fd =
            net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number)
                .map_err(|source| Error::call("open", name, source))?;
        // Texts with errors, and errors without the whole request. Old kernels have neither.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let _ = sockopt::set(&fd, libc::SOL_NETLINK, option, 1);
        }
        // A dump of a large table must not meet a full buffer. Without rights the default stays.
        let _ = sockopt::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 4 << 20);
        net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))
            .map_err(|source| Error::call("bind", name, source))?;
        Ok(Self { fd, name })
    }

    /// Sends a dump request and hands every message of the answer to `reader`.
    ///
    /// # Errors
    /// When the kernel refuses, an answer is malformed, or `reader` says so.
    pub fn dump(
        &self,
        operation: &'static str,
        request: &[u8],
        mut reader: impl FnMut(Event<'_>) -> Result<(), nl::WireError>,
    ) -> Result<Consistency, Error> {
        let mut buffer = vec![0; BUFFER];
        for attempt in 1..=TRIES {
            reader(Event::Start).map_err(|source| Error::Answer { operation, source })?;
            self.send(operation, request)?;
            match self.read_dump(operation, &mut buffer, &mut reader)? {
                Consistency::Interrupted if attempt < TRIES => {}
                consistency => return Ok(consistency),
            }
        }
        Ok(Consistency::Interrupted)
    }

    fn read_dump(
        &self,
        operation: &'static str,
        buffer: &mut [u8],
        reader: &mut impl FnMut(Event<'_>) -> Result<(), nl::WireError>,
    ) -> Result<Consistency, Error> {
        let answer = |source| Error::Answer { operation, source };
        let mut consistency = Consistency::Consistent;
        loop {
            let datagram = match self.receive(operation, buffer) {
                // Messages were lost: what there is of them is as good as an interrupted dump.
                Err(error) if error.errno() == Some(libc::ENOBUFS) => {
                    consistency = Consistency::Interrupted;
                    continue;
                }
                other => other?,
            };
            for message in nl::messages(datagram) {
                let message = message.map_err(answer)?;
                if message.interrupted() {
                    consistency = Consistency::Interrupted;
                }
                match message.kind {
                    nl::NLMSG_NOOP => {}
                    nl::NLMSG_OVERRUN => consistency = Consistency::Interrupted,
                    nl::NLMSG_DONE | nl::NLMSG_ERROR => {
                        let status = message.status().map_err(answer)?.unwrap_or_default();
                        return accept(operation, status).map(|()| consistency);
                    }
                    _ => reader(Event::Message(message)).map_err(answer)?,
                }
            }
        }
    }

    /// Sends a request that has one answer and reads that: what `parse` makes of its payload,
    /// or None for an acknowledgement.
    ///
    /// # Errors
    /// When the kernel refuses, or the answer is malformed.
    pub fn request<T>(
        &self,
        operation: &'static str,
        request: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<T, nl::WireError>,
    ) -> Result<Option<T>, Error> {
        let answer = |source| Error::Answer { operation, source };
        let sequence = nl::messages(request).next().and_then(Result::ok).map(|sent| sent.sequence);
        let mut buffer = vec![0; 32 * 1024];
        self.send(operation, request)?;
        loop {
            for message in nl::messages(self.receive(operation, &mut buffer)?) {
                let message = message.map_err(answer)?;
                // What is left over of an earlier request that failed half-way.
                if Some(message.sequence) != sequence {
                    continue;
                }
                if let Some(status) = message.status().map_err(answer)? {
                    return accept(operation, status).map(|()| None);
                }
                return parse(message.payload).map(Some).map_err(answer);
            }
        }
    }

    /// Sends requests that are answered by an acknowledgement each, many at a time. The result has
    /// what the kernel said to each, in their order: None where it was carried out.
    ///
    /// Each request must have a sequence number of its own and ask for an acknowledgement.
    ///
    /// # Errors
    /// When the socket fails, or an answer is malformed.
    pub fn batch(
        &self,
        operation: &'static str,
        requests: &[Vec<u8>],
    ) -> Result<Vec<Option<Error>>, Error> {
        /// So many are on their way at once: their acknowledgements must fit the receive buffer.
        const AT_ONCE: usize = 128;
        let answer = |source| Error::Answer { operation, source };
        let mut results: Vec<Option<Error>> = Vec::with_capacity(requests.len());
        let mut buffer = vec![0; BUFFER];
        for some in requests.chunks(AT_ONCE) {
            let mut places = rustc_hash::FxHashMap::default();
            for request in some {
                let sent = nl::messages(request).next().and_then(Result::ok);
                places.insert(sent.map_or(0, |sent| sent.sequence), results.len());
                results.push(None);
            }
            self.send(operation, &some.concat())?;
            while !places.is_empty() {
                for message in nl::messages(self.receive(operation, &mut buffer)?) {
                    let message = message.map_err(answer)?;
                    let Some(status) = message.status().map_err(answer)? else { continue };
                    if let Some(at) = places.remove(&message.sequence) {
                        results[at] = accept(operation, status).err();
                    }
                }
            }
        }
        Ok(results)
    }

    fn send(&self, operation: &'static str, request: &[u8]) -> Result<(), Error> {
        rustix::io::retry_on_intr(|| net::send(&self.fd, request, SendFlags::empty()))
            .map(drop)
            .map_err(|source| Error::call(operation, self.name, source))
    }

    fn receive<'a>(
        &self,
        operation: &'static str,
        buffer: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let (_, length) = rustix::io::retry_on_intr(|| net::recv(&self.fd, &mut *buffer, flags))
            .map_err(|source| match source {
                rustix::io::Errno::AGAIN => Error::Silent { operation },
                source => Error::call(operation, self.name, source),
            })?;
        let have = buffer.len();
        buffer.get(..length).ok_or(Error::Answer {
            operation,
            source: nl::WireError::Short { what: "receive buffer", need: length, have },
        })
    }
}

fn accept(operation: &'static str, status: nl::Status) -> Result<(), Error> {
    if status.errno == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(status.errno);
    Err(Error::Refused { operation, source, text: status.text })
}
