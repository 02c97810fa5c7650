//! y = Σ x·w in sixteen lanes, w decoded in registers from the file's own blocks.

use std::ops::Range;

use ryz_format::DType;
use ryz_tmac::{MatMut, MatRef};

use super::{DenseWeight, blocks::*, k_quants::*};
use crate::{
    ActivationView,
    activations::QuantizedRow,
    simd::{LANES, Simd, padded},
};

/// One token's activations, sixteen at a time.
#[derive(Clone, Copy)]
pub(super) enum Row<'a> {
    F32(&'a [f32]),
    /// The integers themselves; products are divided by the scale at the end.
    Token(QuantizedRow<'a>),
    /// Integers times their group's factor.
    Group(QuantizedRow<'a>, usize),
}

impl<'a> Row<'a> {
    #[inline(always)]
    pub(super) fn new(x: &ActivationView<'a>, token: usize) -> Self {
        match x {
            ActivationView::F32(rows) => Self::F32(MatRef::row(rows, token)),
            ActivationView::I8(rows) => match rows.layout().group() {
                None => Self::Token(rows.row(token)),
                Some(group) => Self::Group(rows.row(token), group),
            },
            ActivationView::Tiles { .. } => {
                panic!("dense weights read activations row by row")
            }
        }
    }

    #[inline(always)]
    pub(super) fn load<S: Simd>(&self, s: S, sixteen: usize) -> S::F {
        match self {
            Self::F32(x) => match x.as_chunks::<LANES>().0.get(sixteen) {
                Some(x) => s.load(x),
                None => s.load(&padded(&x[sixteen * LANES..], 0.0)),
            },
            Self::Token(row) => s.load_i8(&row.values.as_chunks().0[sixteen]),
            Self::Group(row, group) => {
                let factor = row.factors[sixteen * LANES / group];
                s.mul(
                    s.load_i8(&row.values.as_chunks().0[sixteen]),
                    s.splat(factor),
                )
            }
        }
    }

    #[inline(always)]
    pub(super) fn finish(&self, y: f32) -> f32 {
        match self {
            Self::Token(row) => y / row.factors[0],
            _ => y,
        }
    }
}

#[inline(always)]
pub(crate) fn matmul<S: Simd>(
    s: S,
    weights: &DenseWeight,
    rows: Range<usize>,
    x: ActivationView<'_>,
    out: MatMut<'_, f32>,
) {
    match weights.dtype() {
        DType::F32 => typed::<S, F32Block>(s, weights, rows, x, out),
        DType::F16 => typed::<S, F16Block>(s, weights, rows, x, out),
        DType::BF16 => typed::<S, Bf16Block>(s, weights, rows, x, out),
        DType::Q4_0 => typed::<S, Q4_0Block>(s, weights, rows, x, out),
        DType::Q4_1 => typed::<S, Q4_1Block>(s, weights, rows, x, out),
        DType::Q5_0 => typed::<S, Q5_0Block>(s, weights, rows, x, out),
        DType::Q5_1 => typed::<S, Q5_1Block>(s, weights, rows, x, out),
        DType::Q8_0 => typed::<S, Q8_0Block>(s, weights, rows, x, out),
        DType::Q2K => typed::<S, Q2KBlock>(s, weights, rows, x, out),
        DType::Q3K => typed::<S, Q3KBlock>(s, weights, rows, x, out),
        DType::Q5K => typed::<S, Q5KBlock>(s, weights, rows, x, out),
        other => unreachable!("{other} has another kernel"),
    }
}

#[inline(always)]
fn typed<S: Simd, B: Block>(
    s: S,
    weights: &DenseWeight,
    rows: Range<usize>,
    x: ActivationView<'_>,
    mut out: MatMut<'_, f32>,
) {
    let mut row = rows.start;
    while row < rows.end {
        let many = if rows.end - row >= 4 { 4 } else { 1 };
        let mut token = 0;
        while token + 4 <= x.tokens() {
            if many == 4 {
                block::<S, B, 2, 4>(s, weights, row, rows.start, &x, token, &mut out);
                block::<S, B, 2, 4>(s, weights, row + 2, rows.start, &x, token, &mut out);
            } else {
                block::<S, B, 1, 4>(s, weights, row, rows.start, &x, token, &mut out);
            }
            token += 4;
        }
        while token < x.tokens() {
            if many == 4 {
                block::<S, B, 4, 1>(s, weights, row, rows.start, &x, token, &mut out);
            } else {
                block::<S, B, 1, 1>(s, weights, row, rows.start, &x, token, &mut out);
            }
            token += 1;
        }
        row += many;
    }
}

/// R rows with T tokens.
#[inline(always)]
fn block<S: Simd, B: Block, const R: usize, const T: usize>(
    s: S,
    weights: &DenseWeight,
    row: usize,
    first_row: usize,
    x: &ActivationView<'_>,
    token: usize,
    out: &mut MatMut<'_, f32>,
) {
    // No closures here, as in [`accumulate`].
    let mut tokens = [Row::new(x, token); T];
    for t in 1..T {
        tokens[t] = Row::new(x, token + t);
    }
    let x = tokens;
    let mut bytes = [weights.row(row); R];
    for r in 1..R {
        bytes[r] = weights.row(row + r);
    }
    let mut sums = [[s.splat(0.0); T]; R];
    let mut heads = [B::Head::default(); R];
    let prefetch = weights.prefetch();
    let parts = B::VALUES / LANES;
    let whole = bytes[0].len() / B::BYTES;
    for index in 0..whole {
        let mut blocks = [&bytes[0][..0]; R];
        for r in 0..R {
            blocks[r] = &bytes[r][index * B::BYTES..][..B::BYTES];
            prefetch.rows(blocks[r], R * bytes[0].len());
        }
        accumulate::<S, B, R, T>(s, blocks, &x, index * parts, &mut heads, &mut sums);
    }
    let rest = bytes[0].len() - whole * B::BYTES;
    if rest > 0 {
        // Floats may end within a sixteen: zero bytes are zero weights.
        let mut tails = [[0u8; 64]; R];
        for (tail, bytes) in tails.iter_mut().zip(bytes) {
            tail[..rest].copy_from_slice(&bytes[whole * B::BYTES..]);
        }
        let mut blocks = [&tails[0][..B::BYTES]; R];
        for r in 1..R {
            blocks[r] = &tails[r][..B::BYTES];
        }
        accumulate::<S, B, R, T>(s, blocks, &x, whole * parts, &mut heads, &mut sums);
    }
    for r in 0..R {
        for t in 0..T {
            out.row_mut(token + t)[row + r - first_row] = x[t].finish(s.sum(sums[r][t]));
        }
    }
}

/// Adds the products of one block of each row, whose first sixteen weights multiply the activations' sixteen `first`.
///
/// No closures here: one that is not inlined has not the features of the kernel around it, and then every vector
/// operation in it is a call.
#[inline(always)]
fn accumulate<S: Simd, B: Block, const R: usize, const T: usize>(
    s: S,
    blocks: [&[u8]; R],
    x: &[Row<'_>; T],
    first: usize,
    heads: &mut [B::Head; R],
    sums: &mut [[S::F; T]; R],
) {
    for r in 0..R {
        B::head(s, blocks[r], &mut heads[r]);
    }
    for part in 0..B::VALUES / LANES {
        let mut lanes = [s.splat(0.0); T];
        for t in 0..T {
            lanes[t] = x[t].load(s, first + part);
        }
        for r in 0..R {
            let weights = B::load(s, &heads[r], blocks[r], part);
            for t in 0..T {
                sums[r][t] = s.fma(weights, lanes[t], sums[r][t]);
            }
        }
    }
}

/// Decodes one row.
#[inline(always)]
pub(crate) fn decode<S: Simd>(s: S, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => decode_typed::<S, F32Block>(s, bytes, out),
        DType::F16 => decode_typed::<S, F16Block>(s, bytes, out),
        DType::BF16 => decode_typed::<S, Bf16Block>(s, bytes, out),
        DType::Q4_0 => decode_typed::<S, Q4_0Block>(s, bytes, out),
        DType::Q4_1 => decode_typed::<S, Q4_1Block>(s, bytes, out),
        DType::Q5_0 => decode_typed::<S, Q5_0Block>(s, bytes, out),
        DType::Q5_1 => decode_typed::<S, Q5_1Block>(s, bytes, out),
        DType::Q8_0 => decode_typed::<S, Q8_0Block>(s, bytes, out),
        DType::Q2K => decode_typed::<S, Q2KBlock>(s, bytes, out),
        DType::Q3K => decode_typed::<S, Q3KBlock>(s, bytes, out),
        DType::Q4K => decode_typed::<S, Q4KBlock>(s, bytes, out),
        DType::Q5K => decode_typed::<S, Q5KBlock>(s, bytes, out),
        DType::Q6K => decode_typed::<S, Q6KBlock>(s, bytes, out),
        other => unreachable!("a DenseWeight is never {other}"),
    }
}

#[inline(always)]
fn decode_typed<S: Simd, B: Block>(s: S, bytes: &[u8], out: &mut [f32]) {
    let mut head = B::Head::default();
    for (block, out) in bytes.chunks(B::BYTES).zip(out.chunks_mut(B::VALUES)) {
        let mut tail = [0u8; 64];
        let block = if block.len() == B::BYTES {
            block
        } else {
            tail[..block.len()].copy_from_slice(block);
            &tail[..B::BYTES]
        };
        B::head(s, block, &mut head);
        for (part, out) in out.chunks_mut(LANES).enumerate() {
            let mut lanes = [0.0; LANES];
            s.store(B::load(s, &head, block, part), &mut lanes);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}
