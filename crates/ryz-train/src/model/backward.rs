//! The backward pass.

use super::{Buffers, Network, Tokens};
use crate::ops::attention;
use crate::ops::cross_entropy::{self, HeadGradients, Loss, Teacher};
use crate::ops::gate;
use crate::ops::matmul::{ProductOutput, View, a_b, at_b};
use crate::ops::norm::{self, NormBackward};

/// The training targets of a shard.
pub(crate) struct Targets<'a> {
    /// The next tokens.
    pub targets: &'a [u32],
    /// The teacher's distributions of the next tokens.
    pub teacher: Option<Teacher<'a>>,
    /// Multiplies the gradient: one divided by the number of tokens in the batch.
    pub factor: f32,
}

impl Network {
    /// The loss of a shard; adds `factor` times its gradient to `gradients`.
    pub fn loss_and_gradients(
        &self,
        weights: &[f32],
        tokens: Tokens<'_>,
        targets: Targets<'_>,
        buffers: &mut Buffers,
        gradients: &mut [f32],
    ) -> Loss {
        self.forward(weights, tokens, self.training, buffers);
        if tokens.is_cancelled() {
            return Loss::default();
        }
        let Targets {
            targets,
            teacher,
            factor,
        } = targets;
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
        let loss = cross_entropy::loss(
            self.head(weights, targets, hidden, logits),
            teacher,
            Some(out),
        );
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
            if tokens.is_cancelled() {
                return loss;
            }
            let w = |range: &std::ops::Range<usize>| &weights[range.clone()];
            let dout = View::new(dx, n, d);
            a_b(
                ProductOutput::set(dactivated, f),
                dout,
                View::new(w(&at.down), d, f),
            );
            at_b(
                ProductOutput::add(&mut gradients[at.down.clone()], f),
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
                ProductOutput::set(dnormed, d),
                dgates,
                View::new(w(&at.gate_up), 2 * f, d),
            );
            at_b(
                ProductOutput::add(&mut gradients[at.gate_up.clone()], d),
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
            a_b(
                ProductOutput::set(dnormed, d),
                dout,
                View::new(w(&at.output), d, d),
            );
            at_b(
                ProductOutput::add(&mut gradients[at.output.clone()], d),
                dout,
                View::new(&b.attended_normed, n, d),
            );
            // The sub-norm's input is the attention's output: its gradient reuses the buffer of the
            // normalized rows.
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
                ProductOutput::set(dnormed, d),
                dprojected,
                View::new(w(&at.qkv), wide, d),
            );
            at_b(
                ProductOutput::add(&mut gradients[at.qkv.clone()], d),
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
}
