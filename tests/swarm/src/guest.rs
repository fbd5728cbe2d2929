//! One running guest: its process, its console, and the port that carries commands.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::qmp::Qmp;
use crate::vm::Machine;
use crate::{BOOT_TIMEOUT, Error};

/// How long a command may run if nothing else is said.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// What the harness gives a guest beyond a command's own time, to kill it and to send the
/// output, before it is given up.
const GRACE: Duration = Duration::from_secs(40);
/// How much of the console an error shows: where a kernel gave up, and on what all processors were.
const CONSOLE_TAIL: u64 = 16 << 10;

/// What a command in a guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status; 128 + the signal's number where a signal ended it.
    pub status: i32,
    /// What it wrote to stdout. Bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A running guest. Dropping it ends the machine.
#[derive(Debug)]
pub struct Guest {
    node: u8,
    process: Mutex<Child>,
    console: Mutex<File>,
    port: Mutex<Port>,
    qmp: Mutex<Qmp>,
}

#[derive(Debug)]
struct Port {
    reader: BufReader<UnixStream>,
    // Numbers the commands, so that an answer is never taken for another's.
    last: u64,
    // After a failure the stream's position is unknown: nothing more can be asked.
    broken: bool,
}

impl Guest {
    /// Powers the machine on.
    pub(crate) fn start(machine: &Machine<'_>) -> Result<Self, Error> {
        let mut process = machine.start()?;
        let console = File::open(machine.console())
            .map_err(|source| Error::io("open the console's log", source))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(machine.socket()) {
                Ok(stream) => break stream,
                Err(source) => {
                    let ended = process.try_wait().ok().flatten();
                    if ended.is_none() && Instant::now() < deadline {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    drop(process.stdin.take());
                    let what = match ended {
                        Some(status) => format!("did not start: QEMU ended ({status})"),
                        None => format!("did not start: no port: {source}"),
                    };
                    let (node, ended, console) = (machine.node, ended.is_some(), tail(&console));
                    return Err(Error::Guest { node, what, ended, console });
                }
            }
        };
        // Both sockets are there before the machine runs.
        let qmp = Qmp::connect(&machine.qmp())
            .map_err(|source| Error::io("connect to QEMU's control socket", source))?;
        Ok(Self {
            node: machine.node,
            process: Mutex::new(process),
            console: Mutex::new(console),
            port: Mutex::new(Port { reader: BufReader::new(stream), last: 0, broken: false }),
            qmp: Mutex::new(qmp),
        })
    }

