//! The workers of an elastic region: present workers do all of the work, and only workers that hold
//! a chunk are waited for.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use crate::{
    ElasticWorker, RegionError,
    error::panic_message,
    parking::{CachePadded, Parking},
    timeslice::Timeslice,
};

/// How long a worker lets another one begin its own share.
const MOMENT: Duration = Duration::from_micros(5);

/// The function of a region, with its lifetime erased; see [`Gate::task`].
type Task = dyn Fn(&ElasticWorker<'_>) + Sync;

/// State shared by a team's workers over successive elastic regions. Created once, so that a region
/// allocates nothing here.
#[derive(Debug)]
pub(crate) struct Crew {
    members: Box<[CachePadded<Member>]>,
    /// Finished chunks of all phases of the region. Phases are sequential, so it needs no reset
    /// within a region.
    done: CachePadded<AtomicU64>,
    stopped: AtomicBool,
    parking: Parking,
    gate: Mutex<Gate>,
    /// Signals the end of the region.
    over: Condvar,
}

/// One worker's state, visible to the others.
#[derive(Debug, Default)]
struct Member {
    /// Chunks claimed from its share, in the latest phase with any claims; see [`Crew::claim`].
    claims: AtomicU64,
    /// Whether it is in the region.
    present: AtomicBool,
    slice: Timeslice,
}

/// Admission to the region.
#[derive(Default)]
struct Gate {
    /// Counts regions, so that a late thread does not enter the wrong one.
    region: u64,
    /// The function of the open region. Only workers counted in `inside` may call it, and only
    /// while counted.
    task: Option<&'static Task>,
    /// Number of workers in the region.
    inside: usize,
    /// Whether a worker reached the end, so that all chunks are claimed, or the region was stopped.
    finished: bool,
    /// The first worker to arrive.
    leader: Option<usize>,
    panicked: Option<(usize, String)>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "region {}, {} workers inside", self.region, self.inside)
    }
}

impl Crew {
    pub fn new(workers: usize, spin: Duration) -> Self {
        Self {
            members: (0..workers).map(|_| CachePadded::default()).collect(),
            done: CachePadded::default(),
            stopped: AtomicBool::new(false),
            parking: Parking::new(spin),
            gate: Mutex::default(),
            over: Condvar::new(),
        }
    }

    pub fn workers(&self) -> usize {
        self.members.len()
    }

