//! Writes a seeded synthetic model with the shape of a real one, for benchmarks and memory measurements.
//!
//! ```text
//! cargo run --release -p ryz-format --example synthetic -- OUT.gguf [--shape 2b|0.7b|bonsai-1.7b|bonsai-8b]
//!     [--type TQ2_0|TQ1_0|I2_S|Q2_0_G64|Q2_0_G128] [--head Q6_K|Q4_K|Q8_0|F16|ternary] [--architecture NAME] [--layers N]
//! ```
//!
//! Weights are random (a third of them 0), so the text is noise; sizes, types and the order of tensors are real.

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
};

use half::f16;
use ryz_format::{Array, DType, GgufWriter, StringArray, Value, encode::encode_ternary};

struct Shape {
    name: &'static str,
    architecture: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    vocab: usize,
    rope_base: f32,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "2b",
        architecture: "bitnet-b1.58",
        hidden: 2560,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        head_dim: 128,
        ffn: 6912,
        vocab: 128_256,
        rope_base: 500_000.0,
    },
    Shape {
        name: "0.7b",
        architecture: "bitnet-b1.58",
        hidden: 1536,
        layers: 24,
        heads: 16,
        kv_heads: 16,
        head_dim: 96,
        ffn: 4096,
        vocab: 32_002,
        rope_base: 10_000.0,
    },
    Shape {
        name: "bonsai-1.7b",
        architecture: "qwen3",
        hidden: 2048,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        ffn: 6144,
        vocab: 151_936,
        rope_base: 1_000_000.0,
    },
    Shape {
        name: "bonsai-8b",
        architecture: "qwen3",
        hidden: 4096,
        layers: 36,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 12_288,
        vocab: 151_936,
        rope_base: 1_000_000.0,
    },
];

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments
        .next()
        .ok_or("usage: synthetic OUT.gguf [--shape …] [--type …] [--head …]")?;
    let (mut shape, mut dtype, mut head) = (&SHAPES[0], DType::TQ2_0, DType::Q6K);
    let (mut architecture, mut layers) = (None, None);
    while let Some(option) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{option} needs a value"))?;
        let by_name = |name: &str| {
            let found = DType::ALL
                .into_iter()
                .find(|dtype| dtype.name().eq_ignore_ascii_case(name));
            found.ok_or_else(|| format!("no type {name}"))
        };
        match option.as_str() {
            "--shape" => {
                let found = SHAPES.iter().find(|shape| shape.name == value);
                shape = found.ok_or_else(|| format!("no shape {value}"))?;
            }
            "--type" => dtype = by_name(&value)?,
            "--head" => {
                head = if value == "ternary" {
                    dtype
                } else {
                    by_name(&value)?
                }
            }
            "--architecture" => architecture = Some(value),
            "--layers" => layers = Some(value.parse()?),
            _ => return Err(format!("no option {option}").into()),
        }
    }
    if head.is_ternary() {
        head = dtype;
    }
    let architecture = architecture.as_deref().unwrap_or(shape.architecture);
    write_model(
        &out,
        shape,
        architecture,
        layers.unwrap_or(shape.layers),
        dtype,
        head,
    )
}

