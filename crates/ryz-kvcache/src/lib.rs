//! Paged key-value cache: block bookkeeping and storage.
//!
//! [`BlockPool`] tracks which blocks are free and how often each is shared; it holds no tensors.
//! [`KvCache`] holds the keys and values of every block in one arena allocation, and computes
//! attention over a block table. A block is [`BLOCK_TOKENS`] consecutive positions of one sequence
//! in all layers. Its bytes are contiguous, so it can be moved, swapped or shared as one piece:
//! [`BlockPool::compact`] decides which blocks move to close holes, and [`KvCache::move_blocks`]
//! moves them.
//!
//! ```
//! use ryz_kvcache::BlockPool;
//!
//! let mut pool = BlockPool::new(2);
//! let block = pool.allocate().expect("two are free");
//! assert_eq!(pool.available(), 1);
//! pool.release(block);
//! assert_eq!(pool.available(), 2);
//! ```

mod attention;
mod block_pool;
mod cache;
mod config;
mod error;
mod mass;
mod prefix_tree;
mod sharing;
mod snapshot;
mod tails;
mod window;
mod writer;

pub use attention::{MAX_QUERIES, StepRows, VisibleContext};
pub use block_pool::{BlockId, BlockMove, BlockPool, BlockView};
pub use cache::{KvCache, KvReader};
pub use config::{BLOCK_TOKENS, KvCacheConfig, KvDType};
pub use error::KvCacheError;
pub use mass::AttentionMass;
pub use prefix_tree::{BlockTokens, PrefixCursor};
pub use tails::StepBlocks;
pub use window::Window;
pub use writer::KvWriter;
