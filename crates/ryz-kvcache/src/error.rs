use ryz_tmac::MemoryError;

/// A fault of a cache's configuration or memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvCacheError {
    /// A dimension is zero, or their product exceeds the address space.
    #[error("key-value cache {name}: expected {expected}, got {got}")]
    InvalidConfig {
        /// The field of [`crate::KvCacheConfig`].
        name: &'static str,
        /// The allowed value.
        expected: &'static str,
        /// The actual value.
        got: usize,
    },
    /// A name that is not a [`crate::KvDType`].
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
    /// A sequence continues a block of which only the four-bit form, or nothing, is kept.
    #[error(
        "key-value cache: position {position} continues a block that was not kept as it was written"
    )]
    TailMissing {
        /// The sequence's next position.
        position: usize,
    },
    /// The memory allocation failed.
    #[error("key-value cache memory")]
    Memory(#[from] MemoryError),
}

impl KvCacheError {
    /// The stable error code passed to TypeScript.
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
