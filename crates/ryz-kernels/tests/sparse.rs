//! Sparse products: the bits of the packed matrix, whatever is left out, on every level.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, Kernels, Line, LineOrder, Linear, PackedTernary, QuantizedLayout, ScaleLayout,
    SparseTernary, TiledActivations,
};
use ryz_tmac::MatMut;

const ORDERS: [LineOrder; 2] = [LineOrder::Rows, LineOrder::Columns];

fn pack(dtype: DType, rows: usize, cols: usize, bytes: &[u8], kernels: Kernels) -> PackedTernary {
    let scale = if dtype.has_tensor_scale() { 0.75 } else { 1.0 };
    let view = TensorView::with_scale("w", dtype, rows, cols, bytes, scale).unwrap();
    PackedTernary::pack(&view, kernels, &arena()).unwrap()
}

fn sparse(packed: PackedTernary, order: LineOrder) -> SparseTernary {
    SparseTernary::new(packed, order, &arena())
        .unwrap()
        .expect("the shape fits")
}

/// Activations of which a share is 0, which reach the ends at times.
fn some_active(random: &mut Random, tokens: usize, cols: usize) -> Vec<f32> {
    let mut x = activations(random, tokens, cols);
    for x in x.chunks_exact_mut(cols) {
        let active = random.pick(&[0, 1, 10, 33, 50, 100]);
        for x in x {
            if random.below(100) >= active {
                *x = 0.0;
            }
        }
    }
    x
}

/// Every count of tokens, on every level: lists, gathers, and tiles laid out anew.
#[test]
fn both_orders_equal_the_packed_matrix() {
    let mut random = seed("both_orders_equal_the_packed_matrix");
    let mut levels = levels();
    levels.push(scalar());
    for round in 0..40 {
        let dtype = random.pick(&[DType::I2S, DType::TQ2_0, DType::TQ2_0, DType::TQ1_0]);
        let rows = 256 * (1 + random.below(3));
        let cols = 256 * (1 + random.below(5));
        let codes = match dtype {
            DType::TQ2_0 => random.pick(&[3, 4]),
            _ => 3,
        };
        let rule = random.pick(&[ScaleRule::Same, ScaleRule::PerRow]);
        let bytes = ternary_blocks(&mut random, dtype, rows, cols, codes, rule);
        let tokens = random.pick(&[1, 1, 2, 3, 4, 9, 33, 70]);
        let x = some_active(&mut random, tokens, cols);
        let what = format!("round {round}: {dtype} {rows}×{cols}, {tokens} tokens, {rule:?}");
        let layouts = [
            QuantizedLayout::per_token(cols),
            QuantizedLayout::per_group(cols, 128),
        ];
        for layout in layouts {
            let quantized = quantized(scalar(), layout, &x, &arena());
            let input = ActivationView::I8(quantized.rows(tokens));
            let packed = Linear::Ternary(pack(dtype, rows, cols, &bytes, scalar()));
            let expected = product(&packed, input);
            let expected_f32 = product(&packed, f32_view(&x, cols));
            for order in ORDERS {
                for &kernels in &levels {
                    let packed = pack(dtype, rows, cols, &bytes, kernels);
                    let mut weights = sparse(packed, order);
                    let mut staging = vec![Line([0; 64]); weights.piece_lines()];
                    weights.lay_out(true, &mut staging);
                    let tiled = Linear::Sparse(weights);
                    assert_same(&product(&tiled, input), &expected, || {
                        format!("laid out as tiles, {what}")
                    });
                    let Linear::Sparse(mut weights) = tiled else {
                        unreachable!()
                    };
                    weights.lay_out(false, &mut staging);
                    let weights = Linear::Sparse(weights);
                    let name = weights.kernel_name(true);
                    assert_same(&product(&weights, input), &expected, || {
                        format!("{name}, {what}")
                    });
                    let tiled =
                        TiledActivations::of_rows(quantized.rows(tokens), kernels, &arena())
                            .unwrap();
                    let got = product(&weights, tiled.view(quantized.rows(tokens)));
                    assert_same(&got, &expected, || format!("{name}, tiles, {what}"));
                    let got = product(&weights, f32_view(&x, cols));
                    assert_same(&got, &expected_f32, || format!("{name}, f32, {what}"));
                }
            }
        }
    }
}

/// int16 and int32 sums at their ends: 2^16 columns of code 3 and −128 or 127, and of code 2.
#[test]
fn extreme_operands_do_not_overflow() {
    let mut levels = levels();
    levels.push(scalar());
    for (cols, order) in [(1 << 16, LineOrder::Columns), (1 << 16, LineOrder::Rows)] {
        for code in [2u8, 3] {
            let rows = order.row_granule();
            let mut bytes = Vec::new();
            for _ in 0..rows * cols / 256 {
                bytes.extend_from_slice(&[code * 0x55; 64]);
                bytes.extend_from_slice(&0x3c00u16.to_le_bytes());
            }
            for q in [-1.0, 1.0] {
                let x = vec![q; 15 * cols];
                let layout = QuantizedLayout::per_token(cols);
                let quantized = quantized(scalar(), layout, &x, &arena());
                let values = quantized.rows(1).values(0);
                assert!(values.iter().all(|&value| value == 127 * q as i8));
                for &kernels in &levels {
                    let weights = sparse(pack(DType::TQ2_0, rows, cols, &bytes, kernels), order);
                    let weights = Linear::Sparse(weights);
                    let factor = quantized.rows(1).factors(0)[0];
                    let sum = (i32::from(code) - 1) * 127 * cols as i32 * q as i32;
                    let expected = sum as f32 / factor;
                    let name = weights.kernel_name(true);
                    // As many as share what is unpacked: 1, 2, 8, and 8, 4 and 3.
                    for tokens in [1, 2, 8, 15] {
                        let got = product(&weights, ActivationView::I8(quantized.rows(tokens)));
                        assert!(got.iter().all(|&y| y == expected), "{name}, code {code}");
                    }
                }
            }
        }
    }
}

