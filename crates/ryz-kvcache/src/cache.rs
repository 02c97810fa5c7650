//! Storage of keys and values.
//!
//! Layout, block-major: `[block][layer][kv head]{ keys [16][key_dim], values [16][value_dim], key scales [16],
//! value scales [16] }`, every part starting on a 64-byte line; the scales are there for int8 only, where
//! `value = scale · q`, `scale = max|v| / 127`.

use std::{ops::Range, ptr::NonNull};

use half::f16;
use ryz_kernels::Kernels;
use ryz_tmac::{Arena, Buffer, BufferKind};

use crate::{
    BLOCK_TOKENS, BlockId, BlockMove, KvCacheConfig, KvCacheError, KvDType,
    config::Layout,
    sharing::{Phase, SlotClaims},
};

/// Keys and values of all blocks, shared between the threads of a step.
///
/// Threads write different positions at the same time ([`KvCache::writer`]) or all read ([`KvCache::reader`]); the
/// two phases are parted by a barrier, and mixing them is caught at run time.
#[derive(Debug)]
pub struct KvCache {
    config: KvCacheConfig,
    layout: Layout,
    phase: Phase,
    claims: Vec<SlotClaims>,
    /// Start of `storage`'s bytes: they are reached through it alone, but for `discard`, which takes it anew.
    base: NonNull<u8>,
    /// Owns the bytes.
    storage: Buffer,
}

// SAFETY: `base` points into `storage`, which is Send and moves no bytes when it is moved.
unsafe impl Send for KvCache {}
// SAFETY: through `&KvCache` the bytes are reached by guards only: readers exclude writers (`Phase`), and two writers
// never hold the same position (`SlotClaims`).
unsafe impl Sync for KvCache {}

impl KvCache {
    /// Takes the memory of a whole cache, zeroed, from the arena.
    ///
    /// # Errors
    /// [`KvCacheError::InvalidConfig`] when a dimension is 0 or the size overflows, [`KvCacheError::Memory`] when the
    /// arena refuses it.
    pub fn new(arena: &Arena, config: KvCacheConfig) -> Result<Self, KvCacheError> {
        for (name, value) in [
            ("layers", config.layers),
            ("kv_heads", config.kv_heads),
            ("key_dim", config.key_dim),
            ("value_dim", config.value_dim),
            ("blocks", config.blocks),
        ] {
            if value == 0 {
                return Err(KvCacheError::InvalidConfig {
                    name,
                    expected: "at least 1",
                    got: 0,
                });
            }
        }
        let too_large = KvCacheError::InvalidConfig {
            name: "blocks",
            expected: "a cache that fits the address space",
            got: config.blocks,
        };
        let (Some(layout), Some(bytes)) = (Layout::new(&config), config.bytes()) else {
            return Err(too_large);
        };
        if u32::try_from(config.blocks).is_err() {
            return Err(too_large);
        }
        let mut storage = arena
            .labelled("keys and values")
            .allocate(bytes, BufferKind::KvCache)?;
        let base = NonNull::from(storage.as_bytes_mut()).cast::<u8>();
        let claims = (0..config.blocks).map(|_| SlotClaims::default()).collect();
        Ok(Self {
            config,
            layout,
            phase: Phase::default(),
            claims,
            base,
            storage,
        })
    }

    /// The shape it was made with.
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Bytes of its storage.
    pub fn bytes(&self) -> usize {
        self.storage.len()
    }

