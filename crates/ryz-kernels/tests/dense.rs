//! Dense products: every level against the reference bit for bit, decoding against the format crate's decoder.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, COARSE_FLOOR, DenseWeight, KernelError, Kernels, Line, Linear, PreparedInput,
    QuantizedLayout,
};
use ryz_tmac::{BufferKind, MatMut};

fn dense(
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
    kernels: Kernels,
) -> Result<Linear, KernelError> {
    let mut buffer = arena().allocate(bytes.len(), BufferKind::Weights).unwrap();
    buffer.as_bytes_mut().copy_from_slice(bytes);
    DenseWeight::new("w", dtype, rows, cols, buffer, kernels).map(Linear::Dense)
}

fn types() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| !dtype.is_ternary())
}

#[test]
fn every_level_equals_the_reference() {
    let mut random = seed("dense: every_level_equals_the_reference");
    let levels = levels();
    for dtype in types() {
        for _ in 0..8 {
            let rows = 1 + random.below(22);
            let cols = if dtype.is_float() {
                1 + random.below(300)
            } else {
                dtype.block_values() * (1 + random.below(512 / dtype.block_values() + 1))
            };
            let tokens = random.pick(&[1, 2, 4, 5, 9, 16, 37]);
            let bytes = dense_blocks(&mut random, dtype, rows, cols);
            let x = activations(&mut random, tokens, cols);
            let mut weights = dense(dtype, rows, cols, &bytes, scalar()).unwrap();
            let what = format!("{dtype} {rows}×{cols}, {tokens} tokens");
            let view = TensorView::new("w", dtype, rows, cols, &bytes).unwrap();
            let decoded: Vec<Vec<f32>> = (0..rows)
                .map(|row| {
                    let mut out = vec![0.0; cols];
                    view.decode_row(row, &mut out);
                    out
                })
                .collect();
            let layouts = [
                None,
                Some(QuantizedLayout::per_token(cols)),
                Some(QuantizedLayout::per_group(cols, 64)),
            ];
            for layout in layouts {
                let quantized = quantized(
                    scalar(),
                    layout.unwrap_or(QuantizedLayout::per_token(cols)),
                    &x,
                    &arena(),
                );
                let input = match layout {
                    None => f32_view(&x, cols),
                    Some(_) => ActivationView::I8(quantized.rows(tokens)),
                };
                weights.set_kernels(scalar());
                let expected = product(&weights, input);
                for &kernels in &levels {
                    weights.set_kernels(kernels);
                    assert_same(&product(&weights, input), &expected, || {
                        format!("{what}, {}", kernels.level())
                    });
                    let mut row = vec![0.0; cols];
                    for (index, decoded) in decoded.iter().enumerate() {
                        weights.embedding_row(index, &mut row);
                        assert_same(&row, decoded, || {
                            format!("{what}, {}, row {index}", kernels.level())
                        });
                    }
                    let range = rows / 2..rows;
                    let mut part = vec![0.0; tokens * range.len()];
                    let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
                    weights.matmul(
                        range.clone(),
                        input,
                        &mut scratch,
                        MatMut::from_slice(&mut part, range.len()),
                    );
                    for (token, part) in part.chunks_exact(range.len()).enumerate() {
                        let whole = &expected[token * rows..][..rows];
                        assert_same(part, &whole[range.clone()], || what.clone());
                    }
                }
                // The equation, by the vector kernel: the same lanes, the same tree.
                for token in 0..tokens {
                    let (x, divisor): (Vec<f32>, f32) = match layout {
                        None => (x[token * cols..][..cols].to_vec(), 1.0),
                        Some(layout) => {
                            let rows = quantized.rows(tokens);
                            let (values, factors) = (rows.values(token), rows.factors(token));
                            let float = |(i, &q): (usize, &i8)| match layout.group() {
                                None => f32::from(q),
                                Some(group) => f32::from(q) * factors[i / group],
                            };
                            let x = values.iter().enumerate().map(float).collect();
                            (
                                x,
                                if layout.group().is_none() {
                                    factors[0]
                                } else {
                                    1.0
                                },
                            )
                        }
                    };
                    for (row, decoded) in decoded.iter().enumerate() {
                        if matches!(dtype, DType::Q4K | DType::Q6K) {
                            near_f64(&x, decoded, divisor, expected[token * rows + row], &what);
                            continue;
                        }
                        let y = scalar().dot_f32(&x, decoded) / divisor;
                        assert_same(&expected[token * rows + row..][..1], &[y], || {
                            format!("{what}, {layout:?}")
                        });
                    }
                }
            }
        }
    }
}

