//! The process-wide pools of pinned threads, and the regions that engines run on them.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use rayon::ThreadPool;

use crate::{
    CpuBudget, Pinning, Placement, RegionError, Worker, barrier::Barrier, error::panic_message,
    placement::place,
};

/// The most threads a lease may have.
const MAX_THREADS: usize = 1024;

/// How long a worker spins at a barrier before it parks: several times the imbalance of a phase of a decode step, and
/// less than a scheduler's time slice.
const SPIN: Duration = Duration::from_micros(50);

/// One pool. Its gate is held for a whole region: two regions interleaved on one pool would wait for each other's
/// workers for ever.
#[derive(Debug)]
struct Pool {
    threads: ThreadPool,
    gate: Mutex<()>,
    placement: Placement,
    spin: Duration,
}

/// A pool outlives its leases, because engines come and go and starting threads costs more than keeping them parked;
/// it ends when it has none and another size is asked for, so that sizes do not pile up.
static POOLS: LazyLock<Mutex<Pools>> = LazyLock::new(Mutex::default);

type Pools = HashMap<(usize, Pinning), Arc<Pool>>;

/// What a lease of one thread says: the caller is its worker.
static INLINE: Placement = Placement::Caller;

/// Threads of a process-wide pool, shared by all who leased as many. A clone is the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// `None`: one worker, which is the caller itself.
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
        let pool = if threads == 1 {
            None
        } else {
            Some(Pool::shared(threads, pinning)?)
        };
        Ok(Self { pool, threads })
    }

    /// Workers of a region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where the threads run, and when the system places them, why.
    pub fn placement(&self) -> &Placement {
        self.pool.as_ref().map_or(&INLINE, |pool| &pool.placement)
    }

    /// Runs `region` once on every worker and returns when all are done. A region of another engine on the same pool is
    /// waited for. Every worker must come to the same barriers, unless one [stops](Worker::stop) the region.
    ///
    /// It costs one rayon broadcast (with rayon's few small allocations); with one thread, a call.
    ///
    /// # Errors
    /// [`RegionError::WorkerPanicked`] when one panicked, [`RegionError::UnevenBarriers`] when one returned while others
    /// waited for it: the others left at their barrier. [`RegionError::Nested`], before anything runs, when the caller
    /// is itself a thread of a rayon pool and more than one thread is leased.
    pub fn run(&self, region: impl Fn(&Worker<'_>) + Sync) -> Result<(), RegionError> {
        let spin = self.pool.as_ref().map_or(Duration::ZERO, |pool| pool.spin);
        let barrier = Barrier::new(self.threads, spin);
        let panicked = Mutex::new(None);
        let enter = |index: usize| {
            let worker = Worker::new(index, self.threads, &barrier);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| region(&worker))) {
                panicked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert_with(|| (index, panic_message(&*payload)));
                barrier.stop();
            }
            barrier.leave();
        };
        match &self.pool {
            None => enter(0),
            Some(_) if rayon::current_thread_index().is_some() => return Err(RegionError::Nested),
            Some(pool) => {
                let _gate = pool.gate.lock().unwrap_or_else(PoisonError::into_inner);
                pool.threads.broadcast(|context| enter(context.index()));
            }
        }
        let panicked = panicked
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match panicked {
            Some((worker, message)) => Err(RegionError::WorkerPanicked { worker, message }),
            None if barrier.was_uneven() => Err(RegionError::UnevenBarriers),
            None => Ok(()),
        }
    }
}

impl Pool {
    /// The pool of that size, started when there is none.
    fn shared(threads: usize, pinning: Pinning) -> Result<Arc<Self>, RegionError> {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&(threads, pinning)) {
            return Ok(Arc::clone(pool));
        }
        // Only this map holds those; no one can take one meanwhile, since the map is locked.
        pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        let pool = Arc::new(Self::start(threads, pinning)?);
        pools.insert((threads, pinning), Arc::clone(&pool));
        Ok(pool)
    }

    fn start(threads: usize, pinning: Pinning) -> Result<Self, RegionError> {
        let (budget, topology) = CpuBudget::detect_with_topology();
        // With more threads than run at a time, spinning keeps those from coming that are waited for.
        let spin = if threads > budget.parallelism() {
            Duration::ZERO
        } else {
            SPIN
        };
        let placement = place(threads, pinning, topology.as_ref(), budget);
        let mut builder = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("ryzanstein-{index}"));
        if let (Placement::Bound { units }, Some(topology)) = (&placement, topology) {
            let units = units.clone();
            builder = builder.start_handler(move |index| {
                if let Some(&unit) = units.get(index) {
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
            placement,
            spin,
        })
    }
}
