use std::{io, path::PathBuf};

use crate::{BufferKind, NodeSet};

/// Why memory or a file's bytes are not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The allocation would exceed the arena's byte limit.
    #[error("memory limit: {requested} bytes for {kind} asked with {in_use} of {limit} in use")]
    LimitExceeded {
        /// The requested kind.
        kind: BufferKind,
        /// Requested bytes.
        requested: usize,
        /// Bytes already in use.
        in_use: usize,
        /// Maximum bytes.
        limit: usize,
    },
    /// The memory policy denied the allocation.
    #[error("memory policy: {requested} bytes for {kind} denied: {reason}")]
    Denied {
        /// The requested kind.
        kind: BufferKind,
        /// Requested bytes.
        requested: usize,
        /// The policy's reason.
        reason: String,
    },
    /// The system has no such memory, or the size exceeds the address space.
    #[error("out of memory: {requested} bytes for {kind}")]
    OutOfMemory {
        /// The requested kind.
        kind: BufferKind,
        /// Requested bytes.
        requested: usize,
    },
    /// The alignment is not a power of two.
    #[error("alignment: expected a power of two, got {got}")]
    InvalidAlignment {
        /// The requested alignment.
        got: usize,
    },
    /// The system has no memory on these nodes.
    #[error("memory nodes {nodes} for {kind}")]
    InvalidNodes {
        /// The requested kind.
        kind: BufferKind,
        /// The requested nodes.
        nodes: NodeSet,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not exist.
    #[error("{}: no such file", path.display())]
    FileNotFound {
        /// The requested path.
        path: PathBuf,
    },
    /// A directory, device or pipe instead of a file.
    #[error("{}: expected a regular file, got {found}", path.display())]
    NotARegularFile {
        /// The requested path.
        path: PathBuf,
        /// What exists at the path.
        found: &'static str,
    },
    /// The range is past the end of the file, or the file was truncated while being read.
    #[error("{}: expected {expected} bytes at offset {offset}, got {got}", path.display())]
    ShortRead {
        /// The file.
        path: PathBuf,
        /// Offset of the read.
        offset: u64,
        /// Requested bytes.
        expected: usize,
        /// Available bytes.
        got: usize,
    },
    /// The system failed to open, read or map.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The attempted action: "open", "read", "map".
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl MemoryError {
    /// The stable error code passed to TypeScript.
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
