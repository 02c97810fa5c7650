//! Forward and backward passes of the network over one shard of a batch.
//!
//! RMSNorm → q, k, v → RoPE → attention → sub-norm → o → residual → RMSNorm → act(gate)·up →
//! sub-norm → down → residual, per layer; then a norm and the tied head. Written by hand over
//! [`crate::ops`]: every buffer is allocated once, and outside matrix products there are only fused
//! operators.

mod backward;
mod forward;

use crate::config::ModelShape;
use crate::layout::Layout;
use crate::ops::attention::Shape;
use crate::ops::cross_entropy::{self, CHUNK, Head, Teacher};
use crate::ops::matmul::{ProductOutput, View, a_bt};
use crate::ops::norm::Rounding;
use crate::ops::rope::RopeTable;

pub(crate) use backward::Targets;
use std::sync::atomic::{AtomicBool, Ordering};

/// The pass's inputs other than weights and tokens.
#[derive(Debug)]
pub(crate) struct Network {
    pub shape: ModelShape,
    pub layout: Layout,
    /// Maximum tokens of a sequence.
    pub window: usize,
    /// How training rounds the inputs of linear layers.
    training: Rounding,
    rope: RopeTable,
}

/// A layer's values needed by its backward pass; n is the number of tokens.
#[derive(Debug)]
struct LayerBuffers {
    /// (n, d): the layer's input.
    x: Vec<f32>,
    inverse: Vec<f32>,
    /// (n, d)
    normed: Vec<f32>,
    /// (n, d + 2·kv), after RoPE
    qkv: Vec<f32>,
    /// (sequences, heads, tokens)
    lse: Vec<f32>,
    /// (n, d)
    attended: Vec<f32>,
    attended_inverse: Vec<f32>,
    /// (n, d)
    attended_normed: Vec<f32>,
    /// (n, d): after the attention's residual.
    middle: Vec<f32>,
    middle_inverse: Vec<f32>,
    /// (n, d)
    middle_normed: Vec<f32>,
    /// (n, 2f)
    gate_up: Vec<f32>,
    /// (n, f)
    activated: Vec<f32>,
    activated_inverse: Vec<f32>,
    /// (n, f)
    activated_normed: Vec<f32>,
}

/// Scratch for one shard.
#[derive(Debug)]
pub(crate) struct Buffers {
    capacity: usize,
    layers: Vec<LayerBuffers>,
    /// (n, d): input of the final norm.
    x: Vec<f32>,
    inverse: Vec<f32>,
    /// (n, d)
    hidden: Vec<f32>,
    logits: Vec<f32>,
    /// (n, d)
    dx: Vec<f32>,
    /// (n, d)
    dnormed: Vec<f32>,
    /// (n, d + 2·kv)
    dqkv: Vec<f32>,
    /// (n, f)
    dactivated: Vec<f32>,
    /// (n, 2f)
    dgate_up: Vec<f32>,
    scratch: Vec<f32>,
}

/// A batch of `sequences` equally long token sequences, concatenated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub inputs: &'a [u32],
    pub sequences: usize,
    /// Once set, a pass ends at the next layer with meaningless results.
    pub cancel: &'a AtomicBool,
}

impl Tokens<'_> {
    fn is_cancelled(self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// Sparsity of the feed-forward network per layer, which the engine's sparse path can skip.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LayerZeros {
    /// Fraction of gates that are not positive.
    pub gates: f64,
    /// Fraction of zeros among the quantized inputs of the down projection.
    pub activations: f64,
}

impl Network {
    pub fn new(shape: &ModelShape, window: usize, training: Rounding) -> Self {
        Self {
            shape: shape.clone(),
            layout: Layout::new(shape),
            window,
            training,
            rope: RopeTable::new(window, shape.head_dim(), shape.rope_theta),
        }
    }

    /// The rounding used outside training, identical to the engine's.
    fn inference(&self) -> Rounding {
        match self.training {
            Rounding::None => Rounding::None,
            Rounding::Token | Rounding::Batch => Rounding::Token,
        }
    }

