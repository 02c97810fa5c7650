//! A loaded model's weights: immutable, shared by all threads.
//!
//! Names used in shapes: `hidden` = hidden_size, `q_dim` = heads × key_head_dim, `k_dim` = kv_heads
//! × key_head_dim, `v_dim` = kv_heads × value_head_dim, `heads_dim` = heads × value_head_dim, `ffn`
//! = intermediate_size.

use ryz_kernels::{Linear, QuantizedLayout};
use ryz_tmac::AlignedVec;

use crate::lm_head::LmHead;

/// All weights of the file.
#[derive(Debug)]
pub(crate) struct Weights {
    /// (vocab, hidden)
    pub embedding: Linear,
    pub layers: Vec<LayerWeights>,
    /// (hidden)
    pub output_norm: AlignedVec<f32>,
    pub lm_head: LmHead,
}

impl Weights {
    /// The output matrix, which produces logits.
    pub fn head(&self) -> &Linear {
        self.lm_head.matrix(&self.embedding)
    }

    /// Every matrix, with the embedding first.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter().flat_map(LayerWeights::linears);
        std::iter::once(&self.embedding)
            .chain(layers)
            .chain(&self.lm_head.own)
    }
}

/// One layer: a mixer and a feed-forward network, each preceded by a norm and added to the residual
/// stream.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub mixer: Mixer,
    pub feed_forward: FeedForward,
}

/// The part that combines information across tokens.
#[derive(Debug)]
pub(crate) enum Mixer {
    Attention(AttentionWeights),
}

/// The part computed for each token independently.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Gated(GatedWeights),
}

/// Attention. Optional parts depend on the architecture; the pass checks for a part, never for an
/// architecture.
#[derive(Debug)]
pub(crate) struct AttentionWeights {
    /// (hidden)
    pub norm: AlignedVec<f32>,
    pub query: Projection,
    pub key: Projection,
    pub value: Projection,
    /// (key_head_dim), qwen3: before RoPE.
    pub query_norm: Option<AlignedVec<f32>>,
    /// (key_head_dim)
    pub key_norm: Option<AlignedVec<f32>>,
    /// (heads_dim), BitNet: applied to the concatenated heads.
    pub sub_norm: Option<AlignedVec<f32>>,
    pub output: Projection,
}

/// A gated feed-forward network.
#[derive(Debug)]
pub(crate) struct GatedWeights {
    /// (hidden)
    pub norm: AlignedVec<f32>,
    pub gate: Projection,
    pub up: Projection,
    /// (ffn), BitNet: applied to act(gate) · up.
    pub sub_norm: Option<AlignedVec<f32>>,
    pub down: Projection,
}

impl LayerWeights {
    /// Every projection, in pass order.
    pub fn projections(&self) -> Vec<&Projection> {
        let Mixer::Attention(attention) = &self.mixer;
        let FeedForward::Gated(gated) = &self.feed_forward;
        vec![
            &attention.query,
            &attention.key,
            &attention.value,
            &attention.output,
            &gated.gate,
            &gated.up,
            &gated.down,
        ]
    }

    /// The same, mutable.
    pub fn projections_mut(&mut self) -> Vec<&mut Projection> {
        let Mixer::Attention(attention) = &mut self.mixer;
        let FeedForward::Gated(gated) = &mut self.feed_forward;
        vec![
            &mut attention.query,
            &mut attention.key,
            &mut attention.value,
            &mut attention.output,
            &mut gated.gate,
            &mut gated.up,
            &mut gated.down,
        ]
    }

    /// The gated network.
    pub fn gated(&self) -> &GatedWeights {
        let FeedForward::Gated(gated) = &self.feed_forward;
        gated
    }

    /// The same, mutable.
    pub fn gated_mut(&mut self) -> &mut GatedWeights {
        let FeedForward::Gated(gated) = &mut self.feed_forward;
        gated
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        let projections = self.projections().into_iter();
        projections.map(|projection| &projection.weight)
    }
}

/// A matrix with an optional scale and bias: `y = scale · W·x + bias`.
#[derive(Debug)]
pub(crate) struct Projection {
    /// (out, in)
    pub weight: Linear,
    /// A scale stored beside the matrix.
    pub scale: Option<f32>,
    /// (out)
    pub bias: Option<AlignedVec<f32>>,
    /// The quantized form of its input; `None` for f32.
    pub form: Option<QuantizedLayout>,
}
