//! The argument of a region's function: the worker's identity and its barrier.

use std::ops::Range;

use crate::{Poisoned, barrier::Barrier, work::split};

/// One of the threads in a region.
#[derive(Debug)]
pub struct Worker<'r> {
    index: usize,
    count: usize,
    barrier: &'r Barrier,
}

impl<'r> Worker<'r> {
    pub(crate) fn new(index: usize, count: usize, barrier: &'r Barrier) -> Self {
        Self {
            index,
            count,
            barrier,
        }
    }

    /// Its index, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers in the region.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Its share of `len` items in whole granules; see [`split`].
    pub fn split(&self, len: usize, granule: usize) -> Range<usize> {
        split(len, granule, self.index, self.count)
    }

    /// Waits for all workers; returns `Ok` exactly when all have arrived. Everything a worker did
    /// before happens before anything any worker does afterwards.
    ///
    /// # Errors
    /// [`Poisoned`] when the region ends early, because a worker panicked, [stopped](Worker::stop)
    /// it or left it: return.
    pub fn barrier(&self) -> Result<(), Poisoned> {
        self.barrier.wait()
    }

    /// Ends the region early, for a cancelled step or an error stored elsewhere: the others get
    /// [`Poisoned`] at their current or next barrier. This is not an error:
    /// [`Lease::run`](crate::Lease::run) returns `Ok`. Workers need not agree: the first one with a
    /// reason stops all.
    pub fn stop(&self) {
        self.barrier.stop();
    }
}
