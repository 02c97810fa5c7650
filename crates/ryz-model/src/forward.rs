//! The forward pass: tokens of a ragged batch in, logits out.
//!
//! ```text
//! x = embedding[token]
//! for each layer:
//!     h = norm(x)                       q, k, v = Wq·h, Wk·h, Wv·h
//!     q, k = rope(norm?(q), norm?(k))   cache ← k, v
//!     a = attention(q, cache)           x += Wo · norm?(a)
//!     h = norm(x)                       g = act(Wgate·h) · (Wup·h)
//!     x += Wdown · norm?(g)
//! logits = lm_head · norm(x)
//! ```
//!
//! One parallel region computes a whole step. Its threads walk the layers together, each takes its
//! One parallel region computes a whole step. Its threads walk the layers together. Each takes its
//! share of the tokens, matrix rows or attention heads, and all meet at a barrier wherever one
//! phase reads what another wrote. One thread computes each value, in an order that depends only on
//! the value's position. Logits therefore do not depend on the number of threads, on the batch, or
//! on how a prompt was split into chunks.

mod attention;
mod feed_forward;
mod pass;
mod step;

use std::{ops::Range, sync::atomic::AtomicBool};

use ryz_kvcache::KvCache;
use ryz_numa::{Chunks, Lease, RegionExit};
use ryz_profile::Phase;

use crate::{
    BatchSequence, Model, ModelError, RunState,
    hooks::{HookPoint, Hooks, stage_point},
    weights::{AttentionWeights, FeedForward, GatedWeights, Mixer},
};

pub(crate) use pass::{Pass, chunks, lines};

