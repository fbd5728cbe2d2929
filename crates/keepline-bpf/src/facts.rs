//! What the kernel tells about namespaces, programs and its clock.

use std::{
    fs, io,
    mem::size_of,
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use keepline_kernel::namespaces;
use libbpf_rs::{MapCore, MapHandle, Program};

use crate::Error;

/// A network namespace's number, never given to another while the machine runs
/// (`net_cookie` of `struct net`; since kernel 5.14 to be had by `SO_NETNS_COOKIE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsCookie(pub u64);

impl NetnsCookie {
    /// That of the calling thread's namespace.
    ///
    /// # Errors
    /// Before kernel 5.14: `ENOPROTOOPT`.
    pub fn current() -> Result<Self, Error> {
        let socket = UdpSocket::bind("0.0.0.0:0")
            .map_err(|source| Error::call("open", "a socket", source))?;
        Self::of(socket.as_fd())
    }

    /// That of the namespace which a socket is in.
    ///
    /// # Errors
    /// Before kernel 5.14: `ENOPROTOOPT`.
    pub fn of(socket: BorrowedFd<'_>) -> Result<Self, Error> {
        namespaces::cookie_of(socket)
            .map(Self)
            .map_err(|source| Error::call("read", "the namespace's cookie", source))
    }
}

/// What a program has cost since it was loaded. Counted only while somebody asks the kernel to
/// (`sysctl kernel.bpf_stats_enabled=1`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunCost {
    /// How often it ran.
    pub runs: u64,
    /// How long all runs took together.
    pub time: std::time::Duration,
}

/// What the kernel tells about a program.
#[derive(Debug, Clone)]
pub(crate) struct ProgramFacts {
    pub tag: String,
    pub cost: RunCost,
    pub maps: Vec<u32>,
}

impl ProgramFacts {
    pub(crate) fn of(id: u32) -> Result<Self, Error> {
        let object = || format!("program {id}");
        let program =
            Program::fd_from_id(id).map_err(|source| Error::bpf("open", object(), source))?;
        // Ours have a handful; more are cut off.
        let mut maps = vec![0_u32; 16];
        let mut info = libbpf_sys::bpf_prog_info {
            nr_map_ids: 16,
            map_ids: maps.as_mut_ptr() as u64,
            ..Default::default()
        };
        let mut length = u32::try_from(size_of::<libbpf_sys::bpf_prog_info>()).unwrap_or_default();
        // SAFETY: `info` has `length` bytes; its only pointer, `map_ids`, leads to room for the
        // `nr_map_ids` numbers it says, and both outlive the call.
        let result = unsafe {
            libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut length)
        };
        if result != 0 {
            return Err(Error::call("read", object(), io::Error::from_raw_os_error(-result)));
        }
        maps.truncate(info.nr_map_ids.try_into().unwrap_or(usize::MAX));
        Ok(Self {
            tag: info.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
            cost: RunCost {
                runs: info.run_cnt,
                time: std::time::Duration::from_nanos(info.run_time_ns),
            },
            maps,
        })
    }

    /// Its map of this name.
    pub(crate) fn map(&self, name: &str) -> Result<Option<MapHandle>, Error> {
        for id in &self.maps {
            let map = MapHandle::from_map_id(*id)
                .map_err(|source| Error::bpf("open", format!("map {id}"), source))?;
            if map.name() == name {
                return Ok(Some(map));
            }
        }
        Ok(None)
    }
}

/// Timer ticks a second (`CONFIG_HZ`): the coarse clocks advance by one tick
/// (`KTIME_LOW_RES` in `include/linux/hrtimer.h`).
pub(crate) fn ticks_per_second() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    let nanos = u32::try_from(tick.tv_nsec).unwrap_or(0).max(1);
    (1_000_000_000 + nanos / 2) / nanos
}

/// Release of the running kernel, for messages.
pub(crate) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("kernel {}", release.trim())
}
