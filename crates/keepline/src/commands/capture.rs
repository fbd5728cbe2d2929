//! `keepline capture`

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepline_core::Snapshot;
use keepline_core::report::{counted, text};
use keepline_core::snapshot::CaptureError;

use keepline_node::Owners;

use crate::args::CaptureArgs;
use crate::{output, select};

/// Writes a capture. Exit status 1 if part of the machine was not seen.
///
/// # Errors
/// When the machine cannot be looked at or the file cannot be written; an older file of that name
/// is as it was then.
pub fn run(args: &CaptureArgs) -> anyhow::Result<u8> {
    let snapshot = select::snapshot(None, &args.select.to_select(), Owners::All)?;
    if args.file.as_os_str() == "-" {
        output::stdout(|out| write(&snapshot, out))?;
    } else {
        let name = args.file.display();
        save(&snapshot, &args.file).with_context(|| format!("write {name}"))?;
        say!(
            "keepline: wrote {}: {}, {}, {}",
            text::escape(&name.to_string(), text::SENTENCE),
            counted(snapshot.namespaces.len(), "namespace", "namespaces"),
            counted(snapshot.sockets(), "socket", "sockets"),
            counted(snapshot.entries(), "entry", "entries"),
        );
    }
    output::warn_incomplete(&snapshot.incomplete);
    Ok(u8::from(!snapshot.incomplete.is_empty()))
}

fn write(snapshot: &Snapshot, out: impl Write) -> io::Result<()> {
    snapshot.write(out).map_err(|error| match error {
        // Keeps the kind, by which a reader that has gone is known.
        CaptureError::Malformed(error) => error.into(),
        schema @ CaptureError::Schema { .. } => io::Error::other(schema),
    })
}

/// Writes beside `file` and takes its name at the end: a capture is there whole or not at all.
fn save(snapshot: &Snapshot, file: &Path) -> io::Result<()> {
    // The name of a link is kept, and what it points to replaced.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&file).is_ok_and(|existing| !existing.is_file()) {
        // A pipe or a device (/dev/stderr) is written to, never replaced; a folder is neither.
        return write(snapshot, OpenOptions::new().write(true).open(&file)?);
    }
    let (temporary, opened) = temporary(&file)?;
    write(snapshot, &opened)
        .and_then(|()| opened.sync_all())
        .and_then(|()| fs::rename(&temporary, &file))
        .inspect_err(|_| {
            // The first error counts.
            let _ = fs::remove_file(&temporary);
        })
}

/// A new file in the folder of `file`, readable by its owner only: it holds names.
fn temporary(file: &Path) -> io::Result<(PathBuf, File)> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let path = file.with_file_name(hidden);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path, opened))
}