    /// Waits for the guest's word that it takes commands.
    pub(crate) fn wait_ready(&self, deadline: Instant) -> Result<(), Error> {
        let mut port = locked(&self.port);
        match port.answer(0, deadline) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.lost(&mut port, "did not come up", &source)),
        }
    }

    /// Resets the machine, its disk written, and waits until it takes commands again. What was on
    /// its disk is there again, and nothing else: no process, no Engine.
    ///
    /// # Errors
    /// It does not come up again in time.
    pub fn reboot(&self) -> Result<(), Error> {
        self.ok("sync")?;
        let reset = locked(&self.qmp).reset();
        reset.map_err(|source| Error::io(format!("reset guest {}", self.node), source))?;
        self.wait_ready(Instant::now() + BOOT_TIMEOUT)
    }

    /// Runs a bash script in the guest as root and waits for it, two minutes at most. Processes
    /// that it leaves in the background stay.
    ///
    /// # Errors
    /// The script took too long, or the guest is gone. An exit status is not an error.
    pub fn sh(&self, command: &str) -> Result<Output, Error> {
        self.sh_within(command, COMMAND_TIMEOUT)
    }

    /// As [`Guest::sh`], with a limit of its own.
    ///
    /// # Errors
    /// As [`Guest::sh`].
    pub fn sh_within(&self, command: &str, limit: Duration) -> Result<Output, Error> {
        let mut port = locked(&self.port);
        if port.broken {
            let console = tail(&locked(&self.console));
            return Err(Error::Guest {
                node: self.node,
                what: "stopped answering earlier".into(),
                ended: false,
                console,
            });
        }
        // timeout(1) in the guest takes 0 for "no limit".
        let seconds = limit.as_secs().max(1);
        let started = Instant::now();
        let output = match port
            .send(command, seconds)
            .and_then(|id| port.answer(id, started + limit + GRACE))
        {
            Ok(output) => output,
            Err(source) => return Err(self.lost(&mut port, "stopped answering", &source)),
        };
        // 124 and 137 are timeout(1)'s, but may also be the command's own.
        if matches!(output.status, 124 | 137) && started.elapsed() >= limit {
            return Err(Error::Timeout {
                node: self.node,
                after: limit,
                command: command.into(),
                output: output.stdout + &output.stderr,
            });
        }
        Ok(output)
    }

    /// Runs a script that must succeed; gives what it wrote to stdout.
    ///
    /// # Errors
    /// As [`Guest::sh`], and when the exit status is not 0.
    pub fn ok(&self, command: &str) -> Result<String, Error> {
        self.ok_within(command, COMMAND_TIMEOUT)
    }

    /// As [`Guest::ok`], with a limit of its own.
    ///
    /// # Errors
    /// As [`Guest::ok`].
    pub fn ok_within(&self, command: &str, limit: Duration) -> Result<String, Error> {
        let output = self.sh_within(command, limit)?;
        if output.status == 0 {
            return Ok(output.stdout);
        }
        Err(Error::Command {
            node: self.node,
            status: output.status,
            command: command.into(),
            output: output.stdout + &output.stderr,
        })
    }

    fn lost(&self, port: &mut Port, what: &str, source: &io::Error) -> Error {
        port.broken = true;
        // The port closes a moment before the process has ended.
        let soon = Instant::now() + Duration::from_secs(2);
        let closed = source.kind() == io::ErrorKind::UnexpectedEof;
        let ended = loop {
            let ended = locked(&self.process).try_wait().ok().flatten();
            if ended.is_some() || !closed || Instant::now() > soon {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let is_over = ended.is_some();
        let what = match (ended, source.kind()) {
            (Some(status), _) => format!("{what}: the machine ended ({status})"),
            (None, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                format!("{what} in time")
            }
            (None, _) => format!("{what}: {source}"),
        };
        let console = tail(&locked(&self.console));
        Error::Guest { node: self.node, what, ended: is_over, console }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The watcher beside the machine sees stdin close, and kills it (vm.rs). Waiting
        // keeps its number from passing to another process before that.
        drop(process.stdin.take());
        if let Err(error) = process.wait() {
            eprintln!("guest {}: wait for its end: {error}", self.node);
        }
    }
}

impl Port {
    /// Sends a command; gives its number. The format is described in `guest/init.sh`.
    fn send(&mut self, command: &str, seconds: u64) -> io::Result<u64> {
        self.last += 1;
        let stream = self.reader.get_mut();
        stream.set_write_timeout(Some(GRACE))?;
        let header = format!("{} {seconds} {}\n", self.last, command.len());
        stream.write_all(header.as_bytes())?;
        stream.write_all(command.as_bytes())?;
        Ok(self.last)
    }

    /// Reads the answer to command `id`; the guest says "ready" as if that were command 0.
    fn answer(&mut self, id: u64, deadline: Instant) -> io::Result<Output> {
        let mut header = Vec::new();
        while !header.ends_with(b"\n") {
            self.set_deadline(deadline)?;
            if self.reader.read_until(b'\n', &mut header)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let header = String::from_utf8_lossy(&header);
        let (status, out, err) = parse_header(&header, id).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {header:?}"))
        })?;
        Ok(Output { status, stdout: self.text(out, deadline)?, stderr: self.text(err, deadline)? })
    }

    fn text(&mut self, length: usize, deadline: Instant) -> io::Result<String> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            self.set_deadline(deadline)?;
            match self.reader.read(&mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn set_deadline(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.reader.get_ref().set_read_timeout(Some(left))
    }
}

/// `keepline ID STATUS OUT ERR`: status and the two lengths, if it is the answer to `id`.
fn parse_header(header: &str, id: u64) -> Option<(i32, usize, usize)> {
    let mut words = header.trim_end().strip_prefix("keepline ")?.split(' ');
    if words.next()?.parse::<u64>().ok()? != id {
        return None;
    }
    let answer =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(answer)
}

/// The end of the console's log. The file may be unlinked by now: read through the handle.
fn tail(mut console: &File) -> String {
    let mut bytes = Vec::new();
    let read = console.seek(SeekFrom::End(0)).and_then(|end| {
        console.seek(SeekFrom::Start(end.saturating_sub(CONSOLE_TAIL)))?;
        console.read_to_end(&mut bytes)
    });
    match read {
        Ok(0) => "(nothing)".into(),
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_taken_only_for_its_own_command() {
        assert_eq!(parse_header("keepline 7 1 20 0\n", 7), Some((1, 20, 0)));
        assert_eq!(parse_header("keepline 6 1 20 0\n", 7), None);
        assert_eq!(parse_header("keepline 7 1 20\n", 7), None);
        assert_eq!(parse_header("keepline 7 1 20 0 0\n", 7), None);
        assert_eq!(parse_header("[    0.3] kernel message\n", 7), None);
    }
}
