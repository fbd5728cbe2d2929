//! Where the table of connections is. Its name (`nf_conntrack_hash`) is not to be had on every
//! kernel, but a connection in it is: the kernel looks one up, and its chain leads to the bucket.

use std::net::SocketAddrV4;

use libbpf_rs::{MapCore, MapFlags, MapHandle, ProgramInput};

use super::{FIND, PEEK, PROBE, Tables};
use crate::{Error, object};

/// The table of connections, of all namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Address of its first bucket.
    pub(super) base: u64,
    /// How many it has.
    pub buckets: u64,
}

/// More objects are in no bucket of a table that is any good.
const LONGEST: usize = 64;
/// So many buckets, spread over the table, must prove that it is one.
const PROOFS: u64 = 16;

/// Of `struct probe` the question and the padding, and all of it.
const QUESTION: usize = 16;
const SIZE: usize = 24;

impl Tables {
    /// Finds the table by a TCP connection from and to `known` that conntrack has in the calling
    /// thread's namespace; `buckets` is `net.netfilter.nf_conntrack_buckets`. None where there is no
    /// such connection any more, or what was found is no such table.
    ///
    /// # Errors
    /// When a program could not run.
    pub fn connections(
        &self,
        known: (SocketAddrV4, SocketAddrV4),
        buckets: u64,
    ) -> Result<Option<Connections>, Error> {
        let locator = Locator { tables: self, map: object::map_of(&self.loaded.object, PROBE)? };
        locator.connections(known, buckets)
    }
}

struct Locator<'a> {
    tables: &'a Tables,
    map: MapHandle,
}

impl Locator<'_> {
    fn connections(
        &self,
        known: (SocketAddrV4, SocketAddrV4),
        buckets: u64,
    ) -> Result<Option<Connections>, Error> {
        let Some(mut node) = self.find(known)? else { return Ok(None) };
        // Along the chain to its end, which bears the number of the bucket.
        let Some(bucket) = self.end_of_chain(node)? else { return Ok(None) };
        // Back to its start: the first object's `pprev` is the bucket, in another's that object's
        // `next`. Which is which is told by what the table looks like from there.
        for _ in 0..LONGEST {
            let Some(previous) = self.peek(node.wrapping_add(8))? else { return Ok(None) };
            let base = previous.wrapping_sub(bucket.wrapping_mul(8));
            let connections = Connections { base, buckets };
            if self.is_table(&connections)? {
                return Ok(Some(connections));
            }
            node = previous;
        }
        Ok(None)
    }

    /// Address of the node by which a connection is in the table.
    fn find(
        &self,
        (source, destination): (SocketAddrV4, SocketAddrV4),
    ) -> Result<Option<u64>, Error> {
        // `struct bpf_sock_tuple`
        let mut probe = Vec::with_capacity(SIZE);
        probe.extend(source.ip().octets());
        probe.extend(destination.ip().octets());
        probe.extend(source.port().to_be_bytes());
        probe.extend(destination.port().to_be_bytes());
        probe.resize(SIZE, 0);
        let call = |operation| move |source| Error::bpf(operation, FIND, source);
        self.map.update(&[0; 4], &probe, MapFlags::ANY).map_err(call("tell"))?;
        // The least that passes for a packet.
        let packet = [0; 64];
        let input = ProgramInput { data_in: Some(&packet), ..ProgramInput::default() };
        let said = self.tables.loaded.program(FIND)?.test_run(input).map_err(call("run"))?;
        if said.return_value == 1 { self.word().map(Some) } else { Ok(None) }
    }

    fn word(&self) -> Result<u64, Error> {
        let mut probe = [0; SIZE];
        self.map
            .lookup_into(&[0; 4], &mut probe, MapFlags::ANY)
            .map_err(|source| Error::bpf("read the answer of", PEEK, source))?;
        let word = probe[QUESTION..].try_into().expect("the rest are eight bytes");
        Ok(u64::from_ne_bytes(word))
    }

    /// Eight bytes of kernel memory; None where there is none.
    fn peek(&self, address: u64) -> Result<Option<u64>, Error> {
        let mut context = [0, 0, 0, address, 0, 0].map(u64::to_ne_bytes);
        let input = ProgramInput {
            context_in: Some(context.as_flattened_mut()),
            ..ProgramInput::default()
        };
        let said = self.tables.loaded.program(PEEK)?.test_run(input);
        let said = said.map_err(|source| Error::bpf("run", PEEK, source))?;
        if said.return_value == 1 { self.word().map(Some) } else { Ok(None) }
    }

    /// The number at the end of a chain; None where it has none.
    fn end_of_chain(&self, mut node: u64) -> Result<Option<u64>, Error> {
        for _ in 0..LONGEST {
            if node & 1 == 1 {
                return Ok(Some(node >> 1));
            }
            match self.peek(node)? {
                Some(next) => node = next,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Whether buckets all over the table lead to their own numbers.
    fn is_table(&self, connections: &Connections) -> Result<bool, Error> {
        let Connections { base, buckets } = *connections;
        if buckets == 0 {
            return Ok(false);
        }
        for proof in 0..=PROOFS {
            let bucket = (buckets - 1) * proof / PROOFS;
            let Some(first) = self.peek(base.wrapping_add(bucket * 8))? else { return Ok(false) };
            if self.end_of_chain(first)? != Some(bucket) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
