//! An arena's internals: regions, the blocks in them, and the accounting.
//!
//! Buffers of up to 128 KiB are blocks of a size class, taken from a region for one class and kind;
//! larger buffers and pools are separate regions. A region is unmapped when its last block is
//! freed.

use std::{
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    ArenaConfig, Buffer, BufferKind, FileLayout, LINE, MappedFile, MemoryError, MemoryLayout,
    MemoryRequest, MemoryStats, PlacementRequest, RegionUse, SharedPolicy, classes, poison,
    region::{Grant, Owner, Region},
    system::{Mapping, page_size},
};

/// State shared by an arena and its buffers.
#[derive(Debug)]
pub(crate) struct Heap {
    pub config: ArenaConfig,
    policy: Option<SharedPolicy>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    regions: Vec<Option<Region>>,
    files: Vec<Weak<MappedFile>>,
    in_use: usize,
    pooled: usize,
    mapped: usize,
    high_water: usize,
    by_kind: [usize; BufferKind::ALL.len()],
    buffers: usize,
    allocations: usize,
}

/// A block held by a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    region: usize,
    index: usize,
    start: NonNull<u8>,
    /// Readable bytes: the requested bytes in whole lines, plus the padding.
    padded: usize,
    /// Bytes of the block.
    len: usize,
    /// Bytes per page of its memory.
    page: usize,
    kind: BufferKind,
    own_region: bool,
}

impl Block {
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn padded(&self) -> usize {
        self.padded
    }

    pub fn kind(&self) -> BufferKind {
        self.kind
    }

    pub fn page(&self) -> usize {
        self.page
    }
}