    /// The right to write one position (all layers and heads) until it is dropped.
    ///
    /// # Panics
    /// When a reader lives, or another writer of the same position: faults of the calling pass.
    pub fn writer(&self, block: BlockId, slot: usize) -> KvWriter<'_> {
        assert!(
            slot < BLOCK_TOKENS,
            "slot {slot} of a block of {BLOCK_TOKENS}"
        );
        self.phase.enter_write();
        self.claims[block.index()].claim(slot);
        KvWriter {
            cache: self,
            block,
            slot,
        }
    }

    /// The right to read everything until it is dropped.
    ///
    /// # Panics
    /// When a writer lives: a fault of the calling pass.
    pub fn reader(&self) -> KvReader<'_> {
        self.phase.enter_read();
        KvReader { cache: self }
    }

    /// Where its storage starts, and bytes of each of its blocks, which follow one another.
    pub fn address(&self) -> (usize, usize) {
        (self.base.addr().get(), self.layout.block_bytes)
    }

    /// Copies blocks to other places, all of their layers and heads. In builds with debug assertions the old places are
    /// overwritten, so that a table that was not told is found.
    ///
    /// # Panics
    /// When there is no such block, or one is moved onto itself.
    pub fn move_blocks(&mut self, moves: &[BlockMove]) {
        let bytes = self.layout.block_bytes;
        for &BlockMove { from, to } in moves {
            assert!(
                from != to && from.index().max(to.index()) < self.config.blocks,
                "a move from block {} to block {}",
                from.index(),
                to.index()
            );
            // SAFETY: the block lies in the storage (asserted).
            let source = unsafe { self.base.add(from.index() * bytes) };
            // SAFETY: as above.
            let target = unsafe { self.base.add(to.index() * bytes) };
            // SAFETY: two blocks (asserted) do not overlap; `&mut self` excludes guards, and so every other access.
            unsafe { source.copy_to_nonoverlapping(target, bytes) };
            if cfg!(debug_assertions) {
                // SAFETY: as above.
                unsafe { source.write_bytes(0xff, bytes) };
            }
        }
    }

    /// Gives the memory of free blocks back to the system where that takes it; they are zeroes afterwards, and cost
    /// memory again once they are written. Bytes that it took.
    ///
    /// # Panics
    /// When there are no such blocks.
    pub fn discard(&mut self, blocks: Range<usize>) -> usize {
        let bytes = self.layout.block_bytes;
        let discarded = self
            .storage
            .discard(blocks.start * bytes..blocks.end * bytes);
        self.base = NonNull::from(self.storage.as_bytes_mut()).cast();
        discarded
    }

    /// Offset of one layer and head of a block, checked.
    fn head_offset(&self, block: BlockId, layer: usize, kv_head: usize) -> usize {
        assert!(
            block.index() < self.config.blocks,
            "block {} of {}",
            block.index(),
            self.config.blocks
        );
        assert!(
            layer < self.config.layers,
            "layer {layer} of {}",
            self.config.layers
        );
        assert!(
            kv_head < self.config.kv_heads,
            "head {kv_head} of {}",
            self.config.kv_heads
        );
        block.index() * self.layout.block_bytes
            + layer * self.layout.layer_bytes
            + kv_head * self.layout.head_bytes
    }
}

/// One stored number type.
trait Stored: Copy {}
impl Stored for f32 {}
impl Stored for f16 {}
impl Stored for i8 {}

/// See [`KvCache::writer`].
#[derive(Debug)]
pub struct KvWriter<'a> {
    cache: &'a KvCache,
    block: BlockId,
    slot: usize,
}

impl KvWriter<'_> {
    /// Stores the key (`key_dim` values) and value (`value_dim` values) of one layer and head.
    ///
    /// # Panics
    /// When an index or a length does not fit the cache's configuration.
    pub fn write(
        &mut self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let KvCacheConfig {
            key_dim,
            value_dim,
            dtype,
            ..
        } = self.cache.config;
        let Layout {
            keys_bytes,
            values_bytes,
            scales_bytes,
            ..
        } = self.cache.layout;
        assert_eq!(key.len(), key_dim, "length of a key");
        assert_eq!(value.len(), value_dim, "length of a value");
        let keys = self.cache.head_offset(self.block, layer, kv_head);
        let values = keys + keys_bytes;
        let key_scales = values + values_bytes;
        let value_scales = key_scales + scales_bytes;
        match dtype {
            KvDType::F32 => {
                self.part::<f32>(keys, key_dim).copy_from_slice(key);
                self.part::<f32>(values, value_dim).copy_from_slice(value);
            }
            KvDType::F16 => {
                kernels.f32_to_f16(key, self.part::<f16>(keys, key_dim));
                kernels.f32_to_f16(value, self.part::<f16>(values, value_dim));
            }
            KvDType::Int8 => {
                let scale = kernels.quantize_row_i8(key, self.part::<i8>(keys, key_dim));
                self.part::<f32>(key_scales, 1)[0] = 1.0 / scale;
                let scale = kernels.quantize_row_i8(value, self.part::<i8>(values, value_dim));
                self.part::<f32>(value_scales, 1)[0] = 1.0 / scale;
            }
        }
    }

    /// This writer's `dim` numbers of the part of a head that starts at `offset`.
    fn part<T: Stored>(&mut self, offset: usize, dim: usize) -> &mut [T] {
        let start = offset + self.slot * dim * size_of::<T>();
        assert!(start + dim * size_of::<T>() <= self.cache.storage.len());
        // SAFETY: the range lies in the storage (asserted). The part starts on a 64-byte line and the slot on a
        // multiple of size_of::<T>() behind it, so the pointer is aligned; any bytes are a valid T (zeroed at first,
        // Ts later). No one else reaches them: readers are excluded while this guard lives (Phase), other guards hold
        // other positions (SlotClaims), and `&mut self` excludes a second slice of this one.
        unsafe {
            std::slice::from_raw_parts_mut(self.cache.base.add(start).cast::<T>().as_ptr(), dim)
        }
    }
}

