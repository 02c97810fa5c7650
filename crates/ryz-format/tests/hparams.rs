//! Configs: each scaling and variant, and each impossible value.
#![allow(clippy::unwrap_used)]

mod common;

use common::{parse, tiny_model};
use ryz_format::{
    Architecture, Array, DType, FormatError, HiddenAct, Metadata, ModelConfig, RopeScaling, Value,
    WeightScales,
};

type Tensors = Vec<(String, DType, Vec<u64>)>;

fn config(
    architecture: &str,
    edit: impl FnOnce(&mut Metadata, &mut Tensors),
) -> Result<ModelConfig, FormatError> {
    let gguf = parse(&tiny_model(architecture, edit)).unwrap();
    ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors)
}

fn with(key: &str, value: impl Into<Value>) -> Result<ModelConfig, FormatError> {
    config("llama", |pairs, _| {
        pairs.set(&format!("llama.{key}"), value)
    })
}

fn vector(name: &str, len: u64) -> (String, DType, Vec<u64>) {
    (name.to_owned(), DType::F32, vec![len])
}

#[test]
fn architectures_by_name() {
    for (name, architecture, act) in [
        ("bitnet-b1.58", Architecture::BitnetB158, HiddenAct::Relu2),
        ("bitnet-25", Architecture::BitnetB158, HiddenAct::Relu2),
        ("bitnet", Architecture::Bitnet, HiddenAct::Silu),
        ("llama", Architecture::Llama, HiddenAct::Silu),
        ("qwen2", Architecture::Qwen2, HiddenAct::Silu),
        ("qwen3", Architecture::Qwen3, HiddenAct::Silu),
    ] {
        let config = config(name, |_, _| {}).unwrap();
        assert_eq!(
            (config.architecture, config.hidden_act),
            (architecture, act),
            "{name}"
        );
        assert_eq!(
            (config.rope_dim, config.rope.theta, config.rope.scaling),
            (64, 1e4, RopeScaling::None),
            "{name}"
        );
    }
    let error = config("gpt-j", |_, _| {}).unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
}

#[test]
fn rope_scalings() {
    let scaling = |edit: fn(&mut Metadata)| {
        config("llama", |pairs, _| edit(pairs))
            .unwrap()
            .rope
            .scaling
    };
    assert_eq!(
        scaling(|m| m.set("llama.rope.scale_linear", 4f32)),
        RopeScaling::Linear { factor: 4.0 }
    );
    assert_eq!(
        scaling(|m| m.set("llama.rope.scaling.factor", 0f32)),
        RopeScaling::None
    );
    let linear = |m: &mut Metadata| {
        m.set("llama.rope.scaling.type", "linear");
        m.set("llama.rope.scaling.factor", 2f32);
    };
    assert_eq!(scaling(linear), RopeScaling::Linear { factor: 2.0 });
    let off = |m: &mut Metadata| {
        m.set("llama.rope.scaling.type", "none");
        m.set("llama.rope.scaling.factor", 2f32);
    };
    assert_eq!(scaling(off), RopeScaling::None);
    let yarn = |m: &mut Metadata| {
        m.set("llama.rope.scaling.type", "yarn");
        m.set("llama.rope.scaling.factor", 4f32);
        m.set("llama.rope.scaling.original_context_length", 32u32);
    };
    let plain = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 32,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        ext_factor: 1.0,
    };
    assert_eq!(scaling(yarn), plain);
    let full = |m: &mut Metadata| {
        m.set("llama.rope.scaling.type", "yarn");
        m.set("llama.rope.scaling.factor", 8f32);
        m.set("llama.rope.scaling.attn_factor", 0.5f32);
        m.set("llama.rope.scaling.yarn_beta_fast", 16f32);
        m.set("llama.rope.scaling.yarn_beta_slow", 2f32);
        m.set("llama.rope.scaling.yarn_ext_factor", 0.75f32);
    };
    let expected = RopeScaling::Yarn {
        factor: 8.0,
        original_context: 128,
        attn_factor: 0.5,
        beta_fast: 16.0,
        beta_slow: 2.0,
        ext_factor: 0.75,
    };
    assert_eq!(scaling(full), expected);
}

