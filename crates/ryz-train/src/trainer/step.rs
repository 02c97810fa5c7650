//! One step of the optimizer.

use super::Trainer;
use crate::error::TrainError;
use crate::model::{Targets, Tokens};
use crate::ops::cross_entropy::Loss;
use crate::{optimizer, parallel};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The result of one step.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// Steps done, including this one.
    pub step: u64,
    /// Total steps.
    pub steps: u64,
    /// Mean loss of the batch on the text alone, in nats per token.
    pub loss: f64,
    /// With a teacher: mean divergence from it at the temperature T, times T².
    pub divergence: Option<f64>,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Passes over the corpus so far.
    pub epochs: f64,
    /// Tokens per second over about the last ten steps.
    pub tokens_per_second: f64,
    /// Seconds left at this speed.
    pub eta_seconds: f64,
}

impl Trainer {
    /// One optimizer step.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] when loss or gradient is not finite; the parameters are then
    /// unchanged.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        self.step_unless(&AtomicBool::new(false))
    }

    /// The same, but setting `cancel` aborts the step and leaves the parameters unchanged.
    ///
    /// # Errors
    /// As [`Trainer::step`]; [`TrainError::Aborted`] within a layer after `cancel` is set.
    pub fn step_unless(&mut self, cancel: &AtomicBool) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        self.refresh();
        let window = self.config.window();
        let per_shard = self.config.batch_sequences / self.config.shards;
        let mut batch: Vec<(Vec<u32>, Vec<u32>)> = Vec::with_capacity(self.config.shards);
        for shard in 0..self.config.shards {
            let mut inputs = Vec::with_capacity(per_shard * window);
            let mut targets = Vec::with_capacity(per_shard * window);
            for i in 0..per_shard {
                let number =
                    self.step * self.config.batch_sequences as u64 + (shard * per_shard + i) as u64;
                let tokens = self.windows.get(&self.corpus, number);
                inputs.extend_from_slice(&tokens[..window]);
                targets.extend_from_slice(&tokens[1..]);
            }
            batch.push((inputs, targets));
        }
        let tokens = self.config.tokens_per_step();
        let factor = 1.0 / tokens as f32;
        let mut losses = vec![Loss::default(); self.config.shards];
        let (network, effective, config) = (&self.network, &self.effective, &self.config);
        let (teacher, lessons) = match &mut self.teacher {
            Some(teacher) => (
                Some((&teacher.network, &teacher.weights)),
                teacher.buffers.iter_mut().map(Some).collect(),
            ),
            None => (None, Vec::new()),
        };
        let mut lessons = lessons.into_iter();
        let shards = batch
            .iter()
            .zip(&mut self.gradients)
            .zip(&mut self.buffers)
            .zip(&mut losses)
            .map(|shard| (shard, lessons.next().flatten()));
        parallel::each(
            self.threads,
            shards.collect(),
            |(((((inputs, targets), gradients), buffers), loss), lesson)| {
                gradients.fill(0.0);
                let tokens = Tokens {
                    inputs,
                    sequences: per_shard,
                    cancel,
                };
                let teacher = teacher.zip(lesson).map(|((network, weights), buffers)| {
                    let (temperature, weight) =
                        (config.distillation_temperature, config.distillation_weight);
                    network.teach(weights, tokens, temperature, weight, buffers)
                });
                let targets = Targets {
                    targets,
                    teacher,
                    factor,
                };
                *loss = network.loss_and_gradients(effective, tokens, targets, buffers, gradients);
            },
        );
        if cancel.load(Ordering::Relaxed) {
            return Err(TrainError::Aborted);
        }
        let mean = |sum: f64| sum / tokens as f64;
        let divergence = mean(losses.iter().map(|loss| loss.divergence).sum());
        let loss = mean(losses.iter().map(|loss| loss.likelihood).sum());
        let gradient_norm = optimizer::reduce(self.threads, &mut self.gradients);
        if !loss.is_finite() || !divergence.is_finite() || !gradient_norm.is_finite() {
            return Err(TrainError::Diverged {
                step: self.step,
                loss,
            });
        }
        let clip =
            (f64::from(self.config.gradient_clip) / gradient_norm.max(1e-12)).min(1.0) as f32;
        let learning_rate = self.config.rates(self.step).learning_rate;
        self.optimizer.update(
            &self.config,
            &self.network.layout,
            self.step,
            clip,
            &mut self.parameters,
            &self.gradients[0],
            self.threads,
        );
        self.stale = true;
        self.step += 1;
        self.history.add_loss(loss);
        let seconds = start.elapsed().as_secs_f64();
        self.seconds += seconds;
        let pace = self.pace.map_or(seconds, |pace| 0.9 * pace + 0.1 * seconds);
        self.pace = Some(pace);
        Ok(StepReport {
            step: self.step,
            steps: self.config.steps,
            loss,
            divergence: self.teacher.as_ref().map(|_| divergence),
            learning_rate,
            gradient_norm,
            tokens: self.step * tokens,
            epochs: (self.step * self.config.batch_sequences as u64) as f64
                / self.windows.per_epoch(&self.corpus) as f64,
            tokens_per_second: tokens as f64 / pace,
            eta_seconds: self.config.steps.saturating_sub(self.step) as f64 * pace,
        })
    }
}
