//! Token-Aligned Memory: the arena of every large buffer, strided views, token-interleaved tiles,
//! prefetching, file reads and maps.
//!
//! Every large buffer of the engine (weights, key-value blocks, scratch) comes from one [`Arena`],
//! which aligns it to 64-byte lines, counts it by kind, enforces a byte limit, and frees it when
//! dropped. Small buffers are blocks of size classes; large ones are separate mappings.
//! [`Arena::layout`] shows the layout, and a [`MemoryPolicy`] decides the placement. Files are
//! opened only here: [`InputFile`] reads ranges into buffers, so that truncating a file causes an
//! error and not a signal; [`MappedFile`] maps a file on request.
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

/// Bytes of a cache line; every buffer is aligned and padded to it.
pub const LINE: usize = 64;
