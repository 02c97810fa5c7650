//! How much an engine holds: the limits of a step, the blocks of its cache, and where memory comes from.

use std::time::Duration;

use ryz_kvcache::KvCacheConfig;
use ryz_model::ModelConfig;
use ryz_tmac::{Arena, ArenaConfig};

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::eviction::blocks_for;
use crate::scheduler::Limits;

/// Memory for the logits of scored positions, per step.
const SCORE_LOGITS_BYTES: usize = 16 << 20;

/// How long a consumer that reads nothing keeps its place while others wait.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where the engine's memory comes from.
pub(crate) fn arena(config: &EngineConfig) -> Arena {
    let arena_config = ArenaConfig {
        limit: config.memory_limit,
        huge_pages: config.huge_pages,
        ..ArenaConfig::default()
    };
    match &config.memory_policy {
        Some(policy) => Arena::with_policy(arena_config, policy.clone()),
        None => Arena::new(arena_config),
    }
}

pub(crate) fn limits(config: &EngineConfig, vocab_size: usize) -> Limits {
    let row = vocab_size.max(1).saturating_mul(size_of::<f32>());
    Limits {
        max_sequences: config.max_sequences,
        prefill_chunk: config.prefill_chunk,
        score_chunk: (SCORE_LOGITS_BYTES / row).clamp(1, config.prefill_chunk),
        patience: PATIENCE,
    }
}

/// Blocks of a cache.
pub(crate) struct KvBlocks {
    pub most: usize,
    /// What is taken when the memory does not allow `most`.
    pub least: usize,
}

pub(crate) fn kv_blocks(config: &EngineConfig, context: usize) -> Result<KvBlocks, EngineError> {
    let one = blocks_for(context);
    let Some(tokens) = config.kv_tokens else {
        return Ok(KvBlocks {
            most: one * config.max_sequences.min(2),
            least: one,
        });
    };
    if tokens < context {
        let expected = format!("at least one context of {context}");
        return Err(EngineError::invalid("kvTokens", expected, tokens));
    }
    let blocks = blocks_for(tokens);
    Ok(KvBlocks {
        most: blocks,
        least: blocks,
    })
}

pub(crate) fn kv_config(
    config: &EngineConfig,
    model: &ModelConfig,
    value_dim: usize,
    blocks: usize,
) -> KvCacheConfig {
    KvCacheConfig {
        layers: model.num_hidden_layers,
        kv_heads: model.num_key_value_heads,
        key_dim: model.key_head_dim,
        value_dim,
        dtype: config.kv,
        blocks,
        // Where a sequence's last step began and ended.
        tails: 2 * config.max_sequences,
    }
}
