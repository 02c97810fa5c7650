use ryz_tmac::MemoryError;

/// What can be wrong with a cache's configuration or its memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvCacheError {
    /// A dimension is zero, or their product does not fit the address space.
    #[error("key-value cache {name}: expected {expected}, got {got}")]
    InvalidConfig {
        /// The field of [`crate::KvCacheConfig`].
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: usize,
    },
    /// A name that is no [`crate::KvDType`].
    #[error("key-value cache type: expected f32, f16, int8 or int4, got {got:?}")]
    UnknownDType {
        /// The name given.
        got: String,
    },
    /// More sequences end within a block than the cache has tails.
    #[error("key-value cache tails: expected at most {expected} unfinished blocks, got one more")]
    Tails {
        /// [`crate::KvCacheConfig::tails`].
        expected: usize,
    },
    /// A sequence goes on within a block of which only the form in four bits is left, or nothing.
    #[error(
        "key-value cache: position {position} continues a block that was not kept as it was written"
    )]
    TailMissing {
        /// The sequence's next position.
        position: usize,
    },
    /// The arena refused the memory.
    #[error("key-value cache memory")]
    Memory(#[from] MemoryError),
}

impl KvCacheError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig { .. }
            | Self::UnknownDType { .. }
            | Self::Tails { .. }
            | Self::TailMissing { .. } => "INVALID_ARGUMENT",
            Self::Memory(error) => error.code(),
        }
    }
}
