//! [`ModelConfig`] from Hugging Face's `config.json`, with transformers' defaults for absent
//! fields.

use super::{
    Architecture, HiddenAct, ModelConfig, RopeConfig, RopeScaling, RopeStyle, WeightScales,
    validate::{Keys, MAX_LAYERS},
};
use crate::{
    FormatError, TensorInfo,
    hf::{Object, linear_modules},
};

/// An architecture's defaults for fields absent from config.json.
struct Defaults {
    architecture: Architecture,
    rms_norm_eps: f32,
    rope_theta: f32,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    /// Whether linear layers hold float masters if there is no `quantization_config`.
    masters: bool,
}

impl ModelConfig {
    /// Reads config.json and checks it against the tensors
    /// ([`crate::ModelHeader::from_safetensors`]).
    ///
    /// # Errors
    ///
    /// A field that is missing, of the wrong type or out of range; an architecture or feature that
    /// is not implemented; a tensor that is missing, unknown or of the wrong shape.
    pub fn from_hf(config_json: &[u8], tensors: &[TensorInfo]) -> Result<ModelConfig, FormatError> {
        let config = ModelConfig::from_hf_fields(config_json, tensors)?;
        config.check_tensors(tensors)?;
        Ok(config)
    }

    /// Reads config.json without checking the shapes of tensors. Properties that only the tensors
    /// show (biases, and a tied head if no field gives it) are taken from `tensors`.
    ///
    /// # Errors
    /// As [`ModelConfig::from_hf`], except those about tensors.
    pub fn from_hf_fields(
        config_json: &[u8],
        tensors: &[TensorInfo],
    ) -> Result<ModelConfig, FormatError> {
        let fields = Object::parse("config.json", config_json)?;
        let source = Object::new(&fields);
        let defaults = defaults(&source)?;
        let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
        let is_bitnet = defaults.architecture.is_bitnet();

        let hidden_size = source.size("hidden_size")?;
        let num_attention_heads = source.size("num_attention_heads")?;
        let head_dim = match source.find_size("head_dim")?.or(defaults.head_dim) {
            Some(dim) => dim,
            None => divide(hidden_size, num_attention_heads)?,
        };
        let max_position_embeddings = source
            .find_size("max_position_embeddings")?
            .unwrap_or(defaults.max_position_embeddings);
        let layers = source.size("num_hidden_layers")?.min(MAX_LAYERS);
        let quantization = quantization(&source, defaults.masters, layers)?;
        let config = ModelConfig {
            architecture: defaults.architecture,
            hidden_size,
            intermediate_size: source.size("intermediate_size")?,
            num_hidden_layers: source.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: source
                .find_size("num_key_value_heads")?
                .unwrap_or(num_attention_heads),
            key_head_dim: head_dim,
            value_head_dim: head_dim,
            rope_dim: head_dim,
            vocab_size: source.size("vocab_size")?,
            max_position_embeddings,
            rms_norm_eps: source
                .find_f32("rms_norm_eps")?
                .unwrap_or(defaults.rms_norm_eps),
            rope: rope(&source, defaults.rope_theta, max_position_embeddings)?,
            hidden_act: match source.find_str("hidden_act")? {
                None => defaults.architecture.hidden_act(),
                Some(name) => HiddenAct::of_name(name)
                    .ok_or_else(|| source.unsupported("hidden_act", name))?,
            },
            tie_word_embeddings: source
                .find_bool("tie_word_embeddings")?
                .unwrap_or(!has("output.weight")),
            attention_bias: defaults.architecture == Architecture::Qwen2
                || has("blk.0.attn_q.bias"),
            attention_output_bias: has("blk.0.attn_output.bias"),
            sub_norms: is_bitnet,
            qk_norm: defaults.architecture == Architecture::Qwen3,
            weight_scales: quantization.scales,
            quantize_weights: quantization.masters,
            row_activations: is_bitnet || quantization.is_bitnet,
            float_layers: quantization.float_layers,
        };
        config.validate(&Keys {
            name: &|field| field.to_owned(),
        })?;
        refuse_unsupported(&source, &config)?;
        Ok(config)
    }
}

