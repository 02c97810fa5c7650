//! Weights in 1.6 bits: every level's products against the reference's in 2 bits, bit for bit.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, Kernels, Line, Linear, PackedTernary, Packing, QuantizedLayout, TernaryPacker,
    TiledActivations,
};
use ryz_tmac::{InputFile, MappedSlice, MatMut};

fn packed(dtype: DType, rows: usize, cols: usize, bytes: &[u8], kernels: Kernels) -> PackedTernary {
    let scale = if dtype.has_tensor_scale() { 0.375 } else { 1.0 };
    let view = TensorView::with_scale("w", dtype, rows, cols, bytes, scale).unwrap();
    PackedTernary::pack(&view, kernels, &arena()).unwrap()
}

fn product(weights: &PackedTernary, x: ActivationView<'_>) -> Vec<f32> {
    let mut out = vec![0.0; x.tokens() * weights.rows()];
    let rows = weights.rows();
    weights.matmul(0..rows, x, MatMut::from_slice(&mut out, rows));
    out
}

fn layouts(cols: usize) -> [QuantizedLayout; 4] {
    [
        QuantizedLayout::per_token(cols),
        QuantizedLayout::per_group(cols, 64),
        QuantizedLayout::per_group(cols, 128),
        QuantizedLayout::per_group(cols, 256),
    ]
}

/// Ragged rows, and columns from one block on with every number of units left over.
#[test]
fn every_level_equals_two_bits() {
    let mut random = seed("every_level_equals_two_bits");
    let mut all = levels();
    all.push(scalar());
    for round in 0..60 {
        let dtype = random.pick(&TERNARY);
        let rows = 1 + random.below(70);
        let block = dtype.block_values();
        let least = 320usize.div_ceil(block);
        let cols = block * (least + random.below(2600 / block - least));
        let tokens = random.pick(&[1, 1, 2, 3, 8, 65, 70]);
        let rule = random.pick(&[ScaleRule::Same, ScaleRule::PerRow, ScaleRule::Any]);
        let what = format!("round {round}, {dtype} {rows}×{cols}, {tokens} tokens, {rule:?}");
        let bytes = ternary_blocks(&mut random, dtype, rows, cols, 3, rule);
        let x = activations(&mut random, tokens, cols);
        let expected_weights = packed(dtype, rows, cols, &bytes, scalar());
        let mut weights = packed(dtype, rows, cols, &bytes, scalar());
        let decode = |weights: &PackedTernary| {
            let mut decoded = vec![0.0; rows * cols];
            for (row, out) in decoded.chunks_exact_mut(cols).enumerate() {
                weights.decode_row(row, out);
            }
            decoded
        };
        let decoded = decode(&weights);
        for &kernels in &all {
            weights.set_kernels(kernels);
            assert!(weights.repack(Packing::Base3), "{what}");
            assert_eq!(weights.packing(), Packing::Base3);
            assert_eq!(weights.scale_layout(), expected_weights.scale_layout());
            assert_same(&decode(&weights), &decoded, || what.clone());
            for layout in layouts(cols) {
                let rows = quantized(scalar(), layout, &x, &arena());
                let rows = rows.rows(tokens);
                let expected = product(&expected_weights, ActivationView::I8(rows));
                let case = || format!("{}, {:?}, {what}", kernels.level(), layout.group());
                assert_same(
                    &product(&weights, ActivationView::I8(rows)),
                    &expected,
                    case,
                );
                let arena = arena();
                let tiled = TiledActivations::of_rows(rows, kernels, &arena).unwrap();
                assert_same(&product(&weights, tiled.view(rows)), &expected, case);
            }
            let expected = product(&expected_weights, f32_view(&x, cols));
            let got = product(&weights, f32_view(&x, cols));
            assert_same(&got, &expected, || format!("f32, {what}"));
            // Back, which another level then packs.
            assert!(weights.repack(Packing::TwoBits));
            let x = quantized(scalar(), layouts(cols)[0], &x, &arena());
            let x = ActivationView::I8(x.rows(tokens));
            let expected = product(&expected_weights, x);
            assert_same(&product(&weights, x), &expected, || format!("back, {what}"));
        }
    }
}

