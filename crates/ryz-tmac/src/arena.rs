//! The arena: who holds how much, and how much there may be.

use std::{fmt, sync::Arc};

use bytemuck::Pod;
use serde::Serialize;

use crate::{
    AlignedVec, Buffer, HugePages, InputFile, LINE, MappedFile, MemoryError, MemoryLayout,
    NodePlacement, SharedPolicy, heap::Heap,
};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BufferKind {
    /// Model weights.
    Weights,
    /// Keys and values.
    KvCache,
    /// Activations and other scratch of a step.
    Scratch,
    /// Bytes of a file on their way into weights.
    Staging,
}

impl BufferKind {
    /// Every kind, in the order of [`MemoryStats::by_kind`].
    pub const ALL: [Self; 4] = [Self::Weights, Self::KvCache, Self::Scratch, Self::Staging];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::KvCache => "kv-cache",
            Self::Scratch => "scratch",
            Self::Staging => "staging",
        }
    }
}

impl fmt::Display for BufferKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Options of an [`Arena`].
#[derive(Clone, Copy, Debug)]
pub struct ArenaConfig {
    /// Bytes it may hold at a time; `None` (the default) for no limit but the system's.
    pub limit: Option<usize>,
    /// Huge pages; transparent by default.
    pub huge_pages: HugePages,
    /// On which memory nodes its regions lie; where they are touched first, by default.
    pub nodes: NodePlacement,
    /// Whether freed blocks are overwritten with `0xff`, and checked before they are used again; by default in builds with
    /// debug assertions.
    pub poison: bool,
}

impl Default for ArenaConfig {
    fn default() -> Self {
        Self {
            limit: None,
            huge_pages: HugePages::default(),
            nodes: NodePlacement::default(),
            poison: cfg!(debug_assertions),
        }
    }
}

/// How much an arena holds and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes in use, in whole lines.
    pub in_use: usize,
    /// Bytes that pools hold for later.
    pub pooled: usize,
    /// Bytes mapped from the system: what is in use or pooled, padding, and free blocks.
    pub mapped: usize,
    /// The most that was in use or pooled at a time.
    pub high_water: usize,
    /// Bytes allowed in use or pooled.
    pub limit: Option<usize>,
    /// Bytes in use by kind, in the order of [`BufferKind::ALL`].
    pub by_kind: [usize; BufferKind::ALL.len()],
    /// Live buffers.
    pub buffers: usize,
    /// Buffers ever taken.
    pub allocations: usize,
}

impl MemoryStats {
    /// Bytes in use for one kind.
    pub fn of(&self, kind: BufferKind) -> usize {
        self.by_kind[kind as usize]
    }
}

/// Where every large buffer comes from. A clone is the same arena.
#[derive(Clone, Debug)]
pub struct Arena {
    heap: Arc<Heap>,
    label: Arc<str>,
}

impl Arena {
    /// An arena that holds nothing yet.
    pub fn new(config: ArenaConfig) -> Self {
        Self::of(Heap::new(config, None))
    }

    /// An arena that asks `policy` before it maps memory.
    pub fn with_policy(config: ArenaConfig, policy: SharedPolicy) -> Self {
        Self::of(Heap::new(config, Some(policy)))
    }

    fn of(heap: Heap) -> Self {
        Self {
            heap: Arc::new(heap),
            label: Arc::from(""),
        }
    }

    /// The same arena, for a part of the engine that its buffers are listed under in [`Arena::layout`].
    #[must_use]
    pub fn labelled(&self, label: impl Into<Arc<str>>) -> Self {
        Self {
            heap: Arc::clone(&self.heap),
            label: label.into(),
        }
    }

    /// Takes `bytes` zeroed bytes, aligned to a line and followed by at least a line of readable zeroes.
    ///
    /// # Errors
    /// [`MemoryError::LimitExceeded`] past the arena's limit, [`MemoryError::OutOfMemory`] when the system has none,
    /// [`MemoryError::InvalidNodes`] when it has no such memory nodes.
    pub fn allocate(&self, bytes: usize, kind: BufferKind) -> Result<Buffer, MemoryError> {
        self.allocate_aligned(bytes, LINE, kind)
    }

    /// As [`Arena::allocate`], aligned to `align` bytes: a power of two; less than a line is a line.
    ///
    /// # Errors
    /// As [`Arena::allocate`], and [`MemoryError::InvalidAlignment`].
    pub fn allocate_aligned(
        &self,
        bytes: usize,
        align: usize,
        kind: BufferKind,
    ) -> Result<Buffer, MemoryError> {
        let block = self.heap.allocate(bytes, align, kind, &self.label)?;
        Ok(Buffer::new(Arc::clone(&self.heap), block, bytes))
    }

    /// Takes `len` zeroed elements; see [`Arena::allocate`].
    ///
    /// # Errors
    /// As [`Arena::allocate`].
    pub fn allocate_slice<T: Pod>(
        &self,
        len: usize,
        kind: BufferKind,
    ) -> Result<AlignedVec<T>, MemoryError> {
        let bytes = len.checked_mul(size_of::<T>());
        let bytes = bytes.ok_or(MemoryError::OutOfMemory {
            kind,
            requested: usize::MAX,
        })?;
        Ok(AlignedVec::new(self.allocate(bytes, kind)?, len))
    }

    /// Gives a buffer back: what dropping it does.
    pub fn deallocate(&self, buffer: Buffer) {
        drop(buffer);
    }

    /// Holds `count` buffers of `bytes` ready, side by side: the next ones of that size (in whole lines) and kind come from
    /// here and go back here, without the system being asked. They count against the limit from now on, until
    /// [`Arena::clear_pool`].
    ///
    /// # Errors
    /// As [`Arena::allocate`].
    pub fn preallocate_pool(
        &self,
        bytes: usize,
        count: usize,
        kind: BufferKind,
    ) -> Result<(), MemoryError> {
        self.heap.preallocate_pool(bytes, count, kind, &self.label)
    }

    /// Ends the pools of this size and kind, and says how many bytes they held ready. Buffers of theirs that are in use
    /// stay; the pool's memory goes back to the system with the last of them.
    pub fn clear_pool(&self, bytes: usize, kind: BufferKind) -> usize {
        self.heap.clear_pool(bytes, kind)
    }

    /// Maps a file, to be read in place: it is listed in [`Arena::layout`], and counts against no limit, for its pages are
    /// the system's cache. Whoever asks for this takes the risk that a file cut short later kills the process.
    ///
    /// # Errors
    /// [`MemoryError::Io`] when the system refuses.
    pub fn map_file(&self, file: &InputFile) -> Result<Arc<MappedFile>, MemoryError> {
        let mapped = Arc::new(file.map()?);
        self.heap.list_file(&mapped);
        Ok(mapped)
    }

    /// How much it holds and held.
    pub fn stats(&self) -> MemoryStats {
        self.heap.stats()
    }

    /// What lies where: every region, its blocks, whose they are, its pages and nodes, and the holes.
    pub fn layout(&self) -> MemoryLayout {
        self.heap.layout()
    }
}
