//! Process-wide pools of pinned threads, and the regions that run on them.

use std::{
    collections::HashMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use rayon::ThreadPool;

use crate::{
    CpuBudget, ElasticWorker, LeaseOptions, Numa, Pinning, Placement, RegionError, Topology,
    Worker,
    barrier::Barrier,
    crew::Crew,
    error::panic_message,
    placement::{check_node, default_threads, place},
    work::split,
};

/// Maximum threads of a lease.
const MAX_THREADS: usize = 1024;

/// How long a worker spins at a barrier before it parks: several times the imbalance of a decode
/// phase, and less than a scheduler time slice.
const SPIN: Duration = Duration::from_micros(50);

/// Minimum bytes for binding memory to a node; smaller blocks come from a heap with shared pages.
const BIND_FROM: usize = 128 << 10;

/// The smallest page size.
const PAGE: usize = 4096;

/// The threads of one node, or of a machine whose nodes do not matter. The gate is held for a whole
/// region: two interleaved regions on one pool would deadlock.
#[derive(Debug)]
struct Pool {
    threads: ThreadPool,
    gate: Mutex<()>,
    /// The processing units of each thread; empty for threads placed by the system.
    places: Vec<Vec<usize>>,
}

/// All threads of a lease.
#[derive(Debug)]
struct Team {
    /// One per node with its workers, in ascending order, so that two teams never deadlock on each
    /// other's gates.
    pools: Vec<(Arc<Pool>, Range<usize>)>,
    placement: Placement,
    spin: Duration,
    /// Whether it was leased for one specific memory node.
    of_node: bool,
    /// State shared by elastic regions.
    crew: Arc<Crew>,
    memory: Memory,
}

/// Where weights should reside.
#[derive(Debug)]
enum Memory {
    /// Wherever the system places them.
    Anywhere,
    /// Rows on the nodes whose workers read them: one node for each pool.
    Near {
        topology: Arc<Topology>,
        nodes: Vec<usize>,
    },
    /// Pages interleaved over these nodes.
    ByTurns {
        topology: Arc<Topology>,
        nodes: Vec<usize>,
    },
}

/// A team outlives its leases, because engines come and go, and starting threads costs more than
/// keeping them parked. A team without leases ends when a different one is requested, so that
/// unused sizes do not accumulate.
static TEAMS: LazyLock<Mutex<Teams>> = LazyLock::new(Mutex::default);

type Teams = HashMap<LeaseOptions, Arc<Team>>;

/// The placement of a one-thread lease, whose worker is the caller.
static INLINE: Placement = Placement::Caller;

/// Threads of process-wide pools, one pool per memory node, shared by all leases with the same
/// options. Clones refer to the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// `None` for one worker, which is the caller.
    team: Option<Arc<Team>>,
    threads: usize,
}

impl Lease {
    /// Leases `threads` threads, with the defaults of [`LeaseOptions`]. More threads than cores are
    /// allowed, but slow.
    ///
    /// # Errors
    /// As [`Lease::with`].
    pub fn new(threads: usize, pinning: Pinning) -> Result<Self, RegionError> {
        Self::with(LeaseOptions {
            threads: Some(threads),
            pinning,
            ..LeaseOptions::default()
        })
    }

    /// Leases threads of this machine.
    ///
    /// # Errors
    /// [`RegionError::InvalidThreads`] for 0 or more than 1,024; [`RegionError::UnknownNode`];
    /// [`RegionError::NoThreads`] when the system cannot create them.
    pub fn with(options: LeaseOptions) -> Result<Self, RegionError> {
        if options.threads == Some(1) && options.node.is_none() {
            return Ok(Self::inline());
        }
        let mut teams = TEAMS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(team) = teams.get(&options) {
            return Ok(Self::of(Arc::clone(team)));
        }
        let (budget, topology) = CpuBudget::detect_with_topology();
        let Some(threads) = threads_of(&options, topology.as_ref(), &budget)? else {
            return Ok(Self::inline());
        };
        // Only this map holds them, and it is locked, so no new lease can appear meanwhile.
        teams.retain(|_, team| Arc::strong_count(team) > 1);
        let known = teams.values().flat_map(|team| &team.pools);
        let known: Vec<Arc<Pool>> = known.map(|(pool, _)| Arc::clone(pool)).collect();
        let team = Arc::new(Team::start(threads, &options, topology, budget, &known)?);
        teams.insert(options, Arc::clone(&team));
        Ok(Self::of(team))
    }

    /// Leases threads placed as on `topology`, to test machines that are not available. They are
    /// bound only if `topology` is this machine.
    ///
    /// # Errors
    /// As [`Lease::with`].
    pub fn on(topology: Topology, options: LeaseOptions) -> Result<Self, RegionError> {
        let budget = CpuBudget::of(&topology, None);
        match threads_of(&options, Some(&topology), &budget)? {
            None => Ok(Self::inline()),
            Some(threads) => {
                let team = Team::start(threads, &options, Some(topology), budget, &[])?;
                Ok(Self::of(Arc::new(team)))
            }
        }
    }