/// Fixed-point products: as near to f64 as f32 sums have to be, by the largest activation and the sum of all products.
fn near_f64(x: &[f32], weights: &[f32], divisor: f32, got: f32, what: &str) {
    let product = |(&x, &w): (&f32, &f32)| f64::from(x) * f64::from(w);
    let exact = x.iter().zip(weights).map(product).sum::<f64>() / f64::from(divisor);
    let greatest = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let of_rounding: f64 = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>();
    let of_sums: f64 = x.iter().zip(weights).map(|pair| product(pair).abs()).sum();
    // 2^-23 each at most, and the minima that are taken off what codes gave: those are not larger than the weights' range.
    let scale = (f64::from(greatest) * of_rounding + of_sums) / f64::from(divisor.abs());
    let error = (f64::from(got) - exact).abs();
    assert!(
        error <= scale * 2.4e-7,
        "{what}: {got} for {exact}, {error:e} of {scale:e}"
    );
}

/// Panels and strips: more columns and rows than either, with as many tokens as share them, each as if it were alone.
#[test]
fn a_batch_in_fixed_point_is_its_tokens_alone() {
    let mut random = seed("dense: a_batch_in_fixed_point_is_its_tokens_alone");
    for kernels in levels().into_iter().chain([scalar()]) {
        for dtype in [DType::Q4K, DType::Q6K] {
            let (rows, cols) = (35, 256 * (1 + random.below(21)));
            let bytes = dense_blocks(&mut random, dtype, rows, cols);
            let weights = dense(dtype, rows, cols, &bytes, kernels).unwrap();
            for tokens in [2, 3, 7, 16, 19] {
                let x = random.floats(tokens * cols);
                let together = product(&weights, f32_view(&x, cols));
                let alone = x.chunks_exact(cols);
                let alone: Vec<f32> = alone
                    .flat_map(|x| product(&weights, f32_view(x, cols)))
                    .collect();
                assert_same(&together, &alone, || {
                    format!(
                        "{dtype} {rows}×{cols}, {tokens} tokens, {}",
                        kernels.level()
                    )
                });
            }
        }
    }
}

/// What a product has made of its activations serves the next rows, and is not taken for another number of tokens.
#[test]
fn pieces_of_a_product_share_what_was_made_of_activations() {
    let mut random = seed("dense: pieces_of_a_product_share_what_was_made_of_activations");
    for kernels in levels().into_iter().chain([scalar()]) {
        for dtype in [DType::Q4K, DType::Q6K, DType::Q8_0] {
            let (rows, cols) = (40, 512);
            let bytes = dense_blocks(&mut random, dtype, rows, cols);
            let weights = dense(dtype, rows, cols, &bytes, kernels).unwrap();
            let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
            let mut prepared = PreparedInput::default();
            for tokens in [1, 3, 16, 19] {
                let x = random.floats(tokens * cols);
                let whole = product(&weights, f32_view(&x, cols));
                for range in [0..16, 16..32, 32..rows] {
                    let mut part = vec![0.0; tokens * range.len()];
                    weights.matmul_prepared(
                        range.clone(),
                        f32_view(&x, cols),
                        &mut scratch,
                        &mut prepared,
                        MatMut::from_slice(&mut part, range.len()),
                    );
                    for (token, part) in part.chunks_exact(range.len()).enumerate() {
                        let whole = &whole[token * rows..][range.clone()];
                        assert_same(part, whole, || {
                            format!("{dtype}, {tokens} tokens, {range:?}, {}", kernels.level())
                        });
                    }
                }
            }
        }
    }
}

