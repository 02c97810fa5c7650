//! Poisons freed memory to detect uses after free.
//!
//! With [`ArenaConfig::poison`](crate::ArenaConfig::poison), freed blocks are overwritten, and
//! checked before reuse. In AddressSanitizer builds, they are also marked inaccessible.

use std::ptr::NonNull;

/// The value of freed bytes: NaN as f32 or f16.
pub(crate) const BYTE: u8 = 0xff;

#[cfg(ryz_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const std::ffi::c_void, bytes: usize);
    fn __asan_unpoison_memory_region(start: *const std::ffi::c_void, bytes: usize);
    #[cfg(test)]
    fn __asan_address_is_poisoned(at: *const std::ffi::c_void) -> std::ffi::c_int;
}

/// Overwrites freed bytes.
///
/// # Safety
/// `bytes` bytes from `start` on are mapped, writable, and exclusive to the caller.
pub(crate) unsafe fn overwrite(start: NonNull<u8>, bytes: usize) {
    // SAFETY: guaranteed by the caller.
    unsafe { start.write_bytes(BYTE, bytes) };
}

/// Marks bytes inaccessible.
pub(crate) fn close(start: NonNull<u8>, bytes: usize) {
    #[cfg(ryz_asan)]
    // SAFETY: the call writes only the sanitizer's own tables.
    unsafe {
        __asan_poison_memory_region(start.as_ptr().cast(), bytes);
    }
    #[cfg(not(ryz_asan))]
    let _ = (start, bytes);
}

/// Makes bytes accessible again, before reuse or unmapping.
pub(crate) fn open(start: NonNull<u8>, bytes: usize) {
    #[cfg(ryz_asan)]
    // SAFETY: the call writes only the sanitizer's own tables.
    unsafe {
        __asan_unpoison_memory_region(start.as_ptr().cast(), bytes);
    }
    #[cfg(not(ryz_asan))]
    let _ = (start, bytes);
}

/// Checks that freed bytes, made accessible again, are as [`overwrite`] left them.
///
/// # Safety
/// `bytes` bytes from `start` on are mapped, initialized, and exclusive to the caller.
///
/// # Panics
/// When they were written to after the free: a bug in the engine that would have corrupted another
/// buffer.
pub(crate) unsafe fn check(start: NonNull<u8>, bytes: usize) {
    // SAFETY: guaranteed by the caller.
    let freed = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
    if let Some(at) = freed.iter().position(|&byte| byte != BYTE) {
        panic!("byte {at} of {bytes} freed bytes was written");
    }
}

#[cfg(all(test, ryz_asan))]
pub(crate) fn is_closed(at: *const u8) -> bool {
    // SAFETY: the call reads only the sanitizer's own tables.
    unsafe { __asan_address_is_poisoned(at.cast()) != 0 }
}
