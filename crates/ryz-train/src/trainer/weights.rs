//! The initial parameters, and the parameters as the forward pass uses them.

use super::Trainer;
use crate::config::{TrainConfig, WeightScale};
use crate::layout::{Kind, Layout, Tensor};
use crate::ops::weights;
use crate::parallel;
use crate::rng::SplitMix64;

impl Trainer {
    /// Updates the effective weights from the parameters.
    pub(crate) fn refresh(&mut self) {
        if !self.stale {
            return;
        }
        let mut rest = self.effective.as_mut_slice();
        let mut tasks = Vec::new();
        for tensor in &self.network.layout.tensors {
            let (out, tail) = rest.split_at_mut(tensor.range.len());
            rest = tail;
            tasks.push((tensor, out));
        }
        let (config, parameters) = (&self.config, &self.parameters);
        parallel::each(self.threads, tasks, |(tensor, out)| {
            effective(config, tensor, &parameters[tensor.range.clone()], out);
        });
        self.stale = false;
    }
}

/// A tensor as the forward pass uses it.
fn effective(config: &TrainConfig, tensor: &Tensor, parameters: &[f32], out: &mut [f32]) {
    match tensor.kind {
        Kind::Norm => out.copy_from_slice(parameters),
        Kind::Embedding => weights::round_f16(parameters, out),
        Kind::Linear if !config.quantise_weights => out.copy_from_slice(parameters),
        Kind::Linear => {
            let group = match config.weight_scale {
                WeightScale::Tensor => parameters.len(),
                WeightScale::Channel => tensor.cols,
            };
            for (parameters, out) in parameters.chunks(group).zip(out.chunks_mut(group)) {
                weights::ternary(parameters, out);
            }
        }
    }
}

/// Norms at 1, everything else normal with a standard deviation of 0.02; the two projections into
/// the residual stream are smaller by the square root of twice the depth.
pub(super) fn initial(config: &TrainConfig) -> Vec<f32> {
    let layout = Layout::new(&config.model);
    let mut parameters = vec![0.0; layout.total];
    let depth = (2.0 * config.model.num_hidden_layers as f32).sqrt();
    for (i, tensor) in layout.tensors.iter().enumerate() {
        let values = &mut parameters[tensor.range.clone()];
        if tensor.kind == Kind::Norm {
            values.fill(1.0);
            continue;
        }
        let into_residual = tensor.name.contains("attn_output") || tensor.name.contains("ffn_down");
        let deviation = if into_residual { 0.02 / depth } else { 0.02 };
        let mut rng = SplitMix64::stream(config.seed, 3, i as u64);
        for value in values {
            *value = rng.normal() * deviation;
        }
    }
    parameters
}
