//! Software prefetching.
//!
//! Although a stream of weights is read once and in order, a processor's hardware prefetcher stops
//! at page boundaries and restarts at every tile. Prefetching a line some lines ahead hides the
//! entire memory latency. The best distance depends on the machine: a short one arrives too late, a
//! long one evicts data that is still needed.

use crate::LINE;

/// The prefetch distance in cache lines; 0 disables prefetching. A prefetch is a hint: it never
/// faults and never changes a result.
///
/// ```
/// use ryz_tmac::PrefetchManager;
///
/// let stream = [[0u8; 64]; 100];
/// let prefetch = PrefetchManager::new(16);
/// let mut sum = 0;
/// for line in &stream {
///     prefetch.ahead(line); // the line 16 lines further on
///     sum += u32::from(line[0]);
/// }
/// assert_eq!((sum, PrefetchManager::OFF.lines()), (0, 0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefetchManager {
    /// Distance in bytes; 0 disables it.
    bytes: usize,
}

impl Default for PrefetchManager {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LINES)
    }
}

impl PrefetchManager {
    /// No prefetching.
    pub const OFF: Self = Self { bytes: 0 };
    /// The default distance: 64 lines, 4 KiB. `docs/tmac.md` has the measurement.
    pub const DEFAULT_LINES: usize = 64;
    /// The maximum distance: 1 MiB, the size of an L2 cache.
    pub const MAX_LINES: usize = 1 << 14;

    /// Prefetches `lines` ahead; 0 disables it.
    ///
    /// # Panics
    /// When it is more than [`PrefetchManager::MAX_LINES`].
    pub const fn new(lines: usize) -> Self {
        assert!(
            lines <= Self::MAX_LINES,
            "prefetching further than a cache holds"
        );
        Self {
            bytes: lines * LINE,
        }
    }

    /// The distance in lines.
    pub const fn lines(self) -> usize {
        self.bytes / LINE
    }

    /// Prefetches one distance after `at` in a stream: call it once for each line read. The address
    /// may be past the end, where the next stream often begins.
    #[inline(always)]
    pub fn ahead<T>(self, at: &T) {
        if self.bytes != 0 {
            near(std::ptr::from_ref(at).cast::<u8>().wrapping_add(self.bytes));
        }
    }

    /// Prefetches `stride` bytes after a block, in the next of several rows that are read together,
    /// which a hardware prefetcher sees as many short streams. The rows determine how far ahead
    /// this is; a distance of 0 disables it.
    #[inline(always)]
    pub fn rows(self, block: &[u8], stride: usize) {
        if self.bytes == 0 {
            return;
        }
        let start = block.as_ptr().wrapping_add(stride);
        let mut offset = 0;
        while offset < block.len() {
            near(start.wrapping_add(offset));
            offset += LINE;
        }
    }

    /// Prefetches one line into the L2 cache, for a reader that gathers scattered lines and knows
    /// which come next; a distance of 0 disables it. L2 is used because a core can have more
    /// outstanding misses there than L1 allows, and hardware prefetchers do not help with scattered
    /// lines (Zen 4: 2.4 times as fast as prefetching into L1).
    #[inline(always)]
    pub fn line<T>(self, line: &T) {
        if self.bytes != 0 {
            far(std::ptr::from_ref(line).cast());
        }
    }

    /// Prefetches all lines of the row that is the distance, in whole rows, after position `at` of
    /// a list of rows with `row_lines` lines each, for readers that skip rows. Does nothing past
    /// the end of the list, or for a row past the lines. Prefetches into the L2 cache, as
    /// [`PrefetchManager::line`] does.
    #[inline(always)]
    pub fn gathered_rows<T>(self, lines: &[T], row_lines: usize, list: &[u32], at: usize) {
        if self.bytes == 0 {
            return;
        }
        let next = list.get(at + (self.bytes / LINE).div_ceil(row_lines.max(1)));
        let row = next.and_then(|&row| lines.get(row as usize * row_lines..));
        for line in row.unwrap_or_default().iter().take(row_lines) {
            far(std::ptr::from_ref(line).cast());
        }
    }

    /// Prefetches the first `lines` cache lines of a stream that is read soon into the L2 cache, in
    /// a phase that leaves memory idle. Ignores the distance.
    pub fn first<T>(stream: &[T], lines: usize) {
        let start = stream.as_ptr().cast::<u8>();
        for offset in (0..size_of_val(stream)).step_by(LINE).take(lines) {
            far(start.wrapping_add(offset));
        }
    }
}

/// Into the L1 cache.
#[inline(always)]
fn near(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, whatever its address, and every x86-64 processor
        // supports it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Into the L2 cache.
#[inline(always)]
fn far(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_what_was_asked_for() {
        assert_eq!(PrefetchManager::default().lines(), 64);
        assert_eq!(PrefetchManager::new(0), PrefetchManager::OFF);
        assert_eq!(
            PrefetchManager::new(PrefetchManager::MAX_LINES).lines(),
            1 << 14
        );
    }

    #[test]
    fn asking_past_the_end_is_harmless() {
        let lines = [[7u8; 64]; 3];
        for distance in [0, 1, 64, PrefetchManager::MAX_LINES] {
            let prefetch = PrefetchManager::new(distance);
            lines.iter().for_each(|line| prefetch.ahead(line));
            lines.iter().for_each(|line| prefetch.line(line));
            for at in 0..5 {
                prefetch.gathered_rows(&lines, 2, &[0, 1, 900], at);
            }
            PrefetchManager::first(&lines, distance);
            prefetch.rows(lines.as_flattened(), 1 << 20);
            PrefetchManager::first::<[u8; 64]>(&[], distance);
        }
        assert_eq!(lines, [[7; 64]; 3]);
    }

    #[test]
    #[should_panic(expected = "further than a cache holds")]
    fn a_distance_beyond_any_cache_is_refused() {
        let _ = PrefetchManager::new(PrefetchManager::MAX_LINES + 1);
    }
}
