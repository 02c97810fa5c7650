//! The load-time check of a level's kernels against the reference: milliseconds, once a model.

use ryz_format::{DType, TensorView};
use ryz_tmac::{Arena, ArenaConfig, BufferKind, MatMut, MatRef};

use crate::{
    ActivationView, BatchLayout, DenseWeight, KernelError, Kernels, Level, Line, LineOrder,
    PackedTernary, Packing, PreparedInput, QuantizedActivations, QuantizedLayout, SparseTernary,
    TILE_TOKENS, TiledActivations,
};

/// Rows, columns and tokens of the cases: whole and partial tiles, more than one unpacked piece, every token path.
const ROWS: usize = 41;
const COLS: usize = 768;
const TOKENS: usize = 13;
/// Tokens of the cases in tiles: two together, one, and a token left over.
const TILED: usize = 3 * TILE_TOKENS + 1;

/// Compares `kernels` with the reference, bit for bit, on small products of every kind.
///
/// # Errors
/// [`KernelError::SelfTest`], which names the kernel; [`KernelError::Memory`].
pub fn self_test(kernels: Kernels) -> Result<(), KernelError> {
    let reference = Kernels::new(Level::Scalar)?;
    let arena = Arena::new(ArenaConfig::default());
    let mut random = Random(0x5eed);
    let rows = match kernels.batch() {
        BatchLayout::Rows => TOKENS,
        BatchLayout::Tiles => TILED,
    };
    let x: Vec<f32> = (0..rows * COLS).map(|_| random.float() * 4.0).collect();
    for dtype in [
        DType::I2S,
        DType::TQ1_0,
        DType::TQ2_0,
        DType::Q2_0G64,
        DType::Q2_0G128,
    ] {
        let bytes = blocks(dtype, &mut random);
        let view = if dtype.has_tensor_scale() {
            TensorView::with_scale("self-test", dtype, ROWS, COLS, &bytes, 0.75)
        } else {
            TensorView::with_scale("self-test", dtype, ROWS, COLS, &bytes, 1.0)
        };
        let Ok(view) = view else {
            unreachable!("the bytes are as many as the shape needs")
        };
        let tested = PackedTernary::pack(&view, kernels, &arena)?;
        let expected = PackedTernary::pack(&view, reference, &arena)?;
        for group in [None, Some(128)] {
            let layout = match group {
                None => QuantizedLayout::per_token(COLS),
                Some(group) => QuantizedLayout::per_group(COLS, group),
            };
            let quantized = [kernels, reference].map(|kernels| {
                let mut quantized = QuantizedActivations::new(layout, rows, &arena)?;
                for (token, x) in x.chunks_exact(COLS).enumerate() {
                    kernels.quantize_row(layout, x, quantized.row_mut(token));
                }
                Ok::<_, KernelError>(quantized)
            });
            let [a, b] = quantized;
            let (a, b) = (a?, b?);
            if kernels.batch() == BatchLayout::Tiles {
                let rows = a.rows(TILED);
                let tiles = TiledActivations::of_rows(rows, kernels, &arena)?;
                compare(
                    tested.batch_kernel_name(),
                    || format!("{dtype}, {group:?}, {TILED} tokens in tiles"),
                    |out| tested.matmul(0..ROWS, tiles.view(rows), out),
                    |out| expected.matmul(0..ROWS, ActivationView::I8(b.rows(TILED)), out),
                    TILED,
                )?;
            }
            for tokens in [1, TOKENS] {
                compare(
                    tested.kernel_name(true),
                    || format!("{dtype}, {group:?}, {tokens} tokens"),
                    |out| tested.matmul(0..ROWS, ActivationView::I8(a.rows(tokens)), out),
                    |out| expected.matmul(0..ROWS, ActivationView::I8(b.rows(tokens)), out),
                    tokens,
                )?;
            }
        }
        for tokens in [1, TOKENS] {
            let x = ActivationView::F32(MatRef::from_slice(&x[..tokens * COLS], COLS));
            compare(
                tested.kernel_name(false),
                || format!("{dtype}, {tokens} tokens"),
                |out| tested.matmul(0..ROWS, x, out),
                |out| expected.matmul(0..ROWS, x, out),
                tokens,
            )?;
        }
    }
    base3(kernels, reference, &arena, &mut random)?;
    sparse(kernels, reference, &arena, &mut random)?;
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_ternary()) {
        let bytes = blocks(dtype, &mut random);
        let weights = [kernels, reference].map(|kernels| {
            let mut buffer = arena.allocate(bytes.len(), BufferKind::Scratch)?;
            buffer.as_bytes_mut().copy_from_slice(&bytes);
            DenseWeight::new("self-test", dtype, ROWS, COLS, buffer, kernels)
        });
        let [tested, expected] = weights;
        let (tested, expected) = (tested?, expected?);
        let scratch = || vec![Line([0; 64]); tested.scratch_lines()];
        for tokens in [1, TOKENS] {
            let x = ActivationView::F32(MatRef::from_slice(&x[..tokens * COLS], COLS));
            compare(
                tested.kernel_name(),
                || format!("{dtype}, {tokens} tokens"),
                |out| tested.matmul(0..ROWS, x, &mut scratch(), out),
                |out| expected.matmul(0..ROWS, x, &mut scratch(), out),
                tokens,
            )?;
            if !DenseWeight::has_coarse(dtype) {
                continue;
            }
            let coarse = |weights: &DenseWeight, out: MatMut<'_, f32>| {
                let mut prepared = PreparedInput::default();
                weights.matmul_coarse(0..ROWS, x, &mut scratch(), &mut prepared, out);
            };
            compare(
                kernels.set().coarse.name,
                || format!("{dtype}, {tokens} tokens, coarsely"),
                |out| coarse(&tested, out),
                |out| coarse(&expected, out),
                tokens,
            )?;
        }
    }
    Ok(())
}

