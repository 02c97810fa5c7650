//! The argument of an elastic region's function: the worker's identity and the work that it claims.

use std::{cell::Cell, ops::Range, time::Instant};

use crate::{crew::Crew, work::split};

/// Number of chunks in a worker's share of a phase, unless they would be too small.
const CHUNKS: usize = 8;

/// How many of its own `left` remaining chunks a worker on an uncontended core claims at a time.
/// The rest is enough for others to help with. Each claim costs about a microsecond for locks,
/// clocks and restarted streams.
fn at_once(left: u32) -> u32 {
    left - left / 4
}

/// Return from the region's function immediately: another worker panicked or stopped the region, or
/// this worker yields its core and will be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionExit;

/// One of the threads in an [elastic region](crate::Lease::run_elastic).
#[derive(Debug)]
pub struct ElasticWorker<'r> {
    index: usize,
    leads: bool,
    /// `None` if it is the only worker, which needs no claims.
    crew: Option<&'r Crew>,
    /// The workers that it helps first.
    group: Range<usize>,
    phase: Cell<u32>,
    /// Chunks of all phases so far, finished or not.
    due: Cell<u64>,
    away: Cell<bool>,
    /// Whether it holds a chunk.
    busy: Cell<bool>,
    /// Whether it stopped the region, if it is the only worker.
    stopped: Cell<bool>,
}

/// How the items of a phase are cut: a worker's share in [`CHUNKS`] parts, within these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Chunks consist of whole granules; the last granule may be short.
    pub granule: usize,
    /// Minimum items per chunk, if its share has that many.
    pub least: usize,
    /// Maximum items per chunk, if at least `least`.
    pub most: usize,
}

impl Chunks {
    /// Chunks of whole granules, without other bounds.
    pub fn of(granule: usize) -> Self {
        Self {
            granule,
            least: 1,
            most: usize::MAX,
        }
    }
}

/// The shares and chunks of a phase's items; identical for every worker.
struct Cut {
    len: usize,
    granule: usize,
    workers: usize,
    /// Items per chunk.
    chunk: usize,
}

impl Cut {
    fn new(len: usize, chunks: Chunks, workers: usize) -> Self {
        let granule = chunks.granule.max(1);
        let share = len.div_ceil(granule).div_ceil(workers);
        // Chunks of equal size, instead of minimum-size ones and a remainder.
        let count = (share / chunks.least.div_ceil(granule).max(1)).clamp(1, CHUNKS);
        let count = count.max(share.div_ceil((chunks.most / granule).max(1)));
        let chunk = share.div_ceil(count).max(1);
        Self {
            len,
            granule,
            workers,
            chunk: chunk.saturating_mul(granule),
        }
    }

    fn share(&self, worker: usize) -> Range<usize> {
        split(self.len, self.granule, worker, self.workers)
    }

    /// Chunks of all shares: some shares have one more granule, and the last may end within one.
    fn all_chunks(&self) -> usize {
        let granules = self.len.div_ceil(self.granule);
        let (each, more) = (granules / self.workers, granules % self.workers);
        let of = |granules: usize| (granules * self.granule).div_ceil(self.chunk);
        of(each + 1) * more + of(each) * (self.workers - more)
    }
}

impl<'r> ElasticWorker<'r> {
    pub(crate) fn new(index: usize, crew: &'r Crew, group: Range<usize>, leads: bool) -> Self {
        Self {
            index,
            leads,
            crew: Some(crew),
            group,
            ..Self::alone()
        }
    }

