//! Asking for memory before it is read.
//!
//! A stream of weights is read once and in order, and still a processor's own prefetcher stops at pages and starts anew at
//! every tile. Asking for the line that comes some lines later hides the whole way to memory. How far ahead is a matter of
//! the machine: too near comes too late, too far pushes out what is still to be read.

use crate::LINE;

/// Decides what is asked for ahead of a reader: a distance in cache lines, 0 for nothing. Reading ahead is a hint: it never
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
    /// 0 for none.
    bytes: usize,
}

impl Default for PrefetchManager {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LINES)
    }
}

impl PrefetchManager {
    /// Nothing is asked for.
    pub const OFF: Self = Self { bytes: 0 };
    /// The default distance: 64 lines, 4 KiB. `docs/tmac.md` has the measurement.
    pub const DEFAULT_LINES: usize = 64;
    /// The greatest distance: 1 MiB, a second-level cache.
    pub const MAX_LINES: usize = 1 << 14;

    /// Asks `lines` ahead; 0 for nothing.
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

    /// The distance.
    pub const fn lines(self) -> usize {
        self.bytes / LINE
    }

    /// Asks for what is the distance behind `at` in a stream: call it once for each line that is read. It may be past the
    /// end, where the next stream often begins.
    #[inline(always)]
    pub fn ahead<T>(self, at: &T) {
        if self.bytes != 0 {
            near(std::ptr::from_ref(at).cast::<u8>().wrapping_add(self.bytes));
        }
    }

    /// Asks for what lies `stride` bytes behind a block, in the next of several rows that are read together: to a processor's
    /// own prefetcher they are many short streams. How far that is follows from the rows, not from the distance; only no
    /// distance switches it off.
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

    /// Asks for one line, of a reader that gathers scattered ones and knows by itself which come next: only no distance
    /// switches it off. Into the second-level cache: a core waits for more lines there than its first level has places for,
    /// and scattered lines have no other help (Zen 4: 2.4 times as fast as into the first level).
    #[inline(always)]
    pub fn line<T>(self, line: &T) {
        if self.bytes != 0 {
            far(std::ptr::from_ref(line).cast());
        }
    }

    /// Asks for all lines of the row that is the distance, in whole rows, behind place `at` of a list of rows that have
    /// `row_lines` lines each: for readers that leave rows out. Past the end of the list, or for a row past the lines, nothing is
    /// asked for. Into the second-level cache, as [`PrefetchManager::line`] does.
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

    /// Asks for the first `lines` cache lines of a stream that will be read soon, into the second-level cache: in a phase
    /// that leaves memory idle. It does not look at the distance.
    pub fn first<T>(stream: &[T], lines: usize) {
        let start = stream.as_ptr().cast::<u8>();
        for offset in (0..size_of_val(stream)).step_by(LINE).take(lines) {
            far(start.wrapping_add(offset));
        }
    }
}

/// Into the first-level cache.
#[inline(always)]
fn near(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, wherever it points, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Into the second-level cache.
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
