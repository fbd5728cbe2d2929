//! The folder under `/run` where Keepline keeps what it did to this machine: a lock so that two do
//! not clash, the journal, what is being held, and where sessions went. Like the kernel's settings
//! that it is about, it does not outlive a boot.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use keepline_core::{
    plan::{
        self, Action, Change, Memory, Row,
        journal::{By, Record, Standing, squashed},
    },
    snapshot::{Scope, Snapshot},
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::journal::{self, Journal};

/// The folder, unless [`VARIABLE`] names another.
pub const FOLDER: &str = "/run/keepline";
/// Names an environment variable: another folder, for tests.
pub const VARIABLE: &str = "KEEPLINE_RUN";

/// The journal's file in it.
const JOURNAL: &str = "journal";
/// So long another Keepline is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum RunError {
    /// A file could not be used.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another Keepline is at work.
    #[error("another Keepline (process {pid}) is changing this machine: try again when it is done")]
    Busy {
        /// Its process, as it wrote it down.
        pid: String,
    },
    /// Another guard runs.
    #[error("another guard (process {pid}) runs on this machine: one is enough")]
    Guarded {
        /// Its process, as it wrote it down.
        pid: String,
    },
    /// A line of the journal means nothing.
    #[error("{}, line {line}: {source}", path.display())]
    Malformed {
        /// The journal.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The folder's path.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(FOLDER), PathBuf::from)
}

pub(crate) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::File { operation, path, source }
}

/// The right to change this machine: one Keepline at a time.
#[derive(Debug)]
pub struct Exclusive {
    folder: PathBuf,
    journal: Journal,
    guard: bool,
    // Held for as long as this lives; the kernel lets go of it when the process ends.
    _lock: File,
}

impl Exclusive {
    /// Waits a moment for another Keepline, then opens the journal.
    ///
    /// # Errors
    /// When another goes on for longer, or the folder cannot be written: nothing is changed then.
    pub fn acquire() -> Result<Self, RunError> {
        let folder = folder();
        make(&folder)?;
        let lock = lock(&folder.join("lock"), PATIENCE)?;
        let journal = Journal::open(folder.join(JOURNAL))?;
        Ok(Self { folder, journal, guard: false, _lock: lock })
    }

    /// The same for the guard: what it changes is told apart from what people do.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub fn for_guard() -> Result<Self, RunError> {
        Ok(Self { guard: true, ..Self::acquire()? })
    }

    /// The lasting changes that stand.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        plan::journal::standing(self.journal.records())
    }

    /// Begins a plan; its number.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(&mut self, action: Action) -> Result<u64, RunError> {
        let id = plan::journal::next_id(self.journal.records());
        let by = By { guard: self.guard, ..me() };
        self.journal.write(Record::Begin { id, at: jiff::Timestamp::now(), action, by })?;
        Ok(id)
    }

    /// Writes down that a change will be made now.
    pub(crate) fn intend(&mut self, id: u64, step: usize, change: &Change) -> Result<(), RunError> {
        self.journal.write(Record::Change { id, step, change: change.clone() })
    }

    /// Writes down what came of it.
    pub(crate) fn done(
        &mut self,
        id: u64,
        step: usize,
        error: Option<String>,
    ) -> Result<(), RunError> {
        self.journal.write(Record::Done { id, step, error })
    }

    /// Writes down that it is undone.
    pub(crate) fn undone(&mut self, id: u64, step: usize) -> Result<(), RunError> {
        self.journal.write(Record::Undone { id, step, at: jiff::Timestamp::now() })
    }

    /// Writes down that a change is nobody's any more, as it was set otherwise since.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn give_up(&mut self, id: u64, step: usize) -> Result<(), RunError> {
        self.undone(id, step)
    }

    /// Keeps where sessions go, for a later `heal`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&self, snapshot: &Snapshot) -> Result<(), RunError> {
        self.remember_rows(plan::rows(snapshot))
    }

    /// The same of rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember_rows(&self, rows: impl Iterator<Item = Row>) -> Result<(), RunError> {
        /// Written anew no more often than this: a hundred thousand sessions are some 20 MB.
        const FRESH: Duration = Duration::from_secs(30);
        let path = self.folder.join("sessions");
        let age = fs::metadata(&path).and_then(|it| it.modified()).ok();
        if age.and_then(|it| it.elapsed().ok()).is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        replace(&path, &rows.collect::<Vec<Row>>())
    }
}

