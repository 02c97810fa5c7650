//! Hugging Face folders made by hand: config.json, safetensors, shards; sound, malformed and mutated.
#![allow(clippy::unwrap_used)]

mod common;

use common::Rng;
use ryz_format::{
    Architecture, DType, FormatError, HiddenAct, ModelConfig, ModelHeader, RopeScaling, RopeStyle,
    WeightScales,
    hf::{Safetensors, ShardIndex},
};
use serde_json::{Value, json};

/// A safetensors file of these tensors (name, type, shape, bytes).
fn safetensors(tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_string(), entry);
    }
    with_header(&serde_json::to_string(&header).unwrap(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

fn parse(file: &[u8]) -> Result<Safetensors, FormatError> {
    Safetensors::parse(file, file.len() as u64)
}

fn bitnet_config() -> Value {
    json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2", "hidden_size": 8,
        "intermediate_size": 16, "max_position_embeddings": 64, "num_attention_heads": 2, "num_hidden_layers": 1,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "vocab_size": 3,
        "quantization_config":
            {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    })
}

/// The tensors of [`bitnet_config`]'s model.
fn bitnet_tensors() -> Vec<(&'static str, &'static str, Vec<usize>, Vec<u8>)> {
    let norm = |name, len: usize| (name, "BF16", vec![len], [0x80, 0x3f].repeat(len));
    let mut list = vec![
        ("model.embed_tokens.weight", "BF16", vec![3, 8], vec![0; 48]),
        norm("model.norm.weight", 8),
        norm("model.layers.0.input_layernorm.weight", 8),
        norm("model.layers.0.post_attention_layernorm.weight", 8),
        norm("model.layers.0.self_attn.attn_sub_norm.weight", 8),
        norm("model.layers.0.mlp.ffn_sub_norm.weight", 16),
    ];
    for (weight, scale, rows, cols) in [
        (
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.q_proj.weight_scale",
            8,
            8,
        ),
        (
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.k_proj.weight_scale",
            4,
            8,
        ),
        (
            "model.layers.0.self_attn.v_proj.weight",
            "model.layers.0.self_attn.v_proj.weight_scale",
            4,
            8,
        ),
        (
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.0.self_attn.o_proj.weight_scale",
            8,
            8,
        ),
        (
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.gate_proj.weight_scale",
            16,
            8,
        ),
        (
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.weight_scale",
            16,
            8,
        ),
        (
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.mlp.down_proj.weight_scale",
            8,
            16,
        ),
    ] {
        list.push((
            weight,
            "U8",
            vec![rows / 4, cols],
            vec![0x55; rows * cols / 4],
        ));
        list.push((scale, "BF16", vec![1], vec![0x80, 0x3f]));
    }
    list
}

fn header(parts: &[Vec<u8>], index: Option<&ShardIndex>) -> Result<ModelHeader, FormatError> {
    let parts: Vec<_> = parts
        .iter()
        .map(|part| parse(part))
        .collect::<Result<_, _>>()?;
    ModelHeader::from_safetensors(&parts, index)
}

fn load(
    config: &Value,
    tensors: &[(&str, &str, Vec<usize>, Vec<u8>)],
) -> Result<ModelConfig, FormatError> {
    let header = header(&[safetensors(tensors)], None)?;
    ModelConfig::from_hf(config.to_string().as_bytes(), &header.tensors)
}

#[test]
fn a_packed_bitnet_folder() {
    let config = load(&bitnet_config(), &bitnet_tensors()).unwrap();
    assert_eq!(
        (config.architecture, config.hidden_act),
        (Architecture::BitnetB158, HiddenAct::Relu2)
    );
    assert_eq!(
        (config.weight_scales, config.quantize_weights),
        (WeightScales::Multiply, false)
    );
    assert_eq!(
        (config.rope.style, config.rope.theta),
        (RopeStyle::Neox, 5e5)
    );
    assert!(config.sub_norms && config.tie_word_embeddings);
    let header = header(&[safetensors(&bitnet_tensors())], None).unwrap();
    let up = header.tensor("blk.0.ffn_up.weight").unwrap();
    assert_eq!(
        (up.dtype, up.rows, up.cols, up.bytes),
        (DType::HfPacked, 16, 8, 32)
    );
}

#[test]
fn quantization_variants() {
    let with = |quantization: Value| {
        let mut config = bitnet_config();
        config["quantization_config"] = quantization;
        ModelConfig::from_hf_fields(config.to_string().as_bytes(), &[])
            .map(|config| (config.weight_scales, config.quantize_weights))
            .map_err(|error| error.to_string())
    };
    assert_eq!(with(json!(null)), Ok((WeightScales::None, false)));
    assert_eq!(
        with(json!({"quant_method": "bitnet"})),
        Ok((WeightScales::Divide, false))
    );
    let online = json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"});
    assert_eq!(with(online), Ok((WeightScales::None, true)));
    assert_eq!(
        with(json!({"quant_method": "gptq"})),
        Err("\"quantization_config.quant_method\" is not supported: got \"gptq\"".to_owned())
    );
    assert!(with(json!({"quant_method": "bitnet", "use_rms_norm": true})).is_err());
    assert!(with(json!({"quant_method": "bitnet", "quantization_mode": "online"})).is_err());
}

#[test]
fn rope_of_configs() {
    let with = |field: &str, rope: Value| {
        let mut config = bitnet_config();
        config["architectures"] = json!(["LlamaForCausalLM"]);
        config["hidden_act"] = json!("silu");
        config[field] = rope;
        ModelConfig::from_hf_fields(config.to_string().as_bytes(), &[]).map(|config| config.rope)
    };
    assert_eq!(
        with("rope_scaling", json!(null)).unwrap().scaling,
        RopeScaling::None
    );
    let linear = with("rope_scaling", json!({"type": "linear", "factor": 2})).unwrap();
    assert_eq!(linear.scaling, RopeScaling::Linear { factor: 2.0 });
    let parameters = with(
        "rope_parameters",
        json!({"rope_type": "default", "rope_theta": 1e6}),
    )
    .unwrap();
    assert_eq!(
        (parameters.theta, parameters.scaling),
        (1e6, RopeScaling::None)
    );
    let llama3 = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    assert_eq!(
        with("rope_scaling", llama3).unwrap().scaling,
        RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192
        }
    );
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        "attention_factor": 1.1386294});
    let RopeScaling::Yarn {
        factor: 4.0,
        original_context: 32,
        attn_factor,
        beta_fast: 32.0,
        ..
    } = with("rope_scaling", yarn).unwrap().scaling
    else {
        panic!("not yarn");
    };
    assert!((attn_factor - 1.0).abs() < 1e-6, "{attn_factor}");
    for bad in [
        json!({"type": "linear", "factor": 0}),
        json!({"type": "linear"}),
        json!({"type": "dynamic", "factor": 2}),
        json!({"type": 1}),
        json!("linear"),
        json!({"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4,
            "original_max_position_embeddings": 8}),
    ] {
        with("rope_scaling", bad.clone()).expect_err(&bad.to_string());
    }
}

