//! What `/proc` tells: sockets of processes, commands, containers, kernel settings.

use std::{fs, io::ErrorKind, path::Path};

use rustc_hash::FxHashMap;

/// Where a socket is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Process.
    pub pid: u32,
    /// Its descriptor.
    pub fd: i32,
}

/// Finds who holds the sockets whose inodes are the keys of `wanted`, among `pids`; fills the
/// values. Returns whether every process could be looked into.
pub fn holders(proc: &Path, pids: &[u32], wanted: &mut FxHashMap<u32, Option<Holder>>) -> bool {
    let mut complete = true;
    let mut missing = wanted.values().filter(|holder| holder.is_none()).count();
    for pid in pids {
        if missing == 0 {
            break;
        }
        let entries = match fs::read_dir(proc.join(format!("{pid}/fd"))) {
            Ok(entries) => entries,
            Err(error) => {
                complete &= error.kind() != ErrorKind::PermissionDenied;
                continue;
            }
        };
        for entry in entries.flatten() {
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let Some(inode) = link.to_str().and_then(socket_inode) else { continue };
            if let Some(holder @ None) = wanted.get_mut(&inode)
                && let Some(fd) = entry.file_name().to_str().and_then(|fd| fd.parse().ok())
            {
                *holder = Some(Holder { pid: *pid, fd });
                missing -= 1;
            }
        }
    }
    complete
}

/// The inode in `socket:[1234]`.
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Name of a process, up to 15 bytes; untrusted. None when it is gone.
#[must_use]
pub fn command(proc: &Path, pid: u32) -> Option<String> {
    let bytes = fs::read(proc.join(format!("{pid}/comm"))).ok()?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned())
}

/// The container that a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contained {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Whether that is in another container: its engine runs in there.
    pub nested: bool,
}

/// The container that a process is in, by 64 hexadecimal digits in its cgroup's path, as Docker,
/// containerd, CRI-O and Podman name them, with either cgroup driver.
#[must_use]
pub fn container(proc: &Path, pid: u32) -> Option<Contained> {
    let cgroups = fs::read_to_string(proc.join(format!("{pid}/cgroup"))).ok()?;
    cgroups.lines().find_map(container_in)
}

fn container_in(line: &str) -> Option<Contained> {
    const LENGTH: usize = 64;
    let path = line.splitn(3, ':').nth(2)?;
    let mut ids = path.rsplit('/').filter_map(|part| {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        // docker-ID, cri-containerd-ID, crio-ID, libpod-ID; or the id alone.
        let id = name.rsplit(['-', ':']).next()?;
        let hexadecimal = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (id.len() == LENGTH && hexadecimal).then_some(id)
    });
    let id = ids.next()?;
    Some(Contained { id: id.to_owned(), nested: ids.any(|outer| outer != id) })
}

/// A kernel setting of the calling thread's network namespace, by its path below `/proc/sys`.
/// None where this kernel or namespace has no such setting.
#[must_use]
pub fn sysctl(path: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?.trim().parse().ok()
}

/// The same as text, for settings of any form: one line, as the kernel writes it.
///
/// # Errors
/// When there is no such setting here, or it cannot be read.
pub fn read_sysctl(path: &str) -> Result<String, crate::Error> {
    fs::read_to_string(Path::new("/proc/sys").join(path))
        .map(|text| text.trim().to_owned())
        .map_err(|source| crate::Error::call("read", path.replace('/', "."), source))
}

/// Writes a kernel setting of the calling thread's network namespace.
///
/// # Errors
/// When there is no such setting here, the kernel refuses the value, or rights are missing.
pub fn write_sysctl(path: &str, value: &str) -> Result<(), crate::Error> {
    fs::write(Path::new("/proc/sys").join(path), value)
        .map_err(|source| crate::Error::call("write", path.replace('/', "."), source))
}

/// A file below the calling thread's `/proc/…/net`.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn net_file(name: &str) -> Result<String, crate::Error> {
    let path = Path::new("/proc/thread-self/net").join(name);
    fs::read_to_string(&path)
        .map_err(|source| crate::Error::call("read", path.display().to_string(), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_by_cgroup() {
        let id = "4f1c02aa91bc4f1c02aa91bc4f1c02aa91bc4f1c02aa91bc4f1c02aa91bc4f1c";
        for line in [
            format!("0::/system.slice/docker-{id}.scope"),
            format!("12:memory:/docker/{id}"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!(
                "0::/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{id}"
            ),
            format!("0::/machine.slice/libpod-{id}.scope/container"),
        ] {
            let contained = Contained { id: id.to_owned(), nested: false };
            assert_eq!(container_in(&line), Some(contained), "{line}");
        }
        let outer = id.replace('4', "5");
        for line in [
            format!("0::/system.slice/docker-{outer}.scope/docker/{id}"),
            format!("4:cpu:/docker/{outer}/docker/{id}"),
        ] {
            let contained = Contained { id: id.to_owned(), nested: true };
            assert_eq!(container_in(&line), Some(contained), "{line}");
        }
        for line in ["0::/", "0::/user.slice/user-0.slice/session-1.scope", "garbage"] {
            assert_eq!(container_in(line), None, "{line}");
        }
    }

    #[test]
    fn holders_are_found_by_inode() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proc = Path::new("/proc");
        let own = std::process::id();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let inode = socket_inode(link.to_str().unwrap()).unwrap();
        let mut wanted = FxHashMap::from_iter([(inode, None), (u32::MAX, None)]);
        holders(proc, &[own], &mut wanted);
        assert_eq!(wanted[&inode], Some(Holder { pid: own, fd }));
        assert_eq!(wanted[&u32::MAX], None);
    }
}
