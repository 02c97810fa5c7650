//! The process-wide pools of pinned threads, and the regions that engines run on them.

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

/// The most threads a lease may have.
const MAX_THREADS: usize = 1024;

/// How long a worker spins at a barrier before it parks: several times the imbalance of a phase of a decode step, and
/// less than a scheduler's time slice.
const SPIN: Duration = Duration::from_micros(50);

/// From this size on memory is asked for on a node: less comes from a heap, whose pages others use too.
const BIND_FROM: usize = 128 << 10;

/// No page is smaller.
const PAGE: usize = 4096;

/// The threads of one node, or of a whole machine whose nodes do not matter. The gate is held for a whole region: two
/// regions interleaved on one pool would wait for each other's workers for ever.
#[derive(Debug)]
struct Pool {
    threads: ThreadPool,
    gate: Mutex<()>,
    /// The processing units of each thread; none for threads that the system places.
    places: Vec<Vec<usize>>,
}

/// All threads of a lease.
#[derive(Debug)]
struct Team {
    /// One for each node, in ascending order, so that two teams never wait for each other's gates; with the workers.
    pools: Vec<(Arc<Pool>, Range<usize>)>,
    placement: Placement,
    spin: Duration,
    /// They were leased by the memory node.
    of_node: bool,
    /// What elastic regions share.
    crew: Arc<Crew>,
    memory: Memory,
}

/// Where weights are asked to lie.
#[derive(Debug)]
enum Memory {
    /// Where the system likes.
    Anywhere,
    /// Rows on the nodes whose workers read them: one for each pool.
    Near {
        topology: Arc<Topology>,
        nodes: Vec<usize>,
    },
    /// Pages on these nodes by turns.
    ByTurns {
        topology: Arc<Topology>,
        nodes: Vec<usize>,
    },
}

/// A team outlives its leases, because engines come and go and starting threads costs more than keeping them parked;
/// it ends when it has none and another is asked for, so that sizes do not pile up.
static TEAMS: LazyLock<Mutex<Teams>> = LazyLock::new(Mutex::default);

type Teams = HashMap<LeaseOptions, Arc<Team>>;

/// What a lease of one thread says: the caller is its worker.
static INLINE: Placement = Placement::Caller;

/// Threads of process-wide pools, one for each memory node, shared by all who leased the same. A clone is the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// `None`: one worker, which is the caller itself.
    team: Option<Arc<Team>>,
    threads: usize,
}

