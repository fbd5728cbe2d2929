//! QEMU's own control socket (QMP): one JSON object a line.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// QEMU itself answers at once, however slow its guest is; a busy machine may hold it up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to it.
#[derive(Debug)]
pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects, and does what has to be done first.
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self(BufReader::new(stream));
        qmp.line()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Resets the machine. At any other time a machine that wants to reboot ends: its kernel has
    /// panicked, or the harness is gone.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        self.execute("set-action", &json!({"reboot": "reset"}))?;
        self.execute("system_reset", &json!({}))?;
        // The answer comes before the deed.
        while self.line()?["event"] != "RESET" {}
        self.execute("set-action", &json!({"reboot": "shutdown"}))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.0.get_mut(), "{line}")?;
        loop {
            // Events come in between.
            let answer = self.line()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
