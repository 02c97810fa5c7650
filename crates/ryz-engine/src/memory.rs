//! Where an engine's memory lies, and closing the holes in it.
//!
//! Blocks of the cache are the engine's movable memory: sequences name them in tables, so that between two steps a block
//! may get another place. The engine thread does it, alone: nobody reads the cache then. What a block holds is copied, so
//! no bit of any later logit changes.

use ryz_kvcache::{BlockPool, BlockView, KvCache};

use crate::error::EngineError;
use crate::request::Reply;
use crate::scheduler::Scheduler;

/// What [`Engine::compact_memory`](crate::Engine::compact_memory) did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compaction {
    /// Blocks that moved: the addresses where each was, and is.
    pub moves: Vec<(usize, usize)>,
    /// Bytes that went back to the system.
    pub released_bytes: usize,
    /// Which part of the blocks up to the last one in use was free: 0 to 1. Now there is none.
    pub fragmentation: f64,
}

/// What the handles know of the cache.
#[derive(Debug)]
pub(crate) struct CacheView {
    pub blocks: BlockView,
    /// Where the storage starts, and bytes of a block.
    pub address: (usize, usize),
}

/// A wish for a compaction, answered even when nobody is there to grant it.
pub(crate) struct CompactRequest(Option<Reply<Compaction>>);

impl CompactRequest {
    pub fn new(reply: Reply<Compaction>) -> Self {
        Self(Some(reply))
    }

    pub fn answer(mut self, answer: Result<Compaction, EngineError>) {
        if let Some(reply) = self.0.take() {
            reply(answer);
        }
    }
}

impl Drop for CompactRequest {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(EngineError::Disposed));
        }
    }
}

/// Moves the live blocks to the front of the cache, tells their sequences, and gives the rest back to the system.
pub(crate) fn compact(
    cache: &mut KvCache,
    pool: &mut BlockPool,
    scheduler: &mut Scheduler,
) -> Compaction {
    let fragmentation = pool.view().fragmentation();
    let moves = pool.compact();
    cache.move_blocks(&moves);
    let mut places = vec![None; pool.capacity()];
    for moved in &moves {
        places[moved.from.index()] = Some(moved.to);
    }
    for sequence in scheduler.iter_mut() {
        let held = sequence.block_table.iter_mut();
        for block in held.filter(|block| !block.is_evicted()) {
            *block = places[block.index()].unwrap_or(*block);
        }
    }
    let released_bytes = cache.discard(pool.trim());
    let (start, bytes) = cache.address();
    let at = |index: usize| start + index * bytes;
    Compaction {
        moves: moves
            .iter()
            .map(|moved| (at(moved.from.index()), at(moved.to.index())))
            .collect(),
        released_bytes,
        fragmentation,
    }
}