impl Lease {
    /// Leases `threads` threads, with the defaults of [`LeaseOptions`]. More than there are cores is allowed, and slow.
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
    /// [`RegionError::InvalidThreads`] for 0 or more than 1,024, [`RegionError::UnknownNode`],
    /// [`RegionError::NoThreads`] when the system gives none.
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
        // Only this map holds those; no one can take one meanwhile, since the map is locked.
        teams.retain(|_, team| Arc::strong_count(team) > 1);
        let known = teams.values().flat_map(|team| &team.pools);
        let known: Vec<Arc<Pool>> = known.map(|(pool, _)| Arc::clone(pool)).collect();
        let team = Arc::new(Team::start(threads, &options, topology, budget, &known)?);
        teams.insert(options, Arc::clone(&team));
        Ok(Self::of(team))
    }

    /// Threads placed as they would be on `topology`: for tests of machines that are not there. They are bound only where
    /// that is this machine.
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

    /// Workers of a region.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where the threads run, and when the system places them, why.
    pub fn placement(&self) -> &Placement {
        self.team.as_ref().map_or(&INLINE, |team| &team.placement)
    }

    /// The workers of each memory node in turn, where rows of weights lie near those who read them; else all in one.
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

    /// The memory nodes that weights are put on; none where that is left to the system.
    pub fn memory_nodes(&self) -> &[usize] {
        match self.team.as_ref().map(|team| &team.memory) {
            None | Some(Memory::Anywhere) => &[],
            Some(Memory::Near { nodes, .. } | Memory::ByTurns { nodes, .. }) => nodes,
        }
    }

    /// The rows of `rows` that the workers `group` of [`Lease::groups`] compute, when every worker takes its
    /// [share](Worker::split).
    pub fn rows_of(&self, group: &Range<usize>, rows: usize, granule: usize) -> Range<usize> {
        let last = group.end.max(1) - 1;
        split(rows, granule, group.start, self.threads).start
            ..split(rows, granule, last, self.threads).end
    }

    /// Asks for the memory of a matrix, `rows` stretches of equal size, before anyone touches it: each group's rows on its own node, or all
    /// pages by turns. Tells on how many stretches the system agreed: where it does not, pages lie where they are first
    /// touched. With one memory node it does nothing.
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
    /// Runs `region` on the workers that come, and returns when all work is done and they have left: an *elastic* region. Every
    /// worker goes through the same phases and claims parts of them ([`ElasticWorker::share`]); one that comes late, or
    /// whose core is taken, finds its share done by others. So no one is waited for, but for who holds a chunk.
    ///
    /// A worker whose core the system is about to take leaves in time, and `region` is called on it anew: it finds all
    /// claimed that was done meanwhile. So `region` must do nothing but by [`ElasticWorker::share`] that may not be done
    /// several times or never.
    ///
    /// It costs one rayon broadcast (with rayon's few small allocations); with one thread of no node in particular, a call.
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

    /// Whether it is the calling thread that is the only worker.
    pub fn is_inline(&self) -> bool {
        self.team.is_none()
    }

    /// Whether the caller may do the work itself ([`Lease::run_alone`]): not where it was asked for the threads of one memory node.
    pub fn allows_alone(&self) -> bool {
        self.team.as_ref().is_none_or(|team| !team.of_node)
    }

    /// Runs `region` on the calling thread, which does all of the work: for so little that meeting others would take longer. Regions of
    /// other engines are not waited for.
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

/// Runs `then` with the gates of all pools held.
fn hold<R>(pools: &[(Arc<Pool>, Range<usize>)], then: impl FnOnce() -> R) -> R {
    let Some(((pool, _), others)) = pools.split_first() else {
        return then();
    };
    let _gate = pool.gate.lock().unwrap_or_else(PoisonError::into_inner);
    hold(others, then)
}

/// Runs `task` on a thread of the memory node `node`, and returns what it returns: what it allocates and touches first
/// then lies there. As many tasks run at a time as the node has cores; a region of an engine that leased the same threads
/// waits for them.
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
/// [`RegionError::UnknownNode`]; [`RegionError::NoThreads`]; [`RegionError::Nested`] from a thread of a rayon pool;
/// [`RegionError::WorkerPanicked`] when the task did.
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
    /// Runs `task` on one of the threads (on a lease of one worker that is the caller, on the caller).
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
    /// How many threads a lease of this machine would have.
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

/// The threads to start; `None` when the caller is all that is needed.
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

/// The pages that lie in `bytes` entirely.
fn whole_pages(bytes: &[u8]) -> &[u8] {
    let before = bytes.as_ptr().align_offset(PAGE).min(bytes.len());
    let rest = &bytes[before..];
    &rest[..rest.len() / PAGE * PAGE]
}

/// Runs `enter` once on every thread of all pools, with the worker's index, and returns when all are done. The gates are
/// taken on the way.
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
    /// Has all threads work in an elastic region, those that are busy when they can.
    fn call(&self, region: u64) {
        for (pool, workers) in &self.pools {
            let (crew, workers) = (Arc::clone(&self.crew), workers.clone());
            pool.threads.spawn_broadcast(move |context| {
                crew.work(region, workers.start + context.index(), workers.clone());
            });
        }
    }

    /// Starts the threads, but for the pools that there are already.
    fn start(
        threads: usize,
        options: &LeaseOptions,
        topology: Option<Topology>,
        budget: CpuBudget,
        known: &[Arc<Pool>],
    ) -> Result<Self, RegionError> {
        // With more threads than run at a time, spinning keeps those from coming that are waited for.
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

/// Bytes of a computing thread's stack, whatever RUST_MIN_STACK says.
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
