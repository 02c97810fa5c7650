//! Where test data are, and tokenizers out of them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use ryz_format::{Array, Gguf, Metadata, Value};
use ryz_tokenizer::{EncodeOptions, HfFiles, Tokenizer};

/// Ids of the text alone.
pub const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};

/// Ids of the text alone, with the text of control tokens as control tokens.
pub const SPECIAL: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
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
    assert!(
        std::env::var_os("RYZ_SHARED").is_none(),
        "RYZ_SHARED is set, and {} is missing",
        path.display()
    );
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

pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn fixture_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fixture(name)).unwrap()
}

/// The metadata of a GGUF file in the fixtures; they have no tensors.
pub fn metadata(name: &str) -> Metadata {
    let bytes = fixture(name);
    Gguf::parse(&bytes, bytes.len() as u64).unwrap().metadata
}

/// The metadata of a GGUF file on the disk, packed by xz or not.
pub fn metadata_of(path: &Path) -> Metadata {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bytes = if path.extension().is_some_and(|extension| extension == "xz") {
        let mut plain = Vec::new();
        lzma_rust2::XzReader::new(&bytes[..], false)
            .read_to_end(&mut plain)
            .unwrap();
        plain
    } else {
        bytes
    };
    Gguf::parse(&bytes, bytes.len() as u64).unwrap().metadata
}

pub fn gguf(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&metadata(name)).unwrap()
}

pub fn hf(name: &str) -> Tokenizer {
    let files = HfFiles {
        tokenizer: &fixture(name),
        ..HfFiles::default()
    };
    Tokenizer::from_hf(&files).unwrap()
}

/// Byte-level BPE of some tokens and merges, with the bytes before them.
pub fn small(tokens: &[&str], merges: &[&str]) -> Metadata {
    let source = metadata("llama-bpe.gguf");
    let bytes = source.get_strings("tokenizer.ggml.tokens").unwrap();
    // The first 256 tokens of the fixture are the bytes.
    let all: Vec<&str> = bytes
        .iter()
        .take(256)
        .chain(tokens.iter().copied())
        .collect();
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "llama-bpe");
    metadata.set("tokenizer.ggml.tokens", strings(&all));
    metadata.set("tokenizer.ggml.merges", strings(merges));
    metadata
}

pub fn strings(list: &[&str]) -> Value {
    Value::Array(Array::Strings(list.iter().collect()))
}

/// Ids out of JSON.
pub fn ids(json: &serde_json::Value) -> Vec<u32> {
    let list = json.as_array().unwrap();
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Notes how many inputs of a kind ran, for the summary of `npm test`.
pub fn note_ran(kind: &str, ran: usize, skipped: usize) {
    let Some(path) = std::env::var_os("RYZ_TEST_COUNTS") else {
        return;
    };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).unwrap();
    let line = format!("{{\"kind\":\"{kind}\",\"ran\":{ran},\"skipped\":{skipped}}}\n");
    std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
}
