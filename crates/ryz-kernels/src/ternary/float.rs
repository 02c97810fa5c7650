//! Products with f32 activations: the exactness path. y = Σ x·(s·t) in sixteen lanes, as a dense matrix of the decoded
//! weights would have it, bit for bit.

use std::ops::Range;

use ryz_tmac::{MatMut, MatRef};

use super::{LINE_COLS, ROW_TILE, Scales, TernaryView};
use crate::simd::{LANES, Simd, padded};

/// Rows of one token that share its loads.
const ROWS: usize = 8;

#[inline(always)]
pub(crate) fn matmul<S: Simd>(
    s: S,
    weights: TernaryView<'_>,
    rows: Range<usize>,
    x: MatRef<'_, f32>,
    mut out: MatMut<'_, f32>,
) {
    let mut row = rows.start;
    while row < rows.end {
        let mut token = 0;
        while token + 4 <= x.rows() {
            for pair in (row..row + ROWS).step_by(2) {
                block::<S, 2, 4>(s, weights, pair, &rows, x, token, &mut out);
            }
            token += 4;
        }
        while token < x.rows() {
            if S::WIDE {
                block::<S, ROWS, 1>(s, weights, row, &rows, x, token, &mut out);
            } else {
                block::<S, 4, 1>(s, weights, row, &rows, x, token, &mut out);
                block::<S, 4, 1>(s, weights, row + 4, &rows, x, token, &mut out);
            }
            token += 1;
        }
        row += ROWS;
    }
}

/// R rows, of one tile, with T tokens.
#[inline(always)]
fn block<S: Simd, const R: usize, const T: usize>(
    s: S,
    weights: TernaryView<'_>,
    row: usize,
    rows: &Range<usize>,
    x: MatRef<'_, f32>,
    token: usize,
    out: &mut MatMut<'_, f32>,
) {
    let (tile, in_tile) = (row / ROW_TILE, row % ROW_TILE);
    let values = s.load(&std::array::from_fn(|l| (l % 4) as f32 - 1.0));
    let span = match weights.scales {
        Scales::PerGroup { group, .. } => group / LINE_COLS,
        _ => weights.lines_per_tile,
    };
    let prefetch = weights.prefetch;
    let x: [&[f32]; T] = std::array::from_fn(|t| x.row(token + t));
    let mut sums = [[s.splat(0.0); T]; R];
    for (index, lines) in weights.tile(tile).chunks(span).enumerate() {
        // Loops, not closures: one that is not inlined has not the features of the kernel around it.
        let scales = weights.scales.of_rows(s, tile, index);
        let mut tables = [values; R];
        for (r, table) in tables.iter_mut().enumerate() {
            *table = s.mul(values, s.splat(scales[in_tile + r]));
        }
        for (line, codes) in lines.iter().enumerate() {
            if in_tile == 0 {
                prefetch.ahead(codes);
            }
            let first = (index * span + line) * LINE_COLS;
            let mut lanes = [s.splat(0.0); T];
            for t in 0..T {
                let x = x[t].get(first..).unwrap_or_default();
                lanes[t] = match x.first_chunk::<LANES>() {
                    Some(x) => s.load(x),
                    // Past the end: nothing is added to sums that are what they are.
                    None => s.load(&padded(x, 0.0)),
                };
            }
            for r in 0..R {
                let weights = s.lookup(codes.word(in_tile + r), tables[r]);
                for t in 0..T {
                    sums[r][t] = s.fma(weights, lanes[t], sums[r][t]);
                }
            }
        }
    }
    for r in 0..R {
        if rows.contains(&(row + r)) {
            for t in 0..T {
                out.row_mut(token + t)[row + r - rows.start] = s.sum(sums[r][t]);
            }
        }
    }
}
