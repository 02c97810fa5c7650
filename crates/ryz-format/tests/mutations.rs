//! Seeded truncations and bit flips: whatever the bytes, an answer and no panic, and a header that was accepted keeps its
//! promises.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Rng, parse, tiny_model};
use proptest::prelude::*;
use ryz_format::{DType, Gguf, Metadata, ModelConfig, TensorView, Value};

const MUTATIONS: usize = 150_000;

/// Parses and, when that succeeds, does what a loader would do with the result.
fn load(file: &[u8]) -> bool {
    let Ok(gguf) = parse(file) else { return false };
    for tensor in &gguf.tensors {
        let bytes = &file[tensor.offset as usize..][..tensor.bytes as usize];
        let view =
            TensorView::new(&tensor.name, tensor.dtype, tensor.rows, tensor.cols, bytes).unwrap();
        assert_eq!(tensor.offset % gguf.alignment, 0);
        assert_eq!(
            view.row(tensor.rows - 1).len(),
            tensor.dtype.row_bytes(tensor.cols).unwrap()
        );
    }
    ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors).is_ok()
}

/// A model of every kind of value and of tensor, about 2 kB of header over sparse data.
fn sample() -> Vec<u8> {
    tiny_model("qwen3", |pairs, tensors| {
        pairs.set("general.flag", true);
        pairs.set("general.f64", 0.5f64);
        pairs.set(
            "tokenizer.ggml.tokens",
            Value::Array(ryz_format::Array::Strings(
                ["a", "bc", "", "é"].into_iter().collect(),
            )),
        );
        pairs.set(
            "tokenizer.ggml.token_type",
            Value::Array(ryz_format::Array::I32(vec![1, 1, 3, 6])),
        );
        tensors.push(("output.weight".to_owned(), DType::I2S, vec![256, 4]));
        // Two types that differ by their offsets only.
        tensors
            .iter_mut()
            .filter(|(name, ..)| name.contains("attn_v"))
            .for_each(|t| t.1 = DType::Q2_0G128);
    })
}

#[test]
fn bit_flips_and_truncations() {
    let whole = sample();
    let header = parse(&whole).unwrap().data_start as usize;
    assert!(load(&whole));
    let seed = 0x5EED_0001;
    let mut rng = Rng(seed);
    let (mut accepted, mut file) = (0, whole.clone());
    for round in 0..MUTATIONS {
        let flips = 1 + rng.below(3);
        let places: Vec<usize> = (0..flips).map(|_| rng.below(header)).collect();
        for &place in &places {
            match round % 3 {
                // A whole byte, or one bit.
                0 => file[place] = rng.next() as u8,
                _ => file[place] ^= 1 << rng.below(8),
            }
        }
        let len = if round % 5 == 0 {
            rng.below(whole.len() + 1)
        } else {
            whole.len()
        };
        accepted += usize::from(load(&file[..len]));
        places.iter().for_each(|&place| file[place] = whole[place]);
    }
    assert_eq!(file, whole);
    // The mutations reach the code behind the parser too: some files are still models.
    assert!(
        accepted > MUTATIONS / 100,
        "seed {seed:#x}: {accepted} of {MUTATIONS} accepted"
    );
}

#[test]
fn every_truncation_of_the_header_and_every_single_bit() {
    let whole = sample();
    let header = parse(&whole).unwrap().data_start as usize;
    for len in 0..header {
        assert!(!load(&whole[..len]), "cut at {len}");
        let _ = Gguf::parse(&whole[..len], u64::MAX);
    }
    let mut file = whole.clone();
    for bit in 0..header * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        load(&file);
        file[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_after_the_magic(bytes in proptest::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
        let file = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
        let _ = Gguf::parse(&file, len);
        let _ = parse(&file);
    }

    #[test]
    fn pairs_come_back(pairs in proptest::collection::btree_map("[a-z.]{1,12}", any_value(), 0..20)) {
        let mut metadata = Metadata::new();
        pairs.into_iter().for_each(|(key, value)| metadata.set(&key, value));
        let file = common::write(&metadata, &[]);
        prop_assert_eq!(parse(&file).unwrap().metadata, metadata);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (-1e9f32..1e9).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        proptest::collection::vec(".{0,8}", 0..9)
            .prop_map(|v| Value::Array(ryz_format::Array::Strings(v.into_iter().collect()))),
        proptest::collection::vec(any::<u16>(), 0..9)
            .prop_map(|v| Value::Array(ryz_format::Array::U16(v))),
    ]
}
