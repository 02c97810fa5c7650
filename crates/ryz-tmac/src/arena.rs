//! The arena: memory accounting and limits.

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
    /// File bytes being converted to weights.
    Staging,
}

impl BufferKind {
    /// Every kind, in the order of [`MemoryStats::by_kind`].
    pub const ALL: [Self; 4] = [Self::Weights, Self::KvCache, Self::Scratch, Self::Staging];

    /// The name used in reports.
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
    /// Maximum bytes held at a time; `None` (the default) for no limit other than the system's.
    pub limit: Option<usize>,
    /// Huge pages; default transparent.
    pub huge_pages: HugePages,
    /// Memory nodes of its regions; default first touch.
    pub nodes: NodePlacement,
    /// Whether to overwrite freed blocks with `0xff` and check them before reuse; default in builds
    /// with debug assertions.
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

/// Current and past memory use of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes in use, in whole lines.
    pub in_use: usize,
    /// Bytes reserved in pools.
    pub pooled: usize,
    /// Bytes mapped from the system: in use or pooled, padding, and free blocks.
    pub mapped: usize,
    /// Maximum bytes in use or pooled so far.
    pub high_water: usize,
    /// Maximum bytes allowed in use or pooled.
    pub limit: Option<usize>,
    /// Bytes in use by kind, in the order of [`BufferKind::ALL`].
    pub by_kind: [usize; BufferKind::ALL.len()],
    /// Live buffers.
    pub buffers: usize,
    /// Buffers allocated so far.
    pub allocations: usize,
}

impl MemoryStats {
    /// Bytes in use of one kind.
    pub fn of(&self, kind: BufferKind) -> usize {
        self.by_kind[kind as usize]
    }
}

/// The source of every large buffer. Clones refer to the same arena.
#[derive(Clone, Debug)]
pub struct Arena {
    heap: Arc<Heap>,
    label: Arc<str>,
}

impl Arena {
    /// An empty arena.
    pub fn new(config: ArenaConfig) -> Self {
        Self::of(Heap::new(config, None))
    }

    /// An arena that consults `policy` before it maps memory.
    pub fn with_policy(config: ArenaConfig, policy: SharedPolicy) -> Self {
        Self::of(Heap::new(config, Some(policy)))
    }

    fn of(heap: Heap) -> Self {
        Self {
            heap: Arc::new(heap),
            label: Arc::from(""),
        }
    }

    /// The same arena with a label, under which [`Arena::layout`] lists its buffers.
    #[must_use]
    pub fn labelled(&self, label: impl Into<Arc<str>>) -> Self {
        Self {
            heap: Arc::clone(&self.heap),
            label: label.into(),
        }
    }

    /// Allocates `bytes` zeroed bytes, aligned to a cache line and followed by at least one line of
    /// readable zeros.
    ///
    /// # Errors
    /// [`MemoryError::LimitExceeded`] above the arena's limit; [`MemoryError::OutOfMemory`] when
    /// the system has no memory; [`MemoryError::InvalidNodes`] when it has no such memory nodes.
    pub fn allocate(&self, bytes: usize, kind: BufferKind) -> Result<Buffer, MemoryError> {
        self.allocate_aligned(bytes, LINE, kind)
    }

    /// As [`Arena::allocate`], aligned to `align` bytes, a power of two; values below a cache line
    /// mean a cache line.
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

    /// Allocates `len` zeroed elements; see [`Arena::allocate`].
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

    /// Frees a buffer, as dropping it does.
    pub fn deallocate(&self, buffer: Buffer) {
        drop(buffer);
    }

    /// Reserves `count` contiguous buffers of `bytes`. Later buffers of that size (in whole lines)
    /// and kind are taken from the pool and returned to it without a system call. The pool counts
    /// against the limit until [`Arena::clear_pool`].
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

    /// Closes the pools of this size and kind, and returns how many bytes they held in reserve.
    /// Buffers in use stay valid; a pool's memory is unmapped with its last buffer.
    pub fn clear_pool(&self, bytes: usize, kind: BufferKind) -> usize {
        self.heap.clear_pool(bytes, kind)
    }

    /// Maps a file to be read in place. [`Arena::layout`] lists it. It does not count against the
    /// limit, because its pages belong to the system's cache. Truncating the file while it is
    /// mapped kills the process.
    ///
    /// # Errors
    /// [`MemoryError::Io`] when the system refuses.
    pub fn map_file(&self, file: &InputFile) -> Result<Arc<MappedFile>, MemoryError> {
        let mapped = Arc::new(file.map()?);
        self.heap.list_file(&mapped);
        Ok(mapped)
    }

    /// Current and past memory use.
    pub fn stats(&self) -> MemoryStats {
        self.heap.stats()
    }

    /// The memory layout: every region with its blocks, owners, pages, nodes and holes.
    pub fn layout(&self) -> MemoryLayout {
        self.heap.layout()
    }
}
