//! How many bytes the kernel gathers before it wakes the reader.
//!
//! The only unsafe code of this crate: no safe wrapper of `SO_RCVLOWAT` exists in the crates we use.
#![expect(unsafe_code, reason = "one setsockopt call that no safe wrapper offers")]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Wakes the reader of `socket` only when this many bytes are there. Reads that do not wait are not affected.
pub(crate) fn set(socket: &impl AsFd, bytes: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and pointer and length describe one
    // live `c_int`, which the kernel only reads.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast::<c_void>(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
