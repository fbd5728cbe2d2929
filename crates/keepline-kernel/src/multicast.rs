//! Datagrams to a multicast group that never leave this machine.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
};

use rustix::net::{netdevice, sockopt};

use crate::Error;

/// A socket that sends to one group, to listeners of the current network namespace only.
#[derive(Debug)]
pub struct Sender {
    socket: UdpSocket,
    group: SocketAddrV4,
}

impl Sender {
    /// For listeners on `interface`. With a TTL of 0 the kernel loops datagrams back and sends none
    /// on (`ip_mc_output()`, `net/ipv4/ip_output.c`).
    ///
    /// # Errors
    /// When there is no such interface, or file descriptors are used up.
    pub fn open(interface: &str, group: Ipv4Addr, port: u16) -> Result<Self, Error> {
        let call = |source: io::Error| {
            Error::call("open a socket to", format!("{group} on {interface}"), source)
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(call)?;
        let index = netdevice::name_to_index(&socket, interface).map_err(|it| call(it.into()))?;
        let set = sockopt::set_ip_multicast_if_with_ifindex(
            &socket,
            &Ipv4Addr::UNSPECIFIED,
            &Ipv4Addr::UNSPECIFIED,
            index,
        );
        set.map_err(|it| call(it.into()))?;
        socket.set_multicast_ttl_v4(0).map_err(call)?;
        socket.set_multicast_loop_v4(true).map_err(call)?;
        Ok(Self { socket, group: SocketAddrV4::new(group, port) })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// When it does not fit the interface, or no buffer is left.
    pub fn send(&self, datagram: &[u8]) -> Result<(), Error> {
        let sent = self.socket.send_to(datagram, self.group);
        sent.map(drop).map_err(|source| Error::call("send to", self.group.to_string(), source))
    }
}
