//! Hugging Face folders: the file computes what the folder computes.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path};

use common::{Model, Rng, committed, convert, is_projection, logits};
use ryz_convert::{ConvertOptions, FloatWeights, InexactScales, Method, TernaryForm};
use ryz_format::{Array, DType, Value, encode};
use ryz_model::Activations;
use serde_json::{Value as Json, json};

/// The greatest difference, in units of the greatest logit.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f32, |max, x| max.max(x.abs()));
    assert!(largest > 0.1 && a.iter().chain(b).all(|x| x.is_finite()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0f32, f32::max) / largest
}

/// Sums of 64 products in another order differ by 64·2⁻²⁴ ≈ 4e-6 of their terms; two layers of such scores go through
/// softmax and further sums of 512.
const REORDERED: f32 = 1e-4;

const HIDDEN: usize = 256;
const INNER: usize = 512;
const HEAD: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const VOCAB: usize = 64;
const LAYERS: usize = 2;

/// A folder to be written.
struct Folder {
    rng: Rng,
    tensors: Vec<(String, &'static str, Vec<usize>, Vec<u8>)>,
}

impl Folder {
    fn new(seed: u64) -> Folder {
        Folder {
            rng: Rng(seed),
            tensors: Vec::new(),
        }
    }

    /// Numbers of a triangular distribution in ±`scale`, as BF16.
    fn random(&mut self, name: &str, shape: &[usize], scale: f32) {
        let count = shape.iter().product();
        let mut unit = || (self.rng.next() >> 40) as f32 / (1 << 24) as f32;
        let values: Vec<f32> = (0..count).map(|_| (unit() - unit()) * scale).collect();
        self.push(name, shape, &values);
    }

    /// −`scale`, 0, +`scale`, as BF16.
    fn ternary(&mut self, name: &str, shape: &[usize], scale: f32) {
        let codes = self.rng.codes(shape.iter().product());
        let values: Vec<f32> = codes
            .iter()
            .map(|&code| (f32::from(code) - 1.0) * scale)
            .collect();
        self.push(name, shape, &values);
    }

    fn push(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let mut bytes = Vec::new();
        encode::encode_floats(DType::BF16, values, &mut bytes);
        self.tensors
            .push((name.to_owned(), "BF16", shape.to_vec(), bytes));
    }

    fn write(&self, path: &Path, config: &Json) {
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for (name, dtype, shape, bytes) in &self.tensors {
            let end = at + bytes.len();
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
            header.insert(name.clone(), entry);
            at = end;
        }
        let header = Json::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        for (.., bytes) in &self.tensors {
            file.extend(bytes);
        }
        fs::write(path.join("model.safetensors"), file).unwrap();
        fs::write(path.join("config.json"), config.to_string()).unwrap();
    }
}

/// What makes a folder's model.
#[derive(Clone, Copy)]
struct Kind {
    class: &'static str,
    ternary: bool,
    bias: bool,
    tied: bool,
}

/// A folder with a model of two layers.
fn folder(kind: Kind, extra: Json) -> tempfile::TempDir {
    let path = tempfile::tempdir().unwrap();
    let mut folder = Folder::new(7);
    folder.random("model.embed_tokens.weight", &[VOCAB, HIDDEN], 1.0);
    folder.random("model.norm.weight", &[HIDDEN], 1.5);
    if !kind.tied {
        folder.random("lm_head.weight", &[VOCAB, HIDDEN], 0.5);
    }
    let (q, kv) = (HEADS * HEAD, KV_HEADS * HEAD);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            folder.random(&name(&format!("{norm}.weight")), &[HIDDEN], 1.5);
        }
        if kind.class == "Qwen3ForCausalLM" {
            folder.random(&name("self_attn.q_norm.weight"), &[HEAD], 1.5);
            folder.random(&name("self_attn.k_norm.weight"), &[HEAD], 1.5);
        }
        for (part, rows, cols) in [
            ("self_attn.q_proj", q, HIDDEN),
            ("self_attn.k_proj", kv, HIDDEN),
            ("self_attn.v_proj", kv, HIDDEN),
            ("self_attn.o_proj", HIDDEN, q),
            ("mlp.gate_proj", INNER, HIDDEN),
            ("mlp.up_proj", INNER, HIDDEN),
            ("mlp.down_proj", HIDDEN, INNER),
        ] {
            let weight = name(&format!("{part}.weight"));
            match kind.ternary {
                true => folder.ternary(&weight, &[rows, cols], 0.046_875),
                false => folder.random(&weight, &[rows, cols], 0.125),
            }
            if kind.bias && part.starts_with("self_attn") {
                folder.random(&name(&format!("{part}.bias")), &[rows], 1.0);
            }
        }
    }
    let mut config = json!({
        "architectures": [kind.class],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": kind.tied,
    });
    let (config_fields, extra) = (config.as_object_mut().unwrap(), extra);
    config_fields.extend(extra.as_object().unwrap().clone());
    folder.write(path.path(), &config);
    path
}

