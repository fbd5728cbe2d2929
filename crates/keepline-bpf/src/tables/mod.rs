//! The kernel's own tables of TCP sockets and tracked connections, read in one walk for all
//! namespaces at once: for machines with so many sessions that netlink takes a second to tell them.
//!
//! Loaded for one look and gone with it: nothing is attached, pinned or changed. What this kernel
//! cannot do is an error, and netlink is the way then. What was read is a moment's view of moving
//! tables, as a dump is: whoever accuses a session looks a second time.
//!
//! Needs kernel 5.17 (`bpf_loop`), for connections 5.18 (`bpf_skb_ct_lookup`); memory may not be
//! locked down (`lockdown=confidentiality`).

mod locate;
mod record;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ProgramInput, ProgramMut};

pub use locate::Connections;
pub use record::{EntrySeen, KeepaliveSeen, SocketSeen};

use crate::{
    Error,
    facts::ticks_per_second,
    hooks,
    object::{self, Elf, Programs},
};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/tables.bpf.o")));

const SOCKETS: &str = "keepline_socks";
const ENTRIES: &str = "keepline_conns";
const PEEK: &str = "keepline_peek";
const FIND: &str = "keepline_find";
const BATCHES: &str = "keepline_tables";
const PROBE: &str = "keepline_probe";

/// `SLOTS`: as many threads may walk at once.
pub const SLOTS: u32 = 16;
/// `ROOM`: bytes of records in a batch.
const ROOM: usize = 256 << 10;
/// The numbers before the records of a `struct batch`.
const HEAD: usize = 5 * 8;

/// The loaded programs.
#[derive(Debug)]
pub struct Tables {
    object: Object,
    batches: MapHandle,
    ticks_per_second: u32,
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
    tables: &'a Tables,
    slot: u32,
    batch: Vec<u8>,
}

/// `struct question`.
#[derive(Debug, Clone, Copy, Default)]
struct Question {
    bucket: u64,
    last: u64,
    base: u64,
    inodes: bool,
}

impl Tables {
    /// Loads the programs.
    ///
    /// # Errors
    /// Missing rights, or a kernel that cannot.
    pub fn load() -> Result<Self, Error> {
        let prepare = |_: &mut libbpf_rs::OpenObject| Ok(());
        let programs = Programs { name: "tables", elf: &ELF.0, prepare: &prepare };
        let object = programs.load(&|_| true)?;
        let batches = object::map_of(&object, BATCHES)?;
        Ok(Self { object, batches, ticks_per_second: ticks_per_second() })
    }

    /// One thread's part of walking; `number` is its own, below [`SLOTS`].
    ///
    /// # Panics
    /// Where `number` is too large.
    #[must_use]
    pub fn walker(&self, number: u32) -> Walker<'_> {
        assert!(number < SLOTS, "the map has no slot {number}");
        Walker { tables: self, slot: number, batch: vec![0; HEAD + ROOM] }
    }

    fn program(&self, name: &'static str) -> Result<ProgramMut<'_>, Error> {
        hooks::program(&self.object, name)
            .ok_or_else(|| Error::Invalid(format!("the object has no program {name}")))
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
        let ticks = self.tables.ticks_per_second;
        let question = Question { bucket: first.into(), last: last.into(), base: 0, inodes };
        self.walk::<{ record::SOCKET }>(SOCKETS, question, |bytes| {
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
        let ticks = self.tables.ticks_per_second;
        let last = u64::from(last).min(connections.buckets.saturating_sub(1));
        let question =
            Question { bucket: first.into(), last, base: connections.base, inodes: false };
        self.walk::<{ record::ENTRY }>(ENTRIES, question, |bytes| {
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
        self.ask(&self.tables.program(SOCKETS)?, SOCKETS, question)?;
        let [.., last] = self.head();
        Ok(u32::try_from(last).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn walk<const RECORD: usize>(
        &mut self,
        program: &'static str,
        mut question: Question,
        mut tell: impl FnMut(&[u8; RECORD]),
    ) -> Result<Walked, Error> {
        let program_name = program;
        let program = self.tables.program(program)?;
        let mut walked = Walked::default();
        loop {
            self.ask(&program, program_name, question)?;
            let [bucket, used, seen, torn, last] = self.head();
            let used = usize::try_from(used).unwrap_or(usize::MAX).min(ROOM);
            let (records, _) = self.batch[HEAD..HEAD + used].as_chunks::<RECORD>();
            records.iter().for_each(&mut tell);
            walked += Walked { seen, torn };
            if bucket > last {
                return Ok(walked);
            }
            // A bucket that a whole batch has no room for, or memory that cannot be read.
            if bucket <= question.bucket {
                return Err(Error::Invalid(format!("{program_name} stopped at bucket {bucket}")));
            }
            question.bucket = bucket;
        }
    }

    /// Runs a program and takes its batch.
    fn ask(
        &mut self,
        program: &ProgramMut<'_>,
        name: &'static str,
        question: Question,
    ) -> Result<(), Error> {
        let Question { bucket, last, base, inodes } = question;
        let mut context =
            [u64::from(self.slot), bucket, last, base, u64::from(inodes), 0].map(u64::to_ne_bytes);
        let input = ProgramInput {
            context_in: Some(context.as_flattened_mut()),
            ..ProgramInput::default()
        };
        let said = program.test_run(input).map_err(|source| Error::bpf("run", name, source))?;
        if said.return_value != 1 {
            return Err(Error::Invalid(format!("{name} found no table")));
        }
        let there = self
            .tables
            .batches
            .lookup_into(&self.slot.to_ne_bytes(), &mut self.batch, MapFlags::ANY)
            .map_err(|source| Error::bpf("read the records of", name, source))?;
        there.then_some(()).ok_or_else(|| Error::Invalid(format!("{name} left no records")))
    }

    /// The numbers before the records.
    fn head(&self) -> [u64; 5] {
        let (numbers, _) = self.batch[..HEAD].as_chunks::<8>();
        std::array::from_fn(|at| u64::from_ne_bytes(numbers[at]))
    }
}
