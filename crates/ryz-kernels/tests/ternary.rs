//! Ternary products: every level against the reference bit for bit, and the reference against f64.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, KernelError, KernelOptions, Kernels, Linear, PackedTernary, QuantizedLayout,
    ScaleLayout, TILE_TOKENS, TernaryPacker, TiledActivations,
};
use ryz_tmac::{MatMut, PrefetchManager};

fn view<'a>(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> TensorView<'a> {
    let scale = if dtype.has_tensor_scale() {
        -0.0625
    } else {
        1.0
    };
    TensorView::with_scale("w", dtype, rows, cols, bytes, scale).unwrap()
}

fn pack(view: &TensorView<'_>, kernels: Kernels) -> Linear {
    Linear::Ternary(PackedTernary::pack(view, kernels, &arena()).unwrap())
}

fn scale_layout(weights: &Linear) -> ScaleLayout {
    let Linear::Ternary(weights) = weights else {
        panic!("not ternary")
    };
    weights.scale_layout()
}

/// One random matrix and batch: the shapes, codes and scales that files may have.
struct Case {
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
    what: String,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let dtype = random.pick(&TERNARY);
        let rows = 1 + random.below(70);
        let block = dtype.block_values();
        let widest = random.pick(&[700, 700, 700, 2600]);
        let cols = block * (1 + random.below(widest / block));
        let tokens = random.pick(&[1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 17, 65, 70]);
        let codes = if matches!(dtype, DType::I2S | DType::TQ1_0) {
            3
        } else {
            random.pick(&[3, 3, 4])
        };
        let rule = random.pick(&[
            ScaleRule::Same,
            ScaleRule::PerRow,
            ScaleRule::Any,
            ScaleRule::Any,
        ]);
        let bytes = ternary_blocks(random, dtype, rows, cols, codes, rule);
        let x = activations(random, tokens, cols);
        let what =
            format!("{dtype} {rows}×{cols}, {tokens} tokens, {codes} codes, scales {rule:?}");
        Self {
            dtype,
            rows,
            cols,
            bytes,
            x,
            what,
        }
    }

    fn view(&self) -> TensorView<'_> {
        view(self.dtype, self.rows, self.cols, &self.bytes)
    }
}

fn layouts(cols: usize) -> [QuantizedLayout; 4] {
    [
        QuantizedLayout::per_token(cols),
        QuantizedLayout::per_group(cols, 64),
        QuantizedLayout::per_group(cols, 128),
        QuantizedLayout::per_group(cols, 256),
    ]
}

#[test]
fn every_level_equals_the_reference() {
    let mut random = seed("every_level_equals_the_reference");
    let levels = levels();
    for round in 0..120 {
        let case = Case::random(&mut random);
        let mut weights = pack(&case.view(), scalar());
        for layout in layouts(case.cols) {
            let expected = quantized(scalar(), layout, &case.x, &arena());
            let tokens = case.x.len() / case.cols;
            let expected_rows = expected.rows(tokens);
            weights.set_kernels(scalar());
            let product_expected = product(&weights, ActivationView::I8(expected_rows));
            for &kernels in &levels {
                let got = quantized(kernels, layout, &case.x, &arena());
                for token in 0..tokens {
                    assert_eq!(
                        got.rows(tokens).values(token),
                        expected_rows.values(token),
                        "{}",
                        case.what
                    );
                    assert_same(
                        got.rows(tokens).factors(token),
                        expected_rows.factors(token),
                        || case.what.clone(),
                    );
                }
                weights.set_kernels(kernels);
                let got = product(&weights, ActivationView::I8(got.rows(tokens)));
                assert_same(&got, &product_expected, || {
                    format!(
                        "round {round}, {}, {:?}, {}",
                        weights.kernel_name(true),
                        layout.group(),
                        case.what
                    )
                });
            }
        }
        weights.set_kernels(scalar());
        let expected = product(&weights, f32_view(&case.x, case.cols));
        for &kernels in &levels {
            weights.set_kernels(kernels);
            let got = product(&weights, f32_view(&case.x, case.cols));
            assert_same(&got, &expected, || {
                format!(
                    "round {round}, {}, {}",
                    weights.kernel_name(false),
                    case.what
                )
            });
        }
    }
}

