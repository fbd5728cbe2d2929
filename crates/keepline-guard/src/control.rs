//! Asking a guard that runs.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Config, state::Told};

/// The socket: where the guard's file says, else beside the journal.
#[must_use]
pub fn socket(config: &Config) -> PathBuf {
    config.socket.clone().unwrap_or_else(|| keepline_node::run::folder().join("guard.sock"))
}

/// A guard that does not answer in this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the guard tells of itself; none where none runs.
///
/// # Errors
/// When it runs, and does not tell.
pub fn ask(socket: &Path) -> io::Result<Option<Told>> {
    let Some(body) = request(socket, "/status")? else { return Ok(None) };
    Ok(Some(serde_json::from_str(&body)?))
}

/// HTTP 1.0: the answer ends with the connection, and has no parts.
fn request(socket: &Path, path: &str) -> io::Result<Option<String>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        // None, or one that is gone.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: guard\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') {
        return Ok(Some(body.to_owned()));
    }
    Err(io::Error::other(format!("the guard answers {status}: {}", body.trim())))
}
