//! The arena: who holds how much, and how much there may be.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytemuck::Pod;

use crate::{AlignedVec, Buffer, LINE, MemoryError, buffer::Region};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Whether large buffers ask for huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HugePages {
    /// Never.
    Off,
    /// By `madvise`, where the system has them (the default).
    #[default]
    Transparent,
}

/// Options of an [`Arena`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ArenaConfig {
    /// Bytes it may hold at a time; `None` (the default) for no limit but the system's.
    pub limit: Option<usize>,
    /// Huge pages; transparent by default.
    pub huge_pages: HugePages,
}

/// How much an arena holds and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes in use, in whole lines.
    pub in_use: usize,
    /// The most that was in use at a time.
    pub high_water: usize,
    /// Bytes allowed.
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
pub struct Arena(Arc<Books>);

/// What is shared by an arena and its buffers.
#[derive(Debug)]
pub(crate) struct Books {
    config: ArenaConfig,
    in_use: AtomicUsize,
    high_water: AtomicUsize,
    by_kind: [AtomicUsize; BufferKind::ALL.len()],
    buffers: AtomicUsize,
    allocations: AtomicUsize,
}

impl Arena {
    /// An arena that holds nothing yet.
    pub fn new(config: ArenaConfig) -> Self {
        Self(Arc::new(Books {
            config,
            in_use: AtomicUsize::new(0),
            high_water: AtomicUsize::new(0),
            by_kind: Default::default(),
            buffers: AtomicUsize::new(0),
            allocations: AtomicUsize::new(0),
        }))
    }

    /// Takes `bytes` zeroed bytes, aligned to a line and followed by at least a line of readable zeroes.
    ///
    /// # Errors
    /// [`MemoryError::LimitExceeded`] past the arena's limit, [`MemoryError::OutOfMemory`] when the system has none.
    pub fn allocate(&self, bytes: usize, kind: BufferKind) -> Result<Buffer, MemoryError> {
        let refused = || MemoryError::OutOfMemory {
            kind,
            requested: bytes,
        };
        let lines = bytes.checked_next_multiple_of(LINE).ok_or_else(refused)?;
        let claim = Claim::take(&self.0, lines, kind)?;
        let region = Region::zeroed(lines, self.0.config.huge_pages).ok_or_else(refused)?;
        claim.settle();
        Ok(Buffer::new(region, bytes, claim))
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

    /// How much it holds and held.
    pub fn stats(&self) -> MemoryStats {
        let books = &*self.0;
        let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        MemoryStats {
            in_use: read(&books.in_use),
            high_water: read(&books.high_water),
            limit: books.config.limit,
            by_kind: std::array::from_fn(|kind| read(&books.by_kind[kind])),
            buffers: read(&books.buffers),
            allocations: read(&books.allocations),
        }
    }
}

/// Bytes on an arena's books, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    books: Arc<Books>,
    bytes: usize,
    kind: BufferKind,
    /// Bytes in use with it, when it was claimed.
    with_it: usize,
}

impl Claim {
    /// Claims bytes before they are there, so that the limit holds however many threads ask.
    fn take(books: &Arc<Books>, bytes: usize, kind: BufferKind) -> Result<Self, MemoryError> {
        let limit = books.config.limit.unwrap_or(usize::MAX);
        let within = |in_use: usize| in_use.checked_add(bytes).filter(|&sum| sum <= limit);
        let claimed = books
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        let before = claimed.map_err(|in_use| MemoryError::LimitExceeded {
            kind,
            requested: bytes,
            in_use,
            limit,
        })?;
        books.by_kind[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        books.buffers.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            books: Arc::clone(books),
            bytes,
            kind,
            with_it: before + bytes,
        })
    }

    /// The bytes are there: an allocation that the system refused is none, and raises no high-water mark.
    fn settle(&self) {
        let books = &self.books;
        books.high_water.fetch_max(self.with_it, Ordering::Relaxed);
        books.allocations.fetch_add(1, Ordering::Relaxed);
    }

    pub fn kind(&self) -> BufferKind {
        self.kind
    }

    /// Bytes claimed, in whole lines.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.books.by_kind[self.kind as usize].fetch_sub(self.bytes, Ordering::Relaxed);
        self.books.buffers.fetch_sub(1, Ordering::Relaxed);
        self.books.in_use.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
