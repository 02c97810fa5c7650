//! The op-level vectors of the reference set, made independently: decoded blocks and quantised activations.
//!
//! The set leaves out the weights of its ternary linears, so that their products are tested against f64 in `ternary.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use ryz_format::{DType, TensorView};
use ryz_kernels::{DenseWeight, Kernels, Level, Linear, PackedTernary};
use ryz_tmac::BufferKind;
use serde_json::Value;

fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../__test__/fixtures/reference/blocks.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect()
}

fn dtype(form: &str) -> DType {
    DType::ALL
        .into_iter()
        .find(|dtype| dtype.name() == form)
        .unwrap()
}

#[test]
fn decoded_blocks() {
    let vectors = vectors();
    let mut seen = 0;
    for vector in vectors["dequant"].as_array().unwrap() {
        let dtype = dtype(vector["form"].as_str().unwrap());
        let hex = vector["hex"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let expected = floats(&vector["dequant"]);
        let cols = expected.len();
        for kernels in Level::ALL
            .into_iter()
            .filter_map(|level| Kernels::new(level).ok())
        {
            let weights = if dtype.is_ternary() {
                let view = TensorView::new("w", dtype, 1, cols, &bytes).unwrap();
                Linear::Ternary(PackedTernary::pack(&view, kernels, &arena()).unwrap())
            } else {
                let mut buffer = arena().allocate(bytes.len(), BufferKind::Weights).unwrap();
                buffer.as_bytes_mut().copy_from_slice(&bytes);
                Linear::Dense(DenseWeight::new("w", dtype, 1, cols, buffer, kernels).unwrap())
            };
            let mut row = vec![0.0; cols];
            weights.embedding_row(0, &mut row);
            assert_eq!(row, expected, "{dtype}, {}", kernels.level());
        }
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn quantised_activations() {
    let vectors = vectors();
    for vector in vectors["ternary_linear"].as_array().unwrap() {
        let x = floats(&vector["x"]);
        let expected: Vec<i8> = vector["q"]
            .as_array()
            .unwrap()
            .iter()
            .map(|q| i8::try_from(q.as_i64().unwrap()).unwrap())
            .collect();
        let scale = vector["s"].as_f64().unwrap() as f32;
        for kernels in Level::ALL
            .into_iter()
            .filter_map(|level| Kernels::new(level).ok())
        {
            let mut q = vec![0; x.len()];
            let s = kernels.quantize_row_i8(&x, &mut q);
            assert_eq!(q, expected, "{}", kernels.level());
            assert!(
                s.to_bits().abs_diff(scale.to_bits()) <= 1,
                "{s} and {scale}"
            );
        }
    }
}
