/// Why a parallel region could not be entered or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The system gave no threads.
    #[error("cannot start {threads} worker threads")]
    NoThreads {
        /// Threads asked for.
        threads: usize,
        /// What the pool said.
        source: rayon::ThreadPoolBuildError,
    },
    /// A thread count that is no thread count.
    #[error("threads: expected 1 to {max}, got {got}")]
    InvalidThreads {
        /// The most there may be.
        max: usize,
        /// What was asked.
        got: usize,
    },
    /// A worker panicked: our own fault. The others left the region at their next barrier; the pool lives on.
    #[error("worker {worker} panicked: {message}")]
    WorkerPanicked {
        /// Its index.
        worker: usize,
        /// What it said.
        message: String,
    },
}

impl RegionError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidThreads { .. } => "INVALID_ARGUMENT",
            Self::NoThreads { .. } => "OUT_OF_MEMORY",
            Self::WorkerPanicked { .. } => "INTERNAL",
        }
    }
}

/// Why the machine's topology could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// hwloc could not read this machine.
    #[error("cannot read the machine's topology")]
    Unreadable {
        /// What hwloc said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A description that is no topology.
    #[error("synthetic topology: expected hwloc's synthetic form, got {got:?}")]
    InvalidSynthetic {
        /// The description.
        got: String,
    },
}

impl TopologyError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "INTERNAL",
            Self::InvalidSynthetic { .. } => "INVALID_ARGUMENT",
        }
    }
}