impl Drop for KvWriter<'_> {
    fn drop(&mut self) {
        self.cache.claims[self.block.index()].release(self.slot);
        self.cache.phase.leave_write();
    }
}

/// See [`KvCache::reader`].
#[derive(Debug)]
pub struct KvReader<'a> {
    cache: &'a KvCache,
}

impl KvReader<'_> {
    /// The cache's configuration.
    pub(crate) fn config(&self) -> &KvCacheConfig {
        &self.cache.config
    }

    /// Keys of a block: 16 rows of `key_dim`.
    pub(crate) fn keys<T: Copy + Readable>(
        &self,
        block: BlockId,
        layer: usize,
        kv_head: usize,
    ) -> &[T] {
        let offset = self.cache.head_offset(block, layer, kv_head);
        self.part(offset, BLOCK_TOKENS * self.cache.config.key_dim)
    }

    /// Values of a block: 16 rows of `value_dim`.
    pub(crate) fn values<T: Copy + Readable>(
        &self,
        block: BlockId,
        layer: usize,
        kv_head: usize,
    ) -> &[T] {
        let offset = self.cache.head_offset(block, layer, kv_head) + self.cache.layout.keys_bytes;
        self.part(offset, BLOCK_TOKENS * self.cache.config.value_dim)
    }

    /// Scales of the keys and of the values of a block (int8 only).
    pub(crate) fn scales(&self, block: BlockId, layer: usize, kv_head: usize) -> (&[f32], &[f32]) {
        let Layout {
            keys_bytes,
            values_bytes,
            scales_bytes,
            ..
        } = self.cache.layout;
        let offset = self.cache.head_offset(block, layer, kv_head) + keys_bytes + values_bytes;
        (
            self.part(offset, BLOCK_TOKENS),
            self.part(offset + scales_bytes, BLOCK_TOKENS),
        )
    }

    fn part<T: Copy + Readable>(&self, offset: usize, len: usize) -> &[T] {
        assert!(
            T::DTYPES.contains(&self.cache.config.dtype),
            "the cache stores another type"
        );
        assert!(offset + len * size_of::<T>() <= self.cache.storage.len());
        // SAFETY: the range lies in the storage (asserted) and starts on a 64-byte line; any bytes are a valid T.
        // Writers are excluded while this guard lives (Phase), so the bytes do not change.
        unsafe { std::slice::from_raw_parts(self.cache.base.add(offset).cast::<T>().as_ptr(), len) }
    }
}

impl Drop for KvReader<'_> {
    fn drop(&mut self) {
        self.cache.phase.leave_read();
    }
}

/// A number type that can be read from caches of some types (f32 also as int8's scales).
pub(crate) trait Readable {
    const DTYPES: &'static [KvDType];
}

impl Readable for f32 {
    const DTYPES: &'static [KvDType] = &[KvDType::F32, KvDType::Int8];
}

impl Readable for f16 {
    const DTYPES: &'static [KvDType] = &[KvDType::F16];
}

impl Readable for i8 {
    const DTYPES: &'static [KvDType] = &[KvDType::Int8];
}
