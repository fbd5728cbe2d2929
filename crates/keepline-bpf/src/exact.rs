//! Keepalive of single sockets, by their cookies: for those whose descriptor nobody can lend, as no
//! process holds it (it is on its way between two, or the kernel's own) or none may be looked into.
//!
//! What is read and set is what the application would read and set itself, so that it can be given
//! back exactly.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    time::Duration,
};

use libbpf_rs::{Iter, MapCore, MapFlags, OpenObject};

use crate::{
    Error, facts, hooks,
    layout::Pieces,
    object::{self, CONSTANTS, Elf, Programs},
};

static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/exact.bpf.o")));

const PROGRAM: &str = "keepline_exact";
const WISHES: &str = "keepline_wish";
/// Size of `struct settings`.
const SETTINGS_SIZE: usize = 16;
/// Size of `struct answer`.
const ANSWER_SIZE: usize = 8 + SETTINGS_SIZE + 8;

/// Keepalive settings of a socket, as `getsockopt` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `SO_KEEPALIVE`.
    pub enabled: bool,
    /// `TCP_KEEPIDLE`: whole seconds.
    pub idle: Duration,
    /// `TCP_KEEPINTVL`: whole seconds.
    pub interval: Duration,
    /// `TCP_KEEPCNT`.
    pub probes: u32,
}

/// What one socket shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The socket (`SO_COOKIE`).
    pub cookie: u64,
    /// What it has: one that has something else is left alone.
    pub before: Settings,
    /// What it shall have.
    pub after: Settings,
}

/// Reads the settings of sockets in the calling thread's network namespace. Those that are not
/// there any more are not in the answer.
///
/// # Errors
/// Before kernel 5.15; missing rights.
pub fn read(cookies: &[u64]) -> Result<BTreeMap<u64, Settings>, Error> {
    walk(cookies.iter().map(|cookie| (*cookie, [0; 2 * SETTINGS_SIZE + 4])))
}

/// Sets keepalive on sockets in the calling thread's network namespace; what each has afterwards.
/// Those that are not there any more are not in the answer. What is more than a socket can be given is
/// set to the most ([`keepline_kernel::pidfd::set_keepalive`]).
///
/// # Errors
/// Before kernel 5.15; missing rights.
pub fn set(changes: &[Change]) -> Result<BTreeMap<u64, Settings>, Error> {
    walk(changes.iter().map(|change| {
        let mut wish = [0; 2 * SETTINGS_SIZE + 4];
        wish[..SETTINGS_SIZE].copy_from_slice(&encode(&change.before));
        wish[SETTINGS_SIZE..2 * SETTINGS_SIZE].copy_from_slice(&encode(&change.after));
        wish[2 * SETTINGS_SIZE..].copy_from_slice(&1_u32.to_ne_bytes());
        (change.cookie, wish)
    }))?;
    // The walk tells what was there before it changed it.
    let cookies: Vec<u64> = changes.iter().map(|change| change.cookie).collect();
    read(&cookies)
}

fn walk<const N: usize>(
    wishes: impl ExactSizeIterator<Item = (u64, [u8; N])>,
) -> Result<BTreeMap<u64, Settings>, Error> {
    let most = u32::try_from(wishes.len()).unwrap_or(u32::MAX).max(1);
    let prepare = |open: &mut OpenObject| {
        for mut map in open.maps_mut() {
            if map.name() == CONSTANTS {
                map.set_initial_value(&facts::ticks_per_second().to_ne_bytes())?;
            } else if map.name() == WISHES {
                map.set_max_entries(most)?;
            }
        }
        Ok(())
    };
    let programs = Programs { name: "single sockets", elf: &ELF.0, prepare: &prepare };
    let object = programs.load(&|name| name == PROGRAM)?;
    let map = object::map_of(&object, WISHES)?;
    for (cookie, wish) in wishes {
        map.update(&cookie.to_ne_bytes(), &wish, MapFlags::ANY)
            .map_err(|source| Error::bpf("write", format!("map {WISHES}"), source))?;
    }
    let program = hooks::program(&object, PROGRAM)
        .ok_or_else(|| Error::Invalid(format!("there is no program {PROGRAM}")))?;
    let link = program.attach().map_err(|source| Error::bpf("attach", PROGRAM, source))?;
    let mut iterator = Iter::new(&link)
        .map_err(|source| Error::bpf("open", "the iterator over sockets", source))?;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        match iterator.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            // A million sockets without output: `MAX_ITER_OBJECTS` in kernel/bpf/bpf_iter.c.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(source) => return Err(Error::call("read", "the iterator over sockets", source)),
        }
    }
    Ok(bytes.chunks_exact(ANSWER_SIZE).map(decode).collect())
}

/// `struct settings`.
fn encode(settings: &Settings) -> [u8; SETTINGS_SIZE] {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let words = [
        u32::from(settings.enabled),
        seconds(settings.idle),
        seconds(settings.interval),
        settings.probes,
    ];
    let mut bytes = [0; SETTINGS_SIZE];
    bytes.copy_from_slice(words.map(u32::to_ne_bytes).as_flattened());
    bytes
}

/// `struct answer`.
fn decode(bytes: &[u8]) -> (u64, Settings) {
    let mut pieces = Pieces(bytes);
    let cookie = u64::from_ne_bytes(pieces.take());
    let [enabled, idle, interval, probes] =
        [pieces.u32(), pieces.u32(), pieces.u32(), pieces.u32()];
    let [idle, interval] = [idle, interval].map(|seconds| Duration::from_secs(seconds.into()));
    (cookie, Settings { enabled: enabled != 0, idle, interval, probes })
}
