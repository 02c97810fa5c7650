//! Storage of keys and values.
//!
//! Layout, block-major: `[block][layer][kv head]{ keys [16][key_dim], key scales [16], values
//! [16][value_dim], value scales [16] }`, with every part on a 64-byte line. Only int8 has scales:
//! `value = scale · q`, `scale = max|v| / 127`. Int4 has other parts in the same places
//! ([`Int4Block`]).

use std::{ops::Range, ptr::NonNull};

use half::f16;
use ryz_kernels::{Int4Block, KvBlock, VALUE_GROUP};
use ryz_tmac::{Arena, Buffer, BufferKind};

use crate::{
    BLOCK_TOKENS, BlockId, BlockMove, KvCacheConfig, KvCacheError, KvDType,
    config::Layout,
    sharing::{Phase, SlotClaims},
    tails::{StepBlocks, Tails},
    writer::CacheNumber,
};

/// Keys and values of all blocks, shared by the threads of a step.
///
/// Threads either write different positions ([`KvCache::writer`]) or all read
/// ([`KvCache::reader`]). A barrier separates the two phases, and overlap is detected at run time.
#[derive(Debug)]
pub struct KvCache {
    config: KvCacheConfig,
    layout: Layout,
    phase: Phase,
    claims: Vec<SlotClaims>,
    /// Int4 only.
    tails: Option<Box<Tails>>,
    /// Start of the bytes of `storage`. All access goes through it, except `discard`, which updates
    /// it.
    base: NonNull<u8>,
    /// Owns the bytes.
    storage: Buffer,
}

// SAFETY: `base` points into `storage`, which is Send and does not move its bytes when moved.
unsafe impl Send for KvCache {}
// SAFETY: through `&KvCache`, the bytes are accessed only by guards: readers exclude writers
// (`Phase`), and no two writers hold the same position (`SlotClaims`).
unsafe impl Sync for KvCache {}