/// The architecture by its class or, if none is named, by its model type.
fn defaults(source: &Object<'_>) -> Result<Defaults, FormatError> {
    let class = match source.find_array("architectures")? {
        Some(classes) => classes.first().and_then(|class| class.as_str()),
        None => None,
    };
    let name = match class {
        Some(class) => class,
        None => source.need("model_type", source.find_str("model_type")?)?,
    };
    Ok(match name {
        "BitNetForCausalLM" | "bitnet" => Defaults {
            architecture: Architecture::BitnetB158,
            rms_norm_eps: 1e-5,
            rope_theta: 500_000.0,
            head_dim: None,
            max_position_embeddings: 2048,
            masters: false,
        },
        // From 1bitLLM: a llama with sub-norms whose linear layers quantize their own weights.
        "BitnetForCausalLM" => Defaults {
            architecture: Architecture::Bitnet,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            head_dim: None,
            max_position_embeddings: 2048,
            masters: true,
        },
        "LlamaForCausalLM" | "llama" => Defaults {
            architecture: Architecture::Llama,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            head_dim: None,
            max_position_embeddings: 2048,
            masters: false,
        },
        "Qwen2ForCausalLM" | "qwen2" => Defaults {
            architecture: Architecture::Qwen2,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            head_dim: None,
            max_position_embeddings: 32_768,
            masters: false,
        },
        "Qwen3ForCausalLM" | "qwen3" => Defaults {
            architecture: Architecture::Qwen3,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            head_dim: Some(128),
            max_position_embeddings: 32_768,
            masters: false,
        },
        other => {
            return Err(FormatError::UnsupportedArchitecture {
                expected: "BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
                got: other.to_owned(),
            });
        }
    })
}

fn divide(hidden: usize, heads: usize) -> Result<usize, FormatError> {
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(FormatError::KeyValue {
            key: "num_attention_heads".to_owned(),
            expected: format!("a divisor of hidden_size {hidden}, where no head_dim is given"),
            got: heads.to_string(),
        });
    }
    Ok(hidden / heads)
}

/// How linear layers are stored and quantized.
struct Quantization {
    /// The use of their scales.
    scales: WeightScales,
    /// Whether their floats are master weights.
    masters: bool,
    /// Whether they are BitNet's, with int8 activations of one scale per row.
    is_bitnet: bool,
    /// The layers that keep floats.
    float_layers: Vec<String>,
}

/// The quantization of linear layers from `quantization_config`.
fn quantization(
    source: &Object<'_>,
    masters: bool,
    layers: usize,
) -> Result<Quantization, FormatError> {
    let Some(config) = source.find_object("quantization_config", "quantization_config.")? else {
        for (field, bits) in [("weight_bits", 1), ("input_bits", 8)] {
            if let Some(got) = source
                .find_size(field)?
                .filter(|&got| masters && got != bits)
            {
                return Err(source.unsupported(field, got));
            }
        }
        return Ok(Quantization {
            scales: WeightScales::None,
            masters,
            is_bitnet: masters,
            float_layers: Vec::new(),
        });
    };
    match config.need("quant_method", config.find_str("quant_method")?)? {
        "bitnet" => {}
        other => return Err(config.unsupported("quant_method", other)),
    }
    if config.find_bool("use_rms_norm")? == Some(true) {
        return Err(config.unsupported("use_rms_norm", true));
    }
    let mode = config.find_str("quantization_mode")?.unwrap_or("offline");
    let (scales, masters) = match (
        config.find_str("linear_class")?.unwrap_or("bitlinear"),
        mode,
    ) {
        ("autobitlinear", "offline") => (WeightScales::Multiply, false),
        ("autobitlinear", "online") => (WeightScales::None, true),
        ("bitlinear", "offline") => (WeightScales::Divide, false),
        ("autobitlinear" | "bitlinear", other) => {
            return Err(config.unsupported("quantization_mode", other));
        }
        (other, _) => return Err(config.unsupported("linear_class", other)),
    };
    Ok(Quantization {
        scales,
        masters,
        is_bitnet: true,
        float_layers: float_layers(&config, layers)?,
    })
}

