//! Blocks as plain bytes, to be kept elsewhere and brought back.
//!
//! The bytes are those of the storage (see `cache.rs`), little-endian on every platform that there is, with zeroes between the
//! parts: equal keys and values are equal bytes. They mean something only to a cache of the same shape and type.

use half::f16;
use ryz_kernels::VALUE_GROUP;

use crate::{BLOCK_TOKENS, BlockId, KvCache, KvCacheConfig, KvDType, KvReader, config::Layout};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "saved blocks are little-endian"
);

impl KvReader<'_> {
    /// Copies a block, which must be full, in all layers and heads.
    ///
    /// # Panics
    /// When there is no such block, or `bytes` are not as many as a block has.
    pub fn copy_block(&self, block: BlockId, bytes: &mut [u8]) {
        let (cache, layout) = (self.cache(), self.cache().layout());
        assert_eq!(bytes.len(), layout.block_bytes, "bytes of a block");
        let start = cache.head_offset(block, 0, 0);
        assert!(start + bytes.len() <= cache.storage_len());
        // SAFETY: the block lies in the storage (asserted).
        let source = unsafe { cache.base().add(start) };
        // SAFETY: as above; bytes have no alignment and any is valid. Writers are excluded while the reader lives, so the bytes
        // do not change; `bytes` is a place of its own, since nobody has the storage as a mutable slice.
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
    /// Makes a block what another, of this cache or of one of the same shape and type, was when it was copied.
    ///
    /// # Panics
    /// When there is no such block, or `bytes` are not as many as a block has.
    pub fn write_block(&mut self, block: BlockId, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.layout().block_bytes, "bytes of a block");
        let start = self.head_offset(block, 0, 0);
        assert!(start + bytes.len() <= self.storage_len());
        // SAFETY: the block lies in the storage (asserted).
        let target = unsafe { self.base().add(start) };
        // SAFETY: as above; `&mut self` excludes guards, and so every other access, and `bytes` cannot lie in the storage, which
        // nobody has as a slice then. Any bytes are valid numbers of every type that is stored.
        unsafe {
            target.copy_from_nonoverlapping(std::ptr::NonNull::from(bytes).cast(), bytes.len())
        };
    }
}

/// Where the parts of a head lie.
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

/// Bytes of each part that hold something.
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
