//! The forward pass of the layers.

use super::{Buffers, Network, Tokens};
use crate::ops::attention;
use crate::ops::gate;
use crate::ops::matmul::{ProductOutput, View, a_bt};
use crate::ops::norm::{self, NormForward, Rounding};

impl Network {
    /// Runs the layers and the final norm: fills `hidden` (n, d).
    pub(super) fn forward(
        &self,
        weights: &[f32],
        tokens: Tokens<'_>,
        rounding: Rounding,
        buffers: &mut Buffers,
    ) {
        let s = &self.shape;
        let n = tokens.inputs.len();
        let (d, f, wide) = (
            s.hidden_size,
            s.intermediate_size,
            s.hidden_size + 2 * s.kv_dim(),
        );
        assert!(n <= buffers.capacity && n.is_multiple_of(tokens.sequences));
        let attention = self.attention(tokens.sequences, n / tokens.sequences);
        assert!(attention.tokens <= self.window);
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
            if tokens.is_cancelled() {
                return;
            }
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
                rounding,
            );
            a_bt(
                ProductOutput::set(&mut b.qkv, wide),
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
                rounding,
            );
            b.middle.copy_from_slice(&b.x);
            a_bt(
                ProductOutput::add(&mut b.middle, d),
                View::new(&b.attended_normed, n, d),
                View::new(w(&at.output), d, d),
            );
            let middle = &b.middle[..n * d];
            self.norm(
                middle,
                w(&at.ffn_norm),
                &mut b.middle_normed,
                &mut b.middle_inverse,
                rounding,
            );
            a_bt(
                ProductOutput::set(&mut b.gate_up, 2 * f),
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
                rounding,
            );
            out.copy_from_slice(&b.middle);
            a_bt(
                ProductOutput::add(out, d),
                View::new(&b.activated_normed, n, f),
                View::new(w(&at.down), d, f),
            );
        }
        self.norm(
            &x[..n * d],
            &weights[self.layout.output_norm.clone()],
            hidden,
            inverse,
            Rounding::None,
        );
    }

    fn norm(
        &self,
        x: &[f32],
        weight: &[f32],
        y: &mut [f32],
        inverse: &mut [f32],
        rounding: Rounding,
    ) {
        norm::forward(NormForward {
            x,
            weight,
            eps: self.shape.rms_norm_eps,
            rounding,
            y,
            inverse,
        });
    }
}
