//! Forward and backward of the whole network over one shard of a batch.
//!
//! RMSNorm → q, k, v → RoPE → attention → sub-norm → o → residual → RMSNorm → act(gate)·up → sub-norm → down →
//! residual, per layer; then a norm and the tied head. Written by hand over [`crate::ops`]: every buffer is allocated
//! once, and the only things outside a matrix product are the fused operators.

use crate::config::ModelShape;
use crate::layout::Layout;
use crate::ops::attention::{self, Shape};
use crate::ops::cross_entropy::{self, CHUNK, Head, HeadGradients};
use crate::ops::gate;
use crate::ops::matmul::{Out, View, a_b, a_bt, at_b};
use crate::ops::norm::{self, NormBackward, NormForward};
use crate::ops::rope::RopeTable;

/// What the pass reads besides weights and tokens.
#[derive(Debug)]
pub(crate) struct Network {
    pub shape: ModelShape,
    pub layout: Layout,
    pub quantise_activations: bool,
    rope: RopeTable,
}

/// What a layer keeps for its backward pass; n is the number of tokens.
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

/// Scratch of one shard.
#[derive(Debug)]
pub(crate) struct Buffers {
    capacity: usize,
    layers: Vec<LayerBuffers>,
    /// (n, d): input of the last norm.
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

/// A batch of `sequences` equally long token sequences, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub inputs: &'a [u32],
    pub sequences: usize,
}

/// How empty the feed-forward network is, per layer: what the sparse path of the engine can skip.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LayerZeros {
    /// Part of the gates that are not positive.
    pub gates: f64,
    /// Part of the quantised inputs of the down projection that are zero.
    pub activations: f64,
}

impl Network {
    pub fn new(shape: &ModelShape, quantise_activations: bool) -> Self {
        Self {
            shape: shape.clone(),
            layout: Layout::new(shape),
            quantise_activations,
            rope: RopeTable::new(
                shape.max_position_embeddings,
                shape.head_dim(),
                shape.rope_theta,
            ),
        }
    }

    /// Buffers for up to `n` tokens a call.
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
            scratch: vec![0.0; self.attention(1, s.max_position_embeddings).scratch()],
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

    /// Runs the layers and the last norm: fills `hidden` (n, d).
    fn forward(&self, weights: &[f32], tokens: Tokens<'_>, buffers: &mut Buffers) {
        let s = &self.shape;
        let n = tokens.inputs.len();
        let (d, f, wide) = (
            s.hidden_size,
            s.intermediate_size,
            s.hidden_size + 2 * s.kv_dim(),
        );
        assert!(n <= buffers.capacity && n.is_multiple_of(tokens.sequences));
        let attention = self.attention(tokens.sequences, n / tokens.sequences);
        assert!(attention.tokens <= s.max_position_embeddings);
        let embedding = &weights[self.layout.embedding.clone()];
        let Buffers {
            layers,
            x: last,
            inverse,
            hidden,
            scratch,
            ..
        } = buffers;
        let mut x = &mut *last;
        for (row, &token) in layers
            .first_mut()
            .map_or(x, |l| &mut l.x)
            .chunks_exact_mut(d)
            .zip(tokens.inputs)
        {
            row.copy_from_slice(&embedding[token as usize * d..][..d]);
        }
        x = last;
        for i in 0..layers.len() {
            let (this, next) = layers.split_at_mut(i + 1);
            let b = &mut this[i];
            let out = next.first_mut().map_or(&mut *x, |l| &mut l.x);
            let at = &self.layout.layers[i];
            let w = |range: &std::ops::Range<usize>| &weights[range.clone()];
            self.norm(
                &b.x[..n * d],
                w(&at.attn_norm),
                &mut b.normed,
                &mut b.inverse,
                true,
            );
            a_bt(
                Out::set(&mut b.qkv, wide),
                View::new(&b.normed, n, d),
                View::new(w(&at.qkv), wide, d),
            );
            let turned = s.num_attention_heads + s.num_key_value_heads;
            self.rope
                .turn(&mut b.qkv[..n * wide], wide, turned, attention.tokens, 1.0);
            let lse = &mut b.lse[..n * s.num_attention_heads];
            attention::forward(attention, &b.qkv, &mut b.attended, lse, scratch);
            let (attended, sub) = (&b.attended[..n * d], w(&at.attn_sub_norm));
            self.norm(
                attended,
                sub,
                &mut b.attended_normed,
                &mut b.attended_inverse,
                true,
            );
            b.middle.copy_from_slice(&b.x);
            a_bt(
                Out::add(&mut b.middle, d),
                View::new(&b.attended_normed, n, d),
                View::new(w(&at.output), d, d),
            );
            let middle = &b.middle[..n * d];
            self.norm(
                middle,
                w(&at.ffn_norm),
                &mut b.middle_normed,
                &mut b.middle_inverse,
                true,
            );
            a_bt(
                Out::set(&mut b.gate_up, 2 * f),
                View::new(&b.middle_normed, n, d),
                View::new(w(&at.gate_up), 2 * f, d),
            );
            gate::forward(s.hidden_act, &b.gate_up[..n * 2 * f], &mut b.activated, f);
            let (activated, sub) = (&b.activated[..n * f], w(&at.ffn_sub_norm));
            self.norm(
                activated,
                sub,
                &mut b.activated_normed,
                &mut b.activated_inverse,
                true,
            );
            out.copy_from_slice(&b.middle);
            a_bt(
                Out::add(out, d),
                View::new(&b.activated_normed, n, f),
                View::new(w(&at.down), d, f),
            );
        }
        self.norm(
            &x[..n * d],
            &weights[self.layout.output_norm.clone()],
            hidden,
            inverse,
            false,
        );
    }