/// The layers excluded by `modules_to_not_convert`: as in transformers, each entry matches the
/// start or end of a module path. Without the list, only the head is excluded.
fn float_layers(config: &Object<'_>, layers: usize) -> Result<Vec<String>, FormatError> {
    const FIELD: &str = "modules_to_not_convert";
    let Some(list) = config.find_array(FIELD)? else {
        return Ok(Vec::new());
    };
    let mut entries = Vec::with_capacity(list.len());
    for entry in list {
        let plain = |entry: &&str| !entry.contains(|c| "^$*+?()[]{}|\\".contains(c));
        match entry.as_str().filter(plain) {
            Some(entry) => entries.push(entry),
            None => return Err(config.unsupported(FIELD, entry)),
        }
    }
    let left_out =
        |path: &str| (entries.iter()).any(|entry| path.starts_with(entry) || path.ends_with(entry));
    if !left_out("lm_head") {
        let got = "a list without lm_head, which makes the head ternary";
        return Err(config.unsupported(FIELD, got));
    }
    let mut names = Vec::new();
    for layer in 0..layers {
        for (module, name) in linear_modules() {
            if left_out(&format!("model.layers.{layer}.{module}")) {
                names.push(format!("blk.{layer}.{name}.weight"));
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads the rotary embedding: `rope_scaling` with `rope_theta` beside it, or `rope_parameters`
/// with it inside (transformers 5).
fn rope(
    source: &Object<'_>,
    default_theta: f32,
    context: usize,
) -> Result<RopeConfig, FormatError> {
    let parameters = match source.find_object("rope_parameters", "rope_parameters.")? {
        Some(parameters) => Some(parameters),
        None => source.find_object("rope_scaling", "rope_scaling.")?,
    };
    let theta = match &parameters {
        Some(parameters) => parameters.find_f32("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => source.find_f32("rope_theta")?.unwrap_or(default_theta),
    };
    let scaling = match &parameters {
        Some(parameters) => scaling(parameters, context)?,
        None => RopeScaling::None,
    };
    // Checkpoints of all these architectures store the rows of q and k in half order.
    Ok(RopeConfig {
        theta,
        style: RopeStyle::Neox,
        scaling,
    })
}

fn scaling(rope: &Object<'_>, context: usize) -> Result<RopeScaling, FormatError> {
    let kind = match rope.find_str("rope_type")? {
        Some(kind) => kind,
        None => rope.find_str("type")?.unwrap_or("default"),
    };
    let number = |field| rope.need(field, rope.find_f32(field)?);
    let original = || rope.find_size("original_max_position_embeddings");
    Ok(match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: number("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: rope.need("original_max_position_embeddings", original()?)?,
        },
        "yarn" => {
            for field in ["mscale", "mscale_all_dim"] {
                if rope.get(field).is_some() {
                    return Err(rope.unsupported(field, "a value"));
                }
            }
            if rope.find_bool("truncate")? == Some(false) {
                return Err(rope.unsupported("truncate", false));
            }
            let factor = number("factor")?;
            // `attention_factor` replaces 1 + 0.1 ln(factor), which `attn_factor` multiplies.
            let attn_factor = match rope.find_f32("attention_factor")? {
                Some(whole) => (f64::from(whole) / (1.0 + 0.1 * ln(factor.into()))) as f32,
                None => 1.0,
            };
            RopeScaling::Yarn {
                factor,
                original_context: original()?.unwrap_or(context),
                attn_factor,
                beta_fast: rope.find_f32("beta_fast")?.unwrap_or(32.0),
                beta_slow: rope.find_f32("beta_slow")?.unwrap_or(1.0),
                ext_factor: 1.0,
            }
        }
        other => return Err(rope.unsupported("rope_type", other)),
    })
}

/// ln(x) for x > 0 by its series, identical on every machine: x = 2^k·m with m in [1, 2), ln m = 2
/// artanh((m−1)/(m+1)).
fn ln(x: f64) -> f64 {
    if !(x.is_finite() && x > 0.0) {
        return 0.0;
    }
    let (mut m, mut k) = (x, 0);
    while m >= 2.0 {
        m /= 2.0;
        k += 1;
    }
    while m < 1.0 {
        m *= 2.0;
        k -= 1;
    }
    let z = (m - 1.0) / (m + 1.0);
    let series = (0..24)
        .rev()
        .fold(0.0, |sum, n| sum * z * z + 1.0 / f64::from(2 * n + 1));
    2.0 * z * series + f64::from(k) * std::f64::consts::LN_2
}

/// Rejects features that would change the result if ignored.
fn refuse_unsupported(source: &Object<'_>, config: &ModelConfig) -> Result<(), FormatError> {
    let types = source
        .find_array("layer_types")?
        .map_or(&[][..], Vec::as_slice);
    for kind in types {
        if kind != "full_attention" && kind != "sliding_attention" {
            return Err(source.unsupported("layer_types", kind));
        }
    }
    // Without a list, the layers from `max_window_layers` on use a window.
    let whole = source.find_size("max_window_layers")?;
    let said = source.find_bool("use_sliding_window")?;
    let windowed = match types {
        [] => said == Some(true) && whole.is_none_or(|whole| whole < config.num_hidden_layers),
        types => said != Some(false) && types.iter().any(|kind| kind == "sliding_attention"),
    };
    let context = config.max_position_embeddings;
    let window = source.find_size("sliding_window")?;
    if windowed && let Some(window) = window.filter(|window| (1..context).contains(window)) {
        return Err(FormatError::SlidingWindow {
            key: "sliding_window".to_owned(),
            window,
            context,
            context_key: "max_position_embeddings".to_owned(),
        });
    }
    if let Some(factor) = source.find_f32("partial_rotary_factor")?
        && factor != 1.0
    {
        return Err(source.unsupported("partial_rotary_factor", factor));
    }
    if source.find_bool("mlp_bias")? == Some(true) {
        return Err(source.unsupported("mlp_bias", true));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_logarithm() {
        for x in [1e-30, 0.1, 0.5, 1.0, 1.5, 2.0, 4.0, 40.0, 1e6] {
            let (got, expected) = (super::ln(x), f64::ln(x));
            assert!(
                (got - expected).abs() <= 4e-16 * expected.abs().max(1.0),
                "ln {x}: {got} {expected}"
            );
        }
    }
}
