//! What the allocator of the C library is told once, before there are threads.
//!
//! The only unsafe code of this crate: nobody offers `mallopt` safely.
#![expect(unsafe_code, reason = "two calls of mallopt that no safe wrapper offers")]

/// Heaps that threads share. glibc would make eight for each core, and what is free in one is of no use to the others:
/// an archive of a thousand partitions took a third more memory, and no less time.
const HEAPS: i32 = 4;
/// Free bytes at the end of a heap that are given back, and the size from which a block is a mapping of its own that is
/// given back at once. These are glibc's first values; left alone, it raises them to megabytes as it goes.
const GIVEN_BACK: i32 = 128 << 10;

/// Keeps a process of many threads from holding much more memory than it uses. Elsewhere than with glibc: nothing.
pub fn settle_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and changes the allocator's own settings under the allocator's own lock.
    unsafe {
        // Whether it was taken or not: both are advice.
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, GIVEN_BACK);
    }
}
