//! Where a snapshot comes from, and which of its namespaces are meant.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::anyhow;
use keepline_core::Snapshot;
use keepline_core::report::text;
use keepline_core::snapshot::{CaptureError, Namespace};
use keepline_node::{Owners, Select};

use crate::fault::fault;

/// No capture is larger than this: 100,000 sessions take 80 MB (bytes).
const LARGEST: u64 = 1 << 30;
/// So many names are listed when one was not found.
const LISTED: usize = 12;

/// What `select` names on this machine, or in the capture file `from`. Processes are named for
/// so many sessions as `owners` says; a capture has them already.
///
/// # Errors
/// When the machine cannot be looked at, the file cannot be read, or a name is not there.
pub fn snapshot(from: Option<&Path>, select: &Select, owners: Owners) -> anyhow::Result<Snapshot> {
    match from {
        None => Ok(keepline_node::observe(select, owners)?),
        Some(file) => {
            let mut snapshot = read(file)?;
            within(&mut snapshot, select)?;
            Ok(snapshot)
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Snapshot> {
    if file.as_os_str() == "-" {
        return parse("stdin", io::stdin().lock());
    }
    let name = file.display().to_string();
    let opened = File::open(file).map_err(|error| {
        fault(format!("open {name}: {error}"), "`keepline capture FILE` makes one")
    })?;
    parse(&name, opened)
}

fn parse(name: &str, input: impl Read) -> anyhow::Result<Snapshot> {
    Snapshot::read(Limited { input, left: LARGEST }).map_err(|error| match error {
        CaptureError::Malformed(error) if error.is_io() => anyhow!("read {name}: {error}"),
        CaptureError::Malformed(ref json) if json.is_eof() => fault(
            format!("read {name}: {error}"),
            "it ends too early: was it written and copied completely?",
        ),
        CaptureError::Malformed(_) => {
            fault(format!("read {name}: {error}"), "`keepline capture FILE` makes one")
        }
        CaptureError::Schema { .. } => {
            fault(format!("read {name}: {error}"), "read it with the version that wrote it")
        }
    })
}

/// An input that fails where it gets larger than any capture is.
struct Limited<R> {
    input: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(format!("larger than {} MiB", LARGEST >> 20)))?;
        Ok(read)
    }
}

/// Marks the namespaces of a capture that `select` names, and only those, as selected.
fn within(snapshot: &mut Snapshot, select: &Select) -> anyhow::Result<()> {
    if *select == Select::default() {
        return Ok(());
    }
    let mut inodes = BTreeSet::new();
    let mut mark = |what: String, matches: &dyn Fn(&Namespace) -> bool| {
        let fitting = snapshot.namespaces.iter().filter(|namespace| matches(namespace));
        let fitting: Vec<u64> = fitting.map(|namespace| namespace.inode).collect();
        if fitting.is_empty() {
            return Err(not_there(&what, &snapshot.namespaces));
        }
        inodes.extend(fitting);
        Ok(())
    };
    for name in &select.netns {
        mark(format!("network namespace {name}"), &|namespace| is_named(namespace, name))?;
    }
    for pid in &select.pids {
        mark(format!("process {pid} with a session"), &|namespace| {
            namespace.processes.values().any(|process| process.pid == *pid)
        })?;
    }
    Ok(snapshot.select(select, &inodes)?)
}

fn is_named(namespace: &Namespace, name: &str) -> bool {
    let path = namespace.path.as_deref();
    namespace.name == name
        || path == Some(name)
        || path.is_some_and(|path| path.rsplit_once('/').is_some_and(|(_, file)| file == name))
}

fn not_there(what: &str, namespaces: &[Namespace]) -> anyhow::Error {
    let mut names: Vec<String> = namespaces
        .iter()
        .take(LISTED)
        .map(|namespace| text::escape(&namespace.name, text::NAME))
        .collect();
    if namespaces.len() > LISTED {
        names.push(format!("{} more", namespaces.len() - LISTED));
    }
    let help = match names.as_slice() {
        [] => "the capture is empty".to_owned(),
        names => format!("it has the network namespaces {}", names.join(", ")),
    };
    fault(format!("the capture has no {what}"), help)
}
