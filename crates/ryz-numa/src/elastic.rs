//! What an elastic region's function is given: which worker it is, and the work that it claims.

use std::{cell::Cell, ops::Range, time::Instant};

use crate::{crew::Crew, work::split};

/// Chunks into which a worker's share of a phase is cut, where they are not too small then.
const CHUNKS: usize = 8;

/// How many of its own chunks that are left a worker claims at a time, whose core nobody else wants. What is left after it is enough for
/// others to help it with; each claim costs a microsecond of locks, clocks and streams that begin anew.
fn at_once(left: u32) -> u32 {
    left - left / 4
}

/// Return from the region's function, and keep nothing back: another worker panicked or stopped the region, or this one gives its
/// core away and will be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionExit;

/// One of the threads in an [elastic region](crate::Lease::run_elastic).
#[derive(Debug)]
pub struct ElasticWorker<'r> {
    index: usize,
    leads: bool,
    /// `None`: it is alone, and nothing has to be claimed.
    crew: Option<&'r Crew>,
    /// Whom it helps first.
    group: Range<usize>,
    phase: Cell<u32>,
    /// Chunks of the phases so far, done or not.
    due: Cell<u64>,
    away: Cell<bool>,
    /// Whether it has a chunk.
    busy: Cell<bool>,
    /// Whether it stopped the region, where it is alone.
    stopped: Cell<bool>,
}

/// How the items of a phase are cut: a worker's share in [`CHUNKS`], but for these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Chunks are of whole granules; the last item ends one, too.
    pub granule: usize,
    /// Items that a chunk has at least, where its share has as many.
    pub least: usize,
    /// Items that a chunk has at most, when they are `least` or more.
    pub most: usize,
}

impl Chunks {
    /// Whole granules.
    pub fn of(granule: usize) -> Self {
        Self {
            granule,
            least: 1,
            most: usize::MAX,
        }
    }
}

/// How the items of a phase lie in shares and chunks: the same for every worker.
struct Cut {
    len: usize,
    granule: usize,
    workers: usize,
    /// Items of a chunk.
    chunk: usize,
}

impl Cut {
    fn new(len: usize, chunks: Chunks, workers: usize) -> Self {
        let granule = chunks.granule.max(1);
        let share = len.div_ceil(granule).div_ceil(workers);
        // Chunks of one size, not one of the least size and what is left.
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

    /// Of all shares: some have a granule more than the others, and the last may end within one.
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

    /// Workers that there may be.
    pub fn count(&self) -> usize {
        self.crew.map_or(1, Crew::workers)
    }

    /// Whether it was the first to come: one worker is, whoever comes.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Its share of `len` items in whole granules; see [`split`]. Others may do parts of it.
    pub fn split(&self, len: usize, granule: usize) -> Range<usize> {
        split(len, granule, self.index, self.count())
    }

    /// Does its part of a phase's `len` items: chunks of its own share, then of others' shares, until all are claimed.
    ///
    /// Every worker must come to the same phases with the same arguments.
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

    /// Claims what is left of a share.
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

    /// Waits until all items of all phases so far are done. What was done in them happens before what any worker does after.
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

    /// Ends the region early, for a cancelled step or an error that the function keeps elsewhere: the others get [`RegionExit`]. It is no
    /// fault: [`Lease::run_elastic`](crate::Lease::run_elastic) returns `Ok`.
    pub fn stop(&self) {
        match self.crew {
            Some(crew) => crew.stop(),
            None => self.stopped.set(true),
        }
    }
}