    /// Opens a region, has `call` announce its number to the workers, and returns when a worker has
    /// reached the end and none is inside. Regions must not overlap; the caller holds the pools'
    /// gates.
    pub fn run(
        &self,
        task: &(dyn Fn(&ElasticWorker<'_>) + Sync),
        call: impl FnOnce(u64),
    ) -> Result<(), RegionError> {
        for member in &self.members {
            member.0.claims.store(0, Relaxed);
        }
        self.done.0.store(0, Relaxed);
        self.stopped.store(false, Relaxed);
        // SAFETY: only the lifetime changes. The reference is called only between `enter` and
        // `leave`. `Over`, dropped before this function returns or unwinds, removes the reference
        // and waits until all workers that entered have left.
        let task = unsafe {
            std::mem::transmute::<&(dyn Fn(&ElasticWorker<'_>) + Sync), &'static Task>(task)
        };
        let over = RegionGuard(self);
        let region = {
            let mut gate = self.gate();
            *gate = Gate {
                region: gate.region + 1,
                task: Some(task),
                ..Gate::default()
            };
            gate.region
        };
        call(region);
        {
            let mut gate = self.gate();
            while gate.task.is_some() {
                gate = self.over.wait(gate).unwrap_or_else(PoisonError::into_inner);
            }
        }
        drop(over);
        match self.gate().panicked.take() {
            Some((worker, message)) => Err(RegionError::WorkerPanicked { worker, message }),
            None => Ok(()),
        }
    }

    /// Works in region `region` as worker `index` until it is over. Helps the workers of `group`
    /// first.
    pub fn work(&self, region: u64, index: usize, group: Range<usize>) {
        let member = &self.members[index].0;
        member.slice.wake(Instant::now());
        while let Some((task, leads)) = self.enter(region, index) {
            member.present.store(true, Relaxed);
            let worker = ElasticWorker::new(index, self, group.clone(), leads);
            let result = catch_unwind(AssertUnwindSafe(|| task(&worker)));
            member.present.store(false, Relaxed);
            let away = worker.is_away() && result.is_ok();
            self.leave(
                index,
                away,
                result.err().map(|panic| panic_message(&*panic)),
            );
            if !away {
                return;
            }
            // Outside the region, which may end meanwhile.
            member.slice.give_away();
        }
    }

    fn enter(&self, region: u64, index: usize) -> Option<(&'static Task, bool)> {
        let mut gate = self.gate();
        let task = gate.task.filter(|_| gate.region == region)?;
        gate.inside += 1;
        let leader = *gate.leader.get_or_insert(index);
        Some((task, leader == index))
    }

    fn leave(&self, index: usize, away: bool, panicked: Option<String>) {
        if panicked.is_some() {
            self.stop();
        }
        let mut gate = self.gate();
        gate.inside -= 1;
        gate.finished |= !away;
        if let Some(message) = panicked {
            gate.panicked.get_or_insert((index, message));
        }
        if gate.finished && gate.inside == 0 {
            gate.task = None;
            self.over.notify_all();
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims chunks of worker `owner`'s share in a phase. The share has `chunks` chunks; `want`
    /// maps the remaining number to the number to claim, at least one.
    ///
    /// Each share has one counter: phase in the upper half, claimed chunks in the lower half. An
    /// earlier phase in it means that nothing is claimed in this phase yet. A later phase means
    /// that the share is used up, because a phase begins only when all chunks of the phases before
    /// it are claimed. It therefore needs no reset within a region, and a worker that is behind
    /// finds nothing to claim.
    pub fn claim(
        &self,
        owner: usize,
        phase: u32,
        chunks: u32,
        want: impl Fn(u32) -> u32,
    ) -> Option<Range<u32>> {
        let counter = &self.members[owner].0.claims;
        let mut seen = counter.load(Relaxed);
        loop {
            let claimed = match ((seen >> 32) as u32).cmp(&phase) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => seen as u32,
                std::cmp::Ordering::Greater => return None,
            };
            if claimed >= chunks {
                return None;
            }
            let left = chunks - claimed;
            let end = claimed + want(left).clamp(1, left);
            let next = u64::from(phase) << 32 | u64::from(end);
            match counter.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return Some(claimed..end),
                Err(other) => seen = other,
            }
        }
    }

    /// Counts chunks as done: writes in them happen before anything after [`Crew::wait`].
    pub fn add_done(&self, chunks: u64) {
        self.done.0.fetch_add(chunks, SeqCst);
        self.parking.wake();
    }

    /// Waits until `chunks` of the region are done. Returns whether it parked; `None` if the region
    /// was stopped.
    pub fn wait(&self, chunks: u64) -> Option<bool> {
        let is_done = || self.done.0.load(SeqCst) >= chunks;
        let parked = self.parking.wait(|| is_done() || self.is_stopped());
        is_done().then_some(parked)
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    pub fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.parking.wake();
    }

    /// Whether all `chunks` of a share are claimed in a phase.
    pub fn is_claimed(&self, owner: usize, phase: u32, chunks: u32) -> bool {
        self.members[owner].0.claims.load(Relaxed) >= u64::from(phase) << 32 | u64::from(chunks)
    }

    /// Gives worker `owner`, if present, a moment to begin its share of a phase itself, because its
    /// caches hold the data. On a quiet machine it arrives at once.
    pub fn let_begin(&self, owner: usize, phase: u32) {
        let member = &self.members[owner].0;
        let has_begun = || (member.claims.load(Relaxed) >> 32) as u32 >= phase;
        if has_begun() || !member.present.load(Relaxed) || self.parking.never_spins() {
            return;
        }
        let since = Instant::now();
        while !has_begun() && since.elapsed() < MOMENT {
            std::hint::spin_loop();
        }
    }

    /// A worker's time-slice estimate for its core.
    pub fn slice(&self, worker: usize) -> &Timeslice {
        &self.members[worker].0.slice
    }

    /// Whether a worker at the end of its time slice should yield its core: only while at most half
    /// of the cores are contended. With more contended cores, a worker that continues alone soon
    /// needs the others, so it is better if all run and wait at the same times.
    pub fn gives_way(&self, now: Instant) -> bool {
        let contended = (self.members.iter()).filter(|member| member.0.slice.is_contended(now));
        contended.count() * 2 <= self.members.len()
    }
}

/// Ends a region, however its caller exits.
struct RegionGuard<'c>(&'c Crew);

impl Drop for RegionGuard<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.gate();
        gate.task = None;
        if gate.inside > 0 {
            self.0.stop();
        }
        while gate.inside > 0 {
            gate.finished = true;
            gate = self
                .0
                .over
                .wait(gate)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::Chunks;

    /// One of two workers is present, and its core is contended from the start.
    #[test]
    fn a_worker_whose_core_is_about_to_be_taken_leaves_and_comes_back() {
        let crew = Crew::new(2, Duration::ZERO);
        let chunks = Chunks {
            most: 1,
            ..Chunks::of(1)
        };
        // A machine that interrupts every chunk shows nothing, so retry.
        for _ in 0..100 {
            let (start, slice) = (Instant::now(), Duration::from_millis(2));
            crew.slice(0).worked(start, start + slice);
            crew.slice(0).worked(start + slice, start + 2 * slice);
            let (calls, items) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 64]);
            let region = |worker: &ElasticWorker<'_>| {
                calls.fetch_add(1, Relaxed);
                for _ in 0..2 {
                    let phase = worker.share(64, chunks, |some| {
                        std::thread::sleep(Duration::from_micros(100));
                        items[some.start].fetch_add(1, Relaxed);
                    });
                    if phase.and_then(|()| worker.barrier()).is_err() {
                        return;
                    }
                }
            };
            crew.run(&region, |number| crew.work(number, 0, 0..2))
                .unwrap();
            assert!(items.iter().all(|count| count.load(Relaxed) == 2));
            if calls.into_inner() > 1 {
                return;
            }
        }
        panic!("it never left");
    }

