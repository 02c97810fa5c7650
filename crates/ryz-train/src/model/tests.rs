use super::*;
use crate::config::HiddenAct;
use crate::ops::gradient_check::noise;
use std::sync::atomic::AtomicBool;

fn towards(targets: &[u32]) -> Targets<'_> {
    Targets {
        targets,
        teacher: None,
        factor: 1.0,
    }
}

/// The whole backward pass against central differences, without quantization (its straight-through
/// gradient is not a derivative).
#[test]
fn gradients_of_the_network_match_finite_differences() {
    for act in [HiddenAct::Relu2, HiddenAct::Silu] {
        let shape = ModelShape {
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 16,
            vocab_size: 50,
            hidden_act: act,
            ..Default::default()
        };
        let network = Network::new(&shape, 16, Rounding::None);
        let total = network.layout.total;
        let weights: Vec<f32> = noise(5, total).iter().map(|w| w * 0.5).collect();
        let inputs: Vec<u32> = (0..32).map(|i| i * 11 % 50).collect();
        let targets: Vec<u32> = (0..32).map(|i| (i * 7 + 3) % 50).collect();
        let tokens = Tokens {
            inputs: &inputs,
            sequences: 2,
            cancel: &AtomicBool::new(false),
        };
        let mut buffers = network.buffers(32);
        let mut gradients = vec![0.0; total];
        network.loss_and_gradients(
            &weights,
            tokens,
            towards(&targets),
            &mut buffers,
            &mut gradients,
        );
        for tensor in &network.layout.tensors {
            let range = tensor.range.clone();
            let direction = noise(9, range.len());
            let mut value = |sign: f32| {
                let mut moved = weights.clone();
                for (w, d) in moved[range.clone()].iter_mut().zip(&direction) {
                    *w += sign * 1e-3 * d;
                }
                network.loss(&moved, tokens, &targets, &mut buffers)
            };
            let numeric = (value(1.0) - value(-1.0)) / 2e-3;
            let gradient = &gradients[range];
            let analytic: f64 = gradient
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(g * d))
                .sum();
            let size = gradient
                .iter()
                .map(|g| f64::from(g * g))
                .sum::<f64>()
                .sqrt();
            // The loss's f32 noise (about 1e-5) divided by the step is 1e-2.
            assert!(
                (numeric - analytic).abs() < 0.02 * size + 0.02,
                "{}: numeric {numeric}, analytic {analytic}, |gradient| {size}",
                tensor.name
            );
        }
    }
}

/// The straight-through gradients with int8 rounding, per token or per batch, equal those of the
/// network without rounding up to 8-bit noise, in every tensor.
#[test]
fn gradients_pass_through_the_rounding_of_activations() {
    let shape = ModelShape {
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 16,
        vocab_size: 50,
        hidden_act: HiddenAct::Silu,
        ..Default::default()
    };
    let inputs: Vec<u32> = (0..32).map(|i| i * 11 % 50).collect();
    let targets: Vec<u32> = (0..32).map(|i| (i * 7 + 3) % 50).collect();
    let tokens = Tokens {
        inputs: &inputs,
        sequences: 2,
        cancel: &AtomicBool::new(false),
    };
    let run = |rounding| {
        let network = Network::new(&shape, 16, rounding);
        let total = network.layout.total;
        let weights: Vec<f32> = noise(5, total).iter().map(|w| w * 0.3).collect();
        let mut buffers = network.buffers(32);
        let mut gradients = vec![0.0; total];
        let targets = towards(&targets);
        network.loss_and_gradients(&weights, tokens, targets, &mut buffers, &mut gradients);
        (network, gradients)
    };
    let (network, want) = run(Rounding::None);
    for rounding in [Rounding::Token, Rounding::Batch] {
        let (_, got) = run(rounding);
        assert_ne!(got, want, "{rounding:?} rounds");
        for tensor in &network.layout.tensors {
            let (got, want) = (&got[tensor.range.clone()], &want[tensor.range.clone()]);
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            let cosine = dot(got, want) / (dot(got, got) * dot(want, want)).sqrt();
            let size = (dot(got, got) / dot(want, want)).sqrt();
            // A grid step is less than 1/60 of a typical value: errors of about a percent, which
            // accumulate over four norms.
            assert!(
                cosine > 0.995 && (size - 1.0).abs() < 0.05,
                "{rounding:?} {}: cosine {cosine}, size {size}",
                tensor.name
            );
        }
    }
}
