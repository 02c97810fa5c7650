//! What a region's function is given: which worker it is, and where it meets the others.

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

    /// Workers in the region.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Its share of `len` items in whole granules; see [`split`].
    pub fn split(&self, len: usize, granule: usize) -> Range<usize> {
        split(len, granule, self.index, self.count)
    }

    /// Waits until all workers have come: `Ok` exactly when they have. What each did before happens before what any does
    /// after.
    ///
    /// # Errors
    /// [`Poisoned`] when the region ends early, because one panicked, [stopped](Worker::stop) it or left it: return.
    pub fn barrier(&self) -> Result<(), Poisoned> {
        self.barrier.wait()
    }

    /// Ends the region early, for a cancelled step or an error that the function keeps elsewhere: the others get
    /// [`Poisoned`] at the barrier where they wait, or at their next. It is no fault: [`Lease::run`](crate::Lease::run)
    /// returns `Ok`. Workers need not agree on it: whoever sees a reason first stops all.
    pub fn stop(&self) {
        self.barrier.stop();
    }
}