impl Heap {
    pub fn new(config: ArenaConfig, policy: Option<SharedPolicy>) -> Self {
        Self {
            config,
            policy,
            state: Mutex::new(State {
                regions: Vec::new(),
                files: Vec::new(),
                in_use: 0,
                pooled: 0,
                mapped: 0,
                high_water: 0,
                by_kind: [0; BufferKind::ALL.len()],
                buffers: 0,
                allocations: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps memory as the policy decides. Call it without holding the lock: a policy may query the
    /// arena, and may take long.
    fn map(
        &self,
        bytes: usize,
        align: usize,
        kind: BufferKind,
        owner: &Arc<str>,
    ) -> Result<(Mapping, Option<Grant>), MemoryError> {
        let mut wish = PlacementRequest::default();
        let mut granted = None;
        if let Some(policy) = &self.policy {
            let request = MemoryRequest { bytes, kind, owner };
            let answer = policy.get().on_allocate(&request);
            wish = answer.map_err(|reason| MemoryError::Denied {
                kind,
                requested: bytes,
                reason,
            })?;
            granted = Some(Grant {
                policy: policy.clone(),
                bytes,
                kind,
                owner: Arc::clone(owner),
            });
        }
        let huge_pages = wish.huge_pages.unwrap_or(self.config.huge_pages);
        let nodes = wish.nodes.unwrap_or(self.config.nodes);
        let mapping = Mapping::new(bytes, align, huge_pages, nodes, kind)?;
        Ok((mapping, granted))
    }

    /// Lists a mapped file while it is mapped.
    pub fn list_file(&self, file: &Arc<MappedFile>) {
        let mut state = self.state();
        state.files.retain(|file| file.strong_count() > 0);
        state.files.push(Arc::downgrade(file));
    }

    /// Allocates a zeroed block for `bytes` bytes plus one line.
    pub fn allocate(
        &self,
        bytes: usize,
        align: usize,
        kind: BufferKind,
        label: &Arc<str>,
    ) -> Result<Block, MemoryError> {
        if !align.is_power_of_two() {
            return Err(MemoryError::InvalidAlignment { got: align });
        }
        let align = align.max(LINE);
        let refused = || MemoryError::OutOfMemory {
            kind,
            requested: bytes,
        };
        let lines = bytes.checked_next_multiple_of(LINE).ok_or_else(refused)?;
        let padded = lines.checked_add(Buffer::PADDING).ok_or_else(refused)?;
        let owner = Owner {
            label: Arc::clone(label),
            bytes: lines,
        };
        let mut state = self.state();
        let (block, used) = match state.pool_for(lines, align, kind) {
            Some(pool) => {
                state.pooled -= lines;
                state.claimed(lines, kind);
                state.take(pool, owner, padded)
            }
            None => {
                let held = state.claim(lines, kind, self.config.limit)?;
                let class =
                    classes::class_of(padded).and_then(|class| classes::aligned(class, align));
                let found = class.and_then(|class| state.chunk_with_room(class, kind));
                let region = match found {
                    Some(region) => region,
                    None => {
                        // Mapping is slow, so do not block other threads.
                        drop(state);
                        let region = self.region(class, padded, align, kind, label);
                        state = self.state();
                        let region = region.inspect_err(|_| state.unclaim(lines, kind))?;
                        state.add(region)
                    }
                };
                // A failed mapping does not raise the high-water mark.
                state.high_water = state.high_water.max(held);
                state.take(region, owner, padded)
            }
        };
        state.allocations += 1;
        drop(state);
        poison::open(block.start, block.padded);
        if used {
            if self.config.poison {
                // SAFETY: only this thread holds the block since it was taken, and it was fully
                // overwritten when freed.
                unsafe { poison::check(block.start, block.padded) };
            }
            // SAFETY: only this thread holds the block, and it is mapped.
            unsafe { block.start.write_bytes(0, block.padded) };
        }
        Ok(block)
    }

    /// A new region, for blocks of a class or for one buffer.
    fn region(
        &self,
        class: Option<usize>,
        padded: usize,
        align: usize,
        kind: BufferKind,
        label: &Arc<str>,
    ) -> Result<Region, MemoryError> {
        let Some(class) = class else {
            let mapping = self.map(padded, align, kind, label)?;
            return Ok(Region::new(mapping, kind, RegionUse::Buffer, padded, 1));
        };
        let (block_bytes, blocks) = (
            classes::block_bytes(class),
            classes::blocks_per_region(class),
        );
        let shared = Arc::from("");
        let mapped = self.map(blocks * block_bytes, LINE, kind, &shared)?;
        poison::close(mapped.0.start(), mapped.0.len());
        let used_as = RegionUse::Chunk;
        Ok(Region::new(mapped, kind, used_as, block_bytes, blocks))
    }

    /// Frees a block.
    pub fn free(&self, block: Block) {
        if !block.own_region {
            if self.config.poison {
                poison::open(block.start, block.len);
                // SAFETY: the caller holds the entire block exclusively.
                unsafe { poison::overwrite(block.start, block.len) };
            }
            poison::close(block.start, block.len);
        }
        let mut state = self.state();
        let gone = state.give_back(&block);
        // Once released from the accounting, memory can be reused. Large mappings are unmapped
        // before that, without holding the lock.
        if gone.is_some() {
            drop(state);
            drop(gone);
            state = self.state();
        }
        state.unclaim(block.padded - Buffer::PADDING, block.kind);
    }

    /// Maps a pool.
    pub fn preallocate_pool(
        &self,
        bytes: usize,
        count: usize,
        kind: BufferKind,
        label: &Arc<str>,
    ) -> Result<(), MemoryError> {
        if count == 0 {
            return Ok(());
        }
        let refused = || MemoryError::OutOfMemory {
            kind,
            requested: bytes.saturating_mul(count),
        };
        let lines = bytes.checked_next_multiple_of(LINE).ok_or_else(refused)?;
        let block_bytes = lines.checked_add(Buffer::PADDING).ok_or_else(refused)?;
        let total = block_bytes.checked_mul(count).ok_or_else(refused)?;
        let mut state = self.state();
        let held = state.reserve(lines * count, kind, self.config.limit)?;
        drop(state);
        let mapped = self.map(total, LINE, kind, label);
        state = self.state();
        let mapped = mapped.inspect_err(|_| state.pooled -= lines * count)?;
        poison::close(mapped.0.start(), mapped.0.len());
        state.high_water = state.high_water.max(held);
        let used_as = RegionUse::Pool;
        state.add(Region::new(mapped, kind, used_as, block_bytes, count));
        Ok(())
    }

    /// Closes the pools of a size and kind; returns the bytes that are no longer reserved.
    pub fn clear_pool(&self, bytes: usize, kind: BufferKind) -> usize {
        let Some(lines) = bytes.checked_next_multiple_of(LINE) else {
            return 0;
        };
        let mut gone = Vec::new();
        let mut state = self.state();
        let mut freed = 0;
        for place in 0..state.regions.len() {
            let Some(region) = &mut state.regions[place] else {
                continue;
            };
            if !region.is_pool(lines, kind) {
                continue;
            }
            freed += (region.owners.len() - region.live) * lines;
            // Its live blocks stay valid; freed ones are not reused.
            region.used_as = RegionUse::ClosedPool;
            if region.live == 0 {
                gone.extend(state.remove(place));
            }
        }
        state.pooled -= freed;
        drop(state);
        freed
    }

    pub fn stats(&self) -> MemoryStats {
        self.state().stats(self.config.limit)
    }

    pub fn layout(&self) -> MemoryLayout {
        let state = self.state();
        let mut regions: Vec<_> = state.regions.iter().flatten().map(Region::layout).collect();
        regions.sort_by_key(|region| region.address);
        MemoryLayout {
            stats: state.stats(self.config.limit),
            page_size: page_size(),
            regions,
            files: state
                .files
                .iter()
                .filter_map(Weak::upgrade)
                .map(|file| FileLayout {
                    path: file.path().to_owned(),
                    address: file.as_ptr().addr(),
                    bytes: file.len(),
                })
                .collect(),
            paged: Vec::new(),
        }
    }
}

impl State {
    /// Claims bytes before they are mapped, so that concurrent requests respect the limit; returns
    /// the bytes held after the claim.
    fn claim(
        &mut self,
        lines: usize,
        kind: BufferKind,
        limit: Option<usize>,
    ) -> Result<usize, MemoryError> {
        let held = self.held_with(lines, kind, limit)?;
        self.claimed(lines, kind);
        Ok(held)
    }

    /// As `claim`, for a pool.
    fn reserve(
        &mut self,
        lines: usize,
        kind: BufferKind,
        limit: Option<usize>,
    ) -> Result<usize, MemoryError> {
        let held = self.held_with(lines, kind, limit)?;
        self.pooled += lines;
        Ok(held)
    }

    fn held_with(
        &self,
        lines: usize,
        kind: BufferKind,
        limit: Option<usize>,
    ) -> Result<usize, MemoryError> {
        let limit = limit.unwrap_or(usize::MAX);
        let held = self.in_use + self.pooled;
        held.checked_add(lines)
            .filter(|&sum| sum <= limit)
            .ok_or(MemoryError::LimitExceeded {
                kind,
                requested: lines,
                in_use: held,
                limit,
            })
    }

    fn claimed(&mut self, lines: usize, kind: BufferKind) {
        self.in_use += lines;
        self.by_kind[kind as usize] += lines;
        self.buffers += 1;
    }

    fn unclaim(&mut self, lines: usize, kind: BufferKind) {
        self.in_use -= lines;
        self.by_kind[kind as usize] -= lines;
        self.buffers -= 1;
    }

    fn add(&mut self, region: Region) -> usize {
        self.mapped += region.mapping.len();
        match self.regions.iter().position(Option::is_none) {
            Some(place) => {
                self.regions[place] = Some(region);
                place
            }
            None => {
                self.regions.push(Some(region));
                self.regions.len() - 1
            }
        }
    }

    fn remove(&mut self, place: usize) -> Option<Region> {
        let region = self.regions[place].take();
        self.mapped -= region.as_ref().map_or(0, |region| region.mapping.len());
        region
    }

    /// A region of a class with a free block.
    fn chunk_with_room(&self, class: usize, kind: BufferKind) -> Option<usize> {
        let block_bytes = classes::block_bytes(class);
        let room = |region: &Region| {
            region.used_as == RegionUse::Chunk
                && region.kind == kind
                && region.block_bytes == block_bytes
                && region.has_room()
        };
        self.regions
            .iter()
            .position(|r| r.as_ref().is_some_and(room))
    }

    fn pool_for(&self, lines: usize, align: usize, kind: BufferKind) -> Option<usize> {
        if align > LINE {
            return None;
        }
        let fits = |region: &Region| region.is_pool(lines, kind) && region.has_room();
        self.regions
            .iter()
            .position(|r| r.as_ref().is_some_and(fits))
    }

    /// Takes a block from a region with a free block.
    fn take(&mut self, place: usize, owner: Owner, padded: usize) -> (Block, bool) {
        let region = self.regions[place].as_mut();
        let taken = region.and_then(|region| {
            let (index, used) = region.take(owner)?;
            let block = Block {
                region: place,
                index,
                start: region.block(index),
                padded,
                len: region.block_bytes,
                page: region.mapping.page_bytes(),
                kind: region.kind,
                own_region: region.used_as == RegionUse::Buffer,
            };
            Some((block, used))
        });
        taken.expect("the region was seen to have room")
    }

    /// Frees the block; returns the region if this was its last block.
    fn give_back(&mut self, block: &Block) -> Option<Region> {
        let region = self.regions[block.region].as_mut()?;
        let owner = region.owners[block.index].take();
        assert!(owner.is_some(), "a block was freed twice");
        region.live -= 1;
        match region.used_as {
            RegionUse::Pool => {
                region.freed.push(block.index);
                self.pooled += block.padded - Buffer::PADDING;
            }
            RegionUse::Chunk | RegionUse::Buffer | RegionUse::ClosedPool if region.live == 0 => {
                return self.remove(block.region);
            }
            _ => region.freed.push(block.index),
        }
        None
    }

    fn stats(&self, limit: Option<usize>) -> MemoryStats {
        MemoryStats {
            in_use: self.in_use,
            pooled: self.pooled,
            mapped: self.mapped,
            high_water: self.high_water,
            limit,
            by_kind: self.by_kind,
            buffers: self.buffers,
            allocations: self.allocations,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(not(ryz_asan))]
    use std::panic::AssertUnwindSafe;

    use crate::{Arena, ArenaConfig, BufferKind};

    fn poisoning() -> Arena {
        Arena::new(ArenaConfig {
            poison: true,
            ..ArenaConfig::default()
        })
    }

    /// A use after free, through a retained address.
    #[cfg(not(ryz_asan))]
    #[test]
    fn a_freed_block_is_overwritten_and_a_write_to_it_is_found() {
        let arena = poisoning();
        // Keeps the region mapped after the other block is freed.
        let _neighbour = arena.allocate(100, BufferKind::Scratch).unwrap();
        let mut buffer = arena.allocate(100, BufferKind::Scratch).unwrap();
        buffer.as_bytes_mut().fill(7);
        let kept = buffer.as_bytes_mut().as_mut_ptr();
        drop(buffer);
        // SAFETY: the region is still mapped, and no buffer holds the block.
        assert_eq!(unsafe { kept.read() }, super::poison::BYTE);
        // SAFETY: as above.
        unsafe { kept.add(3).write(1) };
        let again = AssertUnwindSafe(|| arena.allocate(100, BufferKind::Scratch));
        let found = std::panic::catch_unwind(again);
        let message = *found.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(message, "byte 3 of 192 freed bytes was written");
    }

    #[cfg(ryz_asan)]
    #[test]
    fn the_sanitizer_guards_freed_blocks_and_what_no_one_asked_for() {
        use super::poison::is_closed;
        let arena = poisoning();
        let neighbour = arena.allocate(300, BufferKind::Scratch).unwrap();
        let buffer = arena.allocate(300, BufferKind::Scratch).unwrap();
        let kept = buffer.as_bytes().as_ptr();
        assert!(!is_closed(kept) && !is_closed(kept.wrapping_add(320 + 63)));
        drop(buffer);
        assert!(is_closed(kept) && is_closed(kept.wrapping_add(299)));
        assert!(!is_closed(neighbour.as_bytes().as_ptr()));
        let again = arena.allocate(300, BufferKind::Scratch).unwrap();
        assert_eq!(again.as_bytes().as_ptr(), kept);
        assert!(!is_closed(kept));
    }
}
