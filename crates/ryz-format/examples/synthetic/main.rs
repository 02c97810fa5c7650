//! Writes a seeded synthetic model with the shape of a real one, for benchmarks and memory measurements.
//!
//! ```text
//! cargo run --release -p ryz-format --example synthetic -- OUT.gguf [--shape 2b|0.7b|0.1b|bonsai-1.7b|bonsai-8b]
//!     [--type TQ2_0|TQ1_0|I2_S|Q2_0_G64|Q2_0_G128|Q1_0|PQ2_0|PTQ1_0] [--head Q6_K|Q4_K|Q8_0|F16|ternary]
//!     [--architecture NAME] [--layers N] [--active FRACTION] [--vocabulary VOCABULARY.gguf] [--template FILE.jinja]
//! ```
//!
//! Weights are random (a third of them 0), so the text is noise; sizes, types and the order of tensors are real. Files that
//! differ in the architecture alone have the same weights. With `--active` so many of the gates of a BitNet shape are
//! positive, in place of a half. With `--vocabulary` the model speaks the tokens of another GGUF file (that of a vocabulary alone
//! will do), and `--template` gives it a chat template.

mod gates;
mod graft;
mod shape;
mod weights;

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
};

use gates::Gates;
use graft::Graft;
use ryz_format::{Array, DType, GgufWriter, StringArray, Value};
use shape::{SHAPES, Shape};
use weights::Random;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments
        .next()
        .ok_or("usage: synthetic OUT.gguf [--shape …] [--type …] [--head …]")?;
    let (mut shape, mut dtype, mut head) = (&SHAPES[0], DType::TQ2_0, DType::Q6K);
    let (mut architecture, mut layers, mut active) = (None, None, None);
    let (mut vocabulary, mut template) = (None, None);
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
            "--active" => active = Some(value.parse()?),
            "--vocabulary" => vocabulary = Some(value),
            "--template" => template = Some(value),
            _ => return Err(format!("no option {option}").into()),
        }
    }
    if head.is_ternary() {
        head = dtype;
    }
    let architecture = architecture.as_deref().unwrap_or(shape.architecture);
    if active.is_some() && head.is_ternary() {
        return Err("--active needs a head that is not ternary".into());
    }
    if active.is_some() && !architecture.starts_with("bitnet") {
        return Err(
            "--active is for the BitNet shapes, whose blocks are normed before they are added"
                .into(),
        );
    }
    if template.is_some() && vocabulary.is_none() {
        return Err("--template needs a --vocabulary that can write it".into());
    }
    let graft = vocabulary.map(|vocabulary| Graft {
        vocabulary,
        template,
    });
    let model = Model {
        shape,
        architecture,
        layers: layers.unwrap_or(shape.layers),
        dtype,
        head,
        active,
        graft,
    };
    write_model(&out, &model)
}

/// What is asked for.
struct Model<'a> {
    shape: &'a Shape,
    architecture: &'a str,
    layers: usize,
    dtype: DType,
    head: DType,
    active: Option<f64>,
    graft: Option<Graft>,
}

fn write_model(out: &str, model: &Model<'_>) -> Result<(), Box<dyn Error>> {
    let Model {
        shape,
        architecture,
        layers,
        dtype,
        head,
        active,
        ..
    } = *model;
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
    match &model.graft {
        Some(graft) => graft.write(&mut writer, shape.vocab)?,
        None => vocabulary(&mut writer, shape.vocab)?,
    }

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
    let mut gates: Option<Gates> = None;
    for (name, dtype, rows, cols) in &tensors {
        let (layer, part) = place(name);
        let bytes = if *dtype == DType::F32 {
            let norm = gates.as_ref().and_then(|gates| gates.norm(part, layer));
            let norm = norm.unwrap_or_else(|| vec![1.0; *cols]);
            norm.into_iter().flat_map(f32::to_le_bytes).collect()
        } else if dtype.is_ternary() {
            let mut codes = weights::codes(*rows, *cols, &mut random);
            if let Some(gates) = &gates {
                gates.codes(part, &mut codes);
            }
            weights::ternary(*dtype, &codes, *cols, &mut random)
        } else {
            let mut bytes = weights::dense(*dtype, *rows, *cols, &mut random);
            if let Some(active) = active {
                gates = Some(Gates::new(active, shape.hidden, *dtype, &mut bytes)?);
            }
            bytes
        };
        body.tensor(name, &bytes)?;
    }
    body.finish()?.flush()?;
    Ok(())
}

/// The layer and the name in it of `blk.LAYER.NAME.weight`; of other tensors 0 and the name.
fn place(name: &str) -> (usize, &str) {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let in_layer = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'));
    match in_layer {
        Some((layer, part)) => (layer.parse().unwrap_or(0), part),
        None => (0, name),
    }
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