#[test]
fn scale_missing_or_weights_mistyped() {
    let mut tensors = bitnet_tensors();
    tensors.retain(|(name, ..)| *name != "model.layers.0.self_attn.k_proj.weight_scale");
    assert_eq!(
        load(&bitnet_config(), &tensors).unwrap_err().to_string(),
        "tensor \"blk.0.attn_k.scale\" is missing"
    );

    let mut tensors = bitnet_tensors();
    tensors[0] = ("model.embed_tokens.weight", "U8", vec![3, 8], vec![0; 24]);
    let error = load(&bitnet_config(), &tensors).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"token_embd.weight\": type U8 does not run here: expected one of F32, F16, BF16, and U8 for a linear layer's packed weights"
    );

    let mut tensors = bitnet_tensors();
    tensors.push((
        "model.layers.0.mlp.experts.weight",
        "BF16",
        vec![1],
        vec![0; 2],
    ));
    assert_eq!(
        load(&bitnet_config(), &tensors).unwrap_err().code(),
        "UNSUPPORTED"
    );
}

#[test]
fn shards_and_their_index() {
    let tensors = bitnet_tensors();
    let parts = [safetensors(&tensors[..9]), safetensors(&tensors[9..])];
    let map: serde_json::Map<_, _> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, ..))| {
            (
                name.to_string(),
                json!(format!("model-{}.safetensors", if i < 9 { 1 } else { 2 })),
            )
        })
        .collect();
    let index = ShardIndex::parse(
        json!({"metadata": {"total_size": 1}, "weight_map": map})
            .to_string()
            .as_bytes(),
    );
    let index = index.unwrap();
    assert_eq!(index.files, ["model-1.safetensors", "model-2.safetensors"]);
    let joined = header(&parts, Some(&index)).unwrap();
    assert_eq!((joined.shards, joined.tensors.len()), (2, tensors.len()));
    assert_eq!(joined.tensor("blk.0.ffn_down.scale").unwrap().shard, 1);
    ModelConfig::from_hf(bitnet_config().to_string().as_bytes(), &joined.tensors).unwrap();

    let swapped = [parts[1].clone(), parts[0].clone()];
    assert!(matches!(
        header(&swapped, Some(&index)),
        Err(FormatError::MissingTensor { .. })
    ));
    assert!(matches!(
        header(&parts[..1], Some(&index)),
        Err(FormatError::BadSplit { .. })
    ));
    let twice = [parts[0].clone(), parts[0].clone()];
    assert!(matches!(
        header(&twice, None),
        Err(FormatError::DuplicateTensor { .. })
    ));
}

