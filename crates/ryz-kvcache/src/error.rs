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
    #[error("key-value cache type: expected f32, f16 or int8, got {got:?}")]
    UnknownDType {
        /// The name given.
        got: String,
    },
    /// The arena refused the memory.
    #[error("key-value cache memory")]
    Memory(#[from] MemoryError),
}

impl KvCacheError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig { .. } | Self::UnknownDType { .. } => "INVALID_ARGUMENT",
            Self::Memory(error) => error.code(),
        }
    }
}
