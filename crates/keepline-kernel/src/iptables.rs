//! The mangle table of iptables-legacy, where packets get the marks by which IPVS balances them.
//!
//! Source: `do_ipt_get_ctl()` in `net/ipv4/netfilter/ip_tables.c`, `do_ip6t_get_ctl()` in
//! `net/ipv6/netfilter/ip6_tables.c`. What is in the answer: `keepline_wire::iptables`.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

use crate::{Error, procfs};

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// That of iptables.
    V4,
    /// That of ip6tables.
    V6,
}

const TABLE: &str = "mangle";
/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;
/// Length of `name` in all the structures, `XT_TABLE_MAXNAMELEN`.
const NAME_LEN: usize = 32;
/// Length of `struct ipt_getinfo`, whose last field is `size`.
const INFO_LEN: usize = 84;
/// Length of `struct ipt_get_entries` without the entries: `name`, `size`, padding.
const ENTRIES_LEN: usize = 40;
/// How often a table that changes between the question for its size and that for its entries is
/// asked again.
const TRIES: usize = 10;

impl Family {
    /// Level of the socket option, address family, and the list of the tables in use.
    const fn door(self) -> (i32, AddressFamily, &'static str) {
        match self {
            Self::V4 => (libc::SOL_IP, AddressFamily::INET, "ip_tables_names"),
            Self::V6 => (libc::SOL_IPV6, AddressFamily::INET6, "ip6_tables_names"),
        }
    }
}

/// Reads the mangle table of the current network namespace: a `struct ipt_get_entries` with its
/// entries. `None` where there is none.
///
/// # Errors
/// When the table exists and cannot be read (`CAP_NET_ADMIN`), or keeps changing.
pub fn mangle(family: Family) -> Result<Option<Vec<u8>>, Error> {
    let (level, address_family, names) = family.door();
    // Asking for a table that is not there loads its module and sets it up: only ask for one
    // that the namespace has.
    match procfs::net_file(names) {
        Ok(names) if names.lines().any(|name| name == TABLE) => {}
        Ok(_) => return Ok(None),
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(error),
    }
    let call = |source: io::Error| Error::call("read iptables table", TABLE, source);
    // Any socket of the family does; this kind needs no right of its own.
    let socket = net::socket_with(address_family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|source| call(source.into()))?;
    for _ in 0..TRIES {
        match entries(&socket, level) {
            Ok(entries) => return Ok(Some(entries)),
            Err(error) => match error.raw_os_error() {
                // Another size meanwhile (`get_entries()`).
                Some(libc::EAGAIN) => {}
                // Removed meanwhile.
                Some(libc::ENOPROTOOPT | libc::ENOENT) => return Ok(None),
                _ => return Err(call(error)),
            },
        }
    }
    Err(call(io::Error::from_raw_os_error(libc::EAGAIN)))
}

fn entries(socket: &OwnedFd, level: i32) -> io::Result<Vec<u8>> {
    let mut info = [0; INFO_LEN];
    info[..TABLE.len()].copy_from_slice(TABLE.as_bytes());
    get_option(socket, level, GET_INFO, &mut info)?;
    let size = &info[INFO_LEN - 4..];
    let len = u32::from_ne_bytes([size[0], size[1], size[2], size[3]]) as usize;
    let mut entries = vec![0; ENTRIES_LEN.saturating_add(len)];
    entries[..TABLE.len()].copy_from_slice(TABLE.as_bytes());
    entries[NAME_LEN..NAME_LEN + 4].copy_from_slice(size);
    get_option(socket, level, GET_ENTRIES, &mut entries)?;
    Ok(entries)
}

/// Asks for an option whose value carries the question in and the answer out.
fn get_option(socket: &OwnedFd, level: i32, option: i32, value: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(value.len())
        .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: the socket is open for the duration of the call; `value` and `length` are borrowed
    // for it and by no one else; the kernel writes at most `length` bytes, which is the length of
    // `value`, and any bytes are a valid `[u8]`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use keepline_wire::iptables;

    use super::*;

    /// Runs `test` in a network namespace of its own; says SKIP where that or `program` lacks.
    fn apart(program: &'static str, test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            // SAFETY: touches no memory; only this thread, which ends here, changes its namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(format!("unshare: {}", io::Error::last_os_error()));
            }
            // Lists the filter table: says whether the program and the kernel have what it takes.
            let output = Command::new(program).arg("-S").output();
            match output.map_err(|error| format!("{program}: {error}"))? {
                output if output.status.success() => test(),
                output => {
                    return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)));
                }
            }
            Ok(())
        });
        if let Err(why) = thread.join().unwrap() {
            eprintln!("SKIP: {why}");
            assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
        }
    }

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-ec", script]).spawn().unwrap()
    }

    #[test]
    fn looking_sets_up_no_table() {
        apart("iptables-legacy", || {
            assert_eq!(mangle(Family::V4).unwrap(), None);
            assert_eq!(mangle(Family::V6).unwrap(), None);
            for names in ["ip_tables_names", "ip6_tables_names"] {
                let names = procfs::net_file(names).unwrap_or_default();
                assert!(!names.contains(TABLE), "{names}");
            }
        });
    }

    #[test]
    fn rules_are_read_while_others_are_added() {
        apart("iptables-legacy", || {
            const MORE: usize = 60;
            let add = "iptables-legacy -w -t mangle -A INPUT -j MARK -d";
            let first = format!("{add} 10.0.1.2 --set-mark 256");
            assert!(shell(&first).wait().unwrap().success());
            let more = format!("for i in $(seq {MORE}); do {add} 10.0.1.3 --set-mark $i; done");
            let mut adding = shell(&more);
            let mut seen = 0;
            let status = loop {
                let status = adding.try_wait().unwrap();
                let rules = iptables::parse(&mangle(Family::V4).unwrap().unwrap()).unwrap();
                assert_eq!((rules[0].mark, rules[0].mask), (256, u32::MAX));
                assert_eq!(rules[0].destination, Some(("10.0.1.2".parse().unwrap(), 32)));
                assert!(rules.len() >= seen, "{} after {seen}", rules.len());
                seen = rules.len();
                if let Some(status) = status {
                    break status;
                }
            };
            assert!(status.success());
            assert_eq!(seen, 1 + MORE);
            assert_eq!(mangle(Family::V6).unwrap(), None);
        });
    }

    #[test]
    fn rules_for_ipv6_are_read() {
        apart("ip6tables-legacy", || {
            let add = "ip6tables-legacy -w -t mangle -A OUTPUT -d fd00::2 -p tcp --dport 80";
            assert!(shell(&format!("{add} -j MARK --set-mark 258")).wait().unwrap().success());
            let rules = iptables::parse_v6(&mangle(Family::V6).unwrap().unwrap()).unwrap();
            assert_eq!(rules.len(), 1);
            assert_eq!((rules[0].mark, rules[0].ports.as_slice()), (258, &[(80, 80)][..]));
            assert_eq!(rules[0].destination, Some(("fd00::2".parse().unwrap(), 128)));
        });
    }
}
