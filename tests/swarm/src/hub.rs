//! An Ethernet hub for the guests' network cards: what one sends, all others get.
//!
//! QEMU's own ways to join more than two machines need multicast (which drops frames under
//! load) or rights on the host. Its stream protocol is simple: each frame is preceded by
//! its length, four bytes, big endian (QEMU net/socket.c, `net_socket_receive`).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::Error;

/// The longest frame that QEMU passes on (include/net/net.h, `NET_BUFSIZE`, 4096 + 65536).
const LONGEST_FRAME: usize = 69_632;

/// A running hub. Its threads end when the guests hang up.
#[derive(Debug)]
pub(crate) struct Hub {
    port: u16,
}

type Ports = Arc<Mutex<Vec<(u8, TcpStream)>>>;

impl Hub {
    /// Listens on a free loopback port for `guests` machines.
    pub(crate) fn start(guests: u8) -> Result<Self, Error> {
        let listen = || -> io::Result<(TcpListener, u16)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        };
        let (listener, port) = listen().map_err(|source| Error::io("start the hub", source))?;
        let ports = Ports::default();
        std::thread::spawn(move || {
            for number in 0..guests {
                let Ok((stream, _)) = listener.accept() else { return };
                let (Ok(()), Ok(reader)) = (stream.set_nodelay(true), stream.try_clone()) else {
                    return;
                };
                lock(&ports).push((number, stream));
                let ports = Arc::clone(&ports);
                // An error means that a guest has hung up: its end of the cable is loose.
                std::thread::spawn(move || drop(carry(number, reader, &ports)));
            }
        });
        Ok(Self { port })
    }

    /// The loopback port that machines connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn carry(from: u8, mut reader: TcpStream, ports: &Ports) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        let mut header = [0; 4];
        reader.read_exact(&mut header)?;
        let length = u32::from_be_bytes(header) as usize;
        if length > LONGEST_FRAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        frame.clear();
        frame.extend_from_slice(&header);
        frame.resize(4 + length, 0);
        reader.read_exact(&mut frame[4..])?;
        // A guest that hung up must not stop the others.
        lock(ports).retain(|(to, stream)| *to == from || (&*stream).write_all(&frame).is_ok());
    }
}

fn lock(ports: &Ports) -> std::sync::MutexGuard<'_, Vec<(u8, TcpStream)>> {
    ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
    }

    #[test]
    fn a_frame_reaches_all_but_its_sender() {
        let hub = Hub::start(3).unwrap();
        let connect = || {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, hub.port())).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            stream
        };
        let mut guests = [connect(), connect(), connect()];
        // A guest is on the hub once it gets something: the first frames may find nobody.
        guests[2].set_nonblocking(true).unwrap();
        let mut byte = [0; 5];
        while guests[2].peek(&mut byte).is_err() {
            (&guests[0]).write_all(&frame(b"a")).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        guests[2].set_nonblocking(false).unwrap();

        (&guests[2]).write_all(&frame(b"from two")).unwrap();
        let mut got = [0; 12];
        guests[0].read_exact(&mut got).unwrap();
        assert_eq!(got[..], frame(b"from two"), "the first guest gets nothing of its own");
        loop {
            let mut header = [0; 4];
            guests[1].read_exact(&mut header).unwrap();
            let mut text = vec![0; u32::from_be_bytes(header) as usize];
            guests[1].read_exact(&mut text).unwrap();
            if text == b"from two" {
                break;
            }
            assert_eq!(text, b"a");
        }
    }
}
