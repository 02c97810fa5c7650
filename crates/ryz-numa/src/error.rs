use std::any::Any;

/// Why a parallel region could not start or finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The system could not create the threads.
    #[error("cannot start {threads} worker threads")]
    NoThreads {
        /// Requested threads.
        threads: usize,
        /// The pool's error.
        source: rayon::ThreadPoolBuildError,
    },
    /// An invalid thread count.
    #[error("threads: expected 1 to {max}, got {got}")]
    InvalidThreads {
        /// Maximum threads.
        max: usize,
        /// Requested threads.
        got: usize,
    },
    /// An unknown memory node.
    #[error("node: expected one of {nodes:?}, got {got}")]
    UnknownNode {
        /// The machine's nodes.
        nodes: Vec<usize>,
        /// The requested node.
        got: usize,
    },
    /// A worker panicked, which is a bug in the engine. The others left the region at their next
    /// barrier; the pool remains usable.
    #[error("worker {worker} panicked: {message}")]
    WorkerPanicked {
        /// Its index.
        worker: usize,
        /// Its panic message.
        message: String,
    },
    /// A worker returned while others waited for it at a barrier, which is a bug in the engine. The
    /// others were released; the pool remains usable.
    #[error("a worker left the region while others waited at a barrier")]
    UnevenBarriers,
    /// A region was entered from a rayon thread, such as a worker of another region, which would
    /// deadlock.
    #[error("expected a region to be entered from a plain thread, got a thread of a rayon pool")]
    Nested,
}

impl RegionError {
    /// The stable error code passed to TypeScript.
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
        /// hwloc's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// hwloc or its binding panicked on this machine's data.
    #[error("reading the machine's topology panicked: {message}")]
    Panicked {
        /// The panic message.
        message: String,
    },
    /// An invalid synthetic topology.
    #[error("synthetic topology: expected hwloc's synthetic form, got {got:?}")]
    InvalidSynthetic {
        /// The description.
        got: String,
    },
    /// A file that is not a topology.
    #[error("topology file: expected hwloc's XML, got none that it reads: {reason}")]
    InvalidXml {
        /// hwloc's error.
        reason: String,
    },
}

impl TopologyError {
    /// The stable error code passed to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Panicked { .. } => "INTERNAL",
            Self::InvalidSynthetic { .. } | Self::InvalidXml { .. } => "INVALID_ARGUMENT",
        }
    }
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
