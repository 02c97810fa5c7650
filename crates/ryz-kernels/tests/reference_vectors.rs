//! The op-level vectors of the reference set, made independently: decoded blocks and quantised activations.
//!
//! The first set leaves out the weights of its ternary linears; the second has them.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, DenseWeight, Kernels, Level, Linear, PackedTernary, Packing,
    QuantizedActivations, QuantizedLayout,
};
use ryz_tmac::{BufferKind, MatMut, MatRef};
use serde_json::Value;

/// The set in the repository, and the second one where it is.
fn vectors() -> Vec<Value> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |path: &str| {
        let text = std::fs::read_to_string(format!("{root}/{path}")).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    };
    let mut sets = vec![read("__test__/fixtures/reference/blocks.json").unwrap()];
    match read("../shared/reference2/blocks.json") {
        Some(set) => sets.push(set),
        None => eprintln!("SKIPPED: ../shared/reference2/blocks.json is not there"),
    }
    sets
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
    for vector in vectors
        .iter()
        .flat_map(|set| set["dequant"].as_array().unwrap())
    {
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
    assert_eq!(seen, if vectors.len() > 1 { 17 } else { 10 });
}

#[test]
fn quantised_activations() {
    let vectors = vectors();
    for vector in vectors
        .iter()
        .flat_map(|set| set["ternary_linear"].as_array().unwrap())
    {
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

#[test]
fn ternary_products() {
    let Some(set) = vectors().into_iter().nth(1) else {
        return;
    };
    let mut hex = "";
    let mut seen = 0;
    for vector in set["ternary_linear"].as_array().unwrap() {
        let dtype = dtype(vector["form"].as_str().unwrap());
        match vector["w_hex"].as_str().unwrap() {
            "as previous" => {}
            given => hex = given,
        }
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let [rows, cols] = ["M", "K"].map(|size| vector[size].as_u64().unwrap() as usize);
        let x = floats(&vector["x"]);
        let view = TensorView::new("w", dtype, rows, cols, &bytes).unwrap();
        for kernels in Level::ALL
            .into_iter()
            .filter_map(|level| Kernels::new(level).ok())
        {
            for packing in Packing::ALL {
                let mut weights = PackedTernary::pack(&view, kernels, &arena()).unwrap();
                // A matrix with code 3 stays in 2 bits.
                let packed = weights.repack(packing);
                assert!(packed || weights.has_code_3(), "{dtype}");
                let layout = QuantizedLayout::per_token(cols);
                let mut quantized = QuantizedActivations::new(layout, 1, &arena()).unwrap();
                kernels.quantize_row(layout, &x, quantized.row_mut(0));
                for (activations, expected, limit) in [
                    (ActivationView::I8(quantized.rows(1)), "y_a8", 1e-5),
                    (
                        ActivationView::F32(MatRef::from_slice(&x, cols)),
                        "y_float",
                        2e-5,
                    ),
                ] {
                    let mut y = vec![0.0; rows];
                    weights.matmul(0..rows, activations, MatMut::from_slice(&mut y, rows));
                    for (got, expected) in y.iter().zip(floats(&vector[expected])) {
                        assert!(
                            (got - expected).abs() <= limit * expected.abs().max(1.0),
                            "{dtype} {packing}, {}: {got} {expected}",
                            kernels.level()
                        );
                    }
                }
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 15);
}
