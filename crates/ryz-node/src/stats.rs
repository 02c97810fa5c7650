//! An engine's counters, and the prefix cache.

use napi::Result;
use napi_derive::napi;

use crate::answer::failure;
use crate::engine::NativeEngine;

/// Counters of an engine.
#[napi(object)]
pub struct EngineStats {
    /// Requests that run.
    pub running: f64,
    /// Requests that wait.
    pub waiting: f64,
    /// Blocks of the cache.
    pub kv_blocks: f64,
    /// Those that a new request can have.
    pub kv_blocks_free: f64,
    /// Of those, the ones that the prefix cache keeps.
    pub kv_blocks_kept: f64,
    /// Steps computed.
    pub steps: f64,
    /// Prompt tokens computed.
    pub prompt_tokens: f64,
    /// Tokens chosen.
    pub generated_tokens: f64,
    /// Tokens proposed ahead.
    pub proposed_tokens: f64,
    /// Of those, the ones that were chosen.
    pub accepted_tokens: f64,
    /// Requests that had to make room.
    pub preemptions: f64,
    /// Blocks that requests gave back before they ended.
    pub evicted_blocks: f64,
    /// How often the cache was compacted.
    pub compactions: f64,
    /// Blocks that moved then.
    pub kv_blocks_moved: f64,
    /// Tokens of the requests that were begun.
    pub prefix_tokens: f64,
    /// Of those, the ones that were in the prefix cache.
    pub prefix_tokens_reused: f64,
}

#[napi]
impl NativeEngine {
    /// Counters, each a snapshot.
    #[napi(catch_unwind)]
    pub fn stats(&self) -> Result<EngineStats> {
        let stats = self.engine()?.stats();
        Ok(EngineStats {
            running: stats.running as f64,
            waiting: stats.waiting as f64,
            kv_blocks: stats.kv_blocks as f64,
            kv_blocks_free: stats.kv_blocks_free as f64,
            kv_blocks_kept: stats.kv_blocks_kept as f64,
            steps: stats.steps as f64,
            prompt_tokens: stats.prompt_tokens as f64,
            generated_tokens: stats.generated_tokens as f64,
            proposed_tokens: stats.proposed_tokens as f64,
            accepted_tokens: stats.accepted_tokens as f64,
            preemptions: stats.preemptions as f64,
            evicted_blocks: stats.evicted_blocks as f64,
            compactions: stats.compactions as f64,
            kv_blocks_moved: stats.kv_blocks_moved as f64,
            prefix_tokens: stats.prefix_tokens as f64,
            prefix_tokens_reused: stats.prefix_tokens_reused as f64,
        })
    }

    /// Frees the blocks that are only kept, before the next step.
    #[napi(catch_unwind)]
    pub fn clear_prefix_cache(&self) -> Result<()> {
        let cleared = self.engine()?.clear_prefix_cache();
        cleared.map_err(|error| failure(&error).thrown())
    }
}