fn tokens() -> Vec<u32> {
    (0..40).map(|i| (i * 29 + 3) % VOCAB as u32).collect()
}

fn options(form: TernaryForm) -> ConvertOptions {
    let mut options = ConvertOptions::new(form);
    options.tokenizer = false;
    options.overwrite = true;
    options
}

const LLAMA: Kind = Kind {
    class: "LlamaForCausalLM",
    ternary: true,
    bias: false,
    tied: true,
};

/// Every kind of folder, with each way of stretching positions: the file's logits are the folder's.
#[test]
fn a_file_computes_what_its_folder_computes() {
    let llama3 = json!({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }});
    let yarn = json!({"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
    }});
    let linear = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}});
    let qwen3 = Kind {
        class: "Qwen3ForCausalLM",
        ..LLAMA
    };
    let with_biases = Kind {
        bias: true,
        tied: false,
        ..LLAMA
    };
    for (kind, extra) in [
        (LLAMA, json!({})),
        (with_biases, llama3),
        (LLAMA, linear),
        (qwen3, json!({})),
        (
            Kind {
                tied: false,
                ..qwen3
            },
            yarn,
        ),
    ] {
        let case = format!("{} {extra}", kind.class);
        let folder = folder(kind, extra);
        let target = folder.path().join("out.gguf");
        let expected = logits(folder.path(), Activations::F32, &tokens());
        for form in [TernaryForm::TQ1_0, TernaryForm::Q2_0_G64] {
            let report = convert(folder.path(), &target, &options(form)).unwrap();
            assert!(report.is_lossless(), "{case}");
            for tensor in report.tensors.iter().filter(|t| is_projection(&t.name)) {
                assert_eq!(tensor.method, Method::Recognized, "{case}: {}", tensor.name);
                assert_eq!(tensor.target, form.dtype(), "{case}: {}", tensor.name);
            }
            let got = logits(&target, Activations::F32, &tokens());
            let distance = distance(&expected, &got);
            assert!(distance < REORDERED, "{case}: {distance}");
        }
    }
}

/// Without ternary weights and without the quantiser, in the types of the folder.
#[test]
fn float_weights_that_are_kept_compute_the_same() {
    let kind = Kind {
        ternary: false,
        bias: true,
        ..LLAMA
    };
    let folder = folder(kind, json!({}));
    let target = folder.path().join("out.gguf");
    let mut options = options(TernaryForm::TQ2_0);
    options.float_weights = FloatWeights::Keep;
    assert!(
        convert(folder.path(), &target, &options)
            .unwrap()
            .is_lossless()
    );
    let expected = logits(folder.path(), Activations::F32, &tokens());
    let got = logits(&target, Activations::F32, &tokens());
    assert!(distance(&expected, &got) < REORDERED);
    // The rows of q went from halves to pairs, those of v did not.
    let converted = Model::read(&target);
    let source = fs::read(folder.path().join("model.safetensors")).unwrap();
    let row =
        |name: &str, row: usize| converted.bytes(name)[row * HIDDEN * 2..][..HIDDEN * 2].to_vec();
    let place = |row: &[u8]| {
        let found = source.windows(row.len()).position(|window| window == row);
        found.unwrap() / row.len()
    };
    let q: Vec<usize> = (0..4)
        .map(|i| place(&row("blk.1.attn_q.weight", i)))
        .collect();
    assert_eq!([q[1] - q[0], q[2] - q[0], q[3] - q[0]], [32, 1, 33]);
    let v: Vec<usize> = (0..3)
        .map(|i| place(&row("blk.1.attn_v.weight", i)))
        .collect();
    assert_eq!([v[1] - v[0], v[2] - v[0]], [1, 2]);
}

