//! The lab's child processes, told apart from strangers that got the same pid later.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use serde::{Deserialize, Serialize};

/// How long killed processes may take to go: each says goodbye on all its sessions first, which
/// takes seconds for 20,000.
const GRACE: Duration = Duration::from_secs(60);

/// A process that is still the same one: pid and time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in this machine's outermost visible pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`, proc_pid_stat(5).
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now, or `None` when there is none.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start_time: start_time(&stat)? })
    }

    /// Whether this very process still runs (a zombie has ended).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        start_time(&stat) == Some(self.start_time) && state(&stat) != Some('Z')
    }

    /// Sends SIGKILL to this very process; returns the handle on which its end can be awaited.
    /// `None` when it has ended already, or its pid has gone to another.
    fn signal(&self) -> Result<Option<OwnedFd>, String> {
        let wrong = |what: &str, error: Errno| {
            format!("{what} process {}: {}", self.pid, std::io::Error::from(error))
        };
        let Some(pid) = self.raw() else { return Ok(None) };
        // The descriptor is opened first and the start time compared after: from then on it
        // cannot come to mean another process.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(wrong("open", error)),
        };
        if Self::find(self.pid) != Some(*self) {
            return Ok(None);
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(Some(handle)),
            Err(error) => Err(wrong("kill", error)),
        }
    }

    fn raw(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// Kills these very processes, all at once, and waits until they are gone. Those that have ended
/// already, or whose pid has gone to another, are left alone.
///
/// Returns a sentence for each that cannot be killed or does not go.
pub(crate) fn kill_all(processes: impl IntoIterator<Item = Process>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut dying = Vec::new();
    for process in processes {
        match process.signal() {
            Ok(Some(handle)) => dying.push((process, handle)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    let deadline = Instant::now() + GRACE;
    for (process, handle) in dying {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => problems.push(format!("process {} does not end", process.pid)),
            // Only its parent can (and must) collect it; anyone else gets ECHILD.
            Ok(_) => drop(waitpid(process.raw(), WaitOptions::NOHANG)),
            Err(error) => problems.push(format!(
                "wait for process {}: {}",
                process.pid,
                std::io::Error::from(error)
            )),
        }
    }
    problems
}

/// Fields of a stat line after the command, which may itself contain spaces and brackets.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace())
}

fn state(stat: &str) -> Option<char> {
    fields(stat)?.next()?.chars().next()
}

fn start_time(stat: &str) -> Option<u64> {
    // Field 22 of the line; the first two (pid, command) are cut off.
    fields(stat)?.nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_survive_a_hostile_command_name() {
        let line = "42 (a) R 1) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        assert_eq!(state(line), Some('S'));
        assert_eq!(start_time(line), Some(987_654));
        assert_eq!(start_time("42 (sh"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn a_reused_pid_is_not_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        let earlier = Process { start_time: process.start_time - 1, ..process };
        assert!(!earlier.is_alive());
        assert!(kill_all([earlier]).is_empty());
        assert!(process.is_alive());
        assert!(kill_all([process, earlier]).is_empty());
        assert!(!process.is_alive());
        // It was collected by kill_all already.
        assert!(child.try_wait().is_err());
    }
}