impl Model {
    /// Computes one step: writes the keys and values of all new tokens to `cache`, and the
    /// requested logits to `state` in batch order ([`RunState::logits`]).
    ///
    /// `cancel` is checked between layers.
    ///
    /// # Errors
    /// [`ModelError::InvalidBatch`], [`ModelError::TokenOutOfRange`] and
    /// [`ModelError::ContextOverflow`] before anything is computed; [`ModelError::Aborted`] when
    /// `cancel` was set, which leaves the new cache positions undefined; [`ModelError::Region`]
    /// when a worker panicked.
    ///
    /// # Panics
    /// When `lease` has more threads than the one that loaded the model.
    pub fn forward(
        &self,
        lease: &Lease,
        state: &mut RunState,
        cache: &mut KvCache,
        batch: &[BatchSequence<'_>],
        cancel: &AtomicBool,
    ) -> Result<(), ModelError> {
        self.step(lease, state, cache, batch, cancel, None)
    }

    /// [`Model::forward`] with hooks called at the points they request.
    ///
    /// # Errors
    /// As [`Model::forward`]; also [`ModelError::Aborted`] when a hook ends the step.
    pub fn forward_with(
        &self,
        lease: &Lease,
        state: &mut RunState,
        cache: &mut KvCache,
        batch: &[BatchSequence<'_>],
        cancel: &AtomicBool,
        hooks: &mut dyn Hooks,
    ) -> Result<(), ModelError> {
        self.step(lease, state, cache, batch, cancel, Some(hooks))
    }
}

impl Pass<'_> {
    /// Runs some stages of the pass in order.
    fn run(&self, stages: Range<usize>) -> Result<(), RegionExit> {
        self.lap(Phase::Dispatch, None);
        let layers = &self.model.weights.layers;
        for stage in stages {
            match stage_point(stage, layers.len()) {
                HookPoint::Embedding => self.embedding()?,
                HookPoint::Attention(layer) => match &layers[layer].mixer {
                    Mixer::Attention(weights) => self.attention(layer, weights)?,
                },
                HookPoint::FeedForward(layer) => match &layers[layer].feed_forward {
                    FeedForward::Gated(weights) => self.gated(layer, weights)?,
                },
                HookPoint::FinalNorm => self.final_norm()?,
                HookPoint::Logits => self.logits()?,
            }
        }
        Ok(())
    }

    /// x = embedding\[token\]
    fn embedding(&self) -> Result<(), RegionExit> {
        self.tokens(|rows| self.embed(rows))?;
        self.lap(Phase::Embed, None);
        self.barrier(None)
    }

    /// projected = Wo · norm?(attention(q, cache)); the norm that follows adds it to x.
    fn attention(&self, layer: usize, weights: &AttentionWeights) -> Result<(), RegionExit> {
        let state = self.state;
        let qkv = [&weights.query, &weights.key, &weights.value];
        // x += projected (of the layer before); h = norm(x)
        let add = layer > 0;
        self.tokens(|rows| self.add_and_normalize(layer, add, &weights.norm, &qkv, rows))?;
        self.barrier(Some(layer))?;
        // q, k, v = Wq·h, Wk·h, Wv·h
        for (projection, out) in qkv
            .into_iter()
            .zip([&state.query, &state.key, &state.value])
        {
            self.project(projection, &state.normed, out)?;
        }
        self.lap(Phase::Qkv, Some(layer));
        self.barrier(Some(layer))?;
        // q, k = rope(norm?(q), norm?(k)); cache ← k, v
        self.tokens(|rows| self.rotate_and_store(layer, weights, rows))?;
        self.lap(Phase::Rope, Some(layer));
        self.barrier(Some(layer))?;
        // a = attention(q, cache)
        self.prefetch(&weights.output);
        self.attend(layer)?;
        self.lap(Phase::Attention, Some(layer));
        self.barrier(Some(layer))?;
        self.observe(layer)?;
        // projected = Wo · norm?(a)
        let norm = weights.sub_norm.as_deref();
        self.tokens(|rows| {
            self.prepare(layer, &state.heads, norm, &weights.output, rows);
            self.lap(Phase::Quantize, Some(layer));
        })?;
        self.barrier(Some(layer))?;
        self.project(&weights.output, &state.heads, &state.projected)?;
        self.lap(Phase::Output, Some(layer));
        self.barrier(Some(layer))
    }

    /// projected = Wdown · norm?(act(Wgate·h) · (Wup·h)); the norm that follows adds it to x.
    fn gated(&self, layer: usize, weights: &GatedWeights) -> Result<(), RegionExit> {
        let state = self.state;
        let read = [&weights.gate, &weights.up];
        // x += projected (of attention); h = norm(x)
        self.tokens(|rows| self.add_and_normalize(layer, true, &weights.norm, &read, rows))?;
        self.barrier(Some(layer))?;
        // g = act(Wgate·h) · (Wup·h)
        self.gate_up(layer, weights)?;
        self.lap(Phase::GateUp, Some(layer));
        self.barrier(Some(layer))?;
        // projected = Wdown · norm?(g)
        let norm = weights.sub_norm.as_deref();
        self.tokens(|rows| {
            self.count_activity(layer, rows.clone());
            self.prepare(layer, &state.gate, norm, &weights.down, rows.clone());
            self.count_columns(layer, &weights.down, rows);
            self.lap(Phase::Quantize, Some(layer));
        })?;
        self.barrier(Some(layer))?;
        self.project(&weights.down, &state.gate, &state.projected)?;
        self.lap(Phase::Down, Some(layer));
        self.barrier_or_cancelled(layer)
    }

    /// hidden = norm(x + projected), for the rows that produce logits
    fn final_norm(&self) -> Result<(), RegionExit> {
        let outputs = self.plan.outputs.len();
        self.worker.share(outputs, Chunks::of(1), |outputs| {
            self.normalize_outputs(outputs);
        })?;
        self.lap(Phase::Norm, None);
        self.barrier(None)
    }

    /// logits = lm_head · hidden
    fn logits(&self) -> Result<(), RegionExit> {
        self.model.weights.lm_head.logits(self)?;
        self.lap(Phase::Head, None);
        Ok(())
    }
}