/// Keeps others from changing this machine for as long as it lives: for a look only, since nothing is
/// written. None where another Keepline is at it, or where that cannot be told.
pub(crate) fn alone() -> Option<Option<File>> {
    match File::open(folder().join("lock")) {
        Ok(file) => {
            flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
            Some(Some(file))
        }
        // Nobody has ever been, or somebody has tidied up: then there is nobody to wait for.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
        Err(_) => None,
    }
}

/// The right to be the only guard of this machine, for as long as it lives.
///
/// # Errors
/// When there is one, or the folder cannot be written.
pub fn only_guard() -> Result<File, RunError> {
    let folder = folder();
    make(&folder)?;
    lock(&folder.join("guard"), Duration::ZERO).map_err(|error| match error {
        RunError::Busy { pid } => RunError::Guarded { pid },
        other => other,
    })
}

fn make(folder: &Path) -> Result<(), RunError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make", folder))
}

fn lock(path: &Path, patience: Duration) -> Result<File, RunError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open", path))?;
    let deadline = Instant::now() + patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
                return Err(RunError::Busy { pid });
            }
            Err(error) => return Err(failed("lock", path)(error.into())),
        }
    }
    // For those who wait. That it could not be written is no reason to stop.
    let _ = file.set_len(0);
    let _ = (&file).write_all(format!("{}\n", std::process::id()).as_bytes());
    Ok(file)
}

fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

/// What stands, for those who only want to know. Empty where nothing was ever done.
///
/// # Errors
/// When the journal is there and cannot be read. What is being written meanwhile is not there yet.
pub fn standing() -> Result<Vec<Standing>, RunError> {
    Ok(squashed(plan::journal::standing(&journal::read(&folder().join(JOURNAL))?)))
}

fn command_line() -> String {
    let words: Vec<_> = std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

fn me() -> By {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    By {
        pid: std::process::id(),
        user: name("SUDO_USER")
            .or_else(|| name("USER"))
            .unwrap_or_else(|| user(rustix::process::getuid().as_raw())),
        command: command_line(),
        guard: false,
    }
}

/// Writes a file beside, and gives it the name when it is whole.
fn replace(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    write_beside(path, |out| Ok(serde_json::to_writer(out, value)?))
}

pub(crate) fn write_beside(
    path: &Path,
    fill: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> Result<(), RunError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let mut out = io::BufWriter::new(file);
        fill(&mut out)?;
        out.flush()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed("write", path)(error)
    })
}

/// Where sessions went in earlier looks.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn memory() -> Result<Memory, RunError> {
    let path = folder().join("sessions");
    let mut memory = Memory::default();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(memory),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let rows: Vec<Row> = serde_json::from_reader(BufReader::new(file))
        .map_err(|source| RunError::Malformed { path, line: 0, source })?;
    rows.into_iter().for_each(|row| memory.add(row, 0));
    Ok(memory)
}

/// What one process holds, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which sessions.
    pub scope: Scope,
    /// Since when.
    pub since: jiff::Timestamp,
    /// By whom.
    pub by: By,
}

/// Announces that sessions are being held, for as long as it lives.
#[derive(Debug)]
pub struct Holding {
    path: PathBuf,
    // The lock tells the living from what a killed process left.
    _file: File,
}

impl Holding {
    /// Announces it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn announce(scope: Scope) -> Result<Self, RunError> {
        let folder = folder().join("holds");
        make(&folder)?;
        let path = folder.join(std::process::id().to_string());
        let hold = Hold { scope, since: jiff::Timestamp::now(), by: me() };
        replace(&path, &hold)?;
        let file = File::open(&path).map_err(failed("open", &path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(Self { path, _file: file })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // Without its lock it counts for nothing anyway.
        let _ = fs::remove_file(&self.path);
    }
}

/// What is being held now.
#[must_use]
pub fn holds() -> Vec<Hold> {
    let Ok(entries) = fs::read_dir(folder().join("holds")) else { return Vec::new() };
    let mut holds: Vec<Hold> = entries
        .flatten()
        .filter_map(|entry| {
            let file = File::open(entry.path()).ok()?;
            // Whoever gets the lock knows that its owner is gone.
            let alive = matches!(
                flock(&file, FlockOperation::NonBlockingLockShared),
                Err(rustix::io::Errno::WOULDBLOCK)
            );
            alive.then(|| serde_json::from_reader(BufReader::new(file)).ok()).flatten()
        })
        .collect();
    holds.sort_by_key(|hold| hold.since);
    holds
}
