//! What is done to freed memory, so that whoever still uses it is found.
//!
//! Where [`ArenaConfig::poison`](crate::ArenaConfig::poison) says so, freed blocks are overwritten, and checked before
//! they are used again. Built for AddressSanitizer they are also closed to every access.

use std::ptr::NonNull;

/// What freed bytes become: no number, read as f32 or f16.
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
/// `bytes` bytes from `start` on are mapped, writable, and no one else's.
pub(crate) unsafe fn overwrite(start: NonNull<u8>, bytes: usize) {
    // SAFETY: promised by the caller.
    unsafe { start.write_bytes(BYTE, bytes) };
}

/// Closes bytes that no one may touch.
pub(crate) fn close(start: NonNull<u8>, bytes: usize) {
    #[cfg(ryz_asan)]
    // SAFETY: the call writes the sanitizer's own tables only.
    unsafe {
        __asan_poison_memory_region(start.as_ptr().cast(), bytes);
    }
    #[cfg(not(ryz_asan))]
    let _ = (start, bytes);
}

/// Opens closed bytes again, before they are used or unmapped.
pub(crate) fn open(start: NonNull<u8>, bytes: usize) {
    #[cfg(ryz_asan)]
    // SAFETY: the call writes the sanitizer's own tables only.
    unsafe {
        __asan_unpoison_memory_region(start.as_ptr().cast(), bytes);
    }
    #[cfg(not(ryz_asan))]
    let _ = (start, bytes);
}

/// Checks that freed bytes, opened again, are as [`overwrite`] left them.
///
/// # Safety
/// `bytes` bytes from `start` on are mapped, initialised, and no one else's.
///
/// # Panics
/// When someone wrote to them: a fault of ours that would have spoilt another's data.
pub(crate) unsafe fn check(start: NonNull<u8>, bytes: usize) {
    // SAFETY: promised by the caller.
    let freed = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
    if let Some(at) = freed.iter().position(|&byte| byte != BYTE) {
        panic!("byte {at} of {bytes} freed bytes was written");
    }
}

#[cfg(all(test, ryz_asan))]
pub(crate) fn is_closed(at: *const u8) -> bool {
    // SAFETY: the call reads the sanitizer's own tables only.
    unsafe { __asan_address_is_poisoned(at.cast()) != 0 }
}