    pub(crate) fn alone() -> Self {
        Self {
            index: 0,
            leads: true,
            crew: None,
            group: 0..1,
            phase: Cell::new(0),
            due: Cell::new(0),
            away: Cell::new(false),
            busy: Cell::new(false),
            stopped: Cell::new(false),
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.get()
    }

    /// Its index, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Maximum number of workers.
    pub fn count(&self) -> usize {
        self.crew.map_or(1, Crew::workers)
    }

    /// Whether it was the first to arrive; exactly one worker is.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Its share of `len` items in whole granules; see [`split`]. Others may do parts of it.
    pub fn split(&self, len: usize, granule: usize) -> Range<usize> {
        split(len, granule, self.index, self.count())
    }

    /// Does its part of a phase's `len` items: chunks of its own share, then of others' shares,
    /// until all are claimed.
    ///
    /// Every worker must call the same phases with the same arguments.
    ///
    /// # Errors
    /// [`RegionExit`]: return.
    pub fn share(
        &self,
        len: usize,
        chunks: Chunks,
        mut work: impl FnMut(Range<usize>),
    ) -> Result<(), RegionExit> {
        let Some(crew) = self.crew else {
            if self.stopped.get() {
                return Err(RegionExit);
            }
            if len > 0 {
                work(0..len);
            }
            return Ok(());
        };
        assert!(!self.busy.get(), "a phase within a chunk of another");
        let cut = Cut::new(len, chunks, crew.workers());
        self.phase.set(self.phase.get() + 1);
        self.due.set(self.due.get() + cut.all_chunks() as u64);
        let (near, all) = (self.group.clone(), 0..crew.workers());
        self.take(crew, &cut, self.index, &mut work)?;
        let others = (self.index + 1..near.end)
            .chain(near.start..self.index)
            .chain(near.end..all.end)
            .chain(all.start..near.start);
        for owner in others {
            self.take(crew, &cut, owner, &mut work)?;
        }
        Ok(())
    }

    /// Claims the rest of a share.
    fn take(
        &self,
        crew: &Crew,
        cut: &Cut,
        owner: usize,
        work: &mut impl FnMut(Range<usize>),
    ) -> Result<(), RegionExit> {
        let (share, phase) = (cut.share(owner), self.phase.get());
        let chunks = share.len().div_ceil(cut.chunk) as u32;
        if chunks == 0 || crew.is_claimed(owner, phase, chunks) {
            return Ok(());
        }
        if owner != self.index {
            crew.let_begin(owner, phase);
        }
        let slice = crew.slice(self.index);
        let mut done = 0;
        let mut now = Instant::now();
        let mut result = Ok(());
        loop {
            if crew.is_stopped() {
                result = Err(RegionExit);
                break;
            }
            if slice.is_over(now) && crew.gives_way(now) {
                self.away.set(true);
                result = Err(RegionExit);
                break;
            }
            let many = owner == self.index && !slice.is_contended(now);
            let want = |left: u32| if many { at_once(left) } else { 1 };
            let Some(claimed) = crew.claim(owner, phase, chunks, want) else {
                break;
            };
            let start = share.start + claimed.start as usize * cut.chunk;
            let end = share.start + claimed.end as usize * cut.chunk;
            self.busy.set(true);
            work(start..share.end.min(end));
            self.busy.set(false);
            done += claimed.len() as u64;
            let end = Instant::now();
            slice.worked(now, end);
            now = end;
        }
        if done > 0 {
            crew.add_done(done);
        }
        result
    }

    /// Waits until all items of all phases so far are done. Everything done in them happens before
    /// anything any worker does afterwards.
    ///
    /// # Errors
    /// [`RegionExit`]: return.
    pub fn barrier(&self) -> Result<(), RegionExit> {
        let Some(crew) = self.crew else {
            return if self.stopped.get() {
                Err(RegionExit)
            } else {
                Ok(())
            };
        };
        assert!(!self.busy.get(), "a barrier within a chunk");
        match crew.wait(self.due.get()) {
            Some(parked) => {
                if parked {
                    crew.slice(self.index).wake(Instant::now());
                }
                Ok(())
            }
            None => Err(RegionExit),
        }
    }

    /// Ends the region early, for a cancelled step or an error stored elsewhere: the others get
    /// [`RegionExit`]. This is not an error: [`Lease::run_elastic`](crate::Lease::run_elastic)
    /// returns `Ok`.
    pub fn stop(&self) {
        match self.crew {
            Some(crew) => crew.stop(),
            None => self.stopped.set(true),
        }
    }
}
