//! Choosing, while a model is loaded, whether rows of its head are left out (`docs/head.md`).
//!
//! How many rows survive depends on the model: on how far the largest logits are from the others, in units of the error of eight
//! bits. So a few tokens go through the model itself, and a copy of the head stays where the mean of what survives is small. A head that
//! is its own image takes no memory: the engine's own steps tell whether it pays. Tokens are the same either way.

use std::sync::atomic::AtomicBool;

use ryz_kvcache::{BlockPool, KvCache};
use ryz_model::{
    BatchSequence, HeadScreening, LogitDemand, Model, Outputs, ROWS_PER_SURVIVOR, RunState,
};
use ryz_numa::Lease;

use crate::error::EngineError;
use crate::sampler::SamplingParams;

/// Tokens that are looked at: as many outputs as a step screens.
const PROBE_TOKENS: usize = 8;

/// How rows of a head are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Screening {
    /// Bytes of the image, or of bounds alone, beside the head.
    pub image_bytes: usize,
    /// The share of rows that survived among those that default sampling needs, in the mean of a few tokens; `None` where that was not
    /// measured, because the head is its own image.
    pub survivors: Option<f64>,
}

/// Measures the model that was loaded with `screening`, by tokens from all over the vocabulary, in the first block of a cache that
/// nobody uses yet; and drops the image where it does not pay.
///
/// # Errors
/// [`EngineError::Model`] when a worker panicked.
pub(crate) fn choose(
    model: &mut Model,
    screening: HeadScreening,
    state: &mut RunState,
    cache: &mut KvCache,
    lease: &Lease,
) -> Result<Option<Screening>, EngineError> {
    if model.image_bytes() == 0 {
        return Ok(None);
    }
    if model.head_is_image() {
        return Ok(Some(Screening {
            image_bytes: model.image_bytes(),
            survivors: None,
        }));
    }
    let vocab = model.config().vocab_size;
    let room = state.max_outputs().min(state.max_tokens());
    let room = room.min(model.config().max_position_embeddings);
    let count = PROBE_TOKENS.min(room);
    // Odd steps through the vocabulary, whose first tokens are often bytes.
    let tokens: Vec<u32> = (1..=count)
        .map(|index| (index * vocab / (count + 1)) as u32)
        .collect();
    let mut pool = BlockPool::new(1);
    let block_table: Vec<_> = pool.allocate().into_iter().collect();
    let batch = [BatchSequence {
        tokens: &tokens,
        start: 0,
        block_table: &block_table,
        window: None,
        mass: None,
        outputs: Outputs::All,
        needed: LogitDemand::Largest(SamplingParams::default().top_k as usize + 1),
    }];
    let cancel = AtomicBool::new(false);
    state.take_screened();
    model.forward(lease, state, cache, &batch, &cancel)?;
    cache.keep_tails(std::iter::empty());
    let measured = state.take_screened();
    let survivors = measured.rows as f64 / (measured.outputs as f64 * vocab as f64);
    // Where nothing was screened it is no number, and not below.
    let pays = survivors * (ROWS_PER_SURVIVOR as f64) < 1.0;
    if !pays && screening != HeadScreening::Always {
        model.drop_image();
        return Ok(None);
    }
    Ok(Some(Screening {
        image_bytes: model.image_bytes(),
        survivors: Some(if survivors.is_finite() {
            survivors
        } else {
            1.0
        }),
    }))
}