/// The widest sums that the bounds of the module allow: the greatest codes of either sign, and activations that are all the
/// greatest.
#[test]
fn the_greatest_fixed_point_sums_fit() {
    for kernels in levels().into_iter().chain([scalar()]) {
        for (dtype, codes) in [(DType::Q4K, 16..144), (DType::Q6K, 0..192)] {
            for code in [0, 0xff] {
                let cols = 512;
                let mut bytes = vec![1; dtype.row_bytes(cols).unwrap()];
                let at: &[usize] = if dtype == DType::Q6K { &[208] } else { &[0, 2] };
                for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                    block[codes.clone()].fill(code);
                    for &at in at {
                        block[at..at + 2].copy_from_slice(&half_bits(1.0));
                    }
                }
                let weights = dense(dtype, 1, cols, &bytes, kernels).unwrap();
                let mut decoded = vec![0.0; cols];
                let view = TensorView::new("w", dtype, 1, cols, &bytes).unwrap();
                view.decode_row(0, &mut decoded);
                for x in [1.0, -1.0] {
                    let x = vec![x; cols];
                    let y = product(&weights, f32_view(&x, cols));
                    near_f64(&x, &decoded, 1.0, y[0], &format!("{dtype}, codes {code}"));
                    // All are the greatest, which lose nothing.
                    let off = f64::from((coarse(&weights, &x)[0] - y[0]).abs());
                    let bound =
                        f64::from(coarse_row_errors(&weights)[0]) * coarse_error(&weights, &x);
                    assert!(
                        off <= bound && bound < 1e-2 * f64::from(y[0].abs()).max(1.0),
                        "{off}, {bound}"
                    );
                }
            }
        }
    }
}

/// The coarse product of all rows, in pieces.
fn coarse(weights: &Linear, x: &[f32]) -> Vec<f32> {
    let Linear::Dense(weights) = weights else {
        unreachable!("it is dense")
    };
    let tokens = x.len() / weights.cols();
    let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
    let mut prepared = PreparedInput::default();
    let mut out = vec![0.0; tokens * weights.rows()];
    let first = weights.rows() / 3;
    for range in [0..first, first..weights.rows()] {
        if range.is_empty() {
            continue;
        }
        let mut part = vec![0.0; tokens * range.len()];
        weights.matmul_coarse(
            range.clone(),
            f32_view(x, weights.cols()),
            &mut scratch,
            &mut prepared,
            MatMut::from_slice(&mut part, range.len()),
        );
        for (token, part) in part.chunks_exact(range.len()).enumerate() {
            out[token * weights.rows()..][range.clone()].copy_from_slice(part);
        }
    }
    out
}

fn coarse_row_errors(weights: &Linear) -> Vec<f32> {
    let Linear::Dense(weights) = weights else {
        unreachable!("it is dense")
    };
    let mut errors = vec![0.0; weights.rows()];
    weights.coarse_row_errors(0, &mut errors);
    errors
}

fn coarse_error(weights: &Linear, x: &[f32]) -> f64 {
    let Linear::Dense(weights) = weights else {
        unreachable!("it is dense")
    };
    weights.coarse_error(x).0
}

#[test]
fn coarse_products_are_alike_on_every_level_and_in_any_batch() {
    let mut random = seed("dense: coarse_products_are_alike_on_every_level_and_in_any_batch");
    for dtype in [DType::Q4K, DType::Q6K] {
        for tokens in [1, 2, 3, 8, 16, 19] {
            let (rows, cols) = (1 + random.below(40), 256 * (1 + random.below(12)));
            let bytes = dense_blocks(&mut random, dtype, rows, cols);
            let x = activations(&mut random, tokens, cols);
            let mut weights = dense(dtype, rows, cols, &bytes, scalar()).unwrap();
            let what = format!("{dtype} {rows}×{cols}, {tokens} tokens");
            let expected = coarse(&weights, &x);
            let alone = x.chunks_exact(cols).flat_map(|x| coarse(&weights, x));
            assert_same(&alone.collect::<Vec<_>>(), &expected, || what.clone());
            let errors = coarse_row_errors(&weights);
            for kernels in levels() {
                weights.set_kernels(kernels);
                let level = kernels.level();
                assert_same(&coarse(&weights, &x), &expected, || {
                    format!("{what}, {level}")
                });
                assert_same(&coarse_row_errors(&weights), &errors, || {
                    format!("{what}, {level}")
                });
            }
        }
    }
}

