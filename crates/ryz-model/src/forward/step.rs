//! A step: one parallel region, or one per stretch between the hooked points.

use std::{
    cell::RefCell,
    ops::Range,
    sync::{PoisonError, atomic::AtomicBool},
};

use ryz_kvcache::{BLOCK_TOKENS, KvCache, StepBlocks};
use ryz_numa::{ElasticWorker, Lease};
use ryz_profile::Phase;

use super::pass::Pass;
use crate::{
    BatchSequence, Model, ModelError, RunState,
    batch::{BatchLimits, Plan},
    hooks::{HookPoint, Hooks, regions, stage_point, stages},
    run_state::StepBuffers,
};

impl Model {
    /// Computes a step; [`Model::forward`] documents the contract.
    pub(super) fn step(
        &self,
        lease: &Lease,
        state: &mut RunState,
        cache: &mut KvCache,
        batch: &[BatchSequence<'_>],
        cancel: &AtomicBool,
        hooks: Option<&mut dyn Hooks>,
    ) -> Result<(), ModelError> {
        let limits = BatchLimits {
            max_tokens: state.max_tokens(),
            max_outputs: state.max_outputs(),
            max_positions: self.config.max_position_embeddings,
            vocab_size: self.config.vocab_size,
            cache_blocks: cache.config().blocks,
        };
        assert!(
            lease.threads() <= self.threads,
            "{} threads for a model of {}",
            lease.threads(),
            self.threads
        );
        // A hook may change the head's inputs and sees all of its outputs.
        let image = match &hooks {
            None => self.weights.lm_head.image.as_ref(),
            Some(_) => None,
        };
        let alone = lease.allows_alone() && self.is_small(state.weight_bytes(), cache, batch);
        let (plan, shared) = state.begin(batch, limits, image)?;
        cache.prepare(batch.iter().map(step_blocks))?;
        let step = Step {
            model: self,
            lease,
            plan,
            state: &shared,
            cache,
            batch,
            cancel,
            alone,
        };
        let layers = self.config.num_hidden_layers;
        match hooks {
            None => step.region(0..stages(layers))?,
            Some(hooks) => {
                for stages in regions(layers, hooks) {
                    let point = stage_point(stages.end - 1, layers);
                    step.region(stages)?;
                    if hooks.wants(point) && !step.call(hooks, point) {
                        return Err(ModelError::Aborted);
                    }
                }
            }
        }
        if let (1, Some(orders)) = (plan.rows.len(), &mut state.orders) {
            orders.add_token();
        }
        Ok(())
    }

    /// Whether a step reads so little that one thread is faster than several
    /// ([`crate::LoadOptions::parallel_from`]). It depends on counts, not timing, so the result is
    /// deterministic. `weight_bytes` is the number of bytes read per token.
    fn is_small(&self, weight_bytes: usize, cache: &KvCache, batch: &[BatchSequence<'_>]) -> bool {
        let of_block = cache.config().bytes_per_block().unwrap_or(usize::MAX);
        let read = |sequence: &BatchSequence<'_>| {
            let positions = sequence.start.saturating_add(sequence.tokens.len());
            let of_cache = positions.div_ceil(BLOCK_TOKENS).saturating_mul(of_block);
            let of_token = weight_bytes.saturating_add(of_cache);
            sequence.tokens.len().saturating_mul(of_token)
        };
        let bytes = batch.iter().map(read).fold(0, usize::saturating_add);
        bytes / (self.config.num_hidden_layers + 1) < self.parallel_from
    }
}

/// A step in progress.
struct Step<'a> {
    model: &'a Model,
    lease: &'a Lease,
    plan: &'a Plan,
    state: &'a StepBuffers<'a>,
    cache: &'a KvCache,
    batch: &'a [BatchSequence<'a>],
    cancel: &'a AtomicBool,
    /// Whether one thread computes the step.
    alone: bool,
}

impl Step<'_> {
    /// Computes some stages in one parallel region.
    fn region(&self, stages: Range<usize>) -> Result<(), ModelError> {
        let cancelled = AtomicBool::new(false);
        let work = |worker: &ElasticWorker<'_>| {
            let (state, cancelled) = (self.state, &cancelled);
            let clock = worker.leads().then(|| state.clock.lock());
            let clock =
                clock.map(|clock| RefCell::new(clock.unwrap_or_else(PoisonError::into_inner)));
            let pass = Pass {
                clock: clock.filter(|clock| clock.borrow().is_recording()),
                model: self.model,
                worker,
                batch: self.batch,
                plan: self.plan,
                state,
                cache: self.cache,
                cancel: self.cancel,
                cancelled,
            };
            // Both reasons to stop reach the caller: `cancelled`, or the region's error.
            let _stopped = pass.run(stages.clone());
        };
        match self.alone {
            true => self.lease.run_alone(work)?,
            false => self.lease.run_elastic(work)?,
        }
        self.lap(Phase::Dispatch);
        if cancelled.into_inner() {
            Err(ModelError::Aborted)
        } else {
            Ok(())
        }
    }

    /// Passes the rows at a point to the hooks, sequence by sequence.
    fn call(&self, hooks: &mut dyn Hooks, point: HookPoint) -> bool {
        let state = self.state;
        let (values, outputs) = match point {
            HookPoint::Embedding => (&state.residual, false),
            HookPoint::Attention(_) | HookPoint::FeedForward(_) => (&state.projected, false),
            HookPoint::FinalNorm => (&state.hidden, true),
            HookPoint::Logits => (&state.logits, true),
        };
        let cols = values.cols();
        let token_of =
            |row: usize| self.plan.rows[if outputs { self.plan.outputs[row] } else { row }];
        let mut copy = Vec::new();
        let mut start = 0;
        while start < values.rows() {
            let first = token_of(start);
            let same = |row: &usize| token_of(*row).sequence == first.sequence;
            let end = start + (start..values.rows()).take_while(same).count();
            let mut rows = values.rows_mut(start..end);
            copy.clear();
            for row in 0..end - start {
                copy.extend_from_slice(rows.row_mut(row));
            }
            if !hooks.call(point, first.sequence, first.position, cols, &mut copy) {
                return false;
            }
            for (row, values) in copy.chunks_exact(cols).enumerate() {
                rows.row_mut(row).copy_from_slice(values);
            }
            start = end;
        }
        self.lap(Phase::Operator);
        true
    }

    fn lap(&self, phase: Phase) {
        let clock = self.state.clock.lock();
        clock
            .unwrap_or_else(PoisonError::into_inner)
            .lap(phase, None);
    }
}

fn step_blocks<'a>(sequence: &BatchSequence<'a>) -> StepBlocks<'a> {
    StepBlocks {
        table: sequence.block_table,
        start: sequence.start,
        end: sequence.start + sequence.tokens.len(),
    }
}
