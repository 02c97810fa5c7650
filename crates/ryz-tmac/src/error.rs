use std::{io, path::PathBuf};

use crate::{BufferKind, NodeSet};

/// Why memory or a file's bytes could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The arena's byte limit would be passed.
    #[error("memory limit: {requested} bytes for {kind} asked with {in_use} of {limit} in use")]
    LimitExceeded {
        /// What it was for.
        kind: BufferKind,
        /// Bytes asked.
        requested: usize,
        /// Bytes in use before.
        in_use: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The memory policy said no.
    #[error("memory policy: {requested} bytes for {kind} denied: {reason}")]
    Denied {
        /// What it was for.
        kind: BufferKind,
        /// Bytes asked.
        requested: usize,
        /// What the policy said.
        reason: String,
    },
    /// The system has no such memory, or the size does not fit the address space.
    #[error("out of memory: {requested} bytes for {kind}")]
    OutOfMemory {
        /// What it was for.
        kind: BufferKind,
        /// Bytes asked.
        requested: usize,
    },
    /// No power of two was asked for.
    #[error("alignment: expected a power of two, got {got}")]
    InvalidAlignment {
        /// What was asked for.
        got: usize,
    },
    /// The system has no memory on these nodes.
    #[error("memory nodes {nodes} for {kind}")]
    InvalidNodes {
        /// What it was for.
        kind: BufferKind,
        /// The nodes asked for.
        nodes: NodeSet,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    FileNotFound {
        /// The path asked.
        path: PathBuf,
    },
    /// A directory, a device or a pipe was given where a file is needed.
    #[error("{}: expected a regular file, got {found}", path.display())]
    NotARegularFile {
        /// The path asked.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A file has no such bytes: the range is past its end, or it was cut while it was read.
    #[error("{}: expected {expected} bytes at offset {offset}, got {got}", path.display())]
    ShortRead {
        /// The file.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// Bytes asked.
        expected: usize,
        /// Bytes there were.
        got: usize,
    },
    /// The system refused to open, read or map.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "open", "read", "map".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl MemoryError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LimitExceeded { .. } | Self::Denied { .. } => "MEMORY_LIMIT",
            Self::OutOfMemory { .. } => "OUT_OF_MEMORY",
            Self::InvalidAlignment { .. } | Self::InvalidNodes { .. } => "INVALID_ARGUMENT",
            Self::FileNotFound { .. } => "FILE_NOT_FOUND",
            Self::NotARegularFile { .. } | Self::ShortRead { .. } | Self::Io { .. } => "IO",
        }
    }
}
