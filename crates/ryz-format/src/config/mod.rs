//! A model's configuration, independent of the file format: dimensions, positions, activations, and
//! the tensors that follow from them.

mod gguf;
mod hf;
mod keys;
mod rope;
mod tensors;
mod validate;

pub use rope::{RopeConfig, RopeScaling, RopeStyle};
pub use tensors::{ExpectedTensor, TensorRole};

/// The architectures that the forward pass implements; they differ only by the data in
/// [`ModelConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// BitNet b1.58 as in microsoft/bitnet-b1.58-2B-4T: sub-norms, squared ReLU.
    BitnetB158,
    /// BitNet as in llama.cpp's `bitnet`: sub-norms, SiLU.
    Bitnet,
    /// Llama and models with the same structure.
    Llama,
    /// Qwen2: biases on q, k and v.
    Qwen2,
    /// Qwen3: a norm on each q and k head.
    Qwen3,
}

impl Architecture {
    /// The names, for error messages.
    pub(crate) const NAMES: &'static str = "bitnet-b1.58, bitnet-25, bitnet, llama, qwen2, qwen3";

    /// The name in GGUF files.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::BitnetB158 => "bitnet-b1.58",
            Architecture::Bitnet => "bitnet",
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// Whether it is one of BitNet's.
    pub const fn is_bitnet(self) -> bool {
        matches!(self, Architecture::BitnetB158 | Architecture::Bitnet)
    }

    /// The default activation for files that name none.
    pub(crate) const fn hidden_act(self) -> HiddenAct {
        match self {
            Architecture::BitnetB158 => HiddenAct::Relu2,
            _ => HiddenAct::Silu,
        }
    }
}

/// The activation applied to the feed-forward gate before its product with up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HiddenAct {
    /// x · sigmoid(x)
    Silu,
    /// max(x, 0)²
    Relu2,
}

impl HiddenAct {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            HiddenAct::Silu => "silu",
            HiddenAct::Relu2 => "relu2",
        }
    }

    /// The activation with this name.
    pub(crate) fn of_name(name: &str) -> Option<HiddenAct> {
        match name {
            "silu" | "swish" => Some(HiddenAct::Silu),
            "relu2" => Some(HiddenAct::Relu2),
            _ => None,
        }
    }
}

/// How a tensor `blk.N.NAME.scale` beside `blk.N.NAME.weight` applies to that linear layer's
/// output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightScales {
    /// There are no such tensors.
    None,
    /// The output is multiplied by it, if present: in files that llama.cpp converted from BitNet
    /// checkpoints, and in Hugging Face's `autobitlinear`, where every packed weight has one.
    Multiply,
    /// The output is divided by it: Hugging Face's `bitlinear`.
    Divide,
}

/// A model's dimensions and rules, with Hugging Face's field names. They are checked against each
/// other and against limits, so that sizes computed from them cannot overflow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a query or key head; `num_attention_heads` × this need not be `hidden_size`.
    pub key_head_dim: usize,
    /// Width of a value head.
    pub value_head_dim: usize,
    /// Leading elements of a query or key head that are rotated; even, at most `key_head_dim`.
    pub rope_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// The context length that the model was made for. Do not size buffers by it without another
    /// limit.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMSNorm; finite, at least 0.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// The feed-forward layer's activation.
    pub hidden_act: HiddenAct,
    /// Whether the head is the embedding (there is no `output.weight`).
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub attention_output_bias: bool,
    /// Whether there are norms before the attention's output projection and before down.
    pub sub_norms: bool,
    /// Whether each q and k head is normalized before its rotation.
    pub qk_norm: bool,
    /// How separate scale tensors of linear layers (`blk.N.attn_q.scale`, one float each) apply.
    pub weight_scales: WeightScales,
    /// Whether the linear layers' float weights are masters, to be made ternary on load (BitNet's
    /// `online` mode): with s = 1/max(mean|w|, 1e-5) in f32, t = clip(round(w·s), −1, 1), and the
    /// scale is 1/s rounded to bf16. See [`crate::encode::quantize_absmean`].
    pub quantize_weights: bool,
    /// Whether the model was trained with int8 activations of one scale per row.
    pub row_activations: bool,
    /// Names of the linear layers' weights that stay floats, with float activations, in a quantized
    /// model; sorted.
    pub float_layers: Vec<String>,
}

impl ModelConfig {
    /// Width of all query heads together.
    pub fn query_dim(&self) -> usize {
        self.num_attention_heads * self.key_head_dim
    }

    /// Width of all key heads together.
    pub fn key_dim(&self) -> usize {
        self.num_key_value_heads * self.key_head_dim
    }

    /// Width of all value heads together.
    pub fn value_dim(&self) -> usize {
        self.num_key_value_heads * self.value_head_dim
    }

    /// Whether the linear layer with this weight keeps floats in a quantized model.
    pub fn keeps_floats(&self, name: &str) -> bool {
        let search = |layer: &String| layer.as_str().cmp(name);
        self.float_layers.binary_search_by(search).is_ok()
    }

    /// Width of the attention's output before its projection.
    pub fn attention_dim(&self) -> usize {
        self.num_attention_heads * self.value_head_dim
    }
}