/// Every code the greatest or the least, every activation at an end of int8, as wide as can be packed.
#[test]
fn extreme_operands_do_not_overflow() {
    let mut all = levels();
    all.push(scalar());
    for byte in [0xaau8, 0x00] {
        for cols in [512, 4096, 32_768] {
            let mut bytes = vec![byte; 17 * cols / 256 * 66];
            for block in bytes.chunks_exact_mut(66) {
                block[64..].copy_from_slice(&half_bits(1.0));
            }
            let expected = packed(DType::TQ2_0, 17, cols, &bytes, scalar());
            for q in [-128i8, 127] {
                for layout in layouts(cols) {
                    let mut rows = quantized(scalar(), layout, &vec![1.0; cols], &arena());
                    let (units, lines) = (cols / 64, rows.row_mut(0));
                    for line in &mut lines[..units] {
                        line.0 = [q as u8; 64];
                    }
                    let sums = &mut lines[units..units + units.div_ceil(16)];
                    let sums = sums
                        .iter_mut()
                        .flat_map(|line| line.0.as_chunks_mut::<4>().0);
                    for sum in sums.take(units) {
                        *sum = (64 * i32::from(q)).to_le_bytes();
                    }
                    let x = ActivationView::I8(rows.rows(1));
                    let expected = product(&expected, x);
                    for &kernels in &all {
                        let mut weights = packed(DType::TQ2_0, 17, cols, &bytes, kernels);
                        assert!(weights.repack(Packing::Base3));
                        assert_same(&product(&weights, x), &expected, || {
                            let group = layout.group();
                            format!("{}, {cols} columns of {q}, {group:?}", kernels.level())
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn row_ranges_do_not_change_a_result() {
    let mut random = seed("row_ranges_do_not_change_a_result");
    let (rows, cols) = (200, 5 * 320 + 192);
    let bytes = ternary_blocks(
        &mut random,
        DType::Q2_0G128,
        rows,
        cols,
        3,
        ScaleRule::PerRow,
    );
    let x = activations(&mut random, 4, cols);
    for kernels in levels() {
        let mut weights = packed(DType::Q2_0G128, rows, cols, &bytes, kernels);
        assert!(weights.repack(Packing::Base3));
        let quantized = quantized(kernels, layouts(cols)[2], &x, &arena());
        for tokens in [1, 4] {
            let x = ActivationView::I8(quantized.rows(tokens));
            let whole = product(&weights, x);
            for range in [0..16, 16..192, 192..200] {
                let mut out = vec![0.0; tokens * range.len()];
                let view = MatMut::from_slice(&mut out, range.len());
                weights.matmul(range.clone(), x, view);
                for (out, whole) in out.chunks_exact(range.len()).zip(whole.chunks_exact(rows)) {
                    assert_same(out, &whole[range.clone()], || format!("{range:?}"));
                }
            }
        }
    }
}

/// Four fifths of the bytes where blocks are whole; the units left over stay what they are.
#[test]
fn packing_takes_less_memory_and_gives_it_back() {
    let mut random = seed("packing_takes_less_memory_and_gives_it_back");
    for (cols, lines) in [
        (2560, 8 * 16),
        (2048, 6 * 16 + 2 * 4),
        (6912, 21 * 16 + 3 * 4),
    ] {
        let rows = 2560;
        let bytes = ternary_blocks(&mut random, DType::I2S, rows, cols, 3, ScaleRule::Same);
        let mut weights = packed(DType::I2S, rows, cols, &bytes, Kernels::default());
        let two_bits = weights.packed_bytes();
        assert_eq!(two_bits, rows / 16 * (cols / 16) * 64 + 4);
        assert!(weights.repack(Packing::Base3));
        assert_eq!(weights.packed_bytes(), rows / 16 * lines * 64 + 4);
        assert!(weights.kernel_name(true).contains("_b3_"));
        assert!(weights.repack(Packing::TwoBits));
        assert_eq!(weights.packed_bytes(), two_bits);
        assert!(weights.kernel_name(true).contains("_t2_"));
    }
}

#[test]
fn what_does_not_fit_stays_in_two_bits() {
    let mut random = seed("what_does_not_fit_stays_in_two_bits");
    let mut refused = |cols: usize, codes: u8| {
        let bytes = ternary_blocks(&mut random, DType::Q2_0G64, 16, cols, codes, ScaleRule::Any);
        let mut weights = packed(DType::Q2_0G64, 16, cols, &bytes, Kernels::default());
        let fits = weights.fits_base3();
        assert_eq!(weights.repack(Packing::Base3), fits);
        assert!(weights.repack(Packing::TwoBits));
        !fits
    };
    assert!(refused(640, 4), "code 3");
    assert!(refused(256, 3), "narrow");
    assert!(refused(32_832, 3), "wide");
    assert!(!refused(320, 3) && !refused(32_768, 3));

    let cols = 320;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let count = TernaryPacker::line_count(16, cols);
    std::fs::write(&path, vec![0x55; count * 64]).unwrap();
    let arena = arena();
    let file = arena.map_file(&InputFile::open(&path).unwrap()).unwrap();
    let lines = MappedSlice::<Line>::new(&file, 0, count).unwrap();
    let kernels = Kernels::default();
    let packer = TernaryPacker::of_lines("w", DType::I2S, (16, cols), lines, kernels, &arena);
    let mut weights = packer.unwrap().finish_prepacked(1.0, &arena).unwrap();
    assert!(!weights.repack(Packing::Base3), "mapped");
    assert!(Linear::Ternary(weights).is_ternary());
}

#[test]
fn names_are_those_of_options() {
    for packing in Packing::ALL {
        assert_eq!(packing.name().parse::<Packing>().unwrap(), packing);
    }
    let error = "1.58".parse::<Packing>().unwrap_err().to_string();
    assert_eq!(
        error,
        "packing: expected one of 2-bit, 1.6-bit, got \"1.58\""
    );
}