    fn norm(
        &self,
        x: &[f32],
        weight: &[f32],
        y: &mut [f32],
        inverse: &mut [f32],
        quantised_after: bool,
    ) {
        norm::forward(NormForward {
            x,
            weight,
            eps: self.shape.rms_norm_eps,
            quantise: quantised_after && self.quantise_activations,
            y,
            inverse,
        });
    }

    /// Sum of the negative log-likelihoods of `targets`, in nats.
    pub fn loss(
        &self,
        weights: &[f32],
        tokens: Tokens<'_>,
        targets: &[u32],
        buffers: &mut Buffers,
    ) -> f64 {
        self.forward(weights, tokens, buffers);
        cross_entropy::loss(
            self.head(weights, targets, &buffers.hidden, &mut buffers.logits),
            None,
        )
    }

    /// Logits (vocabulary) after each of the tokens of one sequence.
    pub fn logits(&self, weights: &[f32], tokens: &[u32], buffers: &mut Buffers) -> Vec<f32> {
        self.forward(
            weights,
            Tokens {
                inputs: tokens,
                sequences: 1,
            },
            buffers,
        );
        let (d, v) = (self.shape.hidden_size, self.shape.vocab_size);
        let mut logits = vec![0.0; tokens.len() * v];
        let table = View::new(&weights[self.layout.embedding.clone()], v, d);
        a_bt(
            Out::set(&mut logits, v),
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

    /// As [`Self::loss`], and adds `factor` times the gradient of that sum to `gradients`.
    pub fn loss_and_gradients(
        &self,
        weights: &[f32],
        tokens: Tokens<'_>,
        targets: &[u32],
        factor: f32,
        buffers: &mut Buffers,
        gradients: &mut [f32],
    ) -> f64 {
        self.forward(weights, tokens, buffers);
        let s = &self.shape;
        let n = targets.len();
        let (d, f, wide) = (
            s.hidden_size,
            s.intermediate_size,
            s.hidden_size + 2 * s.kv_dim(),
        );
        let attention = self.attention(tokens.sequences, n / tokens.sequences);
        let Buffers {
            layers,
            x,
            inverse,
            hidden,
            logits,
            dx,
            dnormed,
            dqkv,
            dactivated,
            dgate_up,
            scratch,
            ..
        } = buffers;
        let dembedding = &mut gradients[self.layout.embedding.clone()];
        let out = HeadGradients {
            factor,
            dhidden: &mut dnormed[..n * d],
            dembedding,
        };
        let loss = cross_entropy::loss(self.head(weights, targets, hidden, logits), Some(out));
        dx[..n * d].fill(0.0);
        norm::backward(NormBackward {
            x: &x[..n * d],
            weight: &weights[self.layout.output_norm.clone()],
            inverse,
            dy: dnormed,
            dx,
            dweight: &mut gradients[self.layout.output_norm.clone()],
        });
        for (b, at) in layers.iter_mut().zip(&self.layout.layers).rev() {
            let w = |range: &std::ops::Range<usize>| &weights[range.clone()];
            let dout = View::new(dx, n, d);
            a_b(Out::set(dactivated, f), dout, View::new(w(&at.down), d, f));
            at_b(
                Out::add(&mut gradients[at.down.clone()], f),
                dout,
                View::new(&b.activated_normed, n, f),
            );
            gate::backward(gate::GateBackward {
                act: s.hidden_act,
                gate_up: &b.gate_up[..n * 2 * f],
                a: &b.activated,
                weight: w(&at.ffn_sub_norm),
                inverse: &b.activated_inverse,
                dy: dactivated,
                dgate_up,
                dweight: &mut gradients[at.ffn_sub_norm.clone()],
            });
            let dgates = View::new(dgate_up, n, 2 * f);
            a_b(
                Out::set(dnormed, d),
                dgates,
                View::new(w(&at.gate_up), 2 * f, d),
            );
            at_b(
                Out::add(&mut gradients[at.gate_up.clone()], d),
                dgates,
                View::new(&b.middle_normed, n, d),
            );
            norm::backward(NormBackward {
                x: &b.middle[..n * d],
                weight: w(&at.ffn_norm),
                inverse: &b.middle_inverse,
                dy: dnormed,
                dx,
                dweight: &mut gradients[at.ffn_norm.clone()],
            });
            let dout = View::new(dx, n, d);
            a_b(Out::set(dnormed, d), dout, View::new(w(&at.output), d, d));
            at_b(
                Out::add(&mut gradients[at.output.clone()], d),
                dout,
                View::new(&b.attended_normed, n, d),
            );
            // The sub-norm's input is the attention's output: its gradient reuses the buffer of the normed rows.
            let dattended = &mut b.attended_normed;
            dattended.fill(0.0);
            norm::backward(NormBackward {
                x: &b.attended[..n * d],
                weight: w(&at.attn_sub_norm),
                inverse: &b.attended_inverse,
                dy: dnormed,
                dx: dattended,
                dweight: &mut gradients[at.attn_sub_norm.clone()],
            });
            attention::backward(attention::Backward {
                shape: attention,
                qkv: &b.qkv,
                out: &b.attended,
                lse: &b.lse[..n * s.num_attention_heads],
                dout: dattended,
                dqkv,
                scratch,
            });
            let turned = s.num_attention_heads + s.num_key_value_heads;
            self.rope
                .turn(&mut dqkv[..n * wide], wide, turned, attention.tokens, -1.0);
            let dprojected = View::new(dqkv, n, wide);
            a_b(
                Out::set(dnormed, d),
                dprojected,
                View::new(w(&at.qkv), wide, d),
            );
            at_b(
                Out::add(&mut gradients[at.qkv.clone()], d),
                dprojected,
                View::new(&b.normed, n, d),
            );
            norm::backward(NormBackward {
                x: &b.x[..n * d],
                weight: w(&at.attn_norm),
                inverse: &b.inverse,
                dy: dnormed,
                dx,
                dweight: &mut gradients[at.attn_norm.clone()],
            });
        }
        let dembedding = &mut gradients[self.layout.embedding.clone()];
        for (dx, &token) in dx.chunks_exact(d).zip(tokens.inputs) {
            for (sum, dx) in dembedding[token as usize * d..][..d].iter_mut().zip(dx) {
                *sum += dx;
            }
        }
        loss
    }

    /// Zero parts of each layer's gates and quantised activations over the last forward pass of `n` tokens.
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
mod tests {
    use super::*;
    use crate::config::HiddenAct;
    use crate::ops::gradient_check::noise;

    /// The whole backward pass against central differences, without quantisation (whose gradient is not a derivative).
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
            let network = Network::new(&shape, false);
            let total = network.layout.total;
            let weights: Vec<f32> = noise(5, total).iter().map(|w| w * 0.5).collect();
            let inputs: Vec<u32> = (0..32).map(|i| i * 11 % 50).collect();
            let targets: Vec<u32> = (0..32).map(|i| (i * 7 + 3) % 50).collect();
            let tokens = Tokens {
                inputs: &inputs,
                sequences: 2,
            };
            let mut buffers = network.buffers(32);
            let mut gradients = vec![0.0; total];
            network.loss_and_gradients(
                &weights,
                tokens,
                &targets,
                1.0,
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
                // f32 noise of the loss (about 1e-5) over the step is 1e-2.
                assert!(
                    (numeric - analytic).abs() < 0.02 * size + 0.02,
                    "{}: numeric {numeric}, analytic {analytic}, |gradient| {size}",
                    tensor.name
                );
            }
        }
    }
}