/// The tiles of every level, from 0 to 3 of them and tokens left over, give the bits of the rows.
#[test]
fn tiles_equal_rows() {
    let mut random = seed("tiles_equal_rows");
    let mut all = levels();
    all.push(scalar());
    for round in 0..40 {
        let case = Case::random(&mut random);
        let tokens = random.pick(&[31, 32, 33, 64, 65, 96, 107]);
        let x = activations(&mut random, tokens, case.cols);
        let mut weights = pack(&case.view(), scalar());
        for layout in layouts(case.cols) {
            let rows = quantized(scalar(), layout, &x, &arena());
            let rows = rows.rows(tokens);
            weights.set_kernels(scalar());
            let expected = product(&weights, ActivationView::I8(rows));
            for &kernels in &all {
                let arena = arena();
                let tiled = TiledActivations::of_rows(rows, kernels, &arena).unwrap();
                assert_eq!(tiled.tiles().tokens(), tokens / TILE_TOKENS * TILE_TOKENS);
                let mut values = vec![0; case.cols];
                for token in 0..tiled.tiles().tokens() {
                    tiled.tiles().values(token, &mut values);
                    assert_eq!(values, rows.values(token), "token {token}, {}", case.what);
                }
                weights.set_kernels(kernels);
                let got = product(&weights, tiled.view(rows));
                assert_same(&got, &expected, || {
                    format!(
                        "round {round}, {tokens} tokens, {}, {:?}, {}",
                        kernels.names()[1],
                        layout.group(),
                        case.what
                    )
                });
                // Some rows of the matrix.
                let start = (16 * random.below(case.rows.div_ceil(16))).min(case.rows);
                if start == case.rows {
                    continue;
                }
                let range = start..start + 1 + random.below(case.rows - start);
                let mut out = vec![0.0; tokens * range.len()];
                let view = MatMut::from_slice(&mut out, range.len());
                weights.matmul(range.clone(), tiled.view(rows), &mut [], view);
                for (token, out) in out.chunks_exact(range.len()).enumerate() {
                    let whole = &expected[token * case.rows..][..case.rows];
                    assert_same(out, &whole[range.clone()], || case.what.clone());
                }
            }
        }
    }
}

/// Distances from none to far past the end of the weights.
#[test]
fn prefetching_changes_no_result() {
    let mut random = seed("prefetching_changes_no_result");
    let case = Case::random(&mut random);
    let x = activations(&mut random, 33, case.cols);
    let mut all = levels();
    all.push(scalar());
    for kernels in all {
        let rows = quantized(kernels, layouts(case.cols)[0], &x, &arena());
        let mut weights = pack(&case.view(), kernels);
        let expected = product(&weights, ActivationView::I8(rows.rows(33)));
        for lines in [0, 1, 64, PrefetchManager::MAX_LINES] {
            let kernels = kernels.with_options(KernelOptions {
                prefetch: PrefetchManager::new(lines),
                ..KernelOptions::default()
            });
            assert_eq!(kernels.prefetch().lines(), lines);
            weights.set_kernels(kernels);
            for tokens in [1, 33] {
                let got = product(&weights, ActivationView::I8(rows.rows(tokens)));
                assert_same(&got, &expected[..tokens * case.rows], || case.what.clone());
            }
        }
    }
}

