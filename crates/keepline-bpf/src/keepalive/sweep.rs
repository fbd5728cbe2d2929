//! Keepalive for sockets that are open already.

use std::io::{self, Read};

use libbpf_rs::{Iter, Link, Object};

use super::{Features, OPEN};
use crate::{Error, hooks};

/// What became of the open connections of a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Connections that are in the selection.
    pub selected: u64,
    /// Those of them that got keepalive, or shorter times.
    pub changed: u64,
    /// Those that needed nothing: their own times are as short or shorter.
    pub short_enough: u64,
    /// Those that refused to be set.
    pub failed: u64,
    /// Connections that are not in the selection.
    pub others: u64,
}

/// The loaded program.
#[derive(Debug)]
pub(super) struct Sweeper {
    link: Link,
}

impl Sweeper {
    pub(super) fn new(object: &Object, features: &Features) -> Result<Option<Self>, Error> {
        if !features.open_sockets.is_yes() {
            return Ok(None);
        }
        let Some(program) = hooks::program(object, OPEN) else { return Ok(None) };
        let link = program.attach().map_err(|source| Error::bpf("attach", OPEN, source))?;
        Ok(Some(Self { link }))
    }

    pub(super) fn sweep(&self) -> Result<Swept, Error> {
        // Sees the namespace of the thread that opens it (`bpf_iter_init_seq_net`).
        let mut iterator = Iter::new(&self.link)
            .map_err(|source| Error::bpf("open", "the iterator over sockets", source))?;
        let mut swept = Swept::default();
        let mut outcomes = vec![0; 32 << 10];
        loop {
            let length = match iterator.read(&mut outcomes) {
                Ok(0) => return Ok(swept),
                Ok(length) => length,
                // A million sockets without output: `MAX_ITER_OBJECTS` in kernel/bpf/bpf_iter.c.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) =>
                {
                    continue;
                }
                Err(source) => {
                    return Err(Error::call("read", "the iterator over sockets", source));
                }
            };
            outcomes[..length].iter().for_each(|outcome| swept.count(*outcome));
        }
    }
}

impl Swept {
    /// Counts one byte of the program's (`keepline_open` in `bpf/keepalive.bpf.c`).
    fn count(&mut self, outcome: u8) {
        match outcome {
            b'-' => self.others += 1,
            b'+' => (self.selected, self.changed) = (self.selected + 1, self.changed + 1),
            b'=' => (self.selected, self.short_enough) = (self.selected + 1, self.short_enough + 1),
            // Comes after a '+', which it takes back.
            b'!' => (self.changed, self.failed) = (self.changed.saturating_sub(1), self.failed + 1),
            _ => {}
        }
    }
}

impl std::ops::AddAssign for Swept {
    fn add_assign(&mut self, more: Self) {
        self.selected += more.selected;
        self.changed += more.changed;
        self.short_enough += more.short_enough;
        self.failed += more.failed;
        self.others += more.others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted() {
        let mut swept = Swept::default();
        b"+=-+!-=".iter().for_each(|outcome| swept.count(*outcome));
        assert_eq!(swept, Swept { selected: 4, changed: 1, short_enough: 2, failed: 1, others: 2 });
    }
}