    /// Buffers for up to `n` tokens per call.
    pub fn buffers(&self, n: usize) -> Buffers {
        let s = &self.shape;
        let (d, f, heads) = (s.hidden_size, s.intermediate_size, s.num_attention_heads);
        let wide = d + 2 * s.kv_dim();
        let layer = || LayerBuffers {
            x: vec![0.0; n * d],
            inverse: vec![0.0; n],
            normed: vec![0.0; n * d],
            qkv: vec![0.0; n * wide],
            lse: vec![0.0; n * heads],
            attended: vec![0.0; n * d],
            attended_inverse: vec![0.0; n],
            attended_normed: vec![0.0; n * d],
            middle: vec![0.0; n * d],
            middle_inverse: vec![0.0; n],
            middle_normed: vec![0.0; n * d],
            gate_up: vec![0.0; n * 2 * f],
            activated: vec![0.0; n * f],
            activated_inverse: vec![0.0; n],
            activated_normed: vec![0.0; n * f],
        };
        Buffers {
            capacity: n,
            layers: (0..s.num_hidden_layers).map(|_| layer()).collect(),
            x: vec![0.0; n * d],
            inverse: vec![0.0; n],
            hidden: vec![0.0; n * d],
            logits: vec![0.0; CHUNK.min(n) * s.vocab_size],
            dx: vec![0.0; n * d],
            dnormed: vec![0.0; n * d],
            dqkv: vec![0.0; n * wide],
            dactivated: vec![0.0; n * f],
            dgate_up: vec![0.0; n * 2 * f],
            scratch: vec![0.0; self.attention(1, self.window).scratch()],
        }
    }

    fn attention(&self, sequences: usize, tokens: usize) -> Shape {
        Shape {
            sequences,
            tokens,
            heads: self.shape.num_attention_heads,
            kv_heads: self.shape.num_key_value_heads,
            head_dim: self.shape.head_dim(),
        }
    }

    /// Sum of the negative log-likelihoods of `targets`, in nats.
    pub fn loss(
        &self,
        weights: &[f32],
        tokens: Tokens<'_>,
        targets: &[u32],
        buffers: &mut Buffers,
    ) -> f64 {
        self.forward(weights, tokens, self.inference(), buffers);
        let head = self.head(weights, targets, &buffers.hidden, &mut buffers.logits);
        cross_entropy::loss(head, None, None).likelihood
    }

    /// The teacher's outputs for a loss, after a forward pass over its tokens.
    pub fn teach<'a>(
        &self,
        weights: &'a [f32],
        tokens: Tokens<'_>,
        temperature: f32,
        weight: f32,
        buffers: &'a mut Buffers,
    ) -> Teacher<'a> {
        self.forward(weights, tokens, self.inference(), buffers);
        let width = self.shape.hidden_size;
        Teacher {
            hidden: &buffers.hidden[..tokens.inputs.len() * width],
            embedding: &weights[self.layout.embedding.clone()],
            width,
            logits: &mut buffers.logits,
            temperature,
            weight,
        }
    }

    /// Logits (vocabulary) after each of the tokens of one sequence.
    pub fn logits(&self, weights: &[f32], tokens: &[u32], buffers: &mut Buffers) -> Vec<f32> {
        self.forward(
            weights,
            Tokens {
                inputs: tokens,
                sequences: 1,
                cancel: &AtomicBool::new(false),
            },
            self.inference(),
            buffers,
        );
        let (d, v) = (self.shape.hidden_size, self.shape.vocab_size);
        let mut logits = vec![0.0; tokens.len() * v];
        let table = View::new(&weights[self.layout.embedding.clone()], v, d);
        a_bt(
            ProductOutput::set(&mut logits, v),
            View::new(&buffers.hidden, tokens.len(), d),
            table,
        );
        logits
    }

    fn head<'a>(
        &self,
        weights: &'a [f32],
        targets: &'a [u32],
        hidden: &'a [f32],
        logits: &'a mut [f32],
    ) -> Head<'a> {
        let width = self.shape.hidden_size;
        let hidden = &hidden[..targets.len() * width];
        Head {
            hidden,
            targets,
            embedding: &weights[self.layout.embedding.clone()],
            width,
            logits,
        }
    }

    /// Fractions of zeros among each layer's gates and quantized activations in the last forward
    /// pass of `n` tokens.
    pub fn zeros(&self, n: usize, buffers: &Buffers) -> Vec<LayerZeros> {
        let f = self.shape.intermediate_size;
        let part = |count: usize| count as f64 / (n * f) as f64;
        let count = |b: &LayerBuffers| LayerZeros {
            gates: part(
                b.gate_up
                    .chunks_exact(2 * f)
                    .take(n)
                    .map(|row| row[..f].iter().filter(|g| **g <= 0.0).count())
                    .sum(),
            ),
            activations: part(
                b.activated_normed[..n * f]
                    .iter()
                    .filter(|a| **a == 0.0)
                    .count(),
            ),
        };
        buffers.layers.iter().map(count).collect()
    }
}

#[cfg(test)]
mod tests;