#[test]
fn headers_that_break_the_format() {
    let entry = |dtype: &str, shape: &str, start: usize, end: usize| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let good = entry("U8", "[4]", 0, 4);
    parse(&with_header(&format!(r#"{{"a":{good}}}   "#), &[0; 4])).unwrap();
    for (what, header) in [
        ("space before the object", format!(r#" {{"a":{good}}}"#)),
        ("tensor twice", format!(r#"{{"a":{good},"a":{good}}}"#)),
        (
            "metadata twice",
            format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},"a":{good}}}"#),
        ),
        (
            "metadata of numbers",
            format!(r#"{{"__metadata__":{{"x":1}},"a":{good}}}"#),
        ),
        ("overlap", format!(r#"{{"a":{good},"b":{good}}}"#)),
        ("hole", format!(r#"{{"a":{}}}"#, entry("U8", "[3]", 1, 4))),
        ("short", format!(r#"{{"a":{}}}"#, entry("U8", "[5]", 0, 5))),
        (
            "bytes left over",
            format!(r#"{{"a":{}}}"#, entry("U8", "[3]", 0, 3)),
        ),
        (
            "shape and range disagree",
            format!(r#"{{"a":{}}}"#, entry("F32", "[4]", 0, 4)),
        ),
        (
            "range backwards",
            format!(r#"{{"a":{}}}"#, entry("U8", "[4]", 4, 0)),
        ),
        (
            "zero hides a huge dimension",
            format!(
                r#"{{"a":{good},"b":{}}}"#,
                entry("U8", "[0,9223372036854775807,4]", 4, 4)
            ),
        ),
    ] {
        parse(&with_header(&header, &[0; 4])).expect_err(what);
    }
    let entry = entry(&"\\u001b".repeat(9999), "[4]", 0, 4);
    let message = parse(&with_header(&format!(r#"{{"a":{entry}}}"#), &[0; 4]))
        .unwrap_err()
        .to_string();
    assert!(
        message.len() < 1500 && !message.contains('\u{1b}'),
        "{message}"
    );
}

#[test]
fn a_prefix_that_ends_in_the_header_is_incomplete() {
    let whole = safetensors(&bitnet_tensors());
    let data_start = parse(&whole).unwrap().data_start;
    for len in 0..whole.len() {
        match Safetensors::parse(&whole[..len], whole.len() as u64) {
            Ok(_) => assert!(len as u64 >= data_start),
            Err(error) => assert!(
                error.is_incomplete() && (len as u64) < data_start,
                "{len}: {error}"
            ),
        }
        assert!(!parse(&whole[..len]).unwrap_err().is_incomplete());
    }
}

#[test]
fn mutated_safetensors_never_panic() {
    let whole = safetensors(&bitnet_tensors());
    let data_start = parse(&whole).unwrap().data_start as usize;
    let mut rng = Rng(0x5EED_0002);
    let (mut file, mut accepted) = (whole.clone(), 0);
    let config = bitnet_config().to_string();
    for round in 0..100_000 {
        let places: Vec<usize> = (0..1 + rng.below(2))
            .map(|_| rng.below(data_start))
            .collect();
        for &place in &places {
            if round % 2 == 0 {
                file[place] ^= 1 << rng.below(8);
            } else {
                // Bytes that mean something in JSON reach further than random ones.
                file[place] = b"0123456789[]{},:\"- eUF"[rng.below(22)];
            }
        }
        let len = if round % 7 == 0 {
            rng.below(file.len() + 1)
        } else {
            file.len()
        };
        if let Ok(header) = header(&[file[..len].to_vec()], None) {
            for tensor in &header.tensors {
                assert!(tensor.offset + tensor.bytes <= len as u64);
                assert_eq!(
                    tensor.dtype.tensor_bytes(tensor.rows, tensor.cols),
                    Some(tensor.bytes)
                );
            }
            accepted +=
                usize::from(ModelConfig::from_hf(config.as_bytes(), &header.tensors).is_ok());
        }
        places.iter().for_each(|&place| file[place] = whole[place]);
    }
    assert!(accepted > 100, "{accepted}");
    let mut text = config.into_bytes();
    let whole = text.clone();
    for _ in 0..100_000 {
        let place = rng.below(text.len());
        text[place] = rng.next() as u8;
        let _ = ModelConfig::from_hf_fields(&text, &[]);
        let _ = ShardIndex::parse(&text);
        text[place] = whole[place];
    }
}
