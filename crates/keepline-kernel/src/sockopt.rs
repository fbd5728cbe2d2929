//! Socket options that `rustix` does not have.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// `SO_NETNS_COOKIE`, `include/uapi/asm-generic/socket.h`; since kernel 5.14.
const SO_NETNS_COOKIE: i32 = 71;

/// Sets an option that is a number.
pub(crate) fn set(fd: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let length = libc::socklen_t::try_from(size_of::<i32>()).expect("four fits");
    // SAFETY: `fd` is open for the duration of the call, and the value lives on this frame and
    // has the length given.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Identity of the network namespace of a socket.
pub(crate) fn netns_cookie(fd: &impl AsFd) -> io::Result<u64> {
    let fd = fd.as_fd().as_raw_fd();
    let mut cookie: u64 = 0;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("eight fits");
    // SAFETY: `fd` is open for the duration of the call; value and length live on this frame, and
    // the kernel writes no more than the length given.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
