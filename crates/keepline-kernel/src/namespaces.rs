//! Network namespaces: which there are, and a way into each.
//!
//! Found by the processes in them (`/proc/PID/ns/net`) and by the `nsfs` mounts that hold them
//! open (`/proc/self/mountinfo`: the files of `ip netns` and of the engine, wherever its exec-root
//! is). A file that the engine has made and not yet mounted is no namespace yet and does not show.
//! A namespace is identified by its inode in nsfs.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use keepline_wire::proc::mountinfo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

/// One network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Inode in nsfs.
    pub inode: u64,
    /// Files that hold it open.
    pub mounts: Vec<PathBuf>,
    /// Processes in it, ascending.
    pub pids: Vec<u32>,
}

/// The inode in `net:[4026531840]`, as links and mounts of nsfs are named (`ns_get_name`).
fn inode(name: &str) -> Option<u64> {
    name.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Every network namespace that can be found, by inode. What vanishes meanwhile is left out.
///
/// # Errors
/// When `proc` (normally `/proc`) cannot be read.
pub fn discover(proc: &Path) -> Result<Vec<Namespace>, Error> {
    let mut found: BTreeMap<u64, Namespace> = BTreeMap::new();
    let mut pids = processes(proc)?;
    pids.sort_unstable();
    for pid in pids {
        // Gone meanwhile, or another user's: its namespace is found by others or not at all.
        let Ok(link) = fs::read_link(proc.join(format!("{pid}/ns/net"))) else { continue };
        if let Some(inode) = link.to_str().and_then(inode) {
            found.entry(inode).or_default().pids.push(pid);
        }
    }
    // One path that is not UTF-8 must not hide the others.
    let mounts = fs::read(proc.join("self/mountinfo")).unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts);
    for mount in mounts.lines().filter_map(|line| mountinfo::parse_line(line).ok()) {
        if mount.fs_type == "nsfs"
            && let Some(inode) = inode(&mount.root)
        {
            // The file was removed under the mount: no way in any more (`seq_path`).
            if mount.mount_point.ends_with("//deleted") {
                continue;
            }
            let path = PathBuf::from(mount.mount_point);
            let mounts = &mut found.entry(inode).or_default().mounts;
            if !mounts.contains(&path) {
                mounts.push(path);
            }
        }
    }
    for (inode, namespace) in &mut found {
        namespace.inode = *inode;
    }
    Ok(found.into_values().collect())
}

/// Ids of all processes.
///
/// # Errors
/// When `proc` cannot be read.
pub fn processes(proc: &Path) -> Result<Vec<u32>, Error> {
    let entries = fs::read_dir(proc)
        .map_err(|source| Error::call("read", proc.display().to_string(), source))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Inode of the network namespace at a path (a mount, or `/proc/PID/ns/net`).
///
/// # Errors
/// When there is nothing, or what is there is no network namespace.
pub fn identify(path: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    /// `NSFS_MAGIC`, `include/uapi/linux/magic.h`.
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    let call = |source| Error::call("find network namespace", path.display().to_string(), source);
    let metadata = fs::metadata(path).map_err(call)?;
    let system = rustix::fs::statfs(path).map_err(|source| call(source.into()))?;
    if u64::try_from(system.f_type) != Ok(NSFS_MAGIC) {
        return Err(call(io::Error::other("this file is no network namespace")));
    }
    Ok(metadata.ino())
}

/// `SO_NETNS_COOKIE` of the calling thread's network namespace: unlike its inode, it is never given
/// to another. None before kernel 5.14.
#[must_use]
pub fn cookie() -> Option<u64> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    cookie_of(any.as_fd()).ok()
}

/// The same of the namespace that a socket is in.
///
/// # Errors
/// `ENOPROTOOPT` before kernel 5.14.
pub fn cookie_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    crate::sockopt::netns_cookie(&socket)
}

/// Runs `work` in the namespace `inode` at `path`, on a thread of its own that ends with it: no thread
/// that was ever in a foreign namespace serves anything else. What `work` opens stays in that
/// namespace, wherever it is used later.
///
/// # Errors
/// When the namespace is gone, or may not be entered (`CAP_SYS_ADMIN`).
pub fn enter<T: Send>(
    path: &Path,
    inode: u64,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    use std::os::unix::fs::MetadataExt;
    let call = |source| Error::call("enter", path.display().to_string(), source);
    let file = fs::File::open(path).map_err(call)?;
    // The process id or the name may be another's by now.
    if file.metadata().map_err(call)?.ino() != inode {
        return Err(call(io::Error::from_raw_os_error(libc::ENOENT)));
    }
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("keepline-ns".to_owned())
            .spawn_scoped(scope, || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|source| call(source.into()))?;
                Ok(work())
            })
            .map_err(|source| {
                Error::call("start a thread for", path.display().to_string(), source)
            })?;
        match inside.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn each_namespace_once_with_all_that_leads_to_it() {
        let proc = std::env::temp_dir().join(format!("keepline-proc-{}", std::process::id()));
        for (pid, link) in [("7", "net:[42]"), ("3", "net:[42]"), ("9", "net:[43]")] {
            fs::create_dir_all(proc.join(pid).join("ns")).unwrap();
            symlink(link, proc.join(pid).join("ns/net")).unwrap();
        }
        // Vanished between the listing and the look.
        fs::create_dir_all(proc.join("11")).unwrap();
        fs::create_dir_all(proc.join("self")).unwrap();
        let mounts = "\
            30 25 0:4 net:[43] /run/docker/netns/lb_abcdefghi rw shared:9 - nsfs nsfs rw\n\
            31 25 0:4 net:[44] /run/netns/with\\040space rw shared:9 - nsfs nsfs rw\n\
            32 25 0:4 mnt:[45] /run/snapd/ns/x.mnt rw - nsfs nsfs rw\n\
            33 25 0:4 net:[46] /run/netns/gone//deleted rw - nsfs nsfs rw\n\
            nonsense\n";
        // A path that is not UTF-8 hides nothing else.
        let mounts = [mounts.as_bytes(), b"34 25 0:4 / /mnt/\xff rw - ext4 /dev/vda rw\n"].concat();
        fs::write(proc.join("self/mountinfo"), mounts).unwrap();
        let found = discover(&proc).unwrap();
        fs::remove_dir_all(&proc).unwrap();
        let namespace = |inode, mounts: &[&str], pids: &[u32]| Namespace {
            inode,
            mounts: mounts.iter().map(PathBuf::from).collect(),
            pids: pids.to_vec(),
        };
        assert_eq!(
            found,
            [
                namespace(42, &[], &[3, 7]),
                namespace(43, &["/run/docker/netns/lb_abcdefghi"], &[9]),
                namespace(44, &["/run/netns/with space"], &[]),
            ]
        );
    }

    #[test]
    fn what_is_no_namespace_is_said_so() {
        let error = identify(Path::new("/proc/version")).unwrap_err().to_string();
        assert!(
            error.contains("/proc/version") && error.contains("no network namespace"),
            "{error}"
        );
        assert!(identify(Path::new("/nowhere")).unwrap_err().is_gone());
        assert!(identify(Path::new("/proc/self/ns/net")).unwrap() > 0);
    }
}