    fn inline() -> Self {
        Self {
            team: None,
            threads: 1,
        }
    }

    fn of(team: Arc<Team>) -> Self {
        let threads = team.pools.last().map_or(0, |(_, workers)| workers.end);
        Self {
            team: Some(team),
            threads,
        }
    }

    /// Number of workers of a region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where the threads run; if the system places them, why.
    pub fn placement(&self) -> &Placement {
        self.team.as_ref().map_or(&INLINE, |team| &team.placement)
    }

    /// The workers of each memory node, if rows of weights are placed near their readers; else one
    /// group of all workers.
    pub fn groups(&self) -> Vec<Range<usize>> {
        match &self.team {
            Some(team) if matches!(team.memory, Memory::Near { .. }) => team
                .pools
                .iter()
                .map(|(_, workers)| workers.clone())
                .collect(),
            _ => std::iter::once(0..self.threads).collect(),
        }
    }

    /// The memory nodes used for weights; empty if placement is left to the system.
    pub fn memory_nodes(&self) -> &[usize] {
        match self.team.as_ref().map(|team| &team.memory) {
            None | Some(Memory::Anywhere) => &[],
            Some(Memory::Near { nodes, .. } | Memory::ByTurns { nodes, .. }) => nodes,
        }
    }

    /// The rows of `rows` that the workers `group` of [`Lease::groups`] compute, if every worker
    /// takes its [share](Worker::split).
    pub fn rows_of(&self, group: &Range<usize>, rows: usize, granule: usize) -> Range<usize> {
        let last = group.end.max(1) - 1;
        split(rows, granule, group.start, self.threads).start
            ..split(rows, granule, last, self.threads).end
    }

    /// Requests placement of a matrix's memory, `rows` stretches of equal size, before its first
    /// touch: each group's rows on its own node, or all pages interleaved. Returns for how many
    /// stretches the system agreed; the others' pages reside where they are first touched. Does
    /// nothing on machines with one memory node.
    pub fn place_rows(&self, bytes: &[u8], rows: usize, granule: usize) -> usize {
        if bytes.len() < BIND_FROM {
            return 0;
        }
        match self.team.as_ref().map(|team| &team.memory) {
            None | Some(Memory::Anywhere) => 0,
            Some(Memory::ByTurns { topology, nodes }) => {
                usize::from(topology.bind_memory(whole_pages(bytes), nodes))
            }
            Some(Memory::Near { topology, nodes }) => {
                let row_bytes = bytes.len() / rows.max(1);
                let groups = self.groups();
                let parts = groups.iter().zip(nodes).filter(|(group, node)| {
                    let own = self.rows_of(group, rows, granule);
                    let own = whole_pages(&bytes[own.start * row_bytes..own.end * row_bytes]);
                    !own.is_empty() && topology.bind_memory(own, &[**node])
                });
                parts.count()
            }
        }
    }

