//! Writes new positions.

use std::ops::Range;

use half::f16;
use ryz_kernels::{Kernels, Tile, VALUE_GROUP};

use crate::{BLOCK_TOKENS, BlockId, KvCache, KvCacheConfig, KvDType, config::Layout};

/// A stored number type.
pub(crate) trait CacheNumber: Copy {}
impl CacheNumber for f32 {}
impl CacheNumber for f16 {}
impl CacheNumber for i8 {}
impl CacheNumber for [u8; 8] {}
impl CacheNumber for [[f16; BLOCK_TOKENS]; 2] {}

/// See [`KvCache::writer`].
#[derive(Debug)]
pub struct KvWriter<'a> {
    cache: &'a KvCache,
    block: BlockId,
    slots: Range<usize>,
    /// The positions that only this writer writes: the whole block if blocks are written whole.
    claimed: Range<usize>,
    /// A writer of the block's tail, if it has one.
    tail: Option<Box<KvWriter<'a>>>,
}

impl KvCache {
    /// Grants exclusive write access to some positions of a block (all layers and heads) until the
    /// guard is dropped. With [`KvDType::Int4`], a writer claims the whole block.
    ///
    /// # Panics
    /// When there are no such positions, a reader is live, or another writer holds one of them;
    /// each is a bug in the caller.
    pub fn writer(&self, block: BlockId, slots: Range<usize>) -> KvWriter<'_> {
        assert!(
            slots.start < slots.end && slots.end <= BLOCK_TOKENS,
            "positions {slots:?} of a block of {BLOCK_TOKENS}"
        );
        let claimed = match self.config().dtype {
            KvDType::Int4 => 0..BLOCK_TOKENS,
            _ => slots.clone(),
        };
        self.claim(block, &claimed);
        // Tails use another type, so the recursion ends.
        let tail = self.tail(block).map(|(cache, tail)| {
            cache.claim(tail, &(0..BLOCK_TOKENS));
            Box::new(KvWriter {
                cache,
                block: tail,
                slots: slots.clone(),
                claimed: 0..BLOCK_TOKENS,
                tail: None,
            })
        });
        KvWriter {
            cache: self,
            block,
            slots,
            claimed,
            tail,
        }
    }
}

