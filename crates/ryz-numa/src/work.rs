//! Work distribution: fixed shares, and a queue of chunks.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The share of worker `index` of `count` in `len` items, in whole granules (the last one may be
/// short). Shares are contiguous in worker order and differ by at most one granule.
///
/// # Panics
/// When there is no such worker.
pub fn split(len: usize, granule: usize, index: usize, count: usize) -> Range<usize> {
    assert!(index < count, "worker {index} of {count}");
    let granule = granule.max(1);
    let granules = len.div_ceil(granule);
    let (each, rest) = (granules / count, granules % count);
    let first = index * each + index.min(rest);
    let last = first + each + usize::from(index < rest);
    let item = |granules: usize| granules.saturating_mul(granule).min(len);
    item(first)..item(last)
}

/// The chunks of a phase, taken by idle workers, so that a slow core costs little.
#[derive(Debug, Default)]
pub struct WorkQueue(AtomicUsize);

/// One chunk, owned exclusively.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk(Range<usize>);

impl Chunk {
    /// Its items.
    pub fn range(&self) -> Range<usize> {
        self.0.clone()
    }
}

impl WorkQueue {
    /// A queue at its first chunk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk of up to `granule` of `len` items; `None` once all are taken.
    pub fn next(&self, len: usize, granule: usize) -> Option<Chunk> {
        let granule = granule.max(1);
        let first = self
            .0
            .fetch_add(1, Ordering::Relaxed)
            .checked_mul(granule)?;
        (first < len).then(|| Chunk(first..first.saturating_add(granule).min(len)))
    }

    /// Restarts the queue; call it between two barriers, on one worker.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once_in_whole_granules() {
        for len in 0..70 {
            for granule in 1..9 {
                for count in 1..6 {
                    let mut next = 0;
                    for index in 0..count {
                        let share = split(len, granule, index, count);
                        assert_eq!(
                            share.start,
                            next.min(len),
                            "{len} {granule} {index}/{count}"
                        );
                        assert!(share.start.is_multiple_of(granule) || share.start == len);
                        next = share.end;
                    }
                    assert_eq!(next, len);
                }
            }
        }
    }

    #[test]
    fn a_queue_hands_out_every_item_once() {
        let queue = WorkQueue::new();
        let chunks: Vec<_> = std::iter::from_fn(|| queue.next(10, 4))
            .map(|chunk| chunk.range())
            .collect();
        assert_eq!(chunks, [0..4, 4..8, 8..10]);
        queue.reset();
        assert_eq!(queue.next(10, 4).unwrap().range(), 0..4);
    }
}
