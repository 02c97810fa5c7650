//! Rotary position embedding: how elements are paired, and how angles are scaled.

/// How positions rotate queries and keys. The angle of pair i at position p is p ·
/// θ^(−2i/`rope_dim`), then scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// θ; finite, above 0.
    pub theta: f32,
    /// Which elements form pair i.
    pub style: RopeStyle,
    /// How the angles are scaled.
    pub scaling: RopeScaling,
}

/// Which elements of a head form pair i. It follows from a file's order of the q and k rows:
/// llama's GGUF files are permuted for [`RopeStyle::Norm`], its Hugging Face files are not. Weights
/// need no permutation on load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RopeStyle {
    /// Elements i and i + `rope_dim`/2.
    Neox,
    /// Elements 2i and 2i + 1.
    Norm,
}

/// How a model's context was extended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// No scaling.
    None,
    /// Every angle is divided by `factor`.
    Linear {
        /// Finite, above 0.
        factor: f32,
    },
    /// Angle i is divided by element i of the tensor `rope_freqs.weight` (F32, `rope_dim`/2): llama
    /// 3 in GGUF files.
    FreqFactors,
    /// Llama 3's rule, if no tensor holds its result. With wavelength λ = 2π · θ^(2i/`rope_dim`):
    /// angles with λ < original/high are kept, those with λ > original/low are divided by `factor`,
    /// and those between are interpolated with s = (original/λ − low)/(high − low): angle · ((1 −
    /// s)/factor + s). (transformers, `_compute_llama3_parameters`)
    Llama3 {
        /// Finite, above 0.
        factor: f32,
        /// Finite, above 0, below `high_freq_factor`.
        low_freq_factor: f32,
        /// Finite.
        high_freq_factor: f32,
        /// The context length before the extension; at least 1.
        original_context: usize,
    },
    /// YaRN as in ggml (`rope_yarn`, arXiv 2309.00071). Angles blend between unscaled and divided
    /// by `factor`, by a ramp over the dimensions from `beta_fast` to `beta_slow` rotations in
    /// `original_context`, weighted by `ext_factor`. cos and sin are multiplied by `attn_factor`
    /// and, unless `ext_factor` is 0, by 1 + 0.1 ln(`factor`).
    Yarn {
        /// Finite, above 0.
        factor: f32,
        /// The context length before the extension; at least 1.
        original_context: usize,
        /// Finite, above 0; 1 by default.
        attn_factor: f32,
        /// Finite, above 0; 32 by default.
        beta_fast: f32,
        /// Finite, above 0; 1 by default.
        beta_slow: f32,
        /// Finite, at least 0; 1 by default.
        ext_factor: f32,
    },
}