/// Products with weights in 1.6 bits, against the reference's in 2: one token, and what is unpacked for several.
fn base3(
    kernels: Kernels,
    reference: Kernels,
    arena: &Arena,
    random: &mut Random,
) -> Result<(), KernelError> {
    let x: Vec<f32> = (0..2 * COLS).map(|_| random.float() * 4.0).collect();
    for (dtype, group) in [
        (DType::I2S, None),
        (DType::Q2_0G64, Some(64)),
        (DType::Q2_0G128, None),
        (DType::TQ1_0, Some(128)),
    ] {
        let mut bytes = blocks(dtype, random);
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            // Scales lie in front of the codes that may be 3.
            if let DType::Q2_0G64 | DType::Q2_0G128 = dtype {
                (block[2..].iter_mut()).for_each(|byte| *byte &= !((*byte & 0xaa) >> 1 & *byte));
            }
        }
        let Ok(view) = TensorView::with_scale("self-test", dtype, ROWS, COLS, &bytes, 1.0) else {
            unreachable!("the bytes are as many as the shape needs")
        };
        let mut tested = PackedTernary::pack(&view, kernels, arena)?;
        let expected = PackedTernary::pack(&view, reference, arena)?;
        assert!(tested.repack(Packing::Base3), "no code is 3");
        let layout = match group {
            None => QuantizedLayout::per_token(COLS),
            Some(group) => QuantizedLayout::per_group(COLS, group),
        };
        let mut rows = QuantizedActivations::new(layout, 2, arena)?;
        for (token, x) in x.chunks_exact(COLS).enumerate() {
            reference.quantize_row(layout, x, rows.row_mut(token));
        }
        for tokens in [1, 2] {
            let x = ActivationView::I8(rows.rows(tokens));
            compare(
                tested.kernel_name(true),
                || format!("{dtype} in 1.6 bits, {group:?}, {tokens} tokens"),
                |out| tested.matmul(0..ROWS, x, out),
                |out| expected.matmul(0..ROWS, x, out),
                tokens,
            )?;
        }
    }
    Ok(())
}

