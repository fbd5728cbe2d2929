//! What walks over tables share: programs that are run for one batch of records after the other.

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ProgramInput, ProgramMut};

use super::{SLOTS, Walked};
use crate::{
    Error,
    facts::ticks_per_second,
    hooks,
    object::{self, Programs},
};

const BATCHES: &str = "keepline_tables";
/// `ROOM`: bytes of records in a batch.
const ROOM: usize = 256 << 10;
/// The numbers before the records of a `struct batch`.
const HEAD: usize = 5 * 8;

/// Programs of one object file, with the map of their records.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) object: Object,
    batches: MapHandle,
    ticks_per_second: u32,
}

/// `struct question`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Question {
    pub(super) bucket: u64,
    pub(super) last: u64,
    pub(super) base: u64,
    pub(super) inodes: bool,
}

/// A slot of the map, for one thread, and a buffer.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    loaded: &'a Loaded,
    slot: u32,
    batch: Vec<u8>,
}

impl Loaded {
    pub(super) fn load(name: &'static str, elf: &'static [u8]) -> Result<Self, Error> {
        let prepare = |_: &mut libbpf_rs::OpenObject| Ok(());
        let object = Programs { name, elf, prepare: &prepare }.load(&|_| true)?;
        let batches = object::map_of(&object, BATCHES)?;
        Ok(Self { object, batches, ticks_per_second: ticks_per_second() })
    }

    pub(super) fn reader(&self, number: u32) -> Reader<'_> {
        assert!(number < SLOTS, "the map has no slot {number}");
        Reader { loaded: self, slot: number, batch: vec![0; HEAD + ROOM] }
    }

    pub(super) fn program(&self, name: &'static str) -> Result<ProgramMut<'_>, Error> {
        hooks::program(&self.object, name)
            .ok_or_else(|| Error::Invalid(format!("the object has no program {name}")))
    }
}

impl Reader<'_> {
    pub(super) fn ticks_per_second(&self) -> u32 {
        self.loaded.ticks_per_second
    }

    /// The last bucket of the program's table.
    pub(super) fn last_bucket(
        &mut self,
        program: &'static str,
        question: Question,
    ) -> Result<u64, Error> {
        self.ask(&self.loaded.program(program)?, program, question)?;
        let [.., last] = self.head();
        Ok(last)
    }

    /// Walks from the question's bucket to its last, and tells each record.
    pub(super) fn walk<const RECORD: usize>(
        &mut self,
        program: &'static str,
        mut question: Question,
        mut tell: impl FnMut(&[u8; RECORD]),
    ) -> Result<Walked, Error> {
        let program_name = program;
        let program = self.loaded.program(program)?;
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
            .loaded
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
