//! Token-Aligned Memory: the arena every large buffer comes from, strided views, token-interleaved tiles, prefetching, file
//! reads and maps.
//!
//! Every large buffer of the engine (weights, key-value blocks, scratch) is taken from one [`Arena`], which aligns it to
//! 64-byte lines, counts it by kind, holds it to a byte limit, and gives it back when it is dropped. Small buffers are blocks
//! of size classes, large ones mappings of their own; [`Arena::layout`] shows what lies where, and a [`MemoryPolicy`] says
//! where it may. Files are opened once, here: [`InputFile`] reads ranges into buffers, so that a file truncated under our
//! feet is an error and not a signal; [`MappedFile`] is there for those who ask for a map.
//!
//! ```
//! use ryz_tmac::{Arena, ArenaConfig, BufferKind};
//!
//! let arena = Arena::new(ArenaConfig { limit: Some(1 << 20), ..ArenaConfig::default() });
//! let mut scratch = arena.allocate_slice::<f32>(1000, BufferKind::Scratch)?;
//! scratch[999] = 1.0;
//! assert_eq!(arena.stats().in_use, 4032); // 4,000 bytes in whole lines
//! assert!(arena.allocate(1 << 21, BufferKind::Weights).is_err());
//! # Ok::<(), ryz_tmac::MemoryError>(())
//! ```

mod arena;
mod buffer;
mod classes;
mod error;
mod file;
mod heap;
mod interleave;
mod layout;
mod matrix;
mod placement;
mod poison;
mod policy;
mod prefetch;
mod region;
mod stored;
mod system;

pub use arena::{Arena, ArenaConfig, BufferKind, MemoryStats};
pub use buffer::{AlignedVec, Buffer};
pub use error::MemoryError;
pub use file::{InputFile, MappedFile};
pub use interleave::{FloatLine, PairLine, QuadLine, SumLine, TileLine};
pub use layout::{
    BlockLayout, Fallback, FileLayout, Hole, MemoryLayout, PagedLayout, RegionLayout, RegionUse,
};
pub use matrix::{MatMut, MatRef};
pub use placement::{HugePages, NodePlacement, NodeSet};
pub use policy::{BuiltInPolicy, MemoryPolicy, MemoryRequest, PlacementRequest, SharedPolicy};
pub use prefetch::PrefetchManager;
pub use stored::{MappedSlice, ReadOnlySlice};
pub use system::trim_heap;

/// Bytes of a cache line, to which every buffer is aligned and padded.
pub const LINE: usize = 64;