/// Products that leave columns out, and those of one row at a time, with codes up to 3.
fn sparse(
    kernels: Kernels,
    reference: Kernels,
    arena: &Arena,
    random: &mut Random,
) -> Result<(), KernelError> {
    const ROWS: usize = 256;
    let mut codes = vec![0; ROWS * COLS / 4];
    codes
        .iter_mut()
        .for_each(|byte| *byte = random.next() as u8);
    let mut bytes = Vec::new();
    for codes in codes.chunks_exact(64) {
        bytes.extend_from_slice(codes);
        bytes.extend_from_slice(&0x2e00u16.to_le_bytes());
    }
    let Ok(view) = TensorView::with_scale("self-test", DType::TQ2_0, ROWS, COLS, &bytes, 1.0)
    else {
        unreachable!("the bytes are as many as the shape needs")
    };
    // A third is 0.
    let x: Vec<f32> = (0..COLS)
        .map(|_| (random.float() * 1.5).max(-0.5) + 0.5)
        .collect();
    let layout = QuantizedLayout::per_token(COLS);
    let mut quantized = QuantizedActivations::new(layout, 1, arena)?;
    reference.quantize_row(layout, &x, quantized.row_mut(0));
    for order in [LineOrder::Rows, LineOrder::Columns] {
        let pack = |kernels| {
            let packed = PackedTernary::pack(&view, kernels, arena)?;
            match SparseTernary::new(packed, order, arena)? {
                Ok(sparse) => Ok::<_, KernelError>(sparse),
                Err(_) => unreachable!("the shape fits both orders"),
            }
        };
        let (tested, expected) = (pack(kernels)?, pack(reference)?);
        let multiply = |weights: &SparseTernary| {
            let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
            let mut out = vec![0.0; ROWS];
            let (rows, view) = (quantized.rows(1), MatMut::from_slice(&mut out, ROWS));
            weights.matmul(0..ROWS, ActivationView::I8(rows), &mut scratch, view);
            out
        };
        let (got, expected) = (multiply(&tested), multiply(&expected));
        let differs = |(got, expected): &(&f32, &f32)| got.to_bits() != expected.to_bits();
        if let Some((&got, &expected)) = got.iter().zip(&expected).find(differs) {
            return Err(KernelError::SelfTest {
                kernel: tested.kernel_name(true),
                case: format!("{order:?}, {ROWS} × {COLS}"),
                expected,
                got,
            });
        }
    }
    Ok(())
}

/// Runs both and looks for the first bit that differs.
fn compare(
    kernel: &'static str,
    case: impl Fn() -> String,
    tested: impl Fn(MatMut<'_, f32>),
    expected: impl Fn(MatMut<'_, f32>),
    tokens: usize,
) -> Result<(), KernelError> {
    let (mut a, mut b) = (vec![0.0; tokens * ROWS], vec![0.0; tokens * ROWS]);
    tested(MatMut::from_slice(&mut a, ROWS));
    expected(MatMut::from_slice(&mut b, ROWS));
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    match a.iter().zip(&b).find(|&(&a, &b)| !same(a, b)) {
        None => Ok(()),
        Some((&got, &expected)) => Err(KernelError::SelfTest {
            kernel,
            case: case(),
            expected,
            got,
        }),
    }
}

/// Random blocks of a type, with scales that are modest numbers.
fn blocks(dtype: DType, random: &mut Random) -> Vec<u8> {
    let count = ROWS * COLS / dtype.block_values();
    let bytes = dtype.block_bytes();
    let mut blocks: Vec<u8> = (0..count * bytes).map(|_| random.next() as u8).collect();
    let halves: &[usize] = match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::Q2_0G64 | DType::Q2_0G128 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::TQ1_0 => &[52],
        DType::TQ2_0 => &[64],
        DType::F16 => &[0],
        _ => &[],
    };
    for block in blocks.chunks_exact_mut(bytes) {
        for &at in halves {
            // A half between 2^−7 and 2, of either sign.
            let half = random.next() as u16 & 0x9fff | 0x2000;
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        match dtype {
            DType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&random.float().to_le_bytes()[2..]),
            // Codes 0 to 2 in every field.
            DType::I2S => block
                .iter_mut()
                .for_each(|byte| *byte &= !((*byte & 0xaa) >> 1 & *byte & 0x55)),
            _ => {}
        }
    }
    blocks
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between −1 and 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}