impl KvWriter<'_> {
    /// Stores keys and values of one layer and head: `rows` returns the key (`key_dim` values) and
    /// the value (`value_dim` values) of a position of the block. With [`KvDType::Int4`], they must
    /// be rounded to half precision.
    ///
    /// # Panics
    /// When an index or a length does not fit the cache's configuration; when a four-bit block is
    /// completed whose beginning was not kept ([`KvCache::prepare`]).
    pub fn write<'r>(
        &mut self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        rows: impl Fn(usize) -> (&'r [f32], &'r [f32]),
    ) {
        let config = *self.cache.config();
        let checked = |slot: usize| {
            let (key, value) = rows(slot);
            assert_eq!(key.len(), config.key_dim, "length of a key");
            assert_eq!(value.len(), config.value_dim, "length of a value");
            (key, value)
        };
        if config.dtype == KvDType::Int4 {
            return self.write_whole(kernels, layer, kv_head, checked);
        }
        for slot in self.slots.clone() {
            let (key, value) = checked(slot);
            self.write_slot(kernels, layer, kv_head, slot, key, value);
        }
    }

    fn write_slot(
        &mut self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let KvCacheConfig {
            key_dim,
            value_dim,
            dtype,
            ..
        } = *self.cache.config();
        let [keys, key_scales, values, value_scales] = self.offsets(layer, kv_head);
        match dtype {
            KvDType::F32 => {
                self.part::<f32>(keys, slot * key_dim, key_dim)
                    .copy_from_slice(key);
                self.part::<f32>(values, slot * value_dim, value_dim)
                    .copy_from_slice(value);
            }
            KvDType::F16 => {
                kernels.f32_to_f16(key, self.part(keys, slot * key_dim, key_dim));
                kernels.f32_to_f16(value, self.part(values, slot * value_dim, value_dim));
            }
            KvDType::Int8 => {
                let codes = self.part(keys, slot * key_dim, key_dim);
                let factor = kernels.quantize_row_i8(key, codes);
                self.part::<f32>(key_scales, slot, 1)[0] = 1.0 / factor;
                let codes = self.part(values, slot * value_dim, value_dim);
                let factor = kernels.quantize_row_i8(value, codes);
                self.part::<f32>(value_scales, slot, 1)[0] = 1.0 / factor;
            }
            KvDType::Int4 => unreachable!("blocks of four bits are written whole"),
        }
    }

    /// Four bits: writes the tail and, once the block is full, the block.
    fn write_whole<'r>(
        &mut self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        rows: impl Fn(usize) -> (&'r [f32], &'r [f32]),
    ) {
        if let Some(tail) = &mut self.tail {
            for slot in self.slots.clone() {
                let (key, value) = rows(slot);
                tail.write_slot(kernels, layer, kv_head, slot, key, value);
            }
        }
        if self.slots.end < BLOCK_TOKENS {
            return;
        }
        assert!(
            self.slots.start == 0 || self.tail.is_some(),
            "a block of four bits is finished that has no tail"
        );
        let KvCacheConfig {
            key_dim, value_dim, ..
        } = *self.cache.config();
        let [codes, scales, value_codes, groups] = self.offsets(layer, kv_head);
        let mut tiles = [[[0.0; BLOCK_TOKENS]; BLOCK_TOKENS]; VALUE_GROUP / BLOCK_TOKENS];
        for start in (0..key_dim).step_by(BLOCK_TOKENS) {
            let width = BLOCK_TOKENS.min(key_dim - start);
            self.gather(
                kernels,
                layer,
                kv_head,
                false,
                start..start + width,
                &rows,
                &mut tiles[0],
            );
            let mut found = [[f16::ZERO; BLOCK_TOKENS]; 2];
            let [found_scales, found_minima] = &mut found;
            kernels.quantize_keys_u4(
                &tiles[0],
                self.part(codes, start, width),
                &mut found_scales[..width],
                &mut found_minima[..width],
            );
            self.part(scales, start, width)
                .copy_from_slice(&found[0][..width]);
            self.part(scales, key_dim + start, width)
                .copy_from_slice(&found[1][..width]);
        }
        for (index, start) in (0..value_dim).step_by(VALUE_GROUP).enumerate() {
            let width = VALUE_GROUP.min(value_dim - start);
            let count = width.div_ceil(BLOCK_TOKENS);
            for (part, tile) in tiles[..count].iter_mut().enumerate() {
                let from = start + part * BLOCK_TOKENS;
                let columns = from..(start + width).min(from + BLOCK_TOKENS);
                self.gather(kernels, layer, kv_head, true, columns, &rows, tile);
            }
            let mut group = [[f16::ZERO; BLOCK_TOKENS]; 2];
            let codes = self.part(value_codes, start, count * BLOCK_TOKENS);
            kernels.quantize_values_u4(&tiles[..count], width, codes, &mut group);
            self.part(groups, index, 1)[0] = group;
        }
    }

    /// Some channels of all positions, from the tail or from the rows being written.
    #[expect(
        clippy::too_many_arguments,
        reason = "where the channels are, and where they go"
    )]
    fn gather<'r>(
        &mut self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        of_values: bool,
        columns: Range<usize>,
        rows: &impl Fn(usize) -> (&'r [f32], &'r [f32]),
        tile: &mut Tile,
    ) {
        let KvCacheConfig {
            key_dim, value_dim, ..
        } = *self.cache.config();
        for (slot, row) in tile.iter_mut().enumerate() {
            *row = [0.0; BLOCK_TOKENS];
            let row = &mut row[..columns.len()];
            let Some(tail) = &mut self.tail else {
                let (key, value) = rows(slot);
                let whole = if of_values { value } else { key };
                row.copy_from_slice(&whole[columns.clone()]);
                continue;
            };
            let [keys, _, values, _] = tail.offsets(layer, kv_head);
            let (offset, dim) = match of_values {
                true => (values, value_dim),
                false => (keys, key_dim),
            };
            let halves = tail.part::<f16>(offset, slot * dim + columns.start, columns.len());
            kernels.f16_to_f32(halves, row);
        }
    }

    /// Offsets of the keys, their metadata, the values, and their metadata.
    fn offsets(&self, layer: usize, kv_head: usize) -> [usize; 4] {
        let Layout {
            keys_bytes,
            key_scales_bytes,
            values_bytes,
            ..
        } = *self.cache.layout();
        let keys = self.cache.head_offset(self.block, layer, kv_head);
        let key_scales = keys + keys_bytes;
        let values = key_scales + key_scales_bytes;
        [keys, key_scales, values, values + values_bytes]
    }

    /// `len` numbers of the part of a head at `offset`, starting at number `first`; the positions
    /// must be claimed by this writer.
    fn part<T: CacheNumber>(&mut self, offset: usize, first: usize, len: usize) -> &mut [T] {
        let start = offset + first * size_of::<T>();
        assert!(start + len * size_of::<T>() <= self.cache.storage_len());
        // SAFETY: the range lies in the storage (asserted).
        let start = unsafe { self.cache.base().add(start) };
        // SAFETY: as above. The part starts on a 64-byte line and the number on a multiple of
        // size_of::<T>() after it, so the pointer is aligned. Any bytes are a valid T (zeroed at
        // first, Ts later). No other access exists: readers are excluded while this guard lives
        // (Phase), other guards hold other positions (SlotClaims), and `&mut self` excludes a
        // second slice of this one.
        unsafe { std::slice::from_raw_parts_mut(start.cast::<T>().as_ptr(), len) }
    }
}

impl Drop for KvWriter<'_> {
    fn drop(&mut self) {
        self.cache.unclaim(self.block, &self.claimed);
    }
}
