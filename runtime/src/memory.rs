//! What the allocator of the C library is told once, before there are threads.
//!
//! The only unsafe code of this crate: nobody offers `mallopt` safely.
#![expect(unsafe_code, reason = "calls of mallopt that no safe wrapper offers")]

/// Heaps that threads share. glibc would make eight for each core, and what is free in one is of no use to the others:
/// an archive of a thousand partitions took a third more memory, and no less time.
const HEAPS: i32 = 4;
/// Free bytes at the end of a heap that are given back. Left alone, glibc raises this to tens of megabytes as it goes.
const GIVEN_BACK: i32 = 1 << 20;
/// The size from which a block is a mapping of its own. Given back at once, it is paid for with a fault for each of its
/// pages, so what comes and goes a thousand times a second is smaller: runs of records, compressors.
const MAPPED: i32 = 1 << 20;

/// Keeps a process of many threads from holding much more memory than it uses. Elsewhere than with glibc: nothing.
pub fn settle_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and changes the allocator's own settings under the allocator's own lock.
    unsafe {
        // Whether it was taken or not: it is advice.
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, GIVEN_BACK);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}
