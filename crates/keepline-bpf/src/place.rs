//! Where things are pinned and attached: a directory of the BPF file system, a control group.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use keepline_wire::proc::mountinfo;
use rustix::{
    fs::{FlockOperation, flock, statfs},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsmount, fsopen,
    },
};

use crate::Error;

/// Where Keepline's programs are pinned, unless told otherwise.
pub const PINS: &str = "/sys/fs/bpf/keepline";

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// `CGROUP2_SUPER_MAGIC`, the same file.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// Source of the mounts that are made here, by which [`give_up`] knows them.
const OURS: &str = "keepline";

/// Where the root of the control groups of version 2 is mounted: `/sys/fs/cgroup`, on hybrid hosts
/// `/sys/fs/cgroup/unified`. `proc` is normally `/proc`. None where none is mounted; in a container
/// it may be that container's part only.
#[must_use]
pub fn cgroup_root(proc: &Path) -> Option<PathBuf> {
    let mounts = fs::read(proc.join("self/mountinfo")).ok()?;
    let mounts: Vec<_> = String::from_utf8_lossy(&mounts)
        .lines()
        .filter_map(|line| mountinfo::parse_line(line).ok())
        .filter(|mount| mount.fs_type == "cgroup2")
        .collect();
    // A bind mount of a part must not hide the whole.
    let whole = mounts.iter().find(|mount| mount.root == "/");
    whole.or(mounts.first()).map(|mount| PathBuf::from(&mount.mount_point))
}

/// The root of the control groups of version 2 for hosts that have only version 1: every socket is
/// in it, mounted or not. Mounted for this process alone, at no place, for as long as the value lives.
#[derive(Debug)]
pub struct PrivateCgroupRoot(OwnedFd);

impl PrivateCgroupRoot {
    /// Mounts it. `proc` is normally `/proc`.
    ///
    /// # Errors
    /// Before kernel 5.2, or without `CAP_SYS_ADMIN`.
    pub fn mount(proc: &Path) -> Result<Self, Error> {
        let mount = || {
            let system = fsopen(c"cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
            // A mount sets the hierarchy's own options, such as nsdelegate, for all
            // (`apply_cgroup_root_flags`): the same that are set.
            for option in hierarchy_options(proc) {
                fsconfig_set_flag(system.as_fd(), option.as_str())?;
            }
            fsconfig_create(system.as_fd())?;
            let flags = FsMountFlags::FSMOUNT_CLOEXEC;
            fsmount(system.as_fd(), flags, MountAttrFlags::empty())
        };
        let root = mount()
            .map_err(|source| Error::call("mount", "the control groups of version 2", source))?;
        Ok(Self(root))
    }

    /// A path to it, for this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// The options that the hierarchy of version 2 is mounted with, by anybody that can be seen.
fn hierarchy_options(proc: &Path) -> Vec<String> {
    let mut options = Vec::new();
    for mounts in ["1/mountinfo", "self/mountinfo"] {
        let mounts = fs::read(proc.join(mounts)).unwrap_or_default();
        for line in String::from_utf8_lossy(&mounts).lines() {
            // After the dash: type, source, options of the file system.
            let Some((_, tail)) = line.split_once(" - cgroup2 ") else { continue };
            let all = tail.rsplit(' ').next().unwrap_or_default().split(',');
            for option in all.filter(|option| !matches!(*option, "rw" | "ro")) {
                if !options.iter().any(|known| known == option) {
                    options.push(option.to_owned());
                }
            }
        }
    }
    options
}

/// A control group to attach to.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub file: File,
    pub path: PathBuf,
    /// Its number, as links tell it: the inode of its directory (`kernfs_ino`, 64 bits).
    pub id: u64,
}

impl Cgroup {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let call = |source| Error::call("open control group", path.display().to_string(), source);
        let file = File::open(path).map_err(call)?;
        if !is_on(path, CGROUP2_SUPER_MAGIC).map_err(call)? {
            return Err(call(io::Error::other("this is no control group of version 2")));
        }
        let id = file.metadata().map_err(call)?.ino();
        Ok(Self { file, path: path.to_owned(), id })
    }
}

fn is_on(path: &Path, magic: u64) -> io::Result<bool> {
    #[expect(clippy::cast_sign_loss, reason = "magic numbers of 32 bits, signed on some systems")]
    let found = statfs(path)?.f_type as u64;
    Ok(found & u64::from(u32::MAX) == magic)
}

/// A directory of pins, locked against other Keeplines until it is dropped.
#[derive(Debug)]
pub(crate) struct Pins {
    pub directory: PathBuf,
    _lock: OwnedFd,
}

