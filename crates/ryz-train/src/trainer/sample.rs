//! Samples from the model during training.

use super::Trainer;
use crate::error::TrainError;
use crate::rng::SplitMix64;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sampling options.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleOptions {
    /// Maximum tokens, also limited by the training window's length.
    pub max_tokens: usize,
    /// Temperature; 0 selects the likeliest token.
    pub temperature: f32,
    /// Number of likeliest tokens to draw from.
    pub top_k: usize,
    /// Random seed.
    pub seed: u64,
}

impl Trainer {
    /// Logits after each token from the trainer's own forward pass, with the engine's rounding.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        let most = self.config.window();
        let vocabulary = self.config.model.vocab_size as u32;
        if tokens.is_empty() || tokens.len() > most || tokens.iter().any(|t| *t >= vocabulary) {
            let expected = format!("1 to {most} ids below {vocabulary}");
            return Err(crate::config::option(
                "tokens",
                &expected,
                format!("{} tokens", tokens.len()),
            ));
        }
        self.refresh();
        Ok(self
            .network
            .logits(&self.effective, tokens, &mut self.buffers[0]))
    }

    /// Continues a text as the exported file would, with the engine's rounding.
    pub fn sample(&mut self, prompt: &str, options: SampleOptions) -> Result<String, TrainError> {
        self.sample_unless(prompt, options, &AtomicBool::new(false))
    }

    /// The same, unless `cancel` is set meanwhile.
    pub(crate) fn sample_unless(
        &mut self,
        prompt: &str,
        options: SampleOptions,
        cancel: &AtomicBool,
    ) -> Result<String, TrainError> {
        let mut tokens: Vec<u32> = self.tokenizer.begin().into_iter().collect();
        tokens.extend(self.tokenizer.encode(prompt)?);
        if tokens.is_empty() {
            return Ok(String::new());
        }
        let mut rng = SplitMix64::stream(options.seed, 2, 0);
        let most = self.config.window().min(tokens.len() + options.max_tokens);
        while tokens.len() < most {
            if cancel.load(Ordering::Relaxed) {
                return Err(TrainError::Aborted);
            }
            let logits = self.logits(&tokens)?;
            let vocabulary = self.config.model.vocab_size;
            let next = draw(&logits[logits.len() - vocabulary..], options, &mut rng);
            if self.tokenizer.is_end(next) {
                break;
            }
            tokens.push(next);
        }
        Ok(self.tokenizer.decode(&tokens))
    }
}

/// One token from the `top_k` likeliest, at a temperature.
fn draw(logits: &[f32], options: SampleOptions, rng: &mut SplitMix64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_unstable_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    if options.temperature <= 0.0 {
        return order[0];
    }
    order.truncate(options.top_k.max(1));
    let top = logits[order[0] as usize];
    let weight = |id: &u32| f64::from((logits[*id as usize] - top) / options.temperature).exp();
    let mut left = rng.uniform() * order.iter().map(weight).sum::<f64>();
    for id in &order {
        left -= weight(id);
        if left <= 0.0 {
            return *id;
        }
    }
    order[order.len() - 1]
}
