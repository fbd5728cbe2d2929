//! The journal's file: a record a line.
//!
//! A line may be there in part: a write across a page border stops there when the file system is full
//! or the process is killed (`generic_perform_write()`, `mm/filemap.c`). What has no end of line was
//! never written, and whoever writes next cuts it off.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use keepline_core::plan::{
    self,
    journal::{Record, Standing, squashed},
};

use crate::run::{RunError, failed, write_beside};

/// A journal of more records than this is made anew from what stands, and one of more bytes: what was
/// done and undone long ago need not be kept for ever.
const LONG: usize = 4_000;
const LARGE: u64 = 4 << 20;

/// The journal, open for writing: whoever has it holds the lock.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Of the lines that are there whole.
    length: u64,
    records: Vec<Record>,
}

impl Journal {
    /// Reads it, and cuts off what was written in part.
    pub(crate) fn open(path: PathBuf) -> Result<Self, RunError> {
        let Whole { records, length } = Whole::read(&path)?;
        let kept = compacted(&path, &records, length)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let (records, length) = match kept {
            None => (records, length),
            Some(kept) => (kept, file.metadata().map_err(failed("look at", &path))?.len()),
        };
        file.set_len(length).map_err(failed("cut", &path))?;
        Ok(Self { path, file, length, records })
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds a record, or leaves the journal as it was.
    pub(crate) fn write(&mut self, record: Record) -> Result<(), RunError> {
        let mut line = Vec::new();
        add_line(&mut line, &record, &self.path)?;
        // At its place, not at the end: whatever is there in part is written over.
        if let Err(error) = self.file.write_all_at(&line, self.length) {
            // Should this fail, too, the next one cuts it off.
            let _ = self.file.set_len(self.length);
            return Err(failed("write", &self.path)(error));
        }
        self.length += line.len() as u64;
        self.records.push(record);
        Ok(())
    }
}

fn add_line(lines: &mut Vec<u8>, record: &Record, path: &Path) -> Result<(), RunError> {
    serde_json::to_writer(&mut *lines, record).map_err(|source| RunError::Malformed {
        path: path.to_owned(),
        line: 0,
        source,
    })?;
    lines.push(b'\n');
    Ok(())
}

/// What the file tells, as far as its lines are there whole. Empty where there is none.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>, RunError> {
    Ok(Whole::read(path)?.records)
}

struct Whole {
    records: Vec<Record>,
    length: u64,
}

impl Whole {
    fn read(path: &Path) -> Result<Self, RunError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("read", path)(error)),
        };
        let mut whole = Self { records: Vec::new(), length: 0 };
        for (line, number) in bytes.split_inclusive(|byte| *byte == b'\n').zip(1..) {
            let Some(text) = line.strip_suffix(b"\n") else { break };
            if !text.is_empty() {
                let record = serde_json::from_slice(text).map_err(|source| {
                    RunError::Malformed { path: path.to_owned(), line: number, source }
                })?;
                whole.records.push(record);
            }
            whole.length += line.len() as u64;
        }
        Ok(whole)
    }
}

/// The same with less, if that is due. Whoever follows something that changes for months leaves one
/// record of it.
fn compacted(
    path: &Path,
    records: &[Record],
    length: u64,
) -> Result<Option<Vec<Record>>, RunError> {
    let standing = plan::journal::standing(records);
    let changes = standing.len();
    let standing = squashed(standing);
    if standing.len() == changes && records.len() <= LONG && length <= LARGE {
        return Ok(None);
    }
    let (mut kept, mut begun) = (Vec::new(), BTreeSet::new());
    for it in standing {
        let Standing { id, step, at, action, by, change, finished } = it;
        if begun.insert(id) {
            kept.push(Record::Begin { id, at, action, by });
        }
        kept.push(Record::Change { id, step, change });
        if finished {
            kept.push(Record::Done { id, step, error: None });
        }
    }
    if kept.len() == records.len() {
        return Ok(None);
    }
    let mut lines = Vec::new();
    for record in &kept {
        add_line(&mut lines, record, path)?;
    }
    // Where there is no room for that, it stays long.
    Ok(write_beside(path, |out| out.write_all(&lines)).is_ok().then_some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(step: usize) -> Record {
        Record::Done { id: 1, step, error: None }
    }

    /// A journal of one record, removed with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("keepline-journal-{name}-{}", std::process::id()));
            let _ = fs::remove_file(&path);
            Journal::open(path.clone()).unwrap().write(done(0)).unwrap();
            Self(path)
        }

        /// What a write leaves that was not brought to its end.
        fn tear(&self, tail: &[u8]) {
            OpenOptions::new().append(true).open(&self.0).unwrap().write_all(tail).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_line_that_was_written_in_part_is_ignored_and_cut_off() {
        let journal = Scratch::new("torn");
        let whole = serde_json::to_vec(&done(7)).unwrap();
        // The last is whole but for its end: what it announced was not begun.
        for (round, tail) in [&whole[..9], b"{\"by\":\"\xc3", &whole].into_iter().enumerate() {
            journal.tear(tail);
            let known: Vec<Record> = (0..=round).map(done).collect();
            assert_eq!(read(&journal.0).unwrap(), known);
            let mut open = Journal::open(journal.0.clone()).unwrap();
            assert_eq!(open.records(), known);
            open.write(done(round + 1)).unwrap();
            assert_eq!(read(&journal.0).unwrap(), open.records());
        }
    }

    #[test]
    fn a_line_that_is_whole_and_means_nothing_is_named() {
        let journal = Scratch::new("malformed");
        journal.tear(b"\n{\"record\":\"\xff\"}\n");
        let error = read(&journal.0).unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }
}
