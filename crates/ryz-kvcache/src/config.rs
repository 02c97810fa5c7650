use std::{fmt, str::FromStr};

use ryz_tmac::LINE;

use crate::KvCacheError;

/// Positions a block holds.
pub const BLOCK_TOKENS: usize = 16;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KvDType {
    /// Four bytes a value: exact.
    F32,
    /// Two bytes a value (the default).
    #[default]
    F16,
    /// One byte a value and one f32 scale per token and head.
    Int8,
}

impl KvDType {
    /// Bytes a stored value takes, its scale apart.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// The name used in options: `f32`, `f16`, `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for KvDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvDType {
    type Err = KvCacheError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::F32, Self::F16, Self::Int8]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| KvCacheError::UnknownDType {
                got: name.to_owned(),
            })
    }
}

/// The shape of a cache. Key and value sizes may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Transformer layers.
    pub layers: usize,
    /// Key-value heads a layer has.
    pub kv_heads: usize,
    /// Values of a key vector, per head.
    pub key_dim: usize,
    /// Values of a value vector, per head.
    pub value_dim: usize,
    /// How they are stored.
    pub dtype: KvDType,
    /// Blocks of [`BLOCK_TOKENS`] positions.
    pub blocks: usize,
}

impl KvCacheConfig {
    /// Bytes one block takes, in all layers; `None` when that does not fit the address space.
    pub fn bytes_per_block(&self) -> Option<usize> {
        Some(Layout::new(self)?.block_bytes)
    }

    /// Bytes the whole cache takes; `None` when that does not fit the address space.
    pub fn bytes(&self) -> Option<usize> {
        self.bytes_per_block()?.checked_mul(self.blocks)
    }
}

/// Where things lie in a block: for each layer and head, 16 keys, 16 values and, for int8, their scales, each part in
/// whole lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bytes of the 16 keys of one layer and head.
    pub keys_bytes: usize,
    /// Bytes of the 16 values of one layer and head.
    pub values_bytes: usize,
    /// Bytes of the 16 scales of the keys (and as many of the values); 0 unless int8.
    pub scales_bytes: usize,
    /// Bytes from one head to the next.
    pub head_bytes: usize,
    /// Bytes from one layer to the next.
    pub layer_bytes: usize,
    /// Bytes from one block to the next.
    pub block_bytes: usize,
}

impl Layout {
    pub fn new(config: &KvCacheConfig) -> Option<Self> {
        let lines = |dim: usize| {
            dim.checked_mul(BLOCK_TOKENS * config.dtype.bytes())?
                .checked_next_multiple_of(LINE)
        };
        let keys_bytes = lines(config.key_dim)?;
        let values_bytes = lines(config.value_dim)?;
        let scales_bytes = if config.dtype == KvDType::Int8 {
            BLOCK_TOKENS * size_of::<f32>()
        } else {
            0
        };
        let head_bytes = keys_bytes
            .checked_add(values_bytes)?
            .checked_add(scales_bytes.checked_mul(2)?)?;
        let layer_bytes = head_bytes.checked_mul(config.kv_heads)?;
        let block_bytes = layer_bytes.checked_mul(config.layers)?;
        Some(Self {
            keys_bytes,
            values_bytes,
            scales_bytes,
            head_bytes,
            layer_bytes,
            block_bytes,
        })
    }
}

const _: () = assert!(
    BLOCK_TOKENS * size_of::<f32>() == LINE,
    "a block's scales fill one line"
);
