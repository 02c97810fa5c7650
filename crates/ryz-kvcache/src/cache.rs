//! Storage of keys and values.
//!
//! Layout, block-major: `[block][layer][kv head]{ keys [16][key_dim], key scales [16], values [16][value_dim], value scales
//! [16] }`, every part starting on a 64-byte line. The scales are there for int8 only, where `value = scale · q`,
//! `scale = max|v| / 127`; int4 has other parts in the same places ([`Int4Block`]).

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
    /// Int4 only.
    tails: Option<Box<Tails>>,
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

    /// The shape it was made with.
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Bytes of its storage, tails included.
    pub fn bytes(&self) -> usize {
        let tails = self.tails.as_ref().map_or(0, |tails| tails.cache.bytes());
        self.storage.len() + tails
    }

    /// Makes the cache ready for a step that writes the new positions of some sequences. Only [`KvDType::Int4`] needs it.
    ///
    /// # Errors
    /// [`KvCacheError::Tails`] when more sequences are being extended than there are tails for;
    /// [`KvCacheError::TailMissing`] when a sequence goes on within a block whose beginning is not known any more.
    pub fn prepare<'s>(
        &mut self,
        steps: impl Iterator<Item = StepBlocks<'s>> + Clone,
    ) -> Result<(), KvCacheError> {
        match &mut self.tails {
            Some(tails) => tails.prepare(steps),
            None => Ok(()),
        }
    }

    /// Forgets what is known of unfinished blocks, but for some: the last blocks of the sequences that may go on.
    pub fn keep_tails(&mut self, blocks: impl Iterator<Item = BlockId> + Clone) {
        if let Some(tails) = &mut self.tails {
            tails.keep(blocks);
        }
    }

    /// Whether positions of a block must be written by one writer.
    pub fn writes_whole_blocks(&self) -> bool {
        self.tails.is_some()
    }

    /// The right to read everything until it is dropped.
    ///
    /// # Panics
    /// When a writer lives: a fault of the calling pass.
    pub fn reader(&self) -> KvReader<'_> {
        self.phase.enter_read();
        if let Some(tails) = &self.tails {
            tails.cache.phase.enter_read();
        }
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

    /// Where a block's tail is.
    pub(crate) fn tail(&self, block: BlockId) -> Option<(&KvCache, BlockId)> {
        let tails = self.tails.as_ref()?;
        Some((&tails.cache, tails.of(block)?))
    }

    /// Takes the right to write some positions.
    pub(crate) fn claim(&self, block: BlockId, slots: &Range<usize>) {
        self.phase.enter_write();
        self.claims[block.index()].claim(slots);
    }

    /// Gives it back.
    pub(crate) fn unclaim(&self, block: BlockId, slots: &Range<usize>) {
        self.claims[block.index()].release(slots);
        self.phase.leave_write();
    }

    /// Offset of one layer and head of a block, checked.
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
    /// What it reads.
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

    /// The same of a block's tail, when it has one.
    pub(crate) fn tail(&self, block: BlockId, layer: usize, kv_head: usize) -> Option<KvBlock<'_>> {
        let (cache, tail) = self.cache.tail(block)?;
        Some(Self::block_of(cache, tail, layer, kv_head))
    }

    /// Of this reader's cache or of its tails: both are entered for reading.
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
        // SAFETY: as above; it starts on a 64-byte line, and any bytes are a valid T. Writers are excluded while the
        // guard lives (Phase), so the bytes do not change.
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
