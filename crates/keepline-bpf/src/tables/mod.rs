//! The kernel's own tables of TCP sockets, of tracked connections and of IPVS, each read in one walk for
//! all namespaces at once: for machines with so many sessions that netlink takes a second to tell
//! them, and the listing of IPVS minutes.
//!
//! Loaded for one look and gone with it: nothing is attached, pinned or changed. What this kernel
//! cannot do is an error, and netlink is the way then. What was read is a moment's view of moving
//! tables, as a dump is: whoever accuses a session looks a second time.
//!
//! Needs kernel 5.17 (`bpf_loop`), for connections 5.18 (`bpf_skb_ct_lookup`); memory may not be
//! locked down (`lockdown=confidentiality`).

mod ipvs;
mod locate;
mod reader;
mod record;

pub use ipvs::IpvsTable;
pub use locate::Connections;
pub use record::{ConnSeen, EntrySeen, KeepaliveSeen, SocketSeen};

use reader::{Loaded, Question, Reader};

use crate::{Error, object::Elf};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/tables.bpf.o")));

const SOCKETS: &str = "keepline_socks";
const ENTRIES: &str = "keepline_conns";
const PEEK: &str = "keepline_peek";
const FIND: &str = "keepline_find";
const PROBE: &str = "keepline_probe";

/// `SLOTS`: as many threads may walk at once.
pub const SLOTS: u32 = 16;

/// The loaded programs.
#[derive(Debug)]
pub struct Tables {
    loaded: Loaded,
}

/// What a walk came by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Objects: sockets in any state, tracked connections of any protocol.
    pub seen: u64,
    /// Buckets that changed under every try: something may be missing or double there.
    pub torn: u64,
}

impl std::ops::AddAssign for Walked {
    fn add_assign(&mut self, more: Self) {
        self.seen += more.seen;
        self.torn += more.torn;
    }
}

/// One thread's means to walk: a slot of the map and a buffer. Keep it from walk to walk.
#[derive(Debug)]
pub struct Walker<'a> {
    reader: Reader<'a>,
}

impl Tables {
    /// Loads the programs.
    ///
    /// # Errors
    /// Missing rights, or a kernel that cannot.
    pub fn load() -> Result<Self, Error> {
        Loaded::load("tables", &ELF.0).map(|loaded| Self { loaded })
    }

    /// One thread's part of walking; `number` is its own, below [`SLOTS`].
    ///
    /// # Panics
    /// Where `number` is too large.
    #[must_use]
    pub fn walker(&self, number: u32) -> Walker<'_> {
        Walker { reader: self.loaded.reader(number) }
    }
}

impl Walker<'_> {
    /// Tells every established and half-closed TCP socket in the buckets from `first` to `last` of
    /// the table that the calling thread's namespace shares with others; the table has fewer
    /// buckets than `u32` numbers. `inodes`: with their inodes, which cost time.
    ///
    /// Not in it are the sockets of namespaces with a table of their own
    /// (`net.ipv4.tcp_child_ehash_entries`).
    ///
    /// # Errors
    /// When the walk could not go on; what was told before is void.
    pub fn sockets(
        &mut self,
        (first, last): (u32, u32),
        inodes: bool,
        mut tell: impl FnMut(SocketSeen),
    ) -> Result<Walked, Error> {
        let ticks = self.reader.ticks_per_second();
        let question = Question { bucket: first.into(), last: last.into(), base: 0, inodes };
        self.reader.walk::<{ record::SOCKET }>(SOCKETS, question, |bytes| {
            if let Some(socket) = SocketSeen::parse(bytes, ticks) {
                tell(socket);
            }
        })
    }

    /// Tells every living TCP connection that conntrack knows in the buckets from `first` to `last`
    /// of its table.
    ///
    /// # Errors
    /// As of [`Walker::sockets`].
    pub fn entries(
        &mut self,
        connections: &Connections,
        (first, last): (u32, u32),
        mut tell: impl FnMut(EntrySeen),
    ) -> Result<Walked, Error> {
        let ticks = self.reader.ticks_per_second();
        let last = u64::from(last).min(connections.buckets.saturating_sub(1));
        let question =
            Question { bucket: first.into(), last, base: connections.base, inodes: false };
        self.reader.walk::<{ record::ENTRY }>(ENTRIES, question, |bytes| {
            if let Some(entry) = EntrySeen::parse(bytes, ticks) {
                tell(entry);
            }
        })
    }

    /// How many buckets the table of sockets has.
    ///
    /// # Errors
    /// When there is none that the calling thread's namespace shares with others.
    pub fn socket_buckets(&mut self) -> Result<u32, Error> {
        let question = Question { bucket: u64::MAX, last: u64::MAX, ..Question::default() };
        let last = self.reader.last_bucket(SOCKETS, question)?;
        Ok(u32::try_from(last).unwrap_or(u32::MAX).saturating_add(1))
    }
}