/// The widest sums: every code the greatest, every activation at an end of int8, in matrices as wide as models have.
#[test]
fn extreme_operands_do_not_overflow() {
    const TOKENS: usize = 2 * TILE_TOKENS;
    let mut all = levels();
    all.push(scalar());
    for (codes, byte) in [(2, 0xaa), (3, 0xff), (0, 0x00)] {
        for cols in [256, 4096, 28_672] {
            let mut bytes = vec![byte; 17 * cols / 256 * 66];
            for block in bytes.chunks_exact_mut(66) {
                block[64..].copy_from_slice(&half_bits(1.0));
            }
            let mut weights = pack(&view(DType::TQ2_0, 17, cols, &bytes), scalar());
            for sign in [1.0f32, -1.0] {
                // 127 in all; then −128, which only rounding up reaches, by records written here.
                let x = vec![sign; TOKENS * cols];
                for layout in layouts(cols) {
                    let mut rows = quantized(scalar(), layout, &x, &arena());
                    let q = if sign < 0.0 { -128i64 } else { 127 };
                    for token in 0..TOKENS {
                        let lines = rows.row_mut(token);
                        let units = cols / 64;
                        for line in &mut lines[..units] {
                            line.0 = [q as i8 as u8; 64];
                        }
                        let sums = &mut lines[units..units + units.div_ceil(16)];
                        for (i, sum) in sums
                            .iter_mut()
                            .flat_map(|line| line.0.as_chunks_mut::<4>().0)
                            .enumerate()
                        {
                            *sum = if i < units {
                                (64 * q as i32).to_le_bytes()
                            } else {
                                [0; 4]
                            };
                        }
                    }
                    let expected = (codes - 1) as f64 * q as f64 * cols as f64 / 127.0;
                    for &kernels in &all {
                        weights.set_kernels(kernels);
                        let tiled = TiledActivations::of_rows(rows.rows(TOKENS), kernels, &arena());
                        let tiled = tiled.unwrap();
                        // As many as share what is unpacked: 1, 2, and 8, 4 and 3.
                        for tokens in [1, 2, 15, TOKENS] {
                            let x = match tokens {
                                TOKENS => tiled.view(rows.rows(TOKENS)),
                                _ => ActivationView::I8(rows.rows(tokens)),
                            };
                            let got = product(&weights, x);
                            for got in got {
                                let error = (f64::from(got) - expected).abs();
                                assert!(
                                    error <= 1e-5 * expected.abs(),
                                    "{}: code {codes}, {cols} columns, {:?}: got {got}, expected {expected}",
                                    weights.kernel_name(true),
                                    layout.group()
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Weights and activations in f64: what every layout of scales must give.
///
/// Errors of f32: one rounding a group sum and one a scale's product, so relative to Σ|w·x| at most (units + 4) · 2^−24;
/// the f32 path at most (cols/16 + 5) · 2^−24.
#[test]
fn the_reference_agrees_with_f64() {
    let mut random = seed("the_reference_agrees_with_f64");
    for _ in 0..60 {
        let case = Case::random(&mut random);
        let weights = pack(&case.view(), scalar());
        let tokens = case.x.len() / case.cols;
        let decoded: Vec<Vec<f32>> = (0..case.rows)
            .map(|row| {
                let mut out = vec![0.0; case.cols];
                case.view().decode_row(row, &mut out);
                let mut ours = vec![0.0; case.cols];
                weights.embedding_row(row, &mut ours);
                assert_eq!(ours, out, "row {row}, {}", case.what);
                out
            })
            .collect();
        let check = |got: &[f32], x: &dyn Fn(usize, usize) -> f64, roundings: usize, what: &str| {
            for token in 0..tokens {
                for (row, weights) in decoded.iter().enumerate() {
                    let terms = weights
                        .iter()
                        .enumerate()
                        .map(|(col, &w)| f64::from(w) * x(token, col));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                        (sum + term, size + term.abs())
                    });
                    let got = f64::from(got[token * case.rows + row]);
                    let bound = size * roundings as f64 * 2f64.powi(-24) + 1e-40;
                    assert!(
                        (got - sum).abs() <= bound,
                        "{what}, {}: got {got}, expected {sum}",
                        case.what
                    );
                }
            }
        };
        for layout in layouts(case.cols) {
            let rows = quantized(scalar(), layout, &case.x, &arena());
            let rows = rows.rows(tokens);
            let x = |token: usize, col: usize| {
                let q = f64::from(rows.values(token)[col]);
                match layout.group() {
                    None => q / f64::from(rows.factors(token)[0]),
                    Some(group) => q * f64::from(rows.factors(token)[col / group]),
                }
            };
            let got = product(&weights, ActivationView::I8(rows));
            check(
                &got,
                &x,
                case.cols / 64 + 5,
                &format!("{:?}", layout.group()),
            );
        }
        let got = product(&weights, f32_view(&case.x, case.cols));
        check(
            &got,
            &|token, col| f64::from(case.x[token * case.cols + col]),
            case.cols / 16 + 6,
            "f32",
        );
    }
}

#[test]
fn tokens_and_row_ranges_do_not_change_a_result() {
    let mut random = seed("tokens_and_row_ranges_do_not_change_a_result");
    let mut all = levels();
    all.push(scalar());
    for _ in 0..12 {
        let case = Case::random(&mut random);
        let x = activations(&mut random, 19, case.cols);
        for &kernels in &all {
            let weights = pack(&case.view(), kernels);
            for layout in layouts(case.cols).into_iter().map(Some).chain([None]) {
                let rows = quantized(
                    kernels,
                    layout.unwrap_or(layouts(case.cols)[0]),
                    &x,
                    &arena(),
                );
                let view = |tokens: usize| match layout {
                    Some(_) => ActivationView::I8(rows.rows(tokens)),
                    None => f32_view(&x[..tokens * case.cols], case.cols),
                };
                let whole = product(&weights, view(19));
                for tokens in [1, 2, 4, 11] {
                    assert_same(
                        &product(&weights, view(tokens)),
                        &whole[..tokens * case.rows],
                        || case.what.clone(),
                    );
                }
                let split = (16 * random.below(case.rows.div_ceil(16))).min(case.rows);
                for range in [0..split, split..case.rows] {
                    let mut out = vec![0.0; 19 * range.len()];
                    if range.is_empty() {
                        continue;
                    }
                    weights.matmul(
                        range.clone(),
                        view(19),
                        &mut [],
                        MatMut::from_slice(&mut out, range.len()),
                    );
                    for (token, out) in out.chunks_exact(range.len()).enumerate() {
                        let whole = &whole[token * case.rows..][..case.rows];
                        assert_same(out, &whole[range.clone()], || case.what.clone());
                    }
                }
            }
        }
    }
}

#[test]
fn the_f32_path_is_the_dense_product_of_the_decoded_weights() {
    let mut random = seed("the_f32_path_is_the_dense_product_of_the_decoded_weights");
    for kernels in levels() {
        let case = Case::random(&mut random);
        let weights = pack(&case.view(), kernels);
        let got = product(&weights, f32_view(&case.x, case.cols));
        let mut decoded = vec![0.0; case.cols];
        for row in 0..case.rows {
            weights.embedding_row(row, &mut decoded);
            for (token, x) in case.x.chunks_exact(case.cols).enumerate() {
                assert_eq!(
                    got[token * case.rows + row],
                    kernels.dot_f32(x, &decoded),
                    "{}",
                    case.what
                );
            }
        }
    }
}

#[test]
fn equal_scales_become_one() {
    let mut random = seed("equal_scales_become_one");
    let arena = arena();
    for dtype in TERNARY {
        let Some(at) = scale_at(dtype) else {
            continue;
        };
        let (rows, cols) = (33, 1024);
        let mut bytes = ternary_blocks(&mut random, dtype, rows, cols, 3, ScaleRule::Same);
        let row_bytes = dtype.row_bytes(cols).unwrap();
        let set = |bytes: &mut [u8], scale: &dyn Fn(usize, usize) -> f32| {
            for (row, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                for (block, bytes) in bytes.chunks_exact_mut(dtype.block_bytes()).enumerate() {
                    bytes[at..at + 2].copy_from_slice(&half_bits(scale(row, block)));
                }
            }
        };
        set(&mut bytes, &|_, _| -0.5);
        let weights = pack(&view(dtype, rows, cols, &bytes), scalar());
        assert_eq!(scale_layout(&weights), ScaleLayout::PerTensor, "{dtype}");
        // A block of zeroes fits any scale, whether its own is 0 or its codes say so.
        let zero_scale = |row: usize, block: usize| if (row, block) == (7, 1) { 0.0 } else { -0.5 };
        set(&mut bytes, &zero_scale);
        let weights = pack(&view(dtype, rows, cols, &bytes), scalar());
        assert_eq!(scale_layout(&weights), ScaleLayout::PerTensor, "{dtype}");
        let mut row = vec![1.0; cols];
        weights.embedding_row(7, &mut row);
        let group = dtype.block_values();
        assert!(row[group..2 * group].iter().all(|&w| w == 0.0));
        set(&mut bytes, &|row, _| row as f32 + 1.0);
        let weights = pack(&view(dtype, rows, cols, &bytes), scalar());
        assert_eq!(scale_layout(&weights), ScaleLayout::PerRow, "{dtype}");
        set(&mut bytes, &|row, block| (row + block) as f32 + 1.0);
        let weights = pack(&view(dtype, rows, cols, &bytes), scalar());
        assert_eq!(
            scale_layout(&weights),
            ScaleLayout::PerGroup(group),
            "{dtype}"
        );
        // No more memory than 2 bits a weight and a half a group, rows padded to tiles.
        assert_eq!(
            weights.packed_bytes(),
            48 * cols / 4 + 48 * (cols / group) * 2
        );
        set(&mut bytes, &|row, _| {
            if row == 3 { f32::INFINITY } else { 1.0 }
        });
        let error =
            PackedTernary::pack(&view(dtype, rows, cols, &bytes), scalar(), &arena).unwrap_err();
        assert!(
            matches!(error, KernelError::InvalidScale { row: 3, .. }),
            "{error}"
        );
        assert_eq!(error.code(), "INVALID_FILE");
    }
    assert_eq!(arena.stats().in_use, 0);
}

#[test]
fn code_3_is_plus_two_or_a_fault() {
    let mut bytes = vec![0xff; 66];
    bytes[64..].copy_from_slice(&half_bits(0.5));
    let weights =
        PackedTernary::pack(&view(DType::TQ2_0, 1, 256, &bytes), scalar(), &arena()).unwrap();
    assert!(weights.has_code_3());
    let mut row = [0.0; 256];
    weights.decode_row(0, &mut row);
    assert_eq!(row, [1.0; 256]);
    let mut bytes = vec![0x55; 5 * 32];
    bytes[4 * 32 + 9] = 0x75;
    let error =
        PackedTernary::pack(&view(DType::I2S, 5, 128, &bytes), scalar(), &arena()).unwrap_err();
    assert!(
        matches!(error, KernelError::InvalidCode { row: 4, got: 3, .. }),
        "{error}"
    );
}

#[test]
fn chunks_pack_what_the_whole_does() {
    let mut random = seed("chunks_pack_what_the_whole_does");
    let arena = arena();
    for dtype in TERNARY {
        let (rows, cols) = (100, 512);
        let bytes = ternary_blocks(&mut random, dtype, rows, cols, 3, ScaleRule::Any);
        let view = view(dtype, rows, cols, &bytes);
        let whole = pack(&view, scalar());
        let mut packer = TernaryPacker::new("w", dtype, rows, cols, scalar(), &arena).unwrap();
        std::thread::scope(|scope| {
            for mut chunk in packer.chunks(32) {
                scope.spawn(move || chunk.pack(&view.slice_rows(chunk.rows())).unwrap());
            }
        });
        let pieces = Linear::Ternary(packer.finish(&arena).unwrap());
        assert_eq!(scale_layout(&pieces), scale_layout(&whole));
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        for row in 0..rows {
            pieces.embedding_row(row, &mut a);
            whole.embedding_row(row, &mut b);
            assert_same(&a, &b, || format!("{dtype}, row {row}"));
        }
    }
}

#[test]
fn packed_rows_of_hugging_face() {
    // 8 × 5: packed rows 0 and 1 hold rows 0, 2, 4, 6 and 1, 3, 5, 7; a width that is no multiple of anything.
    let bytes = [
        0b00_01_10_00,
        0b10_10_10_10,
        0x55,
        0x00,
        0x99,
        0x56,
        0x50,
        0x05,
        0x9a,
        0x02,
    ];
    let view = TensorView::with_scale("w", DType::HfPacked, 8, 5, &bytes, 0.5).unwrap();
    let mut packer = TernaryPacker::new("w", DType::HfPacked, 8, 5, scalar(), &arena()).unwrap();
    for mut chunk in packer.chunks(16) {
        let first = chunk.rows().start;
        chunk.pack_rows_of(&view, first).unwrap();
    }
    let weights = Linear::Ternary(packer.finish(&arena()).unwrap());
    let x = [1.0, -2.0, 3.0, 0.5, 0.25];
    let y = product(&weights, f32_view(&x, 5));
    for (row, y) in y.into_iter().enumerate() {
        let (mut ours, mut expected) = ([0.0; 5], [0.0; 5]);
        view.decode_row(row, &mut expected);
        weights.embedding_row(row, &mut ours);
        assert_eq!(ours, expected);
        assert_eq!(y, expected.iter().zip(x).map(|(w, x)| w * x).sum::<f32>());
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let arena = arena();
    let error = TernaryPacker::new("w", DType::F16, 1, 64, scalar(), &arena).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor w: expected a ternary type, got F16"
    );
    let error = TernaryPacker::new("w", DType::TQ2_0, 1, 1 << 20, scalar(), &arena).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor w: expected columns from 1 to 262144, got 1048576"
    );
    let error =
        TernaryPacker::new("w", DType::TQ2_0, 1 << 40, 1 << 18, scalar(), &arena).unwrap_err();
    assert_eq!(error.code(), "INVALID_FILE");
}
