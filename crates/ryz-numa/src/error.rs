use std::any::Any;

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
    /// A memory node that there is not.
    #[error("node: expected one of {nodes:?}, got {got}")]
    UnknownNode {
        /// Those there are.
        nodes: Vec<usize>,
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
    /// A worker returned while others waited for it at a barrier: our own fault. They were let go; the pool lives on.
    #[error("a worker left the region while others waited at a barrier")]
    UnevenBarriers,
    /// A region was entered from a rayon thread, such as a worker of another region, which would wait for itself.
    #[error("expected a region to be entered from a plain thread, got a thread of a rayon pool")]
    Nested,
}

impl RegionError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidThreads { .. } | Self::UnknownNode { .. } => "INVALID_ARGUMENT",
            Self::NoThreads { .. } => "OUT_OF_MEMORY",
            Self::WorkerPanicked { .. } | Self::UnevenBarriers | Self::Nested => "INTERNAL",
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
    /// hwloc or its binding panicked on what this machine shows.
    #[error("reading the machine's topology panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
    /// A description that is no topology.
    #[error("synthetic topology: expected hwloc's synthetic form, got {got:?}")]
    InvalidSynthetic {
        /// The description.
        got: String,
    },
    /// A file that is no topology.
    #[error("topology file: expected hwloc's XML, got none that it reads: {reason}")]
    InvalidXml {
        /// What hwloc said.
        reason: String,
    },
}

impl TopologyError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Panicked { .. } => "INTERNAL",
            Self::InvalidSynthetic { .. } | Self::InvalidXml { .. } => "INVALID_ARGUMENT",
        }
    }
}

/// The text of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
