//! [`ModelConfig`] from GGUF's keys, as written and read by llama.cpp.

use super::{
    Architecture, HiddenAct, ModelConfig, RopeConfig, RopeScaling, RopeStyle, WeightScales,
    keys::Key, validate::Keys,
};
use crate::{Array, FormatError, Metadata, TensorInfo, Value};

impl Architecture {
    fn from_gguf(name: &str) -> Option<Architecture> {
        Some(match name {
            // Microsoft's first files of the 2B-4T model are named `bitnet-25`.
            "bitnet-b1.58" | "bitnet-25" => Architecture::BitnetB158,
            "bitnet" => Architecture::Bitnet,
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            _ => return None,
        })
    }
}

impl ModelConfig {
    /// Reads a model's config and checks that every required tensor exists in the required shape.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range; an architecture or feature that is
    /// not implemented; a tensor that is missing, unknown or of the wrong shape.
    pub fn from_gguf(
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<ModelConfig, FormatError> {
        let config = ModelConfig::from_gguf_keys(metadata, tensors)?;
        config.check_tensors(tensors)?;
        Ok(config)
    }

    /// Reads a model's config without checking the shapes of tensors, which suffices for a
    /// vocabulary-only file. Properties that only the tensors show (a tied head, biases) are taken
    /// from `tensors`.
    ///
    /// # Errors
    /// As [`ModelConfig::from_gguf`], except those about tensors.
    pub fn from_gguf_keys(
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<ModelConfig, FormatError> {
        let name = metadata.get_str("general.architecture")?;
        let architecture =
            Architecture::from_gguf(name).ok_or_else(|| FormatError::UnsupportedArchitecture {
                expected: Architecture::NAMES,
                got: name.to_owned(),
            })?;
        let source = Source {
            metadata,
            prefix: name,
        };
        let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
        let any_ends = |end: &str| tensors.iter().any(|tensor| tensor.name.ends_with(end));

        let hidden_size = source.size("embedding_length")?;
        let num_attention_heads = source.size("attention.head_count")?;
        let num_key_value_heads = source
            .find_size("attention.head_count_kv")?
            .unwrap_or(num_attention_heads);
        let head_dim = source.find_size("attention.key_length")?;
        let key_head_dim = match head_dim {
            Some(dim) => dim,
            None => source.default_head_dim(hidden_size, num_attention_heads)?,
        };
        let value_head_dim = match source.find_size("attention.value_length")? {
            Some(dim) => dim,
            None if head_dim.is_none() => key_head_dim,
            None => source.default_head_dim(hidden_size, num_attention_heads)?,
        };
        let is_bitnet = architecture.is_bitnet();
        let max_position_embeddings = source.size("context_length")?;
        let config = ModelConfig {
            architecture,
            hidden_size,
            intermediate_size: source.size("feed_forward_length")?,
            num_hidden_layers: source.size("block_count")?,
            num_attention_heads,
            num_key_value_heads,
            key_head_dim,
            value_head_dim,
            rope_dim: source
                .find_size("rope.dimension_count")?
                .unwrap_or(key_head_dim),
            vocab_size: source.vocab_size(tensors)?,
            max_position_embeddings,
            rms_norm_eps: metadata.get_f32(&source.key("attention.layer_norm_rms_epsilon"))?,
            rope: RopeConfig {
                theta: source.find_f32("rope.freq_base")?.unwrap_or(10000.0),
                // Converters permute q and k for llama; the others keep the checkpoint's order.
                style: if architecture == Architecture::Llama {
                    RopeStyle::Norm
                } else {
                    RopeStyle::Neox
                },
                scaling: source.scaling(max_position_embeddings, has("rope_freqs.weight"))?,
            },
            hidden_act: source.hidden_act(architecture)?,
            tie_word_embeddings: !has("output.weight"),
            attention_bias: architecture == Architecture::Qwen2 || has("blk.0.attn_q.bias"),
            attention_output_bias: has("blk.0.attn_output.bias"),
            sub_norms: is_bitnet,
            qk_norm: architecture == Architecture::Qwen3,
            weight_scales: if any_ends(".scale") {
                WeightScales::Multiply
            } else {
                WeightScales::None
            },
            quantize_weights: false,
            row_activations: is_bitnet || source.row_activations()?,
            float_layers: source.float_layers()?,
        };
        config.validate(&Keys {
            name: &|field| source.key(gguf_key(field)),
        })?;
        source.refuse_unsupported(&config)?;
        Ok(config)
    }

    /// Probable faults of a usable file, one sentence each.
    pub fn gguf_warnings(metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Ok(config) = ModelConfig::from_gguf_keys(metadata, tensors) {
            let said = metadata.find_str("bitnet.hidden_activation");
            if config.architecture == Architecture::Bitnet
                && config.vocab_size == BITNET_2B_4T_VOCAB
                && matches!(said, Ok(None))
            {
                warnings.push(format!(
                    "architecture bitnet means SiLU, which is probably wrong for a vocabulary of {BITNET_2B_4T_VOCAB}: \
                     BitNet b1.58 2B-4T has a squared ReLU; the override bitnet.hidden_activation = relu2 sets it"
                ));
            }
        }
        warnings
    }
}

/// Vocabulary size of microsoft/bitnet-b1.58-2B-4T and its derivatives, some of which name the
/// wrong architecture.
const BITNET_2B_4T_VOCAB: usize = 128_256;

/// Whether activations are quantized per row, if the architecture does not say so.
const ROW_ACTIVATIONS: &str = "ryzanstein.activations";

/// Linear layers that keep float weights and activations in a quantized model.
const FLOAT_LAYERS: &str = "ryzanstein.float_layers";

impl ModelConfig {
    /// The GGUF pairs of this config, `general.architecture` first: [`ModelConfig::from_gguf_keys`]
    /// reads them back, given the same tensors.
    ///
    /// GGUF fixes the order of llama's q and k rows ([`RopeStyle::Norm`]): a writer of a llama
    /// config with the other style must permute these rows. [`RopeScaling::Llama3`] has no keys:
    /// its factors belong in `rope_freqs.weight`.
    pub fn gguf_pairs(&self) -> Vec<(String, Value)> {
        let arch = self.architecture.name();
        let mut pairs = vec![("general.architecture".to_owned(), Value::from(arch))];
        let mut push = |name: &str, value: Value| pairs.push((format!("{arch}.{name}"), value));
        // `validate` guarantees that every size is below 2^32.
        for (name, size) in [
            ("context_length", self.max_position_embeddings),
            ("embedding_length", self.hidden_size),
            ("block_count", self.num_hidden_layers),
            ("feed_forward_length", self.intermediate_size),
            ("attention.head_count", self.num_attention_heads),
            ("attention.head_count_kv", self.num_key_value_heads),
            ("attention.key_length", self.key_head_dim),
            ("attention.value_length", self.value_head_dim),
            ("rope.dimension_count", self.rope_dim),
            ("vocab_size", self.vocab_size),
        ] {
            push(name, Value::U32(size as u32));
        }
        push(
            "attention.layer_norm_rms_epsilon",
            Value::F32(self.rms_norm_eps),
        );
        push("rope.freq_base", Value::F32(self.rope.theta));
        if self.hidden_act != self.architecture.hidden_act() {
            push("hidden_activation", self.hidden_act.name().into());
        }
        match self.rope.scaling {
            RopeScaling::None | RopeScaling::FreqFactors | RopeScaling::Llama3 { .. } => {}
            RopeScaling::Linear { factor } => {
                push("rope.scaling.type", "linear".into());
                push("rope.scaling.factor", factor.into());
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                attn_factor,
                beta_fast,
                beta_slow,
                ext_factor,
            } => {
                push("rope.scaling.type", "yarn".into());
                push("rope.scaling.factor", factor.into());
                push(
                    "rope.scaling.original_context_length",
                    Value::U32(original_context as u32),
                );
                push("rope.scaling.attn_factor", attn_factor.into());
                push("rope.scaling.yarn_beta_fast", beta_fast.into());
                push("rope.scaling.yarn_beta_slow", beta_slow.into());
                push("rope.scaling.yarn_ext_factor", ext_factor.into());
            }
        }
        if self.row_activations && !self.architecture.is_bitnet() {
            pairs.push((ROW_ACTIVATIONS.to_owned(), "int8".into()));
        }
        if !self.float_layers.is_empty() {
            let names = Array::Strings(self.float_layers.iter().collect());
            pairs.push((FLOAT_LAYERS.to_owned(), Value::Array(names)));
        }
        pairs
    }
}

/// GGUF's key for a Hugging Face field name.
fn gguf_key(field: &'static str) -> &'static str {
    match field {
        "num_hidden_layers" => "block_count",
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "num_attention_heads" | "query_dim" | "attention_dim" => "attention.head_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "value_head_dim" => "attention.value_length",
        "max_position_embeddings" => "context_length",
        "rope_dim" => "rope.dimension_count",
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "rope_theta" => "rope.freq_base",
        "rope_scaling.factor" => "rope.scaling.factor",
        "rope_scaling.attention_factor" => "rope.scaling.attn_factor",
        "rope_scaling.beta_fast" => "rope.scaling.yarn_beta_fast",
        "rope_scaling.beta_slow" => "rope.scaling.yarn_beta_slow",
        "rope_scaling.ext_factor" => "rope.scaling.yarn_ext_factor",
        "rope_scaling.original_max_position_embeddings" => "rope.scaling.original_context_length",
        other => other,
    }
}

/// The keys under one architecture's prefix.
struct Source<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl Source<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn size(&self, name: &str) -> Result<usize, FormatError> {
        self.metadata
            .get_u32(&self.key(name))
            .map(|size| size as usize)
    }

    fn find_size(&self, name: &str) -> Result<Option<usize>, FormatError> {
        Ok(self
            .metadata
            .find_u32(&self.key(name))?
            .map(|size| size as usize))
    }

    fn find_f32(&self, name: &str) -> Result<Option<f32>, FormatError> {
        self.metadata.find_f32(&self.key(name))
    }

    /// The head size if no key gives it: the width divided by the number of heads.
    fn default_head_dim(&self, hidden: usize, heads: usize) -> Result<usize, FormatError> {
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(FormatError::KeyValue {
                key: self.key("attention.head_count"),
                expected: format!("a divisor of the width {hidden}, where no key_length is given"),
                got: heads.to_string(),
            });
        }
        Ok(hidden / heads)
    }

    /// The key if present, else the length of the tokenizer's list, else the embedding's rows; a
    /// list must fit.
    fn vocab_size(&self, tensors: &[TensorInfo]) -> Result<usize, FormatError> {
        let tokens = self
            .metadata
            .find_strings("tokenizer.ggml.tokens")
            .ok()
            .flatten()
            .map(|tokens| tokens.len());
        let key = self.key("vocab_size");
        let Some(vocab) = self.metadata.find_u32(&key)? else {
            let rows = tensors
                .iter()
                .find(|tensor| tensor.name == "token_embd.weight")
                .map(|tensor| tensor.rows);
            return tokens.or(rows).ok_or(FormatError::MissingKey { key });
        };
        match tokens {
            Some(tokens) if tokens > vocab as usize => Err(FormatError::KeyValue {
                key,
                expected: format!("at least the tokenizer's {tokens} tokens"),
                got: vocab.to_string(),
            }),
            _ => Ok(vocab as usize),
        }
    }

    /// As in llama.cpp: the type defaults to linear, and a missing or zero factor to 1.
    fn scaling(&self, context: usize, freq_factors: bool) -> Result<RopeScaling, FormatError> {
        let kind_key = self.key("rope.scaling.type");
        let kind = self.metadata.find_str(&kind_key)?.unwrap_or("linear");
        let factor = match self.find_f32("rope.scaling.factor")? {
            Some(factor) => factor,
            None => self.find_f32("rope.scale_linear")?.unwrap_or(0.0),
        };
        let factor = if factor == 0.0 { 1.0 } else { factor };
        let unsupported = || FormatError::UnsupportedValue {
            key: kind_key.clone(),
            got: kind.to_owned(),
        };
        match (kind, freq_factors) {
            ("none", false) => Ok(RopeScaling::None),
            ("linear", false) if factor == 1.0 => Ok(RopeScaling::None),
            ("linear", false) => Ok(RopeScaling::Linear { factor }),
            ("none", true) => Ok(RopeScaling::FreqFactors),
            ("linear", true) if factor == 1.0 => Ok(RopeScaling::FreqFactors),
            // No model has factors and another scaling.
            ("linear" | "yarn", true) => Err(FormatError::UnsupportedValue {
                key: kind_key.clone(),
                got: format!("{kind} together with rope_freqs.weight"),
            }),
            ("yarn", false) => self.yarn(factor, context),
            _ => Err(unsupported()),
        }
    }

    fn yarn(&self, factor: f32, context: usize) -> Result<RopeScaling, FormatError> {
        let log_multiplier = "rope.scaling.yarn_log_multiplier";
        if let Some(got) = self.find_f32(log_multiplier)?
            && got != 0.0
        {
            return Err(FormatError::UnsupportedValue {
                key: self.key(log_multiplier),
                got: got.to_string(),
            });
        }
        let or = |name, default| Ok::<f32, FormatError>(self.find_f32(name)?.unwrap_or(default));
        // `attn_factor` occurs in real files; the yarn_* keys override llama.cpp's defaults since
        // their introduction.
        let attn_factor = match self.find_f32("rope.scaling.yarn_attn_factor")? {
            Some(yarn) => yarn * or("rope.scaling.attn_factor", 1.0)?,
            None => or("rope.scaling.attn_factor", 1.0)?,
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context: self
                .find_size("rope.scaling.original_context_length")?
                .unwrap_or(context),
            attn_factor,
            beta_fast: or("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: or("rope.scaling.yarn_beta_slow", 1.0)?,
            ext_factor: or("rope.scaling.yarn_ext_factor", 1.0)?,
        })
    }

    fn hidden_act(&self, architecture: Architecture) -> Result<HiddenAct, FormatError> {
        let key = self.key("hidden_activation");
        let Some(name) = self.metadata.find_str(&key)? else {
            return Ok(architecture.hidden_act());
        };
        HiddenAct::of_name(name).ok_or_else(|| FormatError::UnsupportedValue {
            key,
            got: name.to_owned(),
        })
    }

    fn row_activations(&self) -> Result<bool, FormatError> {
        match self.metadata.find_str(ROW_ACTIVATIONS)? {
            None => Ok(false),
            Some("int8") => Ok(true),
            Some(got) => Err(FormatError::UnsupportedValue {
                key: ROW_ACTIVATIONS.to_owned(),
                got: got.to_owned(),
            }),
        }
    }

    fn float_layers(&self) -> Result<Vec<String>, FormatError> {
        let names = self.metadata.find_strings(FLOAT_LAYERS)?;
        let mut names: Vec<String> = names.map_or(Vec::new(), |names| {
            names.iter().map(str::to_owned).collect()
        });
        names.sort_unstable();
        Ok(names)
    }

    /// Rejects features that would change the result if ignored, and keys that may be such
    /// features.
    fn refuse_unsupported(&self, config: &ModelConfig) -> Result<(), FormatError> {
        let unsupported = |key: &str, got: String| {
            let key = key.to_owned();
            Err(FormatError::UnsupportedValue { key, got })
        };
        let prefix = format!("{}.", self.prefix);
        for (key, value) in self.metadata.iter() {
            // Weights folded with a transform, which the forward pass would have to apply.
            if key.starts_with("prism.") {
                return unsupported(key, value.to_string());
            }
            let Some(name) = key.strip_prefix(&prefix) else {
                continue;
            };
            match Key::of(name) {
                Key::Read | Key::Harmless => {}
                Key::Neutral(neutral) if value.as_number() == Some(neutral.into()) => {}
                Key::Neutral(_) => return unsupported(key, value.to_string()),
                Key::Unknown => {
                    let key = key.to_owned();
                    return Err(FormatError::UnknownKey { key });
                }
            }
        }
        let scale = self.key("attention.scale");
        if let Some(got) = self.find_f32("attention.scale")? {
            let ours = 1.0 / (config.key_head_dim as f32).sqrt();
            if got != 0.0 && (got / ours - 1.0).abs() > 1e-6 {
                return unsupported(&scale, got.to_string());
            }
        }
        let causal = self.key("attention.causal");
        if self.metadata.find_bool(&causal)? == Some(false) {
            return unsupported(&causal, "false".to_owned());
        }
        let context = config.max_position_embeddings;
        match self.find_size("attention.sliding_window")? {
            Some(window) if (1..context).contains(&window) => Err(FormatError::SlidingWindow {
                key: self.key("attention.sliding_window"),
                window,
                context,
                context_key: self.key("context_length"),
            }),
            _ => Ok(()),
        }
    }
}