    /// Runs `region` once on every worker and returns when all are done. Waits for a region of
    /// another engine on the same pool. Every worker must reach the same barriers, unless one
    /// [stops](Worker::stop) the region.
    ///
    /// Costs one rayon broadcast with its few small allocations; with one thread, a function call.
    ///
    /// # Errors
    /// [`RegionError::WorkerPanicked`] when a worker panicked; [`RegionError::UnevenBarriers`] when
    /// one returned while others waited for it (they left at their barrier);
    /// [`RegionError::Nested`], before anything runs, when the caller is a rayon thread and the
    /// lease has more than one thread.
    pub fn run(&self, region: impl Fn(&Worker<'_>) + Sync) -> Result<(), RegionError> {
        let spin = self.team.as_ref().map_or(Duration::ZERO, |team| team.spin);
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
        match &self.team {
            None => enter(0),
            Some(_) if rayon::current_thread_index().is_some() => return Err(RegionError::Nested),
            Some(team) => broadcast(&team.pools, &enter),
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

impl Lease {
    /// Runs `region` on the workers that arrive, and returns when all work is done and they have
    /// left: an *elastic* region. Every worker goes through the same phases and claims parts of
    /// them ([`ElasticWorker::share`]). If a worker arrives late or loses its core, others do its
    /// share, so only workers that hold a chunk are waited for.
    ///
    /// A worker whose core is about to be preempted leaves in time, and `region` is called on it
    /// again; it then finds all work done meanwhile already claimed. Outside
    /// [`ElasticWorker::share`], `region` must do nothing that may not be repeated or skipped.
    ///
    /// Costs one rayon broadcast with its few small allocations; with one thread and no specific
    /// node, a function call.
    ///
    /// # Errors
    /// [`RegionError::WorkerPanicked`], [`RegionError::Nested`]: as [`Lease::run`].
    pub fn run_elastic(
        &self,
        region: impl Fn(&ElasticWorker<'_>) + Sync,
    ) -> Result<(), RegionError> {
        let Some(team) = &self.team else {
            return self.run_alone(region);
        };
        if rayon::current_thread_index().is_some() {
            return Err(RegionError::Nested);
        }
        hold(&team.pools, || {
            team.crew.run(&region, |number| team.call(number))
        })
    }

    /// Whether the only worker is the calling thread.
    pub fn is_inline(&self) -> bool {
        self.team.is_none()
    }

    /// Whether the caller may do the work itself ([`Lease::run_alone`]): not if a specific memory
    /// node was requested.
    pub fn allows_alone(&self) -> bool {
        self.team.as_ref().is_none_or(|team| !team.of_node)
    }

    /// Runs `region` on the calling thread, which does all of the work, for work so small that
    /// synchronization would take longer. Does not wait for regions of other engines.
    ///
    /// # Errors
    /// [`RegionError::WorkerPanicked`].
    pub fn run_alone(&self, region: impl Fn(&ElasticWorker<'_>)) -> Result<(), RegionError> {
        catch_unwind(AssertUnwindSafe(|| region(&ElasticWorker::alone()))).map_err(|payload| {
            RegionError::WorkerPanicked {
                worker: 0,
                message: panic_message(&*payload),
            }
        })
    }
}

/// Runs `then` while holding the gates of all pools.
fn hold<R>(pools: &[(Arc<Pool>, Range<usize>)], then: impl FnOnce() -> R) -> R {
    let Some(((pool, _), others)) = pools.split_first() else {
        return then();
    };
    let _gate = pool.gate.lock().unwrap_or_else(PoisonError::into_inner);
    hold(others, then)
}

/// Runs `task` on a thread of the memory node `node` and returns its result; memory that the task
/// allocates and touches first resides on that node. As many tasks run at a time as the node has
/// cores. A region of an engine that leased the same threads waits for them.
///
/// ```
/// // Every machine has a node; of most it is the only one.
/// let node = ryz_numa::Topology::detect().map_or(0, |machine| machine.nodes()[0]);
/// let zeroes = ryz_numa::execute_on_node(node, || vec![0u8; 1 << 20])?;
/// assert_eq!(zeroes.len(), 1 << 20);
/// # Ok::<(), ryz_numa::RegionError>(())
/// ```
///
/// # Errors
/// [`RegionError::UnknownNode`]; [`RegionError::NoThreads`]; [`RegionError::Nested`] from a thread
/// of a rayon pool; [`RegionError::WorkerPanicked`] when the task panicked.
pub fn execute_on_node<R: Send>(
    node: usize,
    task: impl FnOnce() -> R + Send,
) -> Result<R, RegionError> {
    let lease = Lease::with(LeaseOptions {
        pinning: Pinning::Nodes,
        node: Some(node),
        ..LeaseOptions::default()
    })?;
    lease.execute(task)
}

impl Lease {
    /// Runs `task` on one of the threads, or on the caller if it is the only worker.
    fn execute<R: Send>(&self, task: impl FnOnce() -> R + Send) -> Result<R, RegionError> {
        let task = || {
            let worker = rayon::current_thread_index().unwrap_or(0);
            catch_unwind(AssertUnwindSafe(task)).map_err(|payload| RegionError::WorkerPanicked {
                worker,
                message: panic_message(&*payload),
            })
        };
        match self.team.as_ref().and_then(|team| team.pools.first()) {
            None => task(),
            Some(_) if rayon::current_thread_index().is_some() => Err(RegionError::Nested),
            Some((pool, _)) => pool.threads.install(task),
        }
    }
}

impl LeaseOptions {
    /// The number of threads that a lease of this machine would have.
    ///
    /// # Errors
    /// As [`Lease::with`].
    pub fn threads(&self) -> Result<usize, RegionError> {
        if let (Some(threads @ 1..=MAX_THREADS), None) = (self.threads, self.node) {
            return Ok(threads);
        }
        let (budget, topology) = CpuBudget::detect_with_topology();
        Ok(threads_of(self, topology.as_ref(), &budget)?.unwrap_or(1))
    }
}

/// The threads to start; `None` if the caller suffices.
fn threads_of(
    options: &LeaseOptions,
    topology: Option<&Topology>,
    budget: &CpuBudget,
) -> Result<Option<usize>, RegionError> {
    check_node(topology, options.node)?;
    let threads = options
        .threads
        .unwrap_or_else(|| default_threads(topology, budget, options.node).min(MAX_THREADS));
    if threads == 0 || threads > MAX_THREADS {
        return Err(RegionError::InvalidThreads {
            max: MAX_THREADS,
            got: threads,
        });
    }
    Ok((threads > 1 || options.node.is_some()).then_some(threads))
}

/// The pages that lie entirely in `bytes`.
fn whole_pages(bytes: &[u8]) -> &[u8] {
    let before = bytes.as_ptr().align_offset(PAGE).min(bytes.len());
    let rest = &bytes[before..];
    &rest[..rest.len() / PAGE * PAGE]
}

/// Runs `enter` once on every thread of all pools, with the worker's index, and returns when all
/// are done. Acquires the gates.
fn broadcast(pools: &[(Arc<Pool>, Range<usize>)], enter: &(impl Fn(usize) + Sync)) {
    let Some(((pool, workers), others)) = pools.split_first() else {
        return;
    };
    let _gate = pool.gate.lock().unwrap_or_else(PoisonError::into_inner);
    if others.is_empty() {
        let run = |context: rayon::BroadcastContext<'_>| enter(workers.start + context.index());
        pool.threads.broadcast(run);
        return;
    }
    pool.threads.in_place_scope(|scope| {
        scope.spawn_broadcast(|_, context| enter(workers.start + context.index()));
        broadcast(others, enter);
    });
}

impl Team {
    /// Calls all threads into an elastic region; busy ones join when they can.
    fn call(&self, region: u64) {
        for (pool, workers) in &self.pools {
            let (crew, workers) = (Arc::clone(&self.crew), workers.clone());
            pool.threads.spawn_broadcast(move |context| {
                crew.work(region, workers.start + context.index(), workers.clone());
            });
        }
    }

    /// Starts the threads, reusing existing pools.
    fn start(
        threads: usize,
        options: &LeaseOptions,
        topology: Option<Topology>,
        budget: CpuBudget,
        known: &[Arc<Pool>],
    ) -> Result<Self, RegionError> {
        // With more threads than can run simultaneously, spinning blocks the threads being waited
        // for.
        let spin = if threads > budget.parallelism() {
            Duration::ZERO
        } else {
            SPIN
        };
        let placement = place(threads, options, topology.as_ref(), budget);
        let topology = topology.map(Arc::new);
        let spots = match &placement {
            Placement::Bound { spots } => spots.as_slice(),
            _ => &[],
        };
        let mut nodes: Vec<usize> = spots.iter().map(|spot| spot.node).collect();
        nodes.dedup();
        let apart = options.numa != Numa::Off && nodes.len() > 1;
        let mut pools: Vec<(Arc<Pool>, Range<usize>)> = Vec::new();
        let mut start = |workers: Range<usize>| {
            let places = spots.get(workers.clone()).unwrap_or_default();
            let places: Vec<_> = places.iter().map(|spot| spot.units.clone()).collect();
            let same = |pool: &&Arc<Pool>| {
                pool.places == places && pool.threads.current_num_threads() == workers.len()
            };
            let pool = match known.iter().find(same) {
                Some(pool) => Arc::clone(pool),
                None => Arc::new(Pool::start(workers.len(), places, topology.clone())?),
            };
            pools.push((pool, workers));
            Ok::<(), RegionError>(())
        };
        if apart {
            let mut first = 0;
            for node in spots.chunk_by(|a, b| a.node == b.node) {
                start(first..first + node.len())?;
                first += node.len();
            }
        } else {
            start(0..threads)?;
        }
        let memory = match (options.numa, topology) {
            (Numa::Auto, Some(topology)) if apart => Memory::Near { topology, nodes },
            (Numa::Interleave, Some(topology)) if apart => Memory::ByTurns { topology, nodes },
            _ => Memory::Anywhere,
        };
        Ok(Self {
            pools,
            placement,
            spin,
            of_node: options.node.is_some(),
            crew: Arc::new(Crew::new(threads, spin)),
            memory,
        })
    }
}

/// Stack size of a computing thread in bytes, regardless of RUST_MIN_STACK.
const STACK: usize = 2 << 20;

impl Pool {
    fn start(
        threads: usize,
        places: Vec<Vec<usize>>,
        topology: Option<Arc<Topology>>,
    ) -> Result<Self, RegionError> {
        let mut builder = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK)
            .thread_name(|index| format!("ryzanstein-{index}"));
        if let Some(topology) = topology.filter(|_| !places.is_empty()) {
            let places = places.clone();
            builder = builder.start_handler(move |index| {
                if let Some(units) = places.get(index) {
                    topology.bind_current_thread(units);
                }
            });
        }
        let pool = builder.build();
        Ok(Self {
            threads: pool.map_err(|source| RegionError::NoThreads { threads, source })?,
            gate: Mutex::new(()),
            places,
        })
    }
}