    #[test]
    fn a_region_that_is_over_is_not_entered() {
        let crew = Crew::new(2, Duration::ZERO);
        let calls = AtomicUsize::new(0);
        let region = |_: &ElasticWorker<'_>| {
            calls.fetch_add(1, Relaxed);
        };
        for round in 1..=3 {
            crew.run(&region, |number| {
                crew.work(number, 0, 0..2);
                crew.work(number, 1, 0..2);
                crew.work(number - 1, 1, 0..2);
            })
            .unwrap();
            assert_eq!(calls.load(Relaxed), round);
        }
    }

    #[test]
    fn claims_of_a_phase_end_when_a_later_one_begins() {
        let crew = Crew::new(1, Duration::ZERO);
        let claims = |phase, chunks| {
            let claimed = crew.claim(0, phase, chunks, |_| 1)?;
            assert_eq!(claimed.len(), 1);
            Some(claimed.start)
        };
        assert_eq!(
            [claims(1, 2), claims(1, 2), claims(1, 2)],
            [Some(0), Some(1), None]
        );
        assert_eq!(
            [claims(2, 0), claims(4, 3), claims(2, 5), claims(3, 5)],
            [None, Some(0), None, None]
        );
        assert_eq!(claims(4, 3), Some(1));
    }

    #[test]
    fn several_are_claimed_of_those_that_are_left() {
        let crew = Crew::new(1, Duration::ZERO);
        let claims = |want: u32| crew.claim(0, 1, 8, |left| want.min(left + 1));
        assert_eq!(claims(5), Some(0..5));
        assert_eq!(claims(0), Some(5..6), "one at least");
        assert_eq!(claims(100), Some(6..8), "not more than there are");
        assert_eq!(claims(1), None);
    }
}
