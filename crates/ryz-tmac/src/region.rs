//! A mapping of system memory, divided into blocks of one size.

use std::{ptr::NonNull, sync::Arc};

use crate::{
    Buffer, BufferKind, Hole, MemoryRequest, RegionLayout, RegionUse, SharedPolicy,
    layout::BlockLayout, system::Mapping,
};

/// The owner of a block.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub label: Arc<str>,
    /// Requested bytes, in whole lines.
    pub bytes: usize,
}

/// Memory in blocks of one size.
#[derive(Debug)]
pub(crate) struct Region {
    pub mapping: Mapping,
    /// The policy's grant; dropping it notifies the policy.
    _granted: Option<Grant>,
    pub kind: BufferKind,
    pub used_as: RegionUse,
    pub block_bytes: usize,
    /// One entry per block; `None` for free ones.
    pub owners: Vec<Option<Owner>>,
    pub live: usize,
    /// Blocks that were used and freed.
    pub freed: Vec<usize>,
    /// Blocks from here on were never used and are zero.
    fresh: usize,
}

/// Memory that a policy granted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    pub policy: SharedPolicy,
    pub bytes: usize,
    pub kind: BufferKind,
    pub owner: Arc<str>,
}

impl Grant {
    fn request(&self) -> MemoryRequest<'_> {
        MemoryRequest {
            bytes: self.bytes,
            kind: self.kind,
            owner: &self.owner,
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.policy.get().on_free(&self.request());
    }
}

impl Region {
    pub fn new(
        (mapping, granted): (Mapping, Option<Grant>),
        kind: BufferKind,
        used_as: RegionUse,
        block_bytes: usize,
        blocks: usize,
    ) -> Self {
        Self {
            mapping,
            _granted: granted,
            kind,
            used_as,
            block_bytes,
            owners: vec![None; blocks],
            live: 0,
            freed: Vec::new(),
            fresh: 0,
        }
    }

    pub fn has_room(&self) -> bool {
        self.live < self.owners.len()
    }

    pub fn block(&self, block: usize) -> NonNull<u8> {
        assert!(block < self.owners.len());
        // SAFETY: the block lies in the mapping (asserted; all blocks fit in it).
        unsafe { self.mapping.start().add(block * self.block_bytes) }
    }

    /// Takes a free block; also returns whether it was used before.
    pub fn take(&mut self, owner: Owner) -> Option<(usize, bool)> {
        let (block, used) = match self.freed.pop() {
            Some(block) => (block, true),
            None if self.fresh < self.owners.len() => {
                self.fresh += 1;
                (self.fresh - 1, false)
            }
            None => return None,
        };
        self.owners[block] = Some(owner);
        self.live += 1;
        Some((block, used))
    }
}

impl Region {
    /// Whether it is a pool of blocks of `lines` lines.
    pub fn is_pool(&self, lines: usize, kind: BufferKind) -> bool {
        self.used_as == RegionUse::Pool
            && self.kind == kind
            && self.block_bytes == lines + Buffer::PADDING
    }

    pub fn layout(&self) -> RegionLayout {
        let address = self.mapping.start().addr().get();
        let at = |block: usize| address + block * self.block_bytes;
        let mut blocks = Vec::new();
        let mut holes: Vec<Hole> = Vec::new();
        for (place, owner) in self.owners.iter().enumerate() {
            match (owner, holes.last_mut()) {
                (Some(owner), _) => blocks.push(BlockLayout {
                    address: at(place),
                    bytes: owner.bytes,
                    owner: owner.label.to_string(),
                }),
                (None, Some(hole)) if hole.address + hole.bytes == at(place) => {
                    hole.bytes += self.block_bytes;
                }
                (None, _) => holes.push(Hole {
                    address: at(place),
                    bytes: self.block_bytes,
                }),
            }
        }
        RegionLayout {
            address,
            bytes: self.mapping.len(),
            kind: self.kind,
            used_as: self.used_as,
            block_bytes: self.block_bytes,
            capacity: self.owners.len(),
            page_bytes: self.mapping.page_bytes(),
            huge_pages: self.mapping.huge_pages(),
            placement: self.mapping.placement(),
            nodes: self.mapping.nodes(),
            fallbacks: self.mapping.fallbacks().to_vec(),
            blocks,
            holes,
        }
    }
}
