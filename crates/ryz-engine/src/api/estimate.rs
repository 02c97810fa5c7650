//! What an engine will take of memory, before it is loaded.

use std::path::Path;

use ryz_kvcache::BLOCK_TOKENS;
use ryz_model::{HeadScreening, LoadOptions, MemoryEstimate, ModelSource};

use super::Engine;
use crate::capacity::{kv_blocks, kv_config, limits};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::speculation::draft_cache;

/// Bytes that an engine takes, as told from a model's header. The process itself takes some ten megabytes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineMemory {
    /// Packed weights: exact, but for group scales that turn out to be equal and become one, and for an image of the head that is
    /// found not to pay.
    pub weights: usize,
    /// The key-value cache.
    pub kv_cache: usize,
    /// Scratch of a step.
    pub scratch: usize,
    /// Weights, cache and scratch of the draft model; 0 without one.
    pub draft: usize,
    /// The most that files are read through; given back before the cache and the scratch are taken.
    pub staging: usize,
    /// Positions the cache holds for all sequences.
    pub kv_tokens: usize,
    /// Positions a sequence may have.
    pub context_length: usize,
}

impl EngineMemory {
    /// What a loaded engine holds.
    pub fn total(&self) -> usize {
        let parts = [self.kv_cache, self.scratch, self.draft];
        parts.into_iter().fold(self.weights, usize::saturating_add)
    }

    /// The most that it ever holds: a memory limit below it may refuse the load.
    pub fn peak(&self) -> usize {
        self.total().max(self.weights.saturating_add(self.staging))
    }
}

impl Engine {
    /// What [`Engine::load`] would take of memory with this configuration, from the model's header alone.
    ///
    /// # Errors
    /// As [`Engine::load`], for the header and the options.
    pub fn estimate_memory(
        path: &Path,
        config: &EngineConfig,
    ) -> Result<EngineMemory, EngineError> {
        config.validate()?;
        let source = ModelSource::open_with(path, &config.all_overrides()?)?;
        Ok(estimate(config, &source, config.load_options()?)?.1)
    }
}

/// Besides what is estimated: tokenizer, template, tables, and what the threads beside the computing ones set aside.
const BESIDE: usize = 224 << 20;
/// Of a computing thread: its stack, and the heap that the C library sets aside for it.
const EACH_THREAD: usize = 72 << 20;
/// Where there is no room for a heap of its own, a thread shares another's: only the first must find one.
const MOST_HEAPS: usize = 8;

/// Refuses a model that the process has no address space for: what is not large is allocated by calls that cannot fail, and
/// would end the process.
pub(crate) fn admit(
    config: &EngineConfig,
    source: &ModelSource,
    options: &LoadOptions,
) -> Result<(), EngineError> {
    let Some(left) = ryz_files::address_space_left() else {
        return Ok(());
    };
    let memory = estimate_with(config, source, options)?;
    let threads = config.lease().threads()?.min(MOST_HEAPS) * EACH_THREAD;
    let needed = memory.peak().saturating_add(BESIDE + threads) as u64;
    match needed > left {
        true => Err(EngineError::AddressSpace { needed, left }),
        false => Ok(()),
    }
}

/// How the model is read: without an image of the head where the memory limit leaves no room for it.
pub(crate) fn load_options(
    config: &EngineConfig,
    source: &ModelSource,
) -> Result<LoadOptions, EngineError> {
    let options = config.load_options()?;
    match (options.head_screening, config.memory_limit) {
        (HeadScreening::Off, _) | (_, None) => Ok(options),
        _ => Ok(estimate(config, source, options)?.0),
    }
}

fn estimate(
    config: &EngineConfig,
    source: &ModelSource,
    options: LoadOptions,
) -> Result<(LoadOptions, EngineMemory), EngineError> {
    let memory = estimate_with(config, source, &options)?;
    let Some(limit) =
        (config.memory_limit).filter(|_| options.head_screening != HeadScreening::Off)
    else {
        return Ok((options, memory));
    };
    let whole = LoadOptions {
        head_screening: HeadScreening::Off,
        ..options.clone()
    };
    let without = estimate_with(config, source, &whole)?;
    // The cache comes first.
    match memory.peak() > limit || memory.kv_tokens < without.kv_tokens {
        true => Ok((whole, without)),
        false => Ok((options, memory)),
    }
}

fn estimate_with(
    config: &EngineConfig,
    source: &ModelSource,
    options: &LoadOptions,
) -> Result<EngineMemory, EngineError> {
    let model = source.config();
    let context_length = config.context_for(model.max_position_embeddings)?;
    config.eviction.validate(context_length)?;
    let limits = limits(config, model.vocab_size);
    let need = MemoryEstimate::of(
        source,
        options,
        config.lease().threads()?,
        limits.prefill_chunk + limits.max_sequences,
        limits.score_chunk + limits.max_sequences,
    );
    let wanted = kv_blocks(config, context_length)?;
    let projections = match config.value_rank {
        Some(rank) => MemoryEstimate::value_projections(model, rank)?,
        None => 0,
    };
    let value_dim = config.value_rank.unwrap_or(model.value_head_dim);
    let with = |blocks: usize| EngineMemory {
        weights: need.weights.saturating_add(projections),
        kv_cache: kv_config(config, model, value_dim, blocks)
            .bytes()
            .unwrap_or(usize::MAX),
        scratch: need.scratch,
        draft: 0,
        staging: need.staging,
        kv_tokens: blocks * BLOCK_TOKENS,
        context_length,
    };
    let most = with(wanted.most);
    let mut memory = match config.memory_limit {
        Some(limit) if most.total() > limit => with(wanted.least),
        _ => most,
    };
    if let Some(path) = &config.draft_model {
        memory.draft = draft_memory(path, config, memory.kv_tokens / BLOCK_TOKENS)?;
    }
    Ok(memory)
}

/// What the draft model at `path` takes beside a cache of `blocks` blocks.
fn draft_memory(path: &Path, config: &EngineConfig, blocks: usize) -> Result<usize, EngineError> {
    let source = ModelSource::open(path)?;
    let model = source.config();
    let limits = limits(config, model.vocab_size);
    let need = MemoryEstimate::of(
        &source,
        &config.draft_load_options()?,
        config.lease().threads()?,
        limits.prefill_chunk + limits.max_sequences,
        limits.max_sequences,
    );
    let cache = draft_cache(config, model, model.value_head_dim, blocks).bytes();
    let rest = cache.unwrap_or(usize::MAX).saturating_add(need.scratch);
    Ok(need.weights.saturating_add(rest))
}