impl Pins {
    /// Makes `bpffs/part`. Where nothing is mounted at the parent of `bpffs`, the BPF file system is.
    pub(crate) fn create(bpffs: &Path, part: &str) -> Result<Self, Error> {
        let call = |operation, path: &Path, source| {
            Error::call(operation, path.display().to_string(), source)
        };
        let mount_point = bpffs.parent().ok_or_else(|| {
            Error::Invalid("pins need a directory below a mount point".to_owned())
        })?;
        if !is_on(mount_point, BPF_FS_MAGIC)
            .map_err(|source| call("look at", mount_point, source))?
        {
            mount(mount_point)
                .map_err(|source| call("mount the BPF file system on", mount_point, source))?;
        }
        let directory = bpffs.join(part);
        loop {
            fs::create_dir_all(&directory).map_err(|source| call("make", &directory, source))?;
            // Who removed everything while this one waited took the directory away, too.
            if let Some(pins) = Self::open(bpffs, part)? {
                return Ok(pins);
            }
        }
    }

    /// `bpffs/part`, if it is there.
    pub(crate) fn open(bpffs: &Path, part: &str) -> Result<Option<Self>, Error> {
        let directory = bpffs.join(part);
        let call =
            |operation, source| Error::call(operation, directory.display().to_string(), source);
        let file = match File::open(&directory) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(call("open", source)),
        };
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|source| call("lock", source.into()))?;
        let locked = file.metadata().map_err(|source| call("look at", source))?;
        let there = fs::metadata(&directory)
            .is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev(), locked.ino()));
        Ok(there.then(|| Self { _lock: file.into(), directory }))
    }

    /// What is pinned, by name.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        let call = |source| Error::call("read", self.directory.display().to_string(), source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(call)? {
            names.push(entry.map_err(call)?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Mounts the BPF file system on an empty directory that is no mount point.
fn mount(point: &Path) -> io::Result<()> {
    let parent = point.parent().unwrap_or(point);
    if fs::metadata(point)?.dev() != fs::metadata(parent)?.dev() {
        return Err(io::Error::other("something else is mounted there"));
    }
    if fs::read_dir(point)?.next().is_some() {
        return Err(io::Error::other("there is something in it"));
    }
    // Only root looks inside (`bpf_parse_param`: mode).
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(OURS, point, "bpf", flags, Some(c"mode=0700"))?;
    Ok(())
}

/// Removes the directory of a part, then `bpffs` if nothing else is in it, and the mount if it was
/// made by [`Pins::create`] and is empty.
pub(crate) fn give_up(bpffs: &Path, pins: Pins) -> Result<(), Error> {
    for directory in [&pins.directory, bpffs] {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::call("remove", directory.display().to_string(), error));
            }
            _ => {}
        }
    }
    // The lock is an open file: with it, the mount would be busy.
    drop(pins);
    let Some(point) = bpffs.parent() else { return Ok(()) };
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let ours = String::from_utf8_lossy(&mounts)
        .lines()
        .filter_map(|line| mountinfo::parse_line(line).ok())
        .any(|mount| {
            mount.fs_type == "bpf"
                && mount.source == OURS
                && fs::canonicalize(point).is_ok_and(|point| point == Path::new(&mount.mount_point))
        });
    // Names with a dot are the kernel's own: maps.debug, progs.debug (`bpf_lookup`,
    // `populate_bpffs` in kernel/bpf/inode.c).
    let is_empty = fs::read_dir(point).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| entry.file_name().as_bytes().contains(&b'.')))
    });
    if ours && is_empty {
        // Busy: somebody has just begun to use it.
        let _ = rustix::mount::unmount(point, UnmountFlags::empty());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_version_two_on_every_kind_of_host() {
        let proc = std::env::temp_dir().join(format!("keepline-cgroup-{}", std::process::id()));
        fs::create_dir_all(proc.join("self")).unwrap();
        let root = |text: &str| {
            fs::write(proc.join("self/mountinfo"), text).unwrap();
            cgroup_root(&proc)
        };
        let v1 = "40 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let unified = "41 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let v2 = "42 30 0:31 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let part = "39 30 0:31 /docker/1 /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(root(v1), None);
        assert_eq!(root(&[v1, unified].concat()), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(root(&[part, v2].concat()), Some("/sys/fs/cgroup".into()));
        assert_eq!(root(part), Some("/mnt".into()));
        // Options of the hierarchy, each once, not those of the mount.
        let v2 = v2.replace("cgroup2 rw\n", "cgroup2 rw,nsdelegate,memory_recursiveprot\n");
        root(&[unified, &v2, &v2].concat());
        assert_eq!(hierarchy_options(&proc), ["nsdelegate", "memory_recursiveprot"]);
        fs::remove_dir_all(&proc).unwrap();
    }
}