/// Also with activations that take the bound of a row to its end, or nearly: each loses almost half a step, with the sign of its
/// weight.
#[test]
fn coarse_products_are_within_their_bound() {
    let mut random = seed("dense: coarse_products_are_within_their_bound");
    for dtype in [DType::Q4K, DType::Q6K] {
        let mut worst = 0.0f64;
        for round in 0..60 {
            let (rows, cols) = (24, 256 * (1 + random.below(8)));
            let bytes = dense_blocks(&mut random, dtype, rows, cols);
            let weights = dense(dtype, rows, cols, &bytes, Kernels::default()).unwrap();
            let size = random.pick(&[1e-20f32, 1e-3, 1.0, 1e6]);
            let mut x: Vec<f32> = random.floats(cols).iter().map(|x| x * size).collect();
            let mut decoded = vec![0.0; cols];
            match round % 3 {
                // One that is much larger than the others, which lose all.
                0 => x[round] = 300.0 * size,
                1 => {
                    weights.embedding_row(round % rows, &mut decoded);
                    for (x, w) in x.iter_mut().zip(&decoded) {
                        let step = random.below(251) as f32 - 125.0;
                        *x = (step + 0.499f32.copysign(*w)) * size;
                    }
                    x[round] = 127.0 * size;
                }
                _ => {}
            }
            let (exact, near) = (product(&weights, f32_view(&x, cols)), coarse(&weights, &x));
            let (errors, error) = (coarse_row_errors(&weights), coarse_error(&weights, &x));
            for row in 0..rows {
                weights.embedding_row(row, &mut decoded);
                let squares = decoded.iter().map(|&w| f64::from(w).powi(2));
                let norm = squares.sum::<f64>().sqrt();
                let of_row = f64::from(errors[row]);
                // Of random blocks of Q4_K what is left of codes and minima is little less than these.
                assert!(
                    of_row >= norm && of_row < 1.02 * norm + 1e-30,
                    "{dtype}, row {row}: {of_row} of {norm}"
                );
                let bound = of_row * error + f64::from(COARSE_FLOOR);
                let off = (f64::from(exact[row]) - f64::from(near[row])).abs();
                assert!(off <= bound, "{dtype} {cols}, row {row}: {off} of {bound}");
                worst = worst.max(off / bound);
            }
        }
        assert!(
            worst > 0.7,
            "{dtype}: the bound is {worst} of what it could be"
        );
    }
}

#[test]
fn what_is_not_finite_has_no_bound() {
    for dtype in [DType::Q4K, DType::Q6K] {
        let cols = 256;
        let mut bytes = vec![1; 2 * dtype.row_bytes(cols).unwrap()];
        let scale = if dtype == DType::Q6K { 208 } else { 0 };
        bytes[scale..scale + 2].copy_from_slice(&half_bits(f32::INFINITY));
        let weights = dense(dtype, 2, cols, &bytes, Kernels::default()).unwrap();
        let errors = coarse_row_errors(&weights);
        assert!(
            !errors[0].is_finite() && errors[1].is_finite(),
            "{errors:?}"
        );
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; cols];
            x[77] = bad;
            assert_eq!(coarse_error(&weights, &x), f64::INFINITY);
        }
        assert!(coarse_error(&weights, &vec![0.0; cols]).is_finite());
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let error = dense(DType::Q8_0, 2, 40, &[0; 68], scalar()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor w: expected columns in whole blocks of 32, got 40"
    );
    let error = dense(DType::Q8_0, 2, 32, &[0; 67], scalar()).unwrap_err();
    assert_eq!(error.to_string(), "tensor w: expected bytes 68, got 67");
    let error = dense(DType::TQ2_0, 1, 256, &[0; 66], scalar()).unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
}
