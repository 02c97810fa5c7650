//! Where an engine's memory lies, and closing the holes in it.

use std::sync::atomic::Ordering;

use ryz_tmac::{Hole, MemoryLayout, MemoryStats, PagedLayout};

use super::Engine;
use crate::command::Command;
use crate::error::EngineError;
use crate::memory::{CacheView, CompactRequest, Compaction};
use crate::request::Reply;

impl Engine {
    /// Memory in use.
    pub fn memory_stats(&self) -> MemoryStats {
        self.inner.arena.stats()
    }

    /// What lies where: every region of the engine's memory, its blocks and holes, and the blocks of the cache.
    pub fn memory_layout(&self) -> MemoryLayout {
        let mut layout = self.inner.arena.layout();
        let CacheView { blocks, address } = &self.inner.cache;
        let (start, bytes) = *address;
        let hole = |hole: std::ops::Range<usize>| {
            Hole::new(start + hole.start * bytes, hole.len() * bytes)
        };
        layout.paged.push(PagedLayout {
            owner: "keys and values".to_owned(),
            address: start,
            page_bytes: bytes,
            capacity: blocks.capacity(),
            live: blocks.live(),
            fragmentation: blocks.fragmentation(),
            moved: self
                .inner
                .state
                .counters
                .kv_blocks_moved
                .load(Ordering::Relaxed),
            holes: blocks.holes().into_iter().map(hole).collect(),
        });
        layout
    }

    /// Moves the blocks of the cache that are in use together, between two steps, and gives the memory behind them back to
    /// the system until it is needed. Requests go on as if nothing had happened.
    ///
    /// # Errors
    /// `DISPOSED`, `INTERNAL` after a panic.
    pub fn compact_memory(&self, reply: Reply<Compaction>) -> Result<(), EngineError> {
        self.inner.state.check_alive()?;
        let request = CompactRequest::new(reply);
        self.inner.commands.send(Command::Compact(request));
        Ok(())
    }
}
