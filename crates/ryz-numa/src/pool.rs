//! The process-wide pools of pinned threads, and the regions that engines run on them.

use std::{
    collections::HashMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use rayon::ThreadPool;

use crate::{Poisoned, RegionError, barrier::Barrier, topology::Topology, work::split};

/// The most threads a lease may have.
const MAX_THREADS: usize = 1024;

/// Looks at a barrier before parking: about 50 µs on the machines this was tuned on, several times the longest phase
/// imbalance of a decode step and less than a scheduler's time slice.
const SPINS: u32 = 10_000;

/// Whether threads are bound to processing units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pinning {
    /// One thread on each core, then on its siblings (the default).
    #[default]
    Cores,
    /// The system places threads.
    Off,
}

/// One pool. Its gate is held for a whole region: two regions interleaved on one pool would wait for each other's
/// workers for ever.
#[derive(Debug)]
struct Pool {
    threads: ThreadPool,
    gate: Mutex<()>,
    /// More threads than processing units: waiting by spinning would keep the others from coming.
    oversubscribed: bool,
}

/// Pools live as long as the process: starting threads costs more than keeping them parked, and engines come and go.
static POOLS: LazyLock<Mutex<Pools>> = LazyLock::new(Mutex::default);

type Pools = HashMap<(usize, Pinning), Arc<Pool>>;

/// Threads of a process-wide pool, shared by all who leased as many. A clone is the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    pool: Option<Arc<Pool>>,
    threads: usize,
}

impl Lease {
    /// Leases `threads` threads. More than there are cores is allowed, and slow.
    ///
    /// # Errors
    /// [`RegionError::InvalidThreads`] for 0 or more than 1,024, [`RegionError::NoThreads`] when the system gives none.
    pub fn new(threads: usize, pinning: Pinning) -> Result<Self, RegionError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(RegionError::InvalidThreads {
                max: MAX_THREADS,
                got: threads,
            });
        }
        if threads == 1 {
            // One worker is the caller itself.
            return Ok(Self {
                pool: None,
                threads,
            });
        }
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&(threads, pinning)) {
            return Ok(Self {
                pool: Some(Arc::clone(pool)),
                threads,
            });
        }
        let pool = Arc::new(Pool::start(threads, pinning)?);
        pools.insert((threads, pinning), Arc::clone(&pool));
        Ok(Self {
            pool: Some(pool),
            threads,
        })
    }

    /// Workers of a region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `region` once on every worker and returns when all are done.
    ///
    /// # Errors
    /// [`RegionError::WorkerPanicked`] when one panicked; the others left at their next barrier.
    pub fn run(&self, region: impl Fn(&Worker<'_>) + Sync) -> Result<(), RegionError> {
        let spins = match &self.pool {
            Some(pool) if !pool.oversubscribed => SPINS,
            _ => 0,
        };
        let barrier = Barrier::new(self.threads, spins);
        let panicked = Mutex::new(None);
        let enter = |index: usize| {
            let worker = Worker {
                index,
                count: self.threads,
                barrier: &barrier,
            };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| region(&worker))) {
                let message = payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| payload.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                panicked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert((index, message));
                barrier.poison();
            }
        };
        match &self.pool {
            None => enter(0),
            Some(pool) => {
                let _gate = pool.gate.lock().unwrap_or_else(PoisonError::into_inner);
                pool.threads.broadcast(|context| enter(context.index()));
            }
        }
        match panicked
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some((worker, message)) => Err(RegionError::WorkerPanicked { worker, message }),
            None => Ok(()),
        }
    }
}

impl Pool {
    fn start(threads: usize, pinning: Pinning) -> Result<Self, RegionError> {
        let topology = Topology::detect().ok().map(Arc::new);
        let units = match &topology {
            Some(topology) => topology.cores().iter().map(|core| core.units.len()).sum(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let oversubscribed = threads > units;
        let mut builder = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("ryzanstein-{index}"));
        if let (Some(topology), Pinning::Cores, false) = (topology, pinning, oversubscribed) {
            builder = builder.start_handler(move |index| {
                if let Some(unit) = topology.unit_for(index) {
                    topology.bind_current_thread(unit);
                }
            });
        }
        let threads = builder
            .build()
            .map_err(|source| RegionError::NoThreads { threads, source })?;
        Ok(Self {
            threads,
            gate: Mutex::new(()),
            oversubscribed,
        })
    }
}

/// One of the threads in a region.
#[derive(Debug)]
pub struct Worker<'r> {
    index: usize,
    count: usize,
    barrier: &'r Barrier,
}

impl Worker<'_> {
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

    /// Waits until all workers have come.
    ///
    /// # Errors
    /// [`Poisoned`] when one panicked: return from the region.
    pub fn barrier(&self) -> Result<(), Poisoned> {
        self.barrier.wait()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// More threads than any machine's cores are among these, so that parking is exercised.
    const THREADS: [usize; 5] = [1, 2, 3, 4, 64];

    #[test]
    fn every_worker_sees_what_the_others_wrote_before_the_barrier() {
        for threads in THREADS {
            let lease = Lease::new(threads, Pinning::Cores).unwrap();
            let cells: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            lease
                .run(|worker| {
                    for round in 1..=50 {
                        cells[worker.index()].store(round, Ordering::Relaxed);
                        worker.barrier().unwrap();
                        assert!(
                            cells
                                .iter()
                                .all(|cell| cell.load(Ordering::Relaxed) == round)
                        );
                        worker.barrier().unwrap();
                    }
                })
                .unwrap();
        }
    }

    #[test]
    fn a_panic_frees_the_others_and_leaves_the_pool_usable() {
        for threads in THREADS {
            let lease = Lease::new(threads, Pinning::Cores).unwrap();
            let left_early = AtomicUsize::new(0);
            let error = lease
                .run(|worker| {
                    assert!(worker.index() != threads - 1, "on purpose");
                    while worker.barrier().is_ok() {}
                    left_early.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap_err();
            assert!(
                matches!(error, RegionError::WorkerPanicked { worker, ref message }
                if worker == threads - 1 && message == "on purpose"),
                "{error}"
            );
            assert_eq!(left_early.load(Ordering::Relaxed), threads - 1);
            let count = AtomicUsize::new(0);
            lease
                .run(|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
            assert_eq!(count.load(Ordering::Relaxed), threads);
        }
    }

    #[test]
    fn regions_of_two_owners_do_not_interleave() {
        let owners: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let lease = Lease::new(3, Pinning::Cores).unwrap();
                    for _ in 0..50 {
                        lease
                            .run(|worker| (0..5).for_each(|_| worker.barrier().unwrap()))
                            .unwrap();
                    }
                })
            })
            .collect();
        owners.into_iter().for_each(|owner| owner.join().unwrap());
    }

    #[test]
    fn impossible_thread_counts_are_typed_errors() {
        for threads in [0, MAX_THREADS + 1] {
            let error = Lease::new(threads, Pinning::Cores).unwrap_err();
            assert_eq!(error.code(), "INVALID_ARGUMENT");
        }
    }
}