#[test]
fn listed_rows_are_those_of_the_product_and_others_stay() {
    let mut random = seed("listed_rows_are_those_of_the_product_and_others_stay");
    let (rows, cols, tokens) = (96, 512, 3);
    let bytes = ternary_blocks(&mut random, DType::TQ2_0, rows, cols, 4, ScaleRule::PerRow);
    let x = activations(&mut random, tokens, cols);
    let mut levels = levels();
    levels.push(scalar());
    for kernels in levels {
        let layout = QuantizedLayout::per_token(cols);
        let quantized = quantized(kernels, layout, &x, &arena());
        let packed = pack(DType::TQ2_0, rows, cols, &bytes, kernels);
        let weights = sparse(packed, LineOrder::Rows);
        let (first, end) = (16, 80);
        for token in 0..tokens {
            let list: Vec<u32> = (first..end).filter(|_| random.below(3) == 0).collect();
            let mut out = vec![7.0; (end - first) as usize];
            let all = quantized.rows(tokens);
            weights.multiply_rows(&list, first as usize, all, token, &mut out);
            let mut expected = vec![0.0; rows * tokens];
            let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
            weights.matmul(
                0..rows,
                ActivationView::I8(all),
                &mut scratch,
                MatMut::from_slice(&mut expected, rows),
            );
            for (row, &got) in (first..end).zip(&out) {
                let expected = match list.contains(&row) {
                    true => expected[token * rows + row as usize],
                    false => 7.0,
                };
                assert_eq!(got.to_bits(), expected.to_bits(), "row {row}");
            }
        }
    }
}

#[test]
fn rows_are_decoded_exactly_and_ranges_are_parts() {
    let mut random = seed("rows_are_decoded_exactly_and_ranges_are_parts");
    let (rows, cols) = (768, 256);
    let bytes = ternary_blocks(&mut random, DType::TQ2_0, rows, cols, 4, ScaleRule::PerRow);
    for order in ORDERS {
        for (tokens, tiled) in [(1, false), (1, true), (5, false), (5, true)] {
            let x = some_active(&mut random, tokens, cols);
            let quantized = quantized(
                Kernels::default(),
                QuantizedLayout::per_token(cols),
                &x,
                &arena(),
            );
            let input = ActivationView::I8(quantized.rows(tokens));
            let packed = pack(DType::TQ2_0, rows, cols, &bytes, Kernels::default());
            let (mut expected, mut got) = (vec![0.0; cols], vec![0.0; cols]);
            let mut weights = sparse(
                pack(DType::TQ2_0, rows, cols, &bytes, Kernels::default()),
                order,
            );
            let mut staging = vec![Line([0; 64]); weights.piece_lines()];
            weights.lay_out(tiled, &mut staging);
            for row in 0..rows {
                packed.decode_row(row, &mut expected);
                weights.decode_row(row, &mut got);
                assert_same(&got, &expected, || format!("{order:?}, row {row}"));
            }
            let whole = product(&Linear::Ternary(packed), input);
            let cut = 2 * order.row_granule();
            for range in [0..cut, cut..rows] {
                let mut out = vec![0.0; tokens * range.len()];
                let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
                let view = MatMut::from_slice(&mut out, range.len());
                weights.matmul(range.clone(), input, &mut scratch, view);
                for (token, out) in out.chunks_exact(range.len()).enumerate() {
                    let whole = &whole[token * rows..][..rows];
                    assert_same(out, &whole[range.clone()], || format!("{order:?}"));
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_stays_packed() {
    let mut random = seed("what_does_not_fit_stays_packed");
    let cases = [
        (LineOrder::Columns, 240, 256, ScaleRule::Same),
        (LineOrder::Rows, 16, 64, ScaleRule::Same),
        (LineOrder::Rows, 24, 256, ScaleRule::Same),
        (LineOrder::Columns, 256, 512, ScaleRule::Any),
    ];
    for (order, rows, cols, rule) in cases {
        let dtype = match cols {
            64 => DType::Q2_0G64,
            _ => DType::TQ2_0,
        };
        let bytes = ternary_blocks(&mut random, dtype, rows, cols, 3, rule);
        let packed = pack(dtype, rows, cols, &bytes, Kernels::default());
        let layout = packed.scale_layout();
        let back = SparseTernary::new(packed, order, &arena())
            .unwrap()
            .expect_err("it does not fit");
        assert_eq!((back.rows(), back.scale_layout()), (rows, layout));
        if rule == ScaleRule::Any {
            assert!(matches!(layout, ScaleLayout::PerGroup(_)));
        }
    }
}
