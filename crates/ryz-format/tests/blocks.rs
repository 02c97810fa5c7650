//! Decoders against vectors of other implementations, bit for bit, and encoders against the decoders' input.
#![allow(clippy::unwrap_used)]

mod common;

use common::{from_hex, reference, shared};
use ryz_format::{DType, TensorView, decode, encode};
use serde_json::Value;

fn dtype(name: &str) -> DType {
    DType::ALL
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .unwrap()
}

fn decode_tensor(dtype: DType, bytes: &[u8], values: usize) -> Vec<f32> {
    let view = TensorView::new("vector", dtype, 1, values, bytes).unwrap();
    let mut out = vec![f32::NAN; values];
    view.decode_row(0, &mut out);
    out
}

fn assert_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        // The vectors are decimal: a zero has lost its sign there.
        let equal = got.to_bits() == expected.to_bits() || (*got == 0.0 && *expected == 0.0);
        assert!(
            equal,
            "{what} element {i}: got {got:e}, expected {expected:e}"
        );
    }
}

/// The cases of the first set, and of the second where it is.
fn dequant() -> Vec<Value> {
    let read = |folder: std::path::PathBuf| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join("blocks.json")).unwrap();
        let vectors: Value = serde_json::from_str(&text).unwrap();
        vectors["dequant"].as_array().unwrap().clone()
    };
    let first = read(reference());
    assert_eq!(first.len(), 10);
    let second = shared("reference2").map_or(Vec::new(), read);
    assert!(second.is_empty() || second.len() == 7);
    [first, second].concat()
}

#[test]
fn blocks_decode_as_in_ggml() {
    for case in dequant() {
        let dtype = dtype(case["form"].as_str().unwrap());
        let expected: Vec<f32> = case["dequant"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
            .collect();
        let bytes = from_hex(case["hex"].as_str().unwrap());
        assert_bits(
            &decode_tensor(dtype, &bytes, expected.len()),
            &expected,
            dtype.name(),
        );
    }
}

#[test]
fn blocks_decode_as_in_gguf_py() {
    let vectors: Value = serde_json::from_str(include_str!("fixtures/quants.json")).unwrap();
    let cases = vectors["dequantize"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    for case in cases {
        let dtype = dtype(case["dtype"].as_str().unwrap());
        let expected = floats(&case["f32"]);
        let bytes = from_hex(case["hex"].as_str().unwrap());
        assert_bits(
            &decode_tensor(dtype, &bytes, expected.len()),
            &expected,
            dtype.name(),
        );
    }
}

#[test]
fn q8_0_encodes_as_in_gguf_py() {
    let vectors: Value = serde_json::from_str(include_str!("fixtures/quants.json")).unwrap();
    let case = &vectors["quantize_q8_0"];
    let mut out = Vec::new();
    encode::encode_floats(DType::Q8_0, &floats(&case["f32"]), &mut out);
    assert_eq!(out, from_hex(case["hex"].as_str().unwrap()));
}

#[test]
fn every_ternary_code_survives_encoding() {
    for dtype in [
        DType::TQ1_0,
        DType::TQ2_0,
        DType::Q2_0G64,
        DType::Q2_0G128,
        DType::Q1_0,
        DType::PQ2_0,
        DType::PTQ1_0,
        DType::I2S,
    ] {
        let max = u64::from(dtype.max_code()) + 1;
        // 243 consecutive counts in base 3 (or 4) put every byte into every place.
        let mut rng = common::Rng(7);
        let mut codes: Vec<u8> = (0..256 * 64).map(|_| (rng.next() % max) as u8).collect();
        if dtype == DType::Q1_0 {
            codes.iter_mut().for_each(|code| *code = *code / 2 * 2);
        }
        let blocks = codes.len() / dtype.block_values();
        let scales: Vec<f32> = match dtype {
            DType::I2S => vec![-0.3],
            _ => (0..blocks).map(|i| (i as f32 - 20.0) / 64.0).collect(),
        };
        let mut bytes = Vec::new();
        encode::encode_ternary(dtype, &codes, &scales, &mut bytes);
        let view = TensorView::new("w", dtype, 4, codes.len() / 4, &bytes).unwrap();
        let mut got_codes = vec![9; codes.len() / 4];
        let mut got_scales = vec![0.0; view.scales_per_row()];
        for row in 0..4 {
            view.unpack_row(row, &mut got_codes, &mut got_scales);
            assert_eq!(
                got_codes,
                codes[row * codes.len() / 4..][..codes.len() / 4],
                "{dtype} row {row}"
            );
            let expected = if dtype == DType::I2S {
                &scales[..]
            } else {
                &scales[row * blocks / 4..][..blocks / 4]
            };
            assert_eq!(got_scales, expected, "{dtype} row {row}");
        }
    }
}

#[test]
fn codes_and_scales_make_the_decoded_weights() {
    for case in dequant() {
        let dtype = dtype(case["form"].as_str().unwrap());
        if !dtype.is_ternary() || dtype == DType::I2S {
            continue;
        }
        let bytes = from_hex(case["hex"].as_str().unwrap());
        let values = case["values"].as_u64().unwrap() as usize;
        let (mut codes, mut scales) = (vec![0; values], vec![0.0; values / dtype.block_values()]);
        decode::unpack_codes(dtype, &bytes, &mut codes, &mut scales);
        let weights = codes
            .iter()
            .enumerate()
            .map(|(i, &c)| (f32::from(c) - 1.0) * scales[i / dtype.block_values()]);
        assert_bits(
            &weights.collect::<Vec<_>>(),
            &decode_tensor(dtype, &bytes, values),
            dtype.name(),
        );
    }
}

fn floats(hex: &Value) -> Vec<f32> {
    from_hex(hex.as_str().unwrap())
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}