#[test]
fn llama3_factors_come_as_a_tensor() {
    let good = config("llama", |_, tensors| {
        tensors.push(vector("rope_freqs.weight", 32))
    })
    .unwrap();
    assert_eq!(good.rope.scaling, RopeScaling::FreqFactors);
    let error = config("llama", |_, tensors| {
        tensors.push(vector("rope_freqs.weight", 31))
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"rope_freqs.weight\": expected 1 rows of 32, got 1 rows of 31"
    );
    let both = config("llama", |pairs, tensors| {
        pairs.set("llama.rope.scaling.factor", 2f32);
        tensors.push(vector("rope_freqs.weight", 32));
    });
    assert_eq!(both.unwrap_err().code(), "UNSUPPORTED");
}

#[test]
fn head_sizes_of_their_own() {
    let config = config("qwen3", |pairs, tensors| {
        pairs.set("qwen3.attention.key_length", 128u32);
        pairs.set("qwen3.attention.value_length", 64u32);
        for (name, _, shape) in tensors {
            match name.as_str() {
                "blk.0.attn_q.weight" => shape[1] = 512,
                "blk.0.attn_k.weight" => shape[1] = 256,
                "blk.0.attn_q_norm.weight" | "blk.0.attn_k_norm.weight" => shape[0] = 128,
                _ => {}
            }
        }
    })
    .unwrap();
    assert_eq!(
        (config.key_head_dim, config.value_head_dim, config.rope_dim),
        (128, 64, 128)
    );
    assert_eq!(
        (
            config.query_dim(),
            config.key_dim(),
            config.value_dim(),
            config.attention_dim()
        ),
        (512, 256, 128, 256)
    );
}

#[test]
fn untied_head_biases_and_scales_show_in_the_config() {
    let config = config("llama", |_, tensors| {
        tensors.push(("output.weight".to_owned(), DType::Q8_0, vec![256, 4]));
        tensors.push(vector("blk.0.attn_q.bias", 256));
        tensors.push(vector("blk.0.attn_k.bias", 128));
        tensors.push(vector("blk.0.attn_v.bias", 128));
        tensors.push(vector("blk.0.ffn_up.scale", 1));
    })
    .unwrap();
    assert!(!config.tie_word_embeddings && config.attention_bias && !config.attention_output_bias);
    assert_eq!(config.weight_scales, WeightScales::Multiply);
}

#[test]
fn impossible_values_name_their_key() {
    for (key, value, expected) in [
        (
            "attention.head_count",
            Value::U32(0),
            "a divisor of the width 256, where no key_length is given",
        ),
        (
            "attention.head_count_kv",
            Value::U32(3),
            "a divisor of the 4 attention heads",
        ),
        (
            "block_count",
            Value::U64(1 << 32),
            "an integer 0 to 4294967295",
        ),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "a number 0 to 1",
        ),
        (
            "rope.dimension_count",
            Value::U32(0),
            "an even number 2 to the head size 64",
        ),
        (
            "rope.freq_base",
            Value::F32(f32::NAN),
            "a finite number above 0",
        ),
        (
            "rope.scaling.factor",
            Value::F32(-1.0),
            "a finite number above 0",
        ),
        ("vocab_size", Value::U32(u32::MAX), "1 to 16777216"),
        ("attention.key_length", Value::U32(1 << 20), "1 to 16384"),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        let start = format!("key \"llama.{key}\": expected {expected}, got ");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn features_that_would_be_passed_over() {
    for (key, value) in [
        ("expert_count", Value::U32(8)),
        ("logit_scale", Value::F32(0.5)),
        ("attention.sliding_window", Value::U32(64)),
        ("attention.causal", Value::Bool(false)),
        ("rope.scaling.type", Value::from("longrope")),
    ] {
        let error = with(key, value).unwrap_err();
        assert_eq!(error.code(), "UNSUPPORTED", "{error}");
        assert!(error.to_string().contains(key), "{error}");
    }
    with("expert_count", 0u32).unwrap();
    with("attention.sliding_window", 128u32).unwrap();
}

#[test]
fn tensors_missing_unknown_misshapen_or_mistyped() {
    let change = |edit: fn(&mut Tensors)| {
        config("bitnet", |_, tensors| edit(tensors))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        change(|tensors| tensors.retain(|(name, ..)| name != "blk.0.ffn_sub_norm.weight")),
        "tensor \"blk.0.ffn_sub_norm.weight\" is missing"
    );
    assert_eq!(
        change(|tensors| tensors.push(vector("blk.0.ffn_gate_inp.weight", 8))),
        "tensor \"blk.0.ffn_gate_inp.weight\" is not part of the bitnet architecture"
    );
    assert_eq!(
        change(|tensors| tensors.push(vector("blk.1.attn_norm.weight", 256))),
        "tensor \"blk.1.attn_norm.weight\" is not part of the bitnet architecture"
    );
    assert_eq!(
        change(|tensors| tensors[0].1 = DType::Q8_0),
        "tensor \"output_norm.weight\": expected type F32, F16 or BF16, got Q8_0"
    );
    assert_eq!(
        change(|tensors| tensors.last_mut().unwrap().2 = vec![256, 255]),
        "tensor \"blk.0.ffn_down.weight\": expected 256 rows of 256, got 255 rows of 256"
    );
}

#[test]
fn more_tokens_than_rows() {
    let error = config("llama", |pairs, _| {
        let tokens = Value::Array(ryz_format::Array::Strings(["a"; 5].into_iter().collect()));
        pairs.set("tokenizer.ggml.tokens", tokens);
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "key \"llama.vocab_size\": expected at least the tokenizer's 5 tokens, got \"4\""
    );
}

#[test]
fn pairs_of_a_config_give_it_back() {
    let scalings: [fn(&mut Metadata); 3] = [
        |_| {},
        |pairs| pairs.set("qwen3.rope.scaling.factor", 2f32),
        |pairs| {
            pairs.set("qwen3.rope.scaling.type", "yarn");
            pairs.set("qwen3.rope.scaling.factor", 8f32);
            pairs.set("qwen3.rope.scaling.original_context_length", 16u32);
            pairs.set("qwen3.rope.scaling.attn_factor", 0.5f32);
            pairs.set("qwen3.rope.scaling.yarn_beta_fast", 16f32);
        },
    ];
    for edit in scalings {
        let gguf = parse(&tiny_model("qwen3", |pairs, _| edit(pairs))).unwrap();
        let config = ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors).unwrap();
        let pairs = Metadata::from_pairs(config.gguf_pairs()).unwrap();
        assert_eq!(
            ModelConfig::from_gguf(&pairs, &gguf.tensors).unwrap(),
            config
        );
    }
    for architecture in ["bitnet-25", "bitnet", "llama"] {
        let gguf = parse(&tiny_model(architecture, |_, _| {})).unwrap();
        let config = ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors).unwrap();
        let pairs = Metadata::from_pairs(config.gguf_pairs()).unwrap();
        assert_eq!(
            ModelConfig::from_gguf(&pairs, &gguf.tensors).unwrap(),
            config
        );
    }
}

#[test]
fn the_activation_is_what_the_key_says() {
    for (architecture, name, act) in [
        ("bitnet", "relu2", HiddenAct::Relu2),
        ("bitnet", "silu", HiddenAct::Silu),
        ("bitnet-b1.58", "relu2", HiddenAct::Relu2),
        ("bitnet-b1.58", "silu", HiddenAct::Silu),
        ("llama", "silu", HiddenAct::Silu),
    ] {
        let key = format!("{architecture}.hidden_activation");
        let config = config(architecture, |pairs, _| pairs.set(&key, name)).unwrap();
        assert_eq!(config.hidden_act, act, "{key} {name}");
        // What is written says the same.
        let mut again = Metadata::new();
        for (key, value) in config.gguf_pairs() {
            again.set(&key, value);
        }
        let again = ModelConfig::from_gguf_keys(&again, &[]).unwrap();
        assert_eq!(again.hidden_act, act, "{key} {name}");
    }
    let error = with("hidden_activation", "gelu").unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    assert!(
        error.to_string().contains("llama.hidden_activation"),
        "{error}"
    );
}

#[test]
fn silu_in_a_bitnet_of_2b_4ts_vocabulary_is_warned_of() {
    let warnings = |vocab: u32, act: Option<&str>| {
        let file = tiny_model("bitnet", |pairs, _| {
            pairs.set("bitnet.vocab_size", vocab);
            if let Some(act) = act {
                pairs.set("bitnet.hidden_activation", act);
            }
        });
        let gguf = parse(&file).unwrap();
        ModelConfig::gguf_warnings(&gguf.metadata, &gguf.tensors)
    };
    let given = warnings(128_256, None);
    assert!(
        given.len() == 1 && given[0].contains("hidden_activation"),
        "{given:?}"
    );
    assert_eq!(warnings(128_256, Some("silu")), [""; 0]);
    assert_eq!(warnings(32_000, None), [""; 0]);
}

#[test]
fn a_qwen2_without_its_biases_is_refused() {
    let error = config("qwen2", |_, tensors| {
        tensors.retain(|(name, ..)| !name.ends_with(".bias"))
    });
    assert!(matches!(error, Err(FormatError::MissingTensor { .. })));
}

#[test]
fn keys_of_real_files_load() {
    let harmless: [(&str, Value); 9] = [
        ("tensor_data_layout", "Meta AI original pth".into()),
        ("rope.scaling.finetuned", true.into()),
        ("expert_count", 0u32.into()),
        ("expert_used_count", 0u32.into()),
        ("pooling_type", 3u32.into()),
        ("attention.layer_norm_epsilon", 1e-5f32.into()),
        ("use_parallel_residual", false.into()),
        ("logit_scale", 1f32.into()),
        ("attention.sliding_window", 4096u32.into()),
    ];
    for (key, value) in harmless {
        with(key, value).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn keys_that_may_change_the_function_are_refused_by_name() {
    let unknown: [(&str, Value); 8] = [
        ("rope.scaling.alpha", 1000f32.into()),
        ("attention.temperature_scale", 0.1f32.into()),
        ("nextn_predict_layers", 1u32.into()),
        ("attention.max_alibi_bias", 8f32.into()),
        ("rope.dimension_sections", Value::from("8")),
        ("swiglu_clamp_exp", 7f32.into()),
        ("attention.sliding_window", 64u32.into()),
        ("attention.scale", 0.5f32.into()),
    ];
    for (key, value) in unknown {
        let error = with(key, value).unwrap_err();
        assert_eq!(error.code(), "UNSUPPORTED", "{error}");
        assert!(
            error.to_string().contains(&format!("llama.{key}")),
            "{error}"
        );
    }
    // The scale that is computed with anyway.
    with("attention.scale", 0.125f32).unwrap();
    let error = config("qwen3", |pairs, _| {
        pairs.set("prism.hadamard.version", 1u32)
    })
    .unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    assert!(
        error.to_string().contains("prism.hadamard.version"),
        "{error}"
    );
}

#[test]
fn what_the_activations_and_float_layers_are_is_written_down() {
    let pairs = |edit: fn(&mut Metadata)| {
        let config = config("llama", |pairs, _| edit(pairs)).unwrap();
        let mut again = Metadata::new();
        for (key, value) in config.gguf_pairs() {
            again.set(&key, value);
        }
        let again = ModelConfig::from_gguf_keys(&again, &[]).unwrap();
        (again.row_activations, again.float_layers)
    };
    assert_eq!(pairs(|_| {}), (false, vec![]));
    let given = pairs(|pairs| {
        pairs.set("ryzanstein.activations", "int8");
        let names = ["blk.0.ffn_up.weight", "blk.0.attn_q.weight"];
        let names = Array::Strings(names.iter().collect());
        pairs.set("ryzanstein.float_layers", Value::Array(names));
    });
    let names = ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"];
    assert_eq!(given, (true, names.map(str::to_owned).to_vec()));
}