fn write_model(
    out: &str,
    shape: &Shape,
    architecture: &str,
    layers: usize,
    dtype: DType,
    head: DType,
) -> Result<(), Box<dyn Error>> {
    let mut writer = GgufWriter::new();
    let key = |name: &str| format!("{architecture}.{name}");
    writer.push("general.architecture", Value::from(architecture))?;
    writer.push(
        "general.name",
        Value::from(format!("synthetic-{}", shape.name).as_str()),
    )?;
    for (name, value) in [
        ("context_length", 4096),
        ("embedding_length", shape.hidden),
        ("block_count", layers),
        ("feed_forward_length", shape.ffn),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.head_dim),
        ("vocab_size", shape.vocab),
    ] {
        writer.push(&key(name), Value::from(value as u32))?;
    }
    writer.push(
        &key("attention.layer_norm_rms_epsilon"),
        Value::from(1e-5f32),
    )?;
    writer.push(&key("rope.freq_base"), Value::from(shape.rope_base))?;
    vocabulary(&mut writer, shape.vocab)?;

    let mut tensors: Vec<(String, DType, usize, usize)> = Vec::new();
    tensors.push((
        "token_embd.weight".to_owned(),
        head,
        shape.vocab,
        shape.hidden,
    ));
    let (query, key_value) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let sub_norms = architecture.starts_with("bitnet");
    for layer in 0..layers {
        let mut push = |name: &str, dtype, rows, cols| {
            tensors.push((format!("blk.{layer}.{name}.weight"), dtype, rows, cols));
        };
        push("attn_norm", DType::F32, 1, shape.hidden);
        push("attn_q", dtype, query, shape.hidden);
        push("attn_k", dtype, key_value, shape.hidden);
        push("attn_v", dtype, key_value, shape.hidden);
        push("attn_output", dtype, shape.hidden, query);
        push("ffn_norm", DType::F32, 1, shape.hidden);
        push("ffn_gate", dtype, shape.ffn, shape.hidden);
        push("ffn_up", dtype, shape.ffn, shape.hidden);
        push("ffn_down", dtype, shape.hidden, shape.ffn);
        if sub_norms {
            push("attn_sub_norm", DType::F32, 1, query);
            push("ffn_sub_norm", DType::F32, 1, shape.ffn);
        }
        if architecture == "qwen3" {
            push("attn_q_norm", DType::F32, 1, shape.head_dim);
            push("attn_k_norm", DType::F32, 1, shape.head_dim);
        }
    }
    tensors.push(("output_norm.weight".to_owned(), DType::F32, 1, shape.hidden));

    for (name, dtype, rows, cols) in &tensors {
        let dims: &[u64] = if *rows == 1 {
            &[*cols as u64]
        } else {
            &[*cols as u64, *rows as u64]
        };
        writer.declare(name, *dtype, dims)?;
    }
    let mut body = writer.start(BufWriter::with_capacity(1 << 20, File::create(out)?))?;
    let mut random = Random(1);
    for (name, dtype, rows, cols) in &tensors {
        body.tensor(name, &tensor(*dtype, *rows, *cols, &mut random))?;
    }
    body.finish()?.flush()?;
    Ok(())
}

/// A byte-level vocabulary: the 256 bytes, fillers, and an end of text.
fn vocabulary(writer: &mut GgufWriter, size: usize) -> Result<(), Box<dyn Error>> {
    let mut tokens = StringArray::default();
    let mut shifted = 256;
    for byte in 0u32..256 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let char = if printable { byte } else { shifted };
        shifted += u32::from(!printable);
        tokens.push(char::from_u32(char).unwrap_or(' ').encode_utf8(&mut [0; 4]));
    }
    (256..size - 1).for_each(|id| tokens.push(&format!("w{id}")));
    tokens.push("<|end_of_text|>");
    let mut types = vec![1; size];
    types[size - 1] = 3;
    writer.push("tokenizer.ggml.model", Value::from("gpt2"))?;
    writer.push("tokenizer.ggml.pre", Value::from("llama-bpe"))?;
    writer.push(
        "tokenizer.ggml.tokens",
        Value::Array(Array::Strings(tokens)),
    )?;
    writer.push("tokenizer.ggml.token_type", Value::Array(Array::I32(types)))?;
    writer.push(
        "tokenizer.ggml.merges",
        Value::Array(Array::Strings(StringArray::default())),
    )?;
    writer.push("tokenizer.ggml.eos_token_id", Value::from(size as u32 - 1))?;
    writer.push("tokenizer.ggml.add_bos_token", Value::from(false))?;
    Ok(())
}

/// Random weights of about unit gain in any type.
fn tensor(dtype: DType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    if dtype == DType::F32 {
        return std::iter::repeat_n(1.0f32.to_le_bytes(), rows * cols)
            .flatten()
            .collect();
    }
    // Two thirds of the weights are not 0, so that this keeps the variance of the input.
    let scale = (1.5 / cols as f32).sqrt();
    if dtype.is_ternary() {
        let codes: Vec<u8> = (0..rows * cols)
            .map(|_| (random.next() >> 32) as u8 % 3)
            .collect();
        let scales = if dtype.has_tensor_scale() {
            1
        } else {
            codes.len() / dtype.block_values()
        };
        let mut bytes = Vec::new();
        encode_ternary(dtype, &codes, &vec![scale; scales], &mut bytes);
        return bytes;
    }
    let mut bytes = vec![0; dtype.row_bytes(cols).unwrap_or(0) * rows];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    let half = |value: f32| f16::from_f32(value).to_le_bytes();
    for block in bytes.chunks_mut(dtype.block_bytes()) {
        match dtype {
            DType::F16 => {
                let value = f32::from(i16::from_le_bytes([block[0], block[1]])) / 32768.0 * scale;
                block.copy_from_slice(&half(value));
            }
            DType::Q8_0 => block[..2].copy_from_slice(&half(scale / 74.0)),
            DType::Q4K => {
                block[..2].copy_from_slice(&half(scale / 150.0));
                block[2..4].copy_from_slice(&half(scale / 150.0 * 7.5));
            }
            DType::Q6K => block[208..].copy_from_slice(&half(scale / 1400.0)),
            _ => {}
        }
    }
    bytes
}
