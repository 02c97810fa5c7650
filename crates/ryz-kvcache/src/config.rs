use std::{fmt, str::FromStr};

use half::f16;
use ryz_kernels::VALUE_GROUP;
use ryz_tmac::LINE;

use crate::KvCacheError;

/// Positions per block.
pub const BLOCK_TOKENS: usize = 16;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KvDType {
    /// Four bytes per value; exact.
    F32,
    /// Two bytes per value.
    F16,
    /// One byte per value and one f32 scale per token and head (the default).
    #[default]
    Int8,
    /// Half a byte per value, in whole blocks. Keys have an f16 scale and minimum per channel;
    /// values have them per token and 32 channels. A query reads its own block as f16, from a tail
    /// ([`KvCacheConfig::tails`]).
    Int4,
}

impl KvDType {
    /// Every type, widest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// The name used in options: `f32`, `f16`, `int8`, `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
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
        Self::ALL
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
    /// Key-value heads per layer.
    pub kv_heads: usize,
    /// Values of a key vector, per head.
    pub key_dim: usize,
    /// Values of a value vector, per head.
    pub value_dim: usize,
    /// The stored type.
    pub dtype: KvDType,
    /// Blocks of [`BLOCK_TOKENS`] positions.
    pub blocks: usize,
    /// Maximum number of blocks also kept as f16 at one time, for int4 only: two for every sequence
    /// being extended.
    pub tails: usize,
}

impl KvCacheConfig {
    /// Bytes of one block over all layers; `None` if that exceeds the address space.
    pub fn bytes_per_block(&self) -> Option<usize> {
        Some(Layout::new(self)?.block_bytes)
    }

    /// Bytes of the tails; `None` if that exceeds the address space.
    pub fn tail_bytes(&self) -> Option<usize> {
        if self.dtype != KvDType::Int4 {
            return Some(0);
        }
        self.tail().bytes_per_block()?.checked_mul(self.tails)
    }

    /// Bytes of the whole cache, including tails; `None` if that exceeds the address space.
    pub fn bytes(&self) -> Option<usize> {
        let blocks = self.bytes_per_block()?.checked_mul(self.blocks)?;
        blocks.checked_add(self.tail_bytes()?)
    }

    /// The configuration of the tails, which form a separate cache.
    pub(crate) fn tail(&self) -> Self {
        Self {
            dtype: KvDType::F16,
            blocks: self.tails,
            tails: 0,
            ..*self
        }
    }
}

/// The layout of a block. For each layer and head: 16 keys, their metadata (scales, minima), 16
/// values, and their metadata; each part fills whole lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bytes of the keys of one layer and head.
    pub keys_bytes: usize,
    /// Bytes of the keys' metadata.
    pub key_scales_bytes: usize,
    /// Bytes of the values of one layer and head.
    pub values_bytes: usize,
    /// Bytes from one head to the next.
    pub head_bytes: usize,
    /// Bytes from one layer to the next.
    pub layer_bytes: usize,
    /// Bytes from one block to the next.
    pub block_bytes: usize,
}

impl Layout {
    pub fn new(config: &KvCacheConfig) -> Option<Self> {
        let (key_dim, value_dim) = (config.key_dim, config.value_dim);
        let lines = |count: usize, bytes: usize| {
            let bytes = count.checked_mul(bytes)?;
            bytes.checked_next_multiple_of(LINE)
        };
        let rows = |dim: usize, bytes: usize| lines(dim, BLOCK_TOKENS * bytes);
        let scales = BLOCK_TOKENS * size_of::<f32>();
        let [keys_bytes, key_scales_bytes, values_bytes, value_scales] = match config.dtype {
            KvDType::F32 => [rows(key_dim, 4)?, 0, rows(value_dim, 4)?, 0],
            KvDType::F16 => [rows(key_dim, 2)?, 0, rows(value_dim, 2)?, 0],
            KvDType::Int8 => [rows(key_dim, 1)?, scales, rows(value_dim, 1)?, scales],
            KvDType::Int4 => [
                lines(key_dim, 8)?,
                lines(key_dim, 2 * size_of::<f16>())?,
                lines(value_dim.div_ceil(BLOCK_TOKENS), BLOCK_TOKENS * 8)?,
                lines(
                    value_dim.div_ceil(VALUE_GROUP),
                    2 * BLOCK_TOKENS * size_of::<f16>(),
                )?,
            ],
        };
        let head_bytes = keys_bytes
            .checked_add(key_scales_bytes)?
            .checked_add(values_bytes)?
            .checked_add(value_scales)?;
        let layer_bytes = head_bytes.checked_mul(config.kv_heads)?;
        let block_bytes = layer_bytes.checked_mul(config.layers)?;
        Some(Self {
            keys_bytes,
            key_scales_bytes,
            values_bytes,
            head_bytes,
            layer_bytes,
            block_bytes,
        })
    }
}

const _: () = assert!(
    BLOCK_TOKENS * size_of::<f32>() == LINE && BLOCK_TOKENS == ryz_kernels::KV_BLOCK,
    "a block's scales fill one line"
);