/// The packed BitNet folder in every form. As `I2_S` it is the reference set's file, so that not one bit differs.
#[test]
fn a_packed_folder_computes_the_same_in_every_form() {
    let source = committed().join("b158-v-hf-packed");
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    let tokens: Vec<u32> = (0..24).map(|i| i * 21 % 500).collect();
    for activations in [Activations::Int8, Activations::F32] {
        let expected = logits(&source, activations, &tokens);
        for form in TernaryForm::ALL {
            convert(&source, &target, &options(form)).unwrap();
            let got = logits(&target, activations, &tokens);
            if form == TernaryForm::I2_S {
                let file = logits(&committed().join("b158-v-i2_s.gguf"), activations, &tokens);
                assert!(got == file, "{form} {activations}");
            }
            // Where the scale is a factor of the output and not of the weights, each product rounds otherwise; int8
            // activations may then round to a neighbour, 1/127 of the largest.
            let tolerance = match activations {
                Activations::Int8 => 0.02,
                _ => REORDERED,
            };
            let distance = distance(&expected, &got);
            assert!(distance < tolerance, "{form} {activations}: {distance}");
        }
    }
}

/// What a file says of its model and where it has it from.
#[test]
fn pairs_of_a_folder() {
    let folder = folder(LLAMA, json!({}));
    let named = folder.path().join("my-model");
    fs::create_dir(&named).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::rename(folder.path().join(file), named.join(file)).unwrap();
    }
    let target = folder.path().join("out.gguf");
    convert(&named, &target, &options(TernaryForm::TQ1_0)).unwrap();
    let model = Model::read(&target);
    let pairs = &model.gguf.metadata;
    let text = |text: &str| Value::String(text.to_owned());
    assert_eq!(pairs.get("general.architecture"), Some(&text("llama")));
    assert_eq!(pairs.get("general.name"), Some(&text("my-model")));
    assert_eq!(pairs.get("general.file_type"), Some(&Value::U32(36)));
    assert_eq!(pairs.get("llama.block_count"), Some(&Value::U32(2)));
    let mut options = options(TernaryForm::TQ1_0);
    options.name = Some("other".to_owned());
    convert(&named, &target, &options).unwrap();
    let model = Model::read(&target);
    assert_eq!(
        model.gguf.metadata.get("general.name"),
        Some(&text("other"))
    );
    // A tokenizer that is asked for must be there.
    options.tokenizer = true;
    let error = convert(&named, &target, &options).unwrap_err();
    assert_eq!(error.code(), "FILE_NOT_FOUND");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

/// The tokenizer of the packed folder, taken over.
#[test]
fn a_folder_s_tokenizer_goes_along() {
    let source = committed().join("b158-v-hf-packed");
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    convert(&source, &target, &ConvertOptions::default()).unwrap();
    let model = Model::read(&target);
    let pairs = &model.gguf.metadata;
    let Some(Value::Array(Array::Strings(tokens))) = pairs.get("tokenizer.ggml.tokens") else {
        panic!("no tokens");
    };
    assert_eq!(tokens.len(), 512);
    assert_eq!(
        pairs.get("tokenizer.ggml.bos_token_id"),
        Some(&Value::U32(509))
    );
    assert_eq!(
        pairs.get("tokenizer.ggml.eos_token_id"),
        Some(&Value::U32(510))
    );
}

/// Scales that no fp16 holds go beside the weights or are rounded, as asked; only rounding loses anything.
#[test]
fn scales_beside_weights_or_rounded() {
    let source = committed().join("b158-v-hf-packed");
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    let mut options = options(TernaryForm::TQ2_0);
    let report = convert(&source, &target, &options).unwrap();
    assert!(report.is_lossless());
    let beside = |model: &Model| model.names().iter().any(|name| name.ends_with(".scale"));
    let separate = beside(&Model::read(&target));
    options.inexact_scales = InexactScales::Round;
    let report = convert(&source, &target, &options).unwrap();
    assert!(!beside(&Model::read(&target)));
    for tensor in report.tensors.iter().filter(|t| is_projection(&t.name)) {
        assert_eq!(tensor.lossless, tensor.error.is_none());
        if let Some(error) = tensor.error {
            // Half a unit in the last of 11 places.
            assert!(
                error.cosine > 1.0 - 1e-6 && error.max_abs < 1e-3,
                "{error:?}"
            );
        }
    }
    assert_eq!(separate, !report.is_lossless());
}