impl KvCache {
    /// Allocates a zeroed cache from the arena.
    ///
    /// # Errors
    /// [`KvCacheError::InvalidConfig`] when a dimension is 0 or the size overflows;
    /// [`KvCacheError::Memory`] when the allocation fails.
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
        let tail_bytes = config.tail_bytes().unwrap_or(0);
        let tails = match config.dtype {
            KvDType::Int4 if config.tails == 0 => {
                return Err(KvCacheError::InvalidConfig {
                    name: "tails",
                    expected: "at least 1",
                    got: 0,
                });
            }
            KvDType::Int4 => Some(Box::new(Tails::new(arena, &config)?)),
            _ => None,
        };
        let mut storage = arena
            .labelled("keys and values")
            .allocate(bytes - tail_bytes, BufferKind::KvCache)?;
        let base = NonNull::from(storage.as_bytes_mut()).cast::<u8>();
        let claims = (0..config.blocks).map(|_| SlotClaims::default()).collect();
        Ok(Self {
            config,
            layout,
            phase: Phase::default(),
            claims,
            tails,
            base,
            storage,
        })
    }

    /// The configuration of the cache.
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Bytes of the storage, including tails.
    pub fn bytes(&self) -> usize {
        let tails = self.tails.as_ref().map_or(0, |tails| tails.cache.bytes());
        self.storage.len() + tails
    }

    /// Prepares the cache for a step that writes new positions of some sequences. Only
    /// [`KvDType::Int4`] needs it.
    ///
    /// # Errors
    /// [`KvCacheError::Tails`] when more sequences are extended than there are tails;
    /// [`KvCacheError::TailMissing`] when a sequence continues a block whose beginning was not
    /// kept.
    pub fn prepare<'s>(
        &mut self,
        steps: impl Iterator<Item = StepBlocks<'s>> + Clone,
    ) -> Result<(), KvCacheError> {
        match &mut self.tails {
            Some(tails) => tails.prepare(steps),
            None => Ok(()),
        }
    }

    /// Drops the tails of unfinished blocks except the given ones: the last blocks of the sequences
    /// that may continue.
    pub fn keep_tails(&mut self, blocks: impl Iterator<Item = BlockId> + Clone) {
        if let Some(tails) = &mut self.tails {
            tails.keep(blocks);
        }
    }

    /// Whether a single writer must write all positions of a block.
    pub fn writes_whole_blocks(&self) -> bool {
        self.tails.is_some()
    }

    /// Grants read access to all blocks until the guard is dropped.
    ///
    /// # Panics
    /// When a writer is live, which is a bug in the caller.
    pub fn reader(&self) -> KvReader<'_> {
        self.phase.enter_read();
        if let Some(tails) = &self.tails {
            tails.cache.phase.enter_read();
        }
        KvReader { cache: self }
    }

    /// The address of its storage, and the bytes of each of its contiguous blocks.
    pub fn address(&self) -> (usize, usize) {
        (self.base.addr().get(), self.layout.block_bytes)
    }

    /// Copies blocks to other indices, with all layers and heads. Builds with debug assertions
    /// overwrite the old blocks, which exposes stale tables.
    ///
    /// # Panics
    /// When a block does not exist or is moved onto itself.
    pub fn move_blocks(&mut self, moves: &[BlockMove]) {
        if let Some(tails) = &mut self.tails {
            tails.moved(moves);
        }
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
            // SAFETY: two blocks (asserted) do not overlap; `&mut self` excludes guards and all
            // other access.
            unsafe { source.copy_to_nonoverlapping(target, bytes) };
            if cfg!(debug_assertions) {
                // SAFETY: as above.
                unsafe { source.write_bytes(0xff, bytes) };
            }
        }
    }

    /// Returns the memory of free blocks to the system where supported. The blocks are zero
    /// afterwards and occupy memory again once written. Returns the bytes released.
    ///
    /// # Panics
    /// When a block does not exist.
    pub fn discard(&mut self, blocks: Range<usize>) -> usize {
        let bytes = self.layout.block_bytes;
        let discarded = self
            .storage
            .discard(blocks.start * bytes..blocks.end * bytes);
        self.base = NonNull::from(self.storage.as_bytes_mut()).cast();
        discarded
    }

    /// Bytes of the blocks.
    pub(crate) fn storage_len(&self) -> usize {
        self.storage.len()
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The cache and index of a block's tail.
    pub(crate) fn tail(&self, block: BlockId) -> Option<(&KvCache, BlockId)> {
        let tails = self.tails.as_ref()?;
        Some((&tails.cache, tails.of(block)?))
    }

    /// Claims exclusive write access to some positions.
    pub(crate) fn claim(&self, block: BlockId, slots: &Range<usize>) {
        self.phase.enter_write();
        self.claims[block.index()].claim(slots);
    }

    /// Releases the claim.
    pub(crate) fn unclaim(&self, block: BlockId, slots: &Range<usize>) {
        self.claims[block.index()].release(slots);
        self.phase.leave_write();
    }

    /// Offset of one layer and head of a block, bounds-checked.
    pub(crate) fn head_offset(&self, block: BlockId, layer: usize, kv_head: usize) -> usize {
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

/// See [`KvCache::reader`].
#[derive(Debug)]
pub struct KvReader<'a> {
    cache: &'a KvCache,
}

impl KvReader<'_> {
    /// The cache being read.
    pub(crate) fn cache(&self) -> &KvCache {
        self.cache
    }

    /// The cache's configuration.
    pub(crate) fn config(&self) -> &KvCacheConfig {
        &self.cache.config
    }

    /// Keys and values of one layer and head of a block, as stored.
    pub(crate) fn block(&self, block: BlockId, layer: usize, kv_head: usize) -> KvBlock<'_> {
        Self::block_of(self.cache, block, layer, kv_head)
    }

    /// The same for a block's tail, if it has one.
    pub(crate) fn tail(&self, block: BlockId, layer: usize, kv_head: usize) -> Option<KvBlock<'_>> {
        let (cache, tail) = self.cache.tail(block)?;
        Some(Self::block_of(cache, tail, layer, kv_head))
    }

    /// From this reader's cache or its tails; both are locked for reading.
    fn block_of(cache: &KvCache, block: BlockId, layer: usize, kv_head: usize) -> KvBlock<'_> {
        let KvCacheConfig {
            key_dim,
            value_dim,
            dtype,
            ..
        } = cache.config;
        let Layout {
            keys_bytes,
            key_scales_bytes,
            values_bytes,
            ..
        } = cache.layout;
        let keys = cache.head_offset(block, layer, kv_head);
        let key_scales = keys + keys_bytes;
        let values = key_scales + key_scales_bytes;
        let value_scales = values + values_bytes;
        let (key_count, value_count) = (BLOCK_TOKENS * key_dim, BLOCK_TOKENS * value_dim);
        match dtype {
            KvDType::F32 => KvBlock::F32 {
                keys: Self::part(cache, keys, key_count),
                key_stride: key_dim,
                values: Self::part(cache, values, value_count),
                value_stride: value_dim,
            },
            KvDType::F16 => KvBlock::F16 {
                keys: Self::part(cache, keys, key_count),
                values: Self::part(cache, values, value_count),
            },
            KvDType::Int8 => KvBlock::Int8 {
                keys: Self::part(cache, keys, key_count),
                key_scales: Self::part(cache, key_scales, BLOCK_TOKENS),
                values: Self::part(cache, values, value_count),
                value_scales: Self::part(cache, value_scales, BLOCK_TOKENS),
            },
            KvDType::Int4 => {
                let scales: &[f16] = Self::part(cache, key_scales, 2 * key_dim);
                let (key_scales, key_minima) = scales.split_at(key_dim);
                KvBlock::Int4(Int4Block {
                    key_codes: Self::part(cache, keys, key_dim),
                    key_scales,
                    key_minima,
                    value_codes: Self::part(
                        cache,
                        values,
                        value_dim.div_ceil(BLOCK_TOKENS) * BLOCK_TOKENS,
                    ),
                    value_groups: Self::part(cache, value_scales, value_dim.div_ceil(VALUE_GROUP)),
                })
            }
        }
    }

    fn part<T: CacheNumber>(cache: &KvCache, offset: usize, len: usize) -> &[T] {
        assert!(offset + len * size_of::<T>() <= cache.storage.len());
        // SAFETY: the range lies in the storage (asserted).
        let start = unsafe { cache.base.add(offset) };
        // SAFETY: as above; it starts on a 64-byte line, and any bytes are a valid T. Writers are
        // excluded while the guard lives (Phase), so the bytes do not change.
        unsafe { std::slice::from_raw_parts(start.cast::<T>().as_ptr(), len) }
    }
}

impl Drop for KvReader<'_> {
    fn drop(&mut self) {
        if let Some(tails) = &self.cache.tails {
            tails.cache.phase.leave_read();
        }
        self.cache.phase.leave_read();
    }
}
