//! Validation.

use super::Trainer;
use crate::error::TrainError;
use crate::model::{LayerZeros, Tokens};
use crate::parallel;
use std::sync::atomic::{AtomicBool, Ordering};

/// The result of a validation.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Bits per byte of the text.
    pub bits_per_byte: f64,
    /// Number of predicted tokens.
    pub tokens: usize,
    /// Fractions of zeros per layer, over all these tokens.
    pub zeros: Vec<LayerZeros>,
}

impl Trainer {
    /// Loss over the validation text in consecutive, non-overlapping windows of the training
    /// window's length: every token but the first is predicted once. `windows` limits the work to
    /// that many, spread evenly and always the same; 0 uses all. Rounding is always the engine's.
    ///
    /// # Errors
    /// [`TrainError::Aborted`] within a layer after `cancel` is set.
    pub fn evaluate(
        &mut self,
        windows: usize,
        cancel: &AtomicBool,
    ) -> Result<Evaluation, TrainError> {
        self.refresh();
        let window = self.config.window();
        let valid = self.corpus.valid();
        let count = (valid.len() - 1).div_ceil(window);
        let taken = if windows == 0 {
            count
        } else {
            windows.min(count)
        };
        let spans: Vec<&[u32]> = (0..taken)
            .map(|i| i * count / taken * window)
            .map(|at| &valid[at..valid.len().min(at + window + 1)])
            .collect();
        let none = || vec![LayerZeros::default(); self.config.model.num_hidden_layers];
        let mut found: Vec<_> = spans.iter().map(|_| (0.0, none())).collect();
        let (network, effective) = (&self.network, &self.effective);
        let per_lane = spans.len().div_ceil(self.buffers.len());
        let work = spans
            .chunks(per_lane)
            .zip(found.chunks_mut(per_lane))
            .zip(&mut self.buffers);
        parallel::each(self.threads, work.collect(), |((spans, found), buffers)| {
            for (span, (loss, zeros)) in spans.iter().zip(found) {
                if cancel.load(Ordering::Relaxed) {
                    return;
                }
                let (inputs, targets) = (&span[..span.len() - 1], &span[1..]);
                let tokens = Tokens {
                    inputs,
                    sequences: 1,
                    cancel,
                };
                *loss = network.loss(effective, tokens, targets, buffers);
                *zeros = network.zeros(inputs.len(), buffers);
            }
        });
        if cancel.load(Ordering::Relaxed) {
            return Err(TrainError::Aborted);
        }
        let tokens: usize = spans.iter().map(|span| span.len() - 1).sum();
        let mut zeros = none();
        for (span, (_, found)) in spans.iter().zip(&found) {
            let part = (span.len() - 1) as f64 / tokens as f64;
            for (sum, layer) in zeros.iter_mut().zip(found) {
                sum.gates += part * layer.gates;
                sum.activations += part * layer.activations;
            }
        }
        let loss = found.iter().map(|(loss, _)| loss).sum::<f64>() / tokens as f64;
        let tokens_per_byte = (valid.len() - 1) as f64 / self.corpus.valid_bytes() as f64;
        Ok(Evaluation {
            loss,
            bits_per_byte: loss / std::f64::consts::LN_2 * tokens_per_byte,
            tokens,
            zeros,
        })
    }
}
