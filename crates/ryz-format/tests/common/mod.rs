//! Where test data are: some of it in the repository, all of it beside a full checkout.
#![allow(dead_code, reason = "each test file uses a part")]

use ryz_format::{DType, FormatError, Gguf, GgufWriter, Metadata};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// A folder of the full data set (`../shared/NAME` from the repository's root). Where it is missing this says so past
/// the test harness's capture, so that a skipped set is seen.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(name);
    if path.is_dir() {
        return Some(path);
    }
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "\nSKIPPED: the full {name} set is not at {}",
        path.display()
    )
    .unwrap();
    None
}

/// The reference folder: the full one where it is, else the part of it in the repository.
pub fn reference() -> PathBuf {
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/reference");
    shared("reference").unwrap_or(part)
}

/// The GGUF files of the reference folder.
pub fn reference_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(reference())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// Bytes from hexadecimal digits.
pub fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The crate's generator for reproducible tests: SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A complete tiny model of an architecture: one layer, hidden 256, 4 heads of 64, 2 kv heads, ffn 256, vocabulary 4,
/// all matrices TQ2_0 of zeros, norms of ones. `edit` may change the pairs, the tensors (name, type, shape), both.
pub fn tiny_model(
    architecture: &str,
    edit: impl FnOnce(&mut Metadata, &mut Vec<(String, DType, Vec<u64>)>),
) -> Vec<u8> {
    let mut pairs = Metadata::new();
    pairs.set("general.architecture", architecture);
    for (key, value) in [
        ("block_count", 1u32),
        ("embedding_length", 256),
        ("feed_forward_length", 256),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 128),
        ("vocab_size", 4),
    ] {
        pairs.set(&format!("{architecture}.{key}"), value);
    }
    pairs.set(
        &format!("{architecture}.attention.layer_norm_rms_epsilon"),
        1e-5f32,
    );
    let mut tensors = Vec::new();
    let mut vectors = |names: &[&str], len| {
        names
            .iter()
            .for_each(|name| tensors.push((name.to_string(), DType::F32, vec![len])));
    };
    vectors(
        &[
            "output_norm.weight",
            "blk.0.attn_norm.weight",
            "blk.0.ffn_norm.weight",
        ],
        256,
    );
    if architecture.starts_with("bitnet") {
        vectors(
            &["blk.0.attn_sub_norm.weight", "blk.0.ffn_sub_norm.weight"],
            256,
        );
    }
    if architecture == "qwen2" {
        vectors(&["blk.0.attn_q.bias"], 256);
        vectors(&["blk.0.attn_k.bias", "blk.0.attn_v.bias"], 128);
    }
    if architecture == "qwen3" {
        vectors(
            &["blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"],
            64,
        );
    }
    for (name, rows) in [
        ("token_embd", 4),
        ("blk.0.attn_q", 256),
        ("blk.0.attn_k", 128),
        ("blk.0.attn_v", 128),
        ("blk.0.attn_output", 256),
        ("blk.0.ffn_gate", 256),
        ("blk.0.ffn_up", 256),
        ("blk.0.ffn_down", 256),
    ] {
        tensors.push((format!("{name}.weight"), DType::TQ2_0, vec![256, rows]));
    }
    edit(&mut pairs, &mut tensors);
    write(&pairs, &tensors)
}

/// A file with these pairs, and these tensors full of ones (floats) or zero bytes.
pub fn write(pairs: &Metadata, tensors: &[(String, DType, Vec<u64>)]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    for (key, value) in pairs.iter() {
        writer.push(key, value.clone()).unwrap();
    }
    for (name, dtype, shape) in tensors {
        writer.declare(name, *dtype, shape).unwrap();
    }
    let mut body = writer.start(Vec::new()).unwrap();
    for (name, dtype, shape) in tensors {
        let rows = shape[1..].iter().product::<u64>() as usize;
        let mut bytes = vec![0; dtype.tensor_bytes(rows, shape[0] as usize).unwrap() as usize];
        if *dtype == DType::F32 {
            bytes
                .as_chunks_mut()
                .0
                .iter_mut()
                .for_each(|value| *value = 1f32.to_le_bytes());
        }
        body.tensor(name, &bytes).unwrap();
    }
    body.finish().unwrap()
}

/// Parses a whole file.
pub fn parse(file: &[u8]) -> Result<Gguf, FormatError> {
    Gguf::parse(file, file.len() as u64)
}
