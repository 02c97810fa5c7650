//! Blocks as plain bytes, to be stored elsewhere and restored.
//!
//! The bytes are those of the storage (see `cache.rs`), little-endian on every platform, with zeros
//! between the parts: equal keys and values give equal bytes. They are valid only for a cache of
//! the same shape and type.

use half::f16;
use ryz_kernels::VALUE_GROUP;

use crate::{BLOCK_TOKENS, BlockId, KvCache, KvCacheConfig, KvDType, KvReader, config::Layout};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "saved blocks are little-endian"
);

impl KvReader<'_> {
    /// Copies a full block with all layers and heads.
    ///
    /// # Panics
    /// When there is no such block, or the length of `bytes` is not a block's size.
    pub fn copy_block(&self, block: BlockId, bytes: &mut [u8]) {
        let (cache, layout) = (self.cache(), self.cache().layout());
        assert_eq!(bytes.len(), layout.block_bytes, "bytes of a block");
        let start = cache.head_offset(block, 0, 0);
        assert!(start + bytes.len() <= cache.storage_len());
        // SAFETY: the block lies in the storage (asserted).
        let source = unsafe { cache.base().add(start) };
        // SAFETY: as above; bytes need no alignment and every value is valid. Writers are excluded
        // while the reader lives, so the bytes do not change. `bytes` does not overlap the storage,
        // which is never borrowed as a mutable slice.
        unsafe {
            source.copy_to_nonoverlapping(std::ptr::NonNull::from(&mut *bytes).cast(), bytes.len())
        };
        let used = used(cache.config());
        for head in bytes.chunks_exact_mut(layout.head_bytes) {
            for (part, used) in parts(layout).into_iter().zip(used) {
                head[part][used..].fill(0);
            }
        }
    }
}

impl KvCache {
    /// Restores a block from a copy of a block of this cache, or of one with the same shape and
    /// type.
    ///
    /// # Panics
    /// When there is no such block, or the length of `bytes` is not a block's size.
    pub fn write_block(&mut self, block: BlockId, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.layout().block_bytes, "bytes of a block");
        let start = self.head_offset(block, 0, 0);
        assert!(start + bytes.len() <= self.storage_len());
        // SAFETY: the block lies in the storage (asserted).
        let target = unsafe { self.base().add(start) };
        // SAFETY: as above; `&mut self` excludes guards and all other access, and `bytes` cannot
        // overlap the storage, because no slice of it exists then. Any bytes are valid for every
        // stored type.
        unsafe {
            target.copy_from_nonoverlapping(std::ptr::NonNull::from(bytes).cast(), bytes.len())
        };
    }
}

/// The ranges of a head's parts.
fn parts(layout: &Layout) -> [std::ops::Range<usize>; 4] {
    let keys = layout.keys_bytes;
    let key_scales = keys + layout.key_scales_bytes;
    let values = key_scales + layout.values_bytes;
    [
        0..keys,
        keys..key_scales,
        key_scales..values,
        values..layout.head_bytes,
    ]
}

/// Used bytes of each part.
fn used(config: &KvCacheConfig) -> [usize; 4] {
    let KvCacheConfig {
        key_dim, value_dim, ..
    } = *config;
    let rows = |dim: usize, bytes: usize| BLOCK_TOKENS * dim * bytes;
    let scales = BLOCK_TOKENS * size_of::<f32>();
    let half = size_of::<f16>();
    match config.dtype {
        KvDType::F32 => [rows(key_dim, 4), 0, rows(value_dim, 4), 0],
        KvDType::F16 => [rows(key_dim, 2), 0, rows(value_dim, 2), 0],
        KvDType::Int8 => [rows(key_dim, 1), scales, rows(value_dim, 1), scales],
        KvDType::Int4 => [
            8 * key_dim,
            2 * half * key_dim,
            value_dim.div_ceil(BLOCK_TOKENS) * BLOCK_TOKENS * 8,
            value_dim.div_ceil(VALUE_GROUP) * 2 * BLOCK_TOKENS * half,
        ],
    }
}
